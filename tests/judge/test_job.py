"""Judge jobs: order, kills, retries, invalid rows, usage and cost."""

import json

import pytest

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.files import read_jsonl
from jaxllm.job import open_job
from jaxllm.judge import (
    Answer,
    Cached,
    Completions,
    FunctionJudge,
    Invalid,
    JudgeConfig,
    NoAnswer,
    Options,
    Prices,
    Prompt,
    RecordedJudge,
    Usage,
    judge_rows,
    open_judge,
    retry_same_prompt,
    split_answerable,
)
from jaxllm.judge import job as judge_job
from jaxllm.text.rows import Rejected

GREEDY = SamplingConfig(temperature=0.0, max_tokens=6)
FREE = SamplingConfig(temperature=1.0, max_tokens=6)


def number(row, answer):
    """A parser: the answer must be a number."""
    return int(answer.text) if answer.text.isdigit() else Invalid(f"{answer.text!r} is not a number")


class Scripted(FunctionJudge):
    """Answers the last message by `script(prompt, seed, sample)`, in reverse order, and counts tokens."""

    def __init__(self, script):
        super().__init__(identity="scripted")
        self.script, self.calls, self.stop_after = script, [], None

    def complete(self, prompts, sampling, *, seed=0, on_answer=None, on_failure=None):
        results = [None] * len(prompts)
        for i in reversed(range(len(prompts))):
            if self.stop_after is not None and len(self.calls) >= self.stop_after:
                raise KeyboardInterrupt
            self.calls.append((prompts[i].id, seed, prompts[i].sample))
            try:
                texts = [self.script(prompts[i], seed, prompts[i].sample + k) for k in range(sampling.n)]
            except NoAnswer as error:
                results[i] = []
                on_failure(i, error.reason)
                continue
            results[i] = [Answer(text, "stop", -1.0, Usage(0 if k else 10, 2)) for k, text in enumerate(texts)]
            on_answer(i, results[i])
        return results


def run(directory, judge, rows, task, **options):
    with open_job(directory, CONFIG) as job:
        summary = judge_rows(job, judge, rows, lambda row: Prompt(f"rate {row}", str(row)), task, **options)
    return summary, read_jsonl(directory / options.get("file", "rows.jsonl"))


CONFIG = JudgeConfig()


def test_rows_come_in_order_with_usage_and_cost(tmp_path):
    judge = Scripted(lambda prompt, seed, sample: prompt.id)
    summary, rows = run(tmp_path / "out", judge, range(5), Completions(GREEDY, number), prices=Prices(1.0, 3.0))
    assert [row["id"] for row in rows] == list("01234") and [row["samples"][0]["value"] for row in rows] == [*range(5)]
    assert rows[3] == {"id": "3", "valid": True, "reason": None, "samples": [
        {"text": "3", "value": 3, "reason": None, "attempts": 1, "finish_reason": "stop", "logprob": -1.0}],
        "prompt_tokens": 10, "completion_tokens": 2, "cost": pytest.approx(16e-6)}
    assert (summary.rows, summary.invalid, summary.prompt_tokens, summary.completion_tokens) == (5, 0, 50, 10)
    assert summary.cost == pytest.approx(80e-6)
    metrics = read_jsonl(tmp_path / "out" / "metrics.jsonl")
    assert len(metrics) == 1 and metrics[0]["step"] == 5 and metrics[0]["prompt_tokens"] == 50
    # A finished file needs no judge.
    judge.calls.clear()
    again, _ = run(tmp_path / "out", judge, range(5), Completions(GREEDY, number), prices=Prices(1.0, 3.0))
    assert again == summary and not judge.calls and len(read_jsonl(tmp_path / "out" / "metrics.jsonl")) == 1


def test_a_stopped_job_continues_with_the_same_answers(tmp_path, monkeypatch):
    monkeypatch.setattr(judge_job, "ROWS_PER_BLOCK", 4)
    script = lambda prompt, seed, sample: "7" if int(prompt.id.partition("/")[0]) % 3 == 0 or seed > 100 else "?"
    task = Completions(FREE, number, attempts=2, retry=retry_same_prompt)
    _, whole = run(tmp_path / "whole", Scripted(script), range(10), task, seed=5)
    stopped = Scripted(script)
    for stop in (2, 9, 11):
        stopped.stop_after = stop
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "stopped", stopped, range(10), task, seed=5)
        lines = read_jsonl(tmp_path / "stopped" / "rows.jsonl")
        assert lines == whole[:len(lines)]
    stopped.stop_after = None
    assert run(tmp_path / "stopped", stopped, range(10), task, seed=5)[1] == whole
    assert [row["samples"][0]["attempts"] for row in whole] == [1, 2, 2] * 3 + [1]
    with pytest.raises(UserError, match="the judge changed"):
        run(tmp_path / "stopped", FunctionJudge(identity="another"), range(10), task)


def test_retries_state_the_reason_and_count_their_tokens(tmp_path):
    """Row 0 needs no retry, row 1 one, row 2 is invalid after three attempts; two samples of row 3 differ."""
    needed = {"0": 0, "1": 1, "2": 9, "3": 0}
    prompts = {}

    def script(prompt, seed, sample):
        row, _, attempt = prompt.id.partition("/retry")
        prompts[prompt.id, sample] = prompt.content
        return "42" if int(attempt or 0) >= needed[row] + (row == "3" and sample == 1) else "no idea"

    judge = Scripted(script)
    task = Completions(SamplingConfig(temperature=1.0, n=2), number, attempts=3)
    summary, rows = run(tmp_path / "out", judge, range(4), task, seed=1)
    assert [[sample["attempts"] for sample in row["samples"]] for row in rows] == [[1, 1], [2, 2], [3, 3], [1, 2]]
    assert [row["valid"] for row in rows] == [True, True, False, True]
    assert rows[2]["reason"] == "'no idea' is not a number" and rows[2]["samples"][0]["value"] is None
    assert rows[3]["samples"][1]["value"] == 42
    # The first attempt has one prompt for both samples, a retry one for each.
    assert [(row["prompt_tokens"], row["completion_tokens"]) for row in rows] == [(10, 4), (30, 8), (50, 12), (20, 6)]
    assert summary.invalid == 1 and summary.prompt_tokens == 110 and summary.cost is None
    assert prompts["1/retry1", 1] == [
        {"role": "user", "content": "rate 1"}, {"role": "assistant", "content": "no idea"},
        {"role": "user", "content": "This answer cannot be used: 'no idea' is not a number. Answer again, in the "
                                    "required form and nothing else."}]
    assert prompts["2/retry2", 0] == [*prompts["2/retry1", 0], *prompts["2/retry1", 0][1:]], "greedy attempts differ"
    seeds = {(id or "").partition("/")[2]: seed for id, seed, _ in judge.calls}
    assert seeds[""] == 1 and len(set(seeds.values())) == 3


def test_rows_without_an_answer_are_invalid(tmp_path):
    """So are retries without one, with what was wrong before."""
    def script(prompt, seed, sample):
        if prompt.id in ("1", "2/retry1"):
            raise NoAnswer("refused")
        return "?" if prompt.id == "2" else "1"

    summary, rows = run(tmp_path / "out", Scripted(script), range(4), Completions(GREEDY, number, attempts=2))
    assert [row["valid"] for row in rows] == [True, False, False, True] and summary.invalid == 2
    assert rows[1] == {"id": "1", "valid": False, "reason": "refused", "samples": [], "prompt_tokens": None,
                       "completion_tokens": None}
    assert rows[2]["reason"] == "'?' is not a number" and rows[2]["samples"][0]["attempts"] == 1


def test_recorded_retries(tmp_path):
    (tmp_path / "recorded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (
        {"id": 0, "texts": ["?", "1"]}, {"id": "0/retry1", "texts": ["2", "3"]}, {"id": 1, "texts": ["5", "?"]})))
    judge = RecordedJudge(tmp_path / "recorded.jsonl")
    task = Completions(SamplingConfig(temperature=1.0, n=2), number, attempts=3)
    _, rows = run(tmp_path / "out", judge, range(3), task)
    assert [[sample["value"] for sample in row["samples"]] for row in rows] == [[2, 1], [5, None], []]
    assert rows[1]["valid"] and not rows[2]["valid"] and "no answer is recorded" in rows[2]["reason"]
    assert rows[0]["prompt_tokens"] is None


def test_a_cached_rerun_needs_no_judge(tmp_path):
    script = lambda prompt, seed, sample: "1" if "/retry" in prompt.id else "?"
    judge = Scripted(script)
    task = Completions(FREE, number, attempts=2)
    first = run(tmp_path / "one", Cached(judge, tmp_path / "answers.sqlite"), range(6), task)
    count = len(judge.calls)
    assert run(tmp_path / "two", Cached(judge, tmp_path / "answers.sqlite"), range(6), task) == first
    assert len(judge.calls) == count == 12


def test_choices_in_a_file_of_their_own(tmp_path):
    def choose(prompt, options):
        if prompt.id == "1":
            raise NoAnswer("refused")
        return {"Yes": 0.3, "No": 0.1}

    judge = FunctionJudge(choose=choose, identity="chooses")
    summary, rows = run(tmp_path / "out", judge, range(3), Options(["Yes", "No"]), file="choices.jsonl",
                        fields=lambda row, outcome: outcome.fields() | {"row": row})
    assert rows[0] == {"id": "0", "valid": True, "reason": None, "answer": "Yes",
                       "probabilities": pytest.approx({"Yes": 0.75, "No": 0.25}), "mass": pytest.approx(0.4), "row": 0,
                       "prompt_tokens": None, "completion_tokens": None}
    assert [row["valid"] for row in rows] == [True, False, True] and rows[1] == {
        "id": "1", "valid": False, "reason": "refused", "answer": None, "probabilities": None, "mass": None, "row": 1,
        "prompt_tokens": None, "completion_tokens": None}
    assert (summary.rows, summary.invalid, summary.prompt_tokens) == (3, 1, None)
    assert not (tmp_path / "out" / "rows.jsonl").exists()


def test_options_without_any_probability_are_no_answer(tmp_path):
    judge = FunctionJudge(choose=lambda prompt, options: {"Yes": 0.0, "No": 0.0}, identity="writes something else")
    summary, rows = run(tmp_path / "out", judge, range(1), Options(["Yes", "No"]))
    assert summary.invalid == 1 and rows == [{
        "id": "0", "valid": False, "reason": "no option has any probability", "answer": None, "probabilities": None,
        "mass": 0.0, "prompt_tokens": None, "completion_tokens": None}]


def test_a_judge_that_fails_on_all_prompts_leaves_no_directory(tmp_path):
    with pytest.raises(UserError, match="cannot complete"):
        run(tmp_path / "out", FunctionJudge(choose=dict, identity="chooses"), range(3), Completions(GREEDY))
    assert not (tmp_path / "out").exists()  # the corrected command can use it


def test_metrics_are_seldom(tmp_path, monkeypatch):
    judge = Scripted(lambda prompt, seed, sample: "1")
    run(tmp_path / "seldom", judge, range(3000), Completions(GREEDY))
    assert len(read_jsonl(tmp_path / "seldom" / "metrics.jsonl")) <= 2
    monkeypatch.setattr(judge_job, "METRICS_SECONDS", 0.0)
    run(tmp_path / "often", judge, range(5), Completions(GREEDY))
    assert [row["step"] for row in read_jsonl(tmp_path / "often" / "metrics.jsonl")] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_a_local_judge_retries_and_splits(tmp_path):
    """What does not fit is separated; a retry that does not fit is not made."""
    judge = open_judge(JudgeConfig())
    rows = ["short", "word " * 600, "long " * 60]
    prompt = lambda row: Prompt(f"Rate: {row}", row[:5])
    answerable, rejected = split_answerable(judge, rows, prompt, 6, lambda row, reason: Rejected("f", 1, reason, row))
    assert answerable == [rows[0], rows[2]] and "context window" in rejected[0].reason
    with open_job(tmp_path / "out", CONFIG) as job:
        judge_rows(job, judge, answerable, prompt, Completions(GREEDY, lambda row, answer: Invalid("wrong " * 500
                   if row == rows[2] else "wrong"), attempts=2))
    assert [row["samples"][0]["attempts"] for row in read_jsonl(tmp_path / "out" / "rows.jsonl")] == [2, 1]


def test_retries_of_prompts_that_start_at_a_sample(tmp_path):
    (tmp_path / "recorded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in (
        {"id": "a", "texts": ["?"] * 4}, {"id": "a/retry1", "texts": ["0", "1", "2", "3"]})))
    task = Completions(SamplingConfig(temperature=1.0, n=2), number, attempts=2)
    with open_job(tmp_path / "out", CONFIG) as job:
        judge_rows(job, RecordedJudge(tmp_path / "recorded.jsonl"), [0, 2], lambda row: Prompt("x", "a", row), task,
                   shown=False)
    assert [[sample["value"] for sample in row["samples"]] for row in read_jsonl(tmp_path / "out" / "rows.jsonl")] == [
        [0, 1], [2, 3]]
