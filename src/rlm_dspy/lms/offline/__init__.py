"""The embedded default model: a keyword search that quotes its finds, without a network or a neural model."""

from __future__ import annotations

from typing import Any

import dspy

from rlm_dspy.lms.offline.offline_engine import MODEL, AsyncOfflineEngine, OfflineEngine


def offline_lm(**options: Any) -> dspy.LM:
    """Return the offline extractive engine as a ``dspy.LM``; answers are not cached, because they cost nothing."""
    settings: dict[str, Any] = {"cache": False, "num_retries": 0, **options}
    return dspy.LM(MODEL, engine=OfflineEngine(), async_engine=AsyncOfflineEngine(), **settings)


__all__ = ["MODEL", "AsyncOfflineEngine", "OfflineEngine", "offline_lm"]
