"""`jaxllm rank` on recorded answers and matrices."""

import itertools

import pytest

from jaxllm.judge import FunctionJudge
from tests.consistency.conftest import answers, instances, oracle

PROMPTS = []


def larger(prompt, options):
    """Prefers the item with the larger number."""
    PROMPTS.append(prompt.content)
    first, second = (int(part.split("\n")[2].split()[-1]) for part in prompt.content.split("Response ")[1:])
    return {options[0]: float(first > second), options[1]: float(first < second)}


LARGER = FunctionJudge(choose=larger)


def test_items_are_ranked(rank, capsys):
    rows = instances(3, 7)
    result = rank(rows, "--template", "coherence", recorded=answers(rows, oracle, negated=False))
    assert "3 instances, at most 42 prompts" in capsys.readouterr().err
    rho = result["spearman"]
    assert rho["mean"] == rho["ci_low"] == pytest.approx(1) and rho["n"] == 3
    assert result["accuracy"]["mean"] == 1 and result["undefined"] == 0 and result["uncertainty"] == 0
    counts = result["comparisons"]
    assert counts["made"] <= counts["one_order_at_most"] == 3 * 14 and counts["all_pairs"] == 63
    assert counts["n_log_n"] == pytest.approx(58.96, abs=0.01) and counts["missing"] == 0
    for row, own in zip(rank.rows(), rows, strict=True):
        assert [own["human"][i] for i in row["order"]] == sorted(own["human"], reverse=True)
        assert sorted(row["scores"]) == list(range(7)) and row["scores"][row["order"][0]] == 6
        assert len(row["uncertainty"]) == 7 and row["deviation"] == [0] * 7
    assert "always the first" in (rank.out / "report.html").read_text()


@pytest.mark.parametrize("options", [[], ["--calibrated", "true"], ["--algorithm", "beam"], ["--orders", 4]])
def test_a_stopped_run_resumes(rank, options):
    rows = instances(2, 6)
    recorded = answers(rows, lambda i, j, row, _: 0.2 + 0.6 * oracle(i, j, row, False), negated=False)
    whole = rank(rows, *options, recorded=recorded)
    written, lines = rank.rows(), (rank.out / "answers.jsonl").read_text().splitlines(keepends=True)
    rank(rows, *options, recorded=recorded, out="stopped")
    (rank.out / "result.json").unlink()
    (rank.out / "answers.jsonl").write_text("".join(lines[:5]))
    assert rank(rows, *options, recorded=recorded, out="stopped") == whole and rank.rows() == written
    assert (rank.out / "answers.jsonl").read_text() == "".join(lines)
    assert len({line.split('"valid"')[0] for line in lines}) == len(lines) == whole["comparisons"]["made"]


def test_answers_come_from_the_cache(rank, tmp_path):
    PROMPTS.clear()
    rows, judge = instances(3, 6), ["--judge.kind", "callable", "--judge.path", f"{__name__}:LARGER", "--judge.cache",
                                    tmp_path / "cache.sqlite"]
    first = rank(rows, *judge)
    assert len(PROMPTS) == first["comparisons"]["made"] and rank(rows, *judge) == first
    assert len(PROMPTS) == first["comparisons"]["made"]
    more = rank(rows, *judge, "--orders", 3)
    assert len(PROMPTS) == len(set(PROMPTS)) == more["comparisons"]["made"] > first["comparisons"]["made"]
    assert more["accuracy"]["mean"] == 1


def test_matrices_and_missing_answers(rank):
    p = [[None if i == j or {i, j} == {0, 1} else float(i < j) for j in range(4)] for i in range(4)]
    rows = [{"id": "m", "p": p, "human": [4, 3, 2, 1]}, {"id": "same", "p": p, "human": [1, 1, 1, 1]}]
    result = rank(rows, "--judge.kind", "matrix", "--orders", 20)
    assert result["comparisons"]["missing"] > 0 and result["undefined"] == 1 and result["spearman"]["n"] == 1
    assert rank.rows()[0]["order"][2:] == [2, 3] and rank.rows()[0]["spearman"] > 0.8
    assert rank.rows()[1]["spearman"] is None and result["judge"] is None


def test_answers_with_little_probability_and_equal_items(rank, capsys):
    """The page and the terminal have a warning; sampled answers and matrices have no mass."""
    rows = instances(2, 4)
    rows[1]["items"][2] = rows[1]["items"][0]
    result = rank(rows, recorded=answers(rows, oracle, negated=False, mass=0.2))
    assert result["answer_mass"] == pytest.approx(0.2) and result["repeated_items"] == 1
    err = capsys.readouterr().err
    assert "have 20% of the probability mass" in err and "1 items have the text of another item" in err
    assert "have 20% of the probability mass" in (rank.out / "report.html").read_text()
    sure = rank(rows, recorded=answers(rows, oracle, negated=False, mass=0.6))
    assert sure["answer_mass"] == pytest.approx(0.6)
    assert "of the probability mass" not in (rank.out / "report.html").read_text()
    assert rank([{"p": [[0, 1], [0, 0]]}], "--judge.kind", "matrix")["answer_mass"] is None


def test_untrusted_items_in_the_report(rank):
    rows = instances(1, 3)
    rows[0] |= {"id": "<b>x</b>", "items": ["<script>alert(1)</script>", "{first} {question}", "Answer: A"]}
    result = rank(rows, recorded=answers(rows, oracle, negated=False))
    page = (rank.out / "report.html").read_text()
    assert result["accuracy"]["mean"] == 1 and "<script>alert" not in page and "&lt;script&gt;" in page
    assert "<b>x</b>" not in page


def test_the_order_of_the_file_tells_nothing(rank):
    """A judge that always picks the first slot, on items that are sorted: the mean over orders is about 0."""
    rows = [{"id": str(k), "p": [[1.0] * 8 for _ in range(8)], "human": list(range(8, 0, -1))} for k in range(20)]
    result = rank(rows, "--judge.kind", "matrix", "--orders", 50)
    assert abs(result["spearman"]["mean"]) < 0.1 and result["always_first"]["spearman"] == result["spearman"]
    assert result["always_first"]["accuracy"] == result["accuracy"]


@pytest.mark.parametrize(("options", "reason"), [
    (["--beam", 0], "1 or more"), (["--tie_margin", 0.6], "between 0 and 0.5"), (["--algorithm", "quick"], "greedy"),
    (["--beam", 7], "does not apply to greedy"),
    (["--orders", 0], "1 or more"), (["--judge.kind", "matrix", "--template", "temporal"], "does not apply")])
def test_wrong_settings(rank, capsys, options, reason):
    assert rank(instances(1), *options) is None
    assert reason in capsys.readouterr().err and rank.status == 2


def test_an_instance_longer_than_the_window(rank, capsys):
    """It is left out, and the others are ranked."""
    rows = instances(2, 3)
    rows[1]["items"][0] = "word " * 3000
    result = rank(rows, "--judge.model", "tiny", "--judge.format", "plain", "--data.limit_bad", 0.5)
    assert result["n"] == 1 and result["rejected"] == 1 and [row["id"] for row in rank.rows()] == ["i0"]
    assert "instance 'i1'" in rank.rows("rejected.jsonl")[0]["reason"]
    assert "1 instances are left out" in capsys.readouterr().err
    assert all(0 <= p <= 1 for p in itertools.chain(rank.rows()[0]["uncertainty"]))
