"""Loading of checkpoint directories: the spec of the network, and its parameters, tensor by tensor."""

from __future__ import annotations

import collections
import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllm.errors import UserError
from jaxllm.models import native
from jaxllm.models.families import FAMILIES, TensorMap, is_language_model, read_config, tensor_maps
from jaxllm.models.families.table import cut
from jaxllm.models.gguf.config import read_config as read_gguf_config
from jaxllm.models.gguf.header import is_gguf
from jaxllm.models.gguf.tensors import GGUFTensors
from jaxllm.models.matching import Match, lookup, match_tensors, names_of
from jaxllm.models.network import init_params
from jaxllm.models.params import Params
from jaxllm.models.quantized import is_quantizable
from jaxllm.models.spec import Head, ModelSpec
from jaxllm.models.tensors import DTYPES, Tensors, TensorSource, model_directory, read_json
from jaxllm.ops.quantize import Scheme, quantize
from jaxllm.progress import bar, notice

# Layers of a parameter are gathered on the host up to this number of bytes: one transfer is quicker than many. A
# larger one goes to the device layer by layer, so that the host never holds more than a tensor or two.
GATHERED_BYTES = 2**28
# Loading shows a bar from this number of bytes on.
SHOWN_BYTES = 2**30
# Describes quantized weights that config.json does not describe.
QUANTIZATION = "hf_quant_config.json"
# Methods of `quantization_config` that change the stored weights and nothing else.
WEIGHT_QUANTIZATION = ("bitsandbytes", "gptq", "awq", "auto-round", "aqlm", "eetq", "hqq", "quanto",
                       "compressed-tensors")
# Names of a scoring head's tensors in checkpoints of classes that transformers does not have.
HEAD_NAMES = ("score", "v_head", "v_head.summary", "value_head", "reward_head", "regression_head", "rm_head",
              "classifier")


def load_spec(model: str | Path) -> ModelSpec:
    """Reads the description of a network: `config.json`, and the end tokens of `generation_config.json`.

    A GGUF file describes its network itself.

    A reward model of a class that transformers does not have is recognized by a tensor in `HEAD_NAMES`.
    """
    path = model_directory(model)
    config, where = model_config(path)
    spec = read_config(config, where)
    _check_unquantized(path)
    if spec.head is None and not is_language_model(config):
        spec = dataclasses.replace(spec, head=native.stored_head(path) if native.is_native(path) else _named_head(
            spec, path))
    generation = path / "generation_config.json"
    if generation.exists():
        ends = read_json(generation).get("eos_token_id")
        ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in ends):
            raise UserError(f"'eos_token_id' must be a number or a list of numbers, found {ends}", generation)
        if ends:  # in place of those of config.json, as in transformers
            if unused := [token for token in spec.eos_ids if token not in ends]:
                notice(f"{path}: the end tokens are {ends}, of generation_config.json; {unused} of config.json ends "
                       "nothing unless it is the tokenizer's")
            spec = dataclasses.replace(spec, eos_ids=tuple(dict.fromkeys(ends)))
    return spec


def model_config(path: Path) -> tuple[dict[str, Any], Path]:
    """Returns the `config.json` of a checkpoint, without left-over parts, and the file that it is from."""
    if is_gguf(path):
        return read_gguf_config(path), path
    where = path / "config.json"
    if not where.exists() and (path / "adapter_config.json").is_file():
        base = read_json(path / "adapter_config.json").get("base_model_name_or_path")
        raise UserError(f"there is an adapter in it{f', of the model {base!r},' if base else ''} and no model", path,
                        "give the base model, and this directory as --adapter")
    if not where.exists() and (files := sorted(file for file in path.glob("*") if file.suffix.lower() == ".gguf")):
        raise UserError("there are GGUF files in it, and no config.json", path, f"give one of the files, such as "
                        f"{files[0]}")
    return _without_leftover(read_json(where), path), where


def open_tensors(path: Path, spec: ModelSpec, dtype: Any = np.float32) -> Tensors | GGUFTensors:
    """Opens the tensors of a checkpoint that is not in the native format; blocks of GGUF are read in `dtype`."""
    if is_gguf(path):
        return GGUFTensors(path, spec, dtype)
    return Tensors(path, read_json(path / "config.json").get("quantization_config"))


def _without_leftover(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Returns the config without a description of quantization that was left when the weights were dequantized."""
    about = config.get("quantization_config")
    method = about.get("quant_method") if isinstance(about, dict) else None
    if isinstance(about, dict) and (about.get("load_in_4bit") or about.get("load_in_8bit")):
        method = "bitsandbytes"  # which early descriptions do not name
    if method not in WEIGHT_QUANTIZATION or native.is_native(path):
        return config
    with Tensors(path) as tensors:
        if not all(name in DTYPES and DTYPES[name].itemsize > 1 for name in map(tensors.dtype, tensors.files)):
            return config
    notice(f"{path}: config.json describes weights quantized by {method}, but they are full; they are read as they are")
    return {key: value for key, value in config.items() if key != "quantization_config"}


def _check_unquantized(path: Path) -> None:
    """Raises a `UserError` for quantized weights that only a file of NVIDIA's ModelOpt describes."""
    if not (path / QUANTIZATION).is_file():
        return
    about = read_json(path / QUANTIZATION).get("quantization")
    algorithm = about.get("quant_algo", "unnamed") if isinstance(about, dict) else "unnamed"
    if algorithm is not None:  # only the KV cache is quantized, while it runs
        raise UserError(f"the checkpoint is quantized ({algorithm})", path / QUANTIZATION,
                        "use the unquantized checkpoint")


def _named_head(spec: ModelSpec, path: Path) -> Head | None:
    """Finds a scoring head among a checkpoint's tensors; None without one."""
    with Tensors(path) as tensors:
        shape_of = lambda name: tensors.shape(name) if name in tensors.files else ()
        for name in HEAD_NAMES:
            shape, last = shape_of(f"{name}.weight"), shape_of(f"{name}.2.weight")
            if len(shape) == 2 and shape[1] == spec.state_width:
                return Head(shape[0], "last", f"{name}.bias" in tensors.files, name=name)
            if len(last) == 2 and shape_of(f"{name}.0.weight"):
                notice(f"{path}: the activation of the head {name!r} is not in the files, and taken for ReLU")
                return Head(last[0], "last", f"{name}.2.bias" in tensors.files, "relu",
                            f"{name}.0.bias" in tensors.files, name)
    return None


def load_model(model: str | Path, dtype: jnp.dtype | None = None, shardings: Any = None,
               scheme: Scheme | None = None) -> tuple[ModelSpec, Params]:
    """Loads a checkpoint of a supported family, tensor by tensor, each directly onto its devices.

    Args:
        model: `tiny`, a directory, a GGUF file, or a Hub id.
        dtype: dtype of the parameters; by default that in which most of them are stored (8-bit floats as bfloat16,
            blocks of GGUF as float32).
        shardings: tree like the parameters; by default everything is on the default device.
        scheme: quantizes the matrices of the layers while loading; None keeps them as they are.

    Returns:
        The spec, and parameters with stacked layers.

    Raises:
        UserError: files missing or damaged, tensors missing, unknown, or of another shape.
    """
    path = model_directory(model)
    spec = load_spec(path)
    dtype = jnp.dtype(stored_dtype(path) if dtype is None else dtype)
    if native.is_native(path):
        return spec, native.load(path, spec, dtype, shardings, scheme)
    shapes = jax.eval_shape(lambda: init_params(spec, jax.random.key(0)))
    with open_tensors(path, spec, dtype) as tensors:
        match = match_tensors(spec, tensors)
        match.check(spec, tensors)
        tensors.check_formats()
        check_tied_head(spec, tensors, match)
        params: Params = {}
        leaves = tensor_maps(spec)
        sizes = [math.prod(lookup(shapes, leaf.path).shape) * np.dtype(dtype).itemsize for leaf in leaves]
        with bar(sum(sizes) // 2**20, "load", "MiB", shown=sum(sizes) >= SHOWN_BYTES) as show:
            for i, leaf in enumerate(leaves):
                sharding = None if shardings is None else lookup(shardings, leaf.path)
                leaf_scheme = scheme if is_quantizable(leaf.path, lookup(shapes, leaf.path).shape, scheme) else None
                read = partial(_read_part, leaf, tensors, match.names, np.dtype(dtype))
                value = _put_stacked(leaf, spec, lookup(shapes, leaf.path).shape, read, sharding, leaf_scheme)
                _insert(params, leaf.path, value)
                show(sum(sizes[:i + 1]) // 2**20)
    return spec, params


def _dtypes_of(path: Path) -> Tensors | GGUFTensors:
    """Opens a checkpoint's tensors for a look at their dtypes."""
    return GGUFTensors(path, load_spec(path)) if is_gguf(path) else Tensors(path)


def stored_dtype(model: str | Path) -> str:
    """Returns the dtype in which most of a checkpoint's weights are stored; `bfloat16` for 8-bit floats."""
    path = model_directory(model)
    if native.is_native(path):
        return native.stored_dtype(path)
    with _dtypes_of(path) as tensors:
        sizes = collections.Counter()
        for name in tensors.names():
            sizes[tensors.dtype(name)] += math.prod(tensors.shape(name))
    dtype = DTYPES.get(sizes.most_common(1)[0][0], np.dtype(np.float32)) if sizes else np.dtype(np.float32)
    return "float32" if dtype.itemsize > 4 else "bfloat16" if dtype.itemsize == 1 else str(dtype)


def loaded_scheme(model: str | Path, scheme: Scheme | None) -> Scheme | None:
    """Returns the quantization scheme of the weights that `load_model` returns.

    Raises:
        UserError: they are stored quantized with another scheme.
    """
    path = model_directory(model)
    return native.loaded_scheme(path, scheme) if native.is_native(path) else scheme


def holds_exactly(model: str | Path, dtype: jnp.dtype) -> bool:
    """Whether weights loaded in `dtype` have the values that are stored; float32 counts as exact."""
    path, dtype = model_directory(model), np.dtype(dtype)
    if dtype == np.float32:
        return True
    if is_gguf(path):
        return False
    if native.is_native(path):
        return native.stored_scheme(path) is None and np.dtype(native.stored_dtype(path)) == dtype
    with _dtypes_of(path) as tensors:
        return all(DTYPES.get(tensors.dtype(name)) == dtype for name in tensors.files)


def check_tied_head(spec: ModelSpec, tensors: TensorSource, match: Match) -> None:
    """Raises a `UserError` where a tied head is stored a second time with other values."""
    if not spec.tied or spec.head is not None:
        return
    untied = FAMILIES[spec.family].leaves(dataclasses.replace(spec, tied=False))
    head, embed = (next(leaf.name for leaf in untied if leaf.path == (part,)) for part in ("head", "embed"))
    if head in tensors.files and not np.array_equal(tensors.read(head), tensors.read(match.names[embed])):
        raise UserError(f"config.json ties the head to the embedding, but {head} differs from it",
                        tensors.files[head].file, "set tie_word_embeddings to false in config.json")


def _read_part(leaf: TensorMap, tensors: TensorSource, stored_names: dict[str, str], dtype: np.dtype,
               name: str) -> np.ndarray:
    """Reads one tensor, transposed and sliced as our parameter needs it."""
    tensor = tensors.read(stored_names[name])
    with np.errstate(over="ignore"):  # reported by `convert`, with the parameter's name
        return cut(leaf, tensor.T if leaf.transpose else tensor).astype(dtype, copy=False)


def _put_stacked(leaf: TensorMap, spec: ModelSpec, shape: tuple[int, ...], read: Any, sharding: Any,
                 scheme: Scheme | None) -> Any:
    """Puts one parameter on its devices, with its layers stacked."""
    parts = names_of(leaf, spec)
    shrink = jax.jit(partial(quantize, scheme=scheme)) if scheme is not None else lambda value: value
    first, name = parts[0]
    if not first:
        return shrink(jax.device_put(read(name), sharding))
    whole = read(name)
    if whole.nbytes * len(parts) <= GATHERED_BYTES:
        gathered = np.empty(shape, whole.dtype)
        gathered[first] = whole
        for index, name in parts[1:]:
            gathered[index] = read(name)
        return shrink(jax.device_put(gathered, sharding))
    one_layer = sharding if not isinstance(sharding, NamedSharding) else NamedSharding(
        sharding.mesh, P(*(*sharding.spec, *[None] * (len(shape) - len(sharding.spec)))[len(first):]))
    stack = None
    for index, name in parts:
        # One layer after the other: without waiting, all of them could be in flight at once.
        layer = jax.block_until_ready(jax.device_put(whole if index == first else read(name), one_layer))
        whole, layer = None, shrink(layer)
        if stack is None:
            stack = _empty_stack(shape[:len(first)], layer, sharding if scheme is None else None)
        stack, layer = jax.block_until_ready(_write_layer(stack, layer, np.array(index, np.int32))), None
    return stack


def _empty_stack(layers: tuple[int, ...], layer: Any, sharding: Any) -> Any:
    """Allocates a buffer for all layers with the parameter's sharding."""
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*layers, *leaf.shape), leaf.dtype), layer)
    shardings = jax.tree.map(lambda leaf: sharding or _with_layers(leaf.sharding, len(layers)), layer)
    make = lambda: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.jit(make, out_shardings=shardings)()


def _with_layers(sharding: Any, layers: int) -> Any:
    """Returns the sharding of a stack of arrays with `sharding`."""
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, P(*[None] * layers, *sharding.spec))
    return sharding


@partial(jax.jit, donate_argnums=0)
def _write_layer(stack: Any, layer: Any, index: jax.Array) -> Any:
    """Writes one layer into the stack, in the same memory."""
    def write(buffer, value):
        value = value.reshape(*[1] * len(index), *value.shape)
        start = (*index, *[jnp.int32(0)] * (buffer.ndim - len(index)))
        return lax.dynamic_update_slice(buffer, value, start)

    return jax.tree.map(write, stack, layer)


def _insert(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
