"""Completions that two prompts share, each token drawn after one of them: mixed contextual self-distillation (MixSD,
2605.16865).

    y_t ~ p( . | second prompt, y_<t) with probability `share`, else p( . | first prompt, y_<t)

Where the first prompt has a document and the second has not, the text has facts of the document and stays close to
what the model writes without it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from jaxllm.config import SamplingConfig
from jaxllm.generate.completion import Completion
from jaxllm.generate.generator import Generator, Ids


def generate_mixture(generator: Generator, prompts: Sequence[tuple[Ids, Ids]], share: float, sampling: SamplingConfig,
                     *, seed: int, row_ids: Sequence[int]) -> list[tuple[Completion, np.ndarray]]:
    """Continues two prompts at a time with the same tokens.

    Which prompt a token is drawn after depends on the seed, the row id and the number of the token alone.

    Args:
        generator: the model.
        prompts: first and second prompt of every completion, token ids.
        share: probability of the second prompt, within 0 and 1.
        sampling: settings; `sampling.n` must be 1.
        seed: base of the random streams.
        row_ids: the numbers of the completions in the random streams.

    Returns:
        every completion, with each log-probability after the prompt that the token was drawn after; and `[N]` bool,
        whether that is the second.
    """
    draws = np.array([np.random.default_rng((seed, number)).random(sampling.max_tokens) < share for number in row_ids])
    both = generator.generate([ids for pair in prompts for ids in pair], sampling, seed=seed,
                              row_ids=[number for number in row_ids for _ in range(2)], mixed=draws)
    results = []
    for (first,), (second,), own in zip(both[::2], both[1::2], draws, strict=True):
        chosen = own[:len(first.token_ids)]
        logprobs = np.where(chosen, second.logprobs, first.logprobs)
        total = float(np.sum(logprobs, dtype=np.float64))
        results.append((dataclasses.replace(first, logprob=total, logprobs=logprobs), chosen))
    return results
