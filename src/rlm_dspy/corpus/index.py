"""A search index of a corpus on disk: SQLite's FTS5 finds the passages with a word, our own ranking orders them.

Building takes as long as a dozen searches without an index, so it is done only on request. The index is keyed by
content, and only changed files are read again. If the index fails, search works without it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlm_dspy import safe_files
from rlm_dspy.sandbox.toolkit import label
from rlm_dspy.sandbox.toolkit.ranking import (
    DENSE,
    PASSAGE,
    Query,
    Term,
    passage_record,
    passage_start,
    scored_passages,
    split_names,
    term_weights,
)

if TYPE_CHECKING:
    from rlm_dspy.corpus.corpus import Corpus, Document

logger = logging.getLogger(__name__)

MOST_BYTES = 4 << 30  # of all indexes together; the oldest are deleted first

_VERSION = 2
_MAX_POSTINGS = 20_000  # passages per term that one search considers
_ENOUGH_PASSAGES = 200  # once rare words give this many passages, common words are skipped
_MAX_RANKED_PASSAGES = 600  # passages that one search reads in full
_MAX_STALE_SHARE = 0.3  # share of passages of removed files at which the index is rebuilt
_SCHEMA = """
create table if not exists files (digest blob primary key, first integer, count integer);
create virtual table if not exists passages
using fts5(text, content='', detail=none, tokenize='unicode61 remove_diacritics 2');
"""

_Places = dict[bytes, tuple[int, int]]


class Index:
    """The index of one corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    @property
    def path(self) -> Path:
        """The file that holds the index."""
        return safe_files.cache_folder() / "indexes" / f"{self._corpus.origin[:32]}.v{_VERSION}.sqlite"

    def ready(self) -> bool:
        """Whether the index has all files of the corpus in their current state."""
        if os.path.isfile(self.path):
            with contextlib.suppress(sqlite3.Error), contextlib.closing(self._open_database()) as db:
                return self._passage_ranges(db) is not None
        return False

    def build(self) -> bool:
        """Index the new files, and return whether the index is usable."""
        try:
            safe_files.make_private(self.path.parent)
            if self._is_outdated():
                self.path.unlink()
            with contextlib.closing(self._open_database()) as db:
                db.executescript(_SCHEMA)
                db.execute("begin immediate")
                self._index_new_documents(db)
                db.commit()
            _make_room(self.path)
        except (OSError, sqlite3.Error) as error:
            logger.info("no search index: %s", error)
        return self.ready()

    def rank(self, query: str, k: int, names: Sequence[str] | None = None) -> list[dict[str, Any]] | None:
        """Return the best passages as the toolkit's ``search`` does, or None if the index cannot answer."""
        asked = Query(query)
        terms = asked.terms
        if re.search(DENSE, query) or not terms or not os.path.isfile(self.path):  # FTS5 takes dense text for one word
            return None
        try:
            with contextlib.closing(self._open_database()) as db:
                db.execute("begin")  # one consistent state: another corpus may rebuild the index
                places = self._passage_ranges(db)
                if places is None:
                    return None
                passages = [self._passages_with(db, term) for term in terms]
        except sqlite3.Error as error:
            logger.info("the search index failed: %s", error)
            return None
        total = sum(count for _, count in places.values())
        weights = term_weights(terms, [often for often, _ in passages], total)
        rough = _rough_scores([rows for _, rows in passages], weights)
        return self._best_passages(rough, self._searched_documents(names, places), asked, weights, k)

    def _open_database(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        db.execute("pragma synchronous = off")
        db.execute("pragma cache_size = -64000")
        return db

    def _is_outdated(self) -> bool:
        """Return whether an existing index is mostly stale or unreadable."""
        if not os.path.isfile(self.path):
            return False
        live = {document.body.digest() for document in self._corpus.documents}
        try:
            with contextlib.closing(self._open_database()) as db:
                rows = db.execute("select digest, count from files").fetchall()
        except sqlite3.Error:
            return True
        total = sum(count for _, count in rows)
        return bool(sum(count for digest, count in rows if bytes(digest) not in live) > _MAX_STALE_SHARE * total)

    def _index_new_documents(self, db: sqlite3.Connection) -> None:
        known = {bytes(digest) for (digest,) in db.execute("select digest from files")}
        following = db.execute("select coalesce(max(first + count), 1) from files").fetchone()[0]
        for document in self._corpus.documents:
            digest = document.body.digest()
            if digest in known:
                continue
            known.add(digest)
            count = 0
            for count, text in enumerate(_cut(document.text), 1):
                db.execute("insert into passages (rowid, text) values (?, ?)", (following + count - 1, text))
            db.execute("insert into files values (?, ?, ?)", (digest, following, count))
            following += count

    def _passages_with(self, db: sqlite3.Connection, term: Term) -> tuple[int, list[int]]:
        """Return how many passages have all stems of a term, and the numbers of the first ``_MAX_POSTINGS``."""
        match = " AND ".join(f'"{one}"*' for one in term[0])
        rows = db.execute(
            "select rowid from passages where passages match ? limit ?", (match, _MAX_POSTINGS)
        ).fetchall()
        often = len(rows)
        if often == _MAX_POSTINGS:
            often = db.execute("select count(*) from passages where passages match ?", (match,)).fetchone()[0]
        return often, [row for (row,) in rows]

    def _passage_ranges(self, db: sqlite3.Connection) -> _Places | None:
        """Return each file's first passage and passage count, or None if a file of the corpus is not indexed."""
        rows = db.execute("select digest, first, count from files")
        places = {bytes(digest): (first, count) for digest, first, count in rows}
        live = {document.body.digest() for document in self._corpus.documents}
        if places and live <= places.keys():
            return places
        return None

    def _searched_documents(self, names: Sequence[str] | None, places: _Places) -> list[tuple[int, int, Document]]:
        """Return the documents to search with their passage numbers."""
        wanted = None if names is None else set(names)
        chosen = [document for document in self._corpus.documents if wanted is None or document.name in wanted]
        placed = ((*places[document.body.digest()], document) for document in chosen)
        return sorted(placed, key=lambda one: one[:2])

    def _best_passages(
        self,
        rough: dict[int, float],
        documents: list[tuple[int, int, Document]],
        query: Query,
        weights: Sequence[float],
        k: int,
    ) -> list[dict[str, Any]]:
        places = []
        for first, count, document in documents:
            for row in _rows_between(rough, first, count):
                places.append((-rough[row], document.name, row - first, document))
        best = sorted(places, key=lambda one: one[:3])[:_MAX_RANKED_PASSAGES]
        by_name = {document.name: document for _, _, _, document in best}
        ordered: list[tuple[str, int]] = []
        for document, spots in _by_document(best):
            ordered += [(document.name, at) for at in spots]
        scored = scored_passages(lambda name: by_name[name].text, ordered, query, weights)
        return _rendered_passages([(-score, name, at, by_name[name]) for score, name, at in scored[:k]])


def _cut(body: str) -> Iterator[str]:
    """Yield the passages of a text, with names like ``maxIters`` split into words."""
    for at in range(len(body) // PASSAGE + 1):
        text = body[passage_start(body, at) : passage_start(body, at + 1)]
        yield split_names(text.encode("utf-8", "replace").decode())


def _rough_scores(passages: Sequence[list[int]], weights: Sequence[float]) -> dict[int, float]:
    """Sum the weights of the rarest terms in each passage."""
    rough: dict[int, float] = {}
    seen = 0
    for rows, weight in sorted(zip(passages, weights, strict=True), key=lambda one: len(one[0])):
        seen += len(rows)
        if len(rough) >= _ENOUGH_PASSAGES and seen > _MAX_POSTINGS:
            break
        for row in rows:
            rough[row] = rough.get(row, 0.0) + weight
    return rough


def _rows_between(rough: dict[int, float], first: int, count: int) -> Iterator[int]:
    if count < len(rough):
        return (row for row in range(first, first + count) if row in rough)
    return (row for row in rough if first <= row < first + count)


def _by_document(best: Sequence[tuple[float, str, int, Document]]) -> Iterator[tuple[Document, list[int]]]:
    spots: dict[str, tuple[Document, list[int]]] = {}
    for _, name, at, document in best:
        spots.setdefault(name, (document, []))[1].append(at)
    return iter(spots.values())


def _rendered_passages(best: Sequence[tuple[float, str, int, Document]]) -> list[dict[str, Any]]:
    """Render the best passages in their order, reading each document once."""
    passages: dict[tuple[str, int], dict[str, Any]] = {}
    scores = {(name, at): -score for score, name, at, _ in best}
    for document, spots in _by_document(best):
        texts = {document.name: document.text}
        for at in spots:
            record = passage_record(texts, document.name, at, scores[document.name, at])
            place = label(document.marks, record["line"])
            if place is not None:
                record["place"] = place
            passages[document.name, at] = record
    return [passages[name, at] for _, name, at, _ in best]


def _make_room(kept: Path) -> None:
    files = sorted(kept.parent.glob("*.sqlite"), key=lambda path: path.stat().st_mtime, reverse=True)
    size = 0
    for path in files:
        size += path.stat().st_size
        if size > MOST_BYTES and path != kept:
            path.unlink(missing_ok=True)
