"""Runs in the real MLflow and Phoenix: sent over OTLP, read back through their own APIs.

Each has an environment of its own, because they need other versions than this package:

    python -m venv mlflow && mlflow/bin/pip install mlflow -e ".[otel]"
    python -m venv phoenix && phoenix/bin/pip install arize-phoenix openinference-instrumentation-dspy -e ".[otel]"
    RLM_DSPY_MLFLOW=mlflow RLM_DSPY_PHOENIX=phoenix pytest -m integration tests/test_observability.py
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from servers.wire import free_port

pytestmark = pytest.mark.integration

RUN = """
import dspy, rlm_dspy
from rlm_dspy.testing import action, scripted
lm, _ = scripted(
    action("print(llm_query('first'), subcall(context[:200], 'find the code'))"),
    "one",
    action("print(llm_query('inner'))"),
    "two",
    action("SUBMIT(output='4711')"),
    action("SUBMIT(answer='4711')"),
)
with dspy.context(lm=lm):
    rlm = rlm_dspy.RLM("context, question -> answer")
    print(rlm(context="the code is 4711\\n" * 600_000, question="What is the code?").run.usage.total_tokens)
"""
TREE = [
    "0 invoke_agent RLM",
    "1 chat scripted/model",
    "1 execute_tool python",
    "2 chat scripted/model",
    "2 invoke_agent RLM",
    "3 chat scripted/model",
    "3 execute_tool python",
    "4 chat scripted/model",
    "3 chat scripted/model",
    "3 execute_tool python",
    "1 chat scripted/model",
    "1 execute_tool python",
]


def environment_of(name: str) -> Path:
    folder = os.environ.get(name)
    if not folder:
        pytest.skip(f"{name} names no virtual environment")
    return Path(folder).resolve()


@contextmanager
def serving(command: list[str], url: str, folder: Path, **environ: str) -> Iterator[str]:
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **environ}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(url, timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                assert process.poll() is None
                time.sleep(0.5)
        else:
            pytest.fail(f"{command[0]} did not start")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder, port = environment_of("RLM_DSPY_MLFLOW"), free_port()
    store = f"sqlite:///{tmp_path}/ml.db"
    command = [str(folder / "bin" / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", store, "--workers", "1"]
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    with serving(command, f"http://127.0.0.1:{port}", tmp_path, PATH=path) as url:
        yield url, folder / "bin" / "python"


@pytest.fixture
def phoenix(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    folder, port, grpc = environment_of("RLM_DSPY_PHOENIX"), free_port(), free_port()
    environ = {"PHOENIX_WORKING_DIR": str(tmp_path), "PHOENIX_HOST": "127.0.0.1", "PHOENIX_PORT": str(port)}
    environ |= {"PHOENIX_GRPC_PORT": str(grpc), "PHOENIX_TELEMETRY_ENABLED": "false"}
    with serving([str(folder / "bin" / "phoenix"), "serve"], f"http://127.0.0.1:{port}", tmp_path, **environ) as url:
        yield url, folder / "bin" / "python"


def run_python(python: Path, code: str, **environ: str) -> str:
    done = subprocess.run(
        [str(python), "-c", code], env={**os.environ, **environ}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


READ_MLFLOW = """
import json, mlflow
mlflow.set_tracking_uri({url!r})
traces = mlflow.search_traces(locations=["0"], return_type="list")
rows = []
for span in traces[0].data.spans:
    usage = span.attributes.get("mlflow.chat.tokenUsage") or {{}}
    facts = [span.span_id, span.parent_id, span.name, span.span_type]
    rows.append([*facts, usage.get("total_tokens", 0), str(span.inputs)])
print(json.dumps([len(traces), traces[0].info.token_usage["total_tokens"], rows]))
"""


def levels(rows: list[list[Any]]) -> list[str]:
    parents = {row[0]: row[1] for row in rows}

    def depth(span: str) -> int:
        above = parents[span]
        return 0 if above not in parents else 1 + depth(above)

    return [f"{depth(row[0])} {row[2]}" for row in rows]


def test_mlflow_shows_the_whole_tree(mlflow: tuple[str, Path]) -> None:
    url, python = mlflow
    code = f"import rlm_dspy\nrlm_dspy.trace(endpoint={url!r}, content='short')\n{RUN}"
    spent = int(run_python(python, code, OTEL_EXPORTER_OTLP_HEADERS="x-mlflow-experiment-id=0"))
    traces, total, rows = json.loads(run_python(python, READ_MLFLOW.format(url=url)))
    assert traces == 1
    assert levels(rows) == TREE
    assert {row[2].split()[0]: row[3] for row in rows} == {
        "invoke_agent": "AGENT",
        "chat": "LLM",
        "execute_tool": "TOOL",
    }
    assert total == spent == sum(row[4] for row in rows)
    assert "What is the code?" in rows[0][5]
    assert len(json.dumps(rows)) < 30_000  # of a context of 10 MB


def test_with_mlflows_autolog_nothing_is_sent_twice(mlflow: tuple[str, Path]) -> None:
    url, python = mlflow
    start = f"import mlflow, rlm_dspy\nmlflow.set_tracking_uri({url!r})\nmlflow.dspy.autolog()\n"
    trace = f"rlm_dspy.trace(endpoint={url!r}, content='short')\n"
    spent = int(run_python(python, start + trace + RUN, OTEL_EXPORTER_OTLP_HEADERS="x-mlflow-experiment-id=0"))
    traces, total, rows = json.loads(run_python(python, READ_MLFLOW.format(url=url)))
    assert (traces, total) == (1, spent)
    assert sum(row[3] == "CHAT_MODEL" for row in rows) == 6


def spans_of(url: str, project: str) -> list[dict[str, Any]]:
    for _ in range(60):
        with urllib.request.urlopen(f"{url}/v1/projects/{project}/spans?limit=1000", timeout=20) as reply:
            spans: list[dict[str, Any]] = json.load(reply)["data"]
        if any(span["parent_id"] is None for span in spans):
            break
        time.sleep(0.5)
    return sorted(spans, key=lambda span: span["start_time"])


def test_phoenix_shows_the_whole_tree(phoenix: tuple[str, Path]) -> None:
    url, python = phoenix
    spent = int(run_python(python, f"import rlm_dspy\nrlm_dspy.trace(endpoint={url!r}, content='short')\n{RUN}"))
    spans = spans_of(url, "default")
    rows = [[span["context"]["span_id"], span["parent_id"], span["name"]] for span in spans]
    assert levels(rows) == TREE
    kinds = {span["name"].split()[0]: span["span_kind"] for span in spans}
    assert kinds == {"invoke_agent": "AGENT", "chat": "LLM", "execute_tool": "TOOL"}
    assert sum(span["attributes"].get("llm.token_count.total", 0) for span in spans) == spent


INSTRUMENT = """
import rlm_dspy
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from openinference.instrumentation.dspy import DSPyInstrumentor
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter({url!r} + "/v1/traces")))
trace.set_tracer_provider(provider)
DSPyInstrumentor().instrument()
rlm_dspy.trace(content="short")
"""


def test_with_openinference_the_cells_join_its_trace(phoenix: tuple[str, Path]) -> None:
    url, python = phoenix
    run_python(python, INSTRUMENT.format(url=url) + RUN)
    spans = spans_of(url, "default")
    assert len({span["context"]["trace_id"] for span in spans}) == 1
    assert sum(span["span_kind"] == "LLM" for span in spans) == 6
    assert sum(span["name"] == "execute_tool python" for span in spans) == 4
    assert not any(span["name"].startswith(("chat", "invoke_agent")) for span in spans)
