# The launcher in a container. By default on a CUDA PyTorch image; for a CPU one:
#   docker build --build-arg BASE=python:3.11-slim -t mulaunch .
ARG BASE=pytorch/pytorch:2.9.1-cuda12.8-cudnn9-devel
FROM ${BASE}

# DeepSpeed compiles at run time what it needs, hence a compiler; git is for the record of which code runs.
# Versions come from the base image's release, which ARG chooses.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends build-essential git \
 && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/mulaunch
COPY pyproject.toml constraints.txt README.md ./
COPY launcher launcher
COPY models models
COPY cluster cluster
COPY recipes recipes
# The base image's torch is kept: its version, not the constraints', must win.
RUN grep -v '^torch==' constraints.txt > /tmp/constraints.txt \
 && python3 -m pip install --no-cache-dir -c /tmp/constraints.txt '.[s3,data]' \
 && rm /tmp/constraints.txt

RUN useradd --create-home --uid 1000 researcher
USER 1000
WORKDIR /home/researcher
ENTRYPOINT ["launch"]
CMD ["--help"]
