"""The student and the teacher behind a server of chat completions, so that the command can be tuned for real.

python classroom.py PORTFILE      # serves until it is killed; its address is written to PORTFILE
"""

from __future__ import annotations

import sys
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from servers.openai import OpenAIServer
from servers.wire import send
from tuning.student import Engine, Student, Teacher

STUDENT, TEACHER = "student-1b", "teacher-70b"


class Classroom(OpenAIServer):
    """Two models; ``delay`` seconds a reply."""

    def __init__(self, delay: float = 0.0) -> None:
        super().__init__(key="sk-classroom-000000", models=(STUDENT, TEACHER))
        self.delay = delay
        self.engines: dict[str, Engine] = {STUDENT: Student(), TEACHER: Teacher()}

    def answer(self, handler: BaseHTTPRequestHandler, path: str, body: Any) -> None:
        if body is None or body.get("model") not in self.engines:
            super().answer(handler, path, body)
            return
        time.sleep(self.delay)
        said = [(message["role"], _text(message["content"])) for message in body["messages"]]
        system = "\n".join(text for role, text in said if role in ("system", "developer"))
        turns = [(role, text) for role, text in said if role not in ("system", "developer")]
        engine = self.engines[body["model"]]
        engine.calls += 1
        reply = self._completion(body)
        reply["choices"][0]["message"]["content"] = engine.reply(system, turns, 0)
        send(handler, 200, reply, {})


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


if __name__ == "__main__":
    with Classroom(delay=0.01) as room:
        Path(sys.argv[1]).write_text(room.url)
        time.sleep(3600)
