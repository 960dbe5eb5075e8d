# The stages on CPUs, with the text of the smoke pipeline: for kind and for tests.
# Build from the project's root: docker build -f images/cpu.Dockerfile -t minima:cpu .
FROM python:3.11-slim-bookworm
# DeepSpeed looks for a compiler when it is imported.
RUN apt-get update && apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
ARG MINIMA_COMMIT=unknown
ENV MINIMA_COMMIT=$MINIMA_COMMIT PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY minima minima
COPY jobgen jobgen
RUN python -m venv /opt/minima \
    && /opt/minima/bin/pip install --no-cache-dir --constraint constraints.txt '.[train,text]'
ENV PATH=/opt/minima/bin:$PATH
USER 10000:10000
WORKDIR /tmp
ENTRYPOINT ["minima"]
