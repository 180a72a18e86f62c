"""Token ids of normalized rows: prompts and completions with a loss on the completion, and whole texts for a head.

The completion of a text ends with the tokenizer's end token, exactly once; that of messages with the token that ends a
turn in the chat template. Tokens that the template writes after it are left out. The begin token is there as often as
in the model's own rendering: once, or never.

Prompt and answer are tokenized together and separated between tokens: after the generation prompt if every answer
continues it, which may supply a <think>; else before the first token in which an answer differs from the prompt. In a
whole conversation the texts of the assistant carry loss, each from the end of its generation prompt to its end token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from jaxllm.errors import UserError
from jaxllm.progress import notice
from jaxllm.text.examples import (
    Example,
    encode_example,
    generation_ids,
    prompt_ids,
    reward_text_ids,
    without_end_token,
)
from jaxllm.text.forms import PairRow, SftRow, Text, UnpairedRow
from jaxllm.text.tokenizer import Tokenizer

T = TypeVar("T")

# Tokens of a text in training, unless a config has another number.
MAX_LENGTH = 1024


class TooLong(UserError):
    """A row that is dropped for its length.

    Args:
        what: the reason.
        tokens: length of the longest text.
    """

    def __init__(self, what: str, tokens: int):
        super().__init__(what)
        self.tokens = tokens


@dataclass(frozen=True)
class Encoded:
    """The encoded texts of a row: one, or the chosen and the rejected one of a pair.

    Attributes:
        texts: ids with the mask of tokens that carry loss; at least one does.
        prompt_length: tokens of the prompt, the same ones in all texts; before the first token with a loss.
        lengths: tokens of every text before it was cut.
        prompt_is_prefix: the texts start with the tokens that a completion of the prompt is generated from: no token
            spans the border, and every answer continues the generation prompt.
    """

    texts: tuple[Example, ...]
    prompt_length: int
    lengths: tuple[int, ...]
    prompt_is_prefix: bool = True

    @property
    def cut(self) -> int:
        """Tokens that were cut off, of all texts."""
        return sum(self.lengths) - sum(len(text.ids) for text in self.texts)


def encode_pair(tokenizer: Tokenizer, row: PairRow, *, start: Sequence[int] = (), max_length: int | None = None,
                max_prompt_length: int | None = None) -> Encoded:
    """Encodes a pair: the chosen and the rejected text, with one prompt that both have in common token by token.

    Args:
        tokenizer: the tokenizer.
        row: the pair.
        start: ids in front of an empty prompt; see `Model.start`.
        max_length: tokens of a text; each completion is cut to fit and keeps its start.
        max_prompt_length: tokens of the prompt, or before the first ones of a conversation that carry loss; it keeps
            its end and a begin token.

    Raises:
        TooLong: the prompt alone has `max_length` tokens.
        UserError: as `encode_example`, or the answers have the same tokens.
    """
    texts = [_with_loss(tokenizer, row.prompt, answer, start) for answer in (row.chosen, row.rejected)]
    length = _prompt_length(texts)
    encoded = replace(_fit(tokenizer, texts, length, max_length, max_prompt_length),
                      prompt_is_prefix=_is_prefix(tokenizer, row.prompt, texts[0].ids[:length], start))
    if np.array_equal(encoded.texts[0].ids, encoded.texts[1].ids):
        raise (TooLong("chosen equals rejected after both are cut to fit", max(encoded.lengths)) if encoded.cut else
               UserError("chosen and rejected have the same tokens"))
    return encoded


def encode_completion(tokenizer: Tokenizer, row: SftRow | UnpairedRow, *, start: Sequence[int] = (),
                      max_length: int | None = None, max_prompt_length: int | None = None,
                      turns: Literal["all", "last"] = "all") -> Encoded:
    """Encodes a prompt with its completion, a conversation, or a text, in which all tokens but the first carry loss.

    Args:
        tokenizer, start, max_length, max_prompt_length: see `encode_pair`.
        row: the row.
        turns: assistant turns of a whole conversation that carry loss: all, or the last one.

    Raises:
        TooLong: nothing that carries loss fits into `max_length`.
        UserError: as `encode_example`.
    """
    if row.prompt is not None:
        text = _with_loss(tokenizer, row.prompt, row.completion, start)
        return replace(_fit(tokenizer, [text], text.prompt_length, max_length, max_prompt_length),
                       prompt_is_prefix=_is_prefix(tokenizer, row.prompt, text.ids[:text.prompt_length], start))
    if isinstance(row.completion, list):
        text = _without_rest(encode_example(tokenizer, messages=row.completion, turns=turns))
    else:
        whole = without_end_token(tokenizer, row.completion)
        ids = np.array([*prompt_ids(tokenizer, whole), _end_id(tokenizer)], np.int32)
        text = Example(ids, np.arange(len(ids)) > 0)
    return _fit(tokenizer, [text], text.prompt_length, max_length, max_prompt_length)


def encode_text(tokenizer: Tokenizer, text: Text, pair: str | None = None, *, max_length: int | None = None
                ) -> tuple[np.ndarray, np.ndarray]:
    """Encodes a whole text, a pair of texts or a conversation for a classifier or a reward model, as `jaxllm score`.

    A text has the special tokens that the tokenizer adds around it, a conversation those of the chat template.

    Args:
        tokenizer: the tokenizer.
        text: text or messages.
        pair: second text.
        max_length: the most tokens.

    Returns:
        ids and token types, int32 `[N]`.

    Raises:
        TooLong: the text has more than `max_length` tokens.
        UserError: the text has no token, or the template refuses the messages.
    """
    ids, types = tokenizer.whole(text, pair) if isinstance(text, str) else (tokenizer.chat(text, False), None)
    if not ids:
        raise UserError("the text is empty, and the tokenizer adds no token to it")
    _check_length(len(ids), max_length)
    return np.array(ids, np.int32), np.array([0] * len(ids) if types is None else types, np.int32)


def encode_reward_pair(tokenizer: Tokenizer, row: PairRow, *, max_length: int | None = None
                       ) -> tuple[np.ndarray, np.ndarray]:
    """Encodes the chosen and the rejected text of a pair for a reward model, each by `reward_text_ids`.

    Args:
        tokenizer: the tokenizer.
        row: the pair.
        max_length: the most tokens of a text.

    Raises:
        TooLong: a text has more than `max_length` tokens.
        UserError: the texts have the same tokens, or the template refuses the messages.
    """
    chosen, rejected = (reward_text_ids(tokenizer, row.prompt, answer) for answer in (row.chosen, row.rejected))
    _check_length(max(len(chosen), len(rejected)), max_length)
    if chosen == rejected:
        raise UserError("chosen and rejected have the same tokens")
    return np.array(chosen, np.int32), np.array(rejected, np.int32)


def _check_length(tokens: int, max_length: int | None) -> None:
    if max_length is not None and tokens > max_length:
        raise TooLong(f"the text has {tokens} tokens, more than {max_length}", tokens)


@dataclass(frozen=True)
class EncodedRows(Generic[T]):
    """Encoded rows.

    Attributes:
        encoded: encodings of the rows that have one.
        indices: index of the row of each of `encoded`.
        too_long: by index, why rows are dropped for their length, with their tokens.
        refused: reasons by index of rows that cannot be encoded.
    """

    encoded: list[T]
    indices: list[int]
    too_long: dict[int, TooLong]
    refused: dict[int, str]


def encode_all(rows: Sequence[Any], encode: Callable[[Any], T]) -> EncodedRows[T]:
    """Encodes rows; one that is too long or cannot be encoded is counted, and ends nothing."""
    done = EncodedRows[T]([], [], {}, {})
    for i, row in enumerate(rows):
        try:
            encoded = encode(row)
        except TooLong as error:
            done.too_long[i] = error
        except UserError as error:
            done.refused[i] = error.what
        else:
            done.encoded.append(encoded)
            done.indices.append(i)
    return done


def _with_loss(tokenizer: Tokenizer, prompt: Text, answer: Text, start: Sequence[int]) -> Example:
    if isinstance(prompt, str):
        answer = without_end_token(tokenizer, str(answer))
        return encode_example(tokenizer, prompt=prompt, completion=answer, end=True, start=start)
    example = _without_rest(encode_example(tokenizer, messages=prompt, completion=answer))
    if int(example.ids[-1]) not in tokenizer.stop_ids:
        notice("the chat template ends the assistant's turn with no end token, so a model does not learn to stop")
    return example


def _without_rest(example: Example) -> Example:
    """Leaves out the tokens after the last one that carries loss."""
    stop = 1 + int(np.flatnonzero(example.loss_mask)[-1])
    return Example(example.ids[:stop], example.loss_mask[:stop])


def _end_id(tokenizer: Tokenizer) -> int:
    if tokenizer.eos_id is None:
        raise UserError("the tokenizer has no end token", tokenizer.source)
    return tokenizer.eos_id


def _is_prefix(tokenizer: Tokenizer, prompt: Text, ids: np.ndarray, start: Sequence[int]) -> bool:
    alone = generation_ids(tokenizer, prompt, start)
    return not alone or alone == ids.tolist()


def _prompt_length(texts: Sequence[Example]) -> int:
    """Counts the tokens before the first one with a loss that all texts have in common: those of the generation prompt
    if all texts continue it."""
    first, length = texts[0].ids, min(text.prompt_length for text in texts)
    for text in texts[1:]:
        differing = np.flatnonzero(first[:length] != text.ids[:length])
        length = int(differing[0]) if len(differing) else length
    return length


def _fit(tokenizer: Tokenizer, texts: Sequence[Example], prompt_length: int, max_length: int | None,
         max_prompt_length: int | None) -> Encoded:
    """Gives all tokens of the completion before the first one with a loss a loss too, and cuts to the lengths."""
    if not prompt_length:
        raise UserError("no token precedes the completions")
    skipped = np.arange(0)
    if max_prompt_length is not None and prompt_length > max_prompt_length:
        begin = int(texts[0].ids[0] == tokenizer.bos_id)
        skipped = np.arange(begin, begin + prompt_length - max_prompt_length)
    prompt_length -= len(skipped)
    if max_length is not None and prompt_length >= max_length:
        raise TooLong(f"the prompt has {prompt_length} tokens, so none of the completion fits into {max_length}",
                      max(len(text.ids) for text in texts))
    fitted = []
    for text in texts:
        ids, mask = np.delete(text.ids, skipped), np.delete(text.loss_mask, skipped)
        mask[:prompt_length] = False
        if not mask.any():
            raise UserError("nothing carries a loss")
        mask[prompt_length:max(prompt_length, int(np.argmax(mask)))] = True
        fitted.append(Example(ids[:max_length], mask[:max_length]))
    return Encoded(tuple(fitted), prompt_length, tuple(len(text.ids) for text in texts))
