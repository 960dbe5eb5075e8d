# jobgen, without torch: renders pipelines in GitOps, and runs as the conductor in a cluster.
FROM python:3.11-slim-bookworm
ARG MINIMA_COMMIT=unknown
ENV MINIMA_COMMIT=$MINIMA_COMMIT PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY minima minima
COPY jobgen jobgen
RUN python -m venv /opt/jobgen \
    && /opt/jobgen/bin/pip install --no-cache-dir --constraint constraints.txt '.[cluster]'
ENV PATH=/opt/jobgen/bin:$PATH
USER 10000:10000
WORKDIR /tmp
ENTRYPOINT ["jobgen"]
