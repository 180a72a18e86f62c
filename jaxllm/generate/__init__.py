"""Prompts to tokens: sampling, prefill and decode, scoring."""

from jaxllm.generate.classify import classify
from jaxllm.generate.engine import Completion, generate
from jaxllm.generate.scoring import Score, score

__all__ = ["Completion", "Score", "classify", "generate", "score"]
