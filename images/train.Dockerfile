# The stages on A100s, with the Python that the tests run: torch's wheels bring CUDA 13.0, flash-attn is compiled here for compute
# capability 8.0 by nvcc of PyPI. Nodes need NVIDIA's driver 580 or newer.
# Build from the project's root: docker build -f images/train.Dockerfile -t REGISTRY/minima:train .
ARG BASE=python:3.11-slim-bookworm

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
# No wheel exists for this torch. A job takes up to 6.5 GB of memory (docs/images.md), so 8 want 52.
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
FROM $BASE
# Without the libraries of InfiniBand and RoCE NCCL takes TCP, and says nothing.
RUN apt-get update && apt-get install -y --no-install-recommends \
        libibverbs1=44.0-2 ibverbs-providers=44.0-2 librdmacm1=44.0-2 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/minima /opt/minima
ARG BASE
ARG MINIMA_COMMIT=unknown
LABEL org.opencontainers.image.title="minima: stages on A100s" org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.revision=$MINIMA_COMMIT org.opencontainers.image.base.name=$BASE
# LD_LIBRARY_PATH: where GKE mounts the driver's libraries, which no cache of the linker names; NVIDIA's own images say it too.
ENV PATH=/opt/minima/bin:$PATH MINIMA_COMMIT=$MINIMA_COMMIT PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10000:10000
WORKDIR /tmp
ENTRYPOINT ["minima"]
