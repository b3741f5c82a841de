# The image of every pod, with the weights inside:
#   docker build -t flysoma .                       for GPUs
#   docker build -t flysoma --build-arg ON=cpu .    smaller, for machines without
# To build from very certain bases, give them by digest: --build-arg CUDA=nvidia/cuda@sha256:...
ARG ON=cuda
ARG UBUNTU=ubuntu:24.04
ARG CUDA=nvidia/cuda:13.0.1-base-ubuntu24.04

# The same Python on both; torch brings all of CUDA that it needs, the base what lets older drivers run it.
FROM ${UBUNTU} AS cpu
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*

# With a compiler: the kernels that a GPU runs fastest are made on it. Only a container that is given a GPU sees one.
FROM ${CUDA} AS cuda
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ python3-dev && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=void NVIDIA_DRIVER_CAPABILITIES=compute,utility

FROM cpu AS torch
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && python3 -m venv /opt/flysoma
ENV PATH=/opt/flysoma/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ARG ON
ARG TORCH=torch==2.13.0
ARG CPU_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3013
RUN if [ "$ON" = cpu ]; then export PIP_INDEX_URL="$CPU_INDEX"; fi && python -m pip install -q "$TORCH"

# torch is a layer of its own, so that a node that has it pulls only the others of a new version.
# hadolint ignore=DL3006
FROM ${ON}
RUN useradd --create-home --non-unique --uid 1000 flysoma
COPY --from=torch /opt/flysoma /opt/flysoma
ENV PATH=/opt/flysoma/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1
ARG EXTRAS=swin
WORKDIR /src
RUN --mount=type=bind,target=/src,rw python -m pip install -q -c constraints.txt ".[$EXTRAS]"
ENV PYTHONUNBUFFERED=1
WORKDIR /home/flysoma
USER 1000
# A worker with --liveness /tmp/alive is well while it touches that file; what is no worker has none and is well.
HEALTHCHECK --interval=60s --timeout=10s --start-period=120s \
    CMD ["sh", "-c", "test ! -e /tmp/alive || test -n \"$(find /tmp/alive -mmin -5)\""]
ENTRYPOINT ["flysoma"]
CMD ["--help"]
