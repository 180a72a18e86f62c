"""Families: how `config.json` and the tensor names of a Hugging Face checkpoint map to ours and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jaxllm.errors import UserError
from jaxllm.models.families import gemma, gpt, llama
from jaxllm.models.families.table import Family, Keys, Leaf
from jaxllm.models.spec import ModelSpec

FAMILIES: dict[str, Family] = llama.FAMILIES | gemma.FAMILIES | gpt.FAMILIES

__all__ = ["FAMILIES", "Family", "Leaf", "read_config", "write_config"]


def read_config(config: dict[str, Any], where: Path | str) -> ModelSpec:
    """The network that a `config.json` describes.

    Raises:
        UserError: an unknown architecture, a missing key, or one whose meaning is not supported.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f"architecture {kind!r} is not supported (have: {', '.join(FAMILIES)})", where)
    if config.get("quantization_config") is not None:
        raise UserError("the checkpoint is quantised", where, "use the unquantised checkpoint")
    keys = Keys(config, where)
    keys.only("pruned_heads", {})
    try:
        spec = FAMILIES[kind].read(keys)
    except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise UserError(f"the configuration does not describe a network: {error}", where) from error
    keys.finish()
    return spec


def write_config(spec: ModelSpec, dtype: str) -> dict[str, Any]:
    """`config.json` of a network whose weights have `dtype`; transformers 4 and 5 read it."""
    end = spec.eos_ids[0] if len(spec.eos_ids) == 1 else list(spec.eos_ids) or None
    # A padding token that is left out is a class's own default, which may lie outside of this vocabulary.
    return FAMILIES[spec.family].write(spec) | {
        "torch_dtype": dtype, "bos_token_id": spec.bos_id, "eos_token_id": end, "pad_token_id": None}
