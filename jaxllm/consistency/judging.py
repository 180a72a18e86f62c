"""Comparisons of every two items of an instance by a judge, in both orders, with both questions, as matrices."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from jaxllm.consistency.config import Config, PairConfig
from jaxllm.consistency.data import Instance
from jaxllm.consistency.templates import Template
from jaxllm.errors import UserError
from jaxllm.files import iter_jsonl
from jaxllm.job import Job
from jaxllm.judge import Answer, Completions, Invalid, Judge, Options, Prompt, judge_rows
from jaxllm.judge.answers import last_line_option, short_option
from jaxllm.progress import notice
from jaxllm.text.rows import Rejected, as_text, check_share

T = TypeVar("T")
# Prompts that are tokenized to estimate the number of tokens of all.
COUNTED = 16
FILE = "answers.jsonl"


class Question(NamedTuple):
    """One question to the judge: item `first` in the first slot, `second` in the other one."""

    instance: int
    first: int
    second: int
    negated: bool = False
    paraphrase: int = 0


class Picked(NamedTuple):
    """Answer to a question: the probability of the first slot, None without an answer; the probability mass of both
    answers, None for sampled ones; the number of valid samples, None for probabilities; and why answers are invalid."""

    first: float | None
    mass: float | None
    votes: int | None
    reasons: Sequence[str]


@dataclass(frozen=True)
class Answers:
    """Answers of a judge about one instance, NaN where there is none.

    Attributes:
        p, q: probability that the first slot is picked, `[P + 1, N, N]`, for the question and each of its P
            paraphrases; q is that of the negated questions, or None.
        mass: probability of both options before the normalization, `[N, N]`, the mean of the question and its
            negation, without paraphrases; None for sampled answers.
        votes: number of valid samples for each question and paraphrase, `[2, P + 1, N, N]`, those of the negated one
            last; None for probabilities.
        compared: ordered pairs that the judge was given, `[N, N]`.
        reasons: why answers or samples are missing, with their numbers.
    """

    p: np.ndarray
    q: np.ndarray | None
    mass: np.ndarray | None
    votes: np.ndarray | None
    compared: np.ndarray
    reasons: Counter[str]


class PairJudge:
    """Builds prompts of pairs, and lets a judge answer them.

    Args:
        judge: the judge.
        config: settings.
        template: the question.
        instances: the instances.
    """

    def __init__(self, judge: Judge, config: PairConfig, template: Template, instances: Sequence[Instance]):
        self.judge, self.config, self.template, self.instances = judge, config, template, instances
        if config.method == "probability" and not judge.can_choose:
            raise UserError(f"{judge.identity} has no probabilities of answers", "method",
                            "set method to text or chain_of_thought")
        self._prompt_of = cache_last(self._builder)

    def split(self, negated: bool, paraphrases: int = 0) -> list[Rejected]:
        """Leaves out the instances with a prompt that does not fit the judge's context window, and returns them.

        Args:
            negated, paraphrases: wordings that are used.
        """
        length = 1 if self.config.method == "probability" else self.config.sampling.max_tokens
        fitting, rejected = [], []
        wordings = list(itertools.product((False, True)[:1 + negated], range(paraphrases + 1)))
        for number, instance in enumerate(self.instances):
            longest = sorted(range(len(instance.items)), key=lambda i: -len(instance.items[i].encode()))[:2]
            prompts = [self.prompt(Question(number, first, second, own, paraphrase))
                       for first, second in (longest, longest[::-1])
                       for own, paraphrase in wordings]
            reason = next(filter(None, (self.judge.unanswerable_reason(prompt, length) for prompt in prompts)), None)
            if reason is None:
                fitting.append(instance)
            else:
                rejected.append(Rejected(self.config.data.path, instance.line, f"instance {instance.id!r}: {reason}",
                                         as_text({"id": instance.id, "context": instance.context,
                                                  "items": instance.items})))
        if not fitting:
            raise UserError(f"no instance fits: {rejected[0].reason}", "data.path",
                            "shorten contexts or items, or use a judge with a longer context window")
        check_share(len(fitting), rejected, self.config.data.limit_bad)
        self.instances, self._prompt_of = fitting, cache_last(self._builder)
        return rejected

    def prompt(self, question: Question) -> Prompt:
        """Builds the prompt of a question; the last instance's parts are held for the next one."""
        return self._prompt_of(question.instance)(question)

    def announce(self, job: Job, questions: Sequence[Question], at_most: int | None = None) -> None:
        """Prints the number of prompts and tokens, before the first one is sent.

        Args:
            job: the job; a resumed one prints nothing.
            questions: the questions, or examples of them.
            at_most: their largest possible number, where it depends on the answers.
        """
        if (job.directory / FILE).exists():
            return
        total = len(questions) if at_most is None else at_most
        chosen = [questions[i] for i in np.linspace(0, len(questions) - 1, min(COUNTED, len(questions))).astype(int)]
        known = [count for question in chosen if (count := self.judge.count_tokens(self.prompt(question))) is not None]
        text = f"{len(self.instances):,} instances, {'' if at_most is None else 'at most '}{total:,} prompts"
        kinds = [f"{count:,} {name.replace('_', ' ')}" for name, count in prompt_counts(questions).items()]
        if len(kinds) > 1:
            text += f" ({', '.join(kinds)})"
        if self.config.answers > 1:
            text += f" with {self.config.answers} answers each"
        if known:
            text += f", about {float(np.mean(known)) * total:,.0f} prompt tokens (shared parts counted in each)"
        if self.config.method != "probability":
            most = total * self.config.answers * self.config.sampling.max_tokens
            text += f", at most {most:,} generated tokens"
        notice(text)

    def answer(self, job: Job, questions: Sequence[Question], start: int = 0, shown: bool = True) -> list[Picked]:
        """Answers all questions that a stopped job left.

        Args:
            job: the job.
            questions: all questions of the job so far, those of earlier calls included.
            start: number of the first question with an answer that is wanted.
            shown: show the progress.

        Returns:
            The answers from `start` on.
        """
        task: Any = Options(self.template.options) if self.config.method == "probability" else Completions(
            self.config.sampling, lambda _, answer: self._parsed(answer))
        judge_rows(job, self.judge, questions, self.prompt, task, seed=self.config.seed,
                   prices=self.config.judge.prices, file=FILE, name="pairs", unit="answers", shown=shown)
        lines = itertools.islice(iter_jsonl(job.directory / FILE, start), len(questions) - start)
        return [_picked(line, self.template.options[0]) for line in lines]

    def _parsed(self, answer: Answer) -> str | Invalid:
        settings = answer.text, self.template.options, (self.template.item,)
        if self.config.method == "text":
            return short_option(*settings)
        # The last line of reasons that were cut may be a heading, such as "Response A:".
        return Invalid("it was cut by max_tokens") if answer.finish_reason == "length" else last_line_option(*settings)

    def _builder(self, number: int) -> Callable[[Question], Prompt]:
        instance = self.instances[number]
        build = self.template.builder(instance.context, instance.items)
        settings = dict(reasons=self.config.method == "chain_of_thought", chat=self.judge.reads_messages)

        def prompt(question: Question) -> Prompt:
            content = build(question.first, question.second, negated=question.negated, paraphrase=question.paraphrase,
                            **settings)
            name = f"{instance.id}/{question.first}/{question.second}" + ("/negated" if question.negated else "")
            return Prompt(content, name + (f"/paraphrase{question.paraphrase}" if question.paraphrase else ""))

        return prompt


def judge_matrices(job: Job, judge: PairJudge, config: Config) -> tuple[list[Answers], dict[str, int]]:
    """Compares the pairs of all instances, with both questions and their paraphrases.

    Returns:
        The answers about each instance, and `prompt_counts`.
    """
    if config.paraphrases >= len(judge.template.questions):
        raise UserError(f"the template has {len(judge.template.questions) - 1} paraphrases", "paraphrases",
                        "use fewer, or a template file with more")
    questions = [question for number, instance in enumerate(judge.instances)
                 for question in _questions(number, instance, config)]
    judge.announce(job, questions)
    picked = iter(judge.answer(job, questions))
    found = []
    for number, own in itertools.groupby(questions, key=lambda question: question.instance):
        count = len(judge.instances[number].items)
        values = np.full((2, config.paraphrases + 1, count, count), np.nan, np.float32)  # p and q
        masses = np.full((2, count, count), np.nan, np.float32)
        votes = np.zeros(values.shape, np.int32)
        compared = np.zeros((count, count), bool)
        reasons: Counter[str] = Counter()
        for question, one in zip(own, picked, strict=False):
            cell = int(question.negated), question.paraphrase, question.first, question.second
            compared[question.first, question.second] = True
            reasons.update(one.reasons)
            votes[cell] = one.votes or 0
            if one.first is not None:
                values[cell] = one.first
            if one.mass is not None and not question.paraphrase:
                masses[int(question.negated), question.first, question.second] = one.mass
        known = np.sum(~np.isnan(masses), 0)
        mass = np.where(known > 0, np.nansum(masses, 0) / np.maximum(known, 1), np.nan)
        sampled = config.method != "probability"
        found.append(Answers(values[0], values[1] if config.negated else None, None if sampled else mass,
                             votes if sampled else None, compared, reasons))
    return found, prompt_counts(questions)


def prompt_counts(questions: Sequence[Question]) -> dict[str, int]:
    """Counts the prompts with the question, its negation, and the paraphrases of each; kinds without any are left out.
    """
    kinds = {(False, False): "original", (True, False): "negated", (False, True): "paraphrased",
             (True, True): "negated_paraphrased"}
    counts = Counter((question.negated, question.paraphrase > 0) for question in questions)
    return {name: counts[kind] for kind, name in kinds.items() if kind in counts}


def _questions(number: int, instance: Instance, config: Config) -> Iterator[Question]:
    """Lists the questions of an instance so that neighbors share as much of the prompt as they can."""
    pairs = chosen_pairs(len(instance.items), config.pairs, (config.seed, instance.key))
    for first, second in sorted({*pairs, *((j, i) for i, j in pairs)}):
        for paraphrase in range(config.paraphrases + 1):
            yield from (Question(number, first, second, negated, paraphrase)
                        for negated in (False, True)[:1 + config.negated])


def chosen_pairs(count: int, budget: int | None, seed: Sequence[int] | int) -> list[tuple[int, int]]:
    """Lists pairs of items i < j: all, or a random choice that connects all items where the budget allows.

    Args:
        count: number of items.
        budget: number of pairs at most; None for all.
        seed: seed of the choice.
    """
    pairs = list(itertools.combinations(range(count), 2))
    if budget is None or budget >= len(pairs):
        return pairs
    rng = np.random.default_rng(seed)
    order = rng.permutation(count).tolist()
    chain = [(min(pair), max(pair)) for pair in itertools.pairwise(order)][:budget]
    chained = set(chain)
    rest = [pairs[i] for i in rng.permutation(len(pairs)) if pairs[i] not in chained]
    return sorted(chain + rest[:budget - len(chain)])


def with_answers(instance: Instance, answers: Answers, paraphrase: int = 0) -> Instance:
    """Returns the instance with the judge's matrices for the question (0) or one of its paraphrases."""
    count = len(instance.items)
    return replace(instance, p=answers.p[paraphrase], q=None if answers.q is None else answers.q[paraphrase],
                   mass=None if paraphrase else answers.mass,
                   votes=None if answers.votes is None else answers.votes[0, paraphrase],
                   compared=None if answers.compared.sum() == count * (count - 1) else answers.compared)


def cache_last(build: Callable[[int], T]) -> Callable[[int], T]:
    """Caches the result of the last number only."""
    held: list[Any] = [None, None]

    def cached(number: int) -> T:
        if held[0] != number:
            held[:] = number, build(number)
        return held[1]

    return cached


def _picked(line: Mapping[str, Any], first: str) -> Picked:
    unknown = [line["reason"] or "there is no answer"]
    if line.get("samples"):
        votes = [sample["value"] == first for sample in line["samples"] if sample["value"] is not None]
        reasons = [sample["reason"] for sample in line["samples"] if sample["value"] is None]
        return Picked(float(np.mean(votes)) if votes else None, None, len(votes), reasons)
    if "samples" in line:
        return Picked(None, None, None, unknown)
    if line["probabilities"] is None:
        return Picked(None, line["mass"], None, unknown)
    return Picked(line["probabilities"][first], line["mass"], None, [])
