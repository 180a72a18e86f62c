"""Weights in Orbax's format: sharded, quick to restore to any mesh, and the one that holds quantized matrices.

Such a directory has the config.json and the tokenizer of the hub's layout; in place of safetensors there are `orbax/`
and `weights.json`, which describes how the weights are quantized.
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
from jaxllm.files import write_atomic
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
    """How the weights in a directory are quantized."""
    found = read_json(path / ABOUT).get("quantized")
    if found not in SCHEMES:
        raise UserError(f"weights quantized as {found!r} are not known", path / ABOUT)
    return found


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
    """Number format of what is not quantized."""
    found = read_json(path / ABOUT).get("dtype", "float32")
    if found not in ("float32", "bfloat16", "float16"):
        raise UserError(f"weights in {found!r} are not known", path / ABOUT)
    return found


def load(path: Path, spec: ModelSpec, dtype: jnp.dtype, shardings: Any, scheme: Scheme | None) -> Params:
    """Reads the weights; arguments as of `load_model`.

    Raises:
        UserError: damaged, of another network, or quantized otherwise.
    """
    import orbax.checkpoint as ocp

    stored = stored_scheme(path)
    if stored is not None and scheme not in (None, stored):
        raise UserError(f"the weights are quantized as {stored}, not as {scheme}", path,
                        "leave the scheme out, or convert from the weights in full precision")
    check(path, spec)
    wanted = abstract(spec, dtype, shardings, stored)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            found = checkpointer.restore((path / FOLDER).absolute(), _plain(wanted))
    except Exception as error:  # damaged files raise any error of the storage library, down to a bare Exception
        raise UserError(f"the weights cannot be read: {(str(error).splitlines() or [repr(error)])[0][:300]}",
                        path / FOLDER, "convert the checkpoint again") from error
    params = jax.tree.map(lambda want, have: Quantized(have["codes"], have["scales"], want.scheme)
                          if isinstance(want, Quantized) else have, wanted, found,
                          is_leaf=lambda leaf: isinstance(leaf, Quantized))
    return params if stored is not None or scheme is None else quantize_params(params, scheme)


def check(path: Path, spec: ModelSpec) -> None:
    """Makes sure that the stored weights are those of this network, as far as names and shapes show.

    Raises:
        UserError: they are missing, damaged, or of another network.
    """
    import orbax.checkpoint as ocp

    if not (path / FOLDER).is_dir():
        raise UserError("the folder with the weights is missing", path / FOLDER, "convert the checkpoint again")
    wanted = _plain(abstract(spec, jnp.dtype(jnp.float32), None, stored_scheme(path)))
    shapes = lambda tree: {jax.tree_util.keystr(place, simple=True, separator="."): tuple(leaf.shape)
                           for place, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            there = shapes(checkpointer.metadata((path / FOLDER).absolute()).item_metadata.tree)
    except Exception as error:
        raise UserError(f"the weights cannot be read: {(str(error).splitlines() or [repr(error)])[0][:300]}",
                        path / FOLDER, "convert the checkpoint again") from error
    wanted = shapes(wanted)
    for name in sorted(wanted.keys() | there.keys()):
        if wanted.get(name) != there.get(name):
            describe = lambda shape: "nothing" if shape is None else f"shape {list(shape)}"
            raise UserError(f"'{name}' is stored with {describe(there.get(name))}, config.json implies "
                            f"{describe(wanted.get(name))}", path / FOLDER, "convert the checkpoint again")


def check_one_scheme(spec: ModelSpec, params: Params) -> None:
    """Raises a `ValueError` where some matrices are quantized and others, which could be, are not."""
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

    def one(path, leaf, place):
        chosen = scheme is not None and is_quantizable(tuple(key.key for key in path), leaf.shape, scheme)
        leaf = jax.eval_shape(partial(quantize, scheme=cast(Scheme, scheme)), leaf) if chosen else leaf
        return jax.tree.map(lambda part: jax.ShapeDtypeStruct(part.shape, part.dtype, sharding=_fitting(place, part)),
                            leaf)

    return jax.tree_util.tree_map_with_path(one, shapes, shardings)


def _fitting(place: Any, part: Any) -> Any:
    """The place of a parameter for a part of its codes or scales, which may not divide as evenly."""
    if not isinstance(place, jax.sharding.NamedSharding):
        return place
    names = [*place.spec, *[None] * (len(part.shape) - len(place.spec))]
    counts = lambda name: math.prod(place.mesh.shape[axis] for axis in ((name,) if isinstance(name, str) else name))
    parts = [1 if name is None else counts(name) for name in names]
    kept = [name if size % count == 0 else None for name, size, count in zip(names, part.shape, parts, strict=True)]
    return jax.sharding.NamedSharding(place.mesh, jax.sharding.PartitionSpec(*kept))


def _plain(params: Params) -> Params:
    """Quantized matrices as dicts of arrays, which Orbax stores by name."""
    return jax.tree.map(lambda leaf: {"codes": leaf.codes, "scales": leaf.scales} if isinstance(leaf, Quantized)
                        else leaf, params, is_leaf=lambda leaf: isinstance(leaf, Quantized))
