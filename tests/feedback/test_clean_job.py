"""`jaxllm clean`: rows that are written, ledger and replay, people's answers, the gate, and input that is wrong."""

import collections
import datetime
import gzip
import json
import math

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from safetensors.numpy import load_file, save_file

from jaxllm.feedback import ledger, rewriting
from jaxllm.feedback.methods import NAMES
from jaxllm.text import readers
from jaxllm.text.preferences import preference_rows
from tests.feedback.rows import audit, clean, pair, pairs, read, run, wide, write


def scores(count=40, wrong=(1, 5), seed=0):
    """Three members that find all labels right but some."""
    rng = np.random.default_rng(seed)
    margin = np.where(np.isin(np.arange(count), wrong), -1.0, 1.0)
    base = rng.normal(0, 1, (count, 1, 1))
    return base + np.stack([margin / 2, -margin / 2], 1)[:, None] * rng.uniform(0.9, 1.1, (count, 3, 1))


def test_rows_keep_their_order_and_columns(tmp_path):
    rows = [pair(number, extra={"a": [number]}, weight=2.0, label_probability=0.9) for number in range(40)]
    audit(tmp_path, rows, wide(scores()))
    result = clean(tmp_path, "calibrated_f")
    cleaned = read(tmp_path / "calibrated_f" / "cleaned.jsonl")
    assert [row["id"] for row in cleaned] == [row["id"] for row in rows]
    for number, (row, before) in enumerate(zip(cleaned, rows, strict=True)):
        swapped = before | {"chosen": before["rejected"], "rejected": before["chosen"]}
        assert row == (swapped if number in (1, 5) else before) and list(row) == list(before)
    assert result["actions"]["flip"] == 2 and result["gate"]["estimated_precision"] > 0.5
    ledger = read(tmp_path / "calibrated_f" / "ledger.jsonl")
    assert [line["action"] for line in ledger].count("keep") == 38
    assert ledger[1] == {"id": "r1", "action": "flip", "rule": "more likely wrong than right", "votes": 0, "voters": 3,
                         "bucket": "none", "source": "1", "texts": ledger[1]["texts"],
                         "quantiles": read(tmp_path / "audit" / "rows.jsonl")[1]["quantiles"],
                         "config": ledger[0]["config"]}
    assert result["by_bucket"]["none"] == {"flip": 2} and result["by_domain"]["mixed"]["flip"] == 2
    assert result["by_bucket_and_domain"]["none"] == {"mixed": {"flip": 2}}
    other = run("clean", tmp_path / "other", method="none", data__path=tmp_path / "rows.jsonl")
    assert other["actions"]["keep"] == 40 and len(ledger[0]["config"]) == 8
    assert read(tmp_path / "other" / "ledger.jsonl")[0]["config"] != ledger[0]["config"]


def test_a_flip_turns_a_label_probability_below_one_half_around(tmp_path):
    rows = [pair(number, label_probability={1: 0.1, 2: 0.2, 5: 0.8}.get(number, 1.0)) for number in range(40)]
    audit(tmp_path, rows, wide(scores()))
    clean(tmp_path, "calibrated_f")
    cleaned = read(tmp_path / "calibrated_f" / "cleaned.jsonl")
    assert [row["label_probability"] for row in cleaned[:6]] == [1.0, 0.9, 0.2, 1.0, 1.0, 0.8]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "ranked"])
def test_columns_that_json_has_no_form_for(tmp_path, form):
    """Undeclared columns keep no row from being written: numbers that are not finite are null, times their text."""
    rows = [pair(number) | {"a": math.nan, "b": [1.5, -math.inf], "c": "\ud800"} for number in range(6)]
    file, expected = tmp_path / "rows.jsonl", {"a": None, "b": [1.5, None], "c": "\ud800"}
    if form == "parquet":
        file, times = tmp_path / "rows.parquet", [datetime.datetime(2024, 2, 9, 8, 7, 6)] * 6
        columns = {name: [row[name] for row in rows] for name in rows[0] if name != "c"}
        columns |= {"d": times, "e": [b"\xff"] * 6}
        pyarrow.parquet.write_table(pyarrow.table(columns), file)
        del expected["c"]
        expected |= {"d": "2024-02-09 08:07:06", "e": "b'\\xff'"}
    elif form == "ranked":
        rows = [{"id": row["id"], "prompt": row["prompt"], "completions": ["x", "y"], "scores": [1, 2],
                 **{name: row[name] for name in expected}} for row in rows]
    if form != "parquet":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("clean", tmp_path / "out", data__path=file, method="random_r", count=2)
    cleaned = read(tmp_path / "out" / "cleaned.jsonl")
    assert len(cleaned) == 4
    assert all({name: row[name] for name in expected} == expected for row in cleaned)


def test_a_flip_exchanges_what_people_answered(tmp_path):
    rows = pairs(40)
    rows[1] |= {"human_votes": ["rejected", -1, "both_good", None]}
    audit(tmp_path, rows, wide(scores()))
    clean(tmp_path, "calibrated_f")
    assert read(tmp_path / "calibrated_f" / "cleaned.jsonl")[1]["human_votes"] == ["chosen", 1, "both_good", None]
    again = run("audit", tmp_path / "again", data__path=tmp_path / "calibrated_f" / "cleaned.jsonl",
                committee__scores=write(tmp_path / "own.jsonl", [{"id": row["id"], "member": "m", "vote": 1}
                                                                 for row in rows]))
    assert again["people"]["label_is_right"]["mean"] == 1


def test_inputs_that_change_after_the_end(tmp_path, capsys):
    audit(tmp_path, pairs(40), wide(scores()))
    clean(tmp_path, "sac")
    write(tmp_path / "scores.jsonl", wide(-scores()))
    run("audit", tmp_path / "audit", expected=2, data__path=tmp_path / "rows.jsonl",
        committee__scores=tmp_path / "scores.jsonl")
    assert "the scores changed since the run started" in capsys.readouterr().err
    run("audit", tmp_path / "other", data__path=tmp_path / "rows.jsonl", committee__scores=tmp_path / "scores.jsonl")
    (tmp_path / "other" / "committee.safetensors").replace(tmp_path / "audit" / "committee.safetensors")
    run("clean", tmp_path / "sac", expected=2, method="sac", data__path=tmp_path / "rows.jsonl",
        audit=tmp_path / "audit")
    assert "the audit changed since the run started" in capsys.readouterr().err


def test_soft_labels_that_turn_around_are_pointed_out(tmp_path, capsys):
    rows = wide(np.random.default_rng(0).normal(0, 1, (40, 3, 2)))
    audit(tmp_path, pairs(40), rows)
    clean(tmp_path, "soft_votes")
    assert "turns them around in training" in capsys.readouterr().err
    clean(tmp_path, "soft_calibrated")
    assert "turns them" not in capsys.readouterr().err


@pytest.mark.parametrize(("method", "keys"), [("sac", {}), ("weighted_r", {}), ("soft_votes", {}), ("margins", {}),
                                              ("weight_votes", {}), ("vote_maj_r", {"action": "unpaired"}),
                                              ("none", {})])
def test_training_takes_the_cleaned_rows_and_a_replay_makes_them_again(tmp_path, method, keys):
    rows = [pair(number, weight=2.0, more="é \u2028 \U0001f600") for number in range(40)]
    audit(tmp_path, rows, wide(scores()))
    clean(tmp_path, method, **keys)
    out = tmp_path / method
    read_again = preference_rows(out / "cleaned.jsonl", "paired", limit_bad=0.0).rows
    assert len(read_again) == sum(line["action"] not in ("remove", "unpaired") for line in read(out / "ledger.jsonl"))
    if method == "weight_votes":
        assert {row.weight for row in read_again} == {2.0, 0.1}
    if keys:
        assert len(preference_rows(out / "cleaned_unpaired.jsonl", "unpaired", limit_bad=0.0).rows) == 4
    run("clean", tmp_path / "again", data__path=tmp_path / "rows.jsonl", replay=out / "ledger.jsonl")
    for file in out.glob("cleaned*.jsonl"):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
    assert (tmp_path / "again" / "ledger.jsonl").read_bytes() == (out / "ledger.jsonl").read_bytes()


@pytest.mark.slow
def test_a_replay_makes_the_rows_of_every_method_again(tmp_path):
    rows = [pair(number, tags=[f"t{number % 5}"], human_votes=[1] if number % 4 == 0 else [], label_probability=0.7,
                 weight=2.0) for number in range(30)]
    found = np.random.default_rng(0).normal(0, 1, (30, 3, 2))
    found[::7, 1] = np.nan
    audit(tmp_path, rows, wide(found))
    ifd = write(tmp_path / "ifd.jsonl", [{"id": row["id"], "chosen": 0.1 + number / 30, "rejected": 0.5}
                                         for number, row in enumerate(rows)])
    for method in NAMES:
        keys = {"ifd__path": ifd} if method.startswith("ifd") else {"member": "m0"} if "judge" in method else {}
        clean(tmp_path, method, force="true", keep=10, **keys)
        again = tmp_path / f"{method}_again"
        run("clean", again, data__path=tmp_path / "rows.jsonl", replay=tmp_path / method / "ledger.jsonl")
        for file in ("cleaned.jsonl", "ledger.jsonl"):
            assert (again / file).read_bytes() == (tmp_path / method / file).read_bytes(), method


def test_a_ledger_of_another_file_is_refused(tmp_path, capsys):
    rows = pairs(10)
    ledger = tmp_path / "none" / "ledger.jsonl"
    run("clean", tmp_path / "none", method="none", data__path=write(tmp_path / "rows.jsonl", rows))
    changed = [*rows[:3], rows[3] | {"chosen": "another text"}, *rows[4:]]
    for other, match in ((changed, "which has other texts"), (rows[:9], "more pairs than the data"),
                         ([*rows, pair(10)], "ends after 10 pairs"), (rows[::-1], "and the data has the pair 'r9'")):
        out = tmp_path / "replay"
        run("clean", out, expected=2, replay=ledger, data__path=write(tmp_path / "other.jsonl", other))
        assert match in capsys.readouterr().err and not out.exists()
    run("clean", tmp_path / "replay", expected=2, replay=write(tmp_path / "no.jsonl", rows),
        data__path=tmp_path / "rows.jsonl")
    assert "it is no ledger" in capsys.readouterr().err


@pytest.mark.parametrize(("change", "message"), [
    ({"action": "reweight", "value": math.nan}, "the value of line 2 is out of range"),
    ({"action": "margin", "value": math.inf}, "the value of line 2 is out of range"), (None, "it is no ledger")])
def test_a_damaged_ledger_is_refused(tmp_path, capsys, change, message):
    """A value that is not finite, or a line that is no object, ended the run with a traceback."""
    rows = write(tmp_path / "rows.jsonl", pairs(3))
    run("clean", tmp_path / "none", method="none", data__path=rows)
    lines = read(tmp_path / "none" / "ledger.jsonl")
    lines[1] = [1] if change is None else lines[1] | change
    run("clean", tmp_path / "replay", expected=2, data__path=rows, replay=write(tmp_path / "ledger.jsonl", lines))
    assert message in capsys.readouterr().err


def test_answers_of_a_spreadsheet(tmp_path):
    """A blank cell is no answer yet, and a number in a cell is that number."""
    rows = write(tmp_path / "rows.jsonl", pairs(6))
    answers = tmp_path / "answers.csv"
    answers.write_text("id,answer,note\nr0,chosen,\nr1,,later\nr2,-1,\nr3,0,\nr4,both_bad,\n")
    run("clean", tmp_path / "out", method="none", data__path=rows, answers=answers)
    assert [(line["action"], line["rule"]) for line in read(tmp_path / "out" / "ledger.jsonl")] == [
        ("keep", "people: chosen"), ("keep", "not flagged"), ("flip", "people: rejected"), ("soft", "people: tie"),
        ("remove", "people: both_bad"), ("keep", "not flagged")]


def test_an_audit_of_other_rows_is_refused(tmp_path, capsys):
    audit(tmp_path, pairs(40), wide(scores()))
    run("clean", tmp_path / "out", expected=2, method="sac", audit=tmp_path / "audit",
        data__path=write(tmp_path / "other.jsonl", pairs(40)[::-1]))
    assert "the audit is of other rows" in capsys.readouterr().err
    run("clean", tmp_path / "out", expected=2, method="sac", audit=tmp_path / "missing",
        data__path=tmp_path / "rows.jsonl")
    assert "there is no finished audit" in capsys.readouterr().err
    file = tmp_path / "audit" / "committee.safetensors"
    for about in (None, {"about": json.dumps({"members": ["m0"], "buckets": []})}):
        save_file(load_file(file), file, about)
        run("clean", tmp_path / "out", expected=2, method="none", audit=tmp_path / "audit",
            data__path=tmp_path / "rows.jsonl")
        assert "written by another version" in capsys.readouterr().err
    file.write_bytes(b"damaged")
    run("clean", tmp_path / "out", expected=2, method="sac", audit=tmp_path / "audit",
        data__path=tmp_path / "rows.jsonl")
    assert "not a whole file" in capsys.readouterr().err


def test_flips_that_would_spoil_more_than_they_mend(tmp_path, capsys):
    rng = np.random.default_rng(0)
    audit(tmp_path, pairs(60), wide(rng.normal(0, 1, (60, 3, 2))))
    capsys.readouterr()
    refused = clean(tmp_path, "vote_maj_f")
    assert refused["gate"]["refused"] and refused["actions"]["flip"] == 0
    assert "flips are refused" in capsys.readouterr().err
    rules = {line["rule"] for line in read(tmp_path / "vote_maj_f" / "ledger.jsonl")}
    assert any(rule.startswith("a minority of votes; the flip is refused") for rule in rules)
    assert (tmp_path / "vote_maj_f" / "cleaned.jsonl").read_text() == (tmp_path / "rows.jsonl").read_text()
    forced = clean(tmp_path, "vote_maj_f", "forced", force="true")
    assert forced["actions"]["flip"] == refused["gate"]["flips"] > 10
    assert "flipped by --force" in capsys.readouterr().err
    sac, drawn = clean(tmp_path, "sac")["actions"], clean(tmp_path, "random_r")["actions"]
    assert drawn["remove"] == sac["flip"] + sac["remove"]
    unknown = run("clean", tmp_path / "unknown", method="random_f", data__path=tmp_path / "rows.jsonl")
    assert unknown["gate"] == {"flips": 6, "estimated_precision": None, "doubtful": None, "refused": True}


def test_people_have_the_last_word(tmp_path, capsys):
    audit(tmp_path, pairs(40), wide(scores()), review=4)
    review = read(tmp_path / "audit" / "review.jsonl")
    assert len(review) == 4 and all(row["answer"] is None and row["prompt"] for row in review)
    probabilities = {row["id"]: row["label_probability"] for row in read(tmp_path / "audit" / "rows.jsonl")}
    least_sure = sorted(probabilities, key=lambda name: abs(probabilities[name] - 0.5))[:4]
    assert {row["id"] for row in review} == set(least_sure)
    answers = [{"id": "r1", "answer": "chosen"}, {"id": "r7", "answer": "rejected"}, {"id": "r8", "answer": "both_bad"},
               {"id": "r9", "answer": "tie"}, {"id": "r10", "answer": "chosen"}, {"id": "r10", "answer": "rejected"},
               {"id": "r11", "answer": None}]
    clean(tmp_path, "calibrated_f", answers=write(tmp_path / "answers.jsonl", answers))
    ledger = {line["id"]: line for line in read(tmp_path / "calibrated_f" / "ledger.jsonl")}
    assert [ledger[f"r{n}"]["action"] for n in (1, 5, 7, 8, 9, 10, 11)] == ["keep", "flip", "flip", "remove", "soft",
                                                                            "soft", "keep"]
    assert ledger["r9"]["value"] == 0.5 and ledger["r10"]["rule"] == "people: undecided"
    for answer, match in (({"id": "r1", "answer": "perhaps"}, "must be one of chosen"),
                          ({"id": "r1", "answer": True}, "must be one of chosen"),
                          ({"id": "other", "answer": "chosen"}, "no pair 'other'")):
        run("clean", tmp_path / "bad", expected=2, method="none", data__path=tmp_path / "rows.jsonl",
            answers=write(tmp_path / "bad.jsonl", [answer]))
        assert match in capsys.readouterr().err


def test_issues_of_the_data_check_are_dropped(tmp_path):
    rows = pairs(40)
    rows[3] = rows[2] | {"id": "r3"}
    audit(tmp_path, rows, wide(scores(wrong=())))
    assert clean(tmp_path, "none", drop='["duplicate"]')["actions"]["remove"] == 1
    assert "r3" not in {row["id"] for row in read(tmp_path / "none" / "cleaned.jsonl")}


def test_near_duplicates_are_dropped_where_that_is_wanted(tmp_path):
    rows = pairs(40)
    rows[3] = {name: f"{text.upper()} !" for name, text in rows[2].items()} | {"id": "r3"}
    assert audit(tmp_path, rows, wide(scores(wrong=())))["data"]["near_duplicates"]["rows"] == 1
    assert clean(tmp_path, "none", drop='["near_duplicate"]')["actions"]["remove"] == 1
    assert "r3" not in {row["id"] for row in read(tmp_path / "none" / "cleaned.jsonl")}


@pytest.mark.parametrize(("issue", "keys", "fix"), [
    ("near_duplicate", {"near_duplicates": "null"}, "--near_duplicates 0.8"), ("overlap", {}, "--compare FILE"),
    ("near_overlap", {}, "--compare FILE")])
def test_an_issue_that_the_audit_did_not_search_is_no_reason(tmp_path, capsys, issue, keys, fix):
    audit(tmp_path, pairs(10), wide(scores(10)), **keys)
    run("clean", tmp_path / "out", expected=2, method="none", drop=f'["{issue}"]', audit=tmp_path / "audit",
        data__path=tmp_path / "rows.jsonl")
    error = capsys.readouterr().err
    assert f"did not search {issue}" in error and fix in error and not (tmp_path / "out").exists()


def test_rows_of_a_test_set_are_dropped(tmp_path, capsys):
    audit(tmp_path, pairs(10), wide(scores(10)), compare=write(tmp_path / "test.jsonl", pairs(3)))
    (tmp_path / "truth.csv").write_text("id,flipped\n" + "".join(f"r{n},{n < 3}\n" for n in range(10)))
    result = clean(tmp_path, "none", drop='["overlap", "duplicate"]', truth=tmp_path / "truth.csv")
    assert result["actions"]["remove"] == 3 and result["dropped"] == {"overlap": 3, "duplicate": 0}
    assert result["rules"]["dropped: overlap"] == 3 and "3 overlap, 0 duplicate" in capsys.readouterr().err
    assert result["detection"]["detected"] == 0  # by the method


def test_detection_counts_what_is_flipped_or_removed(tmp_path):
    audit(tmp_path, pairs(40), wide(scores(wrong=(1, 5, 6))))
    truth = tmp_path / "truth.csv"
    truth.write_text("id,flipped\n" + "".join(f"r{n},{n in (1, 5, 20)}\n" for n in range(40)))
    result = clean(tmp_path, "vote_all_r", truth=truth)
    assert result["detection"] == {"true_positives": 2, "false_positives": 1, "false_negatives": 1, "flipped": 3,
                                   "detected": 3}
    assert result["precision"]["mean"] == pytest.approx(2 / 3) and result["recall"]["mean"] == pytest.approx(2 / 3)
    assert result["f1"]["mean"] == pytest.approx(2 / 3)
    # Of the pairs of a wrong and a right label; ties count one half.
    assert result["auroc"]["mean"] == pytest.approx((2 * (36 + 0.5) + 0.5 * 36) / (3 * 37))


def test_methods_for_all_pairs_are_ranked_by_the_value_that_they_set(tmp_path):
    audit(tmp_path, pairs(40), wide(scores(wrong=(1, 5, 6))))
    truth = write(tmp_path / "truth.jsonl", [{"id": f"r{n}", "flipped": n in (1, 5, 20)} for n in range(40)])
    auroc = {method: clean(tmp_path, method, truth=truth)["auroc"]["mean"] for method in (
        "none", "smooth", "vote_all_r", "soft_votes", "weight_votes", "calibrated_r", "soft_calibrated", "margins")}
    assert auroc["none"] is None and auroc["smooth"] is None
    assert auroc["soft_votes"] == auroc["weight_votes"] == auroc["vote_all_r"] > 0.5
    assert auroc["soft_calibrated"] == auroc["calibrated_r"] > 0.5 and auroc["margins"] > 0.5


def test_rows_for_kto_have_the_columns_of_their_pair(tmp_path):
    """Pairs without a common start of the answers have an empty prompt."""
    rows = [{"id": f"r{n}", "chosen": f"{n} yes", "rejected": f"no {n}", "weight": 2.0, "margin": 0.5, "label": "a",
             "domain": "helpful", "label_probability": 0.9} for n in range(40)]
    audit(tmp_path, rows, wide(scores()))
    clean(tmp_path, "vote_maj_r", action="unpaired")
    file = tmp_path / "vote_maj_r" / "cleaned_unpaired.jsonl"
    assert read(file)[0] == {"id": "r1/chosen", "prompt": "", "completion": "1 yes", "label": False, "weight": 2.0,
                             "domain": "helpful"}
    made = preference_rows(file, "unpaired", limit_bad=0.0).rows
    assert [(row.prompt, row.weight, row.label_probability) for row in made] == [("", 2.0, 1.0)] * 4


@pytest.mark.parametrize("value", ["true", "-0.5", '"easy"'])
def test_difficulties_are_numbers(tmp_path, capsys, value):
    file, lines = tmp_path / "ifd.jsonl", ['{"id": "r0", "chosen": 0.5, "rejected": null}\n']
    keys = {"method": "ifd_r", "ifd__path": file, "data__path": write(tmp_path / "rows.jsonl", pairs(3))}
    file.write_text("".join(lines))
    run("clean", tmp_path / "good", **keys)
    assert "2 pairs have no difficulty" in capsys.readouterr().err
    file.write_text("".join(lines) + f'{{"id": "r1", "chosen": {value}, "rejected": 0.5}}\n')
    run("clean", tmp_path / "bad", expected=2, **keys)
    assert "the difficulties of 'r1' must be numbers from 0" in capsys.readouterr().err


@pytest.mark.parametrize(("line", "message"), [
    ('{"id": "r1", "chosen": 0.5}', "ifd.jsonl:2: field 'rejected' of 'r1' is missing"),
    ('{"id": "other", "rejected": 0.5}', "ifd.jsonl:2: field 'chosen' of 'other' is missing"),
    ('{"id": "r0", "chosen": 0.5, "rejected": 0.5}', "ifd.jsonl:2: the id 'r0' occurs twice")])
def test_lines_of_difficulties_have_both_columns_and_one_id_each(tmp_path, capsys, line, message):
    file, rows = tmp_path / "ifd.jsonl", write(tmp_path / "rows.jsonl", pairs(3))
    file.write_text('{"id": "r0", "chosen": 0.5, "rejected": null}\n' + line + "\n")
    run("clean", tmp_path / "out", expected=2, method="ifd_r", ifd__path=file, data__path=rows)
    assert message in capsys.readouterr().err


def test_the_last_line_of_difficulties_may_have_no_end(tmp_path, capsys):
    file, rows = tmp_path / "ifd.jsonl", write(tmp_path / "rows.jsonl", pairs(3))
    file.write_text("\n".join(f'{{"id": "r{n}", "chosen": {0.9 - n / 10}, "rejected": 0.5}}' for n in range(3)))
    run("clean", tmp_path / "out", method="ifd_r", ifd__path=file, fraction=0.4, data__path=rows)
    assert [row["id"] for row in read(tmp_path / "out" / "cleaned.jsonl")] == ["r0", "r1"]
    assert "have no difficulty" not in capsys.readouterr().err
    file.write_text("no JSON\n")
    run("clean", tmp_path / "bad", expected=2, method="ifd_r", ifd__path=file, data__path=rows)
    assert "line 1 cannot be used: not valid JSON" in capsys.readouterr().err


def test_text_of_rows_stays_text_in_the_reports(tmp_path):
    """Also ids, members and domains."""
    hostile = "<script>alert(1)</script>\"><img src=x onerror=y>]]>"
    rows, votes = pairs(40), wide(scores(), [hostile, "b", "c"])
    rows[1] |= dict.fromkeys(("id", "prompt", "chosen", "domain"), hostile) | {"rejected": f"not {hostile}"}
    votes[1]["id"] = hostile
    audit(tmp_path, rows, votes)
    clean(tmp_path, "calibrated_f")
    for out, places in (("audit", 6), ("calibrated_f", 0)):
        page = (tmp_path / out / "report.html").read_text()
        assert "<script" not in page and "<img src=x" not in page and "]]>" not in page
        assert page.count("&lt;script&gt;alert(1)") >= places


def test_other_forms_and_files(tmp_path):
    """Scored lines make pairs with ids of their own; implicit prompts, compressed files."""
    rows = [{"id": "s", "prompt": "Question?", "completions": ["one", "two", "three"], "scores": [1, 3, 2],
             "domain": "helpful"},
            {"id": "i", "chosen": "\n\nHuman: hi\n\nAssistant: yes", "rejected": "\n\nHuman: hi\n\nAssistant: no"}]
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    votes = [{"id": name, "member": "m", "vote": vote} for name, vote in (("s/1-0", 1), ("s/1-2", -1), ("s/2-0", 1),
                                                                         ("i", -1))]
    scored = write(tmp_path / "scores.jsonl", votes)
    result = run("audit", tmp_path / "audit", data__path=path, committee__scores=scored)
    assert result["vote_histogram"] == [2, 2]
    run("clean", tmp_path / "out", data__path=path, audit=tmp_path / "audit", method="vote_maj_f", force="true")
    cleaned = {row["id"]: row for row in read(tmp_path / "out" / "cleaned.jsonl")}
    assert cleaned["s/1-2"] == {"id": "s/1-2", "prompt": "Question?", "chosen": "three", "rejected": "two",
                                "domain": "helpful"}
    assert cleaned["i"]["chosen"].endswith("no") and set(cleaned["i"]) == {"id", "chosen", "rejected"}


@pytest.mark.parametrize(("name", "hashed"), [("rows", {}), ("again", {"digest_of": 40})])
def test_each_pair_is_copied_once_and_hashed_where_the_file_is_another_one(tmp_path, monkeypatch, name, hashed):
    audit(tmp_path, pairs(40), wide(scores()))
    (tmp_path / "again.jsonl").write_text((tmp_path / "rows.jsonl").read_text() + "\n")
    calls = collections.Counter()
    for module, own_name in ((rewriting, "digest_of"), (ledger, "digest_of"), (rewriting, "columns_of")):
        own = getattr(module, own_name)
        monkeypatch.setattr(module, own_name,
                            lambda *args, own=own, own_name=own_name: calls.update([own_name]) or own(*args))
    run("clean", tmp_path / "out", method="sac", audit=tmp_path / "audit", data__path=tmp_path / f"{name}.jsonl")
    assert calls == {**hashed, "columns_of": 40}


@pytest.mark.parametrize("method", ["sac", "none", "soft_votes", "tag_cmp", "flipped"])
def test_large_files_give_the_same_in_blocks(tmp_path, monkeypatch, method):
    rows = [{**pair(number), "tags": [f"t{number % 7}"], "human_votes": [1] * (number % 3 == 0)}
            for number in range(120)]
    lines = [json.dumps(row, ensure_ascii=number % 2 == 0) for number, row in enumerate(rows)]
    lines[7:7] = ["no JSON", "", '{"id": "bad", "prompt": "Question?", "chosen": "same", "rejected": "same"}']
    lines.append(json.dumps({"id": "s", "prompt": "Question?", "completions": ["one", "two", "three"],
                             "scores": [1, 2, 3]}))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n")
    found = [{**row, "id": f"s/{n}-{m}"} for row, (n, m) in zip(wide(scores(3)), ((1, 0), (2, 0), (2, 1)), strict=True)]
    run("audit", tmp_path / "audit", data__path=tmp_path / "rows.jsonl",
        committee__scores=write(tmp_path / "scores.jsonl", wide(scores(120, wrong=range(0, 120, 9))) + found))
    keys = {"method": method} if method != "flipped" else {"method": "calibrated_f", "force": True, "drop": "duplicate"}
    files = []
    for name, size in (("whole", None), ("blocks", 2000)):
        if size is not None:
            monkeypatch.setattr(readers, "LARGE", 0)
            monkeypatch.setattr(readers, "BLOCK", size)
            monkeypatch.setattr(readers, "processes", lambda: 2)
        out = tmp_path / name
        run("clean", out, audit=tmp_path / "audit", data__path=tmp_path / "rows.jsonl", keep=20, **keys)
        files.append({path.name: path.read_bytes() for path in out.glob("*.jsonl")})
    assert files[0] == files[1] and len(files[0]["ledger.jsonl"].splitlines()) == 123
    assert len(files[0]["rejected.jsonl"].splitlines()) == 2


def test_runs_that_are_done_and_texts_that_are_not_shown(tmp_path, capsys):
    audit(tmp_path, pairs(40), wide(scores()))
    clean(tmp_path, "sac")
    captured = capsys.readouterr()
    for text in (captured.out, captured.err, (tmp_path / "audit" / "rows.jsonl").read_text(),
                 (tmp_path / "sac" / "ledger.jsonl").read_text(), (tmp_path / "sac" / "report.html").read_text()):
        assert "good answer" not in text and "Question" not in text
    page = (tmp_path / "audit" / "report.html").read_text()
    assert page.count("<details><summary>show</summary>PROMPT") == 40
    clean(tmp_path, "sac")
    assert "nothing was done" in capsys.readouterr().err
