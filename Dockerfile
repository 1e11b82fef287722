# The service of examples/service.py, as a user without rights. See docs/service.md.
FROM python:3.13-slim AS build
COPY . /source
RUN pip install --no-cache-dir --prefix /install /source fastapi uvicorn

FROM python:3.13-slim
RUN useradd --create-home --uid 1000 rlm
COPY --from=build /install /usr/local
COPY examples/service.py /app/service.py
USER rlm
ENV RLM_DSPY_HOME=/home/rlm/.cache/rlm-dspy DSPY_CACHEDIR=/home/rlm/.cache/dspy RLM_DSPY_CORPUS=/data
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=3)"]
CMD ["uvicorn", "--app-dir", "/app", "service:app", "--host", "0.0.0.0", "--timeout-graceful-shutdown", "30"]
