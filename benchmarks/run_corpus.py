"""The cost of a large corpus: reading, hand-over, memory, grep, ranked search, and a second ask.

python benchmarks/run_corpus.py --mb 10 100 [1000]

Each figure comes from a separate process. Logs and documents are generated from a seed. ``bm25s`` and ``tantivy`` are
measured if installed; ``dspy.LocalInterpreter`` represents the way ``dspy.RLM`` passes the text (its WASM interpreter
does the same, more slowly).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PATTERNS = {
    "literal": "kumquat",
    ".*word.*": ".*kumquat.*",
    "nested": "(a+)+$",
    "alternatives": "(?i)fatal|panic|kumquat",
    "fields": r"^\S+ \S+ ERROR .*id=12345\d",
}
QUERIES = ("needle haystack kumquat", "gateway latency for customer 4711", "payment refused")
LOG = "which word is the needle in the haystack?"
PAPER = "what is the code of report 3, page 7?"
PATIENCE = 120
_WORDS = ("request", "payment", "session", "order", "cache", "worker", "queue", "index", "gateway", "latency", "ledger")


def logs(folder: Path, megabytes: int) -> None:
    """Write log files of 10 MB, with one line to look for."""
    chance = random.Random(1)
    for number in range(max(1, megabytes // 10)):
        lines, size, place = [], 0, 0
        while size < 10_000_000:
            place += 1
            line = (
                f"2024-03-{number % 28 + 1:02} {place % 24:02}:{place % 60:02}:{place % 59:02} "
                f"{chance.choice(('INFO', 'INFO', 'INFO', 'WARN', 'ERROR'))} {chance.choice(_WORDS)}-"
                f"{chance.choice(_WORDS)} id={chance.randrange(10**6)} took {chance.randrange(900)} ms "
                f"for customer {chance.randrange(10**5)}\n"
            )
            if place == 50_000 and number == 0:
                line = "the needle in the haystack is the word kumquat\n"
            size += len(line)
            lines.append(line)
        (folder / f"app-{number:03}.log").write_text("".join(lines))


def papers(folder: Path, count: int) -> None:
    """Write PDFs of twenty pages."""
    import fpdf

    chance = random.Random(2)
    for number in range(count):
        document = fpdf.FPDF()
        document.set_font("helvetica", size=9)
        for page in range(20):
            document.add_page()
            text = " ".join(chance.choice(_WORDS) for _ in range(450))
            document.multi_cell(0, 4, f"Report {number}, page {page}. The code of it is K{number}-{page}. {text}")
        document.output(str(folder / f"report-{number:03}.pdf"))


def memory() -> float:
    """Return the megabytes of this process and its children, shared pages counted once."""
    import psutil

    process = psutil.Process()
    return sum(one.memory_full_info().pss for one in (process, *process.children(recursive=True))) / 1e6


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return a call's seconds and its result."""
    started = time.perf_counter()
    result = work()
    return round(time.perf_counter() - started, 3), result


def handed(folder: str) -> Iterator[tuple[str, Any]]:
    """Measure our hand-over into the sandbox."""
    from rlm_dspy.corpus import read
    from rlm_dspy.sandbox import Sandbox

    with Sandbox(main="context") as sandbox:
        sandbox.run("1")
        before = memory()
        seconds, corpus = timed(lambda: read([folder]))
        yield "read, s", seconds
        yield "transferred, s", timed(lambda: sandbox.run("len(context)", {"context": corpus}))[0]
        yield "grep of it all, s", timed(lambda: sandbox.run("len(grep('kumquat'))"))[0]
        yield "memory, MB", round(memory() - before)
        yield "memory per byte", round((memory() - before) * 1e6 / corpus.chars, 2)


def handed_by_dspy(folder: str) -> Iterator[tuple[str, Any]]:
    """Measure the hand-over of ``dspy.RLM``: the text as a variable, encoded into the code's frame."""
    import dspy

    interpreter = dspy.LocalInterpreter()
    interpreter.start()
    before = memory()
    seconds, text = timed(lambda: "".join(path.read_text() for path in sorted(Path(folder).iterdir())))
    yield "read, s", seconds
    yield "transferred, s", timed(lambda: interpreter.execute("print(len(context))", variables={"context": text}))[0]
    yield "memory, MB", round(memory() - before)
    yield "memory per byte", round((memory() - before) * 1e6 / len(text), 2)
    interpreter.shutdown()


def grepped(folder: str, name: str) -> Iterator[tuple[str, Any]]:
    """Measure one pattern over the corpus."""
    from rlm_dspy.corpus import read
    from rlm_dspy.sandbox import Sandbox

    corpus = read([folder])
    with Sandbox(main="context", timeout=PATIENCE) as sandbox:
        sandbox.run("1", {"context": corpus})
        code = f"print(grep({PATTERNS[name]!r}, max_matches=None).total)"
        seconds, done = timed(lambda: sandbox.run(code))
        yield "s", seconds
        yield "matches", done.stdout.strip() or done.note


def grepped_by_re(folder: str, name: str) -> Iterator[tuple[str, Any]]:
    """Measure one pattern with ``re`` over the decoded text."""
    pattern = re.compile(PATTERNS[name], re.M)
    texts = [path.read_text() for path in sorted(Path(folder).iterdir())]
    seconds, matches = timed(lambda: sum(1 for text in texts for _ in pattern.finditer(text)))
    yield "s", seconds
    yield "matches", matches


def searched(folder: str) -> Iterator[tuple[str, Any]]:
    """Measure the ranked search without and with the index on disk."""
    from rlm_dspy.corpus import read
    from rlm_dspy.sandbox import Sandbox, toolkit

    corpus = read([folder])
    with Sandbox({toolkit.INDEXED: lambda **_: None}, main="context", timeout=PATIENCE, memory_mb=2000) as sandbox:
        sandbox.run("1", {"context": corpus})
        yield "without index, s", [timed(lambda q=q: sandbox.run(f"search({q!r})"))[0] for q in QUERIES]
        yield "index built, s", timed(corpus.index.build)[0]
        yield "index, MB", round(corpus.index.path.stat().st_size / 1e6)
        sandbox.tools[toolkit.INDEXED] = corpus.search_index
        yield "with index, s", [timed(lambda q=q: sandbox.run(f"search({q!r})"))[0] for q in QUERIES]


def passages(folder: str) -> list[str]:
    """Return the passages that the other engines index (ours)."""
    from rlm_dspy.sandbox.toolkit.ranking import PASSAGE, passage_start

    texts = (path.read_text() for path in sorted(Path(folder).iterdir()))
    return [
        text[passage_start(text, at) : passage_start(text, at + 1)]
        for text in texts
        for at in range(len(text) // PASSAGE + 1)
    ]


def searched_by_bm25s(folder: str) -> Iterator[tuple[str, Any]]:
    """Measure bm25s, which keeps its index in memory."""
    import bm25s

    texts = passages(folder)
    before, engine = memory(), bm25s.BM25()
    build = timed(lambda: engine.index(bm25s.tokenize(texts, show_progress=False), show_progress=False))[0]
    yield "index built, s", build
    yield "memory, MB", round(memory() - before)

    def ask(query: str) -> Any:
        return engine.retrieve(bm25s.tokenize([query], show_progress=False), k=10, show_progress=False)

    yield "with index, s", [timed(lambda q=q: ask(q))[0] for q in QUERIES]


def searched_by_tantivy(folder: str) -> Iterator[tuple[str, Any]]:
    """Measure tantivy, with its index on disk."""
    import tantivy

    texts = passages(folder)
    schema = tantivy.SchemaBuilder().add_text_field("text").build()
    with tempfile.TemporaryDirectory() as place:
        index = tantivy.Index(schema, path=place)
        writer = index.writer()

        def build() -> None:
            for text in texts:
                writer.add_document(tantivy.Document(text=text))
            writer.commit()
            writer.wait_merging_threads()

        yield "index built, s", timed(build)[0]
        index.reload()
        searcher = index.searcher()
        yield (
            "with index, s",
            [timed(lambda q=q: searcher.search(index.parse_query(q, ["text"]), 10))[0] for q in QUERIES],
        )


def asked(folder: str, question: str, *options: str) -> Iterator[tuple[str, Any]]:
    """Measure two asks of the same question, each from process start to answer."""
    command = [sys.executable, "-m", "rlm_dspy", "ask", question, folder, "-q", "-m", "offline", *options]
    with tempfile.TemporaryDirectory() as home:
        environment = os.environ | {"RLM_DSPY_HOME": home, "DSPY_CACHEDIR": home}
        for which in ("first, s", "second, s"):
            seconds, done = timed(lambda: subprocess.run(command, capture_output=True, text=True, env=environment))
            yield which, seconds
        yield "answer", (done.stdout or done.stderr).strip().splitlines()[:1]


PARTS: dict[str, Callable[..., Iterator[tuple[str, Any]]]] = {
    part.__name__: part
    for part in (
        handed, handed_by_dspy, grepped, grepped_by_re, searched, searched_by_bm25s, searched_by_tantivy, asked,
    )
}  # fmt: skip


def measure(part: str, *arguments: str) -> dict[str, Any]:
    """Run one part in a separate process."""
    command = [sys.executable, __file__, "--part", part, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 5)
    except subprocess.TimeoutExpired:
        return {"stopped": f"after {PATIENCE * 5} s"}
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    return dict(lines) or {"failed": done.stderr.strip().splitlines()[-1:]}


def _variants(part: str) -> list[tuple[str, ...]]:
    if part.startswith("grepped"):
        return [(name,) for name in PATTERNS]
    return [(LOG,), (LOG, "--index")] if part == "asked" else [()]


def main() -> None:
    """Measure everything and print one line for each part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mb", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--pdfs", type=int, default=20)
    parser.add_argument("--part", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.part:
        for name, value in PARTS[options.part[0]](*options.part[1:]):
            print(json.dumps([name, value]), flush=True)
        return
    with tempfile.TemporaryDirectory() as home:
        os.environ["RLM_DSPY_HOME"] = home
        for megabytes in options.mb:
            with tempfile.TemporaryDirectory() as folder:
                logs(Path(folder), megabytes)
                for part in PARTS:
                    for extra in _variants(part):
                        shown = measure(part, folder, *extra)
                        print(f"{megabytes} MB | {part} {' '.join(extra)} | {json.dumps(shown)}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            papers(Path(folder), options.pdfs)
            print(f"{options.pdfs} PDFs | asked | {json.dumps(measure('asked', folder, PAPER))}", flush=True)


if __name__ == "__main__":
    main()
