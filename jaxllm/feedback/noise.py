"""Wrong labels on purpose, to measure how well they are detected and what they cost.

The probability that a label is exchanged is sigmoid(shift + strength z) with a property z of the pair; the shift makes
the mean probability the rate. Draws depend on the seed and the pair's id alone, so that a higher rate exchanges all
labels of a lower one, and the order of the rows does not matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

Kind = Literal["uniform", "class", "annotator", "length", "margin"]
_NEEDS = {"class": "groups", "annotator": "groups", "length": "words", "margin": "margins"}


def flips(ids: Sequence[Hashable], rate: float, kind: Kind = "uniform", *, seed: int = 0, strength: float = 2.0,
          groups: Iterable[Hashable] | None = None, words: ArrayLike | None = None, margins: ArrayLike | None = None
          ) -> np.ndarray:
    """Draws the labels that are exchanged, `[N]` bool.

    Args:
        ids: id of each pair.
        rate: expected share of exchanged labels, at least 0 and at most 1.
        kind: uniform; class or annotator (some groups err more, by a normal effect of each group); length (where the
            rejected answer is the longer one, as by raters who prefer length); margin (where both answers are nearly as
            good).
        seed: seed of the draws.
        strength: how much the property counts, in logits per standard deviation; 0 is uniform.
        groups: class or annotator of each pair.
        words: words of the chosen and the rejected answer, `[N, 2]`.
        margins: by how much the chosen answer is better, `[N]`.

    Raises:
        ValueError: the rate is out of range, or what the kind needs is not given.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"the rate must be between 0 and 1, got {rate}")
    given = {"groups": groups, "words": words, "margins": margins}
    if kind in _NEEDS and given[_NEEDS[kind]] is None:
        raise ValueError(f"noise of kind {kind} needs {_NEEDS[kind]}")
    draws = np.array([_draw(f"{seed}\n{name}") for name in ids])
    if kind == "uniform" or rate in (0, 1) or not len(draws):
        return draws < rate
    if kind == "length":
        length = np.asarray(words, float)
        z = np.log1p(length[:, 1]) - np.log1p(length[:, 0])
    elif kind == "margin":
        z = -np.asarray(margins, float)
    else:
        own = [] if groups is None else list(groups)
        effect = {group: np.random.default_rng([seed, int(2**31 * _draw(str(group)))]).normal()
                  for group in dict.fromkeys(own)}
        z = np.array([effect[group] for group in own])
    z = (z - z.mean()) / (z.std() or 1.0)
    return draws < _with_mean(strength * z, rate)


def _draw(text: str) -> float:
    """Returns a number from 0 to 1 that depends on a text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") / 2**64


def _with_mean(logits: np.ndarray, rate: float) -> np.ndarray:
    """Shifts logits so that the mean of their probabilities is the rate; returns the probabilities."""
    from scipy.optimize import brentq
    from scipy.special import expit

    reach = 40 + np.abs(logits).max()
    return expit(logits + brentq(lambda shift: expit(logits + shift).mean() - rate, -reach, reach))
