# The stages on A100s, with the Python that the tests run: torch's wheels bring CUDA 13.0, flash-attn is compiled here for compute
# capability 8.0 by nvcc of PyPI. Nodes need NVIDIA's driver 580 or newer.
# Build from the project's root: docker build -f images/train.Dockerfile -t REGISTRY/minima:train .
ARG BASE=python:3.11-slim-bookworm
# ib: InfiniBand and RoCE; efa: Amazon's network too.
ARG FABRIC=ib

FROM $BASE AS flash
RUN apt-get update && apt-get install -y --no-install-recommends g++=4:12.2.0-3 \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/flash
ENV PATH=/opt/flash/bin:$PATH CUDA_HOME=/opt/flash/lib/python3.11/site-packages/nvidia/cu13
WORKDIR /src
COPY constraints.txt ./
RUN pip install --no-cache-dir --constraint constraints.txt torch numpy packaging psutil ninja setuptools wheel \
        nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm nvidia-cuda-cccl \
    && ln -s lib "$CUDA_HOME/lib64" && ln -s libcudart.so.13 "$CUDA_HOME/lib/libcudart.so"
# No wheel exists for this torch. A job takes up to 7 GB of memory (docs/images.md), so MAX_JOBS=8 wants 56.
ARG MAX_JOBS=8
# Of one job, for several compute capabilities; there is one.
ARG NVCC_THREADS=1
ENV FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS=80 MAX_JOBS=$MAX_JOBS NVCC_THREADS=$NVCC_THREADS
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --constraint constraints.txt --wheel-dir /wheels flash-attn

FROM $BASE AS build
RUN python -m venv /opt/minima
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY minima minima
COPY jobgen jobgen
COPY --from=flash /wheels /wheels
RUN /opt/minima/bin/pip install --no-cache-dir --constraint constraints.txt --find-links /wheels '.[train,gpu]'

# nvcc stays behind: DeepSpeed is used with torch's AdamW, and compiles nothing at run time.
FROM $BASE AS fabric-ib
# Without the libraries of verbs NCCL takes TCP and says nothing.
RUN apt-get update && apt-get install -y --no-install-recommends \
        libibverbs1=44.0-2 ibverbs-providers=44.0-2 librdmacm1=44.0-2 \
    && rm -rf /var/lib/apt/lists/*

# Amazon's installer: libfabric, the plugin that NCCL finds it by, and its own libraries of verbs. 1.51.0 is of October 2026
# (EFA's release notes); EFA_CHECKSUM is what you have checked by its signature, as sha256:….
FROM fabric-ib AS fabric-efa
ARG EFA_VERSION=1.51.0
ARG EFA_CHECKSUM
ADD --checksum=$EFA_CHECKSUM https://efa-installer.amazonaws.com/aws-efa-installer-$EFA_VERSION.tar.gz /tmp/efa.tar.gz
WORKDIR /tmp/aws-efa-installer
RUN tar -xzf /tmp/efa.tar.gz -C /tmp && apt-get update && ./efa_installer.sh --yes --skip-kmod --skip-limit-conf \
    && ldconfig && rm -rf /tmp/efa.tar.gz /tmp/aws-efa-installer /var/lib/apt/lists/*

FROM fabric-$FABRIC
COPY --from=build /opt/minima /opt/minima
ARG BASE
ARG MINIMA_COMMIT=unknown
LABEL org.opencontainers.image.title="minima: stages on A100s" org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.revision=$MINIMA_COMMIT org.opencontainers.image.base.name=$BASE
ENV PATH=/opt/minima/bin:$PATH MINIMA_COMMIT=$MINIMA_COMMIT PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10000:10000
WORKDIR /tmp
ENTRYPOINT ["minima"]
