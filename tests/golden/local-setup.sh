#!/bin/bash
# quickstart: 2 processes on this machine. Run again to resume.
set -eo pipefail
cd /home/me/project
module load cuda/12.8
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}"
export PYTHONSAFEPATH=1
export LAUNCH_ATTEMPT=1
export NCCL_DEBUG=WARN
export OMP_NUM_THREADS=8
exec /opt/venv/bin/python -m torch.distributed.run \
  --nnodes=1 --nproc-per-node=2 --max-restarts=0 \
  --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:0 --local-addr=127.0.0.1 \
  -m launcher.cli.rank --run-dir /runs/quickstart
