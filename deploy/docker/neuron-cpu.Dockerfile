# syntax=docker/dockerfile:1
# A NEURON worker for machines without a GPU: Transformers and PyTorch.
#
#   docker build -t mnemos/neuron:cpu -f deploy/docker/neuron-cpu.Dockerfile .
ARG BASE_IMAGE=python:3.12-slim-bookworm

FROM ${BASE_IMAGE} AS python
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates tini \
    && rm -rf /var/lib/apt/lists/*

FROM python AS worker
# Where torch comes without CUDA: a tenth of the size.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
WORKDIR /build
RUN python3 -m venv /opt/neuron
COPY pyproject.toml constraints.txt ./
COPY deploy/docker/requirements.py ./
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 requirements.py pyproject.toml transformers pytorch otel signing pickles > requirements.txt \
    && /opt/neuron/bin/pip install --disable-pip-version-check --extra-index-url "${TORCH_INDEX_URL}" \
        -c constraints.txt -r requirements.txt hatchling
COPY README.md LICENSE ./
COPY src src
RUN /opt/neuron/bin/pip install --disable-pip-version-check --no-deps --no-build-isolation .

FROM python
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="MNEMOS NEURON worker (CPU)" \
      org.opencontainers.image.description="Runs LLM inference jobs without a GPU" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# Volumes take their owner from these folders.
RUN groupadd --gid 10001 neuron \
    && useradd --uid 10001 --gid neuron --no-create-home --home-dir /tmp neuron \
    && install -d -o neuron -g neuron /tmp/neuron /tmp/neuron/models /tmp/neuron/outbox
COPY --from=worker /opt/neuron /opt/neuron
ENV PATH=/opt/neuron/bin:$PATH \
    HOME=/tmp \
    NEURON_LOG_FORMAT=json \
    NEURON_SUPPORTED_RUNTIMES=transformers,pytorch
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["python3", "-m", "mnemos.healthy", "http://127.0.0.1:8000/health"]
# SIGTERM drains: give it NEURON_SHUTDOWN_TIMEOUT (300 s) and a little, by --stop-timeout 330.
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]
CMD ["python3", "-m", "neuron.worker"]
