"""Blockwise log-probabilities and divergences over the vocabulary: golden values, equality with the plain formula."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.ops import (
    Unembedding,
    kl_distillation,
    token_aligned_logprobs,
    token_divergence,
    token_entropy,
    token_logprobs,
    token_statistics,
)
from jaxllm.ops.unembedding import block_rows
from tests.processes import run_file

STUDENT = jnp.array([[0.0, 0.0, 0.0], [2.0, 0.0, -1.0]])
TEACHER = jnp.array([[1.0, 0.0, -1.0], [0.0, 0.5, 0.0]])
IDENTITY = Unembedding(jnp.eye(3))  # hidden states are the logits


def golden(kind, temperature=1.0):
    return token_divergence(STUDENT, IDENTITY, TEACHER, IDENTITY, kind=kind, temperature=temperature)


def test_forward_kl_golden():
    assert_allclose(golden("forward"), [0.266217, 0.827332], atol=5e-7)
    assert_allclose(golden("forward").mean(), 0.546774, atol=5e-7)
    assert_allclose(golden("forward").mean() / 3, 0.182258, atol=5e-7)  # mean over tokens and vocabulary


def test_reverse_kl_golden():
    assert_allclose(golden("reverse"), [0.308994, 0.713013], atol=1e-6)
    assert_allclose(golden("reverse").mean(), 0.511003, atol=5e-7)


def test_forward_kl_at_temperature_three_golden():
    assert_allclose(golden("forward", 3.0), [0.036035, 0.098432], atol=5e-7)
    total, weight = kl_distillation(STUDENT[None], IDENTITY, TEACHER[None], IDENTITY, jnp.ones((1, 2)),
                                    temperature=3.0)
    assert_allclose(total / weight / 9, 0.067233, atol=5e-7)
    assert_allclose(total / weight / 3, 0.201700, atol=5e-7)  # mean over the vocabulary too, times T^2


def test_jensen_shannon_by_hand():
    student, teacher = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.75, 0.25]]))
    two = Unembedding(jnp.eye(2))
    # beta 0.5: middle (0.625, 0.375)
    expected = 0.5 * (0.75 * np.log(0.75 / 0.625) + 0.25 * np.log(0.25 / 0.375)) \
        + 0.5 * (0.5 * np.log(0.5 / 0.625) + 0.5 * np.log(0.5 / 0.375))
    assert_allclose(token_divergence(student, two, teacher, two, kind="jsd"), [expected], rtol=1e-5)


def test_entropy_of_uniform_and_certain():
    assert_allclose(token_entropy(jnp.zeros((1, 3)), IDENTITY), [np.log(3)], rtol=1e-6)
    assert_allclose(token_entropy(jnp.array([[50.0, 0.0, 0.0]]), IDENTITY), [0.0], atol=5e-6)


@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
@pytest.mark.parametrize("block", [4, 2])  # blocks of 2 hold tokens 0 and 2, and 1 and 3
def test_tokens_without_probability_change_nothing(kind, block):
    """The other logits are minus infinity, in the first block all of them."""
    bias = jnp.array([-jnp.inf, 0.0, -jnp.inf, 0.0])
    student, teacher = (Unembedding(jnp.eye(4), bias) for _ in range(2))
    pad = lambda hidden: jnp.zeros((2, 4)).at[:, 1::2].set(hidden[:, :2])
    value, slopes = jax.value_and_grad(lambda hidden: token_divergence(
        hidden, student, pad(TEACHER), teacher, kind=kind, block=block).sum())(pad(STUDENT))
    two = Unembedding(jnp.eye(2))
    wanted, wanted_slopes = jax.value_and_grad(lambda hidden: token_divergence(
        hidden, two, TEACHER[:, :2], two, kind=kind).sum())(STUDENT[:, :2])
    assert_allclose(value, wanted, rtol=1e-6)
    assert_allclose(slopes, pad(wanted_slopes), atol=1e-6)
    plain = jax.nn.log_softmax(STUDENT[:, :2])[:, 0]
    ids = jnp.array([1, 1])
    assert_allclose(token_logprobs(pad(STUDENT), student, ids, block=block), plain, rtol=1e-6)
    assert_allclose(token_aligned_logprobs(pad(STUDENT), student, ids, block=block),
                    token_aligned_logprobs(STUDENT[:, :2], two, ids - 1), rtol=1e-5, atol=1e-6)


def test_jensen_shannon_of_a_token_that_one_side_excludes():
    """A third each against a half of two: the middle of both is 5/12, 5/12, 1/6."""
    excluded = Unembedding(jnp.eye(3), jnp.array([0.0, 0.0, -jnp.inf]))
    expected = 0.5 * (2 * np.log(1 / 3 / (5 / 12)) + np.log(2)) / 3 + 0.5 * np.log(0.5 / (5 / 12))
    for student, teacher in ((IDENTITY, excluded), (excluded, IDENTITY)):
        value, slopes = jax.value_and_grad(lambda hidden, student=student, teacher=teacher: token_divergence(
            hidden, student, jnp.zeros((1, 3)), teacher, kind="jsd").sum())(jnp.zeros((1, 3)))
        assert_allclose(value, expected, rtol=1e-5)
        assert bool(jnp.isfinite(slopes).all())


def problem(tokens=7, width=16, vocab=53, teacher_width=9):
    draw = np.random.default_rng(0)
    normal = lambda *shape: jnp.asarray(draw.normal(size=shape), jnp.float32)
    return (normal(tokens, width), normal(vocab, width), normal(tokens, teacher_width), normal(vocab, teacher_width),
            jnp.asarray(draw.integers(0, vocab, tokens)), normal(tokens))


def plain_divergence(kind, hidden, table, teacher, teacher_table, temperature, beta):
    q = jax.nn.log_softmax(hidden @ table.T / temperature)
    p = jax.nn.log_softmax(teacher @ teacher_table.T / temperature)
    if kind == "forward":
        return (jnp.exp(p) * (p - q)).sum(-1)
    if kind == "reverse":
        return (jnp.exp(q) * (q - p)).sum(-1)
    middle = jnp.log(beta * jnp.exp(p) + (1 - beta) * jnp.exp(q))
    return (beta * jnp.exp(p) * (p - middle) + (1 - beta) * jnp.exp(q) * (q - middle)).sum(-1)


@pytest.mark.parametrize("block", [None, 53, 10, 8])
@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
def test_divergence_and_gradient_equal_the_plain_formula(kind, block):
    hidden, table, teacher, teacher_table, _, weights = problem()

    def streamed(hidden, table):
        return (weights * token_divergence(hidden, Unembedding(table), teacher, Unembedding(teacher_table), kind=kind,
                                           beta=0.3, temperature=1.7, block=block)).sum()

    def plain(hidden, table):
        return (weights * plain_divergence(kind, hidden, table, teacher, teacher_table, 1.7, 0.3)).sum()

    value, gradients = jax.value_and_grad(streamed, (0, 1))(hidden, table)
    expected, expected_gradients = jax.value_and_grad(plain, (0, 1))(hidden, table)
    assert_allclose(value, expected, rtol=1e-5)
    for got, want in zip(gradients, expected_gradients, strict=True):
        assert_allclose(got, want, atol=5e-6)


@pytest.mark.parametrize("block", [None, 10])
def test_logprobs_and_gradient_equal_the_plain_formula(block):
    hidden, table, _, _, targets, weights = problem()
    streamed = lambda h, t: (weights * token_logprobs(h, Unembedding(t), targets, temperature=0.6, block=block)).sum()
    plain = lambda h, t: (weights * jax.nn.log_softmax(h @ t.T / 0.6)[jnp.arange(7), targets]).sum()
    value, gradients = jax.value_and_grad(streamed, (0, 1))(hidden, table)
    expected, expected_gradients = jax.value_and_grad(plain, (0, 1))(hidden, table)
    assert_allclose(value, expected, rtol=1e-5)
    for got, want in zip(gradients, expected_gradients, strict=True):
        assert_allclose(got, want, atol=5e-6)


@pytest.mark.parametrize("tokens", [53, 40])
def test_entropy_and_gradient_equal_the_plain_formula(tokens):
    """The other logits are minus infinity: as if the vocabulary were without them."""
    hidden, table, *_ = problem()
    bias = jnp.where(jnp.arange(53) < tokens, 0.0, -jnp.inf)

    def plain(hidden):
        logp = jax.nn.log_softmax(hidden @ table[:tokens].T)
        return -(jnp.exp(logp) * logp).sum()

    streamed = lambda hidden: token_entropy(hidden, Unembedding(table, bias), block=10).sum()
    assert_allclose(streamed(hidden), plain(hidden), rtol=1e-5)
    assert_allclose(jax.grad(streamed)(hidden), jax.grad(plain)(hidden), atol=1e-5)


@pytest.mark.parametrize("block", [None, 10])
def test_aligned_logprobs_equal_the_plain_formula(block):
    hidden, table, _, _, targets, _ = problem()
    bias = jnp.linspace(-1, 1, 53)
    logp = jax.nn.log_softmax(3 * hidden @ table.T + bias)
    plain = logp[jnp.arange(7), targets] - jnp.log(jnp.square(jnp.exp(logp)).sum(-1))
    streamed = lambda h: token_aligned_logprobs(h, Unembedding(table, bias), targets, block=block)
    assert_allclose(streamed(3 * hidden), plain, rtol=1e-5, atol=1e-5)
    assert not np.any(jax.grad(lambda h: streamed(h).sum())(hidden))


@pytest.mark.parametrize("block", [None, 10])
@pytest.mark.parametrize(("temperature", "lowest", "both"), [
    (1.0, -1e30, False), (0.7, -1e30, False), (1.0, -jnp.inf, False), (0.7, -jnp.inf, True)])
def test_statistics_of_policy_and_reference(block, temperature, lowest, both):
    """One walk gives what four functions give; tokens that the policy, or both models, never take: no 0 * infinity."""
    hidden, table, reference, reference_table, targets, _ = problem()
    bias = jnp.where(jnp.arange(53) < 40, 0.0, lowest)
    policy, other = Unembedding(table, bias), Unembedding(reference_table, bias if both else None)
    targets = targets % 40
    found = token_statistics(hidden, policy, reference, other, targets, temperature=temperature, block=block)
    expected = {
        "logprobs": token_logprobs(hidden, policy, targets, temperature=temperature),
        "reference_logprobs": token_logprobs(reference, other, targets, temperature=temperature),
        "kl": token_divergence(hidden, policy, reference, other, kind="reverse", temperature=temperature)}
    for name, values in expected.items():
        assert_allclose(found[name], values, rtol=1e-5, atol=1e-5, err_msg=name)
    logp = jax.nn.log_softmax((hidden @ table.T + bias) / temperature)
    logq = jax.nn.log_softmax(reference @ reference_table.T / temperature + (bias if both else 0.0))
    expectation = lambda values: jnp.where(jnp.exp(logp) > 0, jnp.exp(logp) * values, 0).sum(-1)
    assert_allclose(found["entropy"], expectation(-logp), rtol=1e-5, atol=1e-5)
    assert_allclose(found["kl"], expectation(logp - logq), rtol=1e-5, atol=1e-5)


def test_statistics_of_equal_models():
    hidden, table, _, _, targets, _ = problem()
    head = Unembedding(table)
    found = token_statistics(hidden, head, hidden, head, targets)
    assert_allclose(found["kl"], 0, atol=1e-6)
    assert_allclose(found["logprobs"], found["reference_logprobs"], atol=1e-6)


def test_the_full_divergence_of_two_distributions():
    head = Unembedding(jnp.eye(3))
    p, q = jnp.log(jnp.array([[.7, .2, .1]])), jnp.log(jnp.array([[.5, .3, .2]]))
    assert_allclose(token_statistics(p, head, q, head, jnp.array([0]))["kl"], [.0851228], atol=1e-6)
    assert_allclose(token_statistics(q, head, p, head, jnp.array([0]))["kl"], [.0920329], atol=1e-6)


def test_equal_models_have_no_divergence_and_no_gradient():
    hidden, table, *_ = problem()
    for kind in ("forward", "reverse", "jsd"):
        value, gradient = jax.value_and_grad(
            lambda h, kind=kind: token_divergence(h, Unembedding(table), hidden, Unembedding(table), kind=kind,
                                                  block=10).sum())(hidden)
        assert_allclose(value, 0.0, atol=2e-6)
        assert_allclose(gradient, 0.0, atol=2e-6)


def test_the_teacher_gets_no_gradient():
    hidden, table, teacher, teacher_table, *_ = problem()
    gradients = jax.grad(lambda t, tt: token_divergence(hidden, Unembedding(table), t, Unembedding(tt)).sum(),
                         (0, 1))(teacher, teacher_table)
    assert all(np.all(np.asarray(g) == 0) for g in gradients)


def test_large_logits_stay_finite():
    far = jnp.array([[300.0, -300.0, 0.0]])
    value, gradient = jax.value_and_grad(
        lambda h: token_divergence(h, IDENTITY, -far, IDENTITY, block=1).sum())(far)
    assert_allclose(value, 600.0, rtol=1e-6)
    assert np.isfinite(np.asarray(gradient)).all()
    assert_allclose(token_logprobs(far, IDENTITY, jnp.array([1])), [-600.0], rtol=1e-6)


def test_bfloat16_tables_give_float32_results():
    hidden, table, teacher, teacher_table, *_ = problem()
    half = lambda x: x.astype(jnp.bfloat16)
    value = token_divergence(half(hidden), Unembedding(half(table)), half(teacher), Unembedding(half(teacher_table)))
    assert value.dtype == jnp.float32
    exact = plain_divergence("forward", *(half(x).astype(jnp.float32)
                                          for x in (hidden, table, teacher, teacher_table)), 1.0, 0.5)
    assert_allclose(value, exact, rtol=2e-2)


@pytest.mark.parametrize(("vocab", "expected"), [
    (128_256, 768), (128_000, 1024), (32_000, 1000), (3_030, 1010), (50_257, 1024), (512, 512), (1_000, 1000)])
def test_blocks_divide_the_vocabulary_where_they_can(vocab, expected):
    """Multiples of 8 are preferred to larger blocks; 50,257 has no divisor from 256 to 1024."""
    assert block_rows(vocab, 4096, 1024) == expected


@pytest.mark.slow
def test_a_table_split_over_devices_is_not_gathered():
    """Compiled collectives, values and gradients of all losses on eight virtual devices in a process of their own."""
    done = run_file(Path(__file__).parent / "vocab_devices.py", devices=8)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == "all equal"


def test_blocks_cost_no_copy_of_the_table():
    """On one device, without and with the gradient of the table: temporaries are far below the table's 8 MiB."""
    hidden, table = jax.ShapeDtypeStruct((8, 64), jnp.float32), jax.ShapeDtypeStruct((32_768, 64), jnp.float32)
    loss = lambda hidden, table: token_logprobs(hidden, Unembedding(table), jnp.zeros(8, jnp.int32), block=1024).sum()
    for function in (loss, jax.grad(loss), jax.grad(loss, (0, 1))):
        assert temporary_bytes(function, hidden, table) < 2**20


@pytest.mark.parametrize(("backend", "tokens", "rows"), [("cpu", 32_768, 128), ("gpu", 32_768, 2048),
                                                         ("tpu", 4096, 16_384)])
def test_blocks_suit_the_backend(monkeypatch, backend, tokens, rows):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert block_rows(2**18, tokens, None) == rows


@pytest.mark.parametrize("wrong", [dict(hidden=jnp.zeros((2, 3), jnp.int32)), dict(targets=jnp.zeros(2)),
                                   dict(targets=jnp.zeros((2, 1), jnp.int32)), dict(hidden=jnp.zeros((2, 4)))])
def test_wrong_ranks_and_dtypes_are_refused(wrong):
    arguments = dict(hidden=jnp.zeros((2, 3)), targets=jnp.zeros(2, jnp.int32)) | wrong
    with pytest.raises(AssertionError):
        token_logprobs(arguments["hidden"], IDENTITY, arguments["targets"])


def temporary_bytes(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def test_no_full_logits_in_memory():
    """B T = 1024 tokens and V = 32k: logits of one side alone are 128 MiB, all temporaries here far less."""
    hidden, table = jax.ShapeDtypeStruct((1024, 16), jnp.float32), jax.ShapeDtypeStruct((32_000, 16), jnp.float32)

    def streamed(hidden, table, teacher):
        return token_divergence(hidden, Unembedding(table), teacher, Unembedding(table), block=1000).sum()

    def whole(hidden, table, teacher):
        return plain_divergence("forward", hidden, table, teacher, table, 1.0, 0.5).sum()

    def statistics(hidden, table, reference):
        targets = jnp.zeros(len(hidden), jnp.int32)
        return token_statistics(hidden, Unembedding(table), reference, Unembedding(table), targets, block=1000)

    small = temporary_bytes(jax.grad(streamed, (0, 1)), hidden, table, hidden)
    large = temporary_bytes(jax.grad(whole, (0, 1)), hidden, table, hidden)
    assert small < 32 * 2**20 < 5 * small < large, (small, large)
    assert temporary_bytes(statistics, hidden, table, hidden) < 32 * 2**20
