"""Top-k log-probabilities of a teacher: golden values, and relations to the whole distribution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.ops import Unembedding, token_divergence, top_k_kl, top_k_logprobs
from jaxllm.ops.top_k import top_k_rest

WIDTH, VOCAB = 8, 50


def drawn(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


HEADS = {"plain": Unembedding(drawn(1, VOCAB, WIDTH)),
         "bias and cap": Unembedding(drawn(1, VOCAB, WIDTH), drawn(2, VOCAB), 3.0)}


def test_by_hand():
    """p = (.5, .3, .2) and q = (.25, .25, .5): two tokens and the rest."""
    head = Unembedding(jnp.eye(3))
    p, q = jnp.log(jnp.array([[0.5, 0.3, 0.2]])), jnp.log(jnp.array([[0.25, 0.25, 0.5]]))
    ids, logprobs = top_k_logprobs(p, head, 2)
    assert ids.tolist() == [[0, 1]]
    assert_allclose(jnp.exp(logprobs), [[0.5, 0.3]], rtol=1e-6)
    assert_allclose(top_k_kl(q, head, ids, logprobs),
                    [0.5 * np.log(2) + 0.3 * np.log(1.2) + 0.2 * np.log(0.4)], rtol=1e-5)
    ids, logprobs = top_k_logprobs(p, head, 1)
    assert_allclose(top_k_kl(q, head, ids, logprobs), [0.5 * np.log(2) + 0.5 * np.log(0.5 / 0.75)],
                    rtol=1e-5)


@pytest.mark.parametrize(("temperature", "values"), [(1.0, [0.266217, 0.827332]), (3.0, [0.036035, 0.098432])])
def test_all_tokens_give_the_golden_values(temperature, values):
    """Forward KL of two positions: the top k of the whole vocabulary is the vocabulary."""
    head = Unembedding(jnp.eye(3))
    student, teacher = jnp.array([[0.0, 0, 0], [2, 0, -1]]), jnp.array([[1.0, 0, -1], [0, 0.5, 0]])
    ids, logprobs = top_k_logprobs(teacher, head, 3, temperature=temperature)
    assert_allclose(top_k_kl(student, head, ids, logprobs, temperature=temperature), values, atol=2e-6)
    assert_allclose(token_divergence(student, head, teacher, head, temperature=temperature), values, atol=2e-6)
    assert_allclose(top_k_rest(logprobs), [0, 0], atol=1e-6)
    assert_allclose(top_k_rest(jnp.log(jnp.array([[0.5, 0.3], [0.75, 0.25]]))), [0.2, 0], atol=1e-6)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("block", [None, 7, 50])
def test_top_k_of_blocks_is_that_of_the_vocabulary(head, block):
    hidden = drawn(3, 2, 5, WIDTH)
    ids, logprobs = top_k_logprobs(hidden, head, 6, temperature=1.7, block=block)
    values, wanted = jax.lax.top_k(jax.nn.log_softmax(head.logits(hidden) / 1.7), 6)
    assert np.array_equal(ids, wanted)
    assert_allclose(logprobs, values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.slow
def test_all_tokens_give_the_divergence_and_its_gradient(head):
    teacher, student = drawn(3, 4, 5, WIDTH), drawn(4, 4, 5, WIDTH)
    ids, logprobs = top_k_logprobs(teacher, head, VOCAB, temperature=1.3)
    ours = lambda x: top_k_kl(x, head, ids, logprobs, temperature=1.3)
    whole = lambda x: token_divergence(x, head, teacher, head, temperature=1.3)
    assert_allclose(ours(student), whole(student), rtol=1e-4, atol=1e-5)
    assert_allclose(jax.grad(lambda x: ours(x).sum())(student), jax.grad(lambda x: whole(x).sum())(student),
                    rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_fewer_tokens_give_less_and_equal_models_nothing():
    head, teacher, student = HEADS["plain"], drawn(3, 9, WIDTH), drawn(4, 9, WIDTH)
    values = [top_k_kl(student, head, *top_k_logprobs(teacher, head, k)) for k in (1, 4, 16, VOCAB)]
    for fewer, more in zip(values, values[1:], strict=False):
        assert np.all(fewer <= more + 1e-5) and np.any(fewer < more - 1e-3)
    same = lambda x: top_k_kl(x, head, *top_k_logprobs(teacher, head, 8)).sum()
    assert abs(float(same(teacher))) < 1e-5
    assert_allclose(jax.grad(same)(teacher), np.zeros_like(teacher), atol=1e-5)


@pytest.mark.slow
def test_a_certain_teacher_gives_no_nan():
    """All the probability on one token, on both sides or on one."""
    head = Unembedding(jnp.eye(4) * 100.0)
    sure, other = jnp.eye(4)[:1], jnp.eye(4)[1:2]
    for student in (sure, other):
        loss = lambda x: top_k_kl(x, head, *top_k_logprobs(sure, head, 2)).sum()
        value, slope = jax.value_and_grad(loss)(student)
        assert np.isfinite(value) and np.all(np.isfinite(slope))
    assert value > 50


def test_of_equal_scores_the_smaller_id_is_first():
    """Interleaved blocks visit ids out of order."""
    head = Unembedding(jnp.ones((12, 2)).at[7].set(2.0))
    ids, _ = top_k_logprobs(jnp.ones((1, 2)), head, 5, block=3)
    assert ids.tolist() == [[7, 0, 1, 2, 3]]


def test_k_within_the_vocabulary():
    for k in (0, VOCAB + 1):
        with pytest.raises(ValueError, match="k must be"):
            top_k_logprobs(drawn(3, 1, WIDTH), HEADS["plain"], k)
