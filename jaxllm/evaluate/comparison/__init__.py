"""Comparison of two models by a judge: wins, ties and losses of one against the other on the same prompts."""

from jaxllm.evaluate.comparison.measures import compared, length_controlled, outcome, shares, sign_test

__all__ = ["compared", "length_controlled", "outcome", "shares", "sign_test"]
