"""`jaxllm consistency`: what it writes for judges of known consistency, and what it does with bad input."""

import json

import numpy as np
import pytest

from jaxllm.consistency.report import findings
from jaxllm.judge import Answer, FunctionJudge
from jaxllm.ops.consistency import chance_self_agreement
from tests.consistency.conftest import answers, instances, oracle, sigmoid


def test_a_judge_without_contradictions(consistency, capsys):
    rows = instances()
    result = consistency(rows, "--template", "coherence", recorded=answers(rows, oracle))
    for name in ("s_tran", "s_tran_debiased"):
        for k in "345":
            assert result[name][k]["exact"] == result[name][k]["sampled"] == {
                "mean": 1, "ci_low": 1, "ci_high": 1, "n": 4}
            assert result[name][k]["reason"] is None
    for name in ("s_comm", "s_neg", "human_agreement", "coverage", "zeta"):
        assert result[name]["mean"] == 1 and result[name]["n"] == 4
    assert result["position_bias"]["mean"] == 0 and result["answer_mass"]["mean"] == pytest.approx(0.9)
    assert result["self_agreement"] is None and result["samples"] is None
    assert result["human_answers"] == 4 * 20 and result["human_tied_answers"] == 0
    assert result["listed"] == {"cycle": 0, "order_flip": 0, "negation_failure": 0}
    assert result["question"].startswith("Which of the two summaries") and result["missing_reasons"] == {}
    assert result["chance"]["s_tran"] == {"3": 0.75, "4": 0.375, "5": 0.1171875}
    assert "4 instances, 160 prompts" in capsys.readouterr().err
    assert consistency.rows("violations.jsonl") == []
    for row, own in zip(consistency.rows(), rows, strict=True):
        assert row["human"] == own["human"] and row["items"] == own["items"]
        assert row["p"][0][1] == float(own["human"][0] > own["human"][1]) and row["p"][0][0] is None
        assert sorted(row["positions"]) == [0, 1, 2, 3, 4]
    assert any(row["positions"] != [0, 1, 2, 3, 4] for row in consistency.rows())


def test_a_judge_that_always_picks_the_first_slot(consistency, capsys):
    """It is transitive, and the page begins with the reason why that means nothing."""
    rows = instances()
    result = consistency(rows, recorded=answers(rows, lambda *_: 0.9, mass=0.3))
    assert result["s_tran"]["5"]["exact"]["mean"] == 1
    assert result["s_comm"]["mean"] == result["s_neg"]["mean"] == 0 and result["position_bias"]["mean"] == 0.5
    assert result["always_first"]["s_comm"] == 0 and result["adjusted"]["s_comm"] == -1
    assert result["always_first"]["longer_wins"] == result["chance"]["longer_wins"] == 0.5
    assert result["chance"]["position_bias"] == 0
    # Both orders cancel out for every pair: no opinion is left.
    assert result["s_tran_debiased"]["5"] == {"exact": None, "sampled": None, "partial": 0, "reason":
                                              "4 of 4 instances: the judge decides no pair"}
    assert result["human_agreement"]["mean"] == 0.5 and result["low_mass"] == 1
    page = (consistency.out / "report.html").read_text()
    assert "shown first in 100% of all comparisons" in page and "30% of the probability mass" in page
    assert "shown first in 100%" in capsys.readouterr().err
    kinds = {row["kind"] for row in consistency.rows("violations.jsonl")}
    assert kinds == {"order_flip", "negation_failure"}


def test_a_judge_that_does_not_hear_the_negation(consistency):
    rows = instances()
    result = consistency(rows, recorded=answers(rows, lambda i, j, row, negative: oracle(i, j, row, False)))
    assert result["s_neg"]["mean"] == 0 and result["s_comm"]["mean"] == result["s_tran"]["5"]["exact"]["mean"] == 1
    first = consistency.rows("violations.jsonl")[0]
    assert first["kind"] == "negation_failure" and first["probabilities"] in ([1, 1], [0, 0])
    assert first["texts"] == [rows[0]["items"][i] for i in first["items"]]


def test_rows_of_a_run_can_be_measured_again(consistency):
    rows = instances(6, 6)
    rng = np.random.default_rng(1)
    noisy = {(row["id"], i, j): rng.random() for row in rows for i in range(6) for j in range(6)}
    first = consistency(rows, recorded=answers(rows, lambda i, j, row, _: noisy[row["id"], i, j]))
    again = consistency(consistency.rows(), "--judge.kind", "matrix")
    for name in ("s_tran", "s_tran_debiased", "s_comm", "s_neg", "human_agreement", "position_bias", "hodge",
                 "answer_mass"):
        assert json.dumps(first[name]) == json.dumps(again[name]), name
    assert first["listed"]["cycle"] > 0


def test_pairs_and_samples_of_a_run_can_be_measured_again(consistency):
    """Pairs that were not compared are no missing answers, and shares of samples no probabilities."""
    rows = instances(3, 6)
    recorded = [{"id": f"{row['id']}/{i}/{j}", "texts": ["A", "B", "B", "it depends"] if i < j else ["A"] * 4}
                for row in rows for i in range(6) for j in range(6) if i != j]
    sampled = ("--method", "text", "--samples", 4, "--negated", "false", "--pairs", 7)
    first = consistency(rows, *sampled, recorded=recorded)
    for missing in ("drop", "first", "error"):
        again = consistency(consistency.rows(), "--judge.kind", "matrix", "--missing", missing)
        for name in ("coverage", "self_agreement", "s_comm", "s_tran", "s_tran_debiased", "chance"):
            assert json.dumps(first[name]) == json.dumps(again[name]), name
    assert first["coverage"]["mean"] == 1 and first["self_agreement"]["mean"] == pytest.approx((1 + 2 / 3) / 2)


def test_missing_answers(consistency, capsys):
    rows = instances(2, 5)
    partial = lambda i, j, row, negative: None if {i, j} == {0, 1} and row["id"] == "i0" else oracle(
        i, j, row, negative)
    recorded = answers(rows, partial)
    result = consistency(rows, recorded=recorded)
    assert result["s_tran"]["5"]["exact"] is None and "1 of 2 instances: the graph is partial" in result["s_tran"]["5"][
        "reason"]
    assert result["s_tran"]["5"]["sampled"]["mean"] == 1 and result["coverage"]["mean"] == pytest.approx(0.95)
    assert sum(result["missing_reasons"].values()) == 4 and result["zeta"]["n"] == 1
    assert consistency.rows()[0]["p"][0][1] is None
    result = consistency(rows, "--missing", "first", recorded=recorded)
    assert result["coverage"]["mean"] == result["confidence"][0]["coverage"] == pytest.approx(0.95)
    assert result["s_comm"]["mean"] == pytest.approx((1 + 0.9) / 2) and result["s_tran"]["5"]["exact"] is not None
    assert "5.0% of the comparisons have no answer" in (consistency.out / "report.html").read_text()
    assert consistency(rows, "--missing", "error", recorded=recorded) is None
    assert "instance 'i0' has comparisons without an answer" in capsys.readouterr().err and consistency.status == 2


def test_pairs_that_were_not_compared_are_not_missing(consistency):
    """They have no answer by intention: no policy fills them, and the chance level of a tournament does not hold."""
    rows = instances(3, 8)
    recorded = answers(rows, oracle)
    for missing in ("drop", "first", "error"):
        result = consistency(rows, "--pairs", 7, "--missing", missing, recorded=recorded)
        assert result["coverage"]["mean"] == result["s_comm"]["mean"] == 1 and result["position_bias"]["mean"] == 0
        assert result["chance"]["s_tran"]["5"] is result["adjusted"]["s_tran"]["5"] is None
    assert "have no answer" not in (consistency.out / "report.html").read_text()


@pytest.mark.parametrize(("comm", "words"), [
    ({"mean": 0.8, "ci_low": 0.5, "ci_high": 1.0}, "they do in 80%, with an interval from 50%"),
    ({"mean": 0.3, "ci_low": 0.2, "ci_high": 0.4}, "less often than those of a coin"),
    ({"mean": 0.8, "ci_low": 0.6, "ci_high": 1.0}, "")])
def test_agreement_of_both_orders_in_words(comm, words):
    found = findings({"position_bias": None, "answer_mass": None, "s_comm": comm, "coverage": None,
                      "samples": None})
    assert words in found and bool(words) == bool(found)


def test_an_instance_longer_than_the_window(consistency, capsys):
    rows = instances(2, 3)
    rows[1]["context"] = "word " * 3000
    result = consistency(rows, "--judge.model", "tiny", "--judge.format", "plain", "--data.limit_bad", 0.5)
    assert result["n"] == 1 and result["rejected"] == 1
    assert "12 prompts (6 original, 6 negated), about " in (err := capsys.readouterr().err)
    assert "prompt tokens (shared parts counted in each)" in err
    rejected = consistency.rows("rejected.jsonl")[0]
    assert rejected["line"] == 2 and rejected["raw"].startswith('{"id": "i1", "context": "word word')
    assert consistency(rows, "--judge.model", "tiny", "--judge.format", "plain") is None
    assert "1 of 2 rows cannot be used" in capsys.readouterr().err


def test_sampled_answers_and_reasons(consistency, capsys):
    """Ten texts a question: p is the share of the valid ones, and agreement among them has a chance level."""
    rows, texts = instances(1, 3), {}
    for i, j in ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)):
        texts[f"i0/{i}/{j}"] = ["Well.\nA"] * 6 + ["B"] * 2 + ["I cannot tell"] * 2
    recorded = [{"id": name, "texts": own} for name, own in texts.items()]
    result = consistency(rows, "--method", "chain_of_thought", "--negated", "false", recorded=recorded)
    assert "6 prompts with 10 answers each, at most 30,720 generated tokens" in capsys.readouterr().err
    assert consistency.rows()[0]["p"][0][1] == 0.75 and result["self_agreement"]["mean"] == pytest.approx(0.75)
    assert result["chance"]["self_agreement"] == pytest.approx(chance_self_agreement(8))  # of eight valid votes
    assert result["samples"] == {"drawn": 60, "valid": 48}
    assert result["missing_reasons"] == {"its last line is neither A nor B": 12}
    assert "20.0% of the samples have no valid answer" in (consistency.out / "report.html").read_text()
    assert result["s_neg"] is None and result["answer_mass"] is None and result["position_bias"]["mean"] == 0.5


def test_one_valid_vote_has_no_self_agreement(consistency):
    rows = instances(1, 3)
    recorded = [{"id": f"i0/{i}/{j}", "texts": ["A", *["perhaps"] * 9]} for i in range(3) for j in range(3) if i != j]
    result = consistency(rows, "--method", "text", "--negated", "false", recorded=recorded)
    assert result["self_agreement"] is result["chance"]["self_agreement"] is None and result["coverage"]["mean"] == 1
    assert result["samples"] == {"drawn": 60, "valid": 6} and sum(result["missing_reasons"].values()) == 54


@pytest.mark.parametrize(("reason", "valid"), [("length", 0), ("stop", 36)])
def test_reasons_that_were_cut_are_no_vote(consistency, monkeypatch, reason, valid):
    """Their last line may be a heading."""
    import jaxllm.consistency.job as job

    class Judge(FunctionJudge):
        def complete(self, prompts, sampling, *, on_answer, **_):
            for number in range(len(prompts)):
                on_answer(number, [Answer("Both are short.\n**Response A:**", reason)] * sampling.n)

    monkeypatch.setattr(job, "open_judge", lambda *_: Judge(lambda *_: []))
    result = consistency(instances(1, 3), "--method", "chain_of_thought", "--samples", 3, "--judge.kind", "callable",
                         "--judge.path", "x:y")
    assert result["samples"] == {"drawn": 36, "valid": valid}
    assert result["missing_reasons"] == ({} if valid else {"it was cut by max_tokens": 36})


def test_paraphrases(consistency, capsys):
    rows = instances(3, 4)
    recorded = answers(rows, oracle, options=("Yes", "No"))
    for number in (1, 2):
        own = answers(rows, (lambda *_: 0.9) if number == 1 else oracle, options=("Yes", "No"), negated=False)
        recorded += [{**line, "id": f"{line['id']}/paraphrase{number}"} for line in own]
    result = consistency(rows, "--template", "temporal", "--paraphrases", 2, recorded=recorded)
    assert [one["s_comm"] for one in result["paraphrases"]["wordings"]] == [1, 0, 1]
    assert [one["human_agreement"] for one in result["paraphrases"]["wordings"]] == [1, 0.5, 1]
    assert [one["coverage"] for one in result["paraphrases"]["wordings"]] == [1, 1, 1]
    assert result["paraphrases"]["s_comm_and_human_agreement"]["pearson"] == pytest.approx(1)
    assert result["s_comm"]["mean"] == 1
    lacking = [line for line in recorded if line["id"] != "i1/0/1/paraphrase2"]
    assert consistency(rows, "--template", "temporal", "--paraphrases", 2, "--negated", "false", "--missing", "error",
                       recorded=lacking) is None
    assert "'i1' has comparisons without an answer to paraphrase 2" in capsys.readouterr().err
    assert len(consistency.rows()) == 3


def test_paraphrases_of_both_questions(consistency, capsys):
    """Judges of known bias, wording by wording: both questions agree where the bias is smaller than the difference."""
    rows, biases = instances(3, 6), (0.5, 2.5, 100, 0.5)
    difference = lambda i, j, row: row["human"][i] - row["human"][j]
    recorded = []
    for number, bias in enumerate(biases):
        pick = lambda i, j, row, negative, bias=bias, deaf=number == 3: sigmoid(
            bias + difference(i, j, row) * (-1 if negative and not deaf else 1))
        recorded += [{**line, "id": line["id"] + (f"/paraphrase{number}" if number else "")}
                     for line in answers(rows, pick)]
    result = consistency(rows, "--paraphrases", 3, recorded=recorded)
    counts = {"original": 90, "negated": 90, "paraphrased": 270, "negated_paraphrased": 270}
    assert result["prompts"] == counts and result["coverage"]["mean"] == 1 and result["missing_reasons"] == {}
    assert "720 prompts (90 original, 90 negated, 270 paraphrased, 270 negated paraphrased)" in capsys.readouterr().err
    far = [np.mean([abs(difference(i, j, row)) > bias for row in rows for i in range(6) for j in range(6) if i != j])
           for bias in biases]
    assert far[0] == 1 > far[1] > far[2] == 0
    own = result["paraphrases"]
    assert [one["s_comm"] for one in own["wordings"]] == pytest.approx(far)
    assert [one["s_neg"] for one in own["wordings"]] == pytest.approx([*far[:3], 0])
    assert own["deviation"]["s_neg"] == pytest.approx(np.std([*far[:3], 0])) and result["s_neg"]["mean"] == 1
    assert own["wordings"][1]["question"] == "Which response would you rather receive?"
    assert own["wordings"][1]["negated"] == "Which response would you rather not receive?"
    without = consistency(rows, "--paraphrases", 3, "--negated", "false", recorded=recorded)
    assert without["prompts"] == {"original": 90, "paraphrased": 270}
    assert [one["s_comm"] for one in without["paraphrases"]["wordings"]] == pytest.approx(far)
    assert [one["s_neg"] for one in without["paraphrases"]["wordings"]] == [None] * 4


def test_paraphrases_of_a_budget_of_pairs(consistency):
    """Pairs that were not compared are not missing under any wording."""
    rows = instances(3, 6)
    recorded = [{**line, "id": line["id"] + end} for line in answers(rows, oracle) for end in ("", "/paraphrase1")]
    result = consistency(rows, "--pairs", 7, "--paraphrases", 1, "--missing", "error", recorded=recorded)
    assert [(one["s_comm"], one["s_neg"]) for one in result["paraphrases"]["wordings"]] == [(1, 1)] * 2
    assert result["prompts"] == dict.fromkeys(("original", "negated", "paraphrased", "negated_paraphrased"), 42)


def test_a_budget_of_pairs_connects_all_items(consistency, capsys):
    rows = instances(3, 8)
    result = consistency(rows, "--pairs", 9, recorded=answers(rows, oracle))
    assert "3 instances, 108 prompts" in capsys.readouterr().err
    assert result["coverage"]["mean"] == 1 and result["s_comm"]["mean"] == 1
    for row in consistency.rows():
        compared = np.array([[value is not None for value in line] for line in row["p"]])
        assert compared.sum() == 18
        reached = np.linalg.matrix_power(compared + np.eye(8, dtype=int), 8)
        assert (compared == compared.T).all() and (reached > 0).all()


def test_a_stopped_run_resumes_within_a_matrix(consistency):
    rows = instances(2, 4)
    recorded = answers(rows, oracle)
    whole = consistency(rows, recorded=recorded)
    lines = (consistency.out / "answers.jsonl").read_text().splitlines(keepends=True)
    assert consistency(rows, recorded=recorded, out="stopped") == whole
    (consistency.out / "result.json").unlink()
    (consistency.out / "answers.jsonl").write_text("".join(lines[:17]))
    assert consistency(rows, recorded=recorded, out="stopped") == whole
    assert (consistency.out / "answers.jsonl").read_text() == "".join(lines)
    assert consistency(rows[:1], recorded=recorded, out="stopped") == whole and consistency.status == 2


def test_two_runs_compared(consistency, capsys):
    rows = instances(6, 5)
    consistency(rows, recorded=answers(rows, lambda *_: 0.9), out="first")
    result = consistency(rows, "--compare", consistency.out, recorded=answers(rows, oracle))
    own = result["compared"]
    assert own["n"] == 6 and own["s_comm"]["mean"] == 1 and own["s_comm"]["p"] < 0.05
    assert own["s_tran"]["mean"] == 0 and own["position_bias"]["mean"] == -0.5
    assert consistency(rows, "--compare", consistency.out, "--sizes", "[3, 6]", recorded=answers(rows, oracle)) is None
    assert "the other run has no s_tran(6)" in capsys.readouterr().err


def test_limits(consistency, capsys):
    rows = instances()
    result = consistency(rows, "--fail_under", '["s_comm=0.5", "s_tran=1"]', recorded=answers(rows, lambda *_: 0.9))
    assert consistency.status == 3 and result["s_comm"]["mean"] == 0
    assert "s_comm is 0.0000, below --fail_under 0.5" in capsys.readouterr().err
    assert consistency(rows, "--fail_under", "s_self=1") is None and consistency.status == 2


def test_instances_that_cannot_be_used(consistency):
    good = instances(20)
    bad = [{"id": "b0", "items": []}, {"id": "b1", "items": ["x"]}, {"id": "b2", "items": ["x", " "]},
           {"id": "b3", "items": ["x", "y"], "human": [1]}, {"id": "b4", "items": ["x", "y"], "human": [[0, 2]]},
           {"id": "b5", "items": ["x", "y"], "human": [[0, 1], [1, 0]]}, {"id": "b6", "items": ["x", "y"],
                                                                        "human": ["x", 1]},
           {"id": "i0", "items": ["x", "y"]}, {"id": "b7", "items": ["x", "y"], "human": [10**400, 1]},
           {"id": "b8", "items": ["x", 3]}, {"id": "b9"}]
    result = consistency([*good, *bad], "--data.limit_bad", 0.5, recorded=answers(good, oracle))
    assert result["n"] == 20 and result["rejected"] == len(bad)
    reasons = [row["reason"] for row in consistency.rows("rejected.jsonl")]
    for reason, expected in zip(reasons, ("there are 0 items", "there are 1 items", "item 1 is empty",
                                          "1 scores for 2 items", "items are 0 to 1", "both [0, 1] and [1, 0]",
                                          "neither a score", "second row with the id 'i0'", "not finite", "'items'",
                                          "'items' is"),
                                strict=True):
        assert expected in reason or expected.replace("[0, 1] and [1, 0]", "[1, 0] and [0, 1]") in reason


def test_two_items_and_equal_texts(consistency, capsys):
    rows = [{"id": "two", "items": ["a", "b"], "human": [2, 1]}, {"id": "same", "items": ["a", "a", "c"]}]
    result = consistency(rows, recorded=answers(rows, lambda *_: 0.9))
    assert result["s_tran"]["3"]["exact"]["n"] == 1 and result["s_comm"]["n"] == 2 and result["repeated_items"] == 1
    assert "1 items have the text of another item" in capsys.readouterr().err
    assert result["human_agreement"]["n"] == 1


def test_untrusted_items_in_the_report(consistency):
    rows = instances(1, 4)
    rows[0]["items"][1] = "<script>alert(1)</script>"
    rows[0]["id"] = "<b>x</b>"
    consistency(rows, recorded=answers(rows, lambda *_: 0.9))
    page = (consistency.out / "report.html").read_text()
    assert "<script>alert" not in page and "<b>x</b>" not in page and "&lt;script&gt;" in page


@pytest.mark.parametrize(("options", "reason"), [
    (["--judge.kind", "matrix", "--template", "coherence"], "does not apply to matrices"),
    (["--judge.kind", "matrix", "--judge.model", "tiny"], "does not apply to matrices"),
    (["--samples", 3], "does not apply to probabilities"), (["--sizes", "[2]"], "3 or more"),
    (["--sizes", "[3, 3]"], "different"), (["--tie", 0.5], "below 0.5"), (["--pairs", 0], "1 or more"),
    (["--method", "text", "--temperature", 0, "--samples", 2], "the same answer 2 times")])
def test_wrong_settings(consistency, capsys, options, reason):
    assert consistency(instances(1), *options) is None
    assert reason in capsys.readouterr().err and consistency.status == 2 and not consistency.out.exists()


def test_a_judge_from_python_and_ties(consistency, monkeypatch):
    import jaxllm.consistency.job as job

    def choose(prompt, options):
        first, second = (int(part.split("\n")[2].split()[-1]) for part in prompt.content.split("Response ")[1:])
        p = 0.5 if abs(first - second) < 3 else float(first > second)
        p = 1 - p if "worse" in prompt.content else p
        return {options[0]: p, options[1]: 1 - p}

    monkeypatch.setattr(job, "open_judge", lambda *_: FunctionJudge(lambda *_: [], choose=choose))
    result = consistency(instances(5, 6), "--tie", 0.1, "--judge.kind", "callable", "--judge.path", "x:y")
    assert result["s_comm"]["mean"] == result["s_neg"]["mean"] == 1
    assert result["s_tran"]["3"]["exact"] is None and result["s_tran"]["3"]["sampled"]["mean"] <= 1
    untied = consistency(instances(5, 6), "--judge.kind", "callable", "--judge.path", "x:y")
    assert untied["s_comm"]["mean"] < 1
