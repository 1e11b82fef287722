"""What a model is shown of its own steps: outputs, refusals, and how a reply should have looked."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlm_dspy.rlm.reply_code import is_python
from rlm_dspy.run import replace_surrogates

MAX_QUOTED_LINES = 20  # lines quoted back of an unreadable reply
MAX_QUOTED_CHARS = 1_000
MARK = "<<CUSTOM-TYPE-"  # opens the markers between which DSPy reads content parts, such as images to fetch

Form = Literal["plain", "code", "marked"]  # of a reply: a sentence and a block, a block alone, DSPy's field markers
_STATEMENT = re.compile(r"\s*(?:import|from|for|while|if|elif|else|def|with|try|except|return)\b")


@dataclass(frozen=True)
class StepTexts:
    """Renders the steps of a run for its model.

    Args:
        limit: characters shown of an output, and of the reasoning and the code of a reply.
        outputs: the names of the signature's outputs.
        form: the form in which an unreadable reply is asked for again.
        example: the code shown in that form if the reply has none.
        has_bars: mark each line of an output with a bar, so that a small model does not write it back.
        reminder: follows each observation.
    """

    limit: int
    outputs: tuple[str, ...]
    form: Form = "marked"
    example: str = "print(...)"
    has_bars: bool = False
    reminder: str = ""

    def output_text(self, outputs: Sequence[str]) -> str:
        """Render the outputs of a step's cells."""
        return clean_for_prompt(observation_text(outputs, self.limit))

    def framed_text(self, output: str) -> str:
        """Render the output of a step as the next observation has it."""
        if output and self.has_bars:
            return framed_output(output)
        return output

    def turn_text(self, text: str) -> str:
        """Return a part of a reply as later prompts show it: cut in its middle if it is long, and clean."""
        return clean_for_prompt(clip_middle(text, self.limit))

    def refusal_text(self, problem: str) -> str:
        """Render the reason why a SUBMIT was refused."""
        return clean_for_prompt(f"[SUBMIT refused] {problem}")

    def reask_text(self, problem: str, wrote: str) -> str:
        """Render the form that an unreadable reply should have had, with its own Python if it has any."""
        code = _quoted_code(clean_for_prompt(wrote)) or self.example
        form = f"```python\n{code}\n```"
        if self.form == "plain":
            form = f"what you do next\n{form}"
        elif self.form == "marked":
            form = f"[[ ## reasoning ## ]]\nwhat you do next\n\n[[ ## code ## ]]\n{form}\n\n[[ ## completed ## ]]"
        submit = ", ".join(f"{name}=..." for name in self.outputs)
        return (
            f"[reply not understood] {problem} Reply in exactly this form:\n{form}\n"
            f"and finish with SUBMIT({submit}) when you have the outputs."
        )


def _quoted_code(wrote: str) -> str:
    """Return the lines of an unreadable reply that are Python, "" if they are not whole."""
    if wrote.lstrip().startswith(("{", "[")):
        return ""  # JSON is not shown again as a form to follow
    lines = [line for line in wrote.splitlines() if re.search(r"\w\(|\w\s*=\s*\S", line) and "```" not in line]
    code = clip_middle("\n".join(lines[:MAX_QUOTED_LINES]), MAX_QUOTED_CHARS)
    is_damaged = any(_STATEMENT.match(line) for line in wrote.splitlines() if line not in lines)
    if is_damaged or not is_python(code):
        return ""
    return code


def observation_text(outputs: Sequence[str], limit: int) -> str:
    """Join the output of a step's cells; beyond ``limit`` characters, join equal lines and cut out the middle."""
    text = "\n".join(part for part in outputs if part)
    if len(text) > limit:
        text = join_equal_lines(text)
    if text:
        return clip_middle(text, limit)
    return "(no output - did you forget to print?)"


def join_equal_lines(text: str) -> str:
    """Return a text in which equal lines in a row are one, with their number: ``line (×3)``."""
    lines: list[str] = []
    for line, equal in itertools.groupby(text.split("\n")):
        count = len(list(equal))
        if line.strip() and count > 1:
            lines += [f"{line} (×{count})"]
        else:
            lines += [line] * count
    return "\n".join(lines)


def clip_middle(text: str, limit: int) -> str:
    """Cut out the middle of a text beyond ``limit`` characters, and state its full length."""
    if len(text) <= limit:
        return text
    head = limit // 2
    tail = limit - head
    return f"{text[:head]}\n[… {len(text) - limit:,} of {len(text):,} characters left out …]\n{text[-tail:]}"


def clean_for_prompt(text: str) -> str:
    """Make ``text`` safe for a prompt: encodable, without markers that DSPy's adapters interpret or write."""
    return without_markers(replace_surrogates(text)).replace("[[ ##", "[ [ ##")


def without_markers(text: str) -> str:
    """Return ``text`` without the markers of DSPy's content parts."""
    return text.replace(MARK, MARK[:2] + " " + MARK[2:])


def barred_text(text: str) -> str:
    """Prefix each line of a text with a bar, to mark it as data."""
    return "\n".join(f"| {line}" if line else "|" for line in text.splitlines()) or "|"


def framed_output(output: str) -> str:
    """Render the output of a step in a form that the model does not write back."""
    return f"Output:\n{barred_text(output)}"
