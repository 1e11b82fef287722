"""How well ``search`` finds the passage that answers a question: recall@5 and MRR on ``datasets/retrieval``.

    python benchmarks/run_retrieval.py               # the test split: before, after, with and without each change
    python benchmarks/run_retrieval.py --semantic    # ours, wordllama's table, both fused, if that is installed

MRR is the mean of 1/rank of the first passage with a line of the answer, of the ten best (0 if there is none).
Intervals are 95 % of a bootstrap over questions; differences are paired. Everything is seeded; nothing is fetched.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parent.parent / "datasets" / "retrieval"))
import make_retrieval

from rlm_dspy.corpus import Corpus
from rlm_dspy.sandbox.toolkit import ranking

DEPTH = 10
DRAWS = 2_000
CORPORA = ("prose", "code", "tables")

Search = Callable[[str, str], list[dict[str, Any]]]  # corpus and question to hits


def old_stem(word: str) -> str:
    """Cut endings as before this ranking: four of English, no accents changed."""
    if len(word) <= 3 or word.endswith("ss"):
        return word
    cut = word
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) > 2:
            cut = word.removesuffix(ending)
            break
    if len(cut) > 3 and (cut[-1] == "e" or cut[-1] == cut[-2]):
        return cut[:-1]
    return cut


def plain_text(titles: ranking.PassageTitles, start: int, end: int) -> str:
    """Return the text of a passage without a table's columns."""
    return titles._body[start:end]


def no_titles(titles: ranking.PassageTitles, start: int, end: int) -> frozenset[str]:
    """Return no titles."""
    return frozenset()


# What replaces each change to undo it.
UNDONE: dict[str, list[tuple[object, str, object]]] = {
    "stemming": [(ranking, "stem", old_stem)],
    "numbers split from words": [(ranking, "_HUMP", r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")],
    "titles": [(ranking.PassageTitles, "around", no_titles), (ranking.PassageTitles, "text", plain_text)],
    "phrases": [(ranking, "_PHRASE", 0.0)],
    "best line": [(ranking, "_LINE", 0.0)],
}


CHANGES = list(UNDONE)
PARTS = (
    ("both", "before", [
        ("before", CHANGES, False), ("after", [], False),
        ("before, with index", CHANGES, True), ("after, with index", [], True),
    ]),
    ("alone", "before", [
        ("before", CHANGES, False),
        *((f"before + {one}", [other for other in CHANGES if other != one], False) for one in CHANGES),
    ]),
    ("without", "after", [("after", [], False), *((f"after − {one}", [one], False) for one in CHANGES)]),
)  # fmt: skip


def undo(names: Sequence[str]) -> ExitStack:
    """Undo changes within a ``with`` block."""
    stack = ExitStack()
    for name in names:
        for place, attribute, other in UNDONE[name]:
            stack.enter_context(patch.object(place, attribute, other))
    for cached in (ranking.stem, ranking._word_parts, ranking._word_stems):
        if hasattr(cached, "cache_clear"):
            cached.cache_clear()
    return stack


def ranks_of(rows: Sequence[dict[str, Any]], search: Search) -> list[int]:
    """Return the rank of the first right passage of each question; 0 means not found."""
    return [rank_of(row, search(row["corpus"], row["question"])) for row in rows]


def rank_of(row: dict[str, Any], hits: Sequence[dict[str, Any]]) -> int:
    """Return the rank of the first hit that has a line of the answer."""
    for rank, hit in enumerate(hits[:DEPTH], 1):
        last = hit["line"] + hit["text"].count("\n")
        if hit["source"] == row["source"] and hit["line"] <= row["last_line"] and last >= row["first_line"]:
            return rank
    return 0


def gain(rank: int) -> float:
    """Return 1/rank, or 0 if not found."""
    return 1 / rank if rank else 0.0


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the bootstrap interval of 95 % of a mean."""
    chance = random.Random(7)
    size = len(values)
    means = sorted(sum(chance.choices(values, k=size)) / size for _ in range(DRAWS))
    return means[int(DRAWS * 0.025)], means[int(DRAWS * 0.975)]


def table_rows(
    results: dict[str, list[int]], base: str, rows: Sequence[dict[str, Any]], corpora: Sequence[str]
) -> list[str]:
    """Return the lines of a table: each ranker, with its difference to the base."""
    lines = []
    for name, ranks in results.items():
        for corpus in corpora:
            at = [number for number, row in enumerate(rows) if corpus in ("all", row["corpus"])]
            gains = [gain(ranks[number]) for number in at]
            recall = sum(0 < ranks[number] <= 5 for number in at) / len(at)
            low, high = interval(gains)
            mean = f"{sum(gains) / len(at):.3f} [{low:.3f}, {high:.3f}]"
            more = ""
            if name != base:
                more = difference(gains, [gain(results[base][number]) for number in at])
            lines.append(f"| {name} | {corpus} | {len(at)} | {recall:.3f} | {mean} | {more} |")
    return lines


def difference(gains: Sequence[float], others: Sequence[float]) -> str:
    """Return the mean paired difference with its interval."""
    pairs = [one - two for one, two in zip(gains, others, strict=True)]
    low, high = interval(pairs)
    return f"{sum(pairs) / len(pairs):+.3f} [{low:+.3f}, {high:+.3f}]"


def without_index(corpora: dict[str, dict[str, str]]) -> Search:
    """Search as the sandbox does without an index."""
    return lambda corpus, question: ranking.rank_passages(
        corpora[corpus], list(corpora[corpus]), ranking.Query(question), DEPTH
    )


def with_index(corpora: dict[str, dict[str, str]]) -> Search:
    """Search by the index, which is built here."""
    built = {name: Corpus.from_texts(texts) for name, texts in corpora.items()}
    for one in built.values():
        one.index.path.unlink(missing_ok=True)
        if not one.index.build():
            raise SystemExit("the index could not be built")
    return lambda corpus, question: built[corpus].index.rank(question, DEPTH) or []


def static_table() -> Callable[[Sequence[str]], Any]:
    """Return a function of texts to unit vectors: the mean of their tokens in the table of wordllama's wheel."""
    import importlib.util

    import numpy
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    found = importlib.util.find_spec("wordllama")
    if found is None or found.origin is None:
        raise SystemExit("pip install wordllama")
    folder = Path(found.origin).parent
    (weights,) = load_file(folder / "weights" / "l2_supercat_256.safetensors").values()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizers" / "l2_supercat_tokenizer_config.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def embed(texts: Sequence[str]) -> Any:
        vectors = numpy.zeros((len(texts), weights.shape[1]), dtype=numpy.float32)
        for at, encoded in enumerate(tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            if encoded.ids:
                vectors[at] = weights[encoded.ids].astype(numpy.float32).mean(axis=0)
        return vectors / numpy.maximum(numpy.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    return embed


def fused_with_table(corpora: dict[str, dict[str, str]]) -> tuple[Search, Callable[[float], Search]]:
    """Return searches by wordllama's static table: alone, and fused with ours by reciprocal ranks (k = 60).

    The second takes the table's share; ours is 1. Source: Cormack et al., Reciprocal Rank Fusion, SIGIR 2009.
    """
    import numpy

    embed = static_table()
    places: dict[str, list[tuple[str, int]]] = {}
    vectors: dict[str, Any] = {}
    for corpus, texts in corpora.items():
        places[corpus] = [(name, at) for name in texts for at in range(len(texts[name]) // ranking.PASSAGE + 1)]
        cut = [
            texts[name][ranking.passage_start(texts[name], at) : ranking.passage_start(texts[name], at + 1)]
            for name, at in places[corpus]
        ]
        started = time.perf_counter()
        vectors[corpus] = embed([ranking.split_names(text) for text in cut])
        seconds, size = time.perf_counter() - started, sum(map(len, texts.values()))
        bytes_each = vectors[corpus].nbytes / size
        print(f"{corpus}: {size / seconds / 1e6:.1f} MB/s embedded, {bytes_each:.2f} bytes of vectors per character")

    def nearest(corpus: str, question: str) -> list[dict[str, Any]]:
        near = vectors[corpus] @ embed([ranking.split_names(question)])[0]
        best = numpy.argsort(-near)[:100]
        return [ranking.passage_record(corpora[corpus], *places[corpus][at], float(near[at])) for at in best]

    def fused(share: float, corpus: str, question: str) -> list[dict[str, Any]]:
        texts = corpora[corpus]
        ours = ranking.rank_passages(texts, list(texts), ranking.Query(question), 100)
        points: dict[tuple[str, int], float] = {}
        hits: dict[tuple[str, int], dict[str, Any]] = {}
        for part, found in ((1.0, ours), (share, nearest(corpus, question))):
            for rank, hit in enumerate(found, 1):
                key = (hit["source"], hit["start"])
                hits[key] = hit
                points[key] = points.get(key, 0.0) + part / (60 + rank)
        return [hits[key] for key in sorted(points, key=lambda key: -points[key])[:DEPTH]]

    return nearest, lambda share: functools.partial(fused, share)


def main() -> None:
    """Print Markdown tables."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--split", choices=["dev", "test", "all"], default="test")
    flags.add_argument("--semantic", action="store_true", help="only: ours, wordllama's table, both fused")
    flags.add_argument("--part", choices=["all", "both", "alone", "without"], default="all", help="one table only")
    given = flags.parse_args()
    print("| ranker | corpus | questions | recall@5 | MRR [95 %] | difference [95 %] |\n|---|---|---|---|---|---|")
    corpora, made = make_retrieval.made_set()
    rows = [row for row in made if given.split in ("all", row["split"])]
    ask = functools.partial(ranks_of, rows)
    if given.semantic:
        nearest, fused = fused_with_table(corpora)
        results = {"ours": ask(without_index(corpora)), "table": ask(nearest)}
        for share in (1.0, 0.3, 0.1):
            results[f"fused, table × {share}"] = ask(fused(share))
        print("\n".join(table_rows(results, "ours", rows, [*CORPORA, "all"])))
        return
    with tempfile.TemporaryDirectory() as home, patch.dict(os.environ, RLM_DSPY_HOME=home):
        for part, base, measured in PARTS:
            if given.part not in (part, "all"):
                continue
            results = {}
            for name, undone, indexed in measured:
                with undo(undone):
                    results[name] = ask((with_index if indexed else without_index)(corpora))
                print("\n".join(table_rows(results, base, rows, [*CORPORA, "all"])[-4:]), flush=True)


if __name__ == "__main__":
    main()
