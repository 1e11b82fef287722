"""Extract records as pydantic objects: what SUBMIT gets is validated, and the model corrects what was refused.

python examples/typed_records.py [MODEL]

Without MODEL a scripted model writes the code. At first it passes the dates as the text has them, which is refused.
Cost: $0.0010–$0.0087 with groq/openai/gpt-oss-20b (1 question, 9,750–91,000 prompt tokens).
"""

import random
import sys
from datetime import date

import dspy
import pydantic

import rlm_dspy
from rlm_dspy.testing import action, scripted


class Invoice(pydantic.BaseModel):
    number: str = pydantic.Field(pattern=r"^R-\d+$")
    due: date
    euros: float = pydantic.Field(gt=0)


SIGNATURE = dspy.Signature("mailbox, question -> invoices: list[Invoice]", custom_types={"Invoice": Invoice})
COPY = r"""import re
from datetime import datetime

found = re.findall(r"Invoice (R-\d+): please pay EUR ([\d.]+) until (\d+ \w+ \d+)\.", mailbox)
SUBMIT(invoices=[{"number": number, "euros": euros, "due": day} for number, euros, day in found])
"""
CORRECT = """dated = [(number, euros, str(datetime.strptime(day, "%d %B %Y").date())) for number, euros, day in found]
SUBMIT(invoices=[{"number": number, "euros": euros, "due": day} for number, euros, day in dated])
"""


def make_mailbox(seed: int = 9) -> str:
    """Return 2,000 messages, of which one in ten is an invoice."""
    chance, lines = random.Random(seed), []
    for number in range(2_000):
        day = f"{chance.randrange(1, 29)} {chance.choice(('March', 'April', 'May'))} 2026"
        lines.append(f"Message {number}. Thank you for the visit on {day}.")
        if number % 10 == 0:
            lines.append(f"Invoice R-{number}: please pay EUR {chance.randrange(1_000, 90_000) / 100} until {day}.")
    return "\n".join(lines)


def main(model: str = "") -> str:
    """Return the number of invoices, their sum, and the first one due."""
    lm = rlm_dspy.lm(model) if model else scripted(action(COPY), action(CORRECT))[0]
    with dspy.context(lm=lm):
        result = rlm_dspy.RLM(SIGNATURE)(mailbox=make_mailbox(), question="Which invoices are there?")
    invoices = sorted(result.invoices, key=lambda invoice: invoice.due)
    total = sum(invoice.euros for invoice in invoices)
    return f"{len(invoices)} invoices, {total:,.2f} euros\nfirst: {invoices[:1]}\n{len(result.run.steps)} steps"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
