"""Backends of judges: local models, recorded answers, functions, and the config that opens them."""

import dataclasses
import json
import math
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
    NoAnswer,
    Prices,
    Prompt,
    RecordedJudge,
    Usage,
    choice_of,
    local,
    open_judge,
)
from jaxllm.judge.local import _shares
from jaxllm.judge.options import OptionTokens
from jaxllm.judge.protocol import check_options, spellings
from jaxllm.model import load
from jaxllm.models import LoraConfig, compute_logits, merge_adapter
from jaxllm.models.peft import save_adapter
from tests.networks import forward, random_adapter

GREEDY = SamplingConfig(temperature=0.0, max_tokens=6)
QUESTION = [{"role": "user", "content": "Is the sky red?"}]


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")


@pytest.fixture(scope="module")
def judge(tiny):
    """Continues texts; see `test_a_text_is_a_user_message_wherever_there_is_a_chat_template`."""
    return LocalJudge(tiny, "tiny", batch_size=8, text_format="plain")


def test_an_answer_has_the_opening_tag_that_the_template_writes(tiny, monkeypatch):
    chat = LocalJudge(tiny, "tiny", batch_size=8)
    [[without]], decode = chat.complete([Prompt(QUESTION)], GREEDY), type(tiny.tokenizer).decode
    monkeypatch.setattr(type(tiny.tokenizer), "decode", lambda own, ids, special=False: decode(own, ids, special) + (
        "<think>\n" if special else ""))
    prefilled = [*QUESTION, {"role": "assistant", "content": "It"}]
    assert chat.complete([Prompt(QUESTION)], GREEDY)[0][0].text == f"<think>\n{without.text}"
    assert not chat.complete([Prompt(prefilled)], GREEDY)[0][0].text.startswith("<think>")


def test_choices_by_hand():
    choice = choice_of({"Yes": 0.3, "No": 0.1})
    assert choice.mass == pytest.approx(0.4) and choice.answer == "Yes"
    assert choice.probabilities == pytest.approx({"Yes": 0.75, "No": 0.25})
    assert choice_of({"a": 0.0, "b": 0.0}) == Choice({"a": 0.5, "b": 0.5}, 0.0)
    for wrong in ({}, {"a": -0.1}, {"a": math.nan}, {"a": 0.8, "b": 0.8}):
        with pytest.raises(ValueError):
            choice_of(wrong)


def test_spellings():
    assert spellings("yes") == ["yes", " yes", "YES", " YES", "Yes", " Yes"]
    assert spellings(" A ") == ["A", " A", "a", " a"]


@pytest.mark.parametrize("options", [["Yes"], ["Yes", " "], ["A", "a "], ["straße", "STRASSE"],
                                     ["caf\u00e9", "CAFE\u0301"]])
def test_options_that_are_too_similar(options):
    with pytest.raises(UserError):
        check_options(options)


def test_hashes_are_of_content():
    """printf Hi | sha256sum, and the same of the messages as JSON."""
    assert Prompt("Hi").sha256 == "3639efcd08abb273b1619e82e78c29a7df02c1051b1820e99fc395dcaa3326b8"
    prompt, other = Prompt(QUESTION), Prompt([{"content": "Is the sky red?", "role": "user"}], id="x")
    assert prompt.sha256 == other.sha256 != Prompt("Is the sky red?").sha256


def test_a_model_chooses_by_summed_probability(tiny, judge):
    """Against the product of probabilities of the full forward, for every spelling."""
    prompt = Prompt("Question: What color is it? Answer:")
    (choice,) = judge.choose([prompt], ["red", "blue"])
    before = tiny.prompt_ids(prompt.content)
    total = {}
    for answer in ("red", "blue"):
        tails = {tuple(tiny.pair_ids(prompt.content, spelled)[1]) for spelled in spellings(answer)}
        tails = {tail for tail in tails if not any(tail != other and tail[:len(other)] == other for other in tails)}
        total[answer] = 0.0
        for tail in tails:
            ids = jnp.asarray([[*before, *tail, *[0] * (64 - len(before) - len(tail))]])  # nothing sees what follows
            scores = compute_logits(tiny.spec, tiny.params, forward(tiny.spec, tiny.params, ids).hidden[0])
            logprobs = scores - jnp.log(jnp.exp(scores).sum(-1, keepdims=True))
            total[answer] += math.exp(sum(float(logprobs[len(before) - 1 + i, token]) for i, token in enumerate(tail)))
    assert choice.mass == pytest.approx(sum(total.values()), rel=1e-3)
    assert choice.probabilities["red"] == pytest.approx(total["red"] / sum(total.values()), abs=1e-4)


def test_an_option_that_is_the_start_of_another_gets_the_rest(tiny, judge):
    """A scale from 1 to 10; shares of nested options by hand."""
    prompt = Prompt("Question: What is 2 + 8? Answer:")
    (choice,) = judge.choose([prompt], [str(i) for i in range(1, 11)])
    assert choice.answer == "10" and choice.probabilities["10"] > 0.5 and choice.mass <= 1.0
    option_of = {(1,): "a", (1, 2): "ab", (1, 2, 3): "abc", (4,): "a"}
    probabilities = {(1,): 0.6, (1, 2): 0.3, (1, 2, 3): 0.2, (4,): 0.1}
    shares = lambda spellings: _shares(option_of, probabilities, ["a", "ab", "abc"], spellings)
    assert shares("sum") == pytest.approx({"a": 0.4, "ab": 0.1, "abc": 0.2})
    assert shares("max") == pytest.approx({"a": 0.3, "ab": 0.1, "abc": 0.2})


def test_choices_before_an_interrupt_reach_the_callback(judge, monkeypatch):
    monkeypatch.setattr(local, "PROMPTS_PER_SCORE_CALL", 2)
    seen = []

    def listen(number, choice):
        seen.append(number)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge.choose([Prompt(f"Question: Is {i} red? Answer:") for i in range(6)], ["Yes", "No"], on_answer=listen)
    assert seen == [0, 1, 2]


TEXTS = ["Question: What color is it? Answer:", "word " * 90 + "Answer:", "x" * 400, "Rubric.\n" * 40 + "\nAnswer: ",
         "Is it so?\n\n" * 30, "ends with a digit " * 20 + "1", "naïve café 漢字 " * 25 + "Yes", " " * 300 + "a"]


@pytest.mark.parametrize("text", TEXTS)
def test_options_are_tokenized_at_the_prompts_end_as_in_the_whole_text(tiny, text):
    options = ["Yes", "No", "10", "1"]
    ids, expected = tiny.prompt_ids(text), {}
    for option in options:
        own = [tuple(tiny.pair_ids(text, spelled)[1]) for spelled in spellings(option)
               if tiny.pair_ids(text, spelled)[0] == ids]
        for tail in dict.fromkeys(filter(None, own)):
            if not any(tail != other and tail[:len(other)] == other for other in own):
                expected[tail] = option
    assert OptionTokens(tiny, options).after(text, ids) == expected


def test_a_prompt_is_tokenized_once(tiny, monkeypatch):
    """Options add a few short texts for all prompts with the same end, in place of 27 encodings of each prompt."""
    characters = []
    encode = type(tiny.tokenizer).encode
    monkeypatch.setattr(type(tiny.tokenizer), "encode",
                        lambda self, text, completion="": characters.append(len(text + completion)) or encode(
                            self, text, completion=completion))
    texts = [f"Program {i}. {'The rubric has many lines. ' * 15}Is the program right? Answer:" for i in range(8)]
    LocalJudge(tiny, "tiny", text_format="plain").choose([Prompt(text) for text in texts], ["Yes", "No"])
    whole = sum(map(len, texts))
    assert whole < sum(characters) < 1.5 * whole and sum(count > 300 for count in characters) == len(texts)


def test_a_prompt_too_long_is_named(judge):
    with pytest.raises(UserError, match="^prompt 2: "):
        judge.choose([Prompt("short"), Prompt("word " * 600)], ["Yes", "No"])


def test_prompts_that_fail_do_not_end_the_call(judge):
    failed = {}
    prompts = [Prompt("word " * 600), Prompt("Question: Is it red? Answer:"), Prompt([{"role": "?", "content": "x"}])]
    choices = judge.choose(prompts, ["Yes", "No"], on_failure=failed.__setitem__)
    answers = judge.complete(prompts, GREEDY, on_failure=failed.__setitem__)
    assert choices[0] is None and choices[2] is None and choices[1].mass > 0
    assert answers[0] == answers[2] == [] and answers[1][0].text
    assert "context window" in failed[0] and set(failed) == {0, 2}


def test_a_small_mass_is_a_warning_once(judge, capsys):
    prompts = [Prompt("Question: What color is it? Answer:")]
    judge.choose(prompts, ["qqqq", "zzzz"])
    assert "received less than 50% of the probability mass on 1 of 1 prompts" in capsys.readouterr().err
    judge.choose(prompts, ["qqqq", "zzzz"])
    assert not capsys.readouterr().err
    judge.choose(prompts, ["zzzz", "qqqq", "xxxx"])
    assert "'zzzz', 'qqqq', 'xxxx' received less than" in capsys.readouterr().err


def test_a_text_is_a_user_message_wherever_there_is_a_chat_template(tiny, judge):
    """As for servers; raw text must be requested, and is another judge for caches."""
    chat = LocalJudge(tiny, "tiny", batch_size=8)
    text, messages = Prompt("Is the sky red?"), Prompt(QUESTION)
    assert chat.complete([text], GREEDY) == chat.complete([messages], GREEDY) == judge.complete([messages], GREEDY)
    assert chat.choose([text], ["Yes", "No"]) == judge.choose([messages], ["Yes", "No"])
    assert judge.complete([text], GREEDY) != chat.complete([text], GREEDY)
    assert chat.identity == "tiny" and judge.identity == "tiny, texts as plain"


def test_usage_counts_the_tokens_of_a_request(tiny, judge):
    prompt = Prompt("The ship Rinla")
    (answers,) = judge.complete([prompt], SamplingConfig(temperature=1.0, max_tokens=5, n=3))
    count = len(tiny.prompt_ids(prompt.content))
    assert [answer.usage.prompt_tokens for answer in answers] == [count, 0, 0]
    assert all(answer.usage.completion_tokens == 5 for answer in answers if answer.finish_reason == "length")
    assert judge.choose([prompt], ["Yes", "No"])[0].usage == Usage(count, 0)
    assert Usage(1, 2) + Usage(3, 4) == Usage(4, 6) and Prices(2.0, 8.0).cost(Usage(1000, 500)) == pytest.approx(0.006)


def test_a_model_answers_texts_and_conversations(judge):
    seen = []
    prompts = [Prompt("The ship Rinla"), Prompt(QUESTION), Prompt("The ship Rinla")]
    answers = judge.complete(prompts, GREEDY, on_answer=lambda number, _: seen.append(number))
    assert sorted(seen) == [0, 1, 2] and answers[0] == answers[2]
    assert all(row[0].finish_reason in ("stop", "length") and row[0].logprob < 0 for row in answers)


def test_draws_depend_on_the_prompt_and_not_on_its_position(judge):
    free = SamplingConfig(temperature=1.0, max_tokens=6, n=2)
    prompts = [Prompt(text) for text in ("The ship", "A house", "The ship", "One day")]
    texts = lambda rows: [[completion.text for completion in row] for row in rows]
    first, turned = texts(judge.complete(prompts, free)), texts(judge.complete(prompts[::-1], free))
    assert first == turned[::-1] and first[0] == first[2]
    assert first != texts(judge.complete(prompts, free, seed=1))
    later = [Prompt(prompt.content, sample=2) for prompt in prompts]
    assert first != texts(judge.complete(later, free)) == texts(judge.complete(later, free))


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
    for query, message in ((lambda: judge.complete([Prompt("Ho")], GREEDY), "prompt 1: no answer is recorded"),
                           (lambda: judge.complete([Prompt("?", id="7")], SamplingConfig(n=2)), "1 texts are recorded"),
                           (lambda: judge.choose([Prompt("?", id="7")], ["Yes", "No"]), "no probabilities")):
        with pytest.raises(UserError, match=message):
            query()


def test_paths_in_the_home_directory(recorded, tmp_path, monkeypatch):
    judge = recorded({"prompt_sha256": Prompt("Hi").sha256, "texts": ["Hello"]})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RecordedJudge("~/recorded.jsonl").identity == judge.identity
    assert Cached(judge, "~/answers.sqlite").complete([Prompt("Hi")], GREEDY) == [[Answer("Hello")]]
    assert (tmp_path / "answers.sqlite").is_file()


def test_recorded_samples_retries_and_missing_answers(recorded):
    judge = recorded({"id": 7, "texts": ["a", "b", "c"]}, {"id": "7/retry1", "texts": ["x", "y", "z"]},
                     {"id": 8, "texts": ["a"], "probabilities": {"Yes": 0.5, "No": 0.9}})
    assert judge.complete([Prompt("?", "7", sample=1)], SamplingConfig(n=2)) == [[Answer("b"), Answer("c")]]
    assert judge.complete([Prompt("?", "7/retry1", sample=2)], GREEDY) == [[Answer("z")]]
    failed = {}
    prompts = [Prompt("?", "9"), Prompt("?", "7")]
    assert judge.complete(prompts, GREEDY, on_failure=failed.__setitem__) == [[], [Answer("a")]]
    assert "no answer is recorded (sha256" in failed[0] and "id 9" in failed[0]
    assert judge.choose([Prompt("?", "8")], ["Yes", "No"], on_failure=failed.__setitem__) == [None]
    assert "sum to 1.4" in failed[0]


@pytest.mark.parametrize("rows, message", [
    ([{"texts": ["x"]}], "needs prompt_sha256 or id"), ([{"id": 1}], "needs prompt_sha256 or id, and texts"),
    ([{"id": 1, "texts": ["x"]}, {"id": 1, "texts": ["y"]}], "a second row for 1"),
    ([{"id": 1, "texts": "x"}], "expected list of text")])
def test_recordings_that_cannot_be_used(recorded, rows, message):
    with pytest.raises(UserError, match=message):
        recorded(*rows)


def test_functions(capsys):
    judge = FunctionJudge(lambda prompt, sampling, seed: [prompt.content.upper()] * sampling.n,
                          lambda prompt, options: {option: 0.3 for option in options})
    assert judge.complete([Prompt("a")], GREEDY) == [[Answer("A")]]
    assert judge.choose([Prompt("a")], ["x", "y"])[0].mass == pytest.approx(0.6)
    broken = FunctionJudge(lambda *_: "no list", lambda *_: {"x": 2.0, "y": 0.0})
    with pytest.raises(UserError, match="must return a list of 1 texts"):
        broken.complete([Prompt("a")], GREEDY)
    with pytest.raises(UserError, match="must return a probability for each option"):
        broken.choose([Prompt("a")], ["x", "y"])
    with pytest.raises(UserError, match="cannot choose"):
        FunctionJudge(lambda *_: []).choose([Prompt("a")], ["x", "y"])


def test_functions_may_have_no_answer():
    def refuse(prompt, sampling, seed):
        if prompt.content == "b":
            raise NoAnswer("not this one")
        return ["fine"]

    failed, prompts = {}, [Prompt("a"), Prompt("b"), Prompt("c")]
    answers = FunctionJudge(refuse).complete(prompts, GREEDY, on_failure=failed.__setitem__)
    assert answers == [[Answer("fine")], [], [Answer("fine")]] and failed == {1: "not this one"}
    seen = []
    with pytest.raises(UserError, match="prompt 2: not this one"):
        FunctionJudge(refuse).complete(prompts, GREEDY, on_answer=lambda i, _: seen.append(i))
    assert seen == [0, 2]


def test_configs_open_judges(tmp_path, recorded):
    recorded({"id": 1, "texts": ["x"]})
    path = str(tmp_path / "recorded.jsonl")
    assert isinstance(open_judge(JudgeConfig("recorded", path=path)), RecordedJudge)
    cached = open_judge(JudgeConfig(cache=str(tmp_path / "c")))
    assert isinstance(cached, Cached) and cached.identity == cached.judge.identity
    local = open_judge(JudgeConfig())
    assert isinstance(local, LocalJudge) and local.identity.startswith("tiny (") and local.chat_texts
    assert open_judge(JudgeConfig(format="plain")).identity == f"{local.identity}, texts as plain"
    assert JudgeConfig().prices is None and JudgeConfig(prompt_price=1.0).prices == Prices(1.0, 0.0)
    named = open_judge(JudgeConfig("callable", path="tests.judge.test_judges:shout"))
    assert named.complete([Prompt("a")], GREEDY) == [[Answer("A")]]
    with pytest.raises(UserError, match="no such function"):
        open_judge(JudgeConfig("callable", path="tests.judge.test_judges:whisper"))
    for wrong in (dict(kind="recorded"), dict(kind="openai"), dict(concurrency=0), dict(per_minute=0.0),
                  dict(kind="recorded", path=path, cache="c"), dict(path=path), dict(seconds=math.inf),
                  dict(kind="openai", model="m", base_url="localhost:8000"),
                  dict(kind="openai", model="m", base_url="http://user:secret@host/v1"),
                  dict(kind="openai", model="m", base_url="http://host/v1?key=secret"),
                  dict(kind="openai", model="m", key_variable="sk-secret"),
                  dict(kind="openai", model="m", format="plain"), dict(kind="openai", model="m", adapter="a"),
                  dict(extra={"seed": 1}), dict(kind="openai", model="m", extra={"stream": True}),
                  dict(kind="openai", model="m", extra={"api_key": "a secret"}),
                  dict(kind="openai", model="m", extra={"extra_headers": [{"X-API-Key": "a secret"}]}),
                  dict(kind="openai", model="m", extra={"api_key": ["a secret"]}),
                  dict(kind="openai", model="m", extra={"a": {"token": {"value": "a secret"}}}),
                  dict(prompt_price=-1.0)):
        with pytest.raises(UserError) as raised:
            JudgeConfig(**wrong)
        assert "secret" not in str(raised.value)


def test_an_adapter_is_applied_next_to_the_model(tiny, tmp_path):
    """Chooses as the merged model, and is another judge for caches."""
    adapter = random_adapter(tiny.spec, LoraConfig(rank=4, alpha=8.0), 0.05)
    save_adapter(tmp_path / "adapter", tiny.spec, adapter)
    judge = open_judge(JudgeConfig(adapter=str(tmp_path / "adapter"), batch_size=4))
    plain = open_judge(JudgeConfig(batch_size=4))
    merged = LocalJudge(dataclasses.replace(tiny, params=merge_adapter(tiny.params, adapter)), "merged", batch_size=4)
    ours, theirs, base = (backend.choose([Prompt(QUESTION)], ["Yes", "No"])[0] for backend in (judge, merged, plain))
    assert ours.mass == pytest.approx(theirs.mass, abs=1e-5) != base.mass
    assert ours.probabilities == pytest.approx(theirs.probabilities, abs=1e-4)
    assert judge.identity.startswith(f"{plain.identity} + {tmp_path / 'adapter'} (")


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


def test_the_most_probable_spelling(tiny):
    """Less mass than the sum, the same judge otherwise; answers are not shared in a cache."""
    prompts = [Prompt("Question: Is the sky red? Answer:"), Prompt("Question: What is 2 + 8? Answer:")]
    every, best = (LocalJudge(tiny, "tiny", text_format="plain", spellings=kind) for kind in ("sum", "max"))
    for one, other in zip(every.choose(prompts, ["Yes", "No"]), best.choose(prompts, ["Yes", "No"]), strict=True):
        assert 0 < other.mass <= one.mass and sum(other.probabilities.values()) == pytest.approx(1)
    assert best.identity != every.identity and best.count_tokens(prompts[0]) == len(tiny.prompt_ids(prompts[0].content))
