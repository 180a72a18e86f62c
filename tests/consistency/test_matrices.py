"""`jaxllm consistency` on matrices of answers: judges of known measures, missing answers, and bad input."""

import numpy as np
import pytest
from scipy import stats

from tests.consistency.conftest import sigmoid


def biased(count, size, bias, seed=0, **extra):
    """Matrices of a noiseless judge with latent scores and a bias to the first slot."""
    rows = []
    for number, theta in enumerate(np.random.default_rng(seed).normal(size=(count, size))):
        difference = theta[:, None] - theta
        rows.append({"id": number, "p": sigmoid(difference + bias).tolist(), "q": sigmoid(bias - difference).tolist(),
                     "human": theta.tolist(), **extra})
    return rows


def shares(count, size, samples, seed=0, p=0.5):
    """Shares of votes of a judge that picks the first slot with probability p."""
    drawn = np.random.default_rng(seed).binomial(samples, p, (2, count, size, size)) / samples
    votes = [[samples] * size for _ in range(size)]
    return [{"id": number, "p": own.tolist(), "q": other.tolist(), "votes": votes}
            for number, (own, other) in enumerate(zip(*drawn, strict=True))]


@pytest.mark.parametrize("samples", [1, 2, 10])
def test_a_judge_that_flips_a_coin_is_at_chance_for_any_number_of_samples(consistency, samples):
    """As many votes for each slot are no answer for the first one."""
    result = consistency(shares(60, 8, samples), "--judge.kind", "matrix", "--violations", 0)
    assert result["position_bias"]["mean"] == pytest.approx(0, abs=4 * 0.5 / np.sqrt(60 * 56))
    for name, number in (("s_comm", 28), ("s_neg", 56)):
        assert result[name]["mean"] == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(60 * number))
    for name in ("s_tran", "s_tran_debiased"):
        found = result[name]["5"]["exact"]
        assert result["chance"][name]["5"] == 0.1171875 and found["mean"] == pytest.approx(
            0.1171875, abs=found["ci_high"] - found["ci_low"])
    assert "of all comparisons" not in (consistency.out / "report.html").read_text()
    again = consistency(shares(60, 8, samples), "--judge.kind", "matrix", "--violations", 0)
    assert again == result


def test_decisions_for_the_first_slot_only_are_at_chance_without_the_bias(consistency):
    result = consistency(shares(60, 8, 10, p=1.0), "--judge.kind", "matrix", "--violations", 0)
    assert result["s_tran"]["5"]["exact"]["mean"] == 1 and result["position_bias"]["mean"] == 0.5
    assert abs(result["adjusted"]["s_tran_debiased"]["5"]) < 0.06


@pytest.mark.parametrize(("bias", "expected"), [(0.5, (0.922, 0.729, 0.135)), (2.0, (0.809, 0.159, 0.421))])
def test_position_bias_of_matrices(consistency, bias, expected):
    """Golden values of a judge with an additive bias, 16 items; debiased it is perfect."""
    result = consistency(biased(60, 16, bias), "--judge.kind", "matrix", "--violations", 0)
    found = [result["s_tran"]["5"]["exact"]["mean"], result["s_comm"]["mean"], result["position_bias"]["mean"]]
    assert found == pytest.approx(expected, abs=0.03)
    assert result["s_tran_debiased"]["5"]["exact"]["mean"] == 1 and result["judge"] is None
    assert result["s_tran"]["5"]["sampled"]["mean"] == pytest.approx(found[0], abs=0.01)


def test_matrices_of_several_sizes_are_measured_alone(consistency):
    """Padding changes nothing: each row is that of a run of its own."""
    rows = [row for size in (2, 3, 5, 16) for row in biased(2, size, 0.6, seed=size)]
    rows = [{**row, "id": number} for number, row in enumerate(rows)]
    consistency(rows, "--judge.kind", "matrix")
    together = consistency.rows()
    assert [row["n"] for row in together] == [2, 2, 3, 3, 5, 5, 16, 16]
    for number in (0, 3, 6):
        consistency([rows[number]], "--judge.kind", "matrix")
        alone = consistency.rows()[0]
        for name in ("s_comm", "s_neg", "human_agreement", "position_bias", "zeta", "hodge", "coverage"):
            assert alone[name] == pytest.approx(together[number][name], abs=1e-6), name
        for k in "345":
            assert alone["s_tran"][k]["exact"] == together[number]["s_tran"][k]["exact"]
    assert together[0]["s_tran"]["3"] == {"exact": None, "sampled": None, "subsets": 0,
                                          "reason": "it has fewer than 3 items"}


def test_answers_to_the_negated_question_can_be_missing(consistency, capsys):
    rows = biased(3, 4, 0.3)
    rows[1]["q"] = [[None] * 4 for _ in range(4)]
    result = consistency(rows, "--judge.kind", "matrix")
    assert result["coverage"]["mean"] == 1 and result["coverage_negated"]["mean"] == pytest.approx(2 / 3)
    assert consistency(rows, "--judge.kind", "matrix", "--missing", "error") is None
    assert "instance 1 has" in capsys.readouterr().err


def test_no_answers_at_all(consistency):
    result = consistency([{"p": [[None] * 5 for _ in range(5)]}], "--judge.kind", "matrix")
    assert result["s_tran"]["5"]["sampled"] is result["s_comm"] is result["adjusted"]["s_tran"]["5"] is None
    assert result["coverage"]["mean"] == 0


def test_the_order_of_the_file_does_not_matter(consistency):
    """Draws depend on the ids: rows in another order have the same measures, and no difference between runs."""
    rng = np.random.default_rng(2)
    rows = [{"id": f"r{k}", "p": rng.random((9, 9)).tolist(), "human": rng.random(9).tolist()} for k in range(6)]
    first = consistency(rows, "--judge.kind", "matrix", "--shuffle", "true", "--subsets", 40)
    result = consistency(rows[::-1], "--judge.kind", "matrix", "--shuffle", "true", "--subsets", 40, "--compare",
                         consistency.out)
    assert result["s_tran"]["5"]["sampled"]["mean"] == pytest.approx(first["s_tran"]["5"]["sampled"]["mean"])
    assert result["compared"]["s_tran"]["mean"] == 0 and result["compared"]["s_tran"]["p"] == 1


def test_the_answers_of_a_cycle_are_those_of_its_graph(consistency):
    p = [[0, 0.9, 0.1], [0.8, 0, 0.9], [0.2, 0.7, 0]]
    consistency([{"id": "c", "p": p}], "--judge.kind", "matrix")
    cycle = next(row for row in consistency.rows("violations.jsonl") if row["kind"] == "cycle")
    assert cycle["items"] == [0, 1, 2] and cycle["shown"] == [[0, 1], [1, 2], [0, 2]]
    assert cycle["probabilities"] == pytest.approx([0.9, 0.9, 0.1]) and cycle["strength"] == pytest.approx(0.4)


def test_long_cycles_of_partial_graphs_are_listed(consistency):
    """0 > 1 > 2 > 3 > 0 and no other pair: a contradiction without a cycle of three."""
    p = np.full((6, 6), 0.5)
    p[0, 1], p[1, 2], p[2, 3], p[3, 0] = 0.9, 0.8, 0.7, 0.9
    p = np.where(p == 0.5, np.where(p.T == 0.5, np.nan, 1 - p.T), p)
    p[4, 5], p[5, 4] = 0.9, 0.1
    row = {"id": "square", "p": [[None if np.isnan(value) else value for value in line] for line in p],
           "compared": (~np.isnan(p)).tolist()}
    result = consistency([row, {**row, "id": "other", "items": list("abcdef")}], "--judge.kind", "matrix", "--sizes",
                         "[3, 4]")
    assert result["s_tran"]["4"]["sampled"]["mean"] == pytest.approx(14 / 15) and result["listed"]["cycle"] == 2
    cycle = consistency.rows("violations.jsonl")[0]
    assert cycle["items"] == [0, 1, 2, 3] and cycle["shown"] == [[0, 1], [1, 2], [2, 3], [0, 3]]
    assert cycle["strength"] == pytest.approx(0.2) and cycle["probabilities"] == pytest.approx([0.9, 0.8, 0.7, 0.1])
    assert "0 &gt; 1 &gt; 2 &gt; 3" in (consistency.out / "report.html").read_text()
    assert result["coverage"]["mean"] == 1


def test_sets_of_which_all_are_listed_are_exact(consistency):
    result = consistency(biased(2, 8, 0.6), "--judge.kind", "matrix", "--sizes", "[6, 7]", "--subsets", 28)
    for own in result["s_tran"].values():
        assert own["exact"] == own["sampled"] and own["reason"] is None
    result = consistency(biased(2, 8, 0.6), "--judge.kind", "matrix", "--sizes", "[6]", "--subsets", 27)
    assert result["s_tran"]["6"]["exact"] is None and "too many sets" in result["s_tran"]["6"]["reason"]


def test_ties_in_the_confidence_curve_and_chance(consistency):
    rows = biased(10, 6, 0.4)
    result = consistency(rows, "--judge.kind", "matrix", "--tie", 0.2)
    assert result["confidence"][0]["s_comm"] == pytest.approx(result["s_comm"]["mean"])
    assert result["chance"]["s_comm"] is result["adjusted"]["s_neg"] is None


def test_correlations_over_instances(consistency):
    """A judge that is surer agrees more with itself and with people, and is more transitive and commutative."""
    rng, rows = np.random.default_rng(3), []
    for number, scale in enumerate(np.geomspace(0.1, 10, 12)):
        theta = rng.normal(size=8)
        p = rng.binomial(10, sigmoid(scale * (theta[:, None] - theta))) / 10
        rows.append({"id": number, "p": p.tolist(), "votes": [[10] * 8] * 8, "human": theta.tolist()})
    result = consistency(rows, "--judge.kind", "matrix", "--violations", 0)
    own = consistency.rows()
    transitive = lambda name: [row[name]["5"]["exact"] for row in own]
    human = [row["human_agreement"] for row in own]
    columns = {"s_tran_and_self_agreement": (transitive("s_tran"), [row["self_agreement"] for row in own]),
               "s_tran_debiased_and_human_agreement": (transitive("s_tran_debiased"), human),
               "s_comm_and_human_agreement": ([row["s_comm"] for row in own], human)}
    assert list(result["correlations"]) == list(columns)
    for name, (x, y) in columns.items():
        found = result["correlations"][name]
        assert found["n"] == 12 and found["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1])
        assert found["pearson"] > 0.5
        assert found["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert "debiased s_tran and H." in (consistency.out / "report.html").read_text()
    few = consistency(rows[:2], "--judge.kind", "matrix", "--violations", 0)
    assert few["correlations"] == dict.fromkeys(columns)
    assert "Correlations" not in (consistency.out / "report.html").read_text()


def test_matrices_that_cannot_be_used(consistency):
    good, half = biased(20, 4, 0.3), [[None, 0.5], [0.5, None]]
    bad = [{"p": [[0, 1, 1], [1, 0]]}, {"p": [[0, 1.2], [0, 0]]}, {"p": [[0, "x"], [0, 0]]}, {"p": [[0, True], [0, 0]]},
           {"p": []}, {"p": [[0.5]]}, {"p": half, "q": [[0]]}, {"p": half, "human": [1, 2, 3]},
           {"p": half, "positions": [0, 0]}, {"p": half, "items": ["x"]}, {"q": half},
           {"p": half, "votes": [[0, -1], [0, 0]]}, {"p": half, "compared": [[0, 1], [1, 0]]}]
    result = consistency([*good, *bad], "--judge.kind", "matrix", "--data.limit_bad", 0.5)
    assert result["n"] == 20 and result["rejected"] == len(bad)
    reasons = [row["reason"] for row in consistency.rows("rejected.jsonl")]
    for reason, expected in zip(reasons, ("p is not square", "p[0][1] is 1.2", "p[0][1] is 'x'", "p[0][1] is True",
                                          "p has 0 items", "p has 1 items", "q is not square", "3 scores for 2 items",
                                          "no order of 2 items", "1 items, and 2 rows", "'p' is missing",
                                          "votes[0][1] is -1", "compared[0][1] is 1, neither true"), strict=True):
        assert expected in reason
    (consistency.folder / "nan.jsonl").write_text('{"p": [[0, NaN], [0.5, 0]]}\n')
    assert consistency(good, "--judge.kind", "matrix", "--data.path", consistency.folder / "nan.jsonl") is None
