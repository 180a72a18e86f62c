"""`Generator`: weights prepared once, adapters next to frozen (quantized) weights, log-probabilities per token."""

import dataclasses
import gc

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.generate import GenerationStats, Generator, scoring, slots
from jaxllm.model import Model
from jaxllm.models import Head, LoraConfig, merge_adapter, unstack_layers
from jaxllm.models.quantized import dequantize_params, quantize_params
from tests.letters import Letters, prompts
from tests.networks import LLAMA, random_adapter, random_params, random_tokens

GREEDY = SamplingConfig(temperature=0.0, max_tokens=12)
# Widths that int4 and nf4 can group; one shape for all tests here.
SPEC = dataclasses.replace(LLAMA, width=64, head_dim=16, mlp_width=128, eos_ids=())


@pytest.fixture(scope="module")
def model():
    return Model(SPEC, random_params(SPEC, seed=7), Letters())


@pytest.fixture(scope="module")
def adapter():
    return random_adapter(SPEC, LoraConfig(rank=4, alpha=8.0), 0.05)


@pytest.fixture(scope="module")
def generator(model):
    return Generator(model, batch_size=4)


def shared_prefix_prompts():
    head = random_tokens(1, 24, seed=50)[0].tolist()
    return [[*head, *random_tokens(1, 1 + i, seed=i)[0].tolist()] for i in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [None, "int8", "int4", "nf4"])
def test_an_adapter_next_to_the_base_equals_the_merged_model(model, adapter, scheme):
    """Through shared prefix, prefill, insert and decode, and through scoring."""
    base = model.params if scheme is None else quantize_params(model.params, scheme)
    full = base if scheme is None else dequantize_params(base, jnp.dtype("float32"))
    apart = Generator(dataclasses.replace(model, params=base), batch_size=4)
    merged = Generator(dataclasses.replace(model, params=merge_adapter(full, adapter)), batch_size=4)
    texts, stats = [*shared_prefix_prompts(), *prompts(3)], GenerationStats()
    ours, expected = apart.generate(texts, GREEDY, adapter=adapter, stats=stats), merged.generate(texts, GREEDY)
    assert [row.token_ids for row, in ours] == [row.token_ids for row, in expected]
    assert stats.prompt_tokens == sum(map(len, texts)) - 4 * 24
    assert [row.token_ids for row, in ours] != [row.token_ids for row, in apart.generate(texts, GREEDY)]
    for (row,), (wanted,) in zip(ours, expected, strict=True):
        assert_allclose(row.logprobs, wanted.logprobs, atol=1e-5)
    pairs = [(text, row.token_ids) for text, (row,) in zip(texts, expected, strict=True)]
    for score, wanted in zip(apart.score(pairs, adapter=adapter), merged.score(pairs), strict=True):
        assert_allclose(score.logprobs, wanted.logprobs, atol=1e-5)


def test_adapters_of_either_layout(generator, adapter):
    unstacked = dataclasses.replace(adapter, params=unstack_layers(adapter.params))
    assert generator.generate(prompts(2), GREEDY, adapter=adapter) == generator.generate(
        prompts(2), GREEDY, adapter=unstacked)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_generated_logprobs_equal_scored_ones(generator, temperature):
    """Of softmax(logits / temperature), independent of truncation; per token and in sum."""
    sampling = SamplingConfig(temperature=0.7, top_k=5, max_tokens=9)
    made = generator.generate(prompts(), sampling, seed=3, logprob_temperature=temperature)
    scored = generator.score([(p, row.token_ids) for p, (row,) in zip(prompts(), made, strict=True)],
                             temperature=temperature)
    for (row,), score in zip(made, scored, strict=True):
        assert row.logprobs.dtype == score.logprobs.dtype == np.float32
        assert len(row.logprobs) == len(row.token_ids) == score.tokens == 9
        assert_allclose(row.logprobs, score.logprobs, atol=1e-5)
        assert row.logprob == pytest.approx(row.logprobs.sum(dtype=np.float64), abs=1e-6)
        assert score.logprob == pytest.approx(score.logprobs.sum(dtype=np.float64), abs=1e-6)


def test_logprobs_by_hand(generator, model):
    """At temperature 2, against log_softmax of the full forward pass."""
    from tests.networks import forward

    prompt = prompts(3)[2]
    (row,), = generator.generate([prompt], GREEDY, logprob_temperature=2.0)
    hidden = forward(model.spec, model.params, jnp.asarray([[*prompt, *row.token_ids]])).hidden[0]
    logprobs = jax.nn.log_softmax(hidden @ model.params["head"].T / 2.0)[len(prompt) - 1:-1]
    assert_allclose(row.logprobs, logprobs[np.arange(12), np.array(row.token_ids)], atol=1e-5)


@pytest.mark.parametrize("size, states", [(1, 32), (20, 128), (50, None)])
def test_only_the_states_that_predict_continuations_are_unembedded(model, monkeypatch, programs, size, states):
    """In few sizes, and all states of a row at most; the values are those of the full forward pass."""
    from tests.networks import forward

    read, plain = [], scoring.packed_logprobs

    def packed_logprobs(spec, params, adapter, rows, *rest):
        found = plain(spec, params, adapter, rows, *rest)
        read.append((*found.shape, rows.tokens.shape[1]))
        return found

    monkeypatch.setattr(scoring, "packed_logprobs", packed_logprobs)
    draw, generator = np.random.default_rng(size), Generator(model)
    ids = lambda length: draw.integers(3, SPEC.vocab_size, length)
    pairs = [(ids(9), ids(size)) for _ in range(4)]
    hidden = forward(model.spec, model.params, jnp.asarray([np.concatenate(pair) for pair in pairs])).hidden
    expected = jax.nn.log_softmax(hidden @ model.params["head"].T)[:, 8:-1]
    for (_, continuation), score, own in zip(pairs, generator.score(pairs), expected, strict=True):
        assert_allclose(score.logprobs, own[np.arange(size), continuation], atol=1e-5)
    [(rows, count, length)] = read
    assert rows == 1 and count == (length if states is None else states)
    before = programs()
    generator.score([(ids(6 + i), ids(size)) for i in range(4)])
    assert programs() == before


def test_another_temperature_compiles_nothing(generator, programs):
    pairs = [(prompt, [5, 6]) for prompt in prompts()]
    run = lambda value: (generator.generate(prompts(), GREEDY, logprob_temperature=value),
                         generator.score(pairs, temperature=value))
    run(1.0)
    before = programs()
    run(0.5)
    assert programs() == before
    for call in (lambda: generator.score(pairs, temperature=0.0),
                 lambda: generator.generate(prompts(), GREEDY, logprob_temperature=float("nan"))):
        with pytest.raises(UserError, match="temperature: must be above 0"):
            call()


@pytest.mark.parametrize("options, message", [
    (dict(max_tokens=[4, 0]), "max_tokens: must be 1 or more, got 0"),
    (dict(max_tokens=[-5, 4]), "max_tokens: must be 1 or more, got -5"),
    (dict(max_tokens=[4]), "max_tokens: must have a number for each of 2 prompts, got 1"),
    (dict(max_tokens=np.array([4, 4, 4])), "max_tokens: must have a number for each of 2 prompts, got 3"),
    (dict(row_ids=[0]), "row_ids: must have a number for each of 2 prompts, got 1"),
    (dict(row_ids=range(3)), "row_ids: must have a number for each of 2 prompts, got 3"),
    (dict(row_ids=[0, -1]), "row_ids: must be 0 or more, got -1"),
    (dict(row_ids=[0, 2**32]), "row_ids: must be below 2**32, got 4294967296"),
    (dict(seed=2**32), "seed: must be below 2**32, got 4294967296"),
    (dict(seed=-1), "seed: must be 0 or more, got -1")])
def test_numbers_that_do_not_fit_the_prompts(generator, options, message):
    with pytest.raises(UserError) as caught:
        generator.generate(prompts(2), GREEDY, **options)
    assert str(caught.value) == message


def test_a_batch_has_a_sequence_or_more(model):
    for size in (0, -1):
        with pytest.raises(UserError, match=f"batch_size: must be 1 or more, got {size}"):
            Generator(model, batch_size=size)


def test_live_bytes_stay_flat(generator, adapter):
    """Over ten calls, and within a call: the base exists once, next to the KV cache and the adapter."""
    live = lambda: sum(array.nbytes for array in jax.live_arrays())
    pairs = [(prompt, [5, 6, 7]) for prompt in prompts()]
    during: list[int] = []
    note = lambda *_: during.append(live())
    run = lambda: (generator.generate(prompts(), GREEDY, adapter=adapter, on_prompt=note),
                   generator.score(pairs, adapter=adapter, on_batch=note))
    run()
    before = live()
    during.clear()
    for _ in range(10):
        run()
        assert live() == before
    cache = 4 * 64 * 2 * SPEC.layers * SPEC.kv_heads * SPEC.head_dim * 4
    working = cache + 4 * SPEC.vocab_size * 5 + sum(leaf.nbytes for leaf in jax.tree.leaves(adapter.params))
    prefilled = 4 * SPEC.vocab_size * 4 + cache  # of the last pack, at most
    assert max(during) <= before + working + prefilled + 2**14
    layers = sum(leaf.nbytes for leaf in jax.tree.leaves(generator.params["layers"]))
    assert max(during) < before + layers


def test_a_call_leaves_no_reference_cycle_with_arrays(generator, adapter):
    """Arrays of a call are freed when it returns, without a run of the garbage collector."""
    live = lambda: sum(array.nbytes for array in jax.live_arrays())
    pairs = [(prompt, [5, 6, 7]) for prompt in shared_prefix_prompts()]
    gc.collect()
    gc.disable()
    try:
        for call in (lambda: generator.score(pairs, adapter=adapter),
                     lambda: generator.generate(shared_prefix_prompts(), GREEDY, adapter=adapter)):
            call()
            before = live()
            call()
            assert live() == before
    finally:
        gc.enable()


def test_training_shares_the_weights(model, adapter):
    """Stacked for training, unstacked for generation, with the same values and never both."""
    given = jax.tree.map(np.array, model.params)
    generator = Generator(dataclasses.replace(model, params=jax.tree.map(jnp.copy, model.params)), donate=True)
    expected = generator.generate(prompts(2), GREEDY, adapter=adapter)
    for _ in range(2):
        decoding = generator.params
        chex.assert_trees_all_equal(generator.training_params(), given)
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(decoding["layers"]))
        training = generator.params
        assert generator.generate(prompts(2), GREEDY, adapter=adapter) == expected
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(training["layers"]))


def test_given_weights_are_kept(model):
    generator = Generator(model)
    expected = generator.generate(prompts(2), GREEDY)
    decoding = generator.params
    assert generator.training_params() is model.params
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(decoding["layers"]))
    assert generator.generate(prompts(2), GREEDY) == expected
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(model.params))


def test_consume_frees_the_stacked_weights():
    params = random_params(SPEC, seed=8)
    expected = Generator(Model(SPEC, params, Letters())).generate(prompts(2), GREEDY)
    generator = Generator(Model(SPEC, params, Letters()), donate=True)
    assert generator.generate(prompts(2), GREEDY) == expected
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params["layers"]))


@pytest.mark.parametrize("scheme", [None, "int8"])
@pytest.mark.slow
def test_merged_weights_are_apart_from_the_base(model, adapter, scheme):
    """A generator with an adapter merged converts its own layers; the base, which shares its embeddings, stays."""
    params = model.params if scheme is None else quantize_params(model.params, scheme)
    base = Generator(dataclasses.replace(model, params=params), batch_size=4)
    tokens = lambda generator, **options: [row.token_ids for row, in generator.generate(prompts(2), GREEDY, **options)]
    expected = tokens(base), tokens(base, adapter=adapter)
    merged = base.merged(adapter)
    merged.training_params()
    base.training_params()
    assert (tokens(base), tokens(merged)) == expected
    assert merged.params["embed"] is base.params["embed"]
    back = merged.merged(dataclasses.replace(adapter, scale=-adapter.scale), donate=True)
    if scheme is None:
        chex.assert_trees_all_close(back.training_params(), base.training_params(), atol=1e-5)


def test_replace_params(generator, model, adapter):
    merged = generator.replace_params(merge_adapter(model.params, adapter))
    assert merged.batch_size == generator.batch_size and merged.model.tokenizer is model.tokenizer
    assert merged.generate(prompts(2), GREEDY) == Generator(
        dataclasses.replace(model, params=merge_adapter(model.params, adapter))).generate(prompts(2), GREEDY)


def test_models_with_a_scoring_head_do_not_generate(model):
    spec = dataclasses.replace(SPEC, head=Head(2, "last"))
    classifier = Generator(dataclasses.replace(model, spec=spec))
    for call in (lambda: classifier.generate(prompts(1), GREEDY), lambda: classifier.score([([1], [2])])):
        with pytest.raises(UserError, match="scoring head"):
            call()


def test_the_hot_loop_transfers_nothing_implicitly(generator):
    """Inputs of every program are put on the device explicitly."""
    sampling = SamplingConfig(temperature=1.0, max_tokens=12, n=2)
    texts = [*shared_prefix_prompts(), *prompts(3)]
    pairs = [(text, [5, 6]) for text in texts]
    expected = generator.generate(texts, sampling), generator.score(pairs)
    with jax.transfer_guard("disallow"):
        assert (generator.generate(texts, sampling), generator.score(pairs)) == expected


@pytest.mark.slow
def test_few_programs_for_varied_numbers_of_prompts(model):
    """1 to 16 prompts and limits up to 64 tokens: three numbers of slots, one program each."""
    generator = Generator(model, batch_size=16)
    slots.decode.clear_cache()
    for count in (1, 2, 3, 5, 9, 16):
        generator.generate((prompts(4) * 4)[:count], SamplingConfig(temperature=0.0, max_tokens=4 + count))
    assert slots.decode._cache_size() == 3
