"""`jaxllm check`: what an audit finds, and that it shows no text of a row."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from jaxllm.assets import asset_path
from jaxllm.cli import main
from jaxllm.config import DataConfig
from jaxllm.errors import UserError
from jaxllm.evaluate.check_job import Config, audit
from jaxllm.model import load
from jaxllm.text.encoding import encode_pair, encode_reward_pair
from jaxllm.text.preferences import read_forms

SECRET = "zyzzyva"  # in every text of the rows below
TEXT = lambda *words: " ".join((SECRET, *map(str, words)))


def write(path: Path, *rows) -> str:
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return str(path)


def pair(prompt, chosen, rejected, **more):
    return {"prompt": TEXT(prompt), "chosen": TEXT(chosen), "rejected": TEXT(rejected), **more}


def check(path, **keys):
    limits = {key: keys.pop(key) for key in ("limit", "limit_bad") if key in keys}
    return audit(Config(DataConfig(str(path), **limits), **keys))


def lines_with(found, issue):
    return [line for line in sorted(found.issues) if issue in {name for name, _ in found.issues[line]}]


def test_pairs(tmp_path):
    path = write(tmp_path / "rows.jsonl",
                 pair(1, "a", "b c"),
                 pair(" 1", "A", "b  c"),  # the same but for case and blanks
                 pair(1, "b c", "a"),  # the opposite
                 pair(2, "a b c", "d"), pair(2, "d", "e f"),  # an order of three answers
                 pair(3, "x", "y"), pair(4, "cafe\u0301 g", "caf\u00e9 h"),
                 pair(5, "more", "more than that"),
                 pair(6, "same", "same"), pair(7, "a", " ") | {"rejected": " "}, pair("", "a", "b") | {"prompt": ""},
                 "{broken\n")
    found = check(path)
    assert lines_with(found, "duplicate") == [2] and lines_with(found, "contradiction") == [1, 2, 3]
    assert lines_with(found, "both") == [1, 2, 3, 4, 5] and lines_with(found, "contained") == [8]
    assert lines_with(found, "rejected") == [9, 10, 11, 12]
    result = found.result
    assert result["kind"] == "paired" and result["forms"] == {"paired": 8}
    assert (result["lines"], result["rows"], result["rejected"]) == (12, 8, 4)
    assert result["prompts"] == {"distinct": 5, "repeated": 2, "lines_with_repeated": 5, "lines_without": 0}
    assert list(result["rejected_reasons"])[:3] == ["chosen equals rejected", "the rejected answer is empty",
                                                    "the prompt is empty"]
    assert result["issues"] == {"rejected": 4, "duplicate": 1, "contradiction": 3, "both": 5, "contained": 1}
    assert result["too_many_rejected"] == "more than data.limit_bad (0.1) of the lines are rejected"
    assert check(path, limit_bad=0.5).result["too_many_rejected"] is None


@pytest.mark.parametrize(("chosen", "rejected", "contained"), [
    ("No", "I do not know", False), ("No.", "Well, no.", True), ("no", "I do not know, no", True),
    ("a b", "A  B c", True), ("Yes.", "Yes!", False), ("\u732b", "\u9ed2\u732b\u3060", True), ("?", "Why?", False)])
def test_an_answer_within_the_other_is_whole_words(tmp_path, chosen, rejected, contained):
    found = check(write(tmp_path / "rows.jsonl", {"prompt": "p", "chosen": chosen, "rejected": rejected}))
    assert lines_with(found, "contained") == [1] * contained


def test_length_bias(tmp_path):
    found = check(write(tmp_path / "rows.jsonl", pair(1, "a b", "c"), pair(2, "a", "b c d"), pair(3, "a", "c d"),
                        pair(4, "a", "b")))
    length = found.result["length"]
    assert (length["chosen_longer"], length["rejected_longer"], length["equal"]) == (1, 2, 1)
    assert (length["mean_chosen"], length["mean_rejected"]) == (2.25, 2.75)
    assert length["longer_is_better"]["mean"] == (1 + 0.5) / 4
    assert length["longer_is_better"]["ci_low"] < 0.375 < length["longer_is_better"]["ci_high"]


def test_pairs_with_one_prompt_have_an_interval_too(tmp_path):
    rows = [{"prompt": "p", "chosen": one, "rejected": other} for one, other in (("a b", "c"), ("d", "e f"))]
    length = check(write(tmp_path / "rows.jsonl", *rows)).result["length"]["longer_is_better"]
    assert (length["ci_low"], length["mean"], length["ci_high"]) == (0.0, 0.5, 1.0)


def test_columns_roles_and_rows_without_a_prompt(tmp_path):
    turns = [{"role": "user", "content": TEXT(1)}] * 2
    found = check(write(tmp_path / "rows.jsonl", {"prompt": turns, "chosen": "a", "rejected": "b", "weight": 2.0},
                        {"chosen": "x", "rejected": "y", "label_probability": 0.8},
                        {"chosen": "x y z", "rejected": "x y u", "margin": 1.0}))
    assert lines_with(found, "roles") == [1] and found.result["prompts"]["lines_without"] == 1
    assert found.result["columns"] == {"weight": 1, "label_probability": 1, "margin": 1}


def test_scored_rows(tmp_path):
    scored = lambda *scores: {"prompt": TEXT(1), "completions": [TEXT(i) for i in range(len(scores))], "scores": scores}
    found = check(write(tmp_path / "rows.jsonl", scored(1, 2, 3, 3, None), scored(1, 1)))
    result = found.result
    assert (result["lines"], result["rows"], result["ties"], result["unscored"]) == (2, 5, 1, 1)
    assert lines_with(found, "both") == [] and list(found.issues) == [2]  # an answer between two others is both


def test_unpaired_rows_and_texts_to_imitate(tmp_path):
    row = lambda prompt, text, label: {"prompt": TEXT(prompt), "completion": TEXT(text), "label": label}
    found = check(write(tmp_path / "unpaired.jsonl", row(1, "a", True), row(1, "a", False), row(1, "a b", True),
                        row(2, "c", True), row(2, "c", True)))
    assert lines_with(found, "contradiction") == [1, 2] and lines_with(found, "duplicate") == [5]
    assert {name: group["rows"] for name, group in found.result["completions"].items()} == {
        "desirable": 4, "undesirable": 1}
    assert found.result["completions"]["desirable"]["mean_words"] == 2.25
    assert found.result["desirable_per_undesirable"] == 4.0
    talk = {"messages": [{"role": "user", "content": TEXT(1)}, {"role": "assistant", "content": TEXT("a", "b")}]}
    found = check(write(tmp_path / "sft.jsonl", talk, talk, {"text": TEXT(1)},
                        {"prompt": TEXT(1), "completion": TEXT(2)}))
    assert lines_with(found, "duplicate") == [2]
    assert {name: group["rows"] for name, group in found.result["completions"].items()} == {
        "conversations": 2, "texts": 1, "completions": 1}
    assert found.result["prompts"]["repeated"] == 1


def test_classes(tmp_path):
    row = lambda text, label: {"text": TEXT(text), "label": label}
    found = check(write(tmp_path / "rows.jsonl", row("a", 1), row("a", 0), row("b", 10), row("b", 10), row("c", 2),
                        row("d", 10), row("e", "good"), row("f", True)))
    assert lines_with(found, "contradiction") == [1, 2] and lines_with(found, "duplicate") == [4]
    assert lines_with(found, "rejected") == [8]
    assert {name: group["rows"] for name, group in found.result["classes"].items()} == {
        "0": 1, "1": 1, "2": 1, "10": 3, "good": 1}
    assert found.result["largest_class"] == 3 / 7 and found.result["label_types"] == ["name", "number"]


@pytest.mark.parametrize("rows", [[], [{"question": "1"}]])
def test_another_file_without_prompts(tmp_path, capsys, rows):
    """No overlap with it is no news."""
    found = check(write(tmp_path / "train.jsonl", pair(1, "a", "b")), compare=write(tmp_path / "none.jsonl", *rows))
    assert found.result["overlap"]["lines_there"] == found.result["overlap"]["rows"] == 0
    assert "no line of none.jsonl has a prompt" in capsys.readouterr().err


def test_prompts_of_another_file(tmp_path):
    path = write(tmp_path / "train.jsonl", pair(1, "a", "b"), pair(1, "c", "d"), pair("Caf\u00e9", "a", "b"),
                 pair(3, "a", "b"))
    test = write(tmp_path / "test.jsonl", {"prompt": TEXT(" 1\n"), "question": 1},
                 {"prompt": [{"role": "user", "content": TEXT("CAFE\u0301")}], "completion": "x"}, {"other": 1})
    found = check(path, compare=test)
    assert found.result["overlap"] == {"file": "test.jsonl", "lines_there": 2, "prompts": 2, "rows": 3}
    assert lines_with(found, "overlap") == [1, 2, 3]
    assert check(test, compare=path).result["overlap"]["prompts"] == 1


def test_near_duplicates_and_prompts_that_are_nearly_those_of_another_file(tmp_path):
    text = lambda start: f"{start} is a question about the river, the town and the bridge"
    own = lambda number, prompt, **more: {"id": f"x{number}", **pair(prompt, "yes it does", "no not at all"), **more}
    path = write(tmp_path / "rows.jsonl", own(1, text("this")), own(2, text("This").replace(",", " -").upper()),
                 own(3, text("this") + " there"), own(4, text("this"), chosen=TEXT("no not at all"),
                                                      rejected=TEXT("yes it does")),
                 own(5, "another question entirely"), own(6, text("this")))
    found = check(path)
    assert lines_with(found, "near_duplicate") == [2, 3] and lines_with(found, "duplicate") == [6]
    assert found.issues[2] == [("near_duplicate", "near-duplicate of line 1 (similarity 1.00)")]
    assert found.issues[3] == [("near_duplicate", "near-duplicate of line 1 (similarity 0.92)")]
    assert found.result["near_duplicates"] == {"threshold": 0.8, "rows": 2, "of_equal_words": 1}
    assert found.result["issues"]["near_duplicate"] == 2
    assert lines_with(check(path, near_duplicates=0.95), "near_duplicate") == [2]
    none = check(path, near_duplicates=None)
    assert lines_with(none, "near_duplicate") == [] and "near_duplicates" not in none.result
    other = write(tmp_path / "test.jsonl", {"prompt": TEXT(text("this") + ".")}, {"prompt": TEXT("something else")})
    found = check(path, compare=other)
    assert lines_with(found, "near_overlap") == [1, 2, 3, 4, 6] and lines_with(found, "overlap") == []
    assert found.result["near_duplicates"]["overlap"] == 5
    assert lines_with(check(path, compare=path), "near_overlap") == []  # the same prompts are an overlap
    with pytest.raises(UserError, match="near_duplicates"):
        check(path, near_duplicates=0.3)


def test_equal_texts_with_other_labels_are_no_near_duplicates(tmp_path):
    row = lambda mark, **label: {"text": TEXT("a text of some words") + mark, **label}
    assert lines_with(check(write(tmp_path / "a.jsonl", row("", label=0), row(".", label=1), row("!", label=0))),
                      "near_duplicate") == [3]
    answer = lambda mark, label: {"prompt": TEXT(1), "completion": TEXT("a text of some words") + mark, "label": label}
    assert lines_with(check(write(tmp_path / "b.jsonl", answer("", True), answer(".", False), answer("!", True))),
                      "near_duplicate") == [3]


def test_lengths_in_tokens(tmp_path):
    system = [{"role": "system", "content": TEXT(5)}, {"role": "user", "content": TEXT(5)}]
    path = write(tmp_path / "rows.jsonl", pair(1, "a", "b"), pair(2, "long words " * 30, "b"),
                 pair("long words " * 60, "a", "b"), pair(4, "a </s>", "b <s>"), pair(5, "a", "b") | {"prompt": system})
    model = tmp_path / "model"
    shutil.copytree(asset_path("tiny"), model)
    template = (model / "chat_template.jinja").read_text()
    (model / "chat_template.jinja").write_text(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + template)
    found = check(path, model=str(model), max_length=60)
    tokens = found.result["tokens"]
    assert lines_with(found, "cut") == [2] and lines_with(found, "too_long") == [3]
    assert lines_with(found, "control") == [4] and lines_with(found, "refused") == [5]
    assert (tokens["rows_cut"], tokens["rows_dropped"], tokens["rows_refused"]) == (1, 1, 1)
    assert tokens["rows_over_max_length"] == 2 and tokens["tokens_cut"] > 20 and tokens["longest_text"]["most"] > 80
    [reason] = tokens["refused_reasons"]
    assert "the chat template does not accept these messages (system, user, assistant): no system role" in reason
    assert check(path, model="tiny", max_length=60, max_prompt_length=20).result["tokens"]["rows_dropped"] == 0
    assert check(path, model="tiny").result["tokens"]["rows_cut"] == 0
    texts = write(tmp_path / "texts.jsonl", {"text": TEXT(1), "label": 0},
                  {"text": TEXT("long words " * 60), "label": 1})
    tokens = check(texts, model="tiny", max_length=60).result["tokens"]
    assert (tokens["rows_cut"], tokens["rows_dropped"]) == (0, 1)


def test_lengths_are_those_of_training(tmp_path):
    """At most the context window; a reward model also reads what the template writes after the answer's end token."""
    name = tmp_path / "model"
    shutil.copytree(asset_path("tiny"), name)
    (name / "chat_template.jinja").open("a").write("{% if not add_generation_prompt %}{{ ' and on' }}{% endif %}")
    talk = [{"role": "user", "content": TEXT(1)}]
    path = write(tmp_path / "rows.jsonl", {"prompt": talk, "chosen": TEXT("a b"), "rejected": TEXT("a")},
                 pair(2, "long words " * 600, "b"))
    assert check(path, model="tiny").result["tokens"]["max_length"] == 512  # the context window, less than the default
    for more in (100_000, None):
        tokens = check(path, model="tiny", max_length=more).result["tokens"]
        assert (tokens["max_length"], tokens["rows_cut"]) == (512, 1)
    tokenizer, [talk, _] = load(str(name)).tokenizer, read_forms(path).rows
    longest = max(map(len, encode_reward_pair(tokenizer, talk)))
    assert max(encode_pair(tokenizer, talk).lengths) < longest
    counts = [check(path, model=str(name), max_length=n).result["tokens"]["rows_over_max_length"]
              for n in (longest - 1, longest)]
    assert counts == [2, 1]


def test_rows_that_the_tokenizer_refuses_count_as_in_training(tmp_path):
    same = {"prompt": TEXT(1), "chosen": " a", "rejected": " a</s>"}  # one text with its end token
    path = write(tmp_path / "rows.jsonl", *[pair(i, "a", "b") for i in range(5)], *[same] * 5)
    assert check(path, model="tiny").result["too_many_rejected"] == (
        "more than data.limit_bad (0.1) of the rows are refused")
    assert check(path, model="tiny", limit_bad=0.5).result["too_many_rejected"] is None
    assert check(path, model="tiny", max_length=2).result["too_many_rejected"] is not None
    long = write(tmp_path / "long.jsonl", pair(1, "a", "b"))
    assert check(long, model="tiny", max_length=2).result["too_many_rejected"] == "no row can be used"


def run(capsys, *words):
    status = main(["check", *words])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_the_command_prints_and_writes_no_text_of_a_row(tmp_path, capsys):
    path = write(tmp_path / "rows.jsonl", pair(1, "a", "b", id="r1"), pair(1, "b", "a"), pair(2, "a", "a"),
                 pair(3, "a", "b") | {"weight": TEXT()}, pair(4, "a", "b") | {"prompt": {"x": TEXT()}},
                 f'{{"prompt": "{TEXT()}"\n')
    out = tmp_path / "out"
    status, printed, errors = run(capsys, path, "--out", str(out), "--model", "tiny", "--compare", path)
    assert status == 0, errors
    assert printed.splitlines()[-1] == str(out / "result.json")
    assert "accuracy of \"longer is better\"" in printed and "contradictions: the same rows with opposite" in printed
    assert "Training refuses the file" in printed
    assert sorted(file.name for file in out.iterdir()) == ["config.yaml", "inputs.json", "report.html", "report.md",
                                                           "result.json", "rows.jsonl"]
    for text in (printed, errors, *(file.read_text() for file in out.iterdir())):
        assert SECRET not in text
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [(row["line"], row["id"]) for row in rows] == [(1, "r1"), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)]
    assert rows[0]["issues"][0] == "contradicts line 2"
    result = json.loads((out / "result.json").read_text())
    assert result["issues"]["rejected"] == 4 and result["issues"]["contradiction"] == 2
    assert run(capsys, path, "--out", str(out), "--model", "tiny", "--compare", path)[2].endswith("nothing was done\n")
    assert "result.json" not in run(capsys, path)[1]
    assert json.loads(run(capsys, path, "--json")[1])["issues"] == {"rejected": 4, "contradiction": 2, "both": 2}


def test_errors_of_the_command(tmp_path, capsys):
    path = write(tmp_path / "rows.jsonl", pair(1, "a", "b"))
    for words, message in [((str(tmp_path / "none.jsonl"),), "no such file"), ((), "required key missing: data.path"),
                           ((path, "--max_length", "9"), "give --model too"),
                           ((path, "--json", "--out", str(tmp_path / "out")), "with out, the object is in"),
                           ((path, "--model", "tiny", "--max_length", "1"), "max_length: must be 2 or more"),
                           ((write(tmp_path / "empty.jsonl"),), "there are no rows in it")]:
        status, printed, errors = run(capsys, *words)
        assert status == 2 and message in errors and not printed


def test_real_pairs(shared):
    """The figures of the data's description, counted there when the files were made."""
    found = check(shared / "preferences" / "hh_harmless.jsonl")
    result = found.result
    assert (result["rows"], result["rejected"], result["prompts"]["repeated"]) == (1725, 0, 2)
    length = result["length"]
    assert (length["chosen_longer"], length["rejected_longer"], length["equal"]) == (748, 939, 38)
    assert length["mean_chosen"] == pytest.approx(30.763, abs=5e-4)
    assert length["mean_rejected"] == pytest.approx(38.344, abs=5e-4)
    assert length["longer_is_better"]["mean"] == pytest.approx((748 + 19) / 1725)
    assert {"duplicate", "contradiction", "both"}.isdisjoint(result["issues"])
    edges = check(shared / "preferences" / "hh_raw_edge_cases.jsonl")
    assert (edges.result["rows"], edges.result["rejected"]) == (0, 13) and edges.result["too_many_rejected"]


def test_names_of_files_and_classes_stay_text_in_the_report(tmp_path):
    hostile, out = "<script>alert(1)</script>\"><img src=x onerror=y>]]>", tmp_path / "out"
    path = write(tmp_path / "\"><img src=x>]]>.jsonl", *({"text": TEXT(i), "label": hostile if i % 2 else "b"}
                                                         for i in range(8)))
    assert main(["check", path, "--compare", path, "--out", str(out)]) == 0
    page = (out / "report.html").read_text()
    assert "&lt;script&gt;alert(1)" in page and "&#34;&gt;&lt;img src=x&gt;]]&gt;.jsonl" in page
    assert "<script" not in page and "<img src=x" not in page and "]]>" not in page


def test_names_of_classes_do_not_rewrite_the_terminal(tmp_path, capsys):
    rows = [{"text": TEXT(i), "label": "\x1b[2Jgood\x9b\u202e" if i % 2 else "b"} for i in range(8)]
    assert main(["check", write(tmp_path / "rows.jsonl", *rows)]) == 0
    printed = capsys.readouterr().out
    assert "[2Jgood" in printed and not {"\x1b", "\x9b", "\u202e"} & set(printed)
