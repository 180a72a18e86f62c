"""Reinforcement learning on GSM8K: rewards, stops and pass@k, on written answers and of the packaged model."""

import json

import numpy as np
import pytest

from jaxllm.cli import main
from jaxllm.cory import QueryConfig
from jaxllm.cory.prompts import encode_query
from jaxllm.evaluate.gsm8k import final_number
from jaxllm.generate import Completion
from jaxllm.rl import Learner, make_rollout
from jaxllm.rl.rewards import gsm8k_reward
from jaxllm.train import read_metrics
from tests.cory.teams import make

QUESTION = "Question: {question}\nAnswer:"


@pytest.fixture
def problems(shared):
    """Three short problems of the data set."""
    with open(shared / "gsm8k" / "train.jsonl") as file:
        rows = [json.loads(line) for line in file]
    return sorted(rows, key=lambda row: len(row["question"]))[:3]


def test_written_answers_get_their_rewards(model, problems, monkeypatch):
    """Of four samples of a problem one is right, and runs on with another question; the observer sees the pioneer's."""
    numbers = {row["question"]: final_number(row["answer"], strict=True) for row in problems}
    right, wrong = " It is ${}.\nQuestion: What is 7 + 1?\nAnswer: 8", " I do not know..."

    def sample(self, base, state, prompts, limit, seed):
        texts = [model.tokenizer.decode(ids) for ids in prompts]
        found = [next(number for question, number in numbers.items() if question in text) for text in texts]
        answers = [right.format(number) if i % 4 == 0 else wrong for i, number in enumerate(found)]
        return make_rollout(prompts, [Completion(text, [5, 6], 0.0, "stop", np.zeros(2)) for text in answers],
                            self.config.limit)

    monkeypatch.setattr(Learner, "sample", sample)
    trainer = make(model, f"--query.template={QUESTION}", "--held_back.samples=4", "--held_back.pass_at=[1, 2, 4]",
                   "--cory.observer_template={query}{response}\n{query}", reward=gsm8k_reward, rows=problems)
    _, metrics, turns = trainer.iterate(trainer.start(), 0)
    for turn in turns:
        assert turn.scores.tolist() == [1, 0, 0, 0]
    for agent in metrics["agents"].values():
        assert agent["task_reward"] == 0.25 and agent["shaped_score"] == 0.5
    for query, prompt in zip(turns[0].queries, turns[1].rollout.prompts, strict=True):
        text = model.tokenizer.decode(prompt)
        assert text.count(query.text) == 2 and (right[:7] in text or wrong in text)
    found = trainer.evaluate(trainer.start())["llm2"]
    assert found["task_reward"]["mean"] == 0.25
    assert [found["pass_at_k"][k]["mean"] for k in ("1", "2", "4")] == pytest.approx([0.25, 0.5, 1.0])


def test_a_response_begins_with_the_thinking_that_the_template_opens(model, monkeypatch):
    """One that ends within its thinking has no number; after a text, or an assistant's own words, there is no tag."""
    answers = ["It may be 4", "It may be 5\n</think>\nIt is 4"]
    user, seen = [{"role": "user", "content": "What is 2 + 2?"}], []

    def recorded(prompts, responses, rows):
        seen.extend(responses)
        return gsm8k_reward(prompts, responses, rows)

    decode = type(model.tokenizer).decode
    monkeypatch.setattr(type(model.tokenizer), "decode", lambda own, ids, special=False: decode(own, ids, special) + (
        "<think>\n" if special else ""))
    trainer = make(model, reward=recorded)
    for row, tag in (({"messages": user}, "<think>\n"), ({"prompt": "What is 2 + 2?"}, ""),
                     ({"messages": [*user, {"role": "assistant", "content": "It"}]}, "")):
        seen.clear()
        queries = [encode_query(model, QueryConfig(), row | {"answer": "4"}, 100)] * 2
        rollout = make_rollout([query.ids for query in queries], [
            Completion(text, [5, 6], 0.0, "stop", np.zeros(2)) for text in answers], 6)
        assert trainer._score(queries, rollout).tolist() == [0 if tag else 1, 1]
        assert seen == [tag + text for text in answers]


@pytest.mark.slow
def test_a_run_on_the_data_set(shared, tmp_path):
    """The packaged model knows nothing of such problems: all phases run, and pass@k is close to 0."""
    out = tmp_path / "run"
    assert main(["rl", f"--data.path={shared / 'gsm8k' / 'train.jsonl'}", "--data.limit=12", "--data.limit_bad=0.9",
                 f"--out={out}", f"--query.template={QUESTION}", "--reward=gsm8k", "--agents=2", "--iterations=2",
                 "--cory.observer_template={query}{response}\n{query}", '--sampling.stop=["Question:"]',
                 "--sampling.max_tokens=12", "--train.batch_size=4", "--train.passes=1", "--lora.rank=4",
                 "--held_back.rows=3", "--held_back.samples=2", "--held_back.pass_at=[1, 2]", "--save=nothing"]) == 0
    result = json.loads((out / "result.json").read_text())
    for agent in result["agents"].values():
        for when in ("before", "after"):
            rates = [agent[when]["pass_at_k"][k]["mean"] for k in ("1", "2")]
            assert 0 <= rates[0] <= rates[1] <= 0.5 and agent[when]["task_reward"]["mean"] == rates[0]
    assert result["rows"] + result["held_back_rows"] == 12 and len(read_metrics(out / "metrics.jsonl")) == 2
    samples = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert all(sample["task_reward"] in (0, 1) and "Question:" not in sample["response"] for sample in samples)
