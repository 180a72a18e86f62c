"""`jaxllm convert`: writes a checkpoint in another layout, dtype or quantization, or with an adapter merged."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp

from jaxllm import job
from jaxllm.checkpoint.sizes import count_parameters
from jaxllm.config import check, to_yaml
from jaxllm.devices import make_mesh
from jaxllm.directories import new_directory
from jaxllm.errors import UserError
from jaxllm.files import write_atomic
from jaxllm.models import Params, load_spec, merge_adapter
from jaxllm.models.loading import holds_exactly, load_model, stored_dtype
from jaxllm.models.mesh import model_shardings
from jaxllm.models.peft import adapter_head, apply_head, load_adapters
from jaxllm.models.quantized import dequantize_params, quantize_params, scheme_of
from jaxllm.models.saving import write_model
from jaxllm.ops.quantize import Quantized, Scheme


@dataclass(frozen=True)
class Config:
    """Converts a checkpoint; the output directory appears complete or not at all.

    Args:
        model: checkpoint directory (of either layout), GGUF file, Hub id, or tiny.
        out: directory of the new checkpoint.
        format: hf is safetensors that torch transformers loads; orbax is quick to restore to a mesh and can hold
            quantized weights, which are dequantized for hf.
        adapter: directory of a LoRA adapter, or of several, which are summed.
        merge: fold the adapter into the weights.
        dtype: dtype of the weights; null takes the one that most of them have (bfloat16 for 8-bit floats,
            float32 for quantized GGUF).
        quantize: 8 or 4 bits for the matrices of the layers; null leaves them as they are.
    """

    model: str
    out: Path
    format: Literal["hf", "orbax"] = "hf"
    adapter: str | None = None
    merge: bool = False
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    quantize: Scheme | None = None

    def __post_init__(self):
        check(self.merge or self.adapter is None, "adapter", "an adapter is a checkpoint of its own",
              "add --merge to fold it into the weights")
        check(self.adapter is not None or not self.merge, "merge", "there is no adapter to merge", "give --adapter DIR")
        check(self.quantize is None or self.format == "orbax", "quantize",
              "quantized weights have no place in the hub's layout", "add --format orbax")


def run(config: Config) -> Path:
    """Runs the job; returns the path of its result.json."""
    with new_directory(config.out) as target:
        spec, adapter = load_spec(config.model), None
        if config.adapter is not None:
            adapter = load_adapters(config.adapter, adapter_head(config.adapter, spec)[0])
        dtype = jnp.dtype(config.dtype or stored_dtype(config.model))
        # Sharded over all devices: none of them needs memory for all weights.
        placed = model_shardings(spec, make_mesh(data=1, fsdp=jax.local_device_count()))
        # An adapter is merged into full weights; without one they are quantized while they are loaded.
        scheme = config.quantize if config.adapter is None else None
        # The sum is rounded once: neither the base nor the sum is rounded to another dtype before.
        merged_in = dtype if holds_exactly(config.model, dtype) else jnp.dtype(jnp.float32)
        spec, params = load_model(config.model, dtype if config.adapter is None else merged_in, placed, scheme)
        came_as = scheme_of(params) if scheme is None else None
        if config.adapter is not None and adapter is not None:
            spec, params = apply_head(config.adapter, spec, params)
            # All weights stay full: quantizing the sum again loses a part of the change, and is done only on request.
            params = merge_adapter(dequantize_params(params, merged_in), adapter)
            params = params if config.quantize is None else quantize_params(params, config.quantize)
            params = round_params(params, dtype)
        elif config.format == "hf":
            params = dequantize_params(params, dtype)
        check_finite(params)
        left = write_model(target, spec, params, config.model, layout=config.format)
        if left:
            print(f"jaxllm: not copied from {config.model}: {', '.join(left)}", file=sys.stderr)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        result = {"format": config.format, "dtype": str(dtype), "quantized": scheme_of(params),
                  "dequantized_from": came_as if scheme_of(params) is None else None,
                  "parameters": count_parameters(spec)["total"], "bytes": size,
                  "adapter": config.adapter, "not_copied": left, "versions": job.versions()}
        write_atomic(target / "config.yaml", to_yaml(config))
        write_atomic(target / "result.json", json.dumps(result, indent=2) + "\n")
    return Path(config.out) / "result.json"


def round_params(params: Params, dtype: jnp.dtype) -> Params:
    """Rounds all arrays that are not quantized to `dtype`; frees the old ones."""
    def rounded(leaf: jax.Array | Quantized) -> jax.Array | Quantized:
        if isinstance(leaf, Quantized) or leaf.dtype == dtype:
            return leaf
        new = jax.block_until_ready(leaf.astype(dtype))  # so that one array at a time is in memory twice
        leaf.delete()
        return new

    return jax.tree.map(rounded, params, is_leaf=lambda leaf: isinstance(leaf, Quantized))


def check_finite(params: Params) -> None:
    """Raises a `UserError` for the first parameter that holds NaN or infinity."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not bool(jnp.isfinite(leaf).all()):
            raise UserError(f"{jax.tree_util.keystr(path, simple=True, separator='.')} holds NaN or infinity in "
                            f"{leaf.dtype}", "dtype", "take a format with a larger range, or mend the checkpoint")
