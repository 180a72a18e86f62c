"""Inference: sampling, prefill and decoding, scoring, classification."""

from jaxllm.generate.completion import Completion
from jaxllm.generate.generator import Generator, generate, score
from jaxllm.generate.scheduler import GenerationStats, check_prompt
from jaxllm.generate.scoring import Score

__all__ = ["Completion", "GenerationStats", "Generator", "Score", "check_prompt", "generate", "score"]
