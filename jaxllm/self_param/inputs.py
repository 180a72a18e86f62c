"""What an injection reads beside its documents: pairs to learn from, unrelated text, and whether all of it fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.files import read_jsonl, write_jsonl
from jaxllm.generate.engine import generate
from jaxllm.job import Job
from jaxllm.judge import open_judge
from jaxllm.progress import bar
from jaxllm.self_param.asking import judge_source
from jaxllm.self_param.config import Config
from jaxllm.self_param.documents import Document, group, sort_out
from jaxllm.self_param.questions import QuestionAnswer, QuestionSource, collect, model_source
from jaxllm.self_param.streams import purpose_seed
from jaxllm.self_param.windows import cut
from jaxllm.text.model import Model
from jaxllm.text.rows import Rejected, RowSet, as_text, check_share, read_rows

ROW = {"context": str, "question": str, "answers": list[str]}


def read_others(config: Config) -> dict[str, RowSet]:
    """Rows of the files beside the data, by what they are, as far as the job has them."""
    files = {"unrelated texts": (config.unrelated.path, {"text": str}),
             "questions": (None if config.questions.source in ("model", "judge") else config.questions.source, ROW),
             "near questions": (None if config.setting == "single" else config.locality.path, {"question": str}),
             "paraphrases": (config.paraphrases, ROW),
             "worked examples": (config.questions.examples if config.questions.source == "model" else None, ROW)}
    return {name: read_rows(path, fields, limit_bad=config.data.limit_bad)
            for name, (path, fields) in files.items() if path is not None}


def with_other_words(config: Config, others: dict[str, RowSet], documents: Sequence[Document],
                     rejected: Sequence[Rejected]) -> tuple[list[Document], list[Rejected]]:
    """The documents with other wordings of their questions, if there is a file of such; and all rejected rows."""
    if "paraphrases" not in others:
        return list(documents), list(rejected)
    found, texts = others["paraphrases"], {document.text for document in documents}
    good, bad = sort_out(found, config.paraphrases)
    lines = {id(row): line for row, line in zip(found.rows, found.lines, strict=True)}
    strange = [Rejected(config.paraphrases, lines[id(row)], "its context is no document of the data", as_text(row))
               for row in good if row["context"] not in texts]
    check_share(len(good) - len(strange), [*found.rejected, *bad, *strange], config.data.limit_bad)
    pairs = {one.text: one.pairs for one in group(good)}
    return ([dataclasses.replace(document, reworded=pairs.get(document.text, ())) for document in documents],
            [*rejected, *bad, *strange])


def worked_examples(config: Config, others: dict[str, RowSet], rejected: Sequence[Rejected]
                    ) -> tuple[str, list[Rejected]]:
    """What the model reads before a document when it asks itself, if anything; and all rejected rows."""
    if "worked examples" not in others:
        return "", list(rejected)
    good, bad = sort_out(others["worked examples"], config.questions.examples)
    check_share(len(good), bad, config.data.limit_bad)
    tell = lambda pair: config.format.tell(pair.question, pair.answers[0])
    return ("".join(config.format.read(one.text) + "".join(map(tell, one.pairs)) for one in group(good)),
            [*rejected, *bad])


# A window of fewer tokens would hold no sentence.
LEAST = 8


def windowed(config: Config, model: Model, documents: Sequence[Document], examples: str = "",
             near: Sequence[str] = ()) -> list[Document]:
    """Documents with windows where the whole does not fit the model's context window with what is read behind it.

    Args:
        examples: what the model reads before a document when it asks itself.
        near: questions that retrieval may put behind any document.

    Raises:
        UserError: what is read behind a document leaves no room for it; naming the document and the key.
    """
    length, window = lambda text: len(model.tokenizer.encode(text)), model.spec.max_positions
    read = lambda text: length(config.format.read(text))
    if len(model.prefix) + config.unrelated.tokens > window:
        raise UserError(f"must leave room in the context window of {window}, got {config.unrelated.tokens}",
                        "unrelated.tokens")
    asks = [max(length(config.format.ask(pair.question)) for pair in (*document.pairs, *document.reworded))
            for document in documents]
    anything = max([*asks, *(length(config.format.ask(question)) for question in near)])
    found = []
    for number, document in enumerate(documents, 1):
        what, most = max(_behind(config, length, document, asks[number - 1], anything, examples).items(),
                         key=lambda need: need[1])
        room = window - len(model.prefix) - most
        limit = room if config.windows.tokens is None else min(room, config.windows.tokens)
        if read(document.text) <= limit:
            found.append(document)
            continue
        if room - read("") < LEAST:
            raise UserError(f"document {number} has {read(document.text)} tokens, and {what} leaves room for {room} in "
                            f"the context window of {window}", config.data.path, "use a model with a longer window")
        if limit - read("") < LEAST:
            raise UserError(f"leaves {limit - read('')} tokens of document {number} to a window, {LEAST} are the least",
                            "windows.tokens", f"give {LEAST + read('')} or more, or null")
        overlap = read("") + int((limit - read("")) * config.windows.overlap)
        found.append(dataclasses.replace(document, windows=tuple(cut(document.text, limit, overlap, read))))
    return found


def _behind(config: Config, length: Callable[[str], int], document: Document, asked: int, anything: int,
            examples: str) -> dict[str, int]:
    """Tokens that must find room beside a document, by what they are."""
    wording, end = config.format, int(config.questions.end)
    needs = {"its longest question and sampling.max_tokens of answer": asked + config.sampling.max_tokens,
             "its longest question and reference answer":
                 max(length(wording.tell(pair.question, pair.answers[0])) for pair in document.pairs) + end}
    if "retrieval" in config.compare:
        needs["the longest question of all and sampling.max_tokens, as retrieval may have it"] = (
            anything + config.sampling.max_tokens)
    if config.questions.source == "model" and config.mixture.qa:
        needs["questions.max_tokens of a question and sampling.max_tokens of its answer, with questions.examples"] = (
            length(examples) + length(wording.tell("", "")) + config.questions.max_tokens
            + config.sampling.max_tokens + end)
    if config.mixture.unrelated and config.unrelated.with_document:
        needs["unrelated.tokens of other text"] = config.unrelated.tokens
    return needs


def fits(config: Config, model: Model, documents: Sequence[Document]) -> Callable[[str, str, str], bool]:
    """Whether a context, or every window of it, and a question with its answer can be read together."""
    length = lambda text: len(model.tokenizer.encode(text))
    passages = {document.text: document.passages for document in documents}
    end = int(config.questions.end)
    return lambda context, question, answer: all(model.spec.max_positions >= len(model.prefix) + length(
        config.format.read(passage)) + length(config.format.tell(question, answer)) + end
        for passage in passages.get(context, [context]))


def training_pairs(config: Config, job: Job, model: Model, documents: Sequence[Document],
                   source: QuestionSource | None, examples: str = "") -> list[list[list[QuestionAnswer]]]:
    """Pairs to train on, by document and passage; kept in pairs.jsonl, so that a resumed job learns from the same."""
    if not config.mixture.qa:
        return [[[] for _ in document.passages] for document in documents]
    kept = read_jsonl(job.directory / "pairs.jsonl") if job.resumed else []
    owners = [number for number, document in enumerate(documents) for _ in document.passages]
    if kept:
        pairs = [[(pair["question"], pair["answer"]) for pair in row["pairs"]] for row in kept]
    else:
        pairs = _made_pairs(config, model, documents, owners, source, examples)
        write_jsonl(job.directory / "pairs.jsonl",
                    ({"document": number, "window": i - owners.index(number),
                      "pairs": [{"question": q, "answer": a} for q, a in own]}
                     for i, (number, own) in enumerate(zip(owners, pairs, strict=True))))
    by_document: list[list[list[QuestionAnswer]]] = [[] for _ in documents]
    for number, own in zip(owners, pairs, strict=True):
        by_document[number].append(own)
    return by_document


def _made_pairs(config: Config, model: Model, documents: Sequence[Document], owners: Sequence[int],
                source: QuestionSource | None, examples: str) -> list[list[QuestionAnswer]]:
    """Pairs of every passage, from whoever is to make them."""
    texts, limit = [text for document in documents for text in document.passages], config.questions.per_document
    if config.questions.source == "model":
        with bar(len(texts) * limit, "questions", "samples") as advance:
            source = model_source(model, config.format, config.questions, config.sampling.max_tokens,
                                  purpose_seed(config.seed, "questions"), batch_size=64,
                                  dtype=config.device.compute_dtype, examples=examples, on_sample=advance)
            return collect(source, texts, config.questions, owners)
    if config.questions.source == "judge":
        with bar(len(texts), "questions", "documents") as advance:
            judge = open_judge(config.questions.judge, config.device)
            written = judge_source(judge, config.questions, purpose_seed(config.seed, "questions"), advance)
            fit = fits(config, model, [])
            return collect(lambda texts: [[pair for pair in own if fit(text, *pair)]
                                          for text, own in zip(texts, written(texts), strict=True)],
                           texts, config.questions, owners)

    def dealt(_: Sequence[str]) -> list[list[QuestionAnswer]]:
        """A pair of a document goes to the passage that is nearest to its question, of those with the answer."""
        found: list[list[QuestionAnswer]] = []
        for document, pairs in zip(documents, source([document.text for document in documents]), strict=True):
            own: list[list[QuestionAnswer]] = [[] for _ in document.passages]
            for pair in pairs:
                own[document.nearest(*pair)].append(pair)
            found += own
        return found

    return collect(dealt, texts, config.questions, owners)


def blank_questions(config: Config, others: dict[str, RowSet]) -> list[Rejected]:
    """Rows of the near questions that ask nothing."""
    found = others.get("near questions")
    return [] if found is None else [
        Rejected(config.locality.path, line, "question is empty", as_text(row))
        for line, row in zip(found.lines, found.rows, strict=True) if not row["question"].strip()]


def near_questions(config: Config, rest: Sequence[Document], others: dict[str, RowSet]) -> list[str]:
    """Questions near the documents and not about them: of the file, or of the documents that are not written."""
    if "near questions" in others:
        found = [row["question"] for row in others["near questions"].rows]
    else:
        found = [pair.question for document in rest for pair in document.pairs]
    return list(dict.fromkeys(question for question in found if question.strip()))[:config.locality.questions]


def unrelated_texts(config: Config, others: dict[str, RowSet]) -> list[str] | None:
    """Texts of the file, in an order of the seed; None where the model is to write them."""
    if "unrelated texts" not in others:
        return None
    rows = others["unrelated texts"].rows
    order = np.random.default_rng(purpose_seed(config.seed, "unrelated order")).permutation(len(rows))
    return [rows[i]["text"] for i in order]


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
