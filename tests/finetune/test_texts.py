"""Groups of texts in packed and padded rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxllm.devices import make_mesh
from jaxllm.finetune.objectives import Objective, make_objective_loss
from jaxllm.finetune.texts import _assign, completion_text, make_batch, row_shape
from jaxllm.finetune.tune.run import FixedGroups, Runner, UnpairedGroups, make_shape, measure, padding
from jaxllm.models import unembedding
from jaxllm.train.config import TrainConfig
from tests.networks import GPT2, LLAMA, forward, random_params

PAIRS = Objective("pairs", (("sigmoid", 1.0),), reference="base")
MESH = make_mesh(1)


def random_ids(random, low, high):
    return random.integers(3, 97, random.integers(low, high)).tolist()


def text(prompt, completion):
    return completion_text([*prompt, *completion], [False] * len(prompt) + [True] * len(completion))


def pairs(count=11, seed=0):
    random = np.random.default_rng(seed)
    groups = []
    for _ in range(count):
        prompt = random_ids(random, 1, 12)
        groups.append((text(prompt, random_ids(random, 1, 9)), text(prompt, random_ids(random, 1, 9))))
    return FixedGroups(groups, {"weight": np.ones(count, np.float32)}, list(range(count)))


def runner(spec, data, packed, batch_size=5, objective=PAIRS):
    train = TrainConfig(batch_size=batch_size, steps=4, packing=packed)
    return Runner(spec, objective, None, make_shape(data, train, MESH, 0), batch_size, MESH, jnp.float32, False)


@pytest.mark.parametrize("spec", [LLAMA, pytest.param(GPT2, marks=pytest.mark.slow)], ids=["rope", "learned"])
def test_packed_rows_equal_padded_ones(spec):
    """Log-probabilities, loss and gradient; and the sums of single texts."""
    params, base, data = random_params(spec, 0), random_params(spec, 1), pairs()
    found = {packed: runner(spec, data, packed).outputs(params, base, (), data, "")[0] for packed in (True, False)}
    for name in ("logprobs", "reference"):
        assert_allclose(found[True][name], found[False][name], atol=2e-5)
    for name in ("tokens", "nll_tokens"):
        assert_array_equal(found[True][name], found[False][name])
    for k, one in enumerate(data.groups[3]):
        logits = unembedding(spec, params).logits(forward(spec, params, jnp.asarray(one.ids)[None]).hidden[0])
        logprobs = jax.nn.log_softmax(logits)[one.states, one.ids[one.states + 1]]
        assert_allclose(found[True]["logprobs"][3, k], logprobs.sum(), atol=2e-5)
    loss = make_objective_loss(spec, PAIRS, None)
    gradients = []
    for packed in (True, False):
        batch = runner(spec, data, packed, 11).batch(data, range(11))
        total = lambda params, batch=batch: loss(params, base, batch, jax.random.key(0), ())[0][0]
        gradients.append(jax.jit(jax.value_and_grad(total))(params))
    jax.tree.map(lambda a, b: assert_allclose(a, b, atol=1e-5), *gradients)


def test_a_prompt_is_read_once_and_carries_no_loss():
    prompt, chosen, rejected = [5, 6, 7, 8, 9], [10, 11], [12, 13, 14]
    group = text(prompt, chosen), text(prompt, rejected)
    batch = make_batch([group], row_shape([[group]], [group], 1, packed=True), {"weight": [1.0]})
    assert np.count_nonzero(batch["segments"]) == len(prompt) + len(chosen) + len(rejected)
    row = batch["tokens"][0]
    assert row[:10].tolist() == [*prompt, *chosen, *rejected]
    assert batch["positions"][0, :10].tolist() == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7]
    real = batch["slot"][0] >= 0
    assert batch["labels"][0][real].tolist() == [*chosen, *rejected]
    assert batch["slot"][0][real].tolist() == [0, 0, 1, 1, 1]
    # The last token of the prompt predicts the first of both completions.
    assert batch["state_index"][0][real].tolist() == [4, 5, 4, 7, 8]


def test_a_target_never_crosses_a_text():
    """A row of two texts of 3 and 4 tokens has 2 + 3 targets, and positions start anew."""
    groups = [(completion_text([5, 6, 7], [True] * 3),), (completion_text([8, 9, 10, 11], [True] * 4),)]
    batch = make_batch(groups, row_shape([groups], groups, 1, packed=True))
    row = int(np.argmax((batch["segments"] > 0).sum(1)))
    assert (batch["slot"] >= 0).sum() == 5
    if (batch["segments"][row] == 2).any():
        assert sorted(batch["positions"][row][batch["segments"][row] > 0]) == [0, 0, 1, 1, 2, 2, 3]
    assert sorted(batch["labels"][batch["slot"] >= 0]) == [6, 7, 9, 10, 11]


@pytest.mark.parametrize("length", [8192, 8193])
def test_odd_row_lengths_pack_as_well(length):
    assert list(map(len, _assign([(4096, 1)] * 6, length, 99, 99))) == [2, 2, 2]


def test_little_of_packed_rows_is_padding():
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(4.5, 0.6, 200).astype(int), 10, 600)
    groups = [(completion_text(np.full(n, 5), [False] * (n - 5) + [True] * 5),) for n in lengths]
    data = FixedGroups(groups, {"weight": np.ones(200, np.float32)}, list(range(200)))
    train = TrainConfig(batch_size=32, steps=12, packing=True)
    sft = runner(LLAMA, data, True, 32, Objective("sft"))
    assert padding(sft, data, train, 0) < 0.15
    assert len({len(sft.batch(data, range(start, start + 32))["row"]) for start in range(0, 160, 32)}) <= 4


def test_mismatched_completions_are_of_other_prompts():
    texts = [([5, 6], [20 + i, 30 + i]) for i in range(4)] + [([7, 8], [40])]
    data = UnpairedGroups(texts, {"weight": np.ones(5, np.float32), "desirable": np.ones(5, np.float32)},
                          ["a", "a", "b", "b", "c"], text)
    groups, values = data.take([0, 1, 2, 3])
    assert [group[1].ids.tolist()[2:] for group in groups] == [[22, 32], [22, 32], [20, 30], [20, 30]]
    assert values["mismatched"].tolist() == [1, 1, 1, 1]
    assert data.take([4])[1]["mismatched"].tolist() == [0]
    assert data.take([0, 1])[1]["mismatched"].tolist() == [0, 0]  # the same prompt


def test_kto_reports_its_reference_point_over_all_rows():
    """z0 is the clamp of the mean log-ratio of mismatched texts, not a mean of clamps; a side that is absent has no
    metric."""
    texts = [([5, 6], [20 + i, 30 + i]) for i in range(6)]
    values = {"weight": np.ones(6, np.float32), "desirable": np.ones(6, np.float32)}
    data = UnpairedGroups(texts, values, list("abcdef"), text)
    kto = runner(LLAMA, data, True, 6, Objective("unpaired", (("kto", 1.0),), reference="base"))
    outputs, taken = kto.outputs(random_params(LLAMA, 0), random_params(LLAMA, 1), (), data, "")
    found, by_row = measure(kto, outputs, taken, data.clusters)
    ratios = outputs["logprobs"][:, 1] - outputs["reference"][:, 1]
    assert found["kl"]["mean"] == pytest.approx(max(0.0, ratios.mean()), rel=1e-5) and found["kl"]["ci_low"] is None
    assert "rewards/rejected" not in found and "rewards/margins" not in found and "kl" not in by_row
    assert found["loss"]["ci_low"] is None and found["rewards/chosen"]["n"] == 6
