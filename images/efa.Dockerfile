# The train image for Amazon's network: its installer adds libfabric, the plugin by which NCCL finds it, and its own libraries of
# verbs. 1.51.0 is of October 2026 (EFA's release notes); EFA_CHECKSUM, as sha256:…, is of the archive whose signature you checked.
# docker build -f images/efa.Dockerfile --build-arg IMAGE=REGISTRY/minima:train --build-arg EFA_CHECKSUM=sha256:… -t … .
ARG IMAGE=minima:train
FROM $IMAGE
ARG EFA_VERSION=1.51.0
ARG EFA_CHECKSUM
USER 0
ADD --checksum=$EFA_CHECKSUM https://efa-installer.amazonaws.com/aws-efa-installer-$EFA_VERSION.tar.gz /tmp/efa.tar.gz
WORKDIR /tmp/aws-efa-installer
RUN tar -xzf /tmp/efa.tar.gz -C /tmp && apt-get update && ./efa_installer.sh --yes --skip-kmod --skip-limit-conf \
    && ldconfig && rm -rf /tmp/efa.tar.gz /tmp/aws-efa-installer /var/lib/apt/lists/*
USER 10000:10000
WORKDIR /tmp
