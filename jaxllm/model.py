"""A checkpoint as a whole: spec, parameters and tokenizer."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxllm.errors import UserError
from jaxllm.models import Adapter, ModelSpec, Params, load_model, load_spec, with_score_head
from jaxllm.models.loading import stored_dtype
from jaxllm.models.peft import adapter_head, apply_head, load_adapters
from jaxllm.ops.quantize import Scheme
from jaxllm.progress import notice
from jaxllm.text import examples
from jaxllm.text.tokenizer import Tokenizer, load_tokenizer


@dataclasses.dataclass(frozen=True)
class Model:
    """A language model: spec, parameters and tokenizer.

    Attributes:
        spec: description of the network.
        params: the weights; layers stacked, as they are loaded, or unstacked.
        tokenizer: text to ids and back.
        stop_ids: tokens that end a text, from the network's configuration and the tokenizer.
    """

    spec: ModelSpec
    params: Params
    tokenizer: Tokenizer

    @property
    def stop_ids(self) -> tuple[int, ...]:
        ids = dict.fromkeys((*self.spec.eos_ids, *self.tokenizer.stop_ids))
        return tuple(token for token in ids if token < self.spec.vocab_size)

    @property
    def prefix(self) -> tuple[int, ...]:
        """Tokens at the start of every sequence: the begin token, where the tokenizer adds one."""
        return (self.tokenizer.bos_id,) if self.tokenizer.adds_bos and self.tokenizer.bos_id is not None else ()

    @property
    def start(self) -> tuple[int, ...]:
        """Tokens from which a first token can be predicted: the prefix, else the begin or end token."""
        candidates = (self.tokenizer.bos_id, self.tokenizer.eos_id, *self.spec.eos_ids)
        return self.prefix or tuple(token for token in candidates
                                    if token is not None and token < self.spec.vocab_size)[:1]

    def require_lm(self, verb: str, where: str = "model") -> None:
        """Raises a `UserError` for a model with a scoring head, which cannot `verb` (such as "generate text")."""
        if self.spec.head is not None:
            raise UserError(f"the model has a scoring head and cannot {verb}", where, "use jaxllm score")

    def with_score_head(self, labels: int, label_names: Sequence[str] = (), seed: int = 0) -> Model:
        """Returns the model with a head of `labels` scores per text; see `models.with_score_head`.

        A decoder with a new head gets a padding token that no text ends in.
        """
        spec, params = with_score_head(self.spec, self.params, labels, label_names, seed)
        if spec.encoder is None and params is not self.params:
            padding = self.tokenizer.classifier_pad_id
            spec = dataclasses.replace(spec, pad_id=padding)
            if padding is None:
                notice("the tokenizer has no special token but those that end texts, and so none to pad with: torch "
                       "scores one text at a time with this model")
        return dataclasses.replace(self, spec=spec, params=params)

    def prompt_ids(self, text: str) -> list[int]:
        """Encodes a text that starts a sequence; an empty one becomes `start`."""
        return examples.prompt_ids(self.tokenizer, text, self.start)

    def pair_ids(self, prompt: str, completion: str) -> tuple[list[int], list[int]]:
        """Encodes a prompt and its completion as one text, and splits the ids; see `examples.pair_ids`."""
        return examples.pair_ids(self.tokenizer, prompt, completion, self.start)


def warn_of_text_prompt(model: Model, prompt: str) -> None:
    """Warns on standard error that a chat model continues a text prompt as it is; see also `warn_of_control_tokens`."""
    if model.tokenizer.has_chat_template:
        notice("prompts are texts, which the model continues as they are; give messages to use its chat template")
    warn_of_control_tokens(model, prompt)


def warn_of_control_tokens(model: Model, prompt: str) -> None:
    """Warns on standard error of a prompt that spells control tokens, as one does that was rendered elsewhere."""
    if spelled := model.tokenizer.control_tokens_in(prompt):
        notice(f"prompts spell control tokens such as {spelled[0]}, which are read as ordinary text; a prompt that was "
               "rendered with a chat template has to be given as messages")


def check_lm(model: str | Path, adapter: str | Path | None, verb: str) -> None:
    """Raises a `UserError` where a checkpoint, or an adapter of it, has a scoring head and so cannot `verb` (such as
    "generate text"); reads no weights."""
    spec = load_spec(model)
    if spec.head is not None:
        raise UserError(f"the model has a scoring head and cannot {verb}", model, "use jaxllm score")
    if adapter is not None and adapter_head(adapter, spec)[0].head is not None:
        raise UserError(f"the adapter has a scoring head, and with it the model cannot {verb}", adapter,
                        "use jaxllm score, or an adapter of a language model")


def check_ids(ids: Sequence[int] | np.ndarray, spec: ModelSpec, where: str) -> None:
    """Raises a `UserError` for an id without a row in the network's embedding, which jax would silently clamp."""
    array = np.asarray(ids)
    if len(wrong := array[(array < 0) | (array >= spec.vocab_size)]):
        raise UserError(f"no token has the id {wrong[0]}; the model has {spec.vocab_size}", where)


def model_tokenizer(model: str | Path, spec: ModelSpec) -> Tokenizer:
    """Loads the tokenizer of a checkpoint. Where it has more tokens than the embedding has rows, as in some published
    models, a text with one of them is refused."""
    return dataclasses.replace(load_tokenizer(model), rows=spec.vocab_size)


def load_with_adapter(model: str | Path, adapter: str | Path | None, dtype: jnp.dtype | None = None,
                      sharding: Callable[[ModelSpec], Any] | None = None, quantization: Scheme | None = None
                      ) -> tuple[Model, Adapter | None]:
    """Loads a checkpoint and an adapter, or a folder of several; with the adapter's scoring head if it has one.

    Args:
        model, dtype, sharding, quantization: as in `load`.
        adapter: directory of the adapter; None loads the model alone.

    Raises:
        UserError: something is missing or damaged, or the adapter does not fit the model.
    """
    loaded = load(model, dtype, sharding, quantization)
    if adapter is None:
        return loaded, None
    spec, params = apply_head(adapter, loaded.spec, loaded.params)
    return dataclasses.replace(loaded, spec=spec, params=params), load_adapters(adapter, spec)


def load(model: str | Path, dtype: jnp.dtype | None = None, sharding: Callable[[ModelSpec], Any] | None = None,
         quantization: Scheme | None = None) -> Model:
    """Loads a checkpoint with its tokenizer.

    Args:
        model: checkpoint directory, GGUF file, Hub id, or `tiny`.
        dtype: dtype of the parameters; by default the one they are stored in.
        sharding: from the spec to the parameters' shardings; by default everything is on the default device.
        quantization: scheme for the matrices of the layers; None leaves them as they are.

    Raises:
        UserError: something is missing or damaged.
    """
    spec = load_spec(model)
    tokenizer = model_tokenizer(model, spec)
    if beyond := tokenizer.beyond_rows:
        print(f"jaxllm: {model}: the tokenizer has {beyond} more tokens than the embedding has rows; texts with one of "
              "them are refused", file=sys.stderr)
    dtype = jnp.dtype(stored_dtype(model) if dtype is None else dtype)
    _, params = load_model(model, dtype, None if sharding is None else sharding(spec), quantization)
    return Model(spec, params, tokenizer)
