"""Student and teacher views of a target, the distillation loss on them, and which inputs it must not depend on."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.errors import UserError
from jaxllm.finetune import distill
from jaxllm.finetune.distill import align, target_mask
from jaxllm.finetune.packing import predicting_states
from jaxllm.finetune.targets import TARGET_TYPES, Target, build_target, collate, continuation
from jaxllm.models import Adapter, LoraConfig, compute_logits, init_adapter
from jaxllm.self_param.config import MixtureConfig
from jaxllm.self_param.targets import DocumentTargets
from tests.networks import forward

# Eagerly every operation is a program of its own to compile; these are one each.
make_loss = lambda *settings, **more: jax.jit(distill.make_loss(*settings, **more))
target_divergence = jax.jit(distill.target_divergence, static_argnames=("spec", "kind", "temperature", "dtype",
                                                                            "remat"))


def target(context=(10, 11, 12), text=(20, 21, 22, 23), prefix=(1,)):
    return build_target(prefix, context, text, "qa")


def test_views_by_hand():
    built = target()
    assert built.student == (1, 20, 21, 22, 23)
    assert built.teacher == (1, 10, 11, 12, 20, 21, 22, 23)
    batch = collate([built], 8, 10)
    mask = target_mask(jnp.asarray(batch["student_segments"]))[0]
    assert mask.astype(int).tolist() == [1, 1, 1, 1, 0, 0, 0, 0]  # four targets, the state after the last unused
    # student state j predicts what teacher state len(x) + j predicts
    for j in range(4):
        assert built.student[j + 1] == built.teacher[3 + j + 1]


@pytest.mark.parametrize("temperature", [0.0, math.inf, math.nan])
def test_a_temperature_is_positive_and_finite(temperature):
    with pytest.raises(UserError, match="temperature: must be above 0"):
        distill.DivergenceConfig(temperature=temperature)


def test_masked_prompt_tokens_carry_no_loss():
    """Two of four tokens are masked prompt: the predictions of the last two carry loss, with and without a prefix."""
    for prefix, wanted in (((1,), [0, 0, 1, 1, 0, 0]), ((), [0, 1, 1, 0, 0, 0])):
        built = build_target(prefix, (10,), (20, 21, 22, 23), "qa", prompt_tokens=2, mask_prompt=True)
        batch = collate([built, Target((), (), 0)], 6, 8)
        mask = target_mask(jnp.asarray(batch["student_segments"]), jnp.asarray(batch["masked_tokens"]))
        assert mask.astype(int).tolist() == [wanted, [0] * 6]


@pytest.mark.parametrize("options", [{}, {"prompt_tokens": 1}, {"mask_prompt": True}])
def test_a_prefix_carries_no_loss(options):
    """Within it the teacher's states are not aligned; its last state predicts the first token of the target."""
    built = build_target((1, 2, 3), (10, 11), (20, 21), "qa", **options)
    batch = collate([built], 6, 8)
    mask = target_mask(jnp.asarray(batch["student_segments"]), jnp.asarray(batch["masked_tokens"]))
    assert mask[0].astype(int).tolist() == [0, 0, 1, 1, 0, 0] and predicting_states(built) == range(2, 4)
    assert continuation((1, 2, 3), (10, 11, 12), 1).masked_tokens == 3


def test_the_loss_is_that_of_the_answer_alone(llama):
    """Against the mean of the divergence over the answer's two states; tokens of the question change nothing else."""
    spec, params = llama
    answer_only = build_target((1,), (10, 11), (20, 21, 22, 23), "qa", prompt_tokens=2, mask_prompt=True)
    batch = {name: jnp.asarray(value) for name, value in collate([answer_only], 8, 8).items()}
    adapter = init_adapter(spec, jax.random.key(0), LoraConfig(rank=2))
    loss = make_loss(spec, "distill", adapter.scale)
    (total, weight), _ = loss(adapter.params, params, batch, None, None)
    kl = target_divergence(spec, params, params, adapter, batch)[0]
    assert_allclose(total, (kl[2] + kl[3]) / 2, rtol=1e-5)
    assert float(weight) == 1.0


def test_without_prefix_the_first_token_is_not_predicted():
    batch = collate([target(prefix=())], 8, 10)
    assert int(target_mask(jnp.asarray(batch["student_segments"])).sum()) == 3


def test_align_by_hand():
    states = jnp.arange(10.0)[None, :, None]
    assert align(states, jnp.array([3]), 4)[0, :, 0].tolist() == [3.0, 4.0, 5.0, 6.0]


def test_last_term_uses_the_last_but_one_state(llama):
    """The KL at the last target is between student state n and teacher state len(x) + n (with prefix)."""
    spec, params = llama
    other = jax.tree.map(lambda leaf: leaf * 1.05, params)
    batch = jax.tree.map(jnp.asarray, collate([target()], 8, 10))
    got = target_divergence(spec, other, params, None, batch)[0, 3]
    logits = lambda p, ids: compute_logits(spec, p, forward(spec, p, jnp.asarray([ids])).hidden)
    scores = lambda p, ids, at: jax.nn.log_softmax(logits(p, ids)[0, at])
    q, p = scores(params, target().student, 3), scores(other, target().teacher, 6)
    assert_allclose(got, (jnp.exp(p) * (p - q)).sum(), rtol=1e-4)


@pytest.mark.slow
def test_open_book_and_closed_book_rows_have_their_own_teacher(llama):
    """Each row's KL is to its own teacher; closed-book rows have the same KL without a second teacher."""
    spec, params = llama
    latest = jax.tree.map(lambda leaf: leaf * 1.2, params)
    open_book_teacher = latest | {"layers": jax.tree.map(lambda leaf: leaf * 0.9, latest["layers"])}
    rows = [target(), build_target((1,), (), (20, 21, 22), "rehearsal"), Target((), (), 0)]
    batch = jax.tree.map(jnp.asarray, collate(rows, 6, 10))
    both = target_divergence(spec, latest, params, None, batch, open_book_teacher=open_book_teacher)
    assert_allclose(both[0, :4], target_divergence(spec, open_book_teacher, params, None, batch)[0, :4], rtol=1e-5)
    assert_allclose(both[1, :3], target_divergence(spec, latest, params, None, batch)[1, :3], rtol=1e-5)
    assert np.abs(both[0, :4] - target_divergence(spec, latest, params, None, batch)[0, :4]).max() > 1e-4

    adapter = init_adapter(spec, jax.random.key(0), LoraConfig())
    loss = make_loss(spec, "distill", adapter.scale, two_teachers=True)
    (total, weight), _ = loss(adapter.params, (latest, open_book_teacher), batch, jax.random.key(0), None)
    kl = target_divergence(spec, latest, latest, None, batch, open_book_teacher=open_book_teacher)
    assert weight == 2 and float(total) == pytest.approx(float(kl[0, :4].mean() + kl[1, :3].mean()), rel=1e-5)


def test_the_cut_of_a_continuation_is_within_the_context():
    context = tuple(range(10, 16))
    assert continuation((1,), context, 1).student == (1, *context[1:])
    assert continuation((1,), context, 4).student == (1, *context[4:])
    assert continuation((1,), context, 4).teacher == (1, *context)
    for cut in (0, 5):
        with pytest.raises(ValueError, match="cut must be within"):
            continuation((1,), context, cut)


def document_targets(turns, questions=3, seed=0):
    made = tuple(target(text=(20 + i, 30)) for i in range(questions))
    return DocumentTargets((1,), (10, 11, 12, 13), made, ((40, 41), (42, 43), (44, 45)), (10, 11, 12, 13), turns, seed)


def test_every_pair_is_used_once_per_round():
    """Two rounds of twelve pairs, three target types in turn: 72 targets, each pair twice."""
    own = document_targets(("qa", "continuation", "unrelated"), questions=12)
    drawn = [own.target(n) for n in range(72)]
    assert [TARGET_TYPES[t.target_type] for t in drawn[:6]] == ["qa", "continuation", "unrelated"] * 2
    qa_rows = [t.student for t in drawn if t.target_type == 0]
    assert sorted(qa_rows[:12]) == sorted(qa_rows[12:]) == sorted(t.student for t in own.questions)
    assert qa_rows[:12] != qa_rows[12:]


def test_targets_depend_on_seed_and_number_alone():
    first, second = document_targets(("qa", "continuation")), document_targets(("qa", "continuation"))
    order = [first.target(n) for n in range(20)]
    assert [second.target(n) for n in reversed(range(20))] == order[::-1]
    assert [document_targets(("qa", "continuation"), seed=1).target(n) for n in range(20)] != order


def test_cuts_leave_something_on_both_sides():
    own = document_targets(("continuation",))
    lengths = {len(own.target(n).student) for n in range(60)}
    assert lengths == {3, 4}  # four tokens, cut after one or two: three or two are left, and the prefix


def test_mixture_takes_turns():
    assert MixtureConfig(qa=2, continuation=0, unrelated=1).cycle == ("qa", "qa", "unrelated")


@pytest.fixture
def batch():
    made = [target(), target(context=(), text=(30, 31)), target(text=(40, 41, 42, 43, 44, 45))]
    return jax.tree.map(jnp.asarray, collate(made, 8, 12))


@pytest.mark.slow
def test_no_context_means_no_loss_and_no_gradient(llama):
    spec, params = llama
    own = jax.tree.map(jnp.asarray, collate([target(context=())], 8, 8))
    adapter = init_adapter(spec, jax.random.key(0), LoraConfig(rank=2))
    loss = make_loss(spec, "distill", adapter.scale)
    (value, gradient) = jax.value_and_grad(lambda a: loss(a, params, own, None, None)[0][0])(adapter.params)
    assert abs(float(value)) < 1e-6
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) < 1e-6


@pytest.mark.slow
def test_the_context_does_not_reach_the_student(llama):
    spec, params = llama
    contexts = (10, 11, 12), (50, 51, 52)
    batches = [jax.tree.map(jnp.asarray, collate([target(context=context)], 8, 12)) for context in contexts]
    loss = make_loss(spec, "finetune", 1.0)
    adapter = init_adapter(spec, jax.random.key(0), LoraConfig(rank=2))
    assert len({float(loss(adapter.params, params, batch, None, None)[0][0]) for batch in batches}) == 1
    kl = [target_divergence(spec, params, params, None, b)[0, :4] for b in batches]
    assert float(jnp.abs(kl[0] - kl[1]).max()) > 1e-3  # but it does reach the teacher


@pytest.mark.slow
def test_the_teacher_gets_no_gradient(llama, batch):
    spec, params = llama
    loss = make_loss(spec, "distill", 1.0)
    adapter = init_adapter(spec, jax.random.key(0), LoraConfig(rank=2))

    def of_base(embedding):
        return target_divergence(spec, params | {"embed": embedding}, params, None, batch).sum()

    assert np.all(np.asarray(jax.grad(of_base)(params["embed"])) == 0)
    assert float(loss(adapter.params, params, batch, None, None)[0][0]) > 0


@pytest.mark.slow
def test_every_target_has_the_same_weight_with_any_padding(llama, batch):
    """The batch's loss is the sum of each target's own loss, computed alone at another length."""
    spec, params = llama
    loss = make_loss(spec, "distill", 1.0)
    adapter = init_adapter(spec, jax.random.key(0), LoraConfig(rank=2))
    (total, weight), parts = loss(adapter.params, params, batch, None, None)
    alone = [loss(adapter.params, params, jax.tree.map(jnp.asarray, collate([t], 7, 10)), None, None)[0][0]
             for t in (target(), target(context=(), text=(30, 31)), target(text=(40, 41, 42, 43, 44, 45)))]
    assert float(weight) == 3.0
    assert_allclose(total, sum(map(float, alone)), rtol=1e-5)
    assert_allclose(parts["loss_qa"][0], total, rtol=1e-6)
    filled = collate([target(), Target((), (), 0)], 8, 12)
    (_, with_filler), _ = loss(adapter.params, params, jax.tree.map(jnp.asarray, filled), None, None)
    assert float(with_filler) == 1.0


def test_finetuning_is_cross_entropy(llama):
    spec, params = llama
    loss = make_loss(spec, "finetune", 1.0)
    adapter = Adapter(init_adapter(spec, jax.random.key(0), LoraConfig(rank=2)).params, 1.0)
    own = jax.tree.map(jnp.asarray, collate([target()], 8, 10))
    ids = jnp.asarray([target().student])
    logp = jax.nn.log_softmax(compute_logits(spec, params, forward(spec, params, ids).hidden))[0]
    expected = -np.mean([float(logp[j, ids[0, j + 1]]) for j in range(4)])
    assert_allclose(loss(adapter.params, params, own, None, None)[0][0], expected, rtol=1e-5)


def test_temperature_scales_by_its_square(llama, batch):
    spec, params = llama
    hot = make_loss(spec, "distill", 1.0, temperature=2.0)
    adapter = init_adapter(spec, jax.random.key(0), LoraConfig(rank=2))
    (total, _), _ = hot(adapter.params, params, batch, None, None)
    kl = target_divergence(spec, params, params, None, batch, temperature=2.0)
    mask = target_mask(batch["student_segments"])
    assert_allclose(total, 4 * ((kl * mask).sum(-1) / mask.sum(-1)).sum(), rtol=1e-5)
