"""Shared by all tests: DSPy's cache in the test's own folder, and no leftover settings."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import settings

from rlm_dspy import local_servers
from warm import ADDRESS, end_server, start_server

# The tests do not depend on how busy the machine is.
settings.register_profile("any load", deadline=None)
settings.load_profile("any load")

# Read when LiteLLM is first imported: without it, that import waits for a network that tests must not use.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
# What a test starts finds the package compiled, as an installed one is.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Most of what is made here stays, above all the libraries: to look through it for garbage again and again takes long.
gc.set_threshold(20_000, 50, 100)

# A shell starts what runs in its background deaf to Ctrl-C, and the tests of Ctrl-C with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    """Start the server of ``warm_python`` once for all workers, where the system can."""
    if hasattr(os, "pidfd_open") and ADDRESS not in os.environ:
        config.add_cleanup(partial(end_server, start_server()))


EXPORTED = re.compile(r"_API_KEY$|_API_BASE$|_BASE_URL$|^OLLAMA_HOST$|^RLM_DSPY_")


@pytest.fixture(autouse=True)
def _own_dspy(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    environ = dict(os.environ)
    folder: Path = tmp_path_factory.mktemp("home")
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "DSPY_CACHEDIR"):
        monkeypatch.setenv(name, str(folder / name.lower()))
    bases = [f"{name}_{what}" for name in ("OPENAI", "HOSTED_VLLM", "LM_STUDIO") for what in ("API_BASE", "BASE_URL")]
    for name in ("RLM_DSPY_MODEL", "GROQ_API_KEY", "OLLAMA_HOST", "OLLAMA_API_BASE", *bases):
        monkeypatch.delenv(name, raising=False)
    # A port that one test's server had may be another's.
    monkeypatch.setattr(local_servers, "_asked", {})
    yield
    # The command exports keys and addresses, which the next test must not find.
    for name in [name for name in os.environ if EXPORTED.search(name) and os.environ[name] != environ.get(name)]:
        del os.environ[name]
        if name in environ:
            os.environ[name] = environ[name]


@pytest.fixture(autouse=True)
def _loop_that_litellm_asks_for(request: pytest.FixtureRequest) -> Iterator[None]:
    # LiteLLM's sync calls ask for the current event loop, which makes one that nobody closes.
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        yield
        return
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let each process begin with its share of the slow tests, so that no other waits for one at the end."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    rest = [item for item in items if not item.get_closest_marker("slow")]
    items[:] = [item for part in range(workers) for half in (slow, rest) for item in _share(half, part, workers)]


def _share(items: list[pytest.Item], part: int, parts: int) -> list[pytest.Item]:
    return items[part * len(items) // parts : (part + 1) * len(items) // parts]
