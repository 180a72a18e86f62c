"""Verdicts, samples, runs and protocols of `jaxllm judge`, on recorded answers."""

import json

import numpy as np
import pytest

from jaxllm.cli import main
from jaxllm.codejudge import Config, Item, load_prompts
from jaxllm.codejudge.pairs import pair_measures, pair_prompt, pairs_of
from jaxllm.files import read_jsonl
from tests.codejudge.recorded import direct, programs, recorded, right

CONTRACT = ["id", "verdict", "score", "probability", "mass", "valid", "reason", "faults", "texts", "attempts", "tokens"]


# ---- methods -----------------------------------------------------------------------------------------------

def test_direct(files):
    answers = [row | {"probabilities": {"Yes": 0.6, " yes": 0.1, "No": 0.2}} for row in direct()]
    result, rows = files.run(answers, "--method", "direct")
    assert [list(row)[:len(CONTRACT) - 1] for row in rows] == [CONTRACT[:-1]] * 8 and "tokens" in rows[0]
    assert [row["id"] for row in rows] == [row["id"] for row in programs()]
    assert [row["verdict"] for row in rows] == [True, False, True, False, False, False, True, False]
    assert rows[0]["texts"] == {"direct": ["Yes"]} and [row["score"] for row in rows[:2]] == [1.0, 0.0]
    assert rows[0]["probability"] == pytest.approx(7 / 9) and rows[0]["mass"] == pytest.approx(0.9)
    assert rows[0]["faults"] is None and rows[0]["tokens"] == {"prompt": None, "completion": None}
    assert [result[name]["mean"] for name in ("accuracy", "recall", "precision")] == [7 / 8, 3 / 4, 1]
    assert result["n"] == result["n_valid"] == 8 and result["invalid_rate"] == 0 and result["n_groups_valid"] == 4
    assert result["by_language"]["go"]["accuracy"]["mean"] == 3 / 4 and result["protocol"] == "pooled"
    assert result["kendall"]["mean"] == pytest.approx(result["mcc"]["mean"]) == pytest.approx(
        result["spearman"]["mean"])
    assert result["calibration"]["ece"] == pytest.approx(abs(7 / 9 - 4 / 8))
    assert result["anchors"]["always_no"]["accuracy"]["mean"] == 0.5


def test_without_probabilities(files):
    result, rows = files.run(direct(), "--method", "direct")
    assert {row["probability"] for row in rows} == {None} == {row["mass"] for row in rows}
    assert result["calibration"] == {"ece": None, "bins": [], "reason": "no row has a probability"}


def test_analyze_then_summarize(files):
    answers = recorded("analyze", lambda row: f"It is {'right' if right(row) else 'wrong'}.") + recorded(
        "summarize", lambda row: "Yes." if right(row) else "No.")
    result, rows = files.run(answers)
    assert result["method"] == "analyze_then_summarize" and result["accuracy"]["mean"] == 7 / 8
    assert rows[0]["texts"] == {"analyze": ["It is right."], "summarize": ["Yes."]}
    lines = read_jsonl(files.out / "summarize.jsonl")
    assert [line["id"] for line in lines] == [f"{row['id']}/summarize" for row in programs()]


def test_an_empty_analysis_is_invalid(files):
    answers = recorded("analyze", lambda row: " " if row["id"] == "a0" else "Fine.") + recorded(
        "summarize", lambda row: "Yes")
    result, rows = files.run(answers)
    assert rows[0]["valid"] is False and rows[0]["verdict"] is None and "analysis cannot be used: it is empty" in (
        rows[0]["reason"])
    assert rows[0]["texts"] == {"analyze": [" "], "summarize": [None]} and result["invalid_rate"] == 1 / 8


def test_fault_localization(files):
    faults = {"a0": [], "a1": ["Major"], "b0": ["Small"], "b1": ["Fatal", "Small"]}
    answers = recorded("faults", lambda row: json.dumps(
        [{"inconsistency": "x", "severity": one} for one in faults.get(row["id"], ["Critical"])]))
    result, rows = files.run(answers, "--method", "fault_localization", "--parser", "strict")
    assert [row["score"] for row in rows] == [1.0, 0.5, 0.95, 0.0] + [None] * 4
    assert [row["verdict"] for row in rows] == [True, False, False, False] + [None] * 4
    assert rows[3]["faults"] == [{"inconsistency": "x", "severity": "Fatal", "inferred": False},
                                 {"inconsistency": "x", "severity": "Small", "inferred": False}]
    assert rows[0]["faults"] == [] and rows[4]["faults"] is None and "Negligible, Small" in rows[4]["reason"]
    assert result["invalid_rate"] == 0.5 and result["accuracy"]["n"] == 4
    result, rows = files.run(answers, "--method", "fault_localization", "--parser", "compat")
    assert [row["score"] for row in rows] == [None, 0.5, 0.95, 0.0] + [1.0] * 4
    _, rows = files.run(answers, "--method", "fault_localization", "--threshold", "0.9", "--weights.Small", "20")
    assert [row["score"] for row in rows[:4]] == [1.0, 0.5, 0.8, 0.0] and rows[2]["verdict"] is False


def test_grades_and_ratings(files):
    answers = recorded("ice_score", lambda row: "Score: 3" if row["label"] else "1",
                       probabilities={"3": 0.3, " 3": 0.2, "4": 0.1, " 4": 0.25})
    _, rows = files.run(answers, "--method", "ice_score")
    assert rows[0]["score"] == 0.75 and rows[0]["verdict"] is False and rows[1]["score"] == 0.25
    assert rows[0]["probability"] == pytest.approx(0.852941, abs=1e-6) and rows[0]["mass"] == pytest.approx(0.85)
    answers = recorded("helpfulness", lambda row: "85%")
    _, rows = files.run(answers, "--method", "helpfulness")
    assert rows[0]["score"] == 0.85 and rows[0]["verdict"] is None and rows[0]["valid"]
    assert rows[0]["probability"] is None
    _, rows = files.run(answers, "--method", "helpfulness", "--threshold", "0.5")
    assert rows[0]["verdict"] is True
    _, rows = files.run(answers + recorded("analyze", lambda row: "Good."), "--method", "analyze_then_rate")
    assert rows[0]["score"] == 0.85 and rows[0]["texts"] == {"analyze": ["Good."], "helpfulness": ["85%"]}


def test_the_verdict_from_the_probability(files):
    answers = direct(probabilities={"Yes": 0.3, "No": 0.2})
    _, rows = files.run(answers, "--method", "direct", "--decide", "probability")
    assert {row["verdict"] for row in rows} == {True} and rows[0]["score"] == pytest.approx(0.6)
    assert rows[0]["texts"] == {}
    _, rows = files.run(answers, "--method", "direct", "--decide", "probability", "--threshold", "0.7")
    assert {row["verdict"] for row in rows} == {False}


# ---- samples, runs, retries --------------------------------------------------------------------------------

def test_votes(files):
    votes = {"a0": ["Yes", "No", "?", "?"], "a1": ["Yes", "?", "?", "?"], "b0": ["Yes", "Yes", "No", "?"],
             "b1": ["No"] * 4}
    answers = recorded("direct", lambda row: votes.get(row["id"], ["?"] * 4))
    result, rows = files.run(answers, "--method", "direct", "--samples", "4", "--attempts", "1")
    assert [row["verdict"] for row in rows] == [None, True, True, False] + [None] * 4
    assert rows[0]["reason"].startswith("tie") and rows[0]["valid"] and rows[0]["score"] == 0.5
    assert result["invalid_rate"] == 0.5 and result["accuracy"]["n"] == 3 and result["kendall"]["n"] == 4
    assert [row["valid_samples"] for row in rows[:4]] == [2, 1, 3, 4]
    assert [row["agreement"] for row in rows[1:4]] == [1.0, pytest.approx(2 / 3), 1.0]
    assert rows[2]["score"] == pytest.approx(2 / 3) and len(rows[2]["texts"]["direct"]) == 4
    assert result["agreement"] == pytest.approx(np.mean([0.5, 1, 2 / 3, 1]))


def test_runs_have_samples_of_their_own(files):
    answers = recorded("direct", lambda row: ["Yes" if row["label"] else "No", "No", "Yes"])
    result, rows = files.run(answers, "--method", "direct", "--runs", "3")
    assert [run_["verdict"] for run_ in rows[0]["runs"]] == [True, False, True] and rows[0]["verdict"] is True
    assert result["runs"]["accuracy"]["values"] == [1.0, 0.5, 0.5]
    assert result["runs"]["accuracy"]["std"] == pytest.approx(np.std([1, 0.5, 0.5]))
    assert result["accuracy"]["mean"] == pytest.approx(2 / 3) and result["accuracy"]["n"] == 8


def test_samples_of_two_steps_are_paired(files):
    answers = recorded("analyze", lambda row: ["first", "", "third"]) + recorded(
        "summarize", lambda row: ["Yes", "never", "No"])
    _, rows = files.run(answers, "--samples", "3", "--attempts", "1")
    assert rows[0]["values"] == [True, None, False] and rows[0]["texts"]["summarize"] == ["Yes", None, "No"]
    assert rows[0]["verdict"] is None and rows[0]["reason"].startswith("tie")


def test_retries_of_two_steps_are_paired(files):
    answers = recorded("analyze", lambda row: ["first", "second", "third"]) + recorded(
        "summarize", lambda row: ["?"] * 3) + recorded("summarize/retry1", lambda row: ["Yes", "No", "No"])
    _, rows = files.run(answers, "--samples", "3")
    assert rows[0]["values"] == [True, False, False] and rows[0]["texts"]["summarize"] == ["Yes", "No", "No"]


def test_an_answer_is_generated_anew_with_the_reason(files):
    answers = recorded("direct", lambda row: "Perhaps.") + recorded("direct/retry1", lambda row: "Who knows?") + [
        {"id": "a0/direct/retry2", "texts": ["Yes"]}]
    result, rows = files.run(answers, "--method", "direct")
    assert rows[0]["verdict"] is True and rows[0]["attempts"] == 3 and rows[0]["texts"] == {"direct": ["Yes"]}
    assert rows[1]["verdict"] is None and rows[1]["attempts"] == 2 and "neither Yes nor No" in rows[1]["reason"]
    assert result["attempts"] == {"2": 7, "3": 1}
    _, rows = files.run(answers, "--method", "direct", "--attempts", "1")
    assert rows[0]["verdict"] is None and rows[0]["attempts"] == 1


@pytest.mark.parametrize(("policy", "accuracy", "n", "kendall_n"), [
    ("drop", 4 / 5, 5, 5), ("wrong", 4 / 8, 8, 5), ("opposite", 4 / 8, 8, 8), ("zero", 6 / 8, 8, 8)])
def test_policies_for_invalid_answers(files, policy, accuracy, n, kendall_n):
    spoken = {"a0": "?", "b1": "?", "c0": "?"}
    result, _ = files.run(recorded("direct", lambda row: spoken.get(row["id"], "Yes" if right(row) else "No")),
                          "--method", "direct", "--invalid_policy", policy, "--attempts", "1")
    assert result["accuracy"]["mean"] == pytest.approx(accuracy) and result["accuracy"]["n"] == n
    assert result["kendall"]["n"] == kendall_n and result["invalid_rate"] == 3 / 8 and result["n_valid"] == 5


@pytest.mark.parametrize(("protocol", "policy", "accuracy"), [
    ("pooled", "drop", 4 / 5), ("apps", "wrong", 4 / 8), ("bigcodebench", "opposite", 4 / 8),
    ("conala", "zero", 6 / 8)])
def test_the_policy_of_a_protocol(files, protocol, policy, accuracy):
    spoken = {"a0": "?", "b1": "?", "c0": "?"}
    result, _ = files.run(recorded("direct", lambda row: spoken.get(row["id"], "Yes" if right(row) else "No")),
                          "--method", "direct", "--protocol", protocol, "--attempts", "1")
    assert result["invalid_policy"] == policy and result["accuracy"]["mean"] == pytest.approx(accuracy)
    assert result["invalid_policy_from"] == "protocol"


@pytest.mark.parametrize(("dataset", "accuracy"), [
    ("HumanEval-X", (2 / 2 + 2 / 3) / 2), ("apps", 4 / 5), ("bigcodebench", 4 / 5), ("conala", 4 / 5)])
def test_invalid_answers_are_left_out_whichever_data_set_the_rows_name(files, dataset, accuracy):
    spoken = {"a0": "?", "b1": "?", "c0": "?"}
    answers = recorded("direct", lambda row: spoken.get(row["id"], "Yes" if right(row) else "No"))
    result, _ = files.run(answers, "--method", "direct", "--attempts", "1", rows=programs(dataset=dataset))
    assert result["protocol"] == dataset.lower().replace("-", "") and result["invalid_policy"] == "drop"
    assert result["invalid_policy_from"] == "default" and result["n"] == 8 and result["n_valid"] == 5
    assert result["accuracy"]["mean"] == pytest.approx(accuracy) and result["accuracy"]["n"] == 5
    assert result["kendall"]["n"] == 5 and result["by_language"]["go"]["accuracy"]["n"] == 3
    assert "answers are invalid; they are left out of the measures." in (files.out / "report.html").read_text()


@pytest.mark.parametrize("options", [["--protocol", "humanevalx"], ["--invalid_policy", "zero"]])
def test_ratings_without_a_threshold_have_no_verdict_by_any_policy(files, options):
    answers = recorded("helpfulness", lambda row: "?" if row["id"] == "a0" else "85")
    files.run(answers, "--method", "helpfulness", *options, out="other")
    result, _ = files.run(answers, "--method", "helpfulness", *options)
    for own in (result, result["by_language"]["python"]):
        assert own["accuracy"]["mean"] is None and own["accuracy"]["n"] == 0
    assert result["accepted"] is None and result["by_language"]["go"]["accuracy"]["reason"] == \
        "no row with a label has a verdict"
    result, _ = files.run(answers, "--method", "helpfulness", "--threshold", "0.8", *options, "--compare",
                          str(files.folder / "other"))
    assert result["accuracy"]["n"] == 8 and result["compared"]["accuracy"]["reason"] == "no row has both verdicts"


def test_even_splits_are_no_verdicts_of_labels(files):
    result, _ = files.run(recorded("direct", lambda row: ["Yes", "No"]), "--method", "direct", "--samples", "2")
    assert result["accuracy"]["reason"] == "no row with a label has a verdict" and result["accepted"]["mean"] == 0.0


def test_differences_between_runs_leave_invalid_answers_out_by_default(files):
    rows, options = programs(dataset="HumanEval-X"), ["--method", "direct", "--attempts", "1"]
    files.run(direct(), *options, rows=rows, out="other")
    answers = recorded("direct", lambda row: "?" if row["id"] == "a0" else "Yes" if right(row) else "No")
    for named, n, difference in (([], 7, 0.0), (["--protocol", "humanevalx"], 8, -1 / 8)):
        result, _ = files.run(answers, *options, *named, "--compare", str(files.folder / "other"), rows=rows)
        own = result["compared"]["accuracy"]
        assert own["n"] == n and own["mean"] == pytest.approx(difference)
    # A language without valid answers is not left out of the mean over languages.
    answers = recorded("direct", lambda row: "?" if row["language"] == "go" else "Yes" if right(row) else "No")
    result, _ = files.run(answers, *options, "--compare", str(files.folder / "other"), rows=rows)
    own = result["compared"]["accuracy"]
    assert own["n"] == 4 and own["mean"] is None and "go, run 1: there are no rows" in own["reason"]


# ---- protocols ---------------------------------------------------------------------------------------------

def test_humanevalx_takes_the_mean_over_languages(files):
    spoken = {"a0": "No", "b0": "No"}  # python: 2 of 4 right, go: 3 of 4 right
    answers = recorded("direct", lambda row: spoken.get(row["id"], "Yes" if right(row) else "No"))
    result, _ = files.run(answers, "--method", "direct", rows=programs(dataset="HumanEval-X")[:7])
    assert result["protocol"] == "humanevalx"
    assert result["accuracy"]["mean"] == pytest.approx((2 / 4 + 3 / 3) / 2)
    assert result["pooled"]["accuracy"]["mean"] == pytest.approx(5 / 7)
    result, _ = files.run(answers, "--method", "direct", "--protocol", "pooled",
                          rows=programs(dataset="HumanEval-X")[:7])
    assert result["accuracy"]["mean"] == pytest.approx(5 / 7) and "pooled" not in result


def test_conala_correlates_within_requests(files):
    grades = {"a": (0, 4), "b": (2, 2), "c": (1, 3), "d": (0, 4)}
    rows = [{name: value for name, value in row.items() if name != "label"} | {
        "dataset": "conala", "grade": grades[row["group"]][int(row["id"][1])]} for row in programs()]
    rating = {"a0": 10, "a1": 90, "c0": 60, "c1": 40, "d0": 5, "d1": 5}
    answers = [{"id": f"{row['id']}/helpfulness", "texts": [str(rating.get(row["id"], 50))]} for row in rows]
    result, _ = files.run(answers, "--method", "helpfulness", rows=rows)
    assert result["protocol"] == "conala" and result["n_groups_valid"] == 2
    assert result["kendall"]["mean"] == 0.0 and result["kendall"]["mean_with_zeros"] == 0.0
    assert result["accuracy"]["mean"] is None and result["accuracy"]["reason"] == "no row has a label"
    result, _ = files.run(answers, "--method", "helpfulness", "--protocol", "pooled", rows=rows)
    assert result["kendall"]["n"] == 8


def requests():
    return [{name: value for name, value in row.items() if name != "label"} | {
        "dataset": "conala", "grade": 4 * int(row["id"][1])} for row in programs()]


def test_requests_without_a_valid_answer_count_as_zero(files):
    answers = [{"id": f"{row['id']}/helpfulness", "texts": [str(10 + 80 * (row["id"] == "a1")) if row["group"] == "a"
                                                            else "?"]} for row in requests()]
    for policy in ("drop", "zero"):
        result, _ = files.run(answers, "--method", "helpfulness", "--attempts", "1", "--invalid_policy", policy,
                              rows=requests())
        own = result["kendall"]
        assert (own["mean"], own["n"], own["valid"], own["mean_with_zeros"]) == (1.0, 4, 1, 0.25)


def test_runs_on_requests(files):
    rows, texts = requests()[:4], {"a0": [10, 10, 10], "a1": [90, 90, 90], "b0": [50, 50, 90], "b1": [50, 50, 10]}
    result, _ = files.run([{"id": f"{name}/helpfulness", "texts": list(map(str, own))} for name, own in texts.items()],
                          "--method", "helpfulness", "--runs", "3", rows=rows)
    assert result["runs"]["kendall"]["values"] == [1.0, 1.0, 0.0]
    assert result["kendall"]["mean"] == pytest.approx(2 / 3) == result["runs"]["kendall"]["mean"]
    assert result["kendall"]["mean_with_zeros"] == pytest.approx(1 / 3)


def test_the_shorter_program_by_the_protocol(files):
    rows = [row | {"candidate": "x" * (9 - 4 * row["label"] if row["language"] == "python" else 3 + row["label"])}
            for row in programs(dataset="HumanEval-X")]
    result, _ = files.run(direct(), "--method", "direct", rows=rows)
    assert result["anchors"]["shorter"]["auroc"]["mean"] == 0.5  # 1 of Python, 0 of Go


def test_the_shorter_program_of_a_request(files):
    rows = [row | {"candidate": "x" * (9 - row["grade"])} for row in requests()]
    answers = [{"id": f"{row['id']}/helpfulness", "texts": ["50"]} for row in rows]
    result, _ = files.run(answers, "--method", "helpfulness", rows=rows)
    assert result["anchors"]["shorter"]["kendall"]["mean"] == 1.0 and "always_no" not in result["anchors"]
    assert "shorter is right" in (files.out / "report.html").read_text()


def test_a_threshold_of_expected_grades(files):
    rows = [row | {"subset": "validation" if row["group"] in "ab" else "test"} for row in programs()]
    answers = [{"id": f"{row['id']}/ice_score", "texts": ["3"], "probabilities": {
        "4": 0.2 + 0.6 * row["label"], "0": 0.8 - 0.6 * row["label"]}} for row in rows]
    result, _ = files.run(answers, "--method", "ice_score", "--validation.subset", "validation", rows=rows)
    assert result["fitted"]["threshold"] == pytest.approx(0.5) and result["fitted"]["temperature"] is None
    assert "ece" not in result["fitted"] and "Fitted on validation rows" in (files.out / "report.html").read_text()


def test_a_threshold_is_fitted_on_other_groups(files):
    rows = [row | {"subset": "validation" if row["group"] in "ab" else "test"} for row in programs()]
    shares = {"a0": 0.4, "a1": 0.1, "b0": 0.35, "b1": 0.2, "c0": 0.25, "c1": 0.05, "d0": 0.3, "d1": 0.45}
    answers = [{"id": f"{name}/direct", "texts": ["No"], "probabilities": {"Yes": share, "No": 1 - share}}
               for name, share in shares.items()]
    result, kept = files.run(answers, "--method", "direct", "--validation.subset", "validation", rows=rows)
    assert result["fitted"]["threshold"] == pytest.approx(0.275) and result["fitted"]["accuracy"]["mean"] == 1.0
    assert result["fitted"]["n_validation"] == result["n"] == 4 and len(kept) == 8
    assert result["accuracy"]["mean"] == 0.5 and result["fitted"]["temperature"] > 0
    result, _ = files.run(answers, "--method", "direct", "--validation.share", "0.5", rows=rows)
    assert result["fitted"]["groups_validation"] == 2


def test_a_group_is_validation_as_a_whole(files):
    rows = [row | {"subset": "validation" if row["id"] == "a0" else "test"} for row in programs()]
    result, _ = files.run(direct(), "--method", "direct", "--validation.subset", "validation", rows=rows)
    assert result["n"] == 6 and result["fitted"]["groups_validation"] == 1


def test_comparison_of_two_runs(files):
    files.run(recorded("direct", lambda row: "No"), "--method", "direct", out="other")
    result, _ = files.run(direct(), "--method", "direct", "--compare", str(files.folder / "other"))
    assert result["compared"]["n"] == 8 and result["compared"]["accuracy"]["mean"] == pytest.approx(7 / 8 - 4 / 8)
    kendall = result["compared"]["kendall"]
    assert kendall["mean"] is None and "scores are equal" in kendall["reason"]
    assert "None" not in kendall["reason"]
    rows = [{name: value for name, value in row.items() if name != "label"} for row in programs()]
    files.run(direct(), "--method", "direct", rows=rows, out="unlabelled")
    result, _ = files.run(direct(), "--method", "direct", "--compare", str(files.folder / "unlabelled"), rows=rows)
    assert result["compared"]["accuracy"]["reason"] == "no row with a label or a grade is in both runs"


def test_comparison_of_labels_on_requests(files):
    rows = programs(dataset="conala")
    files.run(recorded("direct", lambda row: "No"), "--method", "direct", rows=rows, out="other")
    result, _ = files.run(direct(), "--method", "direct", "--compare", str(files.folder / "other"), rows=rows)
    assert result["compared"]["accuracy"]["mean"] == pytest.approx(7 / 8 - 4 / 8)


def test_comparison_of_several_runs(files):
    files.run(recorded("direct", lambda row: "No"), "--method", "direct", out="other")
    answers = recorded("direct", lambda row: ["Yes", "No"] if row["label"] else ["No", "Yes"])
    result, _ = files.run(answers, "--method", "direct", "--runs", "2", "--compare", str(files.folder / "other"))
    assert result["compared"]["accuracy"]["mean"] == 0.0 and result["compared"]["accuracy"]["n"] == 8
    result, _ = files.run(recorded("direct", lambda row: ["Yes", "No"]), "--method", "direct", "--runs", "2")
    assert result["accepted"]["mean"] == 0.5


def test_comparison_with_other_rows_is_refused(files, capsys):
    rows = [row | {"label": 1 - row["label"]} for row in programs()]
    files.run(direct(), "--method", "direct", rows=rows, out="other")
    files.run(direct(), "--method", "direct", "--compare", str(files.folder / "other"))
    assert files.status == 2 and "the row 'a0' has the label 0 there, and 1 here" in capsys.readouterr().err
    assert not (files.out / "direct.jsonl").exists()
    files.run(direct(), "--method", "direct", "--compare", str(files.folder / "other"),
              rows=[row | {"id": f"new {row['id']}"} for row in programs()])
    assert files.status == 2 and "none of its rows has the id of a row here" in capsys.readouterr().err


def test_robustness(files):
    flips = {"a0/rename": "No", "b0/praise": "No"}
    answers = direct() + [{"id": f"{row['id']}/{edit}/direct",
                           "texts": [flips.get(f"{row['id']}/{edit}", "Yes" if right(row) else "No")]}
                          for row in programs() for edit in ("rename", "praise")]
    result, rows = files.run(answers, "--method", "direct", "--robustness", "rename", "praise")
    assert len(rows) == 8 and result["robustness"]["praise"]["flip_rate"]["mean"] == 1 / 8
    assert result["robustness"]["rename"]["n"] == 4 and result["robustness"]["rename"]["keeps_meaning"] is True
    assert {row["edit"] for row in read_jsonl(files.out / "robustness.jsonl")} == {"rename", "praise"}


def test_a_row_without_any_answer_in_several_runs(files):
    answers = [row for row in recorded("direct", lambda row: ["Yes", "No"]) if row["id"] != "a0/direct"]
    result, rows = files.run(answers, "--method", "direct", "--runs", "2")
    assert [len(row["runs"]) for row in rows] == [2] * 8 and rows[0]["runs"][1]["valid"] is False
    assert result["accuracy"]["n"] == 7 and result["invalid_rate"] == 1 / 8


def test_samples_of_scores_vote(files):
    lists = [[], [], [], [], ["Small"]]
    answers = recorded("faults", lambda row: [json.dumps(
        [{"inconsistency": "x", "severity": one} for one in own]) for own in lists])
    _, rows = files.run(answers, "--method", "fault_localization", "--samples", "5")
    assert rows[0]["verdict"] is True and rows[0]["score"] == pytest.approx(0.99) and rows[0]["agreement"] == 0.8


def test_an_even_split_of_scores_has_their_mean(files):
    lists = [[], ["Small"]]
    answers = recorded("faults", lambda row: [json.dumps(
        [{"inconsistency": "x", "severity": one} for one in own]) for own in lists])
    options = ["--method", "fault_localization", "--samples", "2"]
    result, rows = files.run(answers, *options, "--invalid_policy", "zero")
    assert rows[0]["score"] == pytest.approx(0.975) and rows[0]["verdict"] is None and rows[0]["valid"]
    assert result["invalid_rate"] == 0 and result["accuracy"]["mean"] == 4 / 8
    result, _ = files.run(answers, *options, "--invalid_policy", "drop")
    assert result["accuracy"]["mean"] is None and result["rmse"]["n"] == 8


def test_numbers_outside_of_the_scale(files):
    answers = recorded("ice_score", lambda row: "Score: 7" if row["id"] == "a0" else "Score: 4")
    result, rows = files.run(answers, "--method", "ice_score", "--parser", "compat")
    assert rows[0]["score"] is None and "outside of the scale" in rows[0]["reason"] and result["brier"]["n"] == 7


def test_programs_without_a_verdict_are_not_accepted(files):
    answers = recorded("direct", lambda row: "Yes" if row["id"] == "a0" else "Who knows?")
    result, _ = files.run(answers, "--method", "direct", "--attempts", "1", "--fail_under", "accepted=0.5")
    assert files.status == 3 and result["accepted"]["mean"] == 1 / 8 and result["valid_rate"] == 1 / 8
    # A new limit needs no new run.
    assert main(["judge", "--data.path", str(files.folder / "rows.jsonl"), "--judge.kind", "recorded", "--judge.path",
                 str(files.folder / "answers.jsonl"), "--out", str(files.out), "--method", "direct", "--attempts", "1",
                 "--fail_under", "accepted=0.1"]) == 0


def test_a_language_without_valid_answers_is_not_left_out(files):
    answers = recorded("direct", lambda row: "Yes" if row["language"] == "python" and row["label"] else (
        "No" if row["language"] == "python" else "?"))
    rows = programs(dataset="humaneval-x")
    result, _ = files.run(answers, "--method", "direct", "--attempts", "1", "--invalid_policy", "wrong", rows=rows)
    assert result["accuracy"]["mean"] == 0.5 and result["kendall"]["mean"] is None
    assert "go: there are no rows" in result["kendall"]["reason"]
    result, _ = files.run(answers, "--method", "direct", "--attempts", "1", rows=rows)
    assert result["accuracy"]["mean"] is None and "go: there are no rows" in result["accuracy"]["reason"]
    assert result["pooled"]["accuracy"]["mean"] == 1.0 and result["pooled"]["accuracy"]["n"] == 4


def test_grades_of_people_without_an_aggregate(files):
    rows = [row | {"grader_grades": [1, 2]} for row in programs()]
    result, _ = files.run(direct(), "--method", "direct", rows=rows)
    assert "human_ceiling" not in result


def test_runs_on_grades_are_compared(files):
    rows = [{name: value for name, value in row.items() if name != "label"} | {"grade": 4 * row["label"],
                                                                             "dataset": "conala"} for row in programs()]
    ratings = lambda best: [{"id": f"{row['id']}/helpfulness", "texts": [str(best if row["grade"] else 50)]}
                            for row in rows]
    files.run(ratings(10), "--method", "helpfulness", rows=rows, out="worse")
    result, _ = files.run(ratings(90), "--method", "helpfulness", "--compare", str(files.folder / "worse"), rows=rows)
    assert result["compared"]["n"] == 8 and result["compared"]["kendall"]["mean"] == 2.0


def test_a_validation_subset_with_a_test_subset(files):
    rows = [row | {"subset": "validation" if row["group"] in "ab" else "test"} for row in programs()]
    answers = direct(probabilities={"Yes": 0.5, "No": 0.4})
    options = ["--method", "direct", "--subset", "test", "--validation.subset"]
    result, judged = files.run(answers, *options, "validation", rows=rows)
    assert result["n"] == 4 and len(judged) == 8 and "fitted" in result
    files.run(answers, *options, "dev", rows=rows)
    assert files.status == 2


# ---- pairs -------------------------------------------------------------------------------------------------

def test_pairs(files):
    rows = [row | {"language": "python"} for row in programs()]
    spoken = {"a0/a1": "A", "a1/a0": "B", "b0/b1": "A", "b1/b0": "A"}
    answers = [{"id": f"{name}/pairwise", "texts": [text], "probabilities": {text: 0.5, "AB".replace(text, ""): 0.25}}
               for name, text in spoken.items()]
    for decide in ("text", "probability"):
        result, pairs = files.run(answers, "--method", "pairwise", "--decide", decide, rows=rows)
        assert [row["outcome"] for row in pairs] == ["win", "tie"] and result["accuracy"]["mean"] == 0.5
        assert result["first_slot"]["mean"] == 0.75 and result["consistent"]["mean"] == 0.5
    result, pairs = files.run(answers[:3] + [{"id": "b1/b0/pairwise", "texts": ["Both."]}], "--method", "pairwise",
                              "--attempts", "1", rows=rows)
    assert pairs[1]["outcome"] is None and result["n_valid"] == 1 and result["accuracy"]["mean"] == 1.0
    files.run(answers[:3], "--method", "pairwise", "--fail_under", "accuracy=0.9", "valid_rate=0.9", rows=rows)
    assert files.status == 3


def test_pairs_have_one_task_and_one_reference():
    items = [Item(name, task, "x", "python", reference=name, label=label, group="repo", examples=name)
             for name, task, label in (("r", "Add", 1), ("w", "Add ", 0), ("other", "Multiply", 0))]
    [pair] = pairs_of(items)
    assert pair.wrong.id == "w"
    orders = [pair_prompt(load_prompts(), Config(task="-", code=["-"], method="pairwise"), pair, swapped)
              for swapped in (False, True)]
    assert orders[0].content == orders[1].content and [one.id for one in orders] == ["r/w/pairwise", "w/r/pairwise"]


@pytest.mark.parametrize(("text", "outcome"), [
    ("Program A is right.", "tie"), ("A: it handles n", "tie"), ("Program A is wrong, B is right.", None)])
def test_answers_about_pairs(files, text, outcome):
    rows = [row | {"language": "python"} for row in programs()[:2]]
    answers = [{"id": f"{name}/pairwise", "texts": [text]} for name in ("a0/a1", "a1/a0")]
    _, pairs = files.run(answers, "--method", "pairwise", "--attempts", "1", rows=rows)
    assert pairs[0]["outcome"] == outcome


def test_shares_of_pairs():
    """A tie is half a win; pairs with an answer that cannot be parsed count nowhere."""
    pairs = lambda **counts: [
        {"outcome": None if outcome == "unread" else outcome, "answers": ["A", "B"], "group": f"{outcome} {number}"}
        for outcome, count in counts.items() for number in range(count)]
    assert pair_measures(pairs(win=1, loss=1, tie=98))["win_rate"]["mean"] == pytest.approx(0.5)
    found = pair_measures(pairs(win=3, loss=5, unread=2))
    assert found["win_rate"]["mean"] == found["accuracy"]["mean"] == 0.375
    assert found["n"] == 10 and found["n_valid"] == 8 and found["invalid_rate"] == pytest.approx(0.2)
    assert found["valid_rate"] == 0.8
