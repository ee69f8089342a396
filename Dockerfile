# The launcher in a container, on NVIDIA GPUs:
#   docker build --build-arg COMMIT=$(git rev-parse HEAD) -t mulaunch .
# and on CPUs alone, with the address that pytorch.org, "Start locally", names for CPU builds of torch:
#   docker build --build-arg VARIANT=cpu --build-arg TORCH_INDEX=ADDRESS -t mulaunch-cpu .
ARG VARIANT=cuda
ARG CUDA_BASE=pytorch/pytorch:2.9.1-cuda12.8-cudnn9-devel
ARG CPU_BASE=python:3.11-slim

FROM ${CUDA_BASE} AS torch-cuda

FROM ${CPU_BASE} AS torch-cpu
# As constraints.txt has it. PyPI's own torch would bring gigabytes of CUDA.
ARG TORCH=2.13.0
ARG TORCH_INDEX
RUN test -n "$TORCH_INDEX" \
 || { echo "give --build-arg TORCH_INDEX=ADDRESS, of pytorch.org's CPU builds" >&2; exit 1; } \
 && python3 -m pip install --no-cache-dir -i "$TORCH_INDEX" "torch==$TORCH"

# hadolint ignore=DL3006
FROM torch-${VARIANT}

# DeepSpeed compiles at run time what it needs, hence a compiler; git is for the record of which code runs.
# Versions come from the base image's release, which the arguments choose.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential git \
 && rm -rf /var/lib/apt/lists/*

# Dependencies first: a change of the sources leaves this layer as it is. The base's torch stays what it is.
WORKDIR /opt/mulaunch
COPY pyproject.toml constraints.txt .ci/list-dependencies ./
RUN python3 list-dependencies s3 data plot energy > requirements.txt \
 && grep -v '^torch==' constraints.txt > constraints-here.txt \
 && python3 -c "import torch; print(f'torch=={torch.__version__}')" >> constraints-here.txt \
 && python3 -m pip install --no-cache-dir -c constraints-here.txt -r requirements.txt

COPY README.md LICENSE ./
COPY cluster cluster
COPY models models
COPY recipes recipes
COPY docs docs
COPY launcher launcher
ARG COMMIT=""
RUN echo "$COMMIT" > launcher/COMMIT && python3 -m pip install --no-cache-dir --no-deps .

# Any user may run it: `docker run --user $(id -u)` writes runs that belong to whoever started them.
WORKDIR /home/researcher
COPY recipes recipes
RUN useradd --uid 1000 --home-dir /home/researcher researcher && chmod 1777 /home/researcher
ENV HOME=/home/researcher USER=researcher
USER 1000
ENTRYPOINT ["launch"]
CMD ["--help"]
