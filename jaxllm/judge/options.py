"""Token sequences that spell the options of a choice after a prompt."""

from __future__ import annotations

from collections.abc import Sequence

from jaxllm.errors import UserError
from jaxllm.judge.protocol import NoAnswer, spellings
from jaxllm.model import Model

Ids = tuple[int, ...]
# A text added to a prompt changes at most the tokens near its end. Options are tokenized after the prompt's last
# TAIL_CHARACTERS characters and a few more, or after the whole prompt where its last tokens are not those of this tail.
TAIL_CHARACTERS, SEARCH_CHARACTERS = 24, 80
# Tokens at the start of a tail that may differ from the prompt's: tokenizers treat the start of a text differently.
START_TOKENS = 2


class OptionTokens:
    """Tokenizes options in all their spellings; prompts that end alike share the work.

    Args:
        model: for its tokenizer.
        options: the options.
    """

    def __init__(self, model: Model, options: Sequence[str]):
        self._model, self._options = model, options
        self._chat: dict[Ids, str] | None = None
        self._by_tail: dict[tuple[str, Ids], dict[Ids, str]] = {}

    def after(self, text: str | None, ids: Sequence[int]) -> dict[Ids, str]:
        """Returns the token sequences of all spellings, and the option that each of them spells.

        Only those are listed that leave the prompt's own tokens as they are, and none that continues another of the
        same option, since that one's probability includes it.

        Args:
            text: the prompt, where it is raw text; None for a conversation, where the answer starts a new text.
            ids: tokens of the prompt.

        Raises:
            NoAnswer: an option has no such spelling.
            UserError: two options are the same tokens.
        """
        if text is None:
            if self._chat is None:
                encode = self._model.tokenizer.encode
                self._chat = self._collect({option: [encode("", completion=spelled) for spelled in spellings(option)]
                                            for option in self._options})
            return self._chat
        tail, tail_ids = self._tail(text, ids)
        if tail is None:
            return self._collect({option: self._after_whole(text, ids, option) for option in self._options})
        key = tail, tuple(tail_ids)
        if key not in self._by_tail:
            self._by_tail[key] = self._collect({option: self._after_tail(tail, tail_ids, option)
                                                for option in self._options})
        return self._by_tail[key]

    def _tail(self, text: str, ids: Sequence[int]) -> tuple[str | None, list[int]]:
        """A short end of the prompt that is tokenized as in the prompt, and its tokens; None where there is none."""
        stop = max(len(text) - TAIL_CHARACTERS, 0)
        search = max(stop - SEARCH_CHARACTERS, 0)
        start = max(text.rfind(" ", search, stop), text.rfind("\n", search, stop))
        if start <= 0:
            return None, []
        tail = text[start:]
        tail_ids = self._model.tokenizer.encode(tail)
        for skipped in range(min(START_TOKENS + 1, len(tail_ids) // 2)):
            common = tail_ids[skipped:]
            if list(ids[-len(common):]) == common:
                return tail, tail_ids
        return None, []

    def _after_tail(self, tail: str, tail_ids: Sequence[int], option: str) -> list[list[int]]:
        whole = [self._model.tokenizer.encode(tail, completion=spelled) for spelled in spellings(option)]
        return [ids[len(tail_ids):] for ids in whole if ids[:len(tail_ids)] == tail_ids]

    def _after_whole(self, text: str, ids: Sequence[int], option: str) -> list[list[int]]:
        pairs = [self._model.pair_ids(text, spelled) for spelled in spellings(option)]
        return [rest for before, rest in pairs if before == list(ids)]

    def _collect(self, sequences: dict[str, list[list[int]]]) -> dict[Ids, str]:
        collected: dict[Ids, str] = {}
        for option, own in sequences.items():
            distinct = dict.fromkeys(tuple(ids) for ids in own if ids)
            if not distinct:
                raise NoAnswer(f"the option {option!r} merges with the end of the prompt into other tokens",
                               "end the prompt with a blank line, or use messages")
            for ids in distinct:
                if any(ids != other and ids[:len(other)] == other for other in distinct):
                    continue
                if ids in collected:
                    raise UserError(f"the options {collected[ids]!r} and {option!r} are the same tokens", "options",
                                    "choose options that the model's tokenizer distinguishes")
                collected[ids] = option
        return collected
