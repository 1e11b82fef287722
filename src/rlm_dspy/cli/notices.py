"""Notices that say the same every time: shown once a day for the same folder, and always with ``-v``.

Do not use it for warnings or anything about a single question.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from rlm_dspy.cli.home_files import read_home_json, write_home_json
from rlm_dspy.cli.terminal import Terminal

SHOWN_TODAY = "notices.json"  # in the home: the day, and digests of what was shown on it
MAX_DIGESTS = 1_000


def note_daily(terminal: Terminal, home: Path, text: str, paths: Sequence[str]) -> None:
    """Print a note to stderr unless the same was shown today for the same paths.

    Where the home cannot be written, it is shown every time.
    """
    if terminal.quiet:
        return
    places = sorted(str(Path(path).absolute()) for path in paths)
    digest = hashlib.sha256(json.dumps([text, places]).encode()).hexdigest()[:16]
    shown = _shown_today(home)
    if digest in shown and not terminal.verbose:
        return
    terminal.note(text)
    _keep_shown(home, [*shown, digest])


def _today() -> str:
    return datetime.date.today().isoformat()


def _shown_today(home: Path) -> list[str]:
    kept = read_home_json(home, SHOWN_TODAY)
    try:
        if kept["day"] == _today():
            return [str(digest) for digest in kept["shown"]]
    except (KeyError, TypeError):  # none yet, or damaged: it is shown again
        return []
    return []


def _keep_shown(home: Path, digests: list[str]) -> None:
    write_home_json(home, SHOWN_TODAY, {"day": _today(), "shown": list(dict.fromkeys(digests))[-MAX_DIGESTS:]})
