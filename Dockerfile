# One image for every pod. The stock build of torch brings its own CUDA and also runs without a GPU;
# a smaller CPU-only image: --build-arg TORCH=NAME_OR_URL_OF_A_CPU_BUILD
FROM python:3.11-slim

ARG TORCH=torch==2.13.0
ARG EXTRAS=swin

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

RUN python -m pip install -q "$TORCH"

WORKDIR /src
COPY . .
RUN python -m pip install -q -c constraints.txt ".[$EXTRAS]"

WORKDIR /home/flysoma
RUN rm -rf /src && useradd --uid 1000 --home-dir /home/flysoma flysoma && chown flysoma /home/flysoma
USER 1000

ENTRYPOINT ["flysoma"]
CMD ["--help"]
