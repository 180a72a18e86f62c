"""Training runs on documents: KL on trained and other text, drift, compiles, and resume after a kill."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.errors import UserError
from jaxllm.evaluate.likelihood import mean_kl, target_batches
from jaxllm.finetune import run, teacher_cache
from jaxllm.finetune.distill import DivergenceConfig
from jaxllm.finetune.on_policy import OnPolicyConfig
from jaxllm.finetune.run import TrainPlan, initial_state, make_plan, run_plan
from jaxllm.finetune.targets import build_target, common_lengths
from jaxllm.generate import Generator
from jaxllm.model import Model
from jaxllm.models import LoraConfig
from jaxllm.self_param.config import InjectConfig, MixtureConfig, UnrelatedConfig
from jaxllm.self_param.evaluation import drift_targets
from jaxllm.self_param.prompts import FormatConfig, Prompts
from jaxllm.self_param.targets import document_targets
from jaxllm.train import Checkpointer, count_tokens, make_mesh
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


def document_targets_of(model, mixture):
    config = InjectConfig(mixture=mixture, unrelated=UnrelatedConfig(with_document=False))
    made = document_targets(config, Prompts(model, FormatConfig()), DOCUMENT, PAIRS, unrelated(16, 0), 0)
    # The window of this small network does not hold the usual wording; short targets do as well.
    texts = [model.tokenizer.encode(f"{q} {a}") for q, a in PAIRS]
    context = tuple(model.tokenizer.encode(DOCUMENT))
    return dataclasses.replace(made, context=context, questions=tuple(
        build_target(made.prefix, context, text, "qa") for text in texts))


LORA = LoraConfig(rank=4)


def train_plan(model, made, lora=LORA, train=TRAIN, objective="distill") -> TrainPlan:
    lengths = common_lengths(made.longest(), model.spec.max_positions)
    return make_plan(model, objective, train, lora, DivergenceConfig(), lengths, FLOAT32, make_mesh())


def train(model, *arguments, **options):
    return run_plan(Generator(model, dtype=FLOAT32), *arguments, progress=False, **options)


@pytest.fixture(scope="module")
def full_mixture(model):
    return document_targets_of(model, MixtureConfig())


@pytest.fixture(scope="module")
def learned(model, full_mixture):
    return train(model, full_mixture, train_plan(model, full_mixture))


def held_out_targets(model, made):
    """Returns batches of pairs that are not trained on."""
    texts = [model.tokenizer.encode(text) for text in ("who is it? fox", "what is in it? red fox")]
    return target_batches([build_target(made.prefix, made.context, t, "qa") for t in texts], 64)


@pytest.mark.slow
def test_distillation_lowers_the_kl_to_the_teacher(model, full_mixture, learned):
    """On the targets that were trained and on held-out ones about the document."""
    trained = target_batches(list(full_mixture.questions), 64)
    assert mean_kl(model, learned.params, trained, FLOAT32) < mean_kl(model, model.params, trained, FLOAT32) / 5
    held_out = held_out_targets(model, full_mixture)
    assert mean_kl(model, learned.params, held_out, FLOAT32) < mean_kl(model, model.params, held_out, FLOAT32) / 2


def test_merged_weights_are_the_adapter(model, learned):
    tokens = random_tokens(2, 16)
    next_to_base = forward(model.spec, model.params, tokens, adapter=learned.adapter).hidden
    assert_allclose(forward(model.spec, learned.params, tokens).hidden, next_to_base, atol=2e-5)
    assert float(jnp.abs(forward(model.spec, model.params, tokens).hidden - next_to_base).max()) > 0.01


def test_unrelated_text_reduces_drift(model, full_mixture, learned):
    """Drift on other text is smaller with unrelated text than without, for the same steps."""
    fresh = target_batches(drift_targets(Prompts(model, FormatConfig()), unrelated(16, 7)), 64)
    without = document_targets_of(model, MixtureConfig(qa=1, continuation=1, unrelated=0))
    careless = train(model, without, train_plan(model, full_mixture))
    assert 0 < mean_kl(model, learned.params, fresh, FLOAT32) < mean_kl(model, careless.params, fresh, FLOAT32)


def test_dropout_does_not_draw_with_the_keys_of_the_initial_adapter(model, full_mixture):
    plan, base = train_plan(model, full_mixture), Generator(model, dtype=FLOAT32)
    states = [initial_state(base, plan, seed) for seed in (3, 3, 4)]
    keys = [tuple(jax.random.key_data(state.key).tolist()) for state in states]
    assert keys[0] == keys[1] != keys[2]
    assert not {*keys} & {tuple(jax.random.key_data(jax.random.key(seed)).tolist()) for seed in (3, 4)}


@pytest.mark.slow
def test_the_base_model_is_left_as_it_was(model, full_mixture, llama):
    before = jax.tree.map(np.array, model.params)
    short = dataclasses.replace(TRAIN, steps=2)
    for lora in (LORA, None):
        train(model, full_mixture, train_plan(model, full_mixture, lora, short))
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(model.params), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.slow
def test_all_weights_can_be_trained(model, full_mixture):
    own = train_plan(model, full_mixture, lora=None, train=dataclasses.replace(TRAIN, lr=2e-3))
    result = train(model, full_mixture, own)
    trained = target_batches(list(full_mixture.questions), 64)
    assert result.adapter is None
    assert mean_kl(model, result.params, trained, FLOAT32) < mean_kl(model, model.params, trained, FLOAT32) / 5


def test_one_compile_for_many_documents(model, full_mixture, programs):
    own = train_plan(model, full_mixture, train=dataclasses.replace(TRAIN, steps=2))
    train(model, full_mixture, own)
    before = programs()
    assert before > 0
    train(model, dataclasses.replace(full_mixture, seed=9), own)
    assert programs() == before


def test_a_stopped_injection_resumes_bit_for_bit(model, full_mixture, tmp_path):
    settings = dataclasses.replace(TRAIN, steps=9)
    own = train_plan(model, full_mixture, train=settings)
    whole = train(model, full_mixture, own)
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        half = dataclasses.replace(own, train=dataclasses.replace(settings, steps=4))
        train(model, full_mixture, half, checkpointer=checkpointer)
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        assert checkpointer.latest_step() == 4
        rest = train(model, full_mixture, own, checkpointer=checkpointer)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(rest.params), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.slow
def test_accumulation_changes_nothing(model, full_mixture):
    results = []
    for parts in (1, 4):
        # A large eps: Adam's own would turn rounding in gradients near zero into whole steps.
        settings = dataclasses.replace(TRAIN, steps=3, accumulate=parts, eps=1e-2)
        results.append(train(model, full_mixture, train_plan(model, full_mixture, train=settings)))
    for a, b in zip(*(jax.tree.leaves(r.adapter.params) for r in results), strict=True):
        assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("two", [False, True])
@pytest.mark.slow
def test_a_cached_teacher_trains_the_same_adapter(model, full_mixture, two, monkeypatch):
    """With all tokens in the top k the adapter is the same up to rounding, also with a second, open-book teacher; the
    teacher runs once per text, and the cache holds no more than its limit."""
    open_book_teacher = Generator(dataclasses.replace(model, params=model.params | {
        "layers": jax.tree.map(lambda leaf: leaf * 0.9, model.params["layers"])}))
    settings = dataclasses.replace(TRAIN, steps=4, warmup_steps=0)
    lengths = common_lengths(full_mixture.longest(), model.spec.max_positions)
    teacher_batches = []
    monkeypatch.setattr(teacher_cache, "put_batch", lambda batch, mesh: teacher_batches.append(batch) or batch)

    def adapter(top_k):
        made = make_plan(model, "distill", settings, LORA, DivergenceConfig(top_k=top_k), lengths, FLOAT32,
                         make_mesh(), two_teachers=two)
        return train(model, full_mixture, made, open_book_teacher=open_book_teacher if two else None)

    online = adapter(None)
    assert not teacher_batches
    cached = adapter(model.spec.vocab_size)
    once = len(teacher_batches)
    jax.tree.map(lambda x, y: assert_allclose(x, y, atol=2e-3), online.adapter.params, cached.adapter.params)
    assert cached.metrics["loss"] == pytest.approx(online.metrics["loss"], rel=1e-3)
    wanted = {full_mixture.target(n) for n in range(settings.steps * settings.batch_size)}
    closed_book = sum(not target.offset for target in wanted)
    groups = [closed_book, len(wanted) - closed_book] if two else [len(wanted)]  # by teacher
    assert once == sum(-(-size // settings.batch_size) for size in groups)
    if two:
        return
    monkeypatch.setattr(teacher_cache, "CACHE_BYTES", 0)
    monkeypatch.setattr(run, "TEACHER_STEPS_AHEAD", 1)
    programs = teacher_cache.teacher_top_k._cache_size()
    again = adapter(model.spec.vocab_size)
    assert teacher_cache.teacher_top_k._cache_size() == programs
    assert len(teacher_batches) - once == settings.steps
    jax.tree.map(lambda x, y: assert_allclose(x, y, atol=1e-6), again.adapter.params, cached.adapter.params)
    few = adapter(4)
    assert 0 < few.metrics["loss"] < cached.metrics["loss"]
    with pytest.raises(UserError, match="top_k: must be at most the vocabulary"):
        adapter(model.spec.vocab_size + 1)


@pytest.mark.parametrize(("objective", "divergence", "on_policy", "reads", "top_k"), [
    ("distill", {}, None, 2.0, 64), ("distill", {}, None, 1.9, None), ("finetune", {}, None, 9.0, None),
    ("distill", {"kind": "reverse"}, None, 9.0, None), ("distill", {"top_k": None}, None, 9.0, None),
    ("distill", {"top_k": 4}, None, 1.0, 4), ("distill", {}, OnPolicyConfig(0.5), 9.0, 64),
    ("distill", {}, OnPolicyConfig(0.5, teacher="latest"), 9.0, None)])
def test_the_teacher_is_cached_where_it_reads_less(model, objective, divergence, on_policy, reads, top_k):
    """By default, where each token would be read twice or more in all steps, with a frozen teacher and forward KL."""
    plan = make_plan(model, objective, TRAIN, LORA, DivergenceConfig(**divergence), (64, 64), FLOAT32, make_mesh(),
                     on_policy=on_policy, teacher_reads=lambda targets: reads if targets == 40 * 8 else 0.0)
    assert plan.top_k == top_k


@pytest.mark.parametrize(("every", "step", "ahead"), [
    (None, 0, range(1, 32)), (None, 90, range(91, 100)), (20, 0, range(1, 21)), (20, 19, range(20, 21)),
    (20, 20, range(0)), (20, 21, range(22, 41)), (50, 3, range(4, 35))])
def test_the_teacher_runs_ahead_to_targets_that_are_settled(every, step, ahead):
    """The student's answers are sampled for `every` steps at a time; stored answers in their place are not read."""
    plan = types.SimpleNamespace(train=dataclasses.replace(TRAIN, steps=100, batch_size=1), packing=None,
                                 on_policy=every and OnPolicyConfig(0.5, every=every))
    cache = types.SimpleNamespace(batch=lambda targets, later: list(later))
    assert run.BatchMaker(plan, lambda number: number, cache)(step) == list(ahead)


@pytest.mark.parametrize(("objective", "cached", "tokens"), [("distill", False, 3 + 13), ("distill", True, 3),
                                                             ("finetune", False, 3)])
def test_a_batch_has_the_view_of_a_teacher_that_runs(objective, cached, tokens, monkeypatch):
    """Tokens that no step reads are not sent to the devices, nor counted in the rate."""
    target = build_target((1,), range(10), (4, 5), "qa")
    plan = types.SimpleNamespace(train=dataclasses.replace(TRAIN, steps=1, batch_size=1), packing=None, on_policy=None,
                                 objective=objective, student_length=8, teacher_length=16, top_k=2 if cached else None)
    plan.views = run.TrainPlan.views.fget(plan)
    monkeypatch.setattr(teacher_cache, "teacher_top_k", lambda spec, params, batch, k, **options: (
        np.zeros((*batch["student"].shape, k), np.int32), np.zeros((*batch["student"].shape, k), np.float32)))
    teacher = types.SimpleNamespace(model=types.SimpleNamespace(spec=None), training_params=dict)
    cache = teacher_cache.TeacherCache(teacher, None, 2, (8, 16), 1, 1.0, FLOAT32, make_mesh()) if cached else None
    batch = run.BatchMaker(plan, lambda number: target, cache)(0)
    assert count_tokens(batch) == tokens and ("teacher_ids" in batch) == cached


@pytest.mark.parametrize("devices", [1, 8])
def test_a_pass_of_the_teacher_has_targets_for_every_group_of_devices(model, devices):
    mesh = types.SimpleNamespace(shape={"data": devices, "fsdp": 1})
    packed = dataclasses.replace(TRAIN, packing=True)
    plan = make_plan(model, "distill", packed, LORA, DivergenceConfig(top_k=4), (64, 64), FLOAT32, mesh)
    assert plan.teacher_targets == 16 * devices
    assert dataclasses.replace(plan, teacher_packing=None).teacher_targets == TRAIN.batch_size


@pytest.mark.slow
def test_the_error_of_the_top_k_is_that_of_the_first_step(model, full_mixture):
    settings = dataclasses.replace(TRAIN, steps=1, warmup_steps=0)
    lengths = common_lengths(full_mixture.longest(), model.spec.max_positions)
    targets, generator = [full_mixture.target(number) for number in range(8)], Generator(model, dtype=FLOAT32)
    errors = {}
    for k in (4, model.spec.vocab_size):
        plan = make_plan(model, "distill", settings, LORA, DivergenceConfig(top_k=k), lengths, FLOAT32, make_mesh())
        metrics = train(model, full_mixture, plan).metrics
        errors[k] = teacher_cache.top_k_error(generator, targets, k, lengths, 1.0, FLOAT32, make_mesh())
        assert errors[k]["kl_top_k"] == pytest.approx(metrics["loss"], rel=1e-4)
        assert errors[k]["rest"] == pytest.approx(metrics["top_k_rest"], rel=1e-3, abs=1e-5)
    few, all_ = errors.values()
    assert [few["kl"], all_["kl_top_k"]] == pytest.approx([all_["kl"]] * 2, rel=1e-4)
    assert few["kl_top_k"] < few["kl"] and few["rest"] > 0.1


@pytest.mark.parametrize("top_k", [None, 16])
@pytest.mark.slow
def test_packed_rows_train_the_same(model, full_mixture, top_k):
    """Three steps end at the same adapter, up to rounding, with a teacher in every step and with a cached one."""
    adapters, losses = [], []
    for packing in (False, True):
        # A large eps: Adam's own would turn rounding in gradients near zero into whole steps.
        settings = dataclasses.replace(TRAIN, steps=3, accumulate=2, eps=1e-2, packing=packing)
        lengths = common_lengths(full_mixture.longest(), model.spec.max_positions)
        plan = make_plan(model, "distill", settings, LORA, DivergenceConfig(top_k=top_k), lengths, FLOAT32,
                         make_mesh())
        assert (plan.packing is not None) == packing
        result = train(model, full_mixture, plan)
        adapters.append(result.adapter.params)
        losses.append(result.metrics["loss"])
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-5), *adapters)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
