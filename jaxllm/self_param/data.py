"""Rows of an injection run: documents with test questions of several kinds, locality probes, unrelated texts, QA pairs.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from jaxllm.errors import UserError
from jaxllm.evaluate.qa import accuracy, normalize
from jaxllm.finetune.targets import purpose_seed
from jaxllm.job import Job
from jaxllm.model import model_tokenizer
from jaxllm.models import load_spec
from jaxllm.self_param.config import Config
from jaxllm.self_param.phrases import in_turns
from jaxllm.self_param.prompts import Format
from jaxllm.text.rows import Rejected, RowSet, as_text, check_share, read_rows
from jaxllm.text.schema import NonEmpty
from jaxllm.text.tokenizer import Tokenizer

QA_ROW = {"context": NonEmpty[str], "question": NonEmpty[str], "answers": NonEmpty[list[NonEmpty[str]]]}
TEXT_ROW = {"text": NonEmpty[str]}
Refusal = Callable[[Mapping[str, Any]], str | None]


MORE_QUESTIONS = ("paraphrases", "portability")
"""Kinds of test questions from files of their own: fields of `Document`, and keys."""


@dataclasses.dataclass(frozen=True)
class Question:
    """A test question and its accepted answers."""

    question: str
    answers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Document:
    """A text to inject, with its test questions.

    Attributes:
        text: the whole document.
        questions: test questions; training never sees them.
        chunks: overlapping parts that are read one at a time where the whole exceeds the context budget; else empty.
        paraphrases: some of the test questions in other words.
        portability: questions that combine the document with what the model knows.
    """

    text: str
    questions: tuple[Question, ...] = ()
    chunks: tuple[str, ...] = ()
    paraphrases: tuple[Question, ...] = ()
    portability: tuple[Question, ...] = ()

    @property
    def all_questions(self) -> tuple[Question, ...]:
        """Test questions of all kinds."""
        return self.questions + self.paraphrases + self.portability

    @property
    def passages(self) -> tuple[str, ...]:
        """Texts that are read at once: the chunks, or the whole document."""
        return self.chunks or (self.text,)

    def nearest_passage(self, question: str, answer: str = "") -> int:
        """Finds the passage that a question is most likely about.

        Passages are compared by character trigrams, weighted by inverse passage frequency, which also works for
        languages without spaces. With an answer, passages that contain it take precedence. The first of equals wins.

        Returns:
            index into `passages`.
        """
        if len(self.passages) == 1:
            return 0
        count, trigrams = len(self.passages), self._passage_trigrams
        candidates = ([i for i, passage in enumerate(self.passages) if answer and accuracy(passage, answer)]
                      or [*range(count)])
        weights = {part: math.log(1 + count / own) for part in _trigrams(normalize(question))
                   if (own := sum(part in passage for passage in trigrams))}
        return max(candidates, key=lambda i: (sum(weights[part] for part in weights if part in trigrams[i]), -i))

    @functools.cached_property
    def _passage_trigrams(self) -> list[set[str]]:
        """Trigrams of every passage, computed once for all questions."""
        return [_trigrams(normalize(passage)) for passage in self.passages]


def _trigrams(text: str) -> set[str]:
    padded = f" {text} "
    return {padded[i:i + 3] for i in range(len(padded) - 2)}


def group_rows(rows: Sequence[Mapping[str, Any]]) -> list[Document]:
    """Groups rows by context into documents, in order of first appearance; repeated questions count once."""
    questions: dict[str, list[Question]] = {}
    for row in rows:
        questions.setdefault(row["context"], []).append(Question(row["question"], tuple(row["answers"])))
    return [Document(text, tuple(dict.fromkeys(own))) for text, own in questions.items()]


class RejectedRows:
    """Rejected rows of all files of a run, written to rejected.jsonl before any error is raised about them."""

    def __init__(self, job: Job, limit_bad: float):
        self._job, self._limit, self.rows = job, limit_bad, []
        job.write_rejected([])

    def add(self, rows: Sequence[Rejected], usable: int) -> None:
        """Adds the rejected rows of one file.

        Args:
            rows: the rejected rows.
            usable: number of the other rows of the file.

        Raises:
            UserError: the share of rejected rows exceeds data.limit_bad.
        """
        self.rows += rows
        self._job.write_rejected(self.rows)
        check_share(usable, list(rows), self._limit)


@dataclasses.dataclass(frozen=True)
class InjectionData:
    """Contents of the input files.

    Attributes:
        documents: documents to inject.
        contexts: texts of all documents of the data, injected or not.
        locality_probes: questions that are near the documents and not about them.
        unrelated: texts of unrelated.path in the order of the seed; None where the model generates them.
        examples: rows {context, question, answers} of worked examples for QA generation.
        pairs: rows of the file of QA pairs; None where pairs are generated.
        rejected: rejected rows of all files.
        repeated: rows of the data that repeat a question.
    """

    documents: list[Document]
    contexts: frozenset[str]
    locality_probes: list[str]
    unrelated: list[str] | None
    examples: list[dict[str, Any]]
    pairs: RowSet | None
    rejected: RejectedRows
    repeated: int


def input_files(config: Config) -> dict[str, tuple[str, dict[str, Any]]]:
    """Lists the files next to the data that the run reads: role -> path and schema of the rows."""
    files: dict[str, tuple[str | None, Any]] = {
        "unrelated texts": (config.unrelated.path, TEXT_ROW),
        "QA pairs": (config.qa_pairs.source if config.qa_pairs.from_file else None, QA_ROW),
        "locality probes": (config.locality.path, {"question": NonEmpty[str]}),
        **{field: (getattr(config, field), QA_ROW) for field in MORE_QUESTIONS},
        "worked examples": (config.qa_pairs.examples if config.qa_pairs.source == "model" else None, QA_ROW)}
    return {role: (path, schema) for role, (path, schema) in files.items() if path is not None}


def load_data(config: Config, job: Job) -> InjectionData:
    """Reads and checks the rows of all files and groups them into documents.

    Args:
        config: settings of the run.
        job: receives the rejected rows.

    Raises:
        UserError: a file cannot be read, or its share of rejected rows exceeds data.limit_bad.
    """
    refusal = _refusal(config)
    rows, everything = _read_documents(config, refusal, job.rejected_path)
    files = {role: read_rows(path, schema, limit_bad=1.0, refusal=refusal)
             for role, (path, schema) in input_files(config).items()}
    rejected = RejectedRows(job, config.data.limit_bad)
    rejected.add(rows.rejected, len(rows.rows))
    documents = everything
    for field in MORE_QUESTIONS:
        documents = _with_questions(config, field, files.get(field), documents, rejected)
    examples = _worked_examples(files.get("worked examples"), rejected)
    probes = _locality_probes(config, files.get("locality probes"), everything, rejected)
    unrelated = _unrelated_texts(config, files.get("unrelated texts"), rejected)
    return InjectionData(documents[:config.documents], frozenset(document.text for document in everything), probes,
                         unrelated, examples, files.get("QA pairs"), rejected,
                         len(rows.rows) - sum(len(document.questions) for document in everything))


def read_documents(config: Config) -> list[Document]:
    """Reads the documents to inject again, with the numbers that `load_data` gives them, with the test questions of
    the data alone.

    Raises:
        UserError: the data cannot be read, or its share of rejected rows exceeds data.limit_bad.
    """
    return _read_documents(config, _refusal(config), None)[1][:config.documents]


def _read_documents(config: Config, refusal: Refusal | None, rejected_path: Path | None
                    ) -> tuple[RowSet, list[Document]]:
    """Reads the rows of the data, and groups them into documents, those that are not injected included."""
    rows = read_rows(config.data.path, QA_ROW, None, config.data.limit_bad, rejected_path, config.data.limit, refusal)
    return rows, group_rows(rows.rows)


def _refusal(config: Config) -> Refusal | None:
    """Returns the function with the reason to reject a row; None where the model can read any text."""
    tokenizer = model_tokenizer(config.model, load_spec(config.model))
    return functools.partial(_without_row, tokenizer) if tokenizer.beyond_rows else None


def _without_row(tokenizer: Tokenizer, row: Mapping[str, Any]) -> str | None:
    """Reason to reject a row with a text that has a token without a row in the model's embedding."""
    try:
        for name in row.keys() & {*QA_ROW, *TEXT_ROW}:
            for text in row[name] if isinstance(row[name], list) else [row[name]]:
                tokenizer.encode(text)
    except UserError as error:
        return error.what
    return None


def _with_questions(config: Config, field: str, rows: RowSet | None, documents: list[Document],
                    rejected: RejectedRows) -> list[Document]:
    """Adds the questions of a file to the documents, in a field of `MORE_QUESTIONS`."""
    if rows is None:
        return documents
    texts = {document.text for document in documents}
    unknown = [Rejected(str(getattr(config, field)), line, unknown_context(config), as_text(row))
               for line, row in zip(rows.lines, rows.rows, strict=True) if row["context"] not in texts]
    rejected.add([*rows.rejected, *unknown], len(rows.rows) - len(unknown))
    questions = {document.text: document.questions for document in group_rows(rows.rows)}
    more = lambda document: cast(Any, {field: questions.get(document.text, ())})
    return [dataclasses.replace(document, **more(document)) for document in documents]


def unknown_context(config: Config) -> str:
    """Reason to reject a row about a context that is no document of the data."""
    limit = config.data.limit
    return "its context is no document of the data" + (f", of which data.limit keeps {limit} rows" if limit else "")


def _worked_examples(rows: RowSet | None, rejected: RejectedRows) -> list[dict[str, Any]]:
    """Rows of the worked examples for QA generation."""
    if rows is None:
        return []
    rejected.add(rows.rejected, len(rows.rows))
    return rows.rows


def format_examples(template: Format, rows: Sequence[Mapping[str, Any]]) -> str:
    """Formats rows `{context, question, answers}` as documents, each followed by its QA pairs."""
    return "".join(template.context_text(document.text) + "".join(
        template.pair_text(pair.question, pair.answers[0]) for pair in document.questions)
        for document in group_rows(rows))


def _locality_probes(config: Config, rows: RowSet | None, everything: Sequence[Document], rejected: RejectedRows
                     ) -> list[str]:
    """Questions of the file; else of the documents that are not injected, the first of each before the second of any;
    where all are and setting is single, of all. A test question of a document of the same model, word for word, is
    none."""
    if rows is None:
        others = everything[config.documents:] if config.documents is not None else ()
        if not others and config.setting == "single":
            others = everything
        questions = [pair.question for turn in in_turns(document.questions for document in others) for pair in turn]
    else:
        questions = [row["question"] for row in rows.rows]
        rejected.add(rows.rejected, len(questions))
    injected = everything[:config.documents] if config.setting != "single" else ()  # single: see Evaluator.closed_book
    tested = {pair.question for document in injected for pair in document.questions}
    probes = [question for question in dict.fromkeys(questions) if question not in tested][:config.locality.questions]
    if config.locality.questions and not probes:
        print("jaxllm: warning: locality is not measured: no document is left for probes; lower documents, or "
              "give questions in locality.path", file=sys.stderr)
    return probes


def _unrelated_texts(config: Config, rows: RowSet | None, rejected: RejectedRows) -> list[str] | None:
    if rows is None:
        return None
    rejected.add(rows.rejected, len(rows.rows))
    return shuffle_texts([row["text"] for row in rows.rows], config.seed)


def shuffle_texts(texts: Sequence[str], seed: int) -> list[str]:
    """Texts in the order of a run's seed."""
    return [texts[i] for i in np.random.default_rng(purpose_seed(seed, "unrelated order")).permutation(len(texts))]
