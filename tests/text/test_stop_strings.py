"""Stop strings that hold special tokens, in tokenizers of two kinds of pieces."""

import numpy as np
import pytest

from jaxllm.generate.completion import find_stop
from jaxllm.model import Model


@pytest.mark.parametrize("backend", ["byte_level", "metaspace"])
def test_special_tokens_within_stop_strings(llama, saved, backend):
    """The text before the stop string is without special tokens, those before it too."""
    model = Model(*llama, saved(backend, "chatml")[0])
    encode, special = model.tokenizer.encode, model.tokenizer.special_tokens
    prompt = np.array([special["<s>"], *encode("Once upon a time")])
    ids = np.array([*encode(" there was"), special["<|end|>"], *encode(" a user.\n\n"), special["<|im_start|>"],
                    *encode("user")])
    before = len(ids) - len(encode("user"))
    text = " there was a user."
    find = lambda *stop, checked=0: find_stop(model, prompt, ids, stop, checked)
    assert find("<|im_start|>") == (before, text + "\n\n") == find("<|im_start|>", "nowhere", checked=before)
    assert find("\n<|im_start|>") == (before, text + "\n")
    assert find("\n\n<|im_start|>", "<|user|>") == (before, text)
    assert find("<|eot_id|>") is None and find("x<|im_start|>") is None
    # The earliest of all, of either sort.
    assert find("<|im_start|>", "was") == (len(encode(" there was")), " there ")
    assert find("was<|end|>", "user.") == (len(encode(" there was")) + 1, " there ")
    # As ordinary pieces the spelling ends a text too.
    spelled = np.array([*encode("a <|im_end|> b")])
    assert find_stop(model, prompt, spelled, ["<|im_end|>"])[1].strip() == "a"
