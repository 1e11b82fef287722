"""A service: many users ask one corpus over HTTP, each within limits of their own.

    RLM_DSPY_CORPUS=docs RLM_DSPY_MODEL=groq/openai/gpt-oss-20b uvicorn --app-dir examples service:app

    curl -N localhost:8000/ask -d '{"question": "What is the default port?"}' -H 'content-type: application/json'

The answer arrives as Server-Sent Events: each event of the run, then `answer` or `error`. A client that leaves ends its
run. `/health` and `/metrics` are for monitoring. See docs/service.md.

Cost: $0.0010–$0.0087 with groq/openai/gpt-oss-20b (1 question, 9,750–91,000 prompt tokens).
"""

from __future__ import annotations

import asyncio
import copy
import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import dspy
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

import rlm_dspy
from rlm_dspy.errors import RLMError
from rlm_dspy.redact import Redactor
from rlm_dspy.report.json_output import redacted_json
from rlm_dspy.run import Usage

MAX_AT_ONCE = int(os.environ.get("SERVICE_MAX_AT_ONCE", "16"))  # runs at the same time; the others wait
MAX_WAITING = int(os.environ.get("SERVICE_MAX_WAITING", "1000"))  # beyond that, 503
TOKEN = os.environ.get("SERVICE_TOKEN", "")  # if set, requests need it as a bearer token

app = FastAPI(title="rlm_dspy")
corpus = rlm_dspy.read(os.environ.get("RLM_DSPY_CORPUS", "."))
lm = rlm_dspy.lm(os.environ.get("RLM_DSPY_MODEL", "offline"))
program = rlm_dspy.RLM("context: rlm_dspy.Corpus, question -> answer, evidence: list[rlm_dspy.Evidence]")
redactor = Redactor()
slots = asyncio.Semaphore(MAX_AT_ONCE)
counts: Counter[str] = Counter()  # of questions, by how they ended; "running" and "waiting" go down again
spent: Counter[str] = Counter()  # tokens, seconds, and dollars where the price is known


class Question(BaseModel):
    """A question, and the limits of its run; those of the service cannot be exceeded."""

    question: str = Field(pattern=r"\S", max_length=10_000)
    max_seconds: float = Field(default=120, gt=0, le=600)
    max_cost: float = Field(default=0.10, gt=0, le=1)


@app.post("/ask")
async def ask(asked: Question, request: Request) -> StreamingResponse:
    """Answer a question as a stream of events."""
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    if TOKEN and not secrets.compare_digest(given.encode(), TOKEN.encode()):
        raise HTTPException(401, "a bearer token is required")
    if counts["waiting"] >= MAX_WAITING:
        raise HTTPException(503, "too many questions are waiting", {"retry-after": "5"})
    return StreamingResponse(events_of(asked), media_type="text/event-stream", headers={"cache-control": "no-store"})


async def events_of(asked: Question) -> AsyncIterator[str]:
    """Yield the events of a run, and its answer or error; closing the iterator ends the run."""
    counts["waiting"] += 1
    try:
        await slots.acquire()  # a client may leave meanwhile
    finally:
        counts["waiting"] -= 1
    counts["running"] += 1
    ending, stop = "left", threading.Event()
    used, started = Usage(), time.monotonic()
    rlm = copy.copy(program)  # shares everything but its limits
    rlm.budget = rlm_dspy.Budget(max_seconds=asked.max_seconds, max_cost=asked.max_cost)
    try:
        with dspy.context(lm=lm):
            async for item in rlm.stream(context=corpus, question=asked.question, stop=stop):
                if isinstance(item, dspy.Prediction):
                    ending, used = item.rlm_run.status, item.rlm_run.usage
                    found = {"answer": item.answer, "evidence": [one.model_dump() for one in item.evidence]}
                    yield as_event("answer", {**found, "run_id": item.rlm_run.id, "cost": used.cost})
                else:
                    used = item.usage
                    yield as_event(item.kind, item.model_dump(exclude={"kind"}, exclude_defaults=True))
    except RLMError as error:
        ending = "failed"
        used = error.run.usage if error.run else used
        yield as_event("error", {"error": str(error), "type": type(error).__name__})
    finally:
        stop.set()
        slots.release()
        counts["running"] -= 1
        counts[ending] += 1
        spent.update(tokens=used.total_tokens, seconds=time.monotonic() - started, dollars=used.cost or 0.0)


def as_event(name: str, data: dict[str, Any]) -> str:
    """Return a Server-Sent Event, with secrets masked."""
    return f"event: {name}\ndata: {redacted_json(data, redactor)}\n\n"


@app.get("/health")
def health() -> dict[str, Any]:
    """Say that the service answers, and about what."""
    return {"status": "ok", "model": lm.model, "files": len(corpus), "running": counts["running"]}


@app.get("/metrics")
def metrics() -> Response:
    """Return counters as Prometheus text."""
    lines = [f'rlm_questions{{state="{state}"}} {number}' for state, number in sorted(counts.items())]
    lines += [f"rlm_{name}_total {number}" for name, number in sorted(spent.items())]
    return Response("\n".join([*lines, ""]), media_type="text/plain; version=0.0.4")
