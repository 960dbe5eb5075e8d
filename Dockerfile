# jobgen, without torch: renders pipelines in GitOps, and runs as the conductor in a cluster.
ARG BASE=python:3.11-slim-bookworm
FROM $BASE
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY minima minima
COPY jobgen jobgen
RUN python -m venv /opt/minima \
    && /opt/minima/bin/pip install --no-cache-dir --constraint constraints.txt '.[cluster]'
ARG BASE
ARG MINIMA_COMMIT=unknown
LABEL org.opencontainers.image.title="minima: jobgen" org.opencontainers.image.licenses=Apache-2.0 \
      org.opencontainers.image.revision=$MINIMA_COMMIT org.opencontainers.image.base.name=$BASE
ENV PATH=/opt/minima/bin:$PATH MINIMA_COMMIT=$MINIMA_COMMIT PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10000:10000
WORKDIR /tmp
ENTRYPOINT ["jobgen"]
