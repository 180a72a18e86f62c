"""Documents that exceed the context budget are cut into overlapping chunks."""

from __future__ import annotations

import bisect
import dataclasses
import heapq
from collections.abc import Callable, Sequence

from jaxllm.errors import UserError
from jaxllm.self_param.config import Config, InjectConfig
from jaxllm.self_param.data import Document
from jaxllm.self_param.phrases import answer_phrases
from jaxllm.self_param.prompts import Prompts

WHITESPACE = (" ", "\n", "\t")
# A chunk of fewer tokens would hold no sentence.
MIN_CHUNK_TOKENS = 8
# The phrases with the most letters, of which the tokens are counted.
LONG_PHRASES = 8


def chunk_documents(config: InjectConfig, prompts: Prompts, documents: Sequence[Document],
                    retrieval_questions: Sequence[str] = (), source: str = "documents") -> list[Document]:
    """Cuts every document that does not fit the context window together with its longest prompt.

    Args:
        config: settings of the run.
        prompts: builds the sequences that are measured.
        documents: documents to cut.
        retrieval_questions: questions that may follow any document, where retrieval is compared.
        source: origin of the documents, for errors.

    Raises:
        UserError: the prompts of a document leave no budget for it, naming the document and the key.
    """
    if len(prompts.model.prefix) + config.unrelated.tokens > prompts.window:
        raise UserError(f"must fit the context window of {prompts.window}, got {config.unrelated.tokens}",
                        "unrelated.tokens")
    retrieval = max((len(prompts.question(question)) for question in retrieval_questions), default=None)
    return [_chunk(config, prompts, document, number, retrieval, source)
            for number, document in enumerate(documents, 1)]


def check_probes(config: Config, prompts: Prompts, probes: Sequence[str]) -> None:
    """Raises UserError if a locality probe does not fit the context window with its answer."""
    for question in probes:
        if (needed := len(prompts.question(question)) + config.sampling.max_tokens) > prompts.window:
            raise UserError(f"the locality probe that starts with {question[:60]!r} needs {needed} tokens with its "
                            f"answer; the context window is {prompts.window}",
                            config.locality.path or config.data.path, "remove it, or set locality.questions to 0")


def _chunk(config: InjectConfig, prompts: Prompts, document: Document, number: int, retrieval: int | None,
           source: str) -> Document:
    tokens = lambda text: len(prompts.document(text))
    empty = tokens("")
    name, used = max(_sequences(config, prompts, document, retrieval).items(), key=lambda entry: entry[1])
    budget = prompts.window - used - prompts.border_tokens
    limit = budget if config.chunking.tokens is None else min(budget, config.chunking.tokens)
    if tokens(document.text) <= limit:
        return document
    if budget - empty < MIN_CHUNK_TOKENS:
        raise UserError(f"document {number} has {tokens(document.text)} tokens; {name} leaves {budget} of the context "
                        f"window of {prompts.window}", source, "use a model with a longer context window")
    if limit - empty < MIN_CHUNK_TOKENS:
        raise UserError(f"leaves {limit - empty} tokens of document {number} for a chunk, at least {MIN_CHUNK_TOKENS} "
                        "are needed", "chunking.tokens", f"use {MIN_CHUNK_TOKENS + empty} or more, or null")
    overlap = empty + int((limit - empty) * config.chunking.overlap)
    return dataclasses.replace(document, chunks=tuple(split_text(document.text, limit, overlap, tokens)))


def _sequences(config: InjectConfig, prompts: Prompts, document: Document, retrieval: int | None) -> dict[str, int]:
    """Tokens, without the document's own, of the longest sequence of every use of a document, by its name."""
    answer, prefix = config.sampling.max_tokens, len(prompts.prefix)
    longest = lambda lengths: max(lengths, default=prefix)
    used = {"its longest question with sampling.max_tokens of answer":
                longest(len(prompts.question(pair.question)) + answer
                        for pair in document.all_questions),
            "its longest question with the reference answer":
                longest(prefix + len(prompts.pair(pair.question, pair.answers[0])[0]) for pair in document.questions)}
    if retrieval is not None:
        used["the longest question of all with sampling.max_tokens of answer (retrieval)"] = retrieval + answer
    if config.qa_pairs.source == "model" and config.mixture.qa:
        used["a generated question of qa_pairs.max_tokens with sampling.max_tokens of answer and qa_pairs.examples"] = (
            len(prompts.question("", "", examples=True)) - len(prompts.document("")) + prompts.answer_end_tokens
            + config.qa_pairs.max_tokens + answer)
        phrases = [None] if not config.qa_pairs.answer_first else heapq.nlargest(
            LONG_PHRASES, answer_phrases(document.text), key=len)
        used["a request for a question with qa_pairs.max_tokens of question and qa_pairs.examples"] = (
            longest(len(prompts.question_request("", phrase)) for phrase in phrases) - len(prompts.document(""))
            + config.qa_pairs.max_tokens)
    if config.mixture.unrelated and config.unrelated.with_document:
        used["unrelated.tokens of unrelated text"] = prefix + config.unrelated.tokens
    return used


def split_text(text: str, limit: int, overlap: int, tokens: Callable[[str], int]) -> list[str]:
    """Splits a text into overlapping chunks that together cover it.

    Chunks start and end between words where there is whitespace in the second half of the longest possible chunk.

    Args:
        text: text to split.
        limit: tokens of a chunk, at most.
        overlap: tokens, at most, that a chunk shares with the one before; below `limit`.
        tokens: counts the tokens of a text.
    """
    fits = lambda start, end: tokens(text[start:end]) <= limit
    chunks, start, last = [], 0, 0
    while True:
        size = limit
        while start + size < len(text) and fits(start, start + size):
            size *= 2
        if start + size >= len(text) and fits(start, len(text)):
            return [*chunks, text[start:]]
        # Longer texts have more tokens, except for one or two where a word is split.
        size = max(1, bisect.bisect_right(range(1, size), limit, key=lambda n: tokens(text[start:start + n])))
        while size > 1 and not fits(start, start + size):
            size -= 1
        end = 1 + max(text.rfind(space, max(start + size // 2, last), start + size)
                      for space in WHITESPACE) or start + size
        back = bisect.bisect_right(range(1, end - start), overlap, key=lambda n: tokens(text[end - n:end]))
        chunks.append(text[start:end])
        positions = [at for space in WHITESPACE if (at := text.find(space, end - back, end - 1)) >= 0]
        start, last = min(positions) + 1 if positions else end - back, end
