"""Reading a folder of mixed documents, compared with markitdown and xberg on the same files in the same run.

    python benchmarks/run_documents.py --count 2000 [--others PYTHON]

``--others`` is the Python of an environment with ``markitdown[docx,xlsx,pdf]`` and ``xberg``. Documents are generated
from a seed: PDF, Word, Excel, mail, HTML and text in ten encodings, in equal parts. Each reader runs in a process.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

WORDS = ("request", "payment", "session", "order", "cache", "worker", "queue", "index", "gateway", "latency", "ledger")
TEXTS = (
    ("utf-8", "Größe und Qualität überprüft, bitte bezahlen."), ("cp1252", "Größe und Qualität überprüft."),
    ("cp1250", "Faktura za usługi została wystawiona w środę."), ("cp1251", "Сервер запущен и ожидает подключений."),
    ("koi8_r", "Ошибка при чтении файла настроек."), ("cp1253", "Ο διακομιστής ξεκίνησε και περιμένει."),
    ("cp932", "サーバーが起動し、接続を待っています。"), ("gb18030", "服务器已启动，正在等待连接。"),
    ("cp949", "서버가 시작되어 연결을 기다리고 있습니다."), ("utf-16", "Invoice to be paid in fourteen days."),
)  # fmt: skip
KINDS = ("pdf", "docx", "xlsx", "eml", "html", "txt")


def sentences(chance: random.Random, many: int) -> str:
    """Return some sentences of twelve words each."""
    return " ".join(" ".join(chance.choices(WORDS, k=12)).capitalize() + "." for _ in range(many))


def pdf(chance: random.Random, number: int) -> bytes:
    """Return a PDF of five pages."""
    import fpdf

    document = fpdf.FPDF()
    document.set_font("helvetica", size=10)
    for _ in range(5):
        document.add_page()
        document.multi_cell(0, 5, sentences(chance, 30))
    return bytes(document.output())


def docx(chance: random.Random, number: int) -> bytes:
    """Return a Word document of forty paragraphs and a table."""
    import docx as word

    document = word.Document()
    document.add_heading(f"Report {number}")
    for _ in range(40):
        document.add_paragraph(sentences(chance, 4))
    table = document.add_table(rows=10, cols=4)
    for row in table.rows:
        for cell in row.cells:
            cell.text = chance.choice(WORDS)
    return saved(document.save)


def xlsx(chance: random.Random, number: int) -> bytes:
    """Return a workbook of 300 rows."""
    import openpyxl

    book = openpyxl.Workbook()
    for row in range(300):
        book.active.append([row, chance.choice(WORDS), chance.random(), chance.choice(WORDS)])
    return saved(book.save)


def saved(save: Callable[[io.BytesIO], object]) -> bytes:
    """Return the bytes that a library saves."""
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


def eml(chance: random.Random, number: int) -> bytes:
    """Return a mail with an attachment."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.org", "b@example.org", f"Order {number} für Köln"
    message.set_content(sentences(chance, 20))
    message.add_attachment(sentences(chance, 10).encode(), maintype="text", subtype="plain", filename="notes.txt")
    return message.as_bytes()


def html(chance: random.Random, number: int) -> bytes:
    """Return a page of thirty paragraphs."""
    body = "".join(f'<p>{sentences(chance, 3)} <a href="/{n}">more</a></p>' for n in range(30))
    return f"<html><head><title>Page {number}</title></head><body>{body}</body></html>".encode()


def txt(chance: random.Random, number: int) -> bytes:
    """Return a text in one of ten encodings."""
    encoding, text = TEXTS[number % len(TEXTS)]
    return "\n".join([text] * 20 + [sentences(chance, 10)]).encode(encoding)


def generate(folder: Path, count: int) -> None:
    """Write the documents."""
    chance = random.Random(1)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        (folder / f"{number:05}.{kind}").write_bytes(globals()[kind](chance, number))


READINGS = {
    "rlm_dspy": """
import rlm_dspy
read = lambda paths: rlm_dspy.read(paths).chars
""",
    "markitdown": """
from markitdown import MarkItDown
made = MarkItDown()
def read(paths):
    total = 0
    for path in paths:
        try:
            total += len(made.convert(path).text_content)
        except Exception:
            pass
    return total
""",
    "xberg": """
import asyncio, xberg
async def one(path):
    data = open(path, "rb").read()
    given = xberg.ExtractInput(kind=xberg.ExtractInputKind.BYTES, bytes=data, filename=path.rpartition("/")[2])
    try:
        found = await xberg.extract(given, xberg.ExtractionConfig())
    except Exception:
        return 0
    return sum(len(document.content) for document in found.results)
async def all_of(paths):
    return sum([await one(path) for path in paths])
read = lambda paths: asyncio.run(all_of(paths))
""",
}
MEASURE = """
import json, pathlib, re, sys, time
def peak(process):
    # The kernel's count of the peak megabytes of a process and its children.
    status = pathlib.Path(f"/proc/{process}/status").read_text()
    own = int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) / 1000
    children = pathlib.Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return own + sum(map(peak, children))
paths = json.load(sys.stdin)
{reading}
read(paths[:1])  # warm up
started = time.perf_counter()
chars = read(paths)
seconds = time.perf_counter() - started
print(json.dumps([seconds, chars, peak(pathlib.Path("/proc/self").resolve().name)]))
"""


def measure(python: str, name: str, paths: list[str], home: str) -> tuple[float, int, float]:
    """Return seconds, characters read and the peak megabytes of the process with its children."""
    program = MEASURE.replace("{reading}", READINGS[name])
    environment = os.environ | {"RLM_DSPY_HOME": home}
    done = subprocess.run(
        [python, "-c", program], input=json.dumps(paths), capture_output=True, text=True, check=True, env=environment
    )
    seconds, chars, peak = json.loads(done.stdout.splitlines()[-1])
    return seconds, chars, peak


def main() -> None:
    """Generate documents, read them with each reader, and print a table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--count", type=int, default=2_000)
    flags.add_argument("--others", help="a Python with markitdown and xberg")
    given = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as home:
        started = time.perf_counter()
        generate(Path(folder), given.count)
        print(f"{given.count:,} documents generated in {time.perf_counter() - started:.0f} s")
        print("| files | reader | files/s | characters | peak MB |\n| --- | --- | --- | --- | --- |")
        for kind in (*KINDS, ""):
            paths = sorted(map(str, Path(folder).glob(f"*{kind}")))
            for name in READINGS:
                if name != "rlm_dspy" and not given.others:
                    continue
                python = sys.executable if name == "rlm_dspy" else given.others
                again = ["", " again"] if name == "rlm_dspy" and not kind else [""]
                for which in again:
                    own = home if not kind else os.path.join(home, kind)
                    seconds, chars, peak = measure(python, name, paths, own)
                    row = f"{len(paths) / seconds:,.0f} | {chars:,} | {peak:,.0f}"
                    print(f"| {kind or 'all'} | {name}{which} | {row} |", flush=True)


if __name__ == "__main__":
    main()
