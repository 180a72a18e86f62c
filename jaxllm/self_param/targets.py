"""Targets of a document: QA pairs, continuations, unrelated text, and self-generated rehearsal data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.finetune.targets import Target, build_target, continuation, purpose_seed
from jaxllm.generate import Generator
from jaxllm.self_param.config import InjectConfig
from jaxllm.self_param.prompts import Prompts
from jaxllm.train import row_indices

Ids = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class DocumentTargets:
    """All targets of one document or chunk, tokenized; a `finetune.targets.TargetSource`.

    Attributes:
        prefix: ids before every document and unrelated text.
        context: ids of the document in the teacher's prompt.
        questions: one target per QA pair.
        unrelated: ids of the unrelated texts.
        unrelated_context: ids before an unrelated text in the teacher's prompt: the document, or nothing.
        types: target types of one cycle, in order.
        seed: seed of the order and of the cuts.
        rehearsal: ids of the rehearsal texts.
        question_prefix: ids before every rehearsal text.
    """

    prefix: Ids
    context: Ids
    questions: tuple[Target, ...]
    unrelated: tuple[Ids, ...]
    unrelated_context: Ids
    types: tuple[str, ...]
    seed: int
    rehearsal: tuple[Ids, ...] = ()
    question_prefix: Ids = ()

    @property
    def cycle(self) -> int:
        return len(self.types)

    def target(self, number: int) -> Target:
        """Returns target `number`, a function of the number and the seed alone, so that a run can resume anywhere."""
        cycle, position = divmod(number, len(self.types))
        target_type = self.types[position]
        # Number of this target among those of its type.
        n = cycle * self.types.count(target_type) + self.types[:position].count(target_type)
        if target_type == "continuation":
            cuts = np.random.default_rng((self.seed, n))
            return continuation(self.prefix, self.context, int(cuts.integers(1, len(self.context) - 1)))
        if target_type == "unrelated":
            order = purpose_seed(self.seed, "unrelated")
            text = self.unrelated[row_indices(order, n, 1, len(self.unrelated))[0]]
            return build_target(self.prefix, self.unrelated_context, text, target_type)
        if target_type == "rehearsal":
            order = purpose_seed(self.seed, "recall")  # the label of earlier versions, so that orders stay the same
            text = self.rehearsal[row_indices(order, n, 1, len(self.rehearsal))[0]]
            return build_target(self.question_prefix, (), text, target_type)
        return self.questions[row_indices(self.seed, n, 1, len(self.questions))[0]]

    def teacher_texts(self, target_type: str) -> tuple[int, float]:
        """Returns the number of distinct targets of a type, and the mean number of tokens that the teacher reads."""
        if target_type == "continuation":
            return len(self.context) - 2, len(self.prefix) + len(self.context)
        if target_type == "qa":
            lengths = [len(target.teacher) for target in self.questions]
        elif target_type == "unrelated":
            lengths = [len(self.prefix) + len(self.unrelated_context) + len(text) for text in self.unrelated]
        else:
            lengths = [len(self.question_prefix) + len(text) for text in self.rehearsal]
        return len(lengths), float(np.mean(lengths))

    def longest(self) -> list[Target]:
        """Returns targets with lengths, in both views, that no target of the source exceeds."""
        targets = list(self.questions)
        if "continuation" in self.types:
            targets.append(continuation(self.prefix, self.context, 1))
        if "unrelated" in self.types:
            targets.append(build_target(self.prefix, self.unrelated_context, max(self.unrelated, key=len), "unrelated"))
        if "rehearsal" in self.types:
            targets.append(build_target(self.question_prefix, (), max(self.rehearsal, key=len), "rehearsal"))
        return targets


def teacher_reads(sources: Sequence[DocumentTargets], targets: float, sampled: float = 0.0) -> float:
    """Estimates how often a teacher without a cache reads each token in the first `targets` targets of a run.

    Args:
        sources: documents or chunks of the run; texts that several of them share count for each.
        targets: number of targets, the same of each source.
        sampled: share of the QA targets with an answer of the student, new each time.
    """
    once = total = 0.0
    for one in sources:
        for name in set(one.types):
            drawn = targets / len(sources) * one.types.count(name) / len(one.types)
            texts, tokens = one.teacher_texts(name)
            if name == "continuation":  # cuts are drawn with replacement
                distinct = texts * (1 - (1 - 1 / texts)**drawn)
            else:
                new = drawn * sampled if name == "qa" else 0.0
                distinct = min(drawn - new, texts) + new
            once, total = once + distinct * tokens, total + drawn * tokens
    return total / once


def document_targets(config: InjectConfig, prompts: Prompts, passage: str, pairs: Sequence[tuple[str, str]],
                     unrelated: Sequence[Sequence[int]], seed: int, rehearsal: Sequence[Ids] = ()) -> DocumentTargets:
    """Tokenizes the targets of a document or chunk.

    Args:
        config: mixture, qa_pairs.loss_on and unrelated.with_document are used.
        prompts: builds the token sequences.
        passage: the document or chunk.
        pairs: QA pairs.
        unrelated: ids of unrelated texts.
        seed: seed of the order and of the cuts.
        rehearsal: ids of rehearsal texts.

    Raises:
        UserError: no target type of the mixture is left: the document is too short for a continuation, or has no pairs.
    """
    context = tuple(prompts.document(passage))
    available = {"continuation": len(context) >= 3, "qa": bool(pairs)}
    types = tuple(name for name in config.mixture.cycle if available.get(name, True))
    if not types:
        raise UserError(f"a document of {len(context)} tokens has no continuation, or no QA pairs", "mixture",
                        "raise mixture.qa, and give pairs")
    questions = tuple(prompts.target(*pair, passage, mask_prompt=config.qa_pairs.loss_on == "answer") for pair in pairs)
    return DocumentTargets(prompts.model.prefix, context, questions, tuple(map(tuple, unrelated)),
                           context if config.unrelated.with_document else (), types, seed, tuple(rehearsal),
                           prompts.prefix)


def context_targets(prompts: Prompts, passage: str, seed: int) -> DocumentTargets:
    """Makes the document's own text the only target, for next-token prediction."""
    whole = build_target(prompts.model.prefix, (), prompts.document(passage), "qa")
    return DocumentTargets(prompts.model.prefix, (), (whole,), (), (), ("qa",), seed)


def sample_unrelated(config: InjectConfig, generator: Generator, texts: Sequence[str] | None
                     ) -> tuple[list[list[int]], list[list[int]]]:
    """Tokenizes unrelated texts, or samples them from the model, and splits them.

    Args:
        config: settings of the run.
        generator: samples the texts.
        texts: texts of unrelated.path, shuffled; None samples them.

    Returns:
        ids of the training texts and of the held-out texts for drift; no text is in both.

    Raises:
        UserError: there are too few distinct texts.
    """
    model, (train, drift, length) = generator.model, (config.unrelated.train, config.unrelated.drift,
                                                      config.unrelated.tokens)
    if texts is None:
        sampling = SamplingConfig(temperature=1.0, max_tokens=length, n=train + drift)
        samples = generator.generate([list(model.start) or [0]], sampling, seed=purpose_seed(config.seed, "unrelated"))
        ids = [completion.token_ids for completion in samples[0]]
    else:
        ids = [model.tokenizer.encode(text)[:length] for text in texts]
    distinct = list({tuple(text): list(text) for text in ids if len(text) > 1}.values())
    if len(distinct) < drift + bool(config.mixture.unrelated):
        raise UserError(f"only {len(distinct)} distinct texts, {drift} of them held out for drift",
                        config.unrelated.path or "unrelated texts sampled from the model",
                        "give more texts, or lower unrelated.drift")
    return distinct[drift:][:train], distinct[:drift]


# ---- rehearsal: not in the paper ---------------------------------------------------------------------------


def rehearsal_tokens(config: InjectConfig) -> int:
    """Maximum length of a rehearsal text after the question prefix."""
    return config.qa_pairs.max_tokens + config.sampling.max_tokens


def longest_rehearsal(config: InjectConfig, prompts: Prompts) -> Target:
    """Returns a target as long as any rehearsal text that the model may still generate."""
    chat = prompts.format.chat
    around = len(prompts.question("")) - len(prompts.prefix) + prompts.answer_end_tokens if chat else len(
        prompts.question_request()) - len(prompts.prefix)
    length = around + prompts.border_tokens + rehearsal_tokens(config)
    return build_target(prompts.prefix, (), [0] * length, "rehearsal")


def sample_rehearsal(config: InjectConfig, generator: Generator, prompts: Prompts, seed: int) -> tuple[Ids, ...]:
    """Samples closed-book QA pairs from the model; returns the ids of distinct, completed texts.

    Raises:
        UserError: no sample ends within its maximum length.
    """
    sample = _sample_conversations if prompts.format.chat else _sample_lines
    texts = dict.fromkeys(sample(config, generator, prompts, seed))
    if not texts:
        raise UserError(f"none of {config.rehearsal.texts} sampled questions ended within {rehearsal_tokens(config)} "
                        "tokens", "mixture.rehearsal", "set it to 0, or raise qa_pairs.max_tokens")
    return tuple(texts)


def _sample_lines(config: InjectConfig, generator: Generator, prompts: Prompts, seed: int) -> Iterator[Ids]:
    """Samples texts that hold a question and its answer."""
    request, first = prompts.question_request(), len(prompts.prefix)
    sampling = SamplingConfig(temperature=1.0, max_tokens=rehearsal_tokens(config), n=config.rehearsal.texts,
                              stop=prompts.format.answer_stops)
    ends = set(generator.model.stop_ids)
    for completion in generator.generate([request], sampling, seed=seed)[0]:
        if completion.finish_reason == "stop":
            yield (*request[first:], *(token for token in completion.token_ids if token not in ends))


def _sample_conversations(config: InjectConfig, generator: Generator, prompts: Prompts, seed: int) -> Iterator[Ids]:
    """Samples questions, then an answer to each in a conversation of its own."""
    settings = SamplingConfig(temperature=1.0, max_tokens=config.qa_pairs.max_tokens, n=config.rehearsal.texts,
                              stop=prompts.format.question_stops)
    samples = generator.generate([prompts.question_request()], settings, seed=seed)[0]
    questions = list(dict.fromkeys(prompts.question_of(completion.text) for completion in samples
                                   if completion.finish_reason == "stop"))
    questions = [question for question in questions if question.strip()]
    settings = SamplingConfig(temperature=1.0, max_tokens=config.sampling.max_tokens, stop=prompts.format.answer_stops)
    answers = generator.generate([prompts.question(question) for question in questions], settings,
                                 seed=purpose_seed(seed, "answers"))
    for question, (answer,) in zip(questions, answers, strict=True):
        if answer.finish_reason == "stop" and answer.text.strip():
            yield prompts.target(question, answer.text.strip()).student[len(prompts.prefix):]


def rehearsal_before(step: int, samples: Mapping[int, tuple[Ids, ...]], without_first: bool) -> tuple[Ids, ...]:
    """Collects the rehearsal texts of an injection: those sampled before it and before all earlier injections.

    About half of what a model samples is about the latest document, so the share of an earlier document would halve
    with every injection if its questions were not repeated. Only generated questions and answers are stored.

    Args:
        step: number of the injection, from 1.
        samples: texts sampled before each injection, by its number; 1 is the base model's.
        without_first: leaves out the base model's, where sampled unrelated texts cover them already.
    """
    first = min(2 if without_first else 1, step)
    return tuple(dict.fromkeys(text for number in range(first, step + 1) for text in samples[number]))
