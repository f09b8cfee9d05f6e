# syntax=docker/dockerfile:1
# The platform: CORTEX, GENOME, their migrations, and the `mnemos` command. Holds no torch.
#
#   docker build -t mnemos/platform:latest -f deploy/docker/platform.Dockerfile .
#   docker run … mnemos/platform                              CORTEX
#   docker run … mnemos/platform python3 -m mnemos.genome     GENOME
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS python
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates tini \
    && rm -rf /var/lib/apt/lists/*

FROM python AS platform
WORKDIR /build
RUN python3 -m venv /opt/mnemos
COPY pyproject.toml constraints.txt ./
COPY deploy/docker/requirements.py ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 requirements.py pyproject.toml postgres signing pickles > requirements.txt \
    && /opt/mnemos/bin/pip install --disable-pip-version-check -c constraints.txt -r requirements.txt hatchling
COPY README.md LICENSE ./
COPY src src
RUN /opt/mnemos/bin/pip install --disable-pip-version-check --no-deps --no-build-isolation .

FROM python
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="MNEMOS platform" \
      org.opencontainers.image.description="CORTEX keeps the jobs, GENOME the models" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Volumes take their owner from this folder.
RUN groupadd --gid 10001 mnemos \
    && useradd --uid 10001 --gid mnemos --no-create-home --home-dir /tmp mnemos \
    && install -d -o mnemos -g mnemos /data
COPY --from=platform /opt/mnemos /opt/mnemos
ENV PATH=/opt/mnemos/bin:$PATH \
    HOME=/tmp \
    CORTEX_DATA_DIR=/data/cortex \
    CORTEX_LOG_FORMAT=json \
    GENOME_DATA_DIR=/data/genome
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080 8081 9090
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python3", "-m", "mnemos.healthy", "http://127.0.0.1:8080/health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]
CMD ["python3", "-m", "mnemos.cortex"]
