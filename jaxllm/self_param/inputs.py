"""What an injection reads beside its model: the documents, and the files that go with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.finetune.targets import purpose_seed
from jaxllm.generate import generate
from jaxllm.job import Job
from jaxllm.model import Model
from jaxllm.self_param.config import Config
from jaxllm.self_param.documents import Document, group, sort_out
from jaxllm.self_param.questions import QuestionSource, file_source
from jaxllm.text.rows import Rejected, RowSet, as_text, check_share, read_rows

ROW = {"context": str, "question": str, "answers": list[str]}


class Useless:
    """Rows of all files that cannot be used, listed in rejected.jsonl before anything is said about them."""

    def __init__(self, job: Job, limit_bad: float):
        self._job, self._limit, self.rows = job, limit_bad, []
        job.write_rejected([])

    def add(self, rows: Sequence[Rejected], good: int) -> None:
        """Adds those of one file, which has `good` others.

        Raises:
            UserError: they are too many.
        """
        self.rows += rows
        self._job.write_rejected(self.rows)
        check_share(good, list(rows), self._limit)


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the files hold.

    Attributes:
        documents: those to be written.
        contexts: of all documents of the data.
        near: questions that are near the documents and not about them.
        unrelated: other texts, in an order of the seed; None where the model is to write them.
        examples: what the model reads before a document when it asks itself.
        pairs: rows to learn from; None where they are yet to be made.
        useless: rows of all files that cannot be used.
        repeated: questions that the data holds twice.
    """

    documents: list[Document]
    contexts: frozenset[str]
    near: list[str]
    unrelated: list[str] | None
    examples: str
    pairs: RowSet | None
    useless: Useless
    repeated: int


def read_others(config: Config) -> dict[str, RowSet]:
    """Rows of the files beside the data, by what they are, as far as the job has them; see `Useless` for the others."""
    files = {"unrelated texts": (config.unrelated.path, {"text": str}),
             "questions": (None if config.questions.source in ("model", "judge") else config.questions.source, ROW),
             "near questions": (config.locality.path, {"question": str}),
             "paraphrases": (config.paraphrases, ROW),
             "worked examples": (config.questions.examples if config.questions.source == "model" else None, ROW)}
    return {name: read_rows(path, fields, limit_bad=1.0)
            for name, (path, fields) in files.items() if path is not None}


def read_inputs(config: Config, job: Job, found: RowSet, others: dict[str, RowSet]) -> Inputs:
    """Sorts out what can be used.

    Args:
        job: takes the rows that cannot.
        found: rows of the data.
        others: from `read_others`.

    Raises:
        UserError: too many rows of a file are of no use.
    """
    useless = Useless(job, config.data.limit_bad)
    good, bad = sort_out(found, config.data.path)
    useless.add(bad, len(good))
    everything = group(good)
    documents = _with_other_words(config, others.get("paraphrases"), everything, useless)
    examples = _worked_examples(config, others.get("worked examples"), useless)
    near = _near_questions(config, others.get("near questions"), everything, useless)
    unrelated = None
    if (other := others.get("unrelated texts")) is not None:
        texts = [row["text"] for row in other.rows if row["text"].strip()]
        useless.add([*other.rejected, *_blank(config.unrelated.path, other, "text")], len(texts))
        order = np.random.default_rng(purpose_seed(config.seed, "unrelated order")).permutation(len(texts))
        unrelated = [texts[i] for i in order]
    return Inputs(documents[:config.documents], frozenset(one.text for one in everything), near, unrelated, examples,
                  others.get("questions"), useless, len(good) - sum(len(one.pairs) for one in everything))


def _with_other_words(config: Config, found: RowSet | None, documents: list[Document], useless: Useless
                      ) -> list[Document]:
    """The documents with other wordings of their questions, if there is a file of such."""
    if found is None:
        return documents
    good, bad = sort_out(found, config.paraphrases)
    texts = {document.text for document in documents}
    lines = {id(row): line for row, line in zip(found.rows, found.lines, strict=True)}
    strange = [Rejected(config.paraphrases, lines[id(row)], _strange(config), as_text(row))
               for row in good if row["context"] not in texts]
    useless.add([*bad, *strange], len(good) - len(strange))
    pairs = {one.text: one.pairs for one in group(good)}
    return [dataclasses.replace(document, reworded=pairs.get(document.text, ())) for document in documents]


def _strange(config: Config) -> str:
    """Why a row about a text cannot be used that no row of the data has."""
    limit = config.data.limit
    return "its context is no document of the data" + (f", of which data.limit leaves {limit} rows" if limit else "")


def _worked_examples(config: Config, found: RowSet | None, useless: Useless) -> str:
    """What the model reads before a document when it asks itself, if anything."""
    if found is None:
        return ""
    good, bad = sort_out(found, config.questions.examples)
    useless.add(bad, len(good))
    tell = lambda pair: config.format.tell(pair.question, pair.answers[0])
    return "".join(config.format.read(one.text) + "".join(map(tell, one.pairs)) for one in group(good))


def _near_questions(config: Config, found: RowSet | None, everything: Sequence[Document], useless: Useless
                    ) -> list[str]:
    """Questions near the documents and not about them: of the file, or of the documents that are not written; where
    all are, each into its own copy of the model, of all."""
    if found is None:
        rest = everything[config.documents:] if config.documents is not None else ()
        if not rest and config.setting == "single":
            rest = everything
        asked = [pair.question for document in rest for pair in document.pairs]
    else:
        asked = [row["question"] for row in found.rows if row["question"].strip()]
        useless.add([*found.rejected, *_blank(config.locality.path, found, "question")], len(asked))
    return list(dict.fromkeys(asked))[:config.locality.questions]


def _blank(path: str, found: RowSet, field: str) -> list[Rejected]:
    """Rows that hold nothing."""
    return [Rejected(path, line, f"{field} is empty", as_text(row))
            for line, row in zip(found.lines, found.rows, strict=True) if not row[field].strip()]


def given_pairs(config: Config, inputs: Inputs, fits: Callable[[str, str, str], bool]) -> QuestionSource | None:
    """The pairs of a file, if there is one.

    Args:
        fits: whether a context, a question and an answer leave room in the context window; asked of the documents that
            are written.

    Raises:
        UserError: too many of its rows are of no use.
    """
    if (found := inputs.pairs) is None:
        return None
    written = {document.text for document in inputs.documents}
    source, bad = file_source(found, config.questions.source, inputs.contexts,
                              lambda context, *pair: context not in written or fits(context, *pair), _strange(config))
    inputs.useless.add(bad, len(found.rows) + len(found.rejected) - len(bad))
    return source


def unrelated_ids(config: Config, model: Model, texts: Sequence[str] | None) -> tuple[list[list[int]], list[list[int]]]:
    """Ids of the texts to train on, and of those to measure drift on; no text is both."""
    train, drift, cut = config.unrelated.train, config.unrelated.drift, config.unrelated.tokens
    if texts is None:
        free = SamplingConfig(temperature=1.0, max_tokens=cut, n=train + drift)
        made = generate(model, [list(model.start) or [0]], free, seed=purpose_seed(config.seed, "unrelated"),
                        batch_size=64, dtype=config.device.compute_dtype)[0]
        ids = [completion.token_ids for completion in made]
    else:
        ids = (model.tokenizer.encode(text)[:cut] for text in texts)
    distinct = list({tuple(one): list(one) for one in ids if len(one) > 1}.values())
    if len(distinct) < drift + bool(config.mixture.unrelated):
        raise UserError(f"only {len(distinct)} different texts, {drift} of them for measuring drift",
                        config.unrelated.path or "the model's own texts", "give more texts, or lower unrelated.drift")
    return distinct[drift:][:train], distinct[:drift]
