"""The cache of a judge's answers: hits, samples, several processes, kills, and its speed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.judge import Answer, Cached, Choice, FunctionJudge, NoAnswer, Prompt, Usage, cache

GREEDY = SamplingConfig(temperature=0.0, max_tokens=6)


class Counting(FunctionJudge):
    """Counts its calls, and fails on some prompts."""

    def __init__(self):
        super().__init__(self.answer, lambda prompt, options: dict.fromkeys(options, 0.5), identity="counting")
        self.calls = []

    def answer(self, prompt, sampling, seed):
        if prompt.content == "fail":
            raise UserError("no more answers", "counting")
        if prompt.content == "missing":
            raise NoAnswer("not this one")
        self.calls.append(prompt.content)
        return [f"{prompt.content}{seed}/{prompt.sample + i}" for i in range(sampling.n)]


def test_nothing_is_generated_twice(tmp_path):
    judge = Counting()
    cached = Cached(judge, tmp_path / "deep" / "answers.sqlite")
    seen = []
    prompts = [Prompt(text) for text in "abab"]
    first = cached.complete(prompts, GREEDY, on_answer=lambda number, _: seen.append(number))
    assert judge.calls == ["a", "b"] and sorted(seen) == [0, 1, 2, 3] and first[0] == first[2] == [Answer("a0/0")]
    again = Cached(judge, tmp_path / "deep" / "answers.sqlite")
    assert again.complete(prompts, GREEDY) == first and judge.calls == ["a", "b"]
    # Greedy decoding does not depend on the seed; a draw does, and other settings are another question.
    assert again.complete(prompts[:1], GREEDY, seed=5) == first[:1]
    free = SamplingConfig(temperature=1.0)
    assert again.complete(prompts[:1], free, seed=5) != again.complete(prompts[:1], free, seed=6)
    assert again.choose(prompts, ["x", "y"]) == again.choose(prompts, ["x", "y"])
    assert again.choose(prompts[:1], ["x", "z"])[0].probabilities == {"x": 0.5, "z": 0.5}


def test_more_samples_continue_the_cached_ones(tmp_path):
    """Five samples, then eight: three are generated. Sample numbers, temperature and limit are parts of the key."""
    judge = Counting()
    cached = Cached(judge, tmp_path / "answers.sqlite")
    texts = lambda n, **settings: [answer.text for answer in cached.complete(
        [Prompt("a")], SamplingConfig(**{"temperature": 1.0, "n": n} | settings), seed=3)[0]]
    assert texts(5) == texts(5) == [f"a3/{i}" for i in range(5)] and len(judge.calls) == 1
    assert texts(8) == [f"a3/{i}" for i in range(8)] and len(judge.calls) == 2
    assert texts(2) == ["a3/0", "a3/1"] and len(judge.calls) == 2
    assert texts(2, temperature=0.5) and texts(2, max_tokens=3) and len(judge.calls) == 4
    assert cached.complete([Prompt("a", sample=1)], SamplingConfig(temperature=1.0), seed=3)[0][0].text == "a3/1"


def test_usage_is_cached(tmp_path):
    class Full(FunctionJudge):
        def complete(self, prompts, sampling, *, seed=0, on_answer=None, on_failure=None):
            return [[Answer("x", "stop", -0.5, Usage(3, 1))] for _ in prompts]

        def choose(self, prompts, options, *, on_answer=None, on_failure=None):
            return [Choice({"a": 1.0, "b": 0.0}, 0.5, Usage(2, 0)) for _ in prompts]

    for judge in (Full(identity="full"), FunctionJudge(identity="full")):  # the second has no answers of its own
        cached = Cached(judge, tmp_path / "answers.sqlite")
        assert cached.complete([Prompt("a"), Prompt("b")], GREEDY) == [[Answer("x", "stop", -0.5, Usage(3, 1))]] * 2
        assert cached.choose([Prompt("a")], ["a", "b"]) == [Choice({"a": 1.0, "b": 0.0}, 0.5, Usage(2, 0))]
    assert Cached(Counting(), tmp_path / "answers.sqlite").complete([Prompt("a")], GREEDY) == [[Answer("a0/0")]]


def test_answers_before_a_failure_are_cached(tmp_path):
    judge = Counting()
    cached = Cached(judge, tmp_path / "answers.sqlite")
    with pytest.raises(UserError, match="no more answers"):
        cached.complete([Prompt("a"), Prompt("b"), Prompt("fail"), Prompt("c")], GREEDY)
    cached.complete([Prompt("a"), Prompt("b"), Prompt("c")], GREEDY)
    assert judge.calls == ["a", "b", "c"]


def test_missing_answers_are_not_cached(tmp_path):
    judge, failed = Counting(), {}
    cached = Cached(judge, tmp_path / "answers.sqlite")
    prompts = [Prompt("missing"), Prompt("a"), Prompt("missing")]
    for _ in range(2):
        failed.clear()
        assert cached.complete(prompts, GREEDY, on_failure=failed.__setitem__) == [[], [Answer("a0/0")], []]
        assert failed == {0: "not this one", 2: "not this one"}
    with pytest.raises(UserError, match="not this one"):
        cached.complete(prompts, GREEDY)


def test_the_longer_list_of_two_processes_stays(tmp_path):
    """One stores eight completions while the other generates two, and commits them later."""
    path, free = tmp_path / "answers.sqlite", SamplingConfig(temperature=1.0, n=8)
    other = Cached(Counting(), path)
    late = FunctionJudge(lambda prompt, sampling, seed: other.complete([prompt], free) and ["late"] * 2,
                         lambda prompt, options: other.choose([prompt], options) and {"x": 1.0, "y": 0.0},
                         identity="counting")
    Cached(late, path).complete([Prompt("a")], SamplingConfig(temperature=1.0, n=2))
    Cached(late, path).choose([Prompt("a")], ["x", "y"])
    third = Cached(FunctionJudge(identity="counting"), path)
    assert [answer.text for answer in third.complete([Prompt("a")], free)[0]] == [f"a0/{i}" for i in range(8)]
    assert third.choose([Prompt("a")], ["x", "y"])[0].probabilities == {"x": 0.5, "y": 0.5}


def test_a_cache_without_answers_is_empty(tmp_path):
    cached = Cached(Counting(), tmp_path / "answers.sqlite")
    with pytest.raises(UserError, match="no more answers"):
        cached.complete([Prompt("fail")], GREEDY)
    assert [(file.name, file.stat().st_size) for file in tmp_path.iterdir()] == [("answers.sqlite", 0)]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="the cache cannot be used"):
        Cached(Counting(), tmp_path / "file" / "answers.sqlite")


def test_a_damaged_cache(tmp_path):
    (tmp_path / "answers.sqlite").write_bytes(b"no data base at all" * 100)
    with pytest.raises(UserError, match="the cache is damaged"):
        Cached(Counting(), tmp_path / "answers.sqlite").complete([Prompt("a")], GREEDY)


WRITER = """
import sys, time
from jaxllm.config import SamplingConfig
from jaxllm.judge import Cached, FunctionJudge, Prompt

def answer(prompt, sampling, seed):
    time.sleep(float(sys.argv[3]))
    return [prompt.content]

judge = Cached(FunctionJudge(answer, identity="shared"), sys.argv[1])
report = lambda number, answers: print(number, flush=True)
judge.complete([Prompt(f"{sys.argv[2]} {i}") for i in range(100)], SamplingConfig(temperature=0.0), on_answer=report)
"""


def write(path, name, seconds=0.0):
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, str(seconds)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_several_processes_share_a_cache(tmp_path):
    path = tmp_path / "answers.sqlite"
    for process in [write(path, name) for name in ("one", "two", "three")]:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    silent = Cached(FunctionJudge(identity="shared"), path)
    for name in ("one", "two", "three"):
        answers = silent.complete([Prompt(f"{name} {i}") for i in range(100)], SamplingConfig(temperature=0.0))
        assert [row[0].text for row in answers] == [f"{name} {i}" for i in range(100)]


def test_a_kill_loses_answers_of_one_commit_interval_only(tmp_path):
    """Answers come every 50 ms; those older than a commit interval (and some slack) are in the file."""
    path = tmp_path / "answers.sqlite"
    process = write(path, "one", 0.05)
    try:
        for _ in range(10):
            process.stdout.readline()
        time.sleep(3 * cache.COMMIT_SECONDS)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    missing = []
    Cached(FunctionJudge(lambda prompt, *_: [missing.append(prompt.content) or "?"], identity="shared"), path).complete(
        [Prompt(f"one {i}") for i in range(10)], SamplingConfig(temperature=0.0))
    assert not missing


def test_many_answers_take_few_commits(tmp_path, monkeypatch):
    """10,000 answers in about ten commits and batched reads; speed is measured by a script, not here."""
    commits, queries = [], []
    original = Cached._commit
    monkeypatch.setattr(Cached, "_commit", lambda self: commits.append(len(self._pending)) or original(self))
    cached = Cached(FunctionJudge(lambda prompt, *_: ["x"], identity="fast"), tmp_path / "answers.sqlite")
    cached._database.set_trace_callback(lambda text: queries.append(text) if text.startswith("SELECT") else None)
    prompts = [Prompt(str(i)) for i in range(10_000)]
    start = time.monotonic()
    assert len(cached.complete(prompts, GREEDY)) == 10_000
    seconds = time.monotonic() - start
    assert len(commits) <= 12 + seconds / cache.COMMIT_SECONDS and len(queries) == 20
