"""Parquet, Arrow and Feather files, read as tables where pyarrow is installed."""

import datetime
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from rlm_dspy.corpus import read
from rlm_dspy.corpus.readers import UnreadableError, converter
from rlm_dspy.errors import CorpusError
from rlm_dspy.sandbox.toolkit.delimited import sheet_rows

PARQUET_HEAD = b"PAR1" + b"\0" * 100


@pytest.fixture
def arrow() -> Any:
    pytest.importorskip("pyarrow")
    for name in ("parquet", "feather", "ipc"):
        importlib.import_module(f"pyarrow.{name}")
    return sys.modules["pyarrow"]


def table_of(arrow: Any) -> Any:
    day = datetime.datetime(2024, 5, 17, 8, 30)
    return arrow.table(
        {
            "city": arrow.array(["Graz", "Linz\nDonau", None]),
            "people": arrow.array([303_270, 212_538, 1], arrow.int64()),
            "share": [0.5, 1e20, None],
            "seen": arrow.array([day, None, day], arrow.timestamp("ns")),
            "raw": arrow.array([b"\x00\xff", None, b""], arrow.binary()),
            "tags": [["a", "b"], [], None],
        }
    )


def write_file(arrow: Any, kind: str, path: Path) -> None:
    table = table_of(arrow)
    if kind == "parquet":
        arrow.parquet.write_table(table, path)
    elif kind == "feather":
        arrow.feather.write_feather(table, path)
    else:
        opened = arrow.ipc.new_file if kind == "arrow" else arrow.ipc.new_stream
        with opened(str(path), table.schema) as writer:
            writer.write_table(table)


@pytest.mark.parametrize("kind", ["parquet", "feather", "arrow", "arrows"])
def test_columns_are_read_as_rows(arrow, kind, tmp_path):
    write_file(arrow, kind, tmp_path / f"cities.{kind}")
    corpus = read(tmp_path)
    name = f"cities.{kind}"
    assert corpus[name].splitlines() == [
        "=== table ===",
        "city\tpeople\tshare\tseen\traw\ttags",
        "Graz\t303270\t0.5\t2024-05-17 08:30:00.000000000\tx'00ff'\t['a', 'b']",
        "Linz Donau\t212538\t1e+20\t\t\t[]",
        "\t1\t\t2024-05-17 08:30:00.000000000\tx''\t",
    ]
    assert corpus.place(name, 4) == "row 2"
    assert sheet_rows(corpus[name])[0]["people"] == "303270"


def test_a_parquet_file_is_known_by_its_bytes(arrow, tmp_path):
    write_file(arrow, "parquet", tmp_path / "data.bin")
    assert "Graz\t303270" in read(tmp_path / "data.bin")["data.bin"]


def test_the_rows_of_large_files_are_numbered_through(arrow, tmp_path):
    numbers = arrow.table({"n": list(range(2500))})
    arrow.parquet.write_table(numbers, tmp_path / "n.parquet", row_group_size=700)
    corpus = read(tmp_path)
    lines = corpus["n.parquet"].splitlines()
    assert lines[2:] == [str(number) for number in range(2500)]
    assert corpus.place("n.parquet", 2002) == "row 2000"


def test_a_broken_file_is_skipped_with_the_reason(arrow, tmp_path):
    (tmp_path / "a.parquet").write_bytes(PARQUET_HEAD)
    with pytest.raises(CorpusError, match="broken: ArrowInvalid"):
        read(tmp_path)


def test_the_package_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setattr(converter.Converter, "_asked", lambda *_: {"missing": "pyarrow"})
    with pytest.raises(UnreadableError, match=r"^a Parquet file: to read it, pip install pyarrow$"):
        converter.Converter().convert("parquet", PARQUET_HEAD)
