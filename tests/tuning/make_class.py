"""Write the student's questions as JSONL: make_class.py PATH COUNT SEED."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tuning.student import examples


def write(path: Path, count: int, seed: int) -> Path:
    """Write them, and return the path."""
    rows = [dict(one.items()) for one in examples(count, seed)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


if __name__ == "__main__":
    write(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
