#!/bin/bash
#SBATCH --job-name=quickstart
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --chdir=/home/me/project
#SBATCH --output=/runs/quickstart/logs/slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# quickstart: 2 nodes x 2 processes. Submit again to resume.

trap 'echo "launch: set-up failed: $BASH_COMMAND" >&2' ERR
set -eo pipefail
cd /home/me/project
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"
export PYTHONSAFEPATH=1

# It starts the rest, once or, where that may help, again; and asks Slurm for another job.
exec /opt/venv/bin/python -m launcher.cli.supervisor --run-dir /runs/quickstart -- \
  srun --export=ALL --kill-on-bad-exit=1 \
  --nodes=2 --ntasks=2 --ntasks-per-node=1 \
  --cpus-per-task=2 \
  bash -c 'set -eo pipefail
trap '"'"'code=$?; if [ $code -lt 128 ]; then echo "$BASH_COMMAND: ended with $code" >"$LAUNCH_LOGS/setup-$SLURMD_NODENAME"; fi'"'"' EXIT
cd /home/me/project
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"
export PYTHONSAFEPATH=1
host=$SLURM_LAUNCH_NODE_IPADDR
case $host in *:*) host="[$host]";; esac
exec "$0" -m torch.distributed.run --rdzv-endpoint="$host:$LAUNCH_PORT" --rdzv-id="$LAUNCH_MEETING" --rdzv-conf="is_host=$((SLURM_NODEID == 0)),read_timeout=600" "$@"' \
  /opt/venv/bin/python \
  --nnodes=2 --nproc-per-node=2 --max-restarts=0 \
  --rdzv-backend=c10d \
  -m launcher.cli.rank --run-dir /runs/quickstart
