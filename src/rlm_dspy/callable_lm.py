"""Any function that answers a prompt, as an LM: DSPy's RLM takes one as ``sub_lm``, and so do we."""

from __future__ import annotations

from typing import Any

import dspy
from dspy.clients.base_lm import BaseLM
from dspy.lm15 import Message, Request, Response, TextPart, Usage


class CallableEngine:
    """Performs a request by calling a function with the prompt as one text."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def complete(self, request: Request) -> Response:
        """Return what the function answers.

        Raises:
            TypeError: it is neither a text, a list that begins with one, nor a response.
        """
        answer = self.function(prompt_of(request))
        if isinstance(answer, Response):
            return answer
        first = answer[0] if isinstance(answer, list) and answer else answer
        text = first.get("text") if isinstance(first, dict) else first
        if not isinstance(text, str):
            raise TypeError(f"sub_lm must return a text or a list of texts, not {type(text).__name__}")
        message = Message.assistant([TextPart(text)])
        return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=Usage())


def as_lm(value: Any) -> Any:
    """Return an LM: ``value`` itself if it is one, else one that calls it."""
    if value is None or isinstance(value, BaseLM) or not callable(value):
        return value
    name = getattr(value, "model", None) or getattr(value, "__name__", type(value).__name__)
    return dspy.LM(f"callable/{name}", engine=CallableEngine(value), cache=False, num_retries=0)


def prompt_of(request: Request) -> str:
    """Return a request as one text: its only message, or all of them with the system text first."""
    system = request.system
    parts = [system] if isinstance(system, str) else [part.text for part in system or ()]
    parts += [message.text or "" for message in request.messages]
    return "\n\n".join(part for part in parts if part)
