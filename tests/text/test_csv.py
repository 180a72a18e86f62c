"""CSV files: cells become fields, and a stray quote loses no line."""

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.errors import UserError
from jaxllm.text.rows import Rejected, Row, iter_rows, read_rows
from tests.text.data_files import TEXT, write


def test_csv(tmp_path):
    rows = [
        "text,n,f,tags",
        '"a, ""b""\nc",1,2,"[""x""]"',
        "d,,,",
        ",2,x,",
        "e,1.5,,",
        "f,1",
        "g,1,2,[1]",
        "h,1,2,[1",
    ]
    path = write(tmp_path / "a.csv", *rows, "", b"\xe9,1,2,", end="\r\n")
    got = read_rows(path, TEXT, {"n": int, "f": float, "tags": list[str]}, limit_bad=1)
    assert got.rows == [
        {"text": 'a, "b"\r\nc'.replace("\r\n", "\n"), "n": 1, "f": 2.0, "tags": ["x"]},
        {"text": "d"},
    ]
    assert [f"{r.line}: {r.reason}" for r in got.rejected] == [
        "5: field 'f': expected a number, got 'x'",
        "6: field 'n': expected a whole number, got number 1.5",
        "7: 2 cells under a header of 4",
        "8: field 'tags', item 1: expected text, got whole number 1",
        "9: field 'tags': expected list of text, got '[1'",
        "11: field 'text' holds a lone surrogate, which is not valid text",
    ]


def test_csv_with_long_cells_and_open_quotes(tmp_path):
    before = csv.field_size_limit()
    path = write(tmp_path / "a.csv", "text", "x" * 300_000, '"never closed', "y")
    got = read_rows(path, TEXT, limit_bad=1)
    assert [len(r["text"]) for r in got.rows] == [300_000, 1]
    assert [(r.line, r.raw, r.reason) for r in got.rejected] == [
        (3, '"never closed', "not valid CSV: unexpected end of data")]
    assert csv.field_size_limit() == before
    with pytest.raises(UserError, match="column 'text' appears twice"):
        read_rows(write(tmp_path / "b.csv", "text,text", "a,b"), TEXT)


STRAY_QUOTES = {  # number of the row that a stray quote spoils, and the row
    "never closed": {13: '13,"Prompt number 13'},
    "in the first row": {1: '1,"Prompt number 1'},
    "in the last row": {30: '30,"Prompt number 30'},
    "closed within a later text": {13: '13,"Prompt number 13', 20: '20,"Prompt" number 20'},
    "closed in front of a later text": {13: '13,"Prompt number 13', 20: '20,"Prompt number 20'},
    "an inch": {7: '7,"15"" is a size', 8: '8,"15" is a size'},
    "doubled": {13: '13,""Prompt" number 13'},
}


@pytest.mark.parametrize("spoiled", STRAY_QUOTES.values(), ids=list(STRAY_QUOTES))
def test_a_stray_quote_spoils_its_own_line_only(tmp_path, spoiled):
    rows = {n: f"{n},Prompt number {n}" for n in range(1, 31)} | {25: '25,"two, ""lines""\nof a text"'}
    path = write(tmp_path / "a.csv", "id,prompt", *(rows | spoiled).values())
    got = read_rows(path, {"id": int, "prompt": str})
    assert [row["id"] for row in got.rows] == [n for n in range(1, 31) if n not in spoiled]
    assert [row["prompt"] for row in got.rows if row["id"] == 25] == ['two, "lines"\nof a text']
    # Row n is in line n + 1 of the file, and row 25 has two lines.
    assert [(row.line, row.raw) for row in got.rejected] == [(n + 1 + (n > 25), spoiled[n]) for n in spoiled]


def test_lines_that_a_quote_joins_count_as_rejected_rows(tmp_path):
    rows = ["1,a", '2,"b', "3,c", "", '4,d",4', "5,e"]
    path = write(tmp_path / "a.csv", "id,text", *rows, end="\r\n")
    got = read_rows(path, TEXT, limit_bad=0.7)
    assert [row["id"] for row in got.rows] == ["1", "5"]
    reason = "3 cells under a header of 2, in the row of lines 3 to 6"
    assert [(r.line, r.raw, r.reason) for r in got.rejected] == [(3, '2,"b', reason), (4, "3,c", reason),
                                                                 (6, '4,d",4', reason)]
    with pytest.raises(UserError, match="3 of 5 rows cannot be used"):
        read_rows(path, TEXT, limit_bad=0.5)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.sampled_from('a",\n'), max_size=8), max_size=8))
def test_no_line_of_a_csv_file_is_lost(tmp_path_factory, texts):
    """Lines of good rows, read back by the csv module, and those of rejected ones make up the file."""
    path = tmp_path_factory.getbasetemp() / "lines.csv"
    path.write_text("id,text\n" + "".join(f"{i},{text}\n" for i, text in enumerate(texts)), newline="")
    items = list(iter_rows(path, {"id": str}))
    lines = path.read_text().splitlines()[1:]
    raws = [item.raw for item in items if isinstance(item, Rejected)]
    cells = "".join("".join(item.fields.values()) for item in items if isinstance(item, Row))
    letters = lambda text: sum(letter not in '",\n' for letter in text)
    assert sum(map(letters, lines)) == sum(map(letters, raws)) + letters(cells)
    assert {item.line for item in items} <= set(range(2, 2 + len(lines)))


def test_lines_that_end_with_a_carriage_return_alone(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\r1,a\r2,b\r")
    with pytest.raises(UserError, match="cannot be read: a carriage return outside of quotes") as error:
        read_rows(path, {"text": str})
    assert "line feeds" in error.value.fix
    path.write_bytes(b"id,text\n1,a\r2,b\n3,c\n")
    found = read_rows(path, {"text": str}, limit_bad=1)
    assert [row["text"] for row in found.rows] == ["c"]
    assert [row.reason for row in found.rejected] == ["not valid CSV: a carriage return outside of quotes"]
