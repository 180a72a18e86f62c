"""On-policy targets: which answers the student samples, when and with which weights, also in a resumed run."""

import dataclasses
import signal

import chex
import jax
import numpy as np
import pytest

from jaxllm.config import SamplingConfig
from jaxllm.evaluate.likelihood import mean_kl, target_batches
from jaxllm.finetune.distill import DivergenceConfig, make_loss
from jaxllm.finetune.on_policy import OnPolicyConfig, OnPolicyTargets, longest_completions, with_completion
from jaxllm.finetune.packing import pack_targets, packed_shape, row_counts
from jaxllm.finetune.run import make_plan, run_plan
from jaxllm.finetune.targets import Target, build_target, collate, common_lengths
from jaxllm.finetune.trainable import as_adapter, init_trained
from jaxllm.generate import Generator, generate
from jaxllm.model import Model
from jaxllm.models import LoraConfig, merge_adapter
from jaxllm.self_param.config import MixtureConfig
from jaxllm.self_param.targets import DocumentTargets
from jaxllm.train import Checkpointer, make_mesh
from jaxllm.train.config import TrainConfig
from tests.letters import Letters
from tests.networks import random_adapter

FLOAT32 = np.dtype("float32")
ROWS, STEPS = 4, 9
GREEDY = SamplingConfig(temperature=0.0, max_tokens=6, stop=["."])


@pytest.fixture(scope="module")
def model(llama):
    return Model(*llama, Letters())


@pytest.fixture(scope="module")
def targets(model):
    ids = lambda text: tuple(model.tokenizer.encode(text))
    context = ids("the red fox is in it")
    pairs = ("who is in it?", " fox."), ("what color?", " red."), ("is it?", " it is.")
    questions = tuple(build_target(model.prefix, context, ids(question + answer), "qa",
                                   prompt_tokens=len(ids(question)))
                      for question, answer in pairs)
    return DocumentTargets(model.prefix, context, questions, (ids("other text"), ids("more of it")), (),
                   MixtureConfig(qa=1, continuation=0, unrelated=1).cycle, 5)


def train_plan(model, targets, config, steps=STEPS, lora=None):
    longest = targets.longest()
    lengths = common_lengths([*longest, *longest_completions(longest, GREEDY.max_tokens, 64)], 64)
    train = TrainConfig(steps=steps, batch_size=ROWS, lr=5e-3, schedule="constant")
    return make_plan(model, "distill", train, lora, DivergenceConfig(), lengths, FLOAT32, make_mesh(),
                       on_policy=config, sampling=dataclasses.replace(GREEDY, temperature=config.temperature))


def train(model, *arguments, **options):
    return run_plan(Generator(model, dtype=FLOAT32), *arguments, progress=False, **options)


def test_replacing_the_answer_by_hand():
    target = build_target((1,), (7, 8), (3, 4, 5), "qa", prompt_tokens=2)
    assert with_completion(target, (9, 6)) == Target((1, 3, 4, 9, 6), (1, 7, 8, 3, 4, 9, 6), 2, 0, 1, 3)
    only = build_target((1,), (7, 8), (3, 4, 5), "qa", prompt_tokens=2, mask_prompt=True)
    assert with_completion(only, (9,)).masked_tokens == 3
    (long,) = longest_completions([target, build_target((1,), (), (5, 6), "unrelated")], 6, 9)
    assert len(long.student) == 3 + 9 - 5 and len(long.teacher) == 9


@pytest.mark.slow
def test_the_student_answers_the_prompts_of_its_targets(model, targets):
    """Greedy completions equal those of `generate`, truncated where the target would be too long; targets without a
    prompt are unchanged, and completions of past steps are dropped."""
    own = OnPolicyTargets(Generator(model, dtype=FLOAT32), targets, OnPolicyConfig(1.0), GREEDY, ROWS, (64, 64), {})
    own.sample(range(0, 3))
    for number in range(3 * ROWS):
        made = targets.target(number)
        if made.prompt_tokens:
            (completion,) = generate(model, [made.student[:made.prompt_tokens]], GREEDY, dtype=FLOAT32)[0]
            assert own.target(number) == with_completion(made, completion.token_ids) != made
        else:
            assert own.target(number) == made
    assert own.target(3 * ROWS) == targets.target(3 * ROWS)
    own.sample(range(3, 4))
    assert {int(number) // ROWS for number in own.completions} == {2, 3}
    length = max(target.prompt_tokens for target in targets.questions) + 2
    tight = OnPolicyTargets(Generator(model, dtype=FLOAT32), targets, OnPolicyConfig(1.0), GREEDY, ROWS, (length, 64),
                            {})
    tight.sample(range(0, 3))
    prompted = [number for number in range(3 * ROWS) if targets.target(number).prompt_tokens]
    assert max(len(tight.target(number).student) for number in prompted) == length


@pytest.mark.slow
def test_the_share_of_sampled_answers_is_reproducible(model, targets):
    sampling = dataclasses.replace(GREEDY, temperature=1.0)
    own = [OnPolicyTargets(Generator(model, dtype=FLOAT32), targets, OnPolicyConfig(0.3), sampling, ROWS, (64, 64), {})
           for _ in range(2)]
    own[0].sample(range(0, 50))
    for steps in (range(0, 20), range(20, 50)):
        own[1].sample(steps)
    prompted = 50 * ROWS // 2
    assert 0.2 * prompted < len(own[0].completions) < 0.4 * prompted
    assert own[1].completions == {number: ids for number, ids in own[0].completions.items() if int(number) >= 19 * ROWS}


def test_end_tokens_of_sampled_answers(model, targets):
    """A sampled end token is trained on, so that an answer that ends too early is corrected; after a stop string one is
    appended where the pairs have one; a truncated answer has none."""
    stop = model.tokenizer.encode(".")[0]
    end = next(token for token in range(3, 90) if token not in (stop, *model.stop_ids))
    student = dataclasses.replace(model, spec=dataclasses.replace(model.spec, eos_ids=(end,)))
    ending = dataclasses.replace(targets, questions=tuple(
        dataclasses.replace(question, student=(*question.student, end), teacher=(*question.teacher, end))
        for question in targets.questions))

    def completion(targets, token):
        sampling = dataclasses.replace(GREEDY, logit_bias={token: 100.0})
        own = OnPolicyTargets(Generator(student, dtype=FLOAT32), targets, OnPolicyConfig(1.0), sampling, ROWS, (64, 64),
                              {})
        own.sample(range(1))
        (ids,) = {tuple(ids) for ids in own.completions.values()}
        return ids

    assert completion(ending, end) == completion(targets, end) == (end,)
    assert completion(ending, stop) == (stop, end) and completion(targets, stop) == (stop,)
    other = end + 1
    assert completion(ending, other) == (other,) * GREEDY.max_tokens


@pytest.mark.slow
def test_the_current_student_is_sampled(model, targets, monkeypatch):
    """Before the first step the base model, then the student of that step; the adapter is applied next to the base;
    the base's weights are the same in every round, and not freed."""
    sampled, sample = [], OnPolicyTargets.sample
    before = jax.tree.map(np.array, model.params)

    def recorded(self, steps, params, adapter):
        assert params is None
        sampled.append((steps, jax.tree.map(np.array, adapter)))  # a copy: training reuses the memory
        sample(self, steps, params, adapter)

    monkeypatch.setattr(OnPolicyTargets, "sample", recorded)
    config, lora = OnPolicyConfig(1.0, every=3), LoraConfig(rank=4)
    train(model, targets, train_plan(model, targets, config, lora=lora))
    assert [steps for steps, _ in sampled] == [range(0, 4), range(4, 7), range(7, 9)]
    chex.assert_trees_all_equal(model.params, before)
    adapters = [adapter for _, adapter in sampled[:2]]
    initial = as_adapter(init_trained(model, lora, make_mesh(), targets.seed), lora)
    three = train(model, targets, train_plan(model, targets, config, 3, lora))
    for student, wanted in zip(adapters, (initial, three.adapter), strict=True):
        for a, b in zip(jax.tree.leaves(student), jax.tree.leaves(wanted), strict=True):
            assert np.array_equal(a, b)


class Stopping:
    """Targets that raise a signal when the second target of step 5, which has no prompt, is built for the first or the
    second time: when the prompts of its round are collected, or when its batch is made."""

    def __init__(self, targets, times):
        self.seed, self.cycle, self.target_of, self.times = targets.seed, targets.cycle, targets.target, times

    def target(self, number):
        self.times -= number == 5 * ROWS + 1
        if number == 5 * ROWS + 1 and not self.times:
            signal.raise_signal(signal.SIGTERM)
        return self.target_of(number)


@pytest.mark.parametrize(("times", "lora", "stopped", "teacher"), [
    (1, None, 3, "frozen"), (2, LoraConfig(rank=4), 5, "frozen"), (2, LoraConfig(rank=4), 5, "average")])
@pytest.mark.slow
def test_a_stopped_run_resumes_with_the_same_answers(model, targets, tmp_path, times, lora, stopped, teacher):
    made = train_plan(model, targets, OnPolicyConfig(0.7, every=3, teacher=teacher), lora=lora)
    whole = train(model, targets, made)
    with Checkpointer(tmp_path / "checkpoints") as checkpointer:
        half = train(model, Stopping(targets, times), made, checkpointer=checkpointer)
        assert half.interrupted and checkpointer.latest_step() == stopped
        rest = train(model, targets, made, checkpointer=checkpointer)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(rest.params), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.slow
def test_distillation_on_its_own_answers_lowers_the_kl(model, targets):
    """Trained on its own answers alone, the student agrees with the teacher on the reference answers too."""
    learned = train(model, targets, train_plan(model, targets, OnPolicyConfig(1.0, every=5), 40, LoraConfig(rank=8)))
    stored = target_batches(list(targets.questions), 64)
    assert mean_kl(model, learned.params, stored, FLOAT32) < mean_kl(model, model.params, stored, FLOAT32) / 2


LORA = LoraConfig(rank=2, alpha=4.0)


def batch_of(model, targets, packed):
    made = [targets.target(number) for number in range(6)]
    lengths = common_lengths(made, 64)
    if not packed:
        return collate(made, *lengths)
    return pack_targets(made, packed_shape(lengths, [made], model.spec.width), row_counts(6, 1)).batch


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("teacher", ["latest", "average"])
def test_the_teacher_has_an_adapter_where_there_is_a_document(model, targets, teacher, packed):
    """The loss is that with merged weights as the open-book teacher; texts without a document have the base model."""
    student, average = (random_adapter(model.spec, LoraConfig(rank, 2.0 * rank), 0.3) for rank in (2, 3))
    own = student if teacher == "latest" else average
    merged, batch = merge_adapter(model.params, own), batch_of(model, targets, packed)
    loss = make_loss(model.spec, "distill", student.scale, teacher=teacher)
    reference = make_loss(model.spec, "distill", student.scale, two_teachers=True)
    run = lambda loss, frozen, extra: jax.jit(jax.value_and_grad(
        lambda trained: loss(trained, frozen, batch, jax.random.key(0), extra)[0][0]))(student.params)
    ours = run(loss, model.params, {"teacher": average.params})
    theirs = run(reference, (model.params, merged), {})
    chex.assert_trees_all_close(ours, theirs, rtol=2e-4, atol=2e-6)
    frozen, _ = run(make_loss(model.spec, "distill", student.scale), model.params, {})
    assert abs(float(frozen - ours[0])) > 1e-3
    with pytest.raises(ValueError, match="all weights are trained"):
        make_loss(model.spec, "distill", None, teacher=teacher)


@pytest.mark.slow
def test_the_average_follows_the_adapter(model, targets):
    """After each step `decay` of it remains."""
    config = OnPolicyConfig(0.5, every=2, teacher="average", decay=0.75)
    states, plan = [], train_plan(model, targets, config, steps=3, lora=LORA)
    compiled = plan.step

    def recorded(state, frozen, batch):
        state, numbers = compiled(state, frozen, batch)
        states.append(jax.device_get((state.params, state.extra["teacher"])))
        return state, numbers

    train(model, targets, dataclasses.replace(plan, step=recorded))
    average = jax.device_get(init_trained(model, LORA, plan.mesh, targets.seed))
    assert len(states) == 3
    for params, before in states:
        chex.assert_trees_all_close(before, average, atol=1e-6)
        average = jax.tree.map(lambda new, old: 0.25 * new + 0.75 * old, params, average)


@pytest.mark.slow
@pytest.mark.parametrize("packing", [False, True], ids=["padded", "packed"])
def test_sampled_answers_with_cached_teacher_outputs(model, targets, packing):
    """With all tokens of the vocabulary in the cache the run is that without a cache."""
    config, trained = OnPolicyConfig(0.5, every=2), []
    for top_k in (None, model.spec.vocab_size):
        longest = targets.longest()
        lengths = common_lengths([*longest, *longest_completions(longest, GREEDY.max_tokens, 64)], 64)
        settings = TrainConfig(steps=6, batch_size=ROWS, lr=5e-3, schedule="constant", packing=packing)
        batches = [[*longest_completions([targets.target(i) for i in range(4)], GREEDY.max_tokens, 64)]]
        plan = make_plan(model, "distill", settings, LORA, DivergenceConfig(top_k=top_k), lengths, FLOAT32, make_mesh(),
                         on_policy=config, sampling=dataclasses.replace(GREEDY, temperature=1.0), batches=batches)
        trained.append(train(model, targets, plan).trained)
    chex.assert_trees_all_close(*trained, atol=2e-5)
