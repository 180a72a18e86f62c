"""Question-answer pairs from whoever answers prompts: a larger model, a server, recorded answers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from jaxllm.config import SamplingConfig
from jaxllm.judge import Judge, Prompt
from jaxllm.self_param.questions import QuestionAnswer, QuestionConfig, QuestionSource

# One worked example, whose answers are all in its text: a demonstration that adds facts teaches to add facts.
INSTRUCTION = """\
Write as many different questions about the text as it answers, each with its answer, one pair a line, in the form
Question: ... Answer: ...
Answers are short and taken from the text. Write nothing else.

For the text
The lighthouse of Orrin was built in 1871 by two brothers. Its lamp burned whale oil.
this would be
Question: When was the lighthouse of Orrin built? Answer: in 1871
Question: Who built the lighthouse of Orrin? Answer: two brothers
Question: What did the lamp of the lighthouse burn? Answer: whale oil

The text is

"""
# Pairs that a reply is expected to have, and tokens that it may have for each.
PAIRS_A_REPLY, TOKENS_A_PAIR = 8, 48

_PAIR = re.compile(r"Question:\s*(?P<question>[^\n]*?\S)\s*Answer:[^\S\n]*(?P<answer>[^\n]*?)\s*(?=Question:|\n|$)")


def read_pairs(reply: str) -> list[QuestionAnswer]:
    """Pairs `Question: ... Answer: ...` of a reply; answers end with their line or with the next question."""
    return [(one["question"], one["answer"]) for one in _PAIR.finditer(reply) if one["answer"]]


def judge_source(judge: Judge, config: QuestionConfig, seed: int,
                 on_reply: Callable[[int], None] | None = None) -> QuestionSource:
    """Lets a judge write pairs about every document, in several replies that differ by chance.

    Args:
        judge: who is asked.
        config: how many pairs, and at what temperature.
        seed: of the draws.
        on_reply: called with the number of documents that are asked about so far.
    """
    sampling = SamplingConfig(temperature=config.temperature, max_tokens=PAIRS_A_REPLY * TOKENS_A_PAIR,
                              n=-(-config.per_document // PAIRS_A_REPLY))

    def source(texts: Sequence[str]) -> list[list[QuestionAnswer]]:
        prompts = [Prompt([{"role": "user", "content": INSTRUCTION + text}]) for text in texts]
        done = 0

        def tell(number: int, answers: object) -> None:
            nonlocal done
            done += 1
            if on_reply is not None:
                on_reply(done)

        replies = judge.complete(prompts, sampling, seed=seed, on_answer=tell)
        return [[pair for reply in own for pair in read_pairs(reply.text)] for own in replies]

    return source
