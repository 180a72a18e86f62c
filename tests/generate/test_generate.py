"""Generation: sampling, stop conditions, and independence from batch size and neighbors."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.generate import GenerationStats, check_prompt, generate, scheduler, score, slots
from jaxllm.generate.completion import REPLACEMENT, continuation_text, find_stop
from jaxllm.generate.sampling import Sampling, argmax, row_keys, sample_tokens, truncate
from jaxllm.model import Model
from jaxllm.models import Rope
from tests.letters import Letters, prompts
from tests.networks import forward, random_tokens
from tests.processes import run_file


@pytest.fixture(scope="module")
def model(llama):
    spec, params = llama
    return Model(dataclasses.replace(spec, eos_ids=()), params, Letters())


GREEDY = SamplingConfig(temperature=0.0, max_tokens=12)


def settings(rows, **changes):
    full = lambda value, kind: jnp.full(rows, value, kind)
    usual = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition=1.0, logprob_temperature=1.0)
    arrays = {name: full(value, jnp.int32 if name == "top_k" else jnp.float32) for name, value in usual.items()}
    keys = row_keys(jax.random.key(0), np.arange(rows), np.zeros(rows, int))
    arrays |= dict(bias_ids=jnp.full(8, -1), bias=jnp.zeros(8), stop_ids=jnp.full(8, -1),
                   max_tokens=full(99, jnp.int32), keys=keys)
    return Sampling(**arrays | {name: jnp.asarray(value) for name, value in changes.items()})


def draw(scores, sampling, step=0, seen=None):
    rows = len(scores)
    seen = jnp.zeros(scores.shape, bool) if seen is None else seen
    return sample_tokens(scores, sampling, jnp.full(rows, step), seen)


def test_truncation_by_hand():
    scores = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]] * 4))
    remaining = jnp.isfinite(truncate(scores, jnp.array([0, 2, 0, 3]), jnp.array([1.0, 1.0, 0.65, 0.3])))
    # all; the best two; 0.4 + 0.3 reach 0.65; 0.4 alone reaches 0.3, which is stricter than the best three
    assert remaining.astype(int).tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]]


def test_the_nucleus_is_of_the_probability_that_top_k_leaves():
    scores = jnp.log(jnp.array([[0.5, 0.3, 0.1, 0.1]] * 3))
    remaining = jnp.isfinite(truncate(scores, jnp.array([2, 2, 0]), jnp.array([0.6, 0.65, 0.6])))
    # 0.5 is 0.625 of the best two: enough for 0.6, too little for 0.65; without top-k it is too little for 0.6
    assert remaining.astype(int).tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]


def test_samples_follow_the_distribution():
    """20,000 draws: every frequency within five standard errors of its probability."""
    probs = np.array([0.5, 0.3, 0.15, 0.05])
    rows = 20_000
    scores = jnp.broadcast_to(jnp.log(jnp.asarray(probs)), (rows, 4))
    drawn = np.bincount(draw(scores, settings(rows)), minlength=4) / rows
    assert np.all(np.abs(drawn - probs) < 5 * np.sqrt(probs * (1 - probs) / rows))
    tempered = probs**2 / (probs**2).sum()
    drawn = np.bincount(draw(scores, settings(rows, temperature=jnp.full(rows, 0.5))), minlength=4) / rows
    assert np.all(np.abs(drawn - tempered) < 5 * np.sqrt(tempered * (1 - tempered) / rows))


@pytest.mark.slow
def test_greedy_and_sampled_rows_in_one_batch():
    scores = jnp.array([[0.0, 9.0, 0.0]] * 2)
    mixed = settings(2, temperature=[0.0, 1e6])
    drawn = [draw(scores, mixed, step) for step in range(20)]
    assert {int(d[0]) for d in drawn} == {1} and len({int(d[1]) for d in drawn}) > 1


def test_min_p_by_hand():
    """Of 0.5, 0.3, 0.15, 0.05, a share of 0.5 of the best leaves two: 0.3 is 0.6 of it, 0.15 is 0.3."""
    scores = jnp.broadcast_to(jnp.log(jnp.array([0.5, 0.3, 0.15, 0.05])), (2000, 4))
    shares = np.bincount(draw(scores, settings(2000, min_p=jnp.full(2000, 0.5))), minlength=4) / 2000
    assert shares[2:].tolist() == [0, 0] and abs(shares[0] - 0.625) < 5 * (0.625 * 0.375 / 2000) ** 0.5


def test_repetition_penalty_and_bias_by_hand():
    """2 / 2 falls below 1.5, and -1 * 2 below -1.5; a bias of 3 lifts -1.5 to 1.5."""
    scores, seen = jnp.array([[2.0, 1.5], [-1.0, -1.5]]), jnp.array([[True, False]] * 2)
    greedy = dict(temperature=[0.0, 0.0])
    assert draw(scores, settings(2, **greedy), seen=seen).tolist() == [0, 0]
    assert draw(scores, settings(2, **greedy, repetition=[2.0, 2.0]), seen=seen).tolist() == [1, 1]
    biased = settings(2, **greedy, bias_ids=[1, -1], bias=[3.0, 99.0])
    assert draw(scores, biased, seen=seen).tolist() == [1, 1]
    assert draw(scores, settings(2, **greedy, bias_ids=[1, 1], bias=[0.2, 0.2])).tolist() == [0, 0]
    # The penalty is on the biased logits: 2.9 / 2 falls below 1.5.
    both = settings(2, **greedy, repetition=[2.0, 2.0], bias_ids=[0, -1], bias=[0.9, 99.0])
    assert draw(scores, both, seen=seen).tolist() == [1, 0]


def test_the_repetition_penalty_is_of_prompt_and_text(model):
    """Prompts of a shared prefix in one pack: the greedy tokens of the full forward pass under the penalty."""
    head = random_tokens(1, 30, seed=50)[0].tolist()
    shared = [[*head, *random_tokens(1, 1 + i, seed=i)[0].tolist()] for i in range(4)]
    made = generate(model, shared, dataclasses.replace(GREEDY, repetition_penalty=2.0))
    for prompt, (completion,) in zip(shared, made, strict=True):
        ids = np.array([*prompt, *completion.token_ids])
        scores = np.array(forward(model.spec, model.params, jnp.asarray(ids[None])).hidden[0] @ model.params["head"].T)
        for i in range(len(prompt), len(ids)):
            seen = np.unique(ids[:i])
            scores[i - 1, seen] *= np.where(scores[i - 1, seen] > 0, 1 / 2, 2)
            assert scores[i - 1].argmax() == ids[i]


def test_greedy_equals_the_argmax_of_the_full_forward(model):
    for prompt, row in zip(prompts(3), generate(model, prompts(3), GREEDY), strict=True):
        ids = jnp.asarray([prompt + row[0].token_ids])
        scores = forward(model.spec, model.params, ids).hidden[0] @ model.params["head"].T
        assert np.asarray(scores[len(prompt) - 1:-1].argmax(-1)).tolist() == row[0].token_ids


def test_logprobs_equal_scoring(model):
    made = generate(model, prompts(), SamplingConfig(temperature=0.7, top_k=5, max_tokens=9), seed=3)
    scored = score(model, [(p, row[0].token_ids) for p, row in zip(prompts(), made, strict=True)])
    assert_allclose([row[0].logprob for row in made], [s.logprob for s in scored], atol=1e-4)
    assert [s.tokens for s in scored] == [len(row[0].token_ids) for row in made]


@pytest.mark.parametrize("sampling", [GREEDY, SamplingConfig(temperature=1.0, max_tokens=12, n=2)])
def test_neighbors_and_batch_size_change_nothing(model, sampling):
    together = generate(model, prompts(), sampling, seed=1)
    apart = generate(model, prompts(), sampling, seed=1, batch_size=1)
    three = generate(model, prompts(), sampling, seed=1, batch_size=3)
    ids = lambda rows: [[c.token_ids for c in row] for row in rows]
    assert ids(together) == ids(apart) == ids(three)
    assert_allclose([row[0].logprob for row in together], [row[0].logprob for row in apart], atol=1e-4)


def test_seeds_and_samples_differ(model):
    free = SamplingConfig(temperature=1.0, max_tokens=12, n=3)
    first, second = generate(model, prompts(1), free, seed=1)[0], generate(model, prompts(1), free, seed=2)[0]
    assert len({tuple(c.token_ids) for c in [*first, *second]}) == 6
    assert first == generate(model, prompts(1), free, seed=1)[0]


def test_stop_ids_end_the_text(model):
    from dataclasses import replace

    free = generate(model, prompts(1), GREEDY)[0][0]
    assert free.finish_reason == "length" and len(free.token_ids) == 12
    end = next(t for i, t in enumerate(free.token_ids) if i > 2)
    ended = generate(replace(model, spec=replace(model.spec, eos_ids=(end,))), prompts(1), GREEDY)[0][0]
    cut = free.token_ids.index(end) + 1
    assert ended.token_ids == free.token_ids[:cut] and ended.finish_reason == "stop"
    assert ended.text == model.tokenizer.decode(free.token_ids[:cut - 1])


def test_stop_strings_cut_the_text(model):
    from dataclasses import replace

    sampling = SamplingConfig(temperature=1.0, max_tokens=40)
    free = generate(model, prompts(), sampling, seed=5)
    long = next(row[0].text for row in free if len(row[0].text) > 24)
    target = long[20:22]  # two tokens, found at the second check of the text
    stopped = generate(model, prompts(), replace(sampling, stop=[target]), seed=5)
    for before, after in zip(free, stopped, strict=True):
        start = before[0].text.find(target)
        if start < 0:
            assert after == before
        else:
            assert after[0].text == before[0].text[:start] and after[0].finish_reason == "stop"
            assert model.tokenizer.decode(after[0].token_ids) == before[0].text[:start] + target
            assert after[0].logprob > before[0].logprob


def test_text_after_characters_that_are_spelled_in_bytes(stories):
    """This tokenizer has no such characters: each is three tokens, and the cut before the end falls within one."""
    encode = stories.tokenizer.encode
    for prompt in ("日本語", "語", "日本語です", "日本語x", "😀😀😀", "\ufffd" * 9, "日本\ufffd語", "日本語" * 9):
        ids = encode(prompt + "日本です ok")[len(encode(prompt)):]
        assert continuation_text(stories, stories.prompt_ids(prompt), ids) == "日本です ok"
        assert find_stop(stories, stories.prompt_ids(prompt), ids, ["本"]) == (6, "日")
        # the last character lacks a byte
        assert continuation_text(stories, stories.prompt_ids(prompt), ids[:5]) == "日\ufffd"


def test_argmax_is_the_first_of_equals():
    scores = jnp.asarray([[1.0, 3.0, 3.0], [-jnp.inf, -jnp.inf, -jnp.inf], [jnp.nan, 1.0, 2.0], [5.0, 5.0, -1.0]])
    assert argmax(scores).tolist() == [1, 0, 2, 0]
    many = jnp.round(jax.random.normal(jax.random.key(0), (64, 100)), 1)
    assert (argmax(many) == many.argmax(-1)).all()


def test_seed_and_bias(model):
    free = SamplingConfig(temperature=1.0, max_tokens=12)
    own = dataclasses.replace(free, seed=7)
    assert generate(model, prompts(), own, seed=1) == generate(model, prompts(), free, seed=7)
    with pytest.raises(UserError, match="none with the id 999999"):
        generate(model, prompts(), dataclasses.replace(free, logit_bias={999999: 1.0}))
    for bias in ({-1: 1.0}, {3: float("nan")}, {3: float("inf")}):
        with pytest.raises(UserError, match="logit_bias"):
            SamplingConfig(logit_bias=bias)


def test_one_compile_for_all_settings(model):
    """Temperature, truncation, seed, stop ids and the number of tokens within a bucket compile nothing new."""
    from dataclasses import replace

    generate(model, prompts(2), SamplingConfig(temperature=1.0, max_tokens=16))
    before = slots.insert._cache_size(), slots.decode._cache_size()
    for sampling in (GREEDY, SamplingConfig(temperature=0.3, top_k=4, max_tokens=7),
                     SamplingConfig(top_p=0.5, max_tokens=16, stop=["xyz"])):
        generate(model, prompts(2), sampling, seed=9)
    generate(replace(model, spec=model.spec, tokenizer=WithStops()), prompts(2), GREEDY)
    assert (slots.insert._cache_size(), slots.decode._cache_size()) == before


class WithStops(Letters):
    stop_ids = (5, 6, 7)


def test_one_compile_per_shape(model):
    """Prompts of other lengths and in other numbers run the same programs; only few numbers of slots are used."""
    slots.insert.clear_cache(), slots.decode.clear_cache()
    for lengths in ((4, 9, 12), (5, 15, 16, 9, 3), (3, 3, 3, 8)):
        rows = [[1, *random_tokens(1, n - 1, seed=n)[0].tolist()] for n in lengths]
        generate(model, rows, GREEDY, batch_size=4)
    assert (slots.insert._cache_size(), slots.decode._cache_size()) == (1, 1)


def test_decoding_consumes_its_state(llama):
    spec, params = llama
    from jaxllm.models import unstack_layers

    state = slots.init_state(spec, 2, 16, 8, jnp.dtype("float32"))
    state = dataclasses.replace(state, done=jnp.zeros(2, bool))
    slots.decode(spec, unstack_layers(params), None, state, settings(2), jnp.int32(4), jnp.int32(2),
                 jnp.dtype("float32"))
    assert state.cache.layers[0][0].is_deleted()


def test_shared_prefixes_are_prefilled_once(model):
    """Twenty prompts with thirty common tokens; each gives the same tokens as alone."""
    head = random_tokens(1, 30, seed=50)[0].tolist()
    shared = [[*head, *random_tokens(1, 1 + i % 5, seed=i)[0].tolist()] for i in range(20)]
    stats = GenerationStats()
    together = generate(model, shared, GREEDY, batch_size=4, stats=stats)
    assert stats.prompt_tokens == 30 + sum(len(prompt) - 30 for prompt in shared)
    for prompt, row in list(zip(shared, together, strict=True))[:4]:
        (alone,), = generate(model, [prompt], GREEDY)
        assert alone.token_ids == row[0].token_ids and abs(alone.logprob - row[0].logprob) < 1e-4
    pairs = [(prompt, [5, 6, 7][:1 + i % 3]) for i, prompt in enumerate(shared)]
    stats = GenerationStats()
    scores = score(model, pairs, stats=stats)
    assert stats.prompt_tokens == 30 + sum(len(prompt) - 30 + len(tail) - 1 for prompt, tail in pairs)
    for pair, own in list(zip(pairs, scores, strict=True))[:4]:
        (alone,) = score(model, [pair])
        assert abs(alone.logprob - own.logprob) < 1e-4


def test_a_prompt_is_prefilled_once_for_all_its_continuations(model):
    """Samples occupy one slot each, and scored continuations are branches."""
    stats, (prompt,) = GenerationStats(), prompts(1)
    generate(model, [prompt], SamplingConfig(temperature=1.0, max_tokens=4, n=6), batch_size=3, stats=stats)
    assert stats.prompt_tokens == 2 * len(prompt)  # three slots at a time
    stats, tails = GenerationStats(), [[5], [6, 7], [5, 8, 9]]
    scores = score(model, [(prompt, tail) for tail in tails], stats=stats)
    assert stats.prompt_tokens == len(prompt) + 3  # a continuation's last token predicts nothing that is read
    for tail, own in zip(tails, scores, strict=True):
        (alone,) = score(model, [(prompt, tail)])
        assert abs(alone.logprob - own.logprob) < 1e-4 and own.tokens == len(tail)


@pytest.mark.parametrize("rope", [
    Rope(500.0, "dynamic", factor=4.0, original_positions=8),
    Rope(500.0, "longrope", original_positions=24, short_factors=(1.0,) * 6, magnitude=1.1,
         long_factors=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0))])
@pytest.mark.slow
def test_length_dependent_rotation_shares_no_prefix(model, rope):
    """After twenty common tokens some texts end before the rotation changes and some after: each equals its own run."""
    turned = dataclasses.replace(model, spec=dataclasses.replace(model.spec, rope=rope))
    head = random_tokens(1, 20, seed=50)[0].tolist()
    pairs = [([*head, *random_tokens(1, 1 + i % 3, seed=i // 2)[0].tolist()], [5] * (1 + 3 * (i % 4)))
             for i in range(12)]
    texts = [prompt + tail for prompt, tail in pairs]
    ids, segments = (jnp.asarray([[value(token) for token in text] + [0] * (40 - len(text)) for text in texts])
                     for value in (int, lambda _: 1))
    hidden = forward(turned.spec, turned.params, ids, segments=segments).hidden
    logprobs = jax.nn.log_softmax(hidden @ turned.params["head"].T)
    for row, (prompt, tail), own in zip(logprobs, pairs, score(turned, pairs), strict=True):
        alone = sum(float(row[len(prompt) - 1 + i, token]) for i, token in enumerate(tail))
        assert abs(own.logprob - alone) < 1e-3
    begun = [prompt for prompt, _ in pairs] if rope.kind == "dynamic" else [text for text in texts if len(text) > 24]
    made = generate(turned, begun, GREEDY)
    for prompt, row in list(zip(begun, made, strict=True))[:3]:
        (alone,), = generate(turned, [prompt], GREEDY)
        assert alone.token_ids == row[0].token_ids


def test_no_text_is_generated_across_the_border_of_longrope(model):
    """On both sides tokens are those of a forward pass of the whole text."""
    rope = Rope(500.0, "longrope", original_positions=24, short_factors=(1.0,) * 6,
                long_factors=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0))
    turned = dataclasses.replace(model, spec=dataclasses.replace(model.spec, rope=rope))
    below, above = (random_tokens(1, length, seed=length)[0].tolist() for length in (16, 25))
    completions = generate(turned, [below, above], GREEDY, max_tokens=[9, 8])
    for prompt, (row,) in zip((below, above), completions, strict=True):
        ids = jnp.asarray([[*prompt, *row.token_ids[:-1]]])  # the last one is not read
        scores = forward(turned.spec, turned.params, ids).hidden @ turned.params["head"].T
        assert row.token_ids == scores[0, len(prompt) - 1:].argmax(-1).tolist()
    with pytest.raises(UserError, match="16 prompt tokens fit the original window of 24, and 10 new ones do not"):
        generate(turned, [below], GREEDY, max_tokens=[10])
    local = dataclasses.replace(turned.spec, local_rope=dataclasses.replace(rope, original_positions=16))
    check_prompt(above, 8, local, "")
    with pytest.raises(UserError, match="16 prompt tokens fit the original window of 16, and 9 new ones do not"):
        check_prompt(below, 9, local, "")


def test_slots_are_refilled(model):
    """Limits of 1 to 24 tokens, four slots: hardly a step is spent on a slot that is done."""
    limits = [1 + 7 * i % 24 for i in range(32)]
    stats = GenerationStats()
    rows = generate(model, prompts(4) * 8, GREEDY, batch_size=4, max_tokens=limits, stats=stats)
    assert [len(row[0].token_ids) for row in rows] == limits
    assert stats.occupancy > 0.9


@pytest.mark.slow
def test_slots_grow_and_shrink_with_their_sequences(model, monkeypatch):
    """Slots grow for a long sequence, shrink after it, and change no tokens."""
    monkeypatch.setattr(scheduler, "SMALLEST_SLOT_TOKENS", 64)
    lengths, resize = [], scheduler.resize
    monkeypatch.setattr(scheduler, "resize", lambda state, length: lengths.append(length) or resize(state, length))
    wide = dataclasses.replace(model, spec=dataclasses.replace(model.spec, max_positions=512))
    rows, limits = [*prompts(4), *prompts(4)], [150, *[12] * 7]
    completions = generate(wide, rows, GREEDY, batch_size=2, max_tokens=limits)
    assert lengths == [128, 192]  # for 4 tokens and 64 more, and for 154 at last
    for prompt, limit, (row,) in list(zip(rows, limits, completions, strict=True))[:3]:
        (alone,), = generate(wide, [prompt], GREEDY, max_tokens=[limit])
        ids = [*prompt, *row.token_ids]
        scores = forward(wide.spec, wide.params, jnp.asarray([ids])).hidden @ wide.params["head"].T
        assert row.token_ids == alone.token_ids == scores[0, len(prompt) - 1:-1].argmax(-1).tolist()
    lengths.clear()
    long = [1, *random_tokens(1, 119, seed=3)[0].tolist()]
    ids = lambda rows: [row.token_ids for row, in rows]
    completions = generate(wide, [*prompts(4), long], GREEDY, batch_size=2)
    assert lengths == [192, 64]  # the longest prompt is read first
    assert ids(completions[:4]) == ids(generate(wide, prompts(4), GREEDY, batch_size=2))


def test_packs_are_filled(model, monkeypatch):
    """Prompts of 40, 30 and 20 tokens in packs of 64: 40 with 20, and 30 with the other 20."""
    monkeypatch.setitem(scheduler.PACK_TOKENS, jax.default_backend(), 64)
    rows = [[1, *random_tokens(1, n - 1, seed=n)[0].tolist()] for n in (40, 30, 20, 21)]
    stats = GenerationStats()
    together = generate(model, rows, GREEDY, stats=stats)
    assert (stats.prompt_tokens, stats.padding) == (111, 2 * 64 - 111)
    assert [row.token_ids for row, in together] == [generate(model, [ids], GREEDY)[0][0].token_ids for ids in rows]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["slot_devices.py", "scoring_devices.py"])
def test_eight_devices_equal_one(file):
    """Virtual devices in a process of their own: four groups of rows, two devices each for heads and matrices."""
    done = run_file(Path(__file__).parent / file, devices=8)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "all equal"


def test_a_shared_rubric_is_prefilled_once(model):
    """200 programs after a rubric of 40 tokens, two answers each: hardly more than the distinct tokens are computed."""
    rubric = random_tokens(1, 40, seed=60)[0].tolist()
    programs = [[*rubric, *random_tokens(1, 4 + i % 12, seed=i)[0].tolist()] for i in range(200)]
    stats = GenerationStats()
    scores = score(model, [(program, [answer]) for program in programs for answer in (5, 6)], stats=stats)
    assert stats.prompt_tokens <= 40 + sum(len(program) - 40 for program in programs) and len(scores) == 400


def test_prompts_are_reported_as_they_end(model):
    reported = []
    rows = generate(model, prompts(5), SamplingConfig(temperature=1.0, max_tokens=6, n=2), batch_size=2,
                    on_prompt=lambda number, completions: reported.append((number, completions)))
    assert sorted(number for number, _ in reported) == list(range(5))
    assert all(completions == rows[number] for number, completions in reported)


def test_too_little_memory_halves_the_batch(model, monkeypatch, capsys):
    """Finished completions stay; the rest is the same as with fewer slots from the start."""
    calls, plain = [], scheduler.decode

    def decode(*arguments):
        calls.append(len(arguments[3].done))
        if len(calls) > 1 and calls[-1] > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.")
        return plain(*arguments)

    monkeypatch.setattr(scheduler, "decode", decode)
    limits = [2, 4, 6, 12, 12, 12, 12, 12]
    reported = []
    made = generate(model, prompts(4) * 2, GREEDY, batch_size=4, max_tokens=limits,
                    on_prompt=lambda number, _: reported.append(number))
    assert calls[0] == 4 and calls[-1] == 1 and sorted(reported) == list(range(8))
    assert capsys.readouterr().err.count("going on with") == 2
    monkeypatch.undo()
    assert [row[0].token_ids for row in made] == [row[0].token_ids for row in generate(
        model, prompts(4) * 2, GREEDY, max_tokens=limits)]


def test_prompts_that_cannot_be_continued(model):
    with pytest.raises(UserError, match="prompt 2: the prompt is empty"):
        generate(model, [[1], []], GREEDY)
    with pytest.raises(UserError, match="context window of 64"):
        generate(model, [[1] * 60], GREEDY)
    with pytest.raises(UserError, match="context window of 64"):
        score(model, [([1] * 60, [3] * 5)])


def test_a_real_checkpoint_generates_its_reference_stories(stories, shared):
    reference = json.loads((shared / "models/stories260k/reference.json").read_text())
    case = reference["cases"][1]
    wanted = case["greedy_ids"][:40]
    made = generate(stories, [case["prompt_ids"]], SamplingConfig(temperature=0.0, max_tokens=40))[0][0]
    assert made.token_ids == wanted
    assert (case["prompt"] + made.text) in case["text"]


def test_stop_strings_are_found_in_linear_time(model):
    """A text checked every 16 tokens: each check decodes the recent tokens only, and finds what a full check finds."""
    class Counting(Letters):
        decoded = 0

        def decode(self, ids):
            Counting.decoded += len(ids)
            return super().decode(ids)

    counted = dataclasses.replace(model, tokenizer=Counting())
    prompt, ids = np.array(prompts(1)[0]), np.array(random_tokens(1, 1600, seed=4)[0])
    for checked in range(0, 1600, 16):
        assert find_stop(counted, prompt, ids[:checked + 16], ["\x00\x00"], checked) is None
    assert Counting.decoded < 10 * 1600 + 100 * 16
    Counting.decoded = 0
    invalid = np.full(30_000, ord(REPLACEMENT) - 30)
    assert find_stop(counted, invalid, ids[:16], ["\x00\x00"]) is None
    assert Counting.decoded < 10 * 16
    ids[1590:1594] = [36, 37, 38, 39]
    text = model.tokenizer.decode(ids[1590:1594].tolist())
    for checked in (0, 1584, 1592):
        assert find_stop(model, prompt, ids, [text], checked) == (1594, model.tokenizer.decode(ids[:1590].tolist()))
