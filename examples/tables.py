"""Join two tables, orders in CSV and customers in SQLite, and find the country with the most revenue.

python examples/tables.py [MODEL]

Without MODEL a scripted model writes the code that a model would write; the answer is what that code computes.
Cost: $0.0010–$0.0087 with groq/openai/gpt-oss-20b (1 question, 9,750–91,000 prompt tokens).
"""

import random
import sqlite3
import sys
import tempfile
from pathlib import Path

import dspy

import rlm_dspy
from rlm_dspy.testing import action, scripted

QUESTION = "Which country has the highest revenue from orders that were not cancelled? How many euros?"
LOOK = "for file in context.files: print(file.name, context.rows(file.name)[:2])"
JOIN = """from collections import Counter
countries = {row["id"]: row["country"] for row in context.rows("customers.db")}
revenue = Counter()
for row in context.rows("orders.csv"):
    if row["state"] != "cancelled":
        revenue[countries[row["customer"]]] += int(row["cents"])
print(revenue)
"""
ANSWER = "country, cents = revenue.most_common(1)[0]; SUBMIT(country=country, euros=cents / 100)"


def write_tables(folder: Path, seed: int = 5) -> None:
    """Write 2,000 customers and 20,000 orders."""
    chance = random.Random(seed)
    customers = [(f"C{number}", chance.choice(("Chile", "Ghana", "Japan", "Latvia"))) for number in range(2_000)]
    database = sqlite3.connect(folder / "customers.db")
    database.execute("CREATE TABLE customers (id TEXT, country TEXT)")
    database.executemany("INSERT INTO customers VALUES (?, ?)", customers)
    database.commit()
    database.close()
    rows = ["customer,cents,state"]
    for cents in range(100, 20_100):
        customer = chance.choice(customers)[0]
        rows.append(f"{customer},{cents},{chance.choice(('paid', 'sent', 'cancelled'))}")
    (folder / "orders.csv").write_text("\n".join(rows))


def main(model: str = "") -> str:
    """Return the country and its revenue."""
    lm = rlm_dspy.lm(model) if model else scripted(action(LOOK), action(JOIN), action(ANSWER))[0]
    with tempfile.TemporaryDirectory() as folder, dspy.context(lm=lm):
        write_tables(Path(folder))
        corpus = rlm_dspy.read([Path(folder)])
        result = rlm_dspy.RLM("context, question -> country, euros: float")(context=corpus, question=QUESTION)
    return f"{result.country}: {result.euros:,.2f} euros"


if __name__ == "__main__":
    print(main(*sys.argv[1:]))
