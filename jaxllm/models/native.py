"""Weights in Orbax's format: sharded, quick to restore to any mesh; the only format with quantized matrices.

Such a directory has the config.json and the tokenizer of the hf layout. In place of safetensors it has `orbax/` and
`weights.json`, with dtype, quantization scheme and scoring head.
"""

from __future__ import annotations

import dataclasses
import json
import math
from functools import partial
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxllm.errors import UserError
from jaxllm.files import unread, write_atomic
from jaxllm.models.network import init_params
from jaxllm.models.params import Params
from jaxllm.models.quantized import is_quantizable, quantize_params, scheme_of
from jaxllm.models.spec import Head, ModelSpec
from jaxllm.models.tensors import read_json
from jaxllm.ops.quantize import Quantized, Scheme, quantize

FOLDER, ABOUT = "orbax", "weights.json"
SCHEMES = (None, "int8", "int4", "nf4")


def is_native(path: Path) -> bool:
    """Whether a checkpoint directory is in this format."""
    return (path / ABOUT).is_file()


def save(path: Path, spec: ModelSpec, params: Params) -> None:
    """Writes the weights into an existing directory."""
    import orbax.checkpoint as ocp

    check_one_scheme(spec, params)
    with ocp.StandardCheckpointer() as writer:
        writer.save((path / FOLDER).absolute(), _plain(params))
    dtype = str(params["embed"].dtype)
    head = None if spec.head is None else dataclasses.asdict(spec.head)
    about = {"quantized": scheme_of(params), "dtype": dtype, "head": head}
    write_atomic(path / ABOUT, json.dumps(about, indent=2) + "\n")


def stored_scheme(path: Path) -> Scheme | None:
    """Returns the quantization scheme of the weights in a directory; None if they are not quantized."""
    scheme = read_json(path / ABOUT).get("quantized")
    if scheme not in SCHEMES:
        raise UserError(f"weights quantized as {scheme!r} are not known", path / ABOUT)
    return scheme


def loaded_scheme(path: Path, scheme: Scheme | None) -> Scheme | None:
    """Returns the quantization scheme of the weights in a directory once they are loaded with `scheme`.

    Raises:
        UserError: they are quantized with another scheme.
    """
    stored = stored_scheme(path)
    if stored is not None and scheme not in (None, stored):
        raise UserError(f"the weights are quantized as {stored}, not as {scheme}", path,
                        "leave the scheme out, or convert from the weights in full precision")
    return scheme if stored is None else stored


def stored_head(path: Path) -> Head | None:
    """Returns the scoring head of the network, which config.json does not describe for every class."""
    head = read_json(path / ABOUT).get("head")
    try:
        if head is None:
            return None
        if "place" in head:  # the name of `token` in files of version 0.1
            head["token"] = head.pop("place")
        return Head(**head | {"label_names": tuple(head["label_names"])})
    except (TypeError, KeyError) as error:
        raise UserError(f"does not describe a scoring head: {error}", path / ABOUT) from None


def stored_dtype(path: Path) -> str:
    """Returns the dtype of the weights that are not quantized."""
    dtype = read_json(path / ABOUT).get("dtype", "float32")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"weights in {dtype!r} are not known", path / ABOUT)
    return dtype


def load(path: Path, spec: ModelSpec, dtype: jnp.dtype, shardings: Any, scheme: Scheme | None) -> Params:
    """Reads the weights; arguments as of `load_model`.

    Raises:
        UserError: weights are damaged, of another network, or quantized with another scheme.
    """
    import orbax.checkpoint as ocp

    loaded, stored = loaded_scheme(path, scheme), stored_scheme(path)
    check(path, spec)
    wanted = abstract(spec, dtype, shardings, stored)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            arrays = checkpointer.restore((path / FOLDER).absolute(), _plain(wanted))
    except Exception as error:  # damaged files raise any error of the storage library, down to a bare Exception
        raise UserError(f"the weights cannot be read: {unread(error, path / FOLDER)}", path / FOLDER,
                        "convert the checkpoint again") from error
    params = jax.tree.map(lambda want, have: Quantized(have["codes"], have["scales"], want.scheme)
                          if isinstance(want, Quantized) else have, wanted, arrays,
                          is_leaf=lambda leaf: isinstance(leaf, Quantized))
    return params if loaded is None or loaded == stored else quantize_params(params, loaded)


def check(path: Path, spec: ModelSpec) -> None:
    """Compares names and shapes of the stored weights with those of the network.

    Raises:
        UserError: weights are missing, damaged, or of another network.
    """
    import orbax.checkpoint as ocp

    if not (path / FOLDER).is_dir():
        raise UserError("the folder with the weights is missing", path / FOLDER, "convert the checkpoint again")
    wanted = _plain(abstract(spec, jnp.dtype(jnp.float32), None, stored_scheme(path)))
    shapes = lambda tree: {jax.tree_util.keystr(keys, simple=True, separator="."): tuple(leaf.shape)
                           for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            stored = shapes(checkpointer.metadata((path / FOLDER).absolute()).item_metadata.tree)
    except Exception as error:
        raise UserError(f"the weights cannot be read: {unread(error, path / FOLDER)}", path / FOLDER,
                        "convert the checkpoint again") from error
    wanted = shapes(wanted)
    for name in sorted(wanted.keys() | stored.keys()):
        if wanted.get(name) != stored.get(name):
            describe = lambda shape: "nothing" if shape is None else f"shape {list(shape)}"
            raise UserError(f"'{name}' is stored with {describe(stored.get(name))}, config.json implies "
                            f"{describe(wanted.get(name))}", path / FOLDER, "convert the checkpoint again")


def check_one_scheme(spec: ModelSpec, params: Params) -> None:
    """Raises a `ValueError` where only some of the quantizable matrices are quantized."""
    scheme = scheme_of(params)
    wanted = jax.tree.structure(jax.eval_shape(lambda: quantize_params(init_params(spec, jax.random.key(0)), scheme))
                                if scheme else jax.eval_shape(lambda: init_params(spec, jax.random.key(0))))
    if jax.tree.structure(params) != wanted:
        raise ValueError(f"not all matrices are quantized as {scheme}")


def abstract(spec: ModelSpec, dtype: jnp.dtype, shardings: Any, scheme: Scheme | None) -> Params:
    """Returns shapes, dtypes and shardings of a network's parameters."""
    shapes = jax.eval_shape(lambda: init_params(spec, jax.random.key(0), dtype))
    if shardings is None:
        shardings = jax.tree.map(lambda _: jax.sharding.SingleDeviceSharding(jax.devices()[0]), shapes)

    def abstract_leaf(path, leaf, sharding):
        quantized = scheme is not None and is_quantizable(tuple(key.key for key in path), leaf.shape, scheme)
        leaf = jax.eval_shape(partial(quantize, scheme=cast(Scheme, scheme)), leaf) if quantized else leaf
        return jax.tree.map(lambda part: jax.ShapeDtypeStruct(part.shape, part.dtype,
                                                              sharding=_part_sharding(sharding, part)), leaf)

    return jax.tree_util.tree_map_with_path(abstract_leaf, shapes, shardings)


def _part_sharding(sharding: Any, part: Any) -> Any:
    """Returns a parameter's sharding for its codes or scales; axes that do not divide evenly are not split."""
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return sharding
    names = [*sharding.spec, *[None] * (len(part.shape) - len(sharding.spec))]
    counts = lambda name: math.prod(sharding.mesh.shape[axis] for axis in ((name,) if isinstance(name, str) else name))
    parts = [1 if name is None else counts(name) for name in names]
    axes = [name if size % count == 0 else None for name, size, count in zip(names, part.shape, parts, strict=True)]
    return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec(*axes))


def _plain(params: Params) -> Params:
    """Replaces quantized matrices with dicts of arrays, which Orbax stores by name."""
    return jax.tree.map(lambda leaf: {"codes": leaf.codes, "scales": leaf.scales} if isinstance(leaf, Quantized)
                        else leaf, params, is_leaf=lambda leaf: isinstance(leaf, Quantized))
