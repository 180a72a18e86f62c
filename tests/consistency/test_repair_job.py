"""`jaxllm repair`: rows without contradictions, the audit, and rows to train on."""

import json

import numpy as np
import pytest

from jaxllm.cli import main
from jaxllm.consistency.repair import measure_rows
from tests.consistency.conftest import instances


def comparisons(rows, share=0.6, seed=0):
    """Comparisons of a share of all pairs, as people prefer."""
    rng, found = np.random.default_rng(seed), []
    for row in rows:
        count = len(row["items"])
        for i in range(count):
            for j in range(i + 1, count):
                if rng.random() < share:
                    first, second = (i, j) if rng.random() < 0.5 else (j, i)
                    winner = "first" if row["human"][first] > row["human"][second] else "second"
                    found.append({"instance": row["id"], "first": first, "second": second, "winner": winner})
    return found


@pytest.mark.parametrize("estimator", ["win_loss", "borda", "elo", "bradley_terry", "copeland", "rank_centrality",
                                       "schulze", "kemeny"])
def test_every_estimator_leaves_no_conflict(repair, estimator):
    rows = comparisons(instances(20, 8), 0.9)
    result = repair(rows, "--estimator", estimator, "--flip", 0.15)
    written = repair.rows()
    counts = measure_rows(written)
    assert counts["conflicting_pairs"] == counts["cyclic_instances"] == 0 and counts["first_slot"] == 0.5
    assert result["after"]["rows"] == len(written) and result["before"]["cycles"] > 0
    flipped = result["flipped"]
    assert flipped["flipped"] == round(0.15 * len(rows)) and flipped["right_before"] == pytest.approx(0.85, abs=0.001)
    # With one comparison of a pair, both of these trust a surprising win over the best item too much.
    assert flipped["right_after"] > (0.8 if estimator in ("rank_centrality", "elo") else 0.86)
    assert flipped["restored"] + flipped["left_flipped"] <= flipped["flipped"]
    assert len(repair.rows("audit.jsonl")) == len(repair.rows("noisy.jsonl")) == len(rows)
    assert {row["evidence"] for row in written} <= {"observed", "inferred", "overturned"}
    assert all(row["margin"] > 0 for row in written)


def test_negations_double_the_rows_and_name_the_other_item(repair):
    rows = comparisons(instances(3, 5))
    single = repair(rows, "--both_orders", "false")["after"]["rows"]
    assert repair(rows)["after"]["rows"] == 2 * single
    result = repair(rows, "--negations", "true")
    assert result["after"]["rows"] == 4 * single
    for original, negated in zip(repair.rows()[::2], repair.rows()[1::2], strict=True):
        assert (original["relation"], negated["relation"]) == ("original", "negated")
        assert original["winner"] != negated["winner"] and original["first"] == negated["first"]


@pytest.mark.parametrize("kind", ["sft", "preference"])
@pytest.mark.parametrize("form", ["chat", "plain"])
def test_exported_rows(repair, tmp_path, kind, form):
    items = [{key: row[key] for key in ("id", "context", "items")} for row in instances(3, 5)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    result = repair(comparisons(instances(3, 5)), "--negations", "true", "--items.path", tmp_path / "items.jsonl",
                    "--export", kind, "--format", form, "--rows", 12, "--template", "coherence")
    exported = repair.rows("export.jsonl")
    assert result["exported"] == len(exported) == 12
    human = {row["id"]: row["human"] for row in instances(3, 5)}
    for row in exported:
        name, first, second, *negated = row["id"].split("/")
        prompt, answer = row["prompt"], row["completion" if kind == "sft" else "chosen"]
        if form == "chat":
            prompt, answer = prompt[0]["content"], answer[0]["content"]
        else:
            assert prompt.endswith("\n\nAnswer:") and answer[0] == " "
        assert ("less coherent" in prompt) == bool(negated)
        shown = [f"number {human[name][int(number)]}\n" for number in (first, second)]
        assert prompt.index(shown[0]) < prompt.rindex(shown[1])
        better = human[name][int(first)] > human[name][int(second)]
        assert answer.strip() == ("A" if better != bool(negated) else "B")
    assert main(["check", str(repair.out / "export.jsonl"), "--out", str(tmp_path / "checked"), "--model", "tiny"]) == 0
    assert json.loads((tmp_path / "checked" / "result.json").read_text())["rejected"] == 0


@pytest.mark.slow
def test_exported_rows_train_for_one_step(repair, tmp_path):
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, instances(3, 5))))
    for kind, method in (("sft", "sft"), ("preference", "dpo")):
        repair(comparisons(instances(3, 5)), "--items.path", tmp_path / "items.jsonl", "--export", kind, "--format",
               "plain")
        assert main(["tune", "--method", method, "--model", "tiny", "--data.path", str(repair.out / "export.jsonl"),
                     "--train.steps", "1", "--train.epochs", "null", "--train.batch_size", "2",
                     "--out", str(tmp_path / f"tuned_{kind}")]) == 0


def test_names_of_items(repair, tmp_path, capsys):
    items = [{"id": "x", "items": ["red", "blue", "7", "0", "1"]}]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    options = ["--items.path", tmp_path / "items.jsonl", "--export", "sft", "--format", "plain"]
    repair([{"instance": "x", "first": "red", "second": "blue", "winner": "second"}], *options)
    first = repair.rows("export.jsonl")[0]
    assert first["id"] == "x/0/1" and first["completion"] == " B"
    repair([{"instance": "x", "first": "7", "second": 3, "winner": "first"}], *options)
    assert [row["id"] for row in repair.rows("export.jsonl")] == ["x/2/3", "x/3/2"]
    for row, reason in (({"first": "red", "second": "green"}, "instance 'x' has no item 'green'"),
                        ({"first": "1", "second": 2}, "'1' may be any of the items [1, 4]"),
                        ({"first": "red", "second": 0}, "an item is compared with itself"),
                        ({"instance": "y", "first": 0, "second": 1}, "no items of the instance 'y'")):
        assert repair([{"instance": "x", "winner": "first", **row}], *options) is None
        assert reason in capsys.readouterr().err


def test_items_that_cannot_be_used_are_reported(repair, tmp_path, capsys):
    items = [{"id": f"x{number}", "items": ["a", "" if number == 3 else "b"]} for number in range(10)]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    own = [{"instance": f"x{number}", "first": "a", "second": 1, "winner": "first"} for number in range(10)]
    result = repair(own, "--items.path", tmp_path / "items.jsonl")
    assert result["rejected"] == result["rejected_items"] == 1 and result["before"]["rows"] == 9
    lost, unused = repair.rows("rejected.jsonl")
    assert lost["file"].endswith("items.jsonl") and lost["line"] == 4 and lost["reason"] == "item 1 is empty"
    assert unused["line"] == 4 and unused["reason"] == "there are no items of the instance 'x3' that can be used"
    assert "1 rows of items cannot be used" in capsys.readouterr().err


def test_agreement_with_people_before_and_after(repair, tmp_path):
    """C over A is the only label that people do not share; they do not decide between B and D."""
    items = [{"id": "x", "items": list("ABCD"), "human": [3, 2, 1, 2]}]
    (tmp_path / "items.jsonl").write_text("\n".join(map(json.dumps, items)))
    own = [{"instance": "x", "first": first, "second": second, "winner": "first"} for first, second in
           ("AB", "BC", "CA", "AD", "BD", "DC", "AC", "AC")]
    result = repair(own, "--items.path", tmp_path / "items.jsonl")
    assert result["before"]["human_agreement"] == 6 / 7 and result["after"]["human_agreement"] == 1
    assert repair(own)["after"]["human_agreement"] is None


def test_rows_that_are_no_comparisons(repair):
    good = comparisons(instances(6, 6))
    bad = [{"instance": "i0", "first": 1, "second": 1, "winner": "first"},
           {"instance": "i0", "first": 0, "second": 1, "winner": "A"}, {"instance": "i0", "first": 0}]
    result = repair([*good, *bad])
    assert result["rejected"] == 3 and result["before"]["rows"] == len(good)
    reasons = [row["reason"] for row in repair.rows("rejected.jsonl")]
    for reason, expected in zip(reasons, ("compared with itself", "not first, second or tie", "'second'"), strict=True):
        assert expected in reason


def test_columns_that_json_has_no_form_for(tmp_path):
    rows = [row | {"note": float("nan")} for row in comparisons(instances(4, 6), 0.9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["repair", f"--data.path={tmp_path}/rows.jsonl", f"--out={tmp_path}/out", "--flip=0.2"]) == 0
    noisy = [json.loads(line) for line in (tmp_path / "out" / "noisy.jsonl").read_text().splitlines()]
    assert [row["note"] for row in noisy] == [None] * len(rows)


def test_contradictory_answers(repair):
    rows = comparisons(instances(4, 5), 1.0)
    turned = {"first": "second", "second": "first"}
    rows.append({**rows[0], "winner": turned[rows[0]["winner"]]})
    assert repair(rows)["rejected"] == 0
    result = repair(rows, "--contradictory", "reject")
    assert result["rejected"] == 2 and "contradictory" in repair.rows("rejected.jsonl")[0]["reason"]


def test_only_ties(repair, capsys):
    result = repair([{"instance": "x", "first": 0, "second": 1, "winner": "tie"}])
    assert result["after"]["rows"] == 0 and result["overturned_share"] is None
    assert "no comparison is left" in capsys.readouterr().err


@pytest.mark.parametrize(("options", "reason"), [
    (["--flip", 1.5], "between 0 and 1"), (["--export", "sft"], "it has the texts"), (["--rows", 3], "set export"),
    (["--permutations", 3], "does not apply to win_loss"), (["--prior", 1], "does not apply to win_loss"),
    (["--template", "coherence"], "set export"), (["--format", "plain"], "set export"),
    (["--estimator", "swiss"], "win_loss"), (["--min_margin", -1], "0 or more")])
def test_wrong_settings(repair, capsys, options, reason):
    assert repair(comparisons(instances(1)), *options) is None
    assert reason in capsys.readouterr().err and repair.status == 2


def test_names_stay_text_in_the_report(repair):
    hostile = "<script>alert(1)</script>\"><img src=x onerror=y>]]>"
    names = [f"{hostile}{number}" for number in range(3)]
    row = lambda first, second: {"instance": hostile, "first": names[first], "second": names[second], "winner": "first"}
    repair([row(0, 1), row(1, 2), *[row(0, 2)] * 2, row(2, 0)])
    page = (repair.out / "report.html").read_text()
    assert "Overturned comparisons" in page and page.count("&lt;script&gt;alert(1)") >= 4
    assert "<script" not in page and "<img src=x" not in page and "]]>" not in page
