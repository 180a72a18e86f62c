"""What fits the model's context window together, and the windows of documents that do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from jaxllm.errors import UserError
from jaxllm.model import Model
from jaxllm.self_param.config import Config
from jaxllm.self_param.documents import Document
from jaxllm.self_param.windows import cut

# A window of fewer tokens would hold no sentence.
LEAST = 8


def windowed(config: Config, model: Model, documents: Sequence[Document], examples: str = "",
             near: Sequence[str] = ()) -> list[Document]:
    """Documents with windows where the whole does not fit the model's context window with what is read behind it.

    Args:
        examples: what the model reads before a document when it asks itself.
        near: questions that are asked too, with any document before them where retrieval is compared.

    Raises:
        UserError: what is read behind a document leaves no room for it, naming the document and the key; or a near
            question is too long.
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
    for question in near:
        if (needed := len(model.prefix) + length(config.format.ask(question)) + config.sampling.max_tokens) > window:
            raise UserError(f"the near question that begins {question[:60]!r} needs {needed} tokens with its answer; "
                            f"the context window is {window}", config.locality.path or config.data.path,
                            "leave it out, or set locality.questions to 0")
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
