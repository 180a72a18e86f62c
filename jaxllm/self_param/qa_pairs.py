"""QA pairs to train on: written by the model, by a judge, read from a file, or made from the document's sentences."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxllm.config import SamplingConfig, check
from jaxllm.errors import UserError
from jaxllm.evaluate.qa import f1
from jaxllm.finetune.targets import purpose_seed
from jaxllm.generate import Completion, Generator
from jaxllm.generate.mixture import generate_mixture
from jaxllm.judge import Answer, Judge, Prompt, open_judge
from jaxllm.progress import bar
from jaxllm.self_param.cloze import cloze_pairs
from jaxllm.self_param.config import InjectConfig, QAPairConfig
from jaxllm.self_param.data import Document
from jaxllm.self_param.phrases import answer_phrases
from jaxllm.self_param.prompts import Format, Prompts
from jaxllm.self_param.qa_filter import (
    REASONS,
    PassagePairs,
    QAPair,
    answer_gains,
    drop_repeated,
    drop_surplus,
    drop_unusable,
    is_long_enough,
    question_gains,
)
from jaxllm.text.rows import Rejected, RowSet, as_text

PairSource = Callable[[Sequence[str]], list[PassagePairs]]
"""Maps texts to the QA pairs of each."""

# The answers of the worked example are all in its text: an example that adds facts teaches to add facts.
INSTRUCTION = """\
Write as many different questions about the text as it answers, each with its answer, one pair a line, in the form
Question: ... Answer: ...
Answers are short and taken from the text. Write nothing else.

For the text
The lighthouse of Orrin was built in 1871 by two brothers. Its lamp burned whale oil.
this would be
Question: When was the lighthouse of Orrin built? Answer: in 1871
Question: Who built the lighthouse of Orrin? Answer: two brothers
Question: What did the lamp of the lighthouse burn? Answer: whale oil

The text is

"""
# Expected pairs of one reply of a judge, and tokens allowed for each.
PAIRS_PER_REPLY, TOKENS_PER_PAIR = 8, 48

# Least token F1 of an answer with the phrase that its question was written for, and of a mixed answer with the
# open-book one; and mixtures that are drawn until one has it.
SAME_ANSWER, MIXTURES = 0.5, 10

# Batches of questions that are generated together; the pairs of their passages are stored then.
BATCHES = 4
_PAIR = re.compile(
    r"Question:\s*(?P<question>[^\n]*?\S)[\s*]*Answer:[^\S\n]*(?P<answer>[^\n]*?)[\s*]*(?=Question:|\n|$)")


def make_qa_pairs(config: InjectConfig, generator: Generator, prompts: Prompts, documents: Sequence[Document],
                  given: Sequence[Sequence[QAPair]] | None = None, directory: Path | None = None, *,
                  made: Sequence[PassagePairs] = (), on_made: Callable[[PassagePairs], None] | None = None
                  ) -> list[list[PassagePairs]]:
    """Collects the QA pairs of every passage of every document, and those that were dropped.

    Args:
        config: settings of the run.
        generator: writes the pairs where qa_pairs.source is model, and measures their gains.
        prompts: builds the token sequences.
        documents: documents, chunked.
        given: pairs of every document; None makes them.
        directory: directory of the job, for the cache of a server's answers.
        made: pairs of the first passages, made by an earlier start.
        on_made: called with the pairs of each other passage, in order, as soon as they are made.

    Returns:
        pairs by document and passage; all empty where mixture.qa is 0.
    """
    if not config.mixture.qa:
        return [[PassagePairs([]) for _ in document.passages] for document in documents]
    texts = [text for document in documents for text in document.passages]
    pairs = list(made)
    source = _of_source(config, generator, prompts, documents, texts, given, directory, len(pairs))
    for text, own in zip(texts[len(pairs):], source, strict=True):
        if not (given is None and config.qa_pairs.source == "model"):  # already checked, before the answers
            own.drop_duplicates()
        own.drop("too_long", [not prompts.fits(text, *pair) for pair in own.selected])
        drop_unusable(text, own, config.qa_pairs)
        if given is None and config.qa_pairs.answer_gain is not None and own.selected:
            gains = answer_gains(generator, prompts, text, own.selected)
            own.drop("unanswerable", [gain < config.qa_pairs.answer_gain for gain in gains])
        if config.qa_pairs.per_answer is not None:
            drop_repeated(own, config.qa_pairs.per_answer)
        drop_surplus(text, own, config.qa_pairs.per_document)
        known = {*own.selected, *(pair for pair, _ in own.dropped)}  # the source makes such pairs too
        completions = PassagePairs([QAPair(*pair) for pair in cloze_pairs(text, config.qa_pairs.cloze)
                                    if pair not in known])
        completions.drop("too_long", [not prompts.fits(text, *pair) for pair in completions.selected])
        own.add(completions)
        pairs.append(own)
        if on_made is not None:
            on_made(own)
    in_order = iter(pairs)
    return [[next(in_order) for _ in document.passages] for document in documents]


def _of_source(config: InjectConfig, generator: Generator, prompts: Prompts, documents: Sequence[Document],
               texts: Sequence[str], given: Sequence[Sequence[QAPair]] | None, directory: Path | None, first: int
               ) -> Iterator[PassagePairs]:
    """Yields the pairs of the passages from number `first` on, in order, before the checks that all sources share."""
    settings, seed = config.qa_pairs, purpose_seed(config.seed, "questions")
    if first == len(texts):
        return
    if given is not None:
        yield from [own for document, own_pairs in zip(documents, given, strict=True)
                    for own in _by_passage(document, own_pairs)][first:]
    elif settings.source == "cloze":
        for text in texts[first:]:
            yield PassagePairs([QAPair(*pair) for pair in cloze_pairs(text, settings.per_document)])
    elif settings.source == "model":
        sampled = settings.sampled
        together = -(-BATCHES * generator.batch_size // sampled)  # passages
        with bar(len(texts) * sampled, "questions", "samples", done=first * sampled) as advance:
            count = itertools.count(first * sampled + 1)
            for start in range(first, len(texts), together):
                source = model_source(generator, prompts, settings, config.sampling.max_tokens, seed,
                                      lambda _: advance(next(count)), start)
                yield from source(texts[start:start + together])
    else:
        with bar(len(texts) - first, "questions", "documents") as advance:
            source = judge_source(open_judge(settings.judge, config.device, directory), settings, seed, advance)
            pairs = source(texts[first:])
        yield from pairs


def check_covered(config: InjectConfig, documents: Sequence[Document], pairs: Sequence[Sequence[PassagePairs]]) -> None:
    """Checks that every document has a pair, where mixture.qa is not 0.

    Args:
        config: settings of the run.
        documents: documents, chunked.
        pairs: pairs by document and passage.

    Raises:
        UserError: a document has none; the message has the reasons why its pairs were dropped.
    """
    bare = [number for number, own in enumerate(pairs) if not any(passage.selected for passage in own)]
    if config.mixture.qa and bare:
        reasons = {reason for number in bare for passage in pairs[number] for _, reason in passage.dropped}
        why = "; ".join(REASONS[reason] for reason in REASONS if reason in reasons)
        raise UserError(f"no QA pairs for {len(bare)} of {len(documents)} documents, first for the one that starts "
                        f"with {documents[bare[0]].passages[0][:60]!r}" + (f" ({why})" if why else ""),
                        "qa_pairs.source", "choose another --out and give a file of pairs with --qa_pairs.source FILE, "
                        "add pairs that need no model with --qa_pairs.cloze 8, or use a model that writes questions in "
                        "this format")


def _by_passage(document: Document, pairs: Sequence[QAPair]) -> list[PassagePairs]:
    """Assigns each pair of a document to the passage that is nearest to its question."""
    own = [PassagePairs([]) for _ in document.passages]
    for pair in pairs:
        own[document.nearest_passage(*pair)].selected.append(_stripped(*pair))
    return own


def _stripped(question: str, answer: str) -> QAPair:
    return QAPair(question.strip(), answer.strip())


# ---- sources -----------------------------------------------------------------------------------------------


def model_source(generator: Generator, prompts: Prompts, config: QAPairConfig, answer_tokens: int, seed: int,
                 on_sample: Callable[[int], None] | None = None, first: int = 0) -> PairSource:
    """Makes a source in which the model samples questions about the passage in its prompt, then answers them greedily.

    Questions that are cut, repeated, too long or unspecific are dropped before they are answered. Pairs with an answer
    that is cut are dropped where the passage has others; a model without an end of its answers has none. With
    qa_pairs.answer_first every question is written for a phrase of the passage, and pairs with that answer come first.
    With qa_pairs.closed_book_share tokens of the answers are drawn from the closed-book model.

    Args:
        generator: the model.
        prompts: builds the prompts.
        config: number, length and temperature of the questions, their least gain, and the mixture of the answers.
        answer_tokens: maximum length of an answer.
        seed: seed of the questions.
        on_sample: called with the number of questions sampled so far.
        first: number of the first text in the random streams.

    Raises:
        UserError: qa_pairs.answer_first is set, and prompts are plain.
    """
    check_mode(config, prompts.format)
    answer_sampling = SamplingConfig(temperature=0.0, max_tokens=answer_tokens, stop=prompts.format.answer_stops)

    def source(texts: Sequence[str]) -> list[PassagePairs]:
        sampled = []
        for text, completions in zip(
                texts, _questions(generator, prompts, config, texts, seed, on_sample, first), strict=True):
            own = PassagePairs([_stripped(prompts.question_of(one.text), phrase) for one, phrase in completions])
            own.drop("cut", [one.finish_reason == "length" for one, _ in completions])
            own.drop_duplicates()
            # The window has to hold the question with its answer and the end of it.
            budget = prompts.window - prompts.answer_end_tokens - answer_tokens
            own.drop("too_long", [len(prompts.question(question, text, examples=True)) >= budget
                                  for question, _ in own.selected])
            if config.question_gain is not None and own.selected:
                gains = question_gains(generator, prompts, text, [question for question, _ in own.selected])
                own.drop("unspecific", [gain < config.question_gain for gain in gains])
            sampled.append(own)
        answers = iter(_answers(generator, prompts, config, answer_sampling, texts, sampled, seed, first))
        for own in sampled:
            phrases, mixed = dict(own.selected), [next(answers) for _ in own.selected]
            replies, closed_book = [reply for reply, _ in mixed], sum(tokens for _, tokens in mixed)
            if config.closed_book_share:
                own.answer_tokens = sum(len(reply.token_ids) for reply in replies) - closed_book, closed_book
            own.selected = [_stripped(question, reply.text)
                            for (question, _), reply in zip(own.selected, replies, strict=True)]
            cut = [reply.finish_reason == "length" for reply in replies]
            if any(is_long_enough(pair.answer, config) and not is_cut
                   for pair, is_cut in zip(own.selected, cut, strict=True)):
                own.drop("cut_answer", cut)
            if config.answer_first:
                own.selected.sort(key=lambda pair: f1(pair.answer, phrases[pair.question]) < SAME_ANSWER)
        return sampled

    return source


def check_mode(config: QAPairConfig, template: Format) -> None:
    """Checks that the prompts have a request for a question with an answer.

    Raises:
        UserError: qa_pairs.answer_first is set, and prompts are plain.
    """
    check(not config.answer_first or template.chat, "qa_pairs.answer_first", "needs prompts in chat mode",
          "use a model with a chat template, or set it to false")


def _answers(generator: Generator, prompts: Prompts, config: QAPairConfig, sampling: SamplingConfig,
             texts: Sequence[str], pairs: Sequence[PassagePairs], seed: int, first: int
             ) -> list[tuple[Completion, int]]:
    """Answers the questions about every text, each with the number of its tokens from the closed-book model.

    With qa_pairs.closed_book_share the open-book answer is replaced by a mixture that agrees with it, and is not cut
    unless it is. If none of the first `MIXTURES` is such a one, the open-book answer stays.
    """
    questions = [(text, question) for text, own in zip(texts, pairs, strict=True) for question, _ in own.selected]
    open_book = [prompts.question(question, text, examples=True) for text, question in questions]
    answers = [(reply, 0) for (reply,) in generator.generate(open_book, sampling, seed=seed)] if questions else []
    if not config.closed_book_share:
        return answers
    plain = [reply for reply, _ in answers]
    both = [(ids, prompts.question(question)) for ids, (_, question) in zip(open_book, questions, strict=True)]
    row_ids = [number * config.sampled + row for number, own in enumerate(pairs, first)
               for row in range(len(own.selected))]
    left = list(range(len(answers)))
    for attempt in range(MIXTURES):
        made = generate_mixture(generator, [both[i] for i in left], config.closed_book_share, sampling,
                                seed=purpose_seed(seed, "mixture", attempt), row_ids=[row_ids[i] for i in left])
        for i, (reply, closed) in zip(left, made, strict=True):
            if (f1(reply.text, plain[i].text) >= SAME_ANSWER
                    and (reply.finish_reason == "stop" or plain[i].finish_reason == "length")):
                answers[i] = reply, int(closed.sum())
        left = [i for i in left if answers[i][0] is plain[i]]
    return answers


def _questions(generator: Generator, prompts: Prompts, config: QAPairConfig, texts: Sequence[str], seed: int,
               on_sample: Callable[[int], None] | None, first: int) -> list[list[tuple[Completion, str]]]:
    """Samples the questions about each text, each with the phrase that it is written for, or ""."""
    count = itertools.count(1)
    report: Any = None if on_sample is None else lambda _, samples: [on_sample(next(count)) for _ in samples]
    sampling = SamplingConfig(temperature=config.temperature, max_tokens=config.max_tokens,
                              n=1 if config.answer_first else config.sampled, stop=prompts.format.question_stops)
    if not config.answer_first:
        samples = generator.generate([prompts.question_request(text) for text in texts], sampling, seed=seed,
                                     row_ids=range(first, first + len(texts)), on_prompt=report)
        return [[(one, "") for one in own] for own in samples]
    requests, row_ids = list[list[tuple[list[int], str]]](), list[int]()
    for number, text in enumerate(texts, first):
        fitting = [(ids, phrase) for phrase in answer_phrases(text, config.sampled)
                   if len(ids := prompts.question_request(text, phrase)) + config.max_tokens <= prompts.window]
        requests.append([*itertools.islice(itertools.cycle(fitting), config.sampled)])
        row_ids += range(number * config.sampled, number * config.sampled + len(requests[-1]))
    made = iter(generator.generate([ids for own in requests for ids, _ in own], sampling, seed=seed, row_ids=row_ids,
                                   on_prompt=report) if row_ids else ())
    return [[(next(made)[0], phrase) for _, phrase in own] for own in requests]


def judge_source(judge: Judge, config: QAPairConfig, seed: int,
                 on_document: Callable[[int], None] | None = None) -> PairSource:
    """Makes a source in which a judge writes pairs about each document, in several sampled replies.

    Args:
        judge: writes the replies.
        config: number of pairs and temperature.
        seed: seed of the replies.
        on_document: called with the number of documents done so far.
    """
    sampling = SamplingConfig(temperature=config.temperature, max_tokens=PAIRS_PER_REPLY * TOKENS_PER_PAIR,
                              n=-(-config.per_document // PAIRS_PER_REPLY))

    def source(texts: Sequence[str]) -> list[PassagePairs]:
        prompts = [Prompt([{"role": "user", "content": INSTRUCTION + text}]) for text in texts]
        count = itertools.count(1)
        report = lambda *_: None if on_document is None else on_document(next(count))
        replies = judge.complete(prompts, sampling, seed=seed, on_answer=report)
        return [_of_replies(own) for own in replies]

    return source


def _of_replies(replies: Sequence[Answer]) -> PassagePairs:
    """Collects the pairs of a judge's replies; of a reply that was cut, a last pair with which it ends is dropped."""
    own, cut = PassagePairs([]), list[bool]()
    for reply in replies:
        pairs = parse_pairs(reply.text)
        own.selected += pairs
        cut += [False] * len(pairs)
        if pairs and reply.finish_reason == "length":
            cut[-1] = reply.text.rstrip(" *").endswith(pairs[-1].answer)
    own.drop("cut_answer", [ends or not pair.answer for ends, pair in zip(cut, own.selected, strict=True)])
    return own


def parse_pairs(reply: str) -> list[QAPair]:
    """Parses pairs `Question: ... Answer: ...`; an answer ends with its line or at the next question, and may be
    missing. Asterisks around both, as in `**Question:**`, are left out."""
    return [QAPair(match["question"].strip(" *"), match["answer"].strip(" *")) for match in _PAIR.finditer(reply)]


def pairs_of_file(rows: RowSet, path: str, contexts: Collection[str], prompts: Prompts, documents: Sequence[Document],
                  unknown: str) -> tuple[list[list[QAPair]], list[Rejected]]:
    """Reads the pairs of each document from rows `{context, question, answers}`; the first answer is trained on.

    Args:
        rows: rows of the file.
        path: name of the file.
        contexts: texts of all documents of the data; rows about those that are not injected are ignored.
        prompts: measure whether a pair fits the context window with every passage of its document.
        documents: injected documents, chunked.
        unknown: reason to reject a row about another context.

    Returns:
        pairs of each document, and the rejected rows in file order.
    """
    rejected = list(rows.rejected)
    passages = {document.text: document.passages for document in documents}
    pairs: dict[str, list[QAPair]] = {}
    for line, row in zip(rows.lines, rows.rows, strict=True):
        pair, reason = QAPair(row["question"], row["answers"][0]), None
        if row["context"] not in contexts:
            reason = unknown
        elif not all(prompts.fits(passage, *pair) for passage in passages.get(row["context"], ())):
            reason = "the document and this pair do not fit the context window"
        if reason is None:
            pairs.setdefault(row["context"], []).append(pair)
        else:
            rejected.append(Rejected(path, line, reason, as_text(row)))
    return ([pairs.get(document.text, []) for document in documents], sorted(rejected, key=lambda row: row.line))
