"""Runs and answers as JSON: the record for a file, what `ask --json` prints, the rows of evidence."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from rlm_dspy import safe_files
from rlm_dspy.redact import Redactor
from rlm_dspy.report.render import CONTROL, jsonable
from rlm_dspy.run import Run


class SupportsPaths(Protocol):
    """A corpus that knows the paths of its files."""

    def path_of(self, name: str) -> str | None:
        """Return the absolute path of a document, or None."""


def answer_summary(
    run: Run, outputs: Mapping[str, Any], *, mode: str, corpus: SupportsPaths | None = None
) -> dict[str, Any]:
    """Return the object of ``ask --json``: the answer, its evidence and the run's cost."""
    plain = {name: jsonable(value) for name, value in outputs.items()}
    answer = plain.get("answer", plain)
    if len(plain) == 1:
        [answer] = plain.values()
    return {
        "answer": answer,
        "evidence": [evidence_row(item, corpus) for item in run.evidence],
        "status": run.status,
        "stopped_by": run.stopped_by,
        "model": run.model,
        "sub_model": run.sub_model,
        "mode": mode,
        "usage": {
            "calls": run.usage.calls,
            "prompt_tokens": run.usage.prompt_tokens,
            "completion_tokens": run.usage.completion_tokens,
            "cached_tokens": run.usage.cached_tokens,
            "estimated_calls": run.usage.estimated_calls,
            "replayed_calls": run.usage.replayed_calls,
            "cached_calls": run.usage.cached_calls,
            "cost": run.usage.cost,
            "retries": run.usage.retries,
            "waited_seconds": round(run.usage.waited_seconds, 3),
        },
        "steps": len(run.steps),
        "sub_calls": run.sub_calls,
        "seconds": round(run.seconds, 3),
        "run_id": run.id,
        "outputs": plain,
        "warnings": list(run.warnings),
        "unread": [_shown_problem(line, corpus) for line in run.unread],
    }


def _shown_problem(line: str, corpus: SupportsPaths | None) -> str:
    """Return ``name: reason`` of an unread file, with the name as a path that the user can open."""
    name, colon, reason = line.partition(": ")
    if corpus is not None and colon:
        return f"{shown_name(corpus, name)}: {reason}"
    return line


def evidence_row(item: Mapping[str, Any], corpus: SupportsPaths | None = None) -> dict[str, Any]:
    """Return one piece of recorded evidence for users: quote, path, line, verified.

    Args:
        item: the evidence from the run.
        corpus: its corpus; if given, ``path`` is relative to the current folder.
    """
    name = item.get("source")
    path = corpus.path_of(str(name)) if corpus is not None and name else None
    return {
        "quote": item.get("quote", ""),
        "path": shown_path(path) if path else name,
        **({"absolute_path": path} if path else {}),
        "line": item.get("line"),
        "place": item.get("place"),
        "match": item.get("match"),
        "weak": item.get("weak", False),
        "verified": item.get("match") is not None,
    }


def shown_name(corpus: SupportsPaths, name: str) -> str:
    """Return the path of a corpus file relative to the current folder, or its name if it is not a file."""
    place = corpus.path_of(name)
    if place:
        return shown_path(place)
    return name


def shown_path(path: str) -> str:
    """Return an absolute path relative to the current folder; a URL is returned unchanged."""
    if "://" in path:
        return path
    try:
        return os.path.relpath(path)
    except (OSError, ValueError):  # the folder is gone or on another drive
        return path


def redacted_json(value: Any, redactor: Redactor, *, indent: int | None = None) -> str:
    """Return JSON text with secrets masked and control characters escaped; a lone surrogate becomes ``?``."""
    return escaped_json(redactor.value(value), indent=indent)


def escaped_json(value: Any, *, indent: int | None = None) -> str:
    """Return JSON text with control characters escaped; a lone surrogate becomes ``?``."""
    text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
    text = CONTROL.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
    return text.encode("utf-8", "replace").decode()


def save_run(run: Run, path: Path, redactor: Redactor) -> Path:
    """Write the run to ``path`` atomically, and return the path."""
    text = redacted_json(jsonable(run.model_dump()), redactor, indent=2) + "\n"
    return safe_files.write_private(path, text)
