# The image of the web server and the workers. EXTRAS=train adds torch for GPU workers, and the C and
# C++ compilers with which Triton and torch.compile compile kernels when a run starts.
FROM python:3.11-slim

ARG EXTRAS=""
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HF_HUB_DISABLE_TELEMETRY=1 TIEBREAK_VAR=/var/lib/tiebreak
RUN if [ -n "$EXTRAS" ]; then apt-get update && apt-get install -y --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/*; fi
RUN useradd --create-home --uid 1000 tiebreak && install -d -m 0700 -o tiebreak /var/lib/tiebreak
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN pip install --no-cache-dir --constraint constraints.txt --editable ".${EXTRAS:+[$EXTRAS]}"
COPY . .
USER tiebreak
EXPOSE 8000
CMD ["gunicorn", "config.wsgi:application", "--bind", "0.0.0.0:8000", "--worker-class", "config.web.server.BufferingWorker", "--workers", "2", "--threads", "4", "--no-control-socket"]
