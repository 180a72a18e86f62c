"""Prompts to tokens: sampling, prefill and decode, scoring."""

from jaxllm.generate.classify import classify
from jaxllm.generate.completion import Completion
from jaxllm.generate.engine import generate
from jaxllm.generate.scoring import Score, score

__all__ = ["Completion", "Score", "classify", "generate", "score"]
