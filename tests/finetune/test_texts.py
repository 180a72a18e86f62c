"""Groups of texts in packed and padded rows."""

import dataclasses
import gzip
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxllm.devices import make_mesh
from jaxllm.finetune.objectives import Objective, flat, group_values, make_objective_loss, objective_loss
from jaxllm.finetune.texts import _assign, completion_text, make_batch, per_text_sums, row_shape, scored_text
from jaxllm.finetune.tune import TuneConfig
from jaxllm.finetune.tune.data import _ld_weighted
from jaxllm.finetune.tune.groups import FixedGroups, UnpairedGroups, content_hash
from jaxllm.finetune.tune.measuring import means, measure
from jaxllm.finetune.tune.run import Runner, compute_reference, make_shape, padding
from jaxllm.finetune.tune.tuning import train_settings
from jaxllm.models import unembedding
from jaxllm.models.heads import text_scores
from jaxllm.models.spec import Encoder, Head
from jaxllm.models.tensors import save_tensors
from jaxllm.statistics import clustered
from jaxllm.train.config import TrainConfig
from scripts.bench_preference import measure_memory
from tests.networks import GPT2, LLAMA, forward, random_params

PAIRS = Objective("pairs", (("sigmoid", 1.0),), reference="base")
MESH = make_mesh(1)
BERT = dataclasses.replace(GPT2, family="bert", layers=2, norms="outside", final_norm=False, activation="gelu",
                           encoder=Encoder(token_types=2), head=Head(2, "first", True, "tanh", name="classifier"))


def random_ids(random, low, high):
    return random.integers(3, 97, random.integers(low, high)).tolist()


def text(prompt, completion, mask=None):
    mask = [True] * len(completion) if mask is None else mask
    return completion_text([*prompt, *completion], [*[False] * len(prompt), *mask])


def pairs(count=11, seed=0):
    random = np.random.default_rng(seed)
    groups = []
    for _ in range(count):
        prompt = random_ids(random, 1, 12)
        groups.append((text(prompt, random_ids(random, 1, 9)), text(prompt, random_ids(random, 1, 9))))
    return FixedGroups(groups, {"weight": np.ones(count, np.float32)}, list(range(count)))


def unpaired(count):
    return [([5, 6], [20 + i, 30 + i], np.ones(2, bool)) for i in range(count)]


def runner(spec, data, packed, batch_size=5, objective=PAIRS):
    train = TrainConfig(batch_size=batch_size, steps=4, packing=packed)
    shape = make_shape(data, train, spec.width, MESH, 0)
    return Runner(spec, objective, None, shape, batch_size, MESH, jnp.float32, False)


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
    batch = make_batch([group], row_shape([[group]], [group], 32, 1, packed=True), {"weight": [1.0]})
    assert np.count_nonzero(batch["segments"]) == len(prompt) + len(chosen) + len(rejected)
    row = batch["tokens"][0]
    assert row[:10].tolist() == [*prompt, *chosen, *rejected]
    assert batch["positions"][0, :10].tolist() == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7]
    real = batch["slot"][0] >= 0
    assert batch["labels"][0][real].tolist() == [*chosen, *rejected]
    assert batch["slot"][0][real].tolist() == [0, 0, 1, 1, 1]
    # The last token of the prompt predicts the first of both completions.
    assert batch["state_index"][0][real].tolist() == [4, 5, 4, 7, 8]


@pytest.mark.parametrize("packed", [True, False])
def test_a_token_with_the_id_of_padding_carries_loss(packed):
    """An end token often pads too: padding follows from lengths, never from ids."""
    groups = [(completion_text([1, 11, 12, 21, 22, 0], [False] * 3 + [True] * 3),), (text([5], [6] * 9),)]
    batch = make_batch(groups, row_shape([groups], groups, 32, 1, packed=packed), {"weight": [1.0, 0.0]})
    assert sorted(batch["labels"][batch["slot"] >= 0]) == [0, *[6] * 9, 21, 22]
    logprobs = -np.select([batch["labels"] == 21, batch["labels"] == 22], [0.5, 0.7], 3.0).astype(np.float32)
    sums = {"nll": -logprobs, "nll_tokens": np.ones_like(logprobs)}
    outputs = flat({name: per_text_sums(jnp.asarray(values), batch, 1) for name, values in sums.items()})
    (total, weight), _ = objective_loss(Objective("sft"), outputs, flat(group_values(batch)))
    assert weight == 3 and total / weight == pytest.approx(1.4)


def test_texts_without_a_trained_token_are_not_in_the_mean_over_tokens():
    column = lambda *values: jnp.array(values)[:, None]
    outputs = {"nll": column(2.4, 0.0, 1.6, 0.0), "nll_tokens": column(3.0, 0.0, 2.0, 0.0)}
    (total, weight), _ = objective_loss(Objective("sft"), outputs, {"weight": jnp.ones(4)})
    assert weight == 5 and total / weight == pytest.approx(0.8)  # not 0.4, the mean over texts


def test_a_target_never_crosses_a_text():
    """A row of two texts of 3 and 4 tokens has 2 + 3 targets, and positions start anew."""
    groups = [(completion_text([5, 6, 7], [True] * 3),), (completion_text([8, 9, 10, 11], [True] * 4),)]
    batch = make_batch(groups, row_shape([groups], groups, 32, 1, packed=True))
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


def test_little_of_packed_reviews_is_padding(shared):
    """Of a review the first 256 tokens are read, and a word is a token."""
    with gzip.open(shared / "sentiment" / "imdb_train.jsonl.gz", "rt") as file:
        lengths = [min(len(json.loads(line)["text"].split()), 256) for line in itertools.islice(file, 4000)]
    groups = [(completion_text([5] * n, [False] * (n - 1) + [True]),) for n in lengths]
    data = FixedGroups(groups, {"weight": np.ones(4000, np.float32)}, range(4000))
    train = TrainConfig(batch_size=32, steps=125, packing=True)
    shape = make_shape(data, train, LLAMA.width, MESH, 0)
    assert padding(Runner(LLAMA, Objective("sft"), None, shape, 32, MESH, jnp.float32, False), data, train, 0) < 0.15


def test_a_step_of_dpo_holds_no_full_logits():
    """Its temporaries with a vocabulary of 128k: four times below those of full logits at least."""
    sizes = measure_memory(pairs=2, length=256)
    assert 4 * sizes["streamed"] < sizes["logits"], sizes


def test_mismatched_completions_are_of_other_prompts():
    texts = [*unpaired(4), ([7, 8], [40], np.ones(1, bool))]
    data = UnpairedGroups(texts, {"weight": np.ones(5, np.float32), "desirable": np.ones(5, np.float32)},
                          ["a", "a", "b", "b", "c"], 64)
    groups, values = data.take([0, 1, 2, 3])
    assert [group[1].ids.tolist()[2:] for group in groups] == [[22, 32], [22, 32], [20, 30], [20, 30]]
    assert values["mismatched"].tolist() == [1, 1, 1, 1]
    assert data.take([4])[1]["mismatched"].tolist() == [0]
    assert data.take([0, 1])[1]["mismatched"].tolist() == [0, 0]  # the same prompt


@pytest.mark.parametrize("prompts", ["abc", "aab", "abb", "aba", "aaaa", "aabbaa", "a", "", "abcabcaabbccaaabbbccc"])
def test_the_partner_of_a_row_is_the_next_one_with_another_prompt(prompts):
    numbers = list(range(len(prompts)))
    data = UnpairedGroups(unpaired(len(prompts)), {"weight": np.ones(len(prompts), np.float32)}, prompts, 64)
    for rows in (numbers, numbers[::-1], numbers[1::2], [*numbers, *numbers]):
        groups, values = data.take(rows)
        for place, row in enumerate(rows):
            others = [other for other in (*rows[place + 1:], *rows[:place]) if prompts[other] != prompts[row]]
            assert values["mismatched"][place] == bool(others)
            assert groups[place][1].ids.tolist()[2:] == [20 + (others or [row])[0], 30 + (others or [row])[0]]


def test_tokens_of_a_completion_without_a_loss_have_none_after_another_prompt():
    """An answer of several turns has such tokens between them."""
    texts = [([5, 6], [20, 21, 22], np.array([True, False, True])), ([7], [30, 31], np.ones(2, bool))]
    data = UnpairedGroups(texts, {"weight": np.ones(2, np.float32)}, ["a", "b"], 64)
    groups, _ = data.take([0, 1])
    assert [[one.ids[one.states + 1].tolist() for one in group] for group in groups] == [
        [[20, 22], [30, 31]], [[30, 31], [20, 22]]]
    largest = data.largest()
    for size in (lambda one: len(one.ids), lambda one: len(one.states)):
        most = lambda groups, size=size: max(size(one) for group in groups for one in group)
        assert most(largest) == most(groups)


def test_a_pair_and_two_rows_are_stored_apart():
    paired = pairs(3)
    single = FixedGroups([(one,) for group in paired.groups for one in group], {}, list(range(6)))
    assert content_hash(paired) != content_hash(single)


def test_stored_logprobs_of_the_reference_model(tmp_path, capsys):
    """A file is read where it is whole, made again where it is damaged, and done without where it cannot be written."""
    spec, data = dataclasses.replace(LLAMA, layers=1), pairs(3)
    run, file = runner(spec, data, True), tmp_path / "cache" / "some.safetensors"
    of = lambda file: compute_reference(run, random_params(spec, 0), {}, data, file).values
    expected = of(None)
    assert_array_equal(of(file)["reference_1"], expected["reference_1"])
    save_tensors(file, {"logprobs": np.full((3, 2), 7, np.float32)})
    assert_array_equal(of(file)["reference_0"], [7, 7, 7])
    file.write_bytes(file.read_bytes()[:20])
    assert_array_equal(of(file)["reference_0"], expected["reference_0"])
    assert [one.name for one in file.parent.iterdir()] == [file.name]
    file.write_bytes(b"")
    assert_array_equal(of(file)["reference_0"], expected["reference_0"])
    assert not capsys.readouterr().err
    assert_array_equal(of(file / "below a file" / "other")["reference_0"], expected["reference_0"])
    assert "not stored" in capsys.readouterr().err


def test_metrics_of_held_back_rows_do_not_depend_on_the_batch_size():
    """The mean over tokens, too: of all rows, not of batches."""
    spec, data = dataclasses.replace(LLAMA, layers=1), pairs(8)
    params, base = random_params(spec, 0), random_params(spec, 1)
    mixture = Objective("pairs", (("sigmoid", 1.0), ("sft", 0.5)), reference="base")
    found = []
    for size in (3, 8):
        one = runner(spec, data, True, size, mixture)
        found.append(measure(one.objective, *one.outputs(params, base, (), data, ""), data.clusters)[0])
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert value["mean"] == pytest.approx(found[1][name]["mean"], rel=1e-4, abs=1e-6), name
    nll = found[0]["nll_loss"]["mean"]
    outputs, values = one.outputs(params, base, (), data, "")
    assert nll == pytest.approx(outputs["nll"][:, 0].sum() / outputs["nll_tokens"][:, 0].sum(), rel=1e-5)
    sigmoid = measure(PAIRS, outputs, values, data.clusters)[0]["loss"]["mean"]
    assert found[0]["loss"]["mean"] == pytest.approx(sigmoid + 0.5 * nll, rel=1e-5)


def test_accuracies_of_1_have_an_interval():
    """Four of four prompts right are a share of 0.025^(1/4) at least, however they are weighted."""
    logprobs, ones = np.array([[-1.0, -5.0]] * 4, np.float32), np.ones((4, 2), np.float32)
    outputs = {"logprobs": logprobs, "nll": -logprobs, "tokens": ones, "nll_tokens": ones, "reference": 0 * ones}
    values = {"weight": np.array([1, 2, 3, 1], np.float32), "nll_scale": ones[:, 0]}
    found, _ = measure(runner(LLAMA, pairs(4), True).objective, outputs, values, list("abcd"))
    assert found["rewards/accuracies"] == {"mean": 1.0, "ci_low": pytest.approx(0.025 ** 0.25), "ci_high": 1.0, "n": 4}
    assert found["loss"]["ci_low"] == pytest.approx(found["loss"]["ci_high"])


@pytest.mark.parametrize("objective", [
    Objective("sft"), PAIRS, Objective("pairs", (("orpo", 1.0),)),
    Objective("unpaired", (("kto", 1.0),), reference="base")], ids=["sft", "sigmoid", "orpo", "kto"])
def test_accuracy_and_entropy_of_tokens(objective):
    """Over the completions' tokens, each by the state before it; accuracy of the chosen ones, entropy of both."""
    random, params, weight = np.random.default_rng(0), random_params(LLAMA, 0), np.array([1, 2, 0.5], np.float32)
    logits_of = lambda ids: unembedding(LLAMA, params).logits(forward(LLAMA, params, jnp.array(ids)[None]).hidden[0])
    longer = lambda prompt, answer: [*answer, int(logits_of([*prompt, *answer])[-1].argmax())]  # one token is right
    texts = [(prompt, longer(prompt, random_ids(random, 2, 9)), random_ids(random, 2, 9)) for prompt in ([9], [8], [7])]
    values = {"weight": weight, "desirable": np.array([1, 0, 1], np.float32)}
    orpo = objective.losses == (("orpo", 1.0),)  # trains the prompt too
    of = lambda prompt, answer: completion_text([*prompt, *answer], [False] + [True] * len(answer), with_prompt=orpo)
    if objective.kind == "unpaired":
        own = [(np.array(prompt), np.array(answer), np.ones(len(answer), bool)) for prompt, answer, _ in texts]
        data = UnpairedGroups(own, values, [0, 1, 2], 64)
    else:
        data = FixedGroups([tuple(of(prompt, answer) for answer in answers[:objective.texts])
                            for prompt, *answers in texts], values, [0, 1, 2])
    run = runner(LLAMA, data, True, 3, objective)
    found = measure(run.objective, *run.outputs(params, random_params(LLAMA, 1), (), data, ""), data.clusters)[0]

    def token_values(prompt, answer):
        logits = logits_of([*prompt, *answer])[len(prompt) - 1:-1]
        log_probs = jax.nn.log_softmax(logits)
        return np.asarray(logits.argmax(-1) == jnp.array(answer)), -np.asarray((jnp.exp(log_probs) * log_probs).sum(-1))

    rows = [[token_values(prompt, answer) for answer in answers[:2 if objective.kind == "pairs" else 1]]
            for prompt, *answers in texts]
    for name, index, sides in (("mean_token_accuracy", 0, slice(1)), ("entropy", 1, slice(2))):
        parts = [(w, side[index]) for w, row in zip(weight, rows, strict=True) for side in row[sides]]
        expected = sum(w * own.sum() for w, own in parts) / sum(w * len(own) for w, own in parts)
        assert expected > 0
        assert found[name]["mean"] == pytest.approx(expected, rel=1e-4, abs=1e-6), name


def test_an_encoder_gets_a_row_for_every_text_with_its_token_types():
    """Its attention, in both directions, would mix what packed texts share."""
    config = TuneConfig(method="classify", lora=None)
    assert config.train.packing and train_settings(config, LLAMA, 9, MESH).packing
    assert not train_settings(config, BERT, 9, MESH).packing
    params, random = random_params(BERT, 0), np.random.default_rng(0)
    texts = [scored_text(BERT, ids, np.arange(len(ids)) > 1)
             for ids in (random_ids(random, length, length + 1) for length in (4, 7, 4, 7, 4))]
    data = FixedGroups([(one,) for one in texts], {"weight": np.ones(5, np.float32), "label": np.ones(5, np.float32)},
                       list(range(5)))
    found = runner(BERT, data, False, 2, Objective("classify")).outputs(params, {}, (), data, "")[0]["scores"]
    for one, scores in zip(texts, found, strict=True):
        hidden = forward(BERT, params, jnp.asarray(one.ids)[None], types=jnp.asarray(one.types)[None]).hidden
        assert_allclose(scores[0], text_scores(BERT, params, hidden, jnp.ones((1, len(one.ids)), jnp.int32))[0],
                        atol=1e-5)


def test_kto_reports_its_reference_point_over_all_rows():
    """z0 is the clamp of the mean log-ratio of mismatched texts, not a mean of clamps; a side that is absent has no
    metric."""
    texts = unpaired(6)
    values = {"weight": np.ones(6, np.float32), "desirable": np.ones(6, np.float32)}
    data = UnpairedGroups(texts, values, list("abcdef"), 64)
    kto = runner(LLAMA, data, True, 6, Objective("unpaired", (("kto", 1.0),), reference="base"))
    outputs, taken = kto.outputs(random_params(LLAMA, 0), random_params(LLAMA, 1), (), data, "")
    found, by_row = measure(kto.objective, outputs, taken, data.clusters)
    ratios = outputs["logprobs"][:, 1] - outputs["reference"][:, 1]
    assert found["kl"]["mean"] == pytest.approx(max(0.0, ratios.mean()), rel=1e-5)
    assert found["kl"]["ci_low"] < found["kl"]["mean"] < found["kl"]["ci_high"] and found["kl"]["n"] == 6
    assert "rewards/rejected" not in found and "rewards/margins" not in found and "kl" not in by_row
    rewards = 0.1 * (outputs["logprobs"][:, 0] - outputs["reference"][:, 0])
    assert_allclose(by_row["loss"], 1 / (1 + np.exp(rewards - 0.1 * found["kl"]["mean"])), rtol=1e-5)
    assert found["loss"] == clustered(by_row["loss"], list("abcdef")) and found["rewards/chosen"]["n"] == 6
    assert found["loss"]["mean"] == pytest.approx(means(kto.objective, outputs, taken)["loss"], rel=1e-6)
    good = np.array([1, 0, 1, 1, 0, 0], np.float32)
    margins = measure(kto.objective, outputs, taken | {"desirable": good}, data.clusters)[0]["rewards/margins"]
    difference = rewards[good > 0].mean() - rewards[good == 0].mean()
    assert margins["mean"] == pytest.approx(difference, rel=1e-5)
    assert margins["ci_low"] < difference < margins["ci_high"]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_weights_of_long_completions(alpha):
    """Tokens beyond the shorter completion are weighted by alpha, and count in its length even where that is 0."""
    short, long = _ld_weighted([text([5], [6, 7]), text([5], [8, 9, 10, 11])], alpha)
    assert short.weights.tolist() == [1, 1]
    assert_allclose(long.weights, [1, 1, alpha, alpha], atol=1e-20)
    assert (long.weights > 0).all()
