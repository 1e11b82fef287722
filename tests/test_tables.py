"""``corpus.rows``: tables as people save them."""

from __future__ import annotations

import pytest

from rlm_dspy.sandbox.toolkit.delimited import sheet_rows, table_rows


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        (
            "name;city;amount\nAda;Oslo;12,50\nBea;Bergen;1.200,00\n",
            [["Ada", "Oslo", "12,50"], ["Bea", "Bergen", "1.200,00"]],
        ),
        ("sep=;\nname;amount\nAda;12,50\n", [["Ada", "12,50"]]),
        ('"sep=|"\r\nname|amount\r\nAda|1,5\r\n', [["Ada", "1,5"]]),
        ("name\tamount\nAda\t12,50\nBea\t1,5\n", [["Ada", "12,50"], ["Bea", "1,5"]]),
        ("name|amount\nAda|1\n", [["Ada", "1"]]),
        ("Report of May\n\nname,amount\nAda,1\nBea,2\n", [["Ada", "1"], ["Bea", "2"]]),
        ('name,text\nAda,"a;b;c\nd;e;f"\nBea,"x;y"\n', [["Ada", "a;b;c\nd;e;f"], ["Bea", "x;y"]]),
        ("\ufeffname,amount\nAda,1\n", [["Ada", "1"]]),
        ("name,amount\n\nAda,1\n,\nBea,2\n", [["Ada", "1"], ["Bea", "2"]]),
        (",price\n0,5\n1,6\n", [["0", "5"], ["1", "6"]]),
        (",name,\n1,2,3\n", [["1", "2", "3"]]),
        (
            "Bank X\nKonto;123\n\nDatum;Text;Betrag\n1.5.;Miete;9,50\n2.5.;Gas;3,10\n",
            [["1.5.", "Miete", "9,50"], ["2.5.", "Gas", "3,10"]],
        ),
        ("Report,,\nid,name,n\n1,a,5\n2,b,6\n", [["1", "a", "5"], ["2", "b", "6"]]),
        ("name,qty,price\nbolt,1,2,\nnut,3,4,\n", [["bolt", "1", "2", ""], ["nut", "3", "4", ""]]),
        ("Stock of May\nname,city\nAda,Oslo,\nBea,Bergen,\n", [["Ada", "Oslo", ""], ["Bea", "Bergen", ""]]),
        ("only\none\ntwo\n", [["one"], ["two"]]),
        ('name, note, n\nAnn, "tall, old", 3\nBob, "small", 4\n', [["Ann", "tall, old", "3"], ["Bob", "small", "4"]]),
        ('id,said,n\n1,"a \\"hi, x\\"",5\n2,"b",6\n', [["1", 'a "hi, x"', "5"], ["2", "b", "6"]]),
        ('id,path\n1,"C:\\a\\"\n2,"C:\\b\\"\n', [["1", "C:\\a\\"], ["2", "C:\\b\\"]]),
        ("id,name\n1,'Smith, J'\n2,'Doe, A'\n", [["1", "Smith, J"], ["2", "Doe, A"]]),
        ("id,name\n1,rock 'n' roll\n2,'n'\n", [["1", "rock 'n' roll"], ["2", "'n'"]]),
        ("Menge, Stück;Preis, EUR\n1,5;2,5\n3,5;4,5\n", [["1,5", "2,5"], ["3,5", "4,5"]]),
        ("Report, all, 2024\nBy: A, B\n\nid,name\n1,x\n2,y\n", [["1", "x"], ["2", "y"]]),
        (
            "Region,Sales\nN,1\nS,2\n\nName,Bonus,Year\nAnn,5,2020\n",
            [["N", "1"], ["S", "2"], ["Name", "Bonus", "Year"], ["Ann", "5", "2020"]],
        ),
        ("", []),
        ("name,amount\n", []),
    ],
)
def test_the_delimiter_and_the_header_are_found(text: str, rows: list[list[str]]) -> None:
    assert [list(row.values()) for row in table_rows(text, "csv")] == rows


def test_columns_of_one_name_and_without_one_are_kept() -> None:
    assert table_rows("name,value,value,\nAda,1,2,3\n", "csv") == [
        {"name": "Ada", "value": "1", "value_2": "2", "column_4": "3"}
    ]
    assert list(table_rows("a,a_2,a\n1,2,3\n", "csv")[0]) == ["a", "a_2", "a_3"]


def test_rows_of_any_length_are_kept() -> None:
    rows = table_rows("name,city,amount\nAda,Oslo\nBea,Bergen,7,extra,more\n", "csv")
    assert rows == [
        {"name": "Ada", "city": "Oslo", "amount": ""},
        {"name": "Bea", "city": "Bergen", "amount": "7", "column_4": "extra", "column_5": "more"},
    ]


def test_a_column_of_row_numbers_has_no_name_in_the_header() -> None:
    assert table_rows('"x","y"\n"1",5,6\n"2",7,8\n', "csv")[1] == {"column_1": "2", "x": "7", "y": "8"}
    assert table_rows("name,qty\nbolt,1,ok\nnut,2,no\n", "csv")[0] == {"name": "bolt", "qty": "1", "column_3": "ok"}
    assert table_rows("name,qty\n1,5,\n2,6,\n", "csv")[0] == {"name": "1", "qty": "5", "column_3": ""}


def test_a_quote_without_its_end_belongs_to_its_cell_in_a_tsv() -> None:
    rows = table_rows('id\ttitle\n1\t"Foo\n2\tbar\n3\t"qux"\n', "tsv")
    assert [row["title"] for row in rows] == ['"Foo', "bar", '"qux"']
    assert table_rows('id\ttitle\n1\t"a\nb"\n', "tsv") == [{"id": "1", "title": "a\nb"}]


def test_a_tab_is_the_delimiter_of_a_tsv_whatever_its_cells_hold() -> None:
    assert table_rows("a\tb\n1,2\t3,4\n5,6\t7,8\n", "tsv") == [{"a": "1,2", "b": "3,4"}, {"a": "5,6", "b": "7,8"}]


def test_a_workbook_has_rows_of_all_its_sheets() -> None:
    one = "=== Prices ===\nitem\tprice\nnut\t3\n\nbolt\t4\n"
    assert sheet_rows(one) == [{"item": "nut", "price": "3"}, {"item": "bolt", "price": "4"}]
    two = sheet_rows(one + "=== Cities ===\ncity\nUlm\n")
    assert two[0] == {"sheet": "Prices", "item": "nut", "price": "3"}
    assert two[2] == {"sheet": "Cities", "city": "Ulm"}


def test_only_the_rows_that_a_workbook_counts_are_records() -> None:
    text = "=== S ===\nMonth\tAmount [comment: in EUR]\nJan\t20 [comment: estimated]\n=== Notes ===\t1\n"
    text += "[chart] Sales\n\tAmount\nJan\t20\n=== T (hidden) ===\nid\n7\n"
    marks = [[1, "sheet S", False], [2, "sheet S row", True], [5, "sheet S, drawings", False]]
    marks += [[8, "sheet T", False], [9, "sheet T row", True]]
    assert sheet_rows(text, marks) == [
        {"sheet": "S", "Month": "Jan", "Amount": "20", "Amount [comment]": "estimated"},
        {"sheet": "S", "Month": "=== Notes ===", "Amount": "1", "Amount [comment]": ""},
        {"sheet": "T (hidden)", "id": "7"},
    ]
    table = "=== a ===\nx\n1\n=== b ===\nx\n2\n"
    ends = [[1, "table a", False], [3, "table a row", True], [4, "table b", False], [6, "table b row", True]]
    assert sheet_rows(table, ends) == [{"sheet": "a", "x": "1"}, {"sheet": "b", "x": "2"}]


def test_a_table_without_a_header_keeps_its_first_row() -> None:
    assert table_rows("1,20.5,3\n2,30.5,4\n", "csv")[0] == {"column_1": "1", "column_2": "20.5", "column_3": "3"}
    assert [row["column_1"] for row in table_rows("2024-05-01\n2024-05-02\n", "csv")] == ["2024-05-01", "2024-05-02"]
    assert table_rows("2019,2020\n5,6\n", "csv") == [{"2019": "5", "2020": "6"}]
    assert table_rows("land,2019\nDE,5\n", "csv") == [{"land": "DE", "2019": "5"}]
    table = [[1, "table", False], [3, "row", True]]
    assert sheet_rows("=== table ===\n0\t1\n5\t6\n", table) == [{"0": "5", "1": "6"}]
