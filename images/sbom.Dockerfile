# What is in an image of ours: its Python packages as CycloneDX, its Debian packages as a table. Nothing of it is added to the image.
# From the project's root: docker build -f images/sbom.Dockerfile --build-arg IMAGE=minima:cpu --output sbom .
ARG IMAGE=minima:cpu
FROM $IMAGE AS look
USER 0
WORKDIR /sbom
RUN python3 -m venv /look && /look/bin/pip install --no-cache-dir cyclonedx-bom==7.5.0 \
    && /look/bin/cyclonedx-py environment --output-reproducible --output-file python.cdx.json /opt/minima \
    && dpkg-query --show --showformat '${Package}\t${Version}\t${Architecture}\n' > debian.tsv
USER 10000:10000

FROM scratch
COPY --from=look /sbom /
