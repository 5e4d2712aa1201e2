# The service with its model inside. Build: docker build -t ma-agiqa .
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1

# The address of PyTorch's CPU wheels (its install page names it) makes the image a tenth of the size:
# docker build --build-arg TORCH_INDEX=... -t ma-agiqa .
ARG TORCH_INDEX=""
# What is installed follows from pyproject.toml: the newest that fits.
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch>=2.6"

WORKDIR /src
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src ./src
# hadolint ignore=DL3013
RUN pip install ".[serve]" && rm -rf /src && useradd --create-home --uid 10001 scorer

USER 10001
WORKDIR /home/scorer
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
ENTRYPOINT ["ma-agiqa", "serve", "--host", "0.0.0.0"]
CMD ["--port", "8000"]
