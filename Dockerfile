# pretrain and detect with all dependencies, for one host or several; works with torchrun, mpirun, srun and SageMaker.
#
#   docker build -t chordate .
#   docker run --gpus all --ipc host -v /data:/data chordate pretrain train --data-path /data/shards
#
# CUDA comes with PyTorch's wheels; the host only needs the driver. The base image can be any with Python 3.11 or newer.
ARG BASE=python:3.12-slim
FROM ${BASE}

# a compiler for --compile, jpegtran for `pretrain pack --restart-markers`, mpirun and the ssh client it uses
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ libjpeg-turbo-progs openmpi-bin openssh-client \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/chordate
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY backbones backbones
COPY detection detection
COPY pretrain pretrain
COPY recipes recipes
COPY shared shared
RUN pip install --no-cache-dir '.[demo,fast]'

WORKDIR /work
ENV PYTHONUNBUFFERED=1
CMD ["pretrain", "--help"]
