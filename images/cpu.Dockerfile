# The stages on CPUs, with the text of the smoke pipeline: for kind and for tests.
# Build from the project's root: docker build -f images/cpu.Dockerfile -t minima:cpu .
ARG BASE=python:3.11-slim-bookworm
FROM $BASE
RUN python -m venv /opt/minima
ENV PATH=/opt/minima/bin:$PATH
WORKDIR /src
# An index that has torch's wheels for CPUs; PyPI's bring 4 GB of CUDA with them, which nothing here uses.
ARG TORCH_INDEX=
COPY constraints.txt pyproject.toml README.md LICENSE ./
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --constraint constraints.txt --no-deps --index-url "$TORCH_INDEX" torch; \
    fi
COPY minima minima
COPY jobgen jobgen
RUN pip install --no-cache-dir --constraint constraints.txt '.[train,text]'
ARG BASE
ARG MINIMA_COMMIT=unknown
LABEL org.opencontainers.image.title="minima: stages on CPUs" org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.revision=$MINIMA_COMMIT org.opencontainers.image.base.name=$BASE
ENV MINIMA_COMMIT=$MINIMA_COMMIT PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10000:10000
WORKDIR /tmp
ENTRYPOINT ["minima"]
