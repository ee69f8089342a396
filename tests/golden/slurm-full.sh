#!/bin/bash
#SBATCH --exclude=n[3-4]
#SBATCH --mem=0
#SBATCH "--comment=two words"
#SBATCH --job-name=quickstart
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=48
#SBATCH --gpus-per-node=4
#SBATCH --time=600
#SBATCH --partition=gpu
#SBATCH --account=physics
#SBATCH --qos=high
#SBATCH --chdir=/home/me/project
#SBATCH --output=/runs/quickstart/logs/slurm-%j.log
#SBATCH --open-mode=append
#SBATCH --requeue
# quickstart: 8 nodes x 4 processes. Submit again to resume.

set -eo pipefail
cd /home/me/project
module load cuda/12.8
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-12}"
export PYTHONSAFEPATH=1
export NCCL_DEBUG=WARN

# The first node is where agents meet. Jobs may share it, hence a port for each job,
# below 32768, from where Linux hands out ports itself.
nodes=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes%%$'\n'*}
port=$((20000 + SLURM_JOB_ID % 12000))

srun --export=ALL --kill-on-bad-exit=1 \
  --nodes=8 --ntasks=8 --ntasks-per-node=1 \
  --cpus-per-task=48 \
  bash -c 'exec "$0" -m torch.distributed.run --local-addr="$SLURMD_NODENAME" --rdzv-conf="is_host=$((SLURM_NODEID == 0)),read_timeout=600" "$@"' \
  /opt/venv/bin/python \
  --nnodes=8 --nproc-per-node=4 --max-restarts=0 \
  --rdzv-backend=c10d --rdzv-endpoint="$head:$port" \
  --rdzv-id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" \
  -m launcher.cli.rank --run-dir /runs/quickstart
