"""QA pairs to train on: written by the model, by a judge, or read from a file; filtered and deduplicated."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.evaluate.qa import normalize, normalize_pair
from jaxllm.finetune.targets import purpose_seed
from jaxllm.generate import Generator
from jaxllm.judge import Judge, Prompt, open_judge
from jaxllm.progress import bar
from jaxllm.self_param.config import InjectConfig, QAPairConfig
from jaxllm.self_param.data import Document
from jaxllm.self_param.prompts import Prompts
from jaxllm.text.rows import Rejected, RowSet, as_text


class QAPair(NamedTuple):
    """A question and the answer to train on."""

    question: str
    answer: str


PairSource = Callable[[Sequence[str]], list[list[QAPair]]]
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

_PAIR = re.compile(r"Question:\s*(?P<question>[^\n]*?\S)\s*Answer:[^\S\n]*(?P<answer>[^\n]*?)\s*(?=Question:|\n|$)")


def make_qa_pairs(config: InjectConfig, generator: Generator, prompts: Prompts, documents: Sequence[Document],
                  given: Sequence[Sequence[QAPair]] | None = None) -> list[list[list[QAPair]]]:
    """Collects the QA pairs of every passage of every document.

    Args:
        config: settings of the run.
        generator: writes the pairs where qa_pairs.source is model.
        prompts: builds the token sequences.
        documents: documents, chunked.
        given: pairs of every document; None generates them.

    Returns:
        pairs by document and passage; all empty where mixture.qa is 0.

    Raises:
        UserError: a document has no usable pair.
    """
    if not config.mixture.qa:
        return [[[] for _ in document.passages] for document in documents]
    owners = [number for number, document in enumerate(documents) for _ in document.passages]
    texts = [text for document in documents for text in document.passages]
    settings, seed = config.qa_pairs, purpose_seed(config.seed, "questions")
    if given is not None:
        pairs = [own for document, own_pairs in zip(documents, given, strict=True)
                 for own in _by_passage(document, own_pairs)]
    elif settings.source == "model":
        with bar(len(texts) * settings.per_document, "questions", "samples") as advance:
            pairs = model_source(generator, prompts, settings, config.sampling.max_tokens, seed, advance)(texts)
    else:
        with bar(len(texts), "questions", "documents") as advance:
            judge = open_judge(settings.judge, config.device)
            written = judge_source(judge, settings, seed, advance)(texts)
        pairs = [[pair for pair in own if prompts.fits(text, *pair)] for text, own in zip(texts, written, strict=True)]
    pairs = filter_pairs(texts, pairs, settings, owners)
    by_document: list[list[list[QAPair]]] = [[] for _ in documents]
    for number, own in zip(owners, pairs, strict=True):
        by_document[number].append(own)
    return by_document


def _by_passage(document: Document, pairs: Sequence[QAPair]) -> list[list[QAPair]]:
    """Assigns each pair of a document to the passage that is nearest to its question."""
    own: list[list[QAPair]] = [[] for _ in document.passages]
    for pair in pairs:
        own[document.nearest_passage(*pair)].append(QAPair(*pair))
    return own


def filter_pairs(texts: Sequence[str], pairs: Sequence[Sequence[QAPair]], config: QAPairConfig,
                 owners: Sequence[int] | None = None) -> list[list[QAPair]]:
    """Keeps the usable, distinct pairs of every text, at most qa_pairs.per_document of each.

    Args:
        texts: documents, or passages of them.
        pairs: pairs of each text.
        config: filter settings.
        owners: document index of every text; by default each text is a document.

    Raises:
        UserError: a document has no usable pair.
    """
    usable = [distinct([pair for pair in own if is_usable(text, pair[1], config)], config.per_document)
              for text, own in zip(texts, pairs, strict=True)]
    owners = range(len(texts)) if owners is None else owners
    covered = {owner for owner, own in zip(owners, usable, strict=True) if own}
    bare = [i for i, owner in enumerate(owners) if owner not in covered]
    if bare:
        raise UserError(f"no QA pairs for {len({owners[i] for i in bare})} of {len(set(owners))} documents, first for "
                        f"the one that starts with {texts[bare[0]][:60]!r}", "qa_pairs.source",
                        "give a file of pairs with --qa_pairs.source FILE, or use a model that writes questions in "
                        "this format")
    return usable


def is_usable(text: str, answer: str, config: QAPairConfig) -> bool:
    """Checks the length of an answer and, with qa_pairs.grounded, that the text contains all its words."""
    if sum(letter.isalnum() for letter in answer) < config.min_answer:
        return False
    text, answer = normalize_pair(text, answer)
    return not config.grounded or set(answer.split()) <= set(text.split())


def distinct(pairs: Sequence[QAPair], limit: int) -> list[QAPair]:
    """Keeps the first `limit` pairs with questions that differ by more than case and punctuation."""
    unique: dict[str, QAPair] = {}
    for question, answer in pairs:
        question, answer = question.strip(), answer.strip()
        if normalize(question) and answer:
            unique.setdefault(normalize(question), QAPair(question, answer))
    return list(unique.values())[:limit]


# ---- sources -----------------------------------------------------------------------------------------------


def model_source(generator: Generator, prompts: Prompts, config: QAPairConfig, answer_tokens: int, seed: int,
                 on_sample: Callable[[int], None] | None = None) -> PairSource:
    """Makes a source in which the model samples questions about the passage in its prompt, then answers them greedily.

    Args:
        generator: the model.
        prompts: builds the prompts.
        config: number, length and temperature of the questions.
        answer_tokens: maximum length of an answer.
        seed: seed of the questions.
        on_sample: called with the number of questions sampled so far.
    """
    question_sampling = SamplingConfig(temperature=config.temperature, max_tokens=config.max_tokens,
                                       n=config.per_document, stop=prompts.format.question_stops)
    answer_sampling = SamplingConfig(temperature=0.0, max_tokens=answer_tokens, stop=prompts.format.answer_stops)

    def source(texts: Sequence[str]) -> list[list[QAPair]]:
        count = itertools.count(1)
        report: Any = None if on_sample is None else lambda _, samples: [on_sample(next(count)) for _ in samples]
        samples = generator.generate([prompts.question_request(text) for text in texts], question_sampling, seed=seed,
                                     on_prompt=report)
        questions = [[pair.question for pair in distinct([QAPair(prompts.question_of(c.text), "?") for c in own],
                                                         len(own))] for own in samples]
        prompted = [[(question, prompts.question(question, text, examples=True)) for question in own]
                 for text, own in zip(texts, questions, strict=True)]
        # A question is dropped if the window does not hold it with its answer and the end of it.
        fitting = [[(question, ids) for question, ids in own
                    if len(ids) + prompts.answer_end_tokens + answer_tokens < prompts.window] for own in prompted]
        answer_prompts = [ids for own in fitting for _, ids in own]
        answers = iter(generator.generate(answer_prompts, answer_sampling, seed=seed) if answer_prompts else ())
        return [[QAPair(question, next(answers)[0].text) for question, _ in own] for own in fitting]

    return source


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

    def source(texts: Sequence[str]) -> list[list[QAPair]]:
        prompts = [Prompt([{"role": "user", "content": INSTRUCTION + text}]) for text in texts]
        count = itertools.count(1)
        report = lambda *_: None if on_document is None else on_document(next(count))
        replies = judge.complete(prompts, sampling, seed=seed, on_answer=report)
        return [[pair for reply in own for pair in parse_pairs(reply.text)] for own in replies]

    return source


def parse_pairs(reply: str) -> list[QAPair]:
    """Parses pairs `Question: ... Answer: ...`; an answer ends with its line or at the next question."""
    return [QAPair(match["question"], match["answer"]) for match in _PAIR.finditer(reply) if match["answer"]]


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
