"""A tokenizer of letters, and prompts for it, for small random networks."""

from __future__ import annotations

from tests.networks import random_tokens


class Letters:
    """A tokenizer of 97 tokens: a letter each, after begin and end token."""

    bos_id, eos_id, stop_ids, adds_bos, vocab_size = 1, 2, (), True, 97
    has_chat_template, special_tokens = False, {}

    def encode(self, text, bos=False, completion=""):
        return [1] * bos + [ord(letter) - 30 for letter in text + completion]

    def decode(self, ids):
        return "".join(chr(i + 30) for i in ids if i > 2)


def prompts(count=5):
    """Returns prompts of 4, 6, 8, ... tokens."""
    return [[1, *random_tokens(1, 3 + 2 * i, seed=i)[0].tolist()] for i in range(count)]
