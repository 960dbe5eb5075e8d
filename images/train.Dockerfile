# The stages on A100s: CUDA 13.0 as torch 2.13's wheels are built for, flash-attn compiled for compute capability 8.0.
# Build from the project's root: docker build -f images/train.Dockerfile -t REGISTRY/minima:train .
FROM nvidia/cuda:13.0.2-devel-ubuntu24.04 AS build
RUN apt-get update && apt-get install -y --no-install-recommends python3.12-venv python3.12-dev git ninja-build \
    && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/minima
ENV PATH=/opt/minima/bin:$PATH
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN pip install --no-cache-dir --constraint constraints.txt torch packaging psutil ninja setuptools wheel
# No wheel exists for this torch: compile, for the A100 only. A job of nvcc takes about 4 GB of memory.
ARG MAX_JOBS=8
ENV FLASH_ATTENTION_FORCE_BUILD=TRUE FLASH_ATTN_CUDA_ARCHS=80 MAX_JOBS=$MAX_JOBS
RUN pip install --no-cache-dir --no-build-isolation --constraint constraints.txt flash-attn
COPY minima minima
COPY jobgen jobgen
RUN pip install --no-cache-dir --constraint constraints.txt '.[train]'

# nvcc stays behind: DeepSpeed is used with torch's AdamW, and compiles nothing at run time.
FROM nvidia/cuda:13.0.2-base-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends python3.12 libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/minima /opt/minima
ARG MINIMA_COMMIT=unknown
ENV PATH=/opt/minima/bin:$PATH MINIMA_COMMIT=$MINIMA_COMMIT PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10000:10000
WORKDIR /tmp
ENTRYPOINT ["minima"]
