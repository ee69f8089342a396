#!/bin/bash
#SBATCH --hint=nomultithread
#SBATCH "--comment=two words"
#SBATCH --job-name=quickstart
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=48
#SBATCH --gres=gpu:h100:4
#SBATCH --mem=0
#SBATCH --time=600
#SBATCH --partition=gpu
#SBATCH --account=physics
#SBATCH --qos=high
#SBATCH --exclude=n[3-4]
#SBATCH --chdir=/home/me/project
#SBATCH --output=/runs/quickstart/logs/slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
# quickstart: 8 nodes x 4 processes. Submit again to resume.

trap 'echo "launch: set-up failed: $BASH_COMMAND" >&2' ERR
set -eo pipefail
cd /home/me/project
module load cuda/12.8
export TMPDIR="$SLURM_TMPDIR/launch"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-12}"
export GLOO_SOCKET_IFNAME=ib0
export NCCL_SOCKET_IFNAME=ib0
export PYTHONSAFEPATH=1
export NCCL_DEBUG=WARN

# It starts the rest, once or, where that may help, again; and asks Slurm for another job.
exec /opt/venv/bin/python -m launcher.cli.supervisor --run-dir /runs/quickstart -- \
  srun --export=ALL --kill-on-bad-exit=1 \
  --nodes=8 --ntasks=8 --ntasks-per-node=1 \
  --cpus-per-task=48 \
  --mpi=none '--container-image=/images/a b.sqsh' --container-mounts=/runs/quickstart,/home/me/project,/data \
  bash -c 'set -eo pipefail
trap '"'"'code=$?; if [ $code -lt 128 ]; then echo "$BASH_COMMAND: ended with $code" >"$LAUNCH_LOGS/setup-$SLURMD_NODENAME"; fi'"'"' EXIT
cd /home/me/project
module load cuda/12.8
export TMPDIR="$SLURM_TMPDIR/launch"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-12}"
export GLOO_SOCKET_IFNAME=ib0
export NCCL_SOCKET_IFNAME=ib0
export PYTHONSAFEPATH=1
export NCCL_DEBUG=WARN
host=$SLURM_LAUNCH_NODE_IPADDR
case $host in *:*) host="[$host]";; esac
exec "$0" -m torch.distributed.run --rdzv-endpoint="$host:$LAUNCH_PORT" --rdzv-id="$LAUNCH_MEETING" --rdzv-conf="is_host=$((SLURM_NODEID == 0)),read_timeout=600" "$@"' \
  /opt/venv/bin/python \
  --nnodes=8 --nproc-per-node=4 --max-restarts=0 \
  --rdzv-backend=c10d \
  -m launcher.cli.rank --run-dir /runs/quickstart
