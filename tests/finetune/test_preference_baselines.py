"""What `scripts/preference_baselines.py` prints, by hand."""

import sys

from tests.conftest import ROOT

sys.path.append(str(ROOT / "scripts"))  # the script imports another one
from preference_baselines import table  # noqa: E402


def pair(prompt: str, chosen: str, rejected: str) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def test_baselines_learn_from_the_other_pairs():
    """The shorter answer wins two of three training pairs; `good` is there chosen three times, `bad` rejected twice."""
    pairs = {"a": pair("1", "good", "bad bad"), "b": pair("2", "good", "bad one"), "c": pair("3", "good one", "worse"),
             "d": pair("4", "good", "plain"), "e": pair("5", "bad one", "good"), "f": pair("6", "x", "y")}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]]
            for line in table(pairs, {"d": 1.0, "e": 0.0, "f": 1.0}).splitlines()[2:]]
    means = {name: (int(count), accuracy.split()[0], less.split()[:1]) for name, count, accuracy, less in rows}
    assert means == {
        "model": (3, "0.667", []),
        "shorter answer": (3, "0.500", ["0.167"]),  # d shorter, e longer, f equal
        "bag of words (naive Bayes)": (3, "0.500", ["0.167"]),
        "model, where the chosen answer is longer": (1, "0.000", []),
        "model, where the chosen answer is shorter": (1, "1.000", [])}
