"""Packed rows against padded ones: the same loss and the same gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from jaxllm.finetune.distill import TargetObjective, make_loss
from jaxllm.finetune.packing import (
    PackedShape,
    can_pack,
    count_distinct,
    pack_targets,
    packed_shape,
    row_counts,
    shared_prefixes,
    teacher_passes,
)
from jaxllm.finetune.targets import EMPTY, build_target, collate, common_lengths, continuation
from jaxllm.finetune.teacher_cache import TeacherCache
from jaxllm.generate import Generator
from jaxllm.model import Model
from jaxllm.models import LoraConfig, Rope, unstack_layers
from jaxllm.train import init_state, make_mesh, make_train_step
from tests.networks import GPT2, LLAMA, random_adapter, random_params

DOCUMENT = tuple(range(10, 22))
OTHER = tuple(range(60, 67))


def document_targets():
    """Four questions and two continuations of a document, one of another, unrelated text, rehearsal, an empty one."""
    question = lambda context, n, prompt, mask: build_target(
        (1,), context, (30 + n, 31, 40 + n, 41, 42 + n)[:3 + n % 3], "qa", prompt, mask)
    return [*(question(DOCUMENT, n, 2, n % 2 == 0) for n in range(4)), continuation((1,), DOCUMENT, 3),
            continuation((1,), DOCUMENT, 7), question(OTHER, 5, 2, False), EMPTY,
            build_target((1,), DOCUMENT, (70, 71, 72), "unrelated"), build_target((1,), (), (73, 74), "rehearsal")]


def test_rows_by_hand():
    """A document and two questions: the teacher reads it once; the state before a question belongs to its branch."""
    targets = [build_target((1,), (10, 11, 12), ids, "qa") for ids in ((20, 21), (30, 31, 32))]
    packed = pack_targets(targets, PackedShape(8, 10, 6), (1, 2))
    row = {name: values[0].tolist() for name, values in packed.batch.items()}
    # The longer target first; shared is all that both have in common.
    assert row["teacher"] == [1, 10, 11, 12, 30, 31, 32, 20, 21, 0]
    assert row["teacher_branches"] == [0, 0, 0, 0, 1, 1, 1, 2, 2, 0]
    assert row["teacher_positions"] == [0, 1, 2, 3, 4, 5, 6, 4, 5, 0]
    assert row["teacher_segments"] == [1] * 9 + [0]
    assert row["student"] == [1, 30, 31, 32, 1, 20, 21, 0]
    assert row["student_segments"] == [1, 1, 1, 1, 2, 2, 2, 0] and "student_branches" not in row
    assert row["student_index"] == [0, 1, 2, 4, 5, 0] and row["labels"] == [30, 31, 32, 20, 21, 0]
    assert row["teacher_index"] == [3, 4, 5, 3, 7, 0]
    assert_allclose(row["weights"], [1 / 3] * 3 + [1 / 2] * 2 + [0])
    assert packed.number[0].tolist() == [1, 1, 1, 0, 0, -1] and packed.state[0].tolist() == [0, 1, 2, 0, 1, -1]


def packed_and_padded(targets, counts=None, batches=(), **options):
    lengths = common_lengths(targets, 64)
    shape = packed_shape(lengths, batches, LLAMA.width, **options)
    packed = pack_targets(targets, shape, counts or row_counts(len(targets), 1))
    return packed.batch, collate(targets, *lengths)


def test_shared_text_is_in_the_row_once():
    """Real tokens of the teacher's view, and rows, against padding."""
    targets = [build_target((1,), DOCUMENT, (30 + n, 31, 32), "qa") for n in range(8)]
    packed, padded = packed_and_padded(targets)
    assert len(packed["teacher"]) == 1
    # The prefix and the document, and eight branches of three tokens.
    assert np.count_nonzero(packed["teacher_segments"]) == 13 + 8 * 3
    assert np.count_nonzero(padded["teacher_segments"]) == 8 * 16
    continuations, _ = packed_and_padded([continuation((1,), DOCUMENT, cut) for cut in (3, 5, 7)])
    assert np.count_nonzero(continuations["teacher_segments"]) == 1 + len(DOCUMENT)


WINDOWED = dataclasses.replace(LLAMA, window=6, local_layers=(True, False, True))
LINEAR = dataclasses.replace(LLAMA, rope=Rope(kind="linear", factor=2.0))


@pytest.mark.parametrize("spec", [LLAMA, *(pytest.param(spec, marks=pytest.mark.slow)
                                           for spec in (GPT2, WINDOWED, LINEAR))],
                         ids=["rope", "learned", "window", "linear"])
@pytest.mark.parametrize("objective", ["distill", pytest.param("finetune", marks=pytest.mark.slow)])
def test_loss_and_gradient_equal_those_of_padded_rows(spec, objective: TargetObjective):
    params = random_params(spec, 0)
    adapter = noisy_adapter(spec)
    packed, padded = packed_and_padded(document_targets())
    loss = make_loss(spec, objective, adapter.scale)
    assert_same(loss, adapter.params, params, packed, padded, weight=9)


def noisy_adapter(spec):
    return random_adapter(spec, LoraConfig(rank=2), 0.02)


def assert_same(loss, trained, frozen, packed, padded, weight):
    run = jax.jit(lambda batch: _run(loss, trained, frozen, batch))
    (ours, packed_slopes), (wanted, slopes) = run(packed), run(padded)
    assert float(wanted[0][1]) == weight
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-5, rtol=1e-5), ours, wanted)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(slopes)) > 1e-3
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-5, rtol=1e-4), packed_slopes, slopes)


def _run(loss, trained, frozen, batch):
    def total(trained):
        value, aux = loss(trained, frozen, batch, None, None)
        return value[0], (value, aux)

    slopes, values = jax.grad(total, has_aux=True)(trained)
    return values, slopes


@pytest.mark.slow
def test_full_weights_an_unstacked_base_and_a_second_teacher(llama):
    spec, params = llama
    adapter = noisy_adapter(spec)
    open_book_teacher = params | {"layers": jax.tree.map(lambda leaf: leaf * 0.9, params["layers"])}
    packed, padded = packed_and_padded(document_targets())
    loss = make_loss(spec, "distill", adapter.scale, two_teachers=True)
    assert_same(loss, adapter.params, (params, open_book_teacher), packed, padded, weight=9)
    values, slopes = jax.jit(lambda frozen: _run(loss, adapter.params, frozen, packed))((params, open_book_teacher))
    apart = unstack_layers(params), unstack_layers(open_book_teacher)
    again, unstacked_slopes = jax.jit(lambda frozen: _run(loss, adapter.params, frozen, packed))(apart)
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-6, rtol=1e-5), (again, unstacked_slopes), (values, slopes))
    other = jax.tree.map(lambda leaf: leaf * 1.05, params)
    assert_same(make_loss(spec, "distill", None), other, params, packed, padded, weight=9)


@pytest.mark.slow
def test_cached_teacher_probabilities_follow_their_targets(llama):
    """Loss and gradient with top-k entries of padded targets, placed at the predictions of packed rows."""
    spec, params = llama
    adapter, targets = noisy_adapter(spec), document_targets()
    lengths = common_lengths(targets, 64)
    teacher = Generator(Model(spec, params, None))
    cache = TeacherCache(teacher, None, 16, lengths, len(targets), 1.0, jnp.float32, make_mesh(1))
    packed = pack_targets(targets, packed_shape(lengths, [], spec.width, views=(True, False)), (4,))
    rows = TeacherCache(teacher, None, 16, lengths, len(targets), 1.0, jnp.float32, make_mesh(1),
                        packed_shape(lengths, [targets], spec.width, views=(False, True)))
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-5), rows.batch(targets)["teacher_logprobs"],
                 cache.batch(targets)["teacher_logprobs"])
    assert_same(make_loss(spec, "distill", adapter.scale), adapter.params, params,
                cache.packed_batch(packed, targets), cache.batch(targets), weight=9)


@pytest.mark.slow
def test_accumulation_over_packed_rows(llama):
    spec, params = llama
    adapter = noisy_adapter(spec)
    packed, padded = packed_and_padded(document_targets(), counts=(6,))
    loss, optimizer = make_loss(spec, "distill", adapter.scale), optax.sgd(0.1)
    results = []
    for batch, accumulate in ((packed, 1), (packed, 3), (padded, 5)):
        trained = jax.tree.map(jnp.copy, adapter.params)
        step = make_train_step(loss, optimizer, accumulate=accumulate)
        state, metrics = step(init_state(trained, optimizer, 0), params, batch)
        results.append((state.params, {name: metrics[name] for name in ("loss", "weight", "grad_norm", "loss_qa")}))
    for other in results[1:]:
        jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-5), other, results[0])


def test_row_counts_are_bucketed_and_compile_once_each():
    assert row_counts(16, 1) == (1, 2, 3, 4, 6, 8, 12, 16) and row_counts(6, 4) == (4, 8)
    targets = document_targets()
    shape = packed_shape(common_lengths(targets, 64), [], LLAMA.width)
    shapes = {tuple(pack_targets(targets[:n], shape, row_counts(10, 2)).batch["student"].shape)
              for n in range(1, 11)}
    assert len(shapes) <= 2
    with pytest.raises(ValueError, match="does not fit a row"):
        pack_targets([targets[0]], dataclasses.replace(shape, teacher=8), (1,))


def test_models_with_a_length_dependent_rotary_embedding_are_not_packed():
    assert can_pack(LLAMA) and not can_pack(dataclasses.replace(LLAMA, rope=Rope(kind="dynamic", factor=2.0)))


def test_shared_prefixes_save_the_most():
    """Golden: a common head alone, a document within the head where that saves more, duplicates, nothing in common."""
    assert shared_prefixes([(1, 2, 3), (1, 2, 4), (1, 5)]) == [2, 2, 0]  # 2 tokens saved either way: the longer prefix
    assert shared_prefixes([(1, 2, 3), (1, 2, 4), (1, 5), (1, 6)]) == [1, 1, 1, 1]
    assert shared_prefixes([(1, 7, 8, 9, 3), (1, 6), (1, 7, 8, 9, 4)]) == [4, 0, 4]
    assert shared_prefixes([(1, 2), (1, 2), (3,)]) == [2, 2, 0]
    assert shared_prefixes([(1,), (2,)]) == [0, 0] and shared_prefixes([]) == []
    assert [count_distinct(own) for own in ([(1, 2, 3), (1, 2, 4), (1, 5)], [(1, 2), (1, 2)], [])] == [6, 2, 0]


def test_a_pass_of_the_teacher_reads_a_document_once():
    """Targets of four documents in turns, each twice: a pass for each document."""
    made = [build_target((1,), (10 * document,) * 8, (20 + n, 3), "qa") for n in range(4) for document in range(1, 5)]
    passes = teacher_passes([*made, *made], 4)
    assert {one for own in passes for one in own} == set(made) and [len(own) for own in passes] == [4] * 4
    assert [len({one.teacher[:9] for one in own}) for own in passes] == [1] * 4
    assert [len(own) for own in teacher_passes(made, 6)] == [6, 6, 4]


@pytest.mark.parametrize("views", [(True, True), (True, False)])
def test_a_shape_for_typical_batches_wastes_little_and_gives_the_same_loss(views):
    """A chat head of ten tokens shared by the student too; the loss and gradient of padded rows."""
    head = tuple(range(80, 90))
    draw = np.random.default_rng(0)
    targets = [build_target(head, DOCUMENT, draw.integers(3, 60, draw.integers(4, 12)).tolist(), "qa")
               for _ in range(64)]
    batches = [targets[start:start + 8] for start in range(0, 64, 8)]
    shape = packed_shape(common_lengths(targets, 64), batches, LLAMA.width, views=views)
    packed = [pack_targets(batch, shape, row_counts(8, 1)).batch for batch in batches]
    filled = np.concatenate([batch["student_segments"].ravel() > 0 for batch in packed])
    assert shape.share and filled.mean() > 0.8 and filled.sum() < 0.75 * sum(len(one.student) for one in targets)
    if all(views):
        adapter = noisy_adapter(LLAMA)
        assert_same(make_loss(LLAMA, "distill", adapter.scale), adapter.params, random_params(LLAMA, 0), packed[0],
                    collate(batches[0], *common_lengths(targets, 64)), weight=8)


def test_a_shape_holds_the_longest_target():
    """Even where no typical batch has one like it."""
    long = build_target((1,), DOCUMENT, range(3, 40), "qa")
    short = [build_target((1,), (), (5, 6), "qa")] * 4
    shape = packed_shape(common_lengths([long], 64), [short], LLAMA.width)
    assert pack_targets([long, *short], shape, (1, 2)).batch["student"].shape[0] == 1
