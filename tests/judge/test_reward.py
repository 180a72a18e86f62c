"""A reward model as a judge: choices by scores, and what it refuses."""

import math

import pytest
from numpy.testing import assert_allclose

from jaxllm import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.generate import Generator
from jaxllm.judge import JudgeConfig, LocalJudge, Prompt, RewardJudge, Usage, open_judge
from jaxllm.model import load
from jaxllm.models import LoraConfig
from jaxllm.models.peft import save_adapter
from jaxllm.text.examples import reward_text_ids
from tests.networks import random_adapter
from tests.reward_models import save_language_model

ASK = [{"role": "user", "content": "Once upon a time?"}]
OPTIONS = ["yes", "no, never"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base model, and an adapter with a head."""
    base = save_language_model(tmp_path_factory.mktemp("base"))
    model = load(base).with_score_head(1, seed=2)
    head = {"out": {"kernel": 30 * model.params["score"]["out"]["kernel"]}}
    adapter = random_adapter(model.spec, LoraConfig(rank=2), std=0.1)
    return base, save_adapter(tmp_path_factory.mktemp("tuned") / "adapter", model.spec, adapter, head=head)


@pytest.fixture(scope="module")
def judge(folders):
    base, adapter = folders
    return open_judge(JudgeConfig("reward", model=str(base), adapter=str(adapter), batch_size=4))


def test_probabilities_are_those_of_bradley_terry(judge):
    """exp(s_a) / (exp(s_a) + exp(s_b)); a text is one user message, as messages are."""
    first, same, other = judge.choose([Prompt(ASK), Prompt("Once upon a time?"), Prompt("1 + 1")], OPTIONS)
    texts = [reward_text_ids(judge.tokenizer, ASK, option) for option in OPTIONS]
    (a,), (b,) = Generator(judge.generator.model).classify([(ids, [0] * len(ids)) for ids in texts],
                                                           adapter=judge.adapter)
    assert abs(a - b) > 0.1
    assert first.probabilities["yes"] == pytest.approx(1 / (1 + math.exp(b - a)), abs=1e-5)
    assert first.answer == OPTIONS[a < b] and first.mass == pytest.approx(1)
    assert first.usage == Usage(sum(map(len, texts)), 0)
    assert same.probabilities == pytest.approx(first.probabilities, abs=1e-5)
    assert other.probabilities != pytest.approx(first.probabilities, abs=1e-3)
    assert_allclose(judge.scores([Prompt(ASK)] * 2, OPTIONS), [a, b], atol=1e-5)


def test_three_options_and_blocks(judge, monkeypatch):
    """Every prompt has its own softmax, also where prompts are scored in several calls."""
    prompts, options = [Prompt(text) for text in ("a", "Once", "the user")], ["x", "yes", "1 + 1"]
    whole = judge.choose(prompts, options)
    monkeypatch.setattr("jaxllm.judge.reward.PROMPTS_PER_SCORE_CALL", 2)
    answered = {}
    for one, other in zip(judge.choose(prompts, options, on_answer=answered.__setitem__), whole, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
        assert sum(one.probabilities.values()) == pytest.approx(1)
    assert sorted(answered) == [0, 1, 2]


def test_a_prompt_that_does_not_fit_fails_alone(judge):
    prompts, failures = [Prompt("a " * 200), Prompt("Once")], {}
    first, second = judge.choose(prompts, OPTIONS, on_failure=failures.__setitem__)
    assert first is None and second is not None
    assert list(failures) == [0] and "context window of 128" in failures[0]
    with pytest.raises(UserError, match="context window of 128"):
        judge.choose(prompts, OPTIONS)
    assert "context window of 128" in judge.unanswerable_reason(prompts[0], 0)
    assert judge.unanswerable_reason(prompts[1], 0) is None


def test_it_writes_no_text(judge):
    with pytest.raises(UserError, match="scores answers and writes none"):
        judge.complete([Prompt("Once")], SamplingConfig())


def test_models_that_are_no_reward_models(folders):
    base, adapter = folders
    with pytest.raises(UserError, match="gives one score, and this model none"):
        open_judge(JudgeConfig("reward", model=str(base)))
    with pytest.raises(UserError, match="gives one score, and this model 3"):
        RewardJudge(load(base).with_score_head(3), "three")
    with pytest.raises(UserError, match="cannot answer prompts"):
        open_judge(JudgeConfig("local", model=str(base), adapter=str(adapter)))
    with pytest.raises(UserError, match="a judge of kind reward needs it"):
        JudgeConfig("reward")


def test_kind_and_format_are_in_the_identity(folders):
    base, _ = folders
    language, reward = load(base), load(base).with_score_head(1)
    plain = RewardJudge(reward, "m", text_format="plain")
    assert len({RewardJudge(reward, "m").identity, plain.identity, LocalJudge(language, "m").identity}) == 3
    assert plain._ids(Prompt("1 + "), "1") == reward_text_ids(language.tokenizer, "1 + ", "1")
