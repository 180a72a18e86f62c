"""Stop strings that spell special tokens, which the text of a completion does not show."""

import dataclasses

import pytest

from jaxllm import Generator, SamplingConfig, load
from jaxllm.judge import LocalJudge, Prompt


@pytest.fixture(scope="module")
def tiny():
    return Generator(load("tiny"), batch_size=2)


def forced(tiny, text):
    """Settings under which greedy decoding writes one token again and again."""
    return SamplingConfig(temperature=0.0, max_tokens=20, logit_bias={tiny.model.tokenizer.special_tokens[text]: 1e4})


def test_a_special_token_ends_a_completion(tiny):
    user, prompt = tiny.model.tokenizer.special_tokens["<|user|>"], tiny.model.prompt_ids("The ship")
    free = forced(tiny, "<|user|>")
    for stop, tokens in (([], 20), (["<|user|>"], 1), (["<|user|><|user|>"], 2), (["<|system|>"], 20), (["x<|"], 20),
                         (["never", "<|user|>"], 1)):
        [[completion]] = tiny.generate([prompt], dataclasses.replace(free, stop=stop))
        assert (completion.token_ids, completion.text) == ([user] * tokens, "")
        assert completion.finish_reason == ("stop" if tokens < 20 else "length")


def test_judges_stop_at_special_tokens(tiny):
    judge = LocalJudge(load("tiny"), "tiny", batch_size=2)
    [[answer]] = judge.complete([Prompt("Is it?")], dataclasses.replace(forced(tiny, "<|user|>"), stop=["<|user|>"]))
    assert (answer.text, answer.finish_reason, answer.usage.completion_tokens) == ("", "stop", 1)
