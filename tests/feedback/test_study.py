"""The measurement of `scripts/feedback_study.py`: rows for each method that belong together."""

import sys

import numpy as np

from tests.conftest import ROOT

sys.path.append(str(ROOT / "scripts"))  # the script imports another one
from feedback_study import FOLD, MEMBERS, VALIDATION, Split  # noqa: E402


def test_difficulties_are_those_of_the_answers_in_the_rows():
    """An exchanged label exchanges the difficulties too; an answer without one is not ranked."""
    count = MEMBERS * FOLD + VALIDATION + 10
    states = np.random.default_rng(0).normal(0, 1, (count, 2, 3))
    names = [[f"{side} {number}" for number in range(count)] for side in ("positive", "negative")]
    split, both = Split(0, states, states[:4], *names), np.arange(2.0 * count).reshape(count, 2)
    both[split.training[3], 1] = np.nan
    known = {name: None if np.isnan(value) else value for own, values in zip(names, both.T, strict=True)
             for name, value in zip(own, values.tolist(), strict=True)}
    flipped = np.arange(10) % 2 > 0
    rows, found = split.rows(flipped), split.difficulties(flipped, both)
    assert [row["chosen"].split()[0] for row in rows[:2]] == ["positive", "negative"]
    assert found == [{"id": row["id"], "chosen": known[row["chosen"]], "rejected": known[row["rejected"]]}
                     for row in rows]
    assert found[3]["chosen"] is None
