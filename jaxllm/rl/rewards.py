"""Rewards: functions from prompts, responses and rows to a score of every response."""

from __future__ import annotations

import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxllm.config import check
from jaxllm.devices import DeviceConfig
from jaxllm.errors import UserError
from jaxllm.evaluate.comparison.prompts import conversation_text, quoted
from jaxllm.evaluate.gsm8k import is_right
from jaxllm.generate import Generator
from jaxllm.judge import Judge, JudgeConfig, Prompt, open_judge
from jaxllm.model import load_with_adapter
from jaxllm.models import Adapter
from jaxllm.models.tensors import fingerprint, model_directory
from jaxllm.text.encoding import encode_text
from jaxllm.text.examples import reward_text_ids
from jaxllm.text.forms import Text
from jaxllm.text.templates import fields_of, fill

Row = Mapping[str, Any]
RewardFn = Callable[[Sequence[Text], Sequence[str], Sequence[Row]], Any]
"""`(prompts, responses, rows) -> [B]` numbers. A prompt is a text, or messages, after which a response begins with the
opening tag of its thinking where the chat template writes it; a row is the one of the data file."""

NAMED = ("classifier", "reward_model", "judge", "gsm8k", "gsm8k_strict", "words")
"""Rewards that the config describes; any other is a Python function, package.module:name."""
TEXT_QUESTION = "{prompt}{response}\n\nIs this a good text? Answer Yes or No."
"""Question of the judge about a text and its continuation."""
CHAT_QUESTION = """\
A conversation between a user and an assistant:

{messages}

The answer of the assistant:

{response}

Is this a good answer? Answer Yes or No."""
"""Question of the judge about the answer to messages."""
# A word of the reward words.
_WORD = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True)
class RewardConfig:
    """Models and weights of rewards.

    Args:
        weights: weight of every reward, of which the sum is taken; null weighs each by 1.
        model: classifier or reward model: checkpoint directory, or the base of the adapter.
        adapter: adapter of the classifier or reward model, with its scoring head.
        label: class of a classifier, by name or number.
        output: score of a class: its logit, its log-odds against the other classes, or its probability.
        batch_size: texts that a classifier or reward model scores together.
        judge: the judge.
        question: prompt of the judge, with the field {response}, and {prompt} or {messages}. {prompt} of a text row is
            the text as it is. {messages}, and {prompt} of a row of messages, are the turns with their roles, every line
            quoted by a `> ` as in the response to them, so that no line of theirs can pass for one of the question.
            null has a question for texts and another for messages.
        options: answers of the judge; the probability of the first is the reward.
        prompts: prompts file, for functions that ask the judge in their own words, such as
            jaxllm.codejudge.reward:verdict_probability.
        words: value of words, for the reward words: the sum over the words of a response, in any case.
    """

    weights: list[float] | None = None
    model: str | None = None
    adapter: str | None = None
    label: str | None = None
    output: Literal["logit", "log_odds", "probability"] = "logit"
    batch_size: int = 64
    judge: JudgeConfig | None = None
    question: str | None = None
    options: list[str] = field(default_factory=lambda: ["Yes", "No"])
    prompts: str | None = None
    words: dict[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if self.question is not None:
            fields = fields_of(self.question)
            check("response" in fields, "question", "{response} is not in it")
            check(set(fields) <= {"prompt", "messages", "response"}, "question", "knows {prompt}, {messages} and "
                  f"{{response}}, and has {{{(set(fields) - {'prompt', 'messages', 'response'} or {''}).pop()}}}")
        check(len(set(self.options)) == len(self.options) >= 2, "options",
              f"must be two or more, all different, got {self.options}")
        check(self.batch_size >= 1, "batch_size", f"must be 1 or more, got {self.batch_size}")
        for word in self.words:
            check(isinstance(word, str), "words", f"expected words, got {word!r}", "put it in quotes")
            check(_WORD.fullmatch(word.lower()) is not None, "words",
                  f"a word is a run of letters, and {word!r} is none, so that no response has it")
        check(len({word.lower() for word in self.words}) == len(self.words), "words", "a word is given twice, in "
              "another case", "remove one")

    def check_names(self, names: Sequence[str], key: str) -> None:
        """Raises a `UserError` that names `key` where rewards have unknown names, or lack a setting."""
        check(len(names) > 0, key, "no reward is given", f"use {', '.join(NAMED)}, or package.module:name")
        for name in names:
            check(name in NAMED or ":" in name, key, f"there is no reward {name!r}",
                  f"use {', '.join(NAMED)}, or package.module:name")
        check(self.weights is None or len(self.weights) == len(names), "rewards.weights",
              f"there are {len(names)} rewards and {len(self.weights or [])} weights")
        scored = {"classifier", "reward_model"} & set(names)
        check(len(scored) < 2, key, "one model is a classifier or a reward model, not both", "write a function")
        check(not scored or self.model is not None, "rewards.model", f"the reward {'/'.join(scored)} needs it")
        check("classifier" not in names or self.label is not None, "rewards.label",
              "the class to reward is not given", "give its name or number")
        check("judge" not in names or self.judge is not None, "rewards.judge", "the reward judge needs it")
        check("words" not in names or bool(self.words), "rewards.words", "the reward words needs it")


@dataclass(frozen=True)
class Part:
    """One reward of a sum.

    Attributes:
        function: the reward.
        weight: its weight.
        name: name in messages; by default that of the function.
    """

    function: RewardFn
    weight: float = 1.0
    name: str = ""

    @property
    def shown(self) -> str:
        """The name in messages."""
        return self.name or getattr(self.function, "__name__", type(self.function).__name__)


@dataclass(frozen=True)
class Reward:
    """A reward, checked: every response gets one finite number, or an error names its row.

    Attributes:
        parts: rewards that are added.
        identity: describes the rewards, to notice that a resumed run has others.
    """

    parts: Sequence[Part]
    identity: str = ""

    def __call__(self, prompts: Sequence[Text], responses: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
        """Computes the weighted sum of all parts, float32 `[B]`.

        Raises:
            UserError: a part raises, or returns something else than B finite numbers; or their sum is not finite.
        """
        total = np.zeros(len(responses), np.float32)
        for part in self.parts:
            own = _checked(part, prompts, responses, rows)
            with np.errstate(over="ignore", invalid="ignore"):  # an error below
                total += np.float32(part.weight) * own
        if len(wrong := np.flatnonzero(~np.isfinite(total))):
            raise UserError("the weighted sum of rewards is too large", _named(rows, int(wrong[0])),
                            "lower rewards.weights")
        return total


def _checked(part: Part, prompts: Sequence[Text], responses: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    function, name = part.function, part.shown
    try:  # a function may change its lists, and a library that it calls may exit
        array = np.asarray(function(list(prompts), list(responses), list(rows)))
    except (Exception, SystemExit) as error:
        what = error.what if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        where = _failing_row(function, prompts, responses, rows)
        raise UserError(f"the reward {name} failed: {what}", where) from error
    if array.dtype.kind not in "fiub" and array.dtype != jnp.bfloat16:
        raise UserError(f"the reward {name} returned {array.dtype} values, and rewards are numbers", "reward")
    if array.shape != (len(responses),):
        raise UserError(f"the reward {name} returned values of shape {list(array.shape)} for {len(responses)} "
                        "responses", "reward", "return one number per response")
    with np.errstate(over="ignore"):
        scores = array.astype(np.float32)
    if len(wrong := np.flatnonzero(~np.isfinite(scores))):
        raise UserError(f"the reward {name} returned {array[wrong[0]]}", _named(rows, int(wrong[0])))
    return scores


def _failing_row(function: RewardFn, prompts: Sequence[Text], responses: Sequence[str], rows: Sequence[Row]) -> str:
    """Finds the first row for which a reward raises on its own."""
    for i in range(len(responses)):
        try:
            np.asarray(function(prompts[i:i + 1], responses[i:i + 1], rows[i:i + 1]))
        except (Exception, SystemExit):
            return _named(rows, i)
    return "reward"


def _named(rows: Sequence[Row], number: int) -> str:
    """Names a row in an error message, by its id or else by the first of its texts."""
    row = rows[number]
    text = next((value for value in row.values() if isinstance(value, str)), "")
    return f"id {row['id']}" if row.get("id") is not None else f"the row that begins with {text[:40]!r}"


def open_reward(names: Sequence[str], config: RewardConfig, device: DeviceConfig | None = None,
                directory: Path | None = None) -> Reward:
    """Opens rewards.

    Args:
        names: classifier (the score of a class), reward_model, judge (the probability of its first option), gsm8k (1
            for the right number, else 0; gsm8k_strict reads it after ####), words (the sum of their values), or
            package.module:name of a `RewardFn`.
        config: their models and weights.
        device: dtypes of the models.
        directory: directory of the job, for the cache of a server's answers.

    Raises:
        UserError: a model, judge or function cannot be used.
    """
    device = DeviceConfig() if device is None else device
    weights = [1.0] * len(names) if config.weights is None else config.weights
    parts, identities = [], []
    for name, weight in zip(names, weights, strict=True):
        function, identity = _open(config, name, device, directory)
        parts.append(Part(function, weight, name))
        identities.append(identity)
    return Reward(parts, " + ".join(identities))


def _open(config: RewardConfig, name: str, device: DeviceConfig, directory: Path | None) -> tuple[RewardFn, str]:
    if name in ("gsm8k", "gsm8k_strict"):
        return partial(gsm8k_reward, strict=name == "gsm8k_strict"), name
    if name == "words":
        return partial(words_reward, values=config.words), f"words {sorted(config.words.items())}"
    if name == "judge":
        assert config.judge is not None
        judge = open_judge(config.judge, device, directory)
        return partial(judge_reward, judge=judge, question=config.question,
                             options=config.options), judge.identity
    if name in ("classifier", "reward_model"):
        assert config.model is not None
        model, adapter = load_with_adapter(config.model, config.adapter, device.param_dtype)
        generator = Generator(model, dtype=device.compute_dtype, batch_size=config.batch_size, donate=True)
        identity = f"{name} {fingerprint(model_directory(config.model))}"
        if config.adapter is not None:
            identity += f" + {fingerprint(Path(config.adapter))}"
        if name == "reward_model":
            _check_labels(generator, config.model, single=True)
            return partial(model_reward, generator=generator, adapter=adapter), identity
        label = _check_labels(generator, config.model, single=False, label=config.label)
        return partial(classifier_reward, generator=generator, adapter=adapter, label=label,
                             output=config.output), identity
    function, identity = _imported(name)
    if hasattr(function, "opened") and config.judge is not None:
        opened = function.opened(open_judge(config.judge, device, directory), config.prompts)
        return opened, f"{identity}, {opened.identity}"
    return function, identity


def _imported(path: str) -> tuple[Any, str]:
    module_name, _, name = path.partition(":")
    if "" not in sys.path and os.getcwd() not in sys.path:  # the installed command starts elsewhere
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module's own code may raise anything
        raise UserError(f"the module cannot be imported: {type(error).__name__}: {error}", path,
                        "give package.module:name") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise UserError("no such function" if function is None else "not a function", path, "give package.module:name")
    file = getattr(module, "__file__", None)
    source = Path(file).read_bytes() if file else b""
    return function, f"{path} {hashlib.sha256(source).hexdigest()[:16]}"


def _check_labels(generator: Generator, where: str, *, single: bool, label: str | None = None) -> int:
    """Checks the head of a scoring model; returns the number of the class."""
    head = generator.model.spec.head
    if head is None:
        raise UserError("the model has no scoring head", where, "train one with jaxllm tune")
    if single:
        if head.labels != 1:
            raise UserError(f"a reward model gives one score, and this model {head.labels}", where,
                            "use the reward classifier")
        return 0
    if head.labels == 1:
        raise UserError("a classifier has two classes or more, and this model gives one score", where,
                        "use the reward reward_model")
    text = str(label)
    if text in head.label_names:
        return head.label_names.index(text)
    if text.isdecimal() and int(text) < head.labels:
        return int(text)
    names = ", ".join(head.label_names) or f"0 to {head.labels - 1}"
    raise UserError(f"the classifier has no class {text!r}", "rewards.label", f"classes are {names}")


def gsm8k_reward(prompts: Sequence[Text], responses: Sequence[str], rows: Sequence[Row], *, strict: bool = False
                 ) -> np.ndarray:
    """Rewards the right final number with 1; rows have the data set's `answer`. See `evaluate.gsm8k`."""
    return np.array([is_right(response, str(row["answer"]), strict=strict)
                     for response, row in zip(responses, rows, strict=True)], np.float32)


def words_reward(prompts: Sequence[Text], responses: Sequence[str], rows: Sequence[Row], *,
                 values: Mapping[str, float]) -> np.ndarray:
    """Rewards with the sum of the values of a response's words; a word is a run of letters, in any case."""
    known = {word.lower(): value for word, value in values.items()}
    return np.array([sum(known.get(word, 0.0) for word in _WORD.findall(response.lower()))
                     for response in responses], np.float32)


def model_reward(prompts: Sequence[Text], responses: Sequence[str], rows: Sequence[Row], *, generator: Generator,
                 adapter: Adapter | None = None) -> np.ndarray:
    """Rewards with the score of a reward model, encoded as in its training."""
    tokenizer = generator.model.tokenizer
    texts = [reward_text_ids(tokenizer, prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    scores = generator.classify([(ids, [0] * len(ids)) for ids in texts], adapter=adapter)
    return np.array(scores, np.float32)[:, 0]


def classifier_reward(prompts: Sequence[Text], responses: Sequence[str], rows: Sequence[Row], *, generator: Generator,
                      label: int, adapter: Adapter | None = None, output: str = "logit") -> np.ndarray:
    """Rewards with the score of a class for the prompt and its response as one text.

    Args:
        prompts, responses, rows: see `RewardFn`.
        generator: the classifier.
        label: number of the class.
        adapter: its adapter.
        output: see `RewardConfig`.
    """
    whole: list[Any] = [prompt + response if isinstance(prompt, str) else
             [*prompt, {"role": "assistant", "content": response}]
             for prompt, response in zip(prompts, responses, strict=True)]
    texts = [encode_text(generator.model.tokenizer, text) for text in whole]
    logits = np.array(generator.classify(texts, adapter=adapter), np.float64)
    own = logits[:, label]
    if output == "logit":
        return own.astype(np.float32)
    others = np.logaddexp.reduce(np.delete(logits, label, 1), 1)
    if output == "log_odds":
        return (own - others).astype(np.float32)
    return np.exp(own - np.logaddexp(own, others)).astype(np.float32)


def judge_reward(prompts: Sequence[Text], responses: Sequence[str], rows: Sequence[Row], *, judge: Judge,
                 question: str | None = None, options: Sequence[str] = ("Yes", "No")) -> np.ndarray:
    """Rewards with the probability that a judge gives to the first option.

    Args:
        prompts, responses, rows: see `RewardFn`.
        judge: the judge.
        question, options: see `RewardConfig`.

    Raises:
        UserError: the judge has no answer for a response.
    """
    questions = [Prompt(judge_question(question, prompt, response))
                 for prompt, response in zip(prompts, responses, strict=True)]
    choices = judge.choose(questions, options)
    missing = [number for number, choice in enumerate(choices) if choice is None]
    if missing:
        raise UserError("the judge gave no answer", _named(rows, missing[0]))
    return np.array([choice.probabilities[options[0]] for choice in choices if choice is not None], np.float32)


def judge_question(question: str | None, prompt: Text, response: str) -> str:
    """Formats the question of the judge about a response; see `RewardConfig.question`."""
    if question is None:
        question = TEXT_QUESTION if isinstance(prompt, str) else CHAT_QUESTION
    if isinstance(prompt, str) and "messages" not in fields_of(question):
        return fill(question, {"prompt": prompt, "response": response})
    turns = conversation_text([{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt)
    return fill(question, {"prompt": turns, "messages": turns, "response": quoted(response)})
