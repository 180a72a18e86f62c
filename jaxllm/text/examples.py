"""Training examples: token ids of a prompt with its completion, or of a conversation, with a loss mask.

Which tokens carry loss:

- prompt and completion: the completion's tokens, and the end token if one is requested. Both are tokenized as one text;
  a token that spans the border belongs to the completion.
- a conversation: the assistant's text and the end-of-turn token after it, if the template writes one. Headers, newlines
  after the end of a turn, and all other roles carry none.

Control tokens that a prompt, a completion or a message spells are encoded as ordinary text, except that completions and
assistant texts have the tokens that models write in their texts, such as <think> (see `Tokenizer`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np

from jaxllm.errors import UserError
from jaxllm.text.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True)
class Example:
    """A token sequence and the tokens of it that carry loss.

    Attributes:
        ids: int32 `[N]`.
        loss_mask: bool `[N]`; True on tokens that carry loss, never on the first.
    """

    ids: np.ndarray
    loss_mask: np.ndarray

    @property
    def prompt_length(self) -> int:
        """Number of tokens before the first one that carries loss."""
        return int(np.argmax(self.loss_mask))


def encode_example(
    tokenizer: Tokenizer,
    *,
    prompt: str | None = None,
    messages: Sequence[Mapping[str, Any]] | None = None,
    completion: str | Sequence[Mapping[str, Any]] | None = None,
    turns: Literal["all", "last"] = "all",
    end: bool = False,
    start: Sequence[int] = (),
) -> Example:
    """Encodes a row of training data.

    The row is a `prompt` with its `completion`, a conversation in `messages` with the `completion` as the next turn or
    turns, or a whole conversation in `messages`.

    Args:
        tokenizer: its chat template is used for `messages`.
        prompt: plain text.
        messages: ``{"role": ..., "content": ...}`` each, oldest first.
        completion: text to learn, after `messages` a text or turns. After `messages` no earlier turn carries loss.
        turns: assistant turns of a whole conversation that carry loss: all, or the last one.
        end: append the tokenizer's end token to the completion of a `prompt`, with loss. In a conversation the template
            decides which tokens end a turn.
        start: ids in front of an empty prompt, from which the first token is predicted; see `Model.start`.

    Raises:
        UserError: the row is of another form, nothing in it can carry loss, the template refuses the messages, or it
            rewrites an assistant's text so that its tokens cannot be located.
        ValueError: a text holds a lone surrogate.
    """
    if (prompt is None) == (messages is None):
        raise UserError(f"{'neither prompt nor' if prompt is None else 'both prompt and'} messages", "row",
                        "give every row one of the two")
    if messages is not None:
        if completion is None:
            return _conversation(tokenizer, messages, 0, turns)
        following = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
        return _conversation(tokenizer, [*messages, *following], len(messages))
    if not isinstance(completion, str):
        raise UserError(f"a prompt with{'out a completion' if completion is None else ' messages after it'}", "row",
                        "give every prompt a completion of its form")
    before, after = pair_ids(tokenizer, prompt or "", completion, start)
    if end:
        if tokenizer.eos_id is None:
            raise UserError("the tokenizer has no end token", tokenizer.source)
        after = [*after, *tokenizer.check_rows([tokenizer.eos_id])]
    if not before or not after:
        raise UserError("nothing precedes the completion's first token, and the tokenizer has no begin token" if after
                        else "the completion is empty", "completion")
    return _example([*before, *after], [(len(before), len(before) + len(after))])


def _conversation(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], first: int, turns: str = "all"
                  ) -> Example:
    """Encodes a conversation in which assistant turns from message number `first` on carry loss.

    A turn carries loss after its generation prompt, also where the template writes a text of its own in front of the
    content; after the template's text where the conversation does not continue the generation prompt.
    """
    ids, located = tokenizer.chat_turns(messages)
    assistant = [i for i, turn in enumerate(messages) if i >= first and turn["role"] == "assistant"
                 and turn["content"].strip()]
    assistant = assistant[-1:] if turns == "last" else assistant
    if not assistant:
        raise UserError("no assistant turn with text, so nothing carries loss", "messages")
    if lost := [i for i in assistant if located[i] is None]:
        raise UserError(f"the chat template rewrites message {lost[0] + 1}, so that its tokens cannot be located",
                        tokenizer.source, "give the message as the template writes it, or use another template")
    spans = []
    for i in assistant:
        start, stop = cast(tuple[int, int], located[i])
        supplied = generation_ids(tokenizer, messages[:i])
        continues = 0 < len(supplied) < stop and ids[:len(supplied)] == supplied
        spans.append((len(supplied) if continues else start, stop))
    return _example(ids, spans)


def _example(ids: Sequence[int], spans: Sequence[tuple[int, int]]) -> Example:
    mask = np.zeros(len(ids), bool)
    for begin, stop in spans:
        mask[begin:stop] = True
    mask[0] = False  # nothing precedes it
    return Example(np.asarray(ids, np.int32), mask)


def prompt_ids(tokenizer: Tokenizer, text: str, start: Sequence[int] = ()) -> list[int]:
    """Encodes a text that starts a sequence: with the begin token where the tokenizer adds one.

    Args:
        tokenizer: the tokenizer.
        text: any text.
        start: ids of an empty text, from which its first token is predicted.
    """
    return [*_prefix(tokenizer), *tokenizer.encode(text)] or list(start)


def generation_ids(tokenizer: Tokenizer, prompt: str | Sequence[Mapping[str, Any]], start: Sequence[int] = ()
                   ) -> list[int]:
    """Encodes what a completion of a prompt is generated from; empty where the template refuses the messages.

    Args:
        tokenizer: the tokenizer.
        prompt: plain text, or messages, after which the generation prompt follows.
        start: ids of an empty text.
    """
    if isinstance(prompt, str):
        return prompt_ids(tokenizer, prompt, start)
    try:
        return tokenizer.chat(prompt) if prompt else []
    except UserError:
        return []


def pair_ids(tokenizer: Tokenizer, prompt: str, completion: str, start: Sequence[int] = ()
             ) -> tuple[list[int], list[int]]:
    """Encodes a prompt and its completion as one text, and splits the ids.

    Tokenized together, since a completion alone may be tokenized differently. A token that spans the border belongs to
    the completion.

    Args:
        tokenizer: the tokenizer.
        prompt, completion: any texts.
        start: ids of an empty prompt.
    """
    before = prompt_ids(tokenizer, prompt, start)
    whole = [*_prefix(tokenizer), *tokenizer.encode(prompt, completion=completion)]
    if not prompt:
        return before, whole[len(_prefix(tokenizer)):]
    shared = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b),
                  min(len(before), len(whole)))
    return whole[:shared] or list(start), whole[shared:]


def reward_text_ids(tokenizer: Tokenizer, prompt: str | Sequence[Mapping[str, Any]],
                    answer: str | Sequence[Mapping[str, Any]]) -> list[int]:
    """Encodes a prompt with its answer as the text that a reward model scores, in training and in use alike.

    Messages are rendered by the chat template with the answer as the assistant's turn; the template ends the text.
    Plain texts are tokenized as one, and end in exactly one end token: one that the answer spells at its end is not
    repeated. A tokenizer without an end token (BERT's) puts its special tokens around the text instead.

    Args:
        tokenizer: the tokenizer.
        prompt: plain text, or messages ``{"role": ..., "content": ...}``, oldest first.
        answer: plain text; after messages also messages, of which the last is the assistant's.

    Raises:
        UserError: there is no chat template for messages, it refuses them, or a token has no row in the embedding.
        ValueError: a text holds a lone surrogate.
    """
    if not isinstance(prompt, str):
        turns = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
        return tokenizer.chat([*prompt, *turns], add_generation_prompt=False)
    answer = str(answer)
    if tokenizer.eos_id is None:
        return tokenizer.whole(prompt + answer)[0]
    answer = without_end_token(tokenizer, answer)
    return [*_prefix(tokenizer), *tokenizer.encode(prompt, completion=answer),
            *tokenizer.check_rows([tokenizer.eos_id])]


def without_end_token(tokenizer: Tokenizer, text: str) -> str:
    """Removes the end token that a text spells at its end, as a text does that was rendered elsewhere."""
    return text if tokenizer.eos_id is None else text.removesuffix(tokenizer.decode([tokenizer.eos_id], special=True))


def _prefix(tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.bos_id] if tokenizer.adds_bos and tokenizer.bos_id is not None else []
