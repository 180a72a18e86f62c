"""A checkpoint as a whole: what the network is, its weights, its tokenizer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jaxllm.errors import UserError
from jaxllm.models import ModelSpec, Params, load_model, load_spec
from jaxllm.ops.quantize import Scheme
from jaxllm.text.tokenizer import Tokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True)
class Model:
    """A network that speaks.

    Attributes:
        spec: its description.
        params: its weights; layers stacked as they are loaded, or apart for decoding.
        tokenizer: its text to ids and back.
        stop_ids: tokens that end a text, from the network's configuration and the tokenizer.
    """

    spec: ModelSpec
    params: Params
    tokenizer: Tokenizer

    @property
    def stop_ids(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys((*self.spec.eos_ids, *self.tokenizer.stop_ids)))

    @property
    def prefix(self) -> tuple[int, ...]:
        """What begins every sequence: the begin token, where the tokenizer adds one by itself."""
        return (self.tokenizer.bos_id,) if self.tokenizer.adds_bos else ()

    @property
    def start(self) -> tuple[int, ...]:
        """Something to predict a first token from: the prefix, else the begin or end token, which separates texts."""
        found = (self.tokenizer.bos_id, self.tokenizer.eos_id, *self.spec.eos_ids)
        return self.prefix or tuple(token for token in found if token is not None)[:1]

    def prompt_ids(self, text: str) -> list[int]:
        """Ids of a text that starts a sequence; of an empty one, what a text starts from."""
        return [*self.prefix, *self.tokenizer.encode(text)] or list(self.start)

    def pair_ids(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        """Ids of a prompt and of what follows it, as the model would read them in one text.

        Tokenized together, since a completion alone may be cut up differently. A token that spans the border
        belongs to the completion.
        """
        before, whole = self.prompt_ids(prompt), [*self.prefix, *self.tokenizer.encode(prompt + completion)]
        if not prompt:
            return before, whole[len(self.prefix):]
        shared = next((i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b),
                      min(len(before), len(whole)))
        return whole[:shared] or list(self.start), whole[shared:]


def too_many_tokens(tokenizer: Tokenizer, spec: ModelSpec) -> str | None:
    """What is wrong where a tokenizer knows more tokens than a network has rows for; None where nothing is."""
    if tokenizer.vocab_size <= spec.vocab_size:
        return None
    return f"the tokenizer has {tokenizer.vocab_size} tokens, the embedding {spec.vocab_size} rows"


def load(model: str | Path, dtype: jnp.dtype = jnp.float32, place: Callable[[ModelSpec], Any] | None = None,
         scheme: Scheme | None = None) -> Model:
    """Reads a checkpoint directory, a Hub id or `tiny`, with its tokenizer.

    Args:
        model: which.
        dtype: of the parameters.
        place: from the spec to the parameters' shardings; None puts all on the default device.
        scheme: quantizes the matrices of the layers; None leaves them as they are.

    Raises:
        UserError: something is missing or damaged, or the tokenizer knows more tokens than the network.
    """
    spec, tokenizer = load_spec(model), load_tokenizer(model)
    if problem := too_many_tokens(tokenizer, spec):  # said before minutes of loading
        raise UserError(problem, model, "use the tokenizer that the model was trained with")
    _, params = load_model(model, dtype, None if place is None else place(spec), scheme)
    return Model(spec, params, tokenizer)
