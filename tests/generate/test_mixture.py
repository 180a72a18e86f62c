"""Completions that two prompts share: equal to plain ones where one of them is drawn from, and the choice of tokens."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.generate import Generator, scheduler, slots
from jaxllm.generate.mixture import generate_mixture
from jaxllm.model import Model
from tests.letters import Letters, prompts
from tests.networks import forward

GREEDY = SamplingConfig(temperature=0.0, max_tokens=12)
NUCLEUS = SamplingConfig(temperature=1.0, top_p=0.9, max_tokens=12)
FIRST, SECOND = prompts(10)[5:], prompts(5)
PAIRS = [*zip(FIRST, SECOND, strict=True)]


@pytest.fixture(scope="module")
def model(llama):
    spec, params = llama
    return Model(dataclasses.replace(spec, eos_ids=()), params, Letters())


def mixture(model, share, sampling=GREEDY, pairs=PAIRS, rows=range(5), batch_size=32):
    generator = Generator(model, batch_size=batch_size)
    return generate_mixture(generator, pairs, share, sampling, seed=3, row_ids=list(rows))


def token_ids(results):
    return [completion.token_ids for completion, _ in results]


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_one_of_the_prompts_alone(model, batch_size):
    """Greedy, without the second prompt or with nothing else, texts are those of one prompt."""
    for share, own in ((0.0, FIRST), (1.0, SECOND)):
        results = mixture(model, share, batch_size=batch_size)
        plain = [row[0] for row in Generator(model).generate(own, GREEDY)]
        assert token_ids(results) == [one.token_ids for one in plain]
        for (completion, chosen), one in zip(results, plain, strict=True):
            assert completion.text == one.text and chosen.tolist() == [bool(share)] * 12
            assert_allclose(completion.logprobs, one.logprobs, atol=1e-4)


@pytest.mark.parametrize("sampling", [GREEDY, NUCLEUS])
def test_tokens_follow_the_distribution_after_the_chosen_prompt(model, sampling):
    """Log-probabilities are those of a full forward pass of the chosen prompt with the same tokens before."""
    results, greedy = mixture(model, 0.5, sampling), 0
    for pair, (completion, chosen) in zip(PAIRS, results, strict=True):
        for i, (token, second) in enumerate(zip(completion.token_ids, chosen, strict=True)):
            ids = jnp.asarray([[*pair[int(second)], *completion.token_ids[:i]]])
            scores = forward(model.spec, model.params, ids).hidden[0, -1] @ model.params["head"].T
            assert_allclose(completion.logprobs[i], jax.nn.log_softmax(scores)[token], atol=1e-4)
            greedy += int(scores.argmax()) == token
    assert greedy == 60 if sampling is GREEDY else greedy < 60
    assert len({tuple(chosen) for _, chosen in results}) == 5
    assert 15 < sum(chosen.sum() for _, chosen in results) < 45
    assert [one.logprob for one, _ in results] == [pytest.approx(one.logprobs.sum(), abs=1e-5) for one, _ in results]


@pytest.mark.parametrize("sampling", [GREEDY, NUCLEUS])
def test_neighbors_order_and_batch_size_change_nothing(model, sampling):
    results = mixture(model, 0.4, sampling)
    for batch_size in (1, 2, 6):
        assert token_ids(mixture(model, 0.4, sampling, batch_size=batch_size)) == token_ids(results)
    backwards = mixture(model, 0.4, sampling, PAIRS[::-1], range(4, -1, -1), batch_size=4)
    assert token_ids(backwards) == token_ids(results)[::-1]
    longer = mixture(model, 0.4, dataclasses.replace(sampling, max_tokens=30), PAIRS[2:3], [2])
    assert longer[0][0].token_ids[:12] == results[2][0].token_ids
    assert longer[0][1][:12].tolist() == results[2][1].tolist()


def test_texts_end_for_both_prompts(model):
    """With an end token or a stop string, as soon as it is drawn after either of them."""
    free = mixture(model, 0.5, dataclasses.replace(NUCLEUS, max_tokens=40))
    end = free[0][0].token_ids[20]
    stopping = dataclasses.replace(model, spec=dataclasses.replace(model.spec, eos_ids=(end,)))
    text = free[1][0].text[20:22]
    for other, stop in ((stopping, []), (model, [text])):
        results = mixture(other, 0.5, dataclasses.replace(NUCLEUS, max_tokens=40, stop=stop), batch_size=4)
        assert {completion.finish_reason for completion, _ in results} >= {"stop"}
        for (completion, chosen), (whole, _) in zip(results, free, strict=True):
            size = len(completion.token_ids)
            assert completion.token_ids == whole.token_ids[:size] and len(chosen) == len(completion.logprobs) == size
            ended = completion.token_ids[-1] == end if not stop else text in whole.text
            assert completion.finish_reason == ("stop" if ended else "length") and (ended or size == 40)
            assert not stop or completion.text == whole.text.partition(text)[0]


def test_one_program_for_all_shares_and_settings(model):
    mixture(model, 0.5)
    before = slots.decode._cache_size()
    for share, sampling in ((0.0, GREEDY), (0.9, NUCLEUS), (0.5, SamplingConfig(max_tokens=7, stop=["xyz"]))):
        mixture(model, share, sampling, PAIRS[:4], range(4))
    assert slots.decode._cache_size() == before


def test_too_little_memory_halves_the_batch(model, monkeypatch, capsys):
    """Pairs stay together: without memory for one of them the call ends."""
    slots_in_memory = 2
    expected, plain = token_ids(mixture(model, 0.5)), scheduler.decode

    def decode(*arguments):
        if len(arguments[3].done) > slots_in_memory:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.")
        return plain(*arguments)

    monkeypatch.setattr(scheduler, "decode", decode)
    assert token_ids(mixture(model, 0.5, batch_size=8)) == expected
    assert "going on with 2" in capsys.readouterr().err
    slots_in_memory = 1
    with pytest.raises(jax.errors.JaxRuntimeError, match="EXHAUSTED"):
        mixture(model, 0.5, batch_size=8)


def test_numbers_that_do_not_fit_the_prompts(model):
    for sampling, rows in ((dataclasses.replace(NUCLEUS, n=2), 5), (GREEDY, 4)):
        with pytest.raises(UserError, match="mixed"):
            Generator(model).generate([*FIRST, *SECOND], sampling, mixed=np.zeros((rows, 12), bool))
    assert mixture(model, 0.5, pairs=[], rows=[]) == []
