"""Documents written into weights: what is learned, what is disturbed, and what survives a kill."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.errors import UserError
from jaxllm.evaluate.likelihood import mean_kl, target_batches
from jaxllm.finetune import run, teacher_cache
from jaxllm.finetune.distill import DivergenceConfig
from jaxllm.finetune.run import TrainPlan, make_plan, run_plan
from jaxllm.finetune.targets import build_target, common_lengths
from jaxllm.model import Model
from jaxllm.models import LoraConfig
from jaxllm.self_param.config import InjectConfig, MixtureConfig, UnrelatedConfig
from jaxllm.self_param.evaluation import drift_targets
from jaxllm.self_param.prompts import FormatConfig, Prompts
from jaxllm.self_param.targets import document_targets
from jaxllm.train import Checkpointer, make_mesh
from jaxllm.train.config import TrainConfig
from tests.letters import Letters
from tests.networks import forward, random_tokens

DOCUMENT = "the red fox is in it"
PAIRS = [("who is in it?", "fox"), ("what color?", "red")]
TRAIN = TrainConfig(steps=40, batch_size=8, lr=2e-2, schedule="constant")
FLOAT32 = np.dtype("float32")


@pytest.fixture(scope="module")
def model(llama):
    return Model(*llama, Letters())


def unrelated(count, seed):
    draw = np.random.default_rng(seed)
    return [draw.integers(3, 97, 12).tolist() for _ in range(count)]


def streams(model, mixture):
    config = InjectConfig(mixture=mixture, unrelated=UnrelatedConfig(with_document=False))
    made = document_targets(config, Prompts(model, FormatConfig()), DOCUMENT, PAIRS, unrelated(16, 0), 0)
    # The window of this small network does not hold the usual wording; short targets do as well.
    texts = [model.tokenizer.encode(f"{q} {a}") for q, a in PAIRS]
    context = tuple(model.tokenizer.encode(DOCUMENT))
    return dataclasses.replace(made, context=context, questions=tuple(
        build_target(made.prefix, context, text, "qa") for text in texts))


LORA = LoraConfig(rank=4)


def recipe(model, made, lora=LORA, train=TRAIN, objective="distill") -> TrainPlan:
    lengths = common_lengths(made.longest(), model.spec.max_positions)
    return make_plan(model, objective, train, lora, DivergenceConfig(), lengths, FLOAT32, make_mesh())


@pytest.fixture(scope="module")
def full_mixture(model):
    return streams(model, MixtureConfig())


@pytest.fixture(scope="module")
def learned(model, full_mixture):
    return run_plan(model, full_mixture, recipe(model, full_mixture), progress=False)


def held_back(model, made):
    """Text in the manner of the pairs that no stream holds."""
    texts = [model.tokenizer.encode(text) for text in ("who is it? fox", "what is in it? red fox")]
    return target_batches([build_target(made.prefix, made.context, t, "qa") for t in texts], 64)


def test_the_student_comes_to_agree_with_the_reader(model, full_mixture, learned):
    """On what was trained and on the held-back rest; the document's own rest included."""
    trained = target_batches(list(full_mixture.questions), 64)
    assert mean_kl(model, learned.params, trained, FLOAT32) < mean_kl(model, model.params, trained, FLOAT32) / 5
    kept = held_back(model, full_mixture)
    assert mean_kl(model, learned.params, kept, FLOAT32) < mean_kl(model, model.params, kept, FLOAT32) / 2


def test_merged_weights_are_the_adapter(model, learned):
    tokens = random_tokens(2, 16)
    beside = forward(model.spec, model.params, tokens, adapter=learned.adapter).hidden
    assert_allclose(forward(model.spec, learned.params, tokens).hidden, beside, atol=2e-5)
    assert float(jnp.abs(forward(model.spec, model.params, tokens).hidden - beside).max()) > 0.01


def test_unrelated_text_keeps_the_model_in_place(model, full_mixture, learned):
    """Drift on text of neither stream is smaller with unrelated text than without, for the same steps."""
    fresh = target_batches(drift_targets(Prompts(model, FormatConfig()), unrelated(16, 7)), 64)
    without = streams(model, MixtureConfig(qa=1, continuation=1, unrelated=0))
    careless = run_plan(model, without, recipe(model, full_mixture), progress=False)
    assert 0 < mean_kl(model, learned.params, fresh, FLOAT32) < mean_kl(model, careless.params, fresh, FLOAT32)


def test_the_base_model_is_left_as_it_was(model, full_mixture, llama):
    before = jax.tree.map(np.array, model.params)
    short = dataclasses.replace(TRAIN, steps=2)
    for lora in (LORA, None):
        run_plan(model, full_mixture, recipe(model, full_mixture, lora, short), progress=False)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(model.params), strict=True):
        assert np.array_equal(a, b)


def test_all_weights_can_be_trained(model, full_mixture):
    own = recipe(model, full_mixture, lora=None, train=dataclasses.replace(TRAIN, lr=2e-3))
    result = run_plan(model, full_mixture, own, progress=False)
    trained = target_batches(list(full_mixture.questions), 64)
    assert result.adapter is None
    assert mean_kl(model, result.params, trained, FLOAT32) < mean_kl(model, model.params, trained, FLOAT32) / 5


def test_one_compile_for_many_documents(model, full_mixture, programs):
    own = recipe(model, full_mixture, train=dataclasses.replace(TRAIN, steps=2))
    run_plan(model, full_mixture, own, progress=False)
    before = programs()
    assert before > 0
    run_plan(model, dataclasses.replace(full_mixture, seed=9), own, progress=False)
    assert programs() == before


def test_a_stopped_injection_goes_on_bit_for_bit(model, full_mixture, tmp_path):
    train = dataclasses.replace(TRAIN, steps=9)
    own = recipe(model, full_mixture, train=train)
    whole = run_plan(model, full_mixture, own, progress=False)
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        half = dataclasses.replace(own, train=dataclasses.replace(train, steps=4))
        run_plan(model, full_mixture, half, checkpointer=checkpointer, progress=False)
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        assert checkpointer.latest_step() == 4
        rest = run_plan(model, full_mixture, own, checkpointer=checkpointer, progress=False)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(rest.params), strict=True):
        assert np.array_equal(a, b)


def test_accumulation_changes_nothing(model, full_mixture):
    results = []
    for parts in (1, 4):
        # A large eps: Adam's own would turn rounding in gradients near zero into whole steps.
        train = dataclasses.replace(TRAIN, steps=3, accumulate=parts, eps=1e-2)
        results.append(run_plan(model, full_mixture, recipe(model, full_mixture, train=train), progress=False))
    for a, b in zip(*(jax.tree.leaves(r.adapter.params) for r in results), strict=True):
        assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("two", [False, True])
def test_a_teacher_that_is_asked_once_teaches_the_same(model, full_mixture, two, monkeypatch):
    """All tokens kept: the same adapter up to rounding, with a reader of its own too; each text is asked about once,
    and no more than fits is kept."""
    reader = model.params | {"layers": jax.tree.map(lambda leaf: leaf * 0.9, model.params["layers"])}
    train = dataclasses.replace(TRAIN, steps=4, warmup_steps=0)
    lengths = common_lengths(full_mixture.longest(), model.spec.max_positions)
    asked = []
    monkeypatch.setattr(teacher_cache, "put_batch", lambda batch, mesh: asked.append(batch) or batch)

    def adapter(top_k):
        made = make_plan(model, "distill", train, LORA, DivergenceConfig(top_k=top_k), lengths, FLOAT32, make_mesh(),
                           two_teachers=two)
        return run_plan(model, full_mixture, made, progress=False, open_book_teacher=reader if two else None)

    online = adapter(None)
    assert not asked
    kept = adapter(model.spec.vocab_size)
    once = len(asked)
    jax.tree.map(lambda x, y: assert_allclose(x, y, atol=2e-3), online.adapter.params, kept.adapter.params)
    assert kept.metrics["loss"] == pytest.approx(online.metrics["loss"], rel=1e-3)
    wanted = {full_mixture.target(n) for n in range(train.steps * train.batch_size)}
    assert once == -(-len(wanted) // train.batch_size)
    if two:
        return
    monkeypatch.setattr(teacher_cache, "CACHE_BYTES", 0)
    monkeypatch.setattr(run, "TEACHER_STEPS_AHEAD", 1)
    programs = teacher_cache.teacher_top_k._cache_size()
    again = adapter(model.spec.vocab_size)
    assert teacher_cache.teacher_top_k._cache_size() == programs
    assert len(asked) - once == train.steps
    jax.tree.map(lambda x, y: assert_allclose(x, y, atol=1e-6), again.adapter.params, kept.adapter.params)
    few = adapter(4)
    assert 0 < few.metrics["loss"] < kept.metrics["loss"]
    with pytest.raises(UserError, match="top_k: must be at most the vocabulary"):
        adapter(model.spec.vocab_size + 1)


@pytest.mark.parametrize("top_k", [None, 16])
def test_packed_rows_train_the_same(model, full_mixture, top_k):
    """Three steps end at the same adapter, up to rounding, with a teacher in every step and with a cached one."""
    adapters, losses = [], []
    for packing in (False, True):
        # A large eps: Adam's own would turn rounding in gradients near zero into whole steps.
        train = dataclasses.replace(TRAIN, steps=3, accumulate=2, eps=1e-2, packing=packing)
        lengths = common_lengths(full_mixture.longest(), model.spec.max_positions)
        plan = make_plan(model, "distill", train, LORA, DivergenceConfig(top_k=top_k), lengths, FLOAT32, make_mesh())
        assert (plan.packing is not None) == packing
        result = run_plan(model, full_mixture, plan, progress=False)
        adapters.append(result.adapter.params)
        losses.append(result.metrics["loss"])
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-5), *adapters)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
