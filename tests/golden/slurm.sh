#!/bin/bash
#SBATCH --job-name=quickstart
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=2
#SBATCH --chdir=/home/me/project
#SBATCH --output=/runs/quickstart/logs/slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# quickstart: 2 nodes x 2 processes. Submit again to resume.

set -eo pipefail
cd /home/me/project
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"
export PYTHONSAFEPATH=1

# The first node is where agents meet. Jobs may share it, hence a port for each job,
# below 32768, from where Linux hands out ports itself.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 12000))

srun --export=ALL --kill-on-bad-exit=1 \
  --nodes=2 --ntasks=2 --ntasks-per-node=1 \
  --cpus-per-task=2 \
  bash -c 'exec "$0" -m torch.distributed.run --local-addr="$SLURMD_NODENAME" --rdzv-conf="is_host=$((SLURM_NODEID == 0)),read_timeout=600" "$@"' \
  /opt/venv/bin/python \
  --nnodes=2 --nproc-per-node=2 --max-restarts=0 \
  --rdzv-backend=c10d --rdzv-endpoint="$head:$port" \
  --rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" \
  -m launcher.cli.rank --run-dir /runs/quickstart
