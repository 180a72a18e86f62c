"""Whoever answers, the answers have one form; and nobody is asked twice."""

import json
import math
import subprocess
import sys

import jax.numpy as jnp
import pytest

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.judge import (
    Answer,
    Cached,
    Choice,
    FunctionJudge,
    JudgeConfig,
    LocalJudge,
    Prompt,
    RecordedJudge,
    choice_of,
    local,
    open_judge,
)
from jaxllm.judge.local import _own_shares
from jaxllm.judge.protocol import check_answers, variants
from jaxllm.model import load
from jaxllm.models import compute_logits
from tests.networks import forward

GREEDY = SamplingConfig(temperature=0.0, max_tokens=6)
QUESTION = [{"role": "user", "content": "Is the sky red?"}]


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture(scope="module")
def judge(tiny):
    return LocalJudge(tiny, "tiny", batch_size=8)


def test_choices_by_hand():
    choice = choice_of({"Yes": 0.3, "No": 0.1})
    assert choice.mass == pytest.approx(0.4) and choice.answer == "Yes"
    assert choice.probabilities == pytest.approx({"Yes": 0.75, "No": 0.25})
    assert choice_of({"a": 0.0, "b": 0.0}) == Choice({"a": 0.5, "b": 0.5}, 0.0)
    for wrong in ({}, {"a": -0.1}, {"a": math.nan}, {"a": 0.8, "b": 0.8}):
        with pytest.raises(ValueError):
            choice_of(wrong)


def test_spellings():
    assert variants("yes") == ["yes", " yes", "YES", " YES", "Yes", " Yes"]
    assert variants(" A ") == ["A", " A", "a", " a"]


@pytest.mark.parametrize("answers", [["Yes"], ["Yes", " "], ["A", "a "], ["straße", "STRASSE"]])
def test_answers_that_cannot_be_told_apart(answers):
    with pytest.raises(UserError):
        check_answers(answers)


def test_hashes_are_of_content():
    """printf Hi | sha256sum, and the same of the messages as JSON."""
    assert Prompt("Hi").sha256 == "3639efcd08abb273b1619e82e78c29a7df02c1051b1820e99fc395dcaa3326b8"
    one, other = Prompt(QUESTION), Prompt([{"content": "Is the sky red?", "role": "user"}], id="x")
    assert one.sha256 == other.sha256 != Prompt("Is the sky red?").sha256


def test_a_model_chooses_by_summed_probability(tiny, judge):
    """Against the product of probabilities of the full forward, for every spelling."""
    prompt = Prompt("Question: What color is it? Answer:")
    (choice,) = judge.choose([prompt], ["red", "blue"])
    before = tiny.prompt_ids(prompt.content)
    total = {}
    for answer in ("red", "blue"):
        tails = {tuple(tiny.pair_ids(prompt.content, spelled)[1]) for spelled in variants(answer)}
        tails = {tail for tail in tails if not any(tail != other and tail[:len(other)] == other for other in tails)}
        total[answer] = 0.0
        for tail in tails:
            ids = jnp.asarray([[*before, *tail, *[0] * (64 - len(before) - len(tail))]])  # nothing sees what follows
            scores = compute_logits(tiny.spec, tiny.params, forward(tiny.spec, tiny.params, ids).hidden[0])
            nats = scores - jnp.log(jnp.exp(scores).sum(-1, keepdims=True))
            total[answer] += math.exp(sum(float(nats[len(before) - 1 + i, token]) for i, token in enumerate(tail)))
    assert choice.mass == pytest.approx(sum(total.values()), rel=1e-3)
    assert choice.probabilities["red"] == pytest.approx(total["red"] / sum(total.values()), abs=1e-4)


def test_an_answer_that_begins_another_has_what_the_other_has_not(tiny, judge):
    """A scale from 1 to 10; shares of nested answers by hand."""
    prompt = Prompt("Question: What is 2 + 8? Answer:")
    (choice,) = judge.choose([prompt], [str(i) for i in range(1, 11)])
    assert choice.answer == "10" and choice.probabilities["10"] > 0.5 and choice.mass <= 1.0
    found = {(1,): ("a", 0.6), (1, 2): ("ab", 0.3), (1, 2, 3): ("abc", 0.2), (4,): ("a", 0.1)}
    assert _own_shares(found, ["a", "ab", "abc"]) == pytest.approx({"a": 0.4, "ab": 0.1, "abc": 0.2})


def test_choices_are_told_of_on_the_way(judge, monkeypatch):
    """What was chosen before an interrupt is kept."""
    monkeypatch.setattr(local, "TOGETHER", 2)
    told = []

    def listen(number, choice):
        told.append(number)
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge.choose([Prompt(f"Question: Is {i} red? Answer:") for i in range(6)], ["Yes", "No"], on_answer=listen)
    assert told == [0, 1, 2]


def test_a_prompt_too_long_is_named(judge):
    with pytest.raises(UserError, match="^prompt 2: "):
        judge.choose([Prompt("short"), Prompt("word " * 600)], ["Yes", "No"])


def test_answers_nobody_wants_are_said(judge, capsys):
    judge.choose([Prompt("Question: What color is it? Answer:")], ["qqqq", "zzzz"])
    assert "it would rather say something else" in capsys.readouterr().err


def test_a_model_answers_texts_and_conversations(judge):
    told = []
    prompts = [Prompt("The ship Rinla"), Prompt(QUESTION), Prompt("The ship Rinla")]
    answers = judge.complete(prompts, GREEDY, on_answer=lambda number, found: told.append(number))
    assert sorted(told) == [0, 1, 2] and answers[0] == answers[2]
    assert all(row[0].finish_reason in ("stop", "length") and row[0].logprob < 0 for row in answers)


def test_draws_depend_on_the_prompt_and_not_on_its_place(judge):
    free = SamplingConfig(temperature=1.0, max_tokens=6, n=2)
    prompts = [Prompt(text) for text in ("The ship", "A house", "The ship", "One day")]
    texts = lambda rows: [[one.text for one in row] for row in rows]
    first, turned = texts(judge.complete(prompts, free)), texts(judge.complete(prompts[::-1], free))
    assert first == turned[::-1] and first[0] == first[2]
    assert first != texts(judge.complete(prompts, free, seed=1))


@pytest.fixture
def recorded(tmp_path):
    def write(*rows):
        (tmp_path / "recorded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return RecordedJudge(tmp_path / "recorded.jsonl")
    return write


def test_recorded_answers(recorded):
    judge = recorded({"prompt_sha256": Prompt("Hi").sha256, "texts": ["Hello", "Hey"],
                      "probabilities": {"Yes": 0.6, "No": 0.2}}, {"id": 7, "texts": ["x"]})
    assert judge.complete([Prompt("Hi")], SamplingConfig(n=2, temperature=1.0)) == [[Answer("Hello"), Answer("Hey")]]
    assert judge.complete([Prompt("anything", id="7")], GREEDY) == [[Answer("x")]]
    (choice,) = judge.choose([Prompt("Hi")], ["Yes", "No"])
    assert choice.probabilities["Yes"] == pytest.approx(0.75) and choice.mass == pytest.approx(0.8)
    assert judge.choose([Prompt("Hi")], ["yes", " no"])[0].mass == pytest.approx(0.8)
    both = recorded({"prompt_sha256": Prompt("Hi").sha256.upper(), "id": "h", "texts": ["Hello"]})
    assert both.complete([Prompt("Hi"), Prompt("?", id="h")], GREEDY) == [[Answer("Hello")]] * 2
    assert both.identity != judge.identity
    for ask, message in ((lambda: judge.complete([Prompt("Ho")], GREEDY), "no answer is recorded for prompt 1"),
                         (lambda: judge.complete([Prompt("?", id="7")], SamplingConfig(n=2)), "1 texts are recorded"),
                         (lambda: judge.choose([Prompt("?", id="7")], ["Yes", "No"]), "no probabilities")):
        with pytest.raises(UserError, match=message):
            ask()


@pytest.mark.parametrize("rows, message", [
    ([{"texts": ["x"]}], "needs prompt_sha256 or id"), ([{"id": 1}], "needs prompt_sha256 or id, and texts"),
    ([{"id": 1, "texts": ["x"]}, {"id": 1, "texts": ["y"]}], "a second row for 1"),
    ([{"id": 1, "texts": "x"}], "expected list of text")])
def test_recordings_that_cannot_be_used(recorded, rows, message):
    with pytest.raises(UserError, match=message):
        recorded(*rows)


def test_functions(capsys):
    judge = FunctionJudge(lambda prompt, sampling, seed: [prompt.content.upper()] * sampling.n,
                          lambda prompt, answers: {answer: 0.3 for answer in answers})
    assert judge.complete([Prompt("a")], GREEDY) == [[Answer("A")]]
    assert judge.choose([Prompt("a")], ["x", "y"])[0].mass == pytest.approx(0.6)
    broken = FunctionJudge(lambda *_: "no list", lambda *_: {"x": 2.0, "y": 0.0})
    with pytest.raises(UserError, match="must return a list of 1 texts"):
        broken.complete([Prompt("a")], GREEDY)
    with pytest.raises(UserError, match="must give a probability for each answer"):
        broken.choose([Prompt("a")], ["x", "y"])
    with pytest.raises(UserError, match="chooses nothing"):
        FunctionJudge(lambda *_: []).choose([Prompt("a")], ["x", "y"])


class Counting(FunctionJudge):
    """Counts what it is asked, and fails at a prompt that says so."""

    def __init__(self):
        super().__init__(self.answer, lambda prompt, answers: dict.fromkeys(answers, 0.5), identity="counting")
        self.asked = []

    def answer(self, prompt, sampling, seed):
        if prompt.content == "fail":
            raise UserError("no more answers", "counting")
        self.asked.append(prompt.content)
        return [f"{prompt.content}{seed}"] * sampling.n


def test_nobody_is_asked_twice(tmp_path):
    judge = Counting()
    cached = Cached(judge, tmp_path / "deep" / "answers.sqlite")
    told = []
    prompts = [Prompt(text) for text in "abab"]
    first = cached.complete(prompts, GREEDY, on_answer=lambda number, _: told.append(number))
    assert judge.asked == ["a", "b"] and sorted(told) == [0, 1, 2, 3] and first[0] == first[2] == [Answer("a0")]
    again = Cached(judge, tmp_path / "deep" / "answers.sqlite")
    assert again.complete(prompts, GREEDY) == first and judge.asked == ["a", "b"]
    # The likeliest token knows no seed; a draw does, and other settings are another question.
    assert again.complete(prompts[:1], GREEDY, seed=5) == first[:1]
    free = SamplingConfig(temperature=1.0)
    assert again.complete(prompts[:1], free, seed=5) != again.complete(prompts[:1], free, seed=6)
    assert again.choose(prompts, ["x", "y"]) == again.choose(prompts, ["x", "y"])


def test_what_was_answered_before_a_failure_is_kept(tmp_path):
    judge = Counting()
    cached = Cached(judge, tmp_path / "answers.sqlite")
    with pytest.raises(UserError, match="no more answers"):
        cached.complete([Prompt("a"), Prompt("b"), Prompt("fail"), Prompt("c")], GREEDY)
    cached.complete([Prompt("a"), Prompt("b"), Prompt("c")], GREEDY)
    assert judge.asked == ["a", "b", "c"]


def test_a_judge_that_tells_nothing_on_the_way(tmp_path):
    class Quiet(FunctionJudge):
        def complete(self, prompts, sampling, *, seed=0, on_answer=None):
            return [[Answer(prompt.content)] for prompt in prompts]

    cached = Cached(Quiet(identity="quiet"), tmp_path / "answers.sqlite")
    assert cached.complete([Prompt("a"), Prompt("b")], GREEDY) == [[Answer("a")], [Answer("b")]]
    assert Cached(Counting(), tmp_path / "answers.sqlite").complete([Prompt("a")], GREEDY) == [[Answer("a0")]]


def test_a_damaged_cache(tmp_path):
    (tmp_path / "answers.sqlite").write_bytes(b"no data base at all" * 100)
    with pytest.raises(UserError, match="the cache is damaged"):
        Cached(Counting(), tmp_path / "answers.sqlite").complete([Prompt("a")], GREEDY)


WRITER = """
import sys
from jaxllm.config import SamplingConfig
from jaxllm.judge import Cached, FunctionJudge, Prompt
judge = Cached(FunctionJudge(lambda prompt, sampling, seed: [prompt.content], identity="shared"), sys.argv[1])
judge.complete([Prompt(f"{sys.argv[2]} {i}") for i in range(100)], SamplingConfig(temperature=0.0))
"""


def test_several_processes_share_a_cache(tmp_path):
    path = tmp_path / "answers.sqlite"
    running = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name], stderr=subprocess.PIPE, text=True)
               for name in ("one", "two", "three")]
    for process in running:
        assert process.wait(120) == 0, process.stderr.read()
    silent = Cached(FunctionJudge(identity="shared"), path)
    for name in ("one", "two", "three"):
        found = silent.complete([Prompt(f"{name} {i}") for i in range(100)], SamplingConfig(temperature=0.0))
        assert [row[0].text for row in found] == [f"{name} {i}" for i in range(100)]


def test_configs_open_judges(tmp_path, recorded):
    recorded({"id": 1, "texts": ["x"]})
    path = str(tmp_path / "recorded.jsonl")
    assert isinstance(open_judge(JudgeConfig("recorded", path=path)), RecordedJudge)
    cached = open_judge(JudgeConfig(cache=str(tmp_path / "c")))
    assert isinstance(cached, Cached) and cached.identity == cached.judge.identity
    local = open_judge(JudgeConfig())
    assert isinstance(local, LocalJudge) and local.identity.startswith("tiny (")
    named = open_judge(JudgeConfig("callable", path="tests.judge.test_judges:shout"))
    assert named.complete([Prompt("a")], GREEDY) == [[Answer("A")]]
    with pytest.raises(UserError, match="no such function"):
        open_judge(JudgeConfig("callable", path="tests.judge.test_judges:whisper"))
    for wrong in (dict(kind="recorded"), dict(kind="openai"), dict(concurrency=0), dict(per_minute=0.0),
                  dict(kind="recorded", path=path, cache="c"), dict(path=path), dict(seconds=math.inf),
                  dict(kind="openai", model="m", base_url="localhost:8000"),
                  dict(kind="openai", model="m", base_url="http://user:secret@host/v1"),
                  dict(kind="openai", model="m", key_variable="sk-secret")):
        with pytest.raises(UserError) as raised:
            JudgeConfig(**wrong)
        assert "secret" not in str(raised.value)


def test_a_function_that_changed_is_another_judge(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    identities = set()
    for text in ("one", "another"):
        (tmp_path / "changing.py").write_text(f"def answer(prompt, sampling, seed):\n    return ['{text}']\n")
        sys.modules.pop("changing", None)
        identities.add(open_judge(JudgeConfig("callable", path="changing:answer")).identity)
    assert len(identities) == 2
    (tmp_path / "changing.py").write_text("import nothing_of_this_name\n")
    sys.modules.pop("changing", None)
    with pytest.raises(UserError, match="cannot be imported: ModuleNotFoundError: .*nothing_of_this_name"):
        open_judge(JudgeConfig("callable", path="changing:answer"))


def shout(prompt, sampling, seed):
    return [prompt.content.upper()] * sampling.n
