"""Data files as rows; each defect of a file is reported with file, line and reason."""

import gzip
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.errors import UserError
from jaxllm.text import readers, schema
from jaxllm.text.rows import Message, NonEmpty, Rejected, Row, check_share, data_files, iter_rows, read_rows
from scripts import rows_throughput
from tests.text.data_files import TEXT, write


def reasons(path, *args, **kwargs):
    return [f"{r.line}: {r.reason}" for r in read_rows(path, *args, limit_bad=1, **kwargs).rejected]


def test_good_rows_keep_undeclared_fields(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        b'\xef\xbb\xbf{"text": "x", "n": 1, "extra": [1]}',
        "",
        "  ",
        '{"text": "\\u00e9"}\r',
    )
    got = read_rows(path, TEXT, {"n": float, "absent": int})
    assert got.rows == [{"text": "x", "n": 1.0, "extra": [1]}, {"text": "é"}] and isinstance(
        got.rows[0]["n"], float
    )
    assert got.rejected == [] and got.lines == [1, 4]


def test_every_bad_row_has_its_reason(tmp_path):
    bad = [
        ('{"text": "x"', "not valid JSON: Expecting ',' delimiter at character 13"),
        ('["x"]', "expected an object, got a list"),
        ("null", "expected an object, got null"),
        ('{"texts": "x"}', "field 'text' is missing (there are 'texts')"),
        ("{}", "field 'text' is missing (there are no fields)"),
        ('{"text": null}', "field 'text' is null"),
        ('{"text": 3}', "field 'text': expected text, got whole number 3"),
        ('{"text": "x", "n": "1"}', "field 'n': expected a whole number, got text '1'"),
        ('{"text": "x", "n": true}', "field 'n': expected a whole number, got true"),
        ('{"text": "x", "n": 1.5}', "field 'n': expected a whole number, got number 1.5"),
        ('{"text": "x", "f": false}', "field 'f': expected a number, got false"),
        ('{"text": "x", "f": NaN}', "field 'f' is nan, not a finite number"),
        ('{"text": "x", "n": NaN}', "field 'n' is nan, not a finite number"),
        ('{"text": "x", "n": 1e300}', "field 'n': expected a whole number, got number 1e+300"),
        ('{"text": "x", "tags": [NaN]}', "field 'tags', item 1: expected text, got number nan"),
        ('{"text": "x", "f": 1e999}', "field 'f' is inf, not a finite number"),
        ('{"text": "x", "f": 1' + "0" * 400 + "}", "field 'f' is 10000000000000000000, not a finite number"),
        ('{"text": "x", "tags": ["a", 1]}', "field 'tags', item 2: expected text, got whole number 1"),
        ('{"text": "x", "tags": "a"}', "field 'tags': expected list of text, got text 'a'"),
        ('{"text": "a\\u0000b"}', "field 'text' holds a NUL character"),
        ('{"text": "a\\ud800"}', "field 'text' holds a lone surrogate, which is not valid text"),
        ('{"text": "x", "any": {"k": ["\\udfff"]}}', "field 'any' holds a lone surrogate, which is not valid text"),
        ('{"text": "x", "any": [-Infinity]}', "field 'any' holds a number that is not finite"),
        ('{"text": "x", "text": "y"}', "not valid JSON: field 'text' is given twice"),
        (b'{"text": "\xe9"}', "not valid UTF-8 at byte 11"),
        ("[" * 100000, "not usable JSON: nested too deeply"),
        ('{"text": "x", "any": ' + "[" * 700 + "]" * 700 + "}", "not usable JSON: nested too deeply"),
        ('{"text": "x", "more": ' + '{"a": [' * 50 + "]}" * 50 + "}", "not usable JSON: nested too deeply"),
    ]
    good = '{"text": "good", "more": [' + "[], " * 200 + "0]}"
    path = write(tmp_path / "a.jsonl", good, *(line for line, _ in bad))
    got = read_rows(path, TEXT, {"n": int, "f": float, "tags": list[str], "any": Any}, limit_bad=1)
    assert got.rows == [{"text": "good", "more": [[]] * 200 + [0]}]
    expected = [(i, reason) for i, (_, reason) in enumerate(bad, 2)]
    assert [(r.line, r.reason) for r in got.rejected] == expected
    assert str(got.rejected[0]) == f"{path}:2: {bad[0][1]}"
    assert got.rejected[24].raw == '{"text": "\\xe9"}'


def test_undeclared_fields_are_left_alone(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    extra = [math.nan, math.inf, [-math.inf], {"k": math.nan}, "a\0b", "\ud800", None]
    path = write(tmp_path / "a.jsonl", *(json.dumps({"text": "x", "extra": value}) for value in extra))
    got = read_rows(path, TEXT)
    assert [repr(row["extra"]) for row in got.rows] == list(map(repr, extra)) and not got.rejected
    pq.write_table(pa.table({"text": ["x"], "extra": [math.nan], "more": ["\0"]}), tmp_path / "a.parquet")
    assert math.isnan(read_rows(tmp_path / "a.parquet", TEXT).rows[0]["extra"])
    path = write(tmp_path / "a.csv", "text,extra,,", b"x,\xe9,1,2")
    assert read_rows(path, TEXT).rows[0]["text"] == "x"


def test_whole_numbers_may_be_written_as_floats(tmp_path):
    """As tables hold them in which a whole number is missing."""
    row = {"n": 2.0, "f": 3, "many": [1.0, 2], "nested": [[4.0]], "id": 5.0, "either": 6.0}
    schema = {"n": int, "f": float, "many": NonEmpty[list[int]], "nested": list[list[int]], "id": str | int | float,
              "either": str | int}
    write(tmp_path / "a.jsonl", json.dumps(row))
    write(tmp_path / "a.csv", "n,f,many,nested,id,either", '2.0,3,"[1.0, 2]",[[4.0]],5.0,6.0')
    for name, more in (("a.jsonl", {}), ("a.csv", {"id": "5.0", "either": "6.0"})):
        [got] = read_rows(tmp_path / name, schema).rows
        wanted = {"n": 2, "f": 3.0, "many": [1, 2], "nested": [[4]], "id": 5.0, "either": 6} | more
        assert repr(dict(sorted(got.items()))) == repr(dict(sorted(wanted.items())))


def test_messages(tmp_path):
    good = [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]
    cases = [
        ([], "field 'm' has no messages"),
        ([{"role": "user"}], "field 'm', item 1: content is missing"),
        ([*good, {"role": "user", "content": None}], "field 'm', item 3: content must be text, got null"),
        ([{"role": " ", "content": "x"}], "field 'm', item 1: role is empty"),
        (["x"], "field 'm', item 1: expected {role, content}, got text 'x'"),
        ("x", "field 'm': expected list of {role, content}, got text 'x'"),
    ]
    path = write(tmp_path / "m.jsonl", *(json.dumps({"m": m}) for m in [good, *(c for c, _ in cases)]))
    got = read_rows(path, {"m": list[Message]}, limit_bad=1)
    assert got.rows == [{"m": good}] and [r.reason for r in got.rejected] == [reason for _, reason in cases]


def test_a_union_of_types(tmp_path):
    path = write(tmp_path / "u.jsonl", '{"id": 1}', '{"id": "a"}', '{"id": [1]}')
    assert reasons(path, {"id": int | str}) == ["3: field 'id': expected a whole number or text, got a list"]


def test_types_that_may_not_be_empty(tmp_path):
    path = write(tmp_path / "n.jsonl", '{"a": "x", "b": ["y"]}', '{"a": " \\n", "b": ["y"]}', '{"a": "x", "b": []}',
                 '{"a": "x", "b": ["y", ""]}', '{"a": 1, "b": ["y"]}')
    assert reasons(path, {"a": NonEmpty[str], "b": NonEmpty[list[NonEmpty[str]]]}) == [
        "2: field 'a' is empty", "3: field 'b' is empty", "4: field 'b', item 2 is empty",
        "5: field 'a': expected text, got whole number 1"]


def test_a_stream_of_rows_equals_the_rows_read_at_once(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a", "n": 1}', "", "bad", '{"text": "b", "n": null}', '{"n": 1}')
    stream = iter_rows(path, TEXT, {"n": float})
    assert next(stream) == Row(1, {"text": "a", "n": 1.0})  # before the rest is read
    rest, whole = list(stream), read_rows(path, TEXT, {"n": float}, limit_bad=1)
    assert [item.line for item in rest] == [3, 4, 5] and rest[1] == Row(4, {"text": "b"})
    assert whole.rejected == [rest[0], rest[2]] and whole.rows == [{"text": "a", "n": 1.0}, {"text": "b"}]


def test_lines_that_are_not_wanted_are_not_parsed(tmp_path):
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"text": f"row {number}"} for number in range(1, 6)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "a"))
    paths = [write(tmp_path / "a.jsonl", "no JSON", *map(json.dumps, rows[1:])), tmp_path / "a.parquet", tmp_path / "a",
             write(tmp_path / "a.csv", "text", "row 2", "a,b", "row 4", "row 5")]
    for path in paths:
        assert list(iter_rows(path, TEXT, wanted={2, 4})) == [Row(2, rows[1]), Row(4, rows[3])]


def test_rejected_rows_are_shown_as_they_were(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"n": [1], "m": pa.array([None], pa.int64()), "text": [3]}), tmp_path / "a.parquet")
    (row,) = iter_rows(tmp_path / "a.parquet", {"n": float, "text": str}, {"m": int})
    assert row.raw == '{"n": 1, "m": null, "text": 3}'
    (row,) = iter_rows(write(tmp_path / "a.csv", "n,text", "x,y"), {"n": int})
    assert row.raw == "x,y"


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from('ab\\u0d8"{}[]:,\n\x00\t \ud800é'), max_size=12), st.booleans())
def test_texts_that_need_no_search_are_the_same_as_searched_ones(text, escape):
    line = json.dumps({"text": text, text: 1}, ensure_ascii=escape).encode("utf-8", "surrogatepass")
    row = readers._parse(line)
    if isinstance(row, dict) and b"\\u" not in line:
        assert schema.check_row(dict(row), {}, clean=True) == schema.check_row(dict(row), {}) is None


def test_files_of_a_source(tmp_path, monkeypatch):
    import datasets

    path = write(tmp_path / "a.jsonl", "{}")
    assert data_files(path) == data_files(str(tmp_path)) == [path]
    assert [file.name for file in data_files("asset:tiny/documents.jsonl")] == ["documents.jsonl"]
    assert data_files(tmp_path / "absent.jsonl") == [tmp_path / "absent.jsonl"]
    saved = types.SimpleNamespace(cache_files=[{"filename": "/b.arrow"}, {"filename": "/a.arrow"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: saved)
    assert data_files("org/name") == [Path("/a.arrow"), Path("/b.arrow")]


def test_share_of_bad_rows(tmp_path):
    path = write(tmp_path / "a.jsonl", *['{"text": "x"}'] * 8, "x", "y")
    assert len(read_rows(path, TEXT, limit_bad=0.2).rows) == 8
    listed = tmp_path / "rejected.jsonl"
    with pytest.raises(UserError) as error:
        read_rows(path, TEXT, limit_bad=0.19, rejected_path=listed)
    assert str(error.value).startswith(
        f"{path}: 2 of 10 rows cannot be used\n  {path}:9: not valid JSON: Expecting value"
    )
    assert error.value.fix == f"fix the rows listed in {listed}, or increase data.limit_bad (0.19)"
    assert [(r["line"], r["raw"]) for r in map(json.loads, listed.read_text().splitlines())] == [
        (9, "x"),
        (10, "y"),
    ]


def test_a_share_that_is_the_limit_is_not_above_it():
    bad = [Rejected("a.jsonl", 1, "bad", "")]
    for count in range(1, 100):
        check_share(100 - count, bad * count, count / 100)  # 0.29 * 100 is less than 29
    with pytest.raises(UserError, match="30 of 100 rows cannot be used"):
        check_share(70, bad * 30, 0.29)


def test_no_valid_row_is_an_error(tmp_path):
    with pytest.raises(UserError, match="1 of 1 rows cannot be used") as error:
        read_rows(write(tmp_path / "a.jsonl", "{}"), TEXT, limit_bad=1)
    assert error.value.fix == "fix the rows"  # a larger limit_bad would not help
    for name, content in [
        ("e.jsonl", b""),
        ("b.jsonl", b"\n \n"),
        ("h.csv", b"text\n"),
        ("g.jsonl.gz", gzip.compress(b"")),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match="there are no rows in it"):
            read_rows(tmp_path / name, TEXT)


def test_rejected_file_is_written_when_nothing_is_rejected(tmp_path):
    read_rows(write(tmp_path / "a.jsonl", '{"text": "x"}'), TEXT, rejected_path=tmp_path / "r.jsonl")
    assert (tmp_path / "r.jsonl").read_bytes() == b""


def test_limit_stops_reading(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a"}', "bad", '{"text": "b"}', '{"text": "c"}', "never read")
    got = read_rows(path, TEXT, limit=2, limit_bad=0.5)
    assert [r["text"] for r in got.rows] == ["a", "b"] and [r.line for r in got.rejected] == [2]


def test_gzip(tmp_path):
    rows = [json.dumps({"text": f"row {np.random.default_rng(i).integers(0, 9**9, 20)}"}) for i in range(500)]
    whole = gzip.compress("\n".join(rows).encode())
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(whole)
    assert len(read_rows(path, TEXT).rows) == 500
    for damaged in (
        whole[: len(whole) // 2],
        whole[:-4],
        whole[:1000] + b"\xff" * 50 + whole[1050:],
        b"not gzip",
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"the gzip file is damaged after line \d+"):
            read_rows(path, TEXT)


def test_whole_numbers_that_floats_do_not_distinguish(tmp_path):
    write(tmp_path / "a.jsonl", '{"n": 9007199254740991.0}', '{"n": 9007199254740993.0}', '{"n": 9007199254740993}')
    assert [row["n"] for row in read_rows(tmp_path / "a.jsonl", {"n": int}, limit_bad=1).rows] == [
        9007199254740991, 9007199254740993]


def test_columns_of_a_parquet_file_that_have_one_name(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(UserError, match="the column 'text' appears twice"):
        read_rows(path, TEXT)


def test_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    turns = [[{"role": "user", "content": "x"}], None, [{"role": None, "content": "y"}], []]
    pq.write_table(
        pa.table({"text": ["a", None, "c\0", "d"], "f": [1.0, 2.0, 3.0, float("nan")], "m": turns}), path
    )
    assert read_rows(path, TEXT, limit_bad=1).rows[0]["m"] == turns[0]
    assert reasons(path, TEXT, optional={"f": float}) == [
        "2: field 'text' is null",
        "3: field 'text' holds a NUL character",
        "4: field 'f' is nan, not a finite number",
    ]
    assert reasons(path, {"f": float}, optional={"m": list[Message]})[:1] == [
        "3: field 'm', item 1: role must be text, got null"
    ]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match="the Parquet file cannot be read"):
        read_rows(path, TEXT)


def test_saved_datasets(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = datasets.Dataset.from_dict({"text": ["a", None, "c"]})
    data.save_to_disk(tmp_path / "one")
    assert reasons(tmp_path / "one", TEXT) == ["2: field 'text' is null"]
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "two")
    with pytest.raises(UserError, match="several splits\n.*give one: test, train"):
        read_rows(tmp_path / "two", TEXT)
    assert len(read_rows(tmp_path / "two" / "train", TEXT, limit_bad=0.5).rows) == 2
    datasets.DatasetDict({"test": data}).save_to_disk(tmp_path / "three")
    assert len(read_rows(tmp_path / "three", TEXT, limit_bad=0.5).rows) == 2


def test_hub(monkeypatch):
    import datasets

    loaded = []

    def load(name, config, split):
        loaded.append((name, config, split))
        if name == "no/net":
            raise ConnectionError("Couldn't reach the Hub\nand more")
        return datasets.Dataset.from_dict({"text": ["a"]})

    monkeypatch.setattr(datasets, "load_dataset", load)
    for source in ("org/name", "org/name:test", "org/name/main:test"):
        assert read_rows(source, TEXT).rows == [{"text": "a"}]
    assert loaded == [("org/name", None, "train"), ("org/name", None, "test"), ("org/name", "main", "test")]
    with pytest.raises(
        UserError, match="no/net: neither a local file nor a data set .*: Couldn't reach the Hub\n"
    ):
        read_rows("no/net", TEXT)


def test_missing_files_and_unknown_types(tmp_path):
    write(tmp_path / "a.jsonl", '{"text": "x"}')
    write(tmp_path / "a.txt", "x")
    for source, reason in [
        (tmp_path / "b.jsonl", "b.jsonl: no such file"),
        ("some/missing.jsonl", "some/missing.jsonl: no such file"),
        ("./org/name", "no such file"),
        (tmp_path / "a.txt", "unknown file type\n  fix: give one of .jsonl"),
        (tmp_path, "not a folder that `datasets` saved\n  fix: give one file: a.jsonl"),
        ("asset:../errors.py", "no packaged file"),
        ("asset:absent", "no packaged file 'absent'"),
        ("", "no data file given"),
    ]:
        with pytest.raises(UserError, match=reason):
            read_rows(source, TEXT)
    (tmp_path / "utf16.jsonl").write_text('{"text": "x"}', encoding="utf-16")
    with pytest.raises(UserError, match="the text is UTF-16"):
        read_rows(tmp_path / "utf16.jsonl", TEXT)


def test_reading_text_does_not_import_datasets(tmp_path):
    import subprocess

    path = write(tmp_path / "a.jsonl", '{"text": "x"}')
    code = (
        "import sys; from jaxllm.text import read_rows\n"
        f"assert read_rows({str(path)!r}, {{'text': str}}).rows == [{{'text': 'x'}}]\n"
        "assert not {'datasets', 'transformers', 'torch', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "name, required",
    [
        ("text/tinystories.jsonl.gz", {"text": str}),
        ("gsm8k/test.jsonl", {"question": str, "answer": str}),
        ("context_qa/pubmedqa.jsonl.gz", {}),
    ],
)
def test_real_files(shared_data, name, required):
    got = read_rows(shared_data / name, required)
    assert len(got.rows) > 500 and got.rejected == []


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Each run in a process of its own, since the peak of a process never falls."""
    peaks = {}
    for count in (1_000, 20_000):
        rows_throughput.write_rows(tmp_path / f"{count}.jsonl", count)
        used = rows_throughput.measure(tmp_path / f"{count}.jsonl", tmp_path / str(count))
        assert used["rows"] == count
        peaks[count] = used["peak_mb"]
    assert peaks[20_000] - peaks[1_000] < 10  # the larger file has 20 MB, its parsed rows about 50
