"""Surface metrics: golden values by hand, and the correlations with labels of the shared programs to four digits."""

import json
import math
from collections import defaultdict

import numpy as np
import pytest
from scipy import stats

from jaxllm.codejudge.surface import METRICS, bleu, chrf, code_tokens, rouge_l, surface_scores
from jaxllm.errors import UserError

# Metric -> tau-b and rho: python, cpp, java, js, go (subset test, bodies), their mean, and CoNaLa (mean over intents).
ANCHORS = {
    "bleu": [(.4687, .5694), (.3046, .3712), (.2353, .2867), (.3336, .4065), (.2173, .2648), (.3119, .3797),
             (.4451, .4957)],
    "rouge_l": [(.4584, .5567), (.2894, .3527), (.2693, .3279), (.3642, .4438), (.2335, .2846), (.3230, .3931),
                (.4438, .4981)],
    "chrf": [(.4752, .5786), (.3119, .3800), (.2802, .3414), (.3936, .4796), (.1997, .2433), (.3321, .4046),
             (.4652, .5232)],
}
LANGUAGES = ("python", "cpp", "java", "js", "go")


def rows_of(shared, name):
    file = shared / "codejudge" / name
    if not file.exists():
        pytest.skip(f"the programs are not at hand ({file})")
    return [json.loads(line) for line in file.read_text().splitlines()]


def scored(rows):
    return surface_scores([row["candidate"] for row in rows], [row["reference"] for row in rows])


def correlations(scores, labels):
    return stats.kendalltau(scores, labels).statistic, stats.spearmanr(scores, labels).statistic


@pytest.mark.parametrize(("text", "tokens"), [
    ("maxValue2 = a_b+1", ["max", "Value2", "=", "a_b", "+", "1"]),
    ("HTTPServer x2Y", ["HTTPServer", "x2Y"]),
    ("f(\"a\", 'b')\n\t`c`", ["f", "(", "`", "a", "`", ",", "`", "b", "`", ")", "`", "c", "`"]),
    ("naïve\u00a0x", ["na", "ï", "ve", "x"]),
    ("a->b<<=1", ["a", "-", ">", "b", "<", "<", "=", "1"]),
    (" \n", []),
])
def test_code_tokens_golden(text, tokens):
    assert code_tokens(text) == tokens


@pytest.mark.parametrize(("candidate", "reference", "value"), [
    ("a b c d", "a b c d", 1.0),
    ("a", "a", 1.0),  # effective order: there are no longer n-grams
    ("a b c", "a b c d", math.exp(1 - 4 / 3)),  # brevity penalty
    ("a b c d e", "a b c d x", (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** .25),
    ("a b", "b a", (1 * 1 / 2) ** .5),  # no bigram is shared: 1 / (2 * 1)
    ("a b c", "c b a", (1 * 1 / 4 * 1 / 4) ** (1 / 3)),  # halved for every such order: 1 / (2 * 2), 1 / (4 * 1)
    ("x", "a", 0.0), ("", "a", 0.0), ("a", "", 0.0), ("", "", 0.0),
])
def test_bleu_golden(candidate, reference, value):
    assert bleu(candidate, reference) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(("candidate", "reference", "value"), [
    ("a b c", "a b c", 1.0),
    ("a b c d", "a x c", 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3)),
    ("running", "run", 0.0),  # no stemming
    ("Max", "max", 0.0),
    ("x", "a", 0.0), ("", "a", 0.0), ("a", "", 0.0), ("", "", 0.0),
])
def test_rouge_l_golden(candidate, reference, value):
    assert rouge_l(candidate, reference) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize(("candidate", "reference", "value"), [
    ("ab", "ab", 1.0),  # orders 1 and 2 only
    ("a  b\n", "ab", 1.0),
    # precision 2/3 and 1/2, recall 1 and 1 for n = 1, 2; order 3 has no n-gram in the reference
    ("abc", "ab", 5 * (7 / 12) * 1 / (4 * (7 / 12) + 1)),
    ("x", "a", 0.0), ("", "a", 0.0), ("a", "", 0.0), ("", "", 0.0),
])
def test_chrf_golden(candidate, reference, value):
    assert chrf(candidate, reference) == pytest.approx(value, abs=1e-12)


def test_scores_of_several_programs():
    candidates, references = ["return a", "x"], ["return a", "y"]
    scores = surface_scores(candidates, references)
    assert scores == {"bleu": [1.0, 0.0], "rouge_l": [1.0, 0.0], "chrf": [1.0, 0.0]}
    assert surface_scores([], []) == {name: [] for name in METRICS}
    with pytest.raises(ValueError):
        surface_scores(["a"], [])


@pytest.mark.parametrize(("metric", "module"), [(bleu, "sacrebleu.metrics"), (rouge_l, "rouge_score.rouge_scorer"),
                                                (chrf, "sacrebleu.metrics")])
def test_a_missing_library_names_the_extra(metric, module, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(UserError, match=r"pip install 'jaxllm\[surface\]'"):
        metric("a", "a")


def test_correlations_with_unit_tests(shared):
    rows = [row for row in rows_of(shared, "humanevalx.jsonl") if row["subset"] == "test"]
    measured = defaultdict(list)
    for language in LANGUAGES:
        part = [row for row in rows if row["language"] == language]
        assert len(part) == 99
        for name, scores in scored(part).items():
            assert all(0 <= score <= 1 for score in scores)
            measured[name].append(correlations(scores, [row["label"] for row in part]))
    for name, values in measured.items():
        values.append(np.mean(values, axis=0))
        assert np.round(values, 4).tolist() == [list(pair) for pair in ANCHORS[name][:6]], name


def test_correlations_with_grades(shared):
    """An intent with equal grades or equal scores has no correlation and drops out."""
    rows = rows_of(shared, "conala.jsonl")
    groups = defaultdict(list)
    for number, row in enumerate(rows):
        groups[row["group"]].append(number)
    assert len(groups) == 355
    for name, scores in scored(rows).items():
        values = [correlations([scores[number] for number in group], [rows[number]["grade"] for number in group])
                  for group in groups.values() if len({scores[number] for number in group}) > 1
                  and len({rows[number]["grade"] for number in group}) > 1]
        assert len(values) == 331
        assert np.round(np.mean(values, axis=0), 4).tolist() == list(ANCHORS[name][6]), name
