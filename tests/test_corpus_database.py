"""SQLite files are read as tables, in memory, and never changed."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import pytest

import rlm_dspy
from rlm_dspy.corpus import read
from rlm_dspy.errors import CorpusError
from rlm_dspy.sandbox import Sandbox


def made(path: Path, *statements: str) -> Path:
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    database.close()
    return path


def test_tables_are_read_with_their_rows(tmp_path: Path) -> None:
    path = made(
        tmp_path / "shop.db",
        "create table prices (item text, price real, picture blob)",
        "insert into prices values ('nut', 0.3, x'00ff'), ('bolt\nlong', 4, null)",
        "create table cities (city)",
        "insert into cities values ('Ulm')",
        "create view everything as select * from prices",
    )
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    corpus = read([path])
    assert corpus["shop.db"] == (
        "=== prices ===\nitem\tprice\tpicture\nnut\t0.3\tx'00ff'\nbolt long\t4.0\t\n=== cities ===\ncity\nUlm\n"
    )
    assert corpus.place("shop.db", 3) == "table prices row 1"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    assert [one.name for one in tmp_path.iterdir()] == ["shop.db"]


def test_a_model_gets_its_rows(tmp_path: Path) -> None:
    corpus = read([made(tmp_path / "a.sqlite", "create table t (a, b)", "insert into t values (1, 'x')")])
    with Sandbox(main="context") as sandbox:
        shown = sandbox.run("print(context.rows('a.sqlite'))", {"context": corpus}).text
    assert "{'a': '1', 'b': 'x'}" in shown


def test_texts_in_bytes_are_read_and_what_is_cut_is_told(tmp_path: Path) -> None:
    path = made(
        tmp_path / "a.db",
        "create table sqlitedata (a blob)",
        "insert into sqlitedata values (cast('The code\nis 4711 ü' as blob)), (x'00ff'), (zeroblob(41))",
    )
    corpus = read([path])
    assert corpus["a.db"] == f"=== sqlitedata ===\na\nThe code is 4711 ü\nx'00ff'\nx'{'00' * 40}…'\n"
    assert corpus.documents[0].note == "a binary value is shown only to 40 bytes"


@pytest.mark.parametrize("cut", [60, 3_000])
def test_a_broken_database_is_told(tmp_path: Path, cut: int) -> None:
    rows = ", ".join(f"({n}, 'some longer text {n}')" for n in range(2_000))
    path = made(tmp_path / "a.db", "create table t (a, b)", f"insert into t values {rows}")
    path.write_bytes(path.read_bytes()[:cut])
    (tmp_path / "b.txt").write_text("text")
    corpus = read([tmp_path])
    told = [one.reason for one in corpus.skipped] + [one.note for one in corpus.documents if one.note]
    assert told
    assert "broken" in told[0] or "cannot be read" in told[0]


def test_a_database_without_tables_is_no_text(tmp_path: Path) -> None:
    path = made(tmp_path / "a.db", "create table t (a)", "drop table t")
    with pytest.raises(CorpusError, match="a database without tables"):
        rlm_dspy.read([path])
