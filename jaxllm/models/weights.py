"""Hugging Face checkpoints in and out: safetensors and `config.json`, nothing else."""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.assets import resolve
from jaxllm.directories import new_directory
from jaxllm.errors import UserError
from jaxllm.files import write_atomic
from jaxllm.models.decoder import Params, init
from jaxllm.models.families import FAMILIES, Leaf, read_config, write_config
from jaxllm.models.families.table import cut, fuse
from jaxllm.models.spec import ModelSpec

INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja",
                   "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json", "generation_config.json")
MAX_SHARD_BYTES = 5 * 2**30


def model_directory(model: str | Path) -> Path:
    """The directory of a checkpoint: `tiny`, a local directory, or a Hub id (fetched or cached).

    Raises:
        UserError: there is no such checkpoint.
    """
    path = resolve(model)
    if path.is_dir():
        return path
    name = str(model)
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError("no checkpoint directory", model, "give a directory with config.json and *.safetensors, "
                        "a Hub id such as org/name, or 'tiny'")
    from huggingface_hub import snapshot_download  # costs a third of a second, and most runs are local

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model",
                                                            "merges.txt"],
                                      ignore_patterns=["consolidated*", "original/*"]))
    except Exception as error:  # the hub client raises a dozen unrelated kinds
        reason = str(error).splitlines()[0]
        raise UserError(f"neither a directory nor a model that the Hub would give: {reason}", name,
                        "check the name, the connection, and HF_HUB_OFFLINE") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, or a `UserError` that says what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError("the file is missing", path) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", path) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"not valid JSON: {error}", path) from None
    if not isinstance(content, dict):
        raise UserError("must hold a JSON object", path)
    return content


def load_spec(model: str | Path) -> ModelSpec:
    """Reads `config.json` (and the end tokens of `generation_config.json`) of a checkpoint."""
    path = model_directory(model)
    config = read_json(path / "config.json")
    spec = read_config(config, path / "config.json")
    generation = path / "generation_config.json"
    if generation.exists():
        more = read_json(generation).get("eos_token_id")
        more = [more] if isinstance(more, int) else more or []
        spec = spec.__class__(**{**spec.__dict__, "eos_ids": tuple(dict.fromkeys([*spec.eos_ids, *more]))})
    return spec


def open_safetensors(file: Path, stack: contextlib.ExitStack) -> Any:
    """A lazy reader of one safetensors file, closed with `stack`."""
    from safetensors import SafetensorError, safe_open

    try:
        return stack.enter_context(safe_open(file, framework="numpy"))
    except FileNotFoundError:
        raise UserError("the file is missing", file, "fetch the checkpoint again") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"not a whole safetensors file: {error}", file, "fetch the file again") from None


class Tensors:
    """Lazy reader of a checkpoint's safetensors files, by tensor name."""

    def __init__(self, path: Path, spec: ModelSpec, stack: contextlib.ExitStack):
        self.path, self.spec, self.files = path, spec, {}
        for file in self._shards(path):
            reader = open_safetensors(file, stack)
            for name in reader.keys():
                self.files[name] = (reader, file)

    @staticmethod
    def _shards(path: Path) -> list[Path]:
        if (path / INDEX).exists():
            names = read_json(path / INDEX).get("weight_map")
            if not isinstance(names, dict):
                raise UserError("has no weight_map", path / INDEX)
            if not all(isinstance(name, str) and Path(name).name == name for name in names.values()):
                raise UserError("names a file outside its directory", path / INDEX)
            return [path / name for name in sorted(set(names.values()))]
        if (path / "model.safetensors").exists():
            return [path / "model.safetensors"]
        pickled = sorted(path.glob("*.bin")) + sorted(path.glob("*.pt"))
        raise UserError(
            "no model.safetensors" + (f"; {pickled[0].name} is not read, it can run code" if pickled else ""),
            path, "convert the checkpoint to safetensors" if pickled else None)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.files[name][0].get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        reader, file = self.files[name]
        kind = reader.get_slice(name).get_dtype()
        if kind not in ("F64", "F32", "F16", "BF16"):
            raise UserError(f"tensor '{name}' has type {kind}; only F64, F32, F16 and BF16 are read", file)
        return reader.get_tensor(name)


def load_model(model: str | Path, dtype: jnp.dtype = jnp.float32, shardings: Any = None) -> tuple[ModelSpec, Params]:
    """Reads a checkpoint of a supported family.

    Args:
        model: `tiny`, a directory, or a Hub id.
        dtype: of the parameters.
        shardings: tree like the parameters, where each goes; the default device if None.

    Returns:
        The spec, and parameters with stacked layers.

    Raises:
        UserError: files missing or damaged, tensors missing, unknown, or of another shape.
    """
    path = model_directory(model)
    spec = load_spec(path)
    family = FAMILIES[spec.family]
    shapes = jax.eval_shape(lambda: init(spec, jax.random.key(0)))
    with contextlib.ExitStack() as stack:
        tensors = Tensors(path, spec, stack)
        renamed = _match_names(spec, tensors, family)
        params: Params = {}
        leaves = family.leaves(spec)
        widths = _fused_widths(leaves)
        for leaf in leaves:
            wanted = _lookup(shapes, leaf.path).shape
            value = _read_leaf(leaf, wanted, widths.get(leaf.name), tensors, renamed, np.dtype(dtype))
            place = None if shardings is None else _lookup(shardings, leaf.path)
            _insert(params, leaf.path, jax.device_put(value, place))
        _check_tied_head(spec, params, tensors)
    return spec, params


def _match_names(spec: ModelSpec, tensors: Tensors, family) -> dict[str, str]:
    """Our table's tensor names -> those of the file; complains about missing and unknown ones."""
    wanted = [name for leaf in family.leaves(spec) for _, name in _names(leaf, spec)]
    found = {name: next((n for n in (name, name.removeprefix(family.prefix)) if n in tensors.files), None)
             for name in wanted}
    missing = sorted(name for name, there in found.items() if there is None)
    if missing:
        raise UserError(f"{len(missing)} tensors are missing: {_some(missing)}", tensors.path)
    known = {*found.values(), *(("lm_head.weight",) if spec.tied else ())}
    unknown = sorted(n for n in tensors.files if n not in known and not n.endswith(family.ignored))
    if unknown:
        raise UserError(f"{len(unknown)} tensors have no place in a {spec.family} model as config.json "
                        f"describes it: {_some(unknown)}", tensors.path)
    return found


def _names(leaf: Leaf, spec: ModelSpec) -> list[tuple[tuple[int, ...], str]]:
    """(place in our array, tensor name) for every tensor that a leaf is made of: one, or one a layer (and expert)."""
    if "{i}" not in leaf.name:
        return [((), leaf.name)]
    if "{e}" not in leaf.name:
        return [((i,), leaf.name.format(i=i)) for i in range(spec.layers)]
    return [((i, e), leaf.name.format(i=i, e=e)) for i in range(spec.layers) for e in range(spec.experts.count)]


def _fused_widths(leaves: Sequence[Leaf]) -> dict[str, int]:
    """Size of the last axis of every tensor that several leaves share."""
    widths: dict[str, int] = {}
    for leaf in leaves:
        if leaf.part is not None:
            widths[leaf.name] = max(widths.get(leaf.name, 0), leaf.groups * leaf.part[1])
    return widths


def _read_leaf(leaf: Leaf, wanted: tuple[int, ...], fused: int | None, tensors: Tensors, renamed: dict[str, str],
               dtype: np.dtype) -> np.ndarray:
    """One of our parameters in host memory, its layers stacked."""
    out = np.empty(wanted, dtype)
    for place, name in _names(leaf, tensors.spec):
        one = out[place].shape
        stored = (*one[:-1], fused or one[-1])
        stored = stored[::-1] if leaf.transpose else stored
        name = renamed[name]
        if tensors.shape(name) != stored:
            raise UserError(f"tensor '{name}' has shape {list(tensors.shape(name))}, config.json implies "
                            f"{list(stored)}", tensors.files[name][1])
        tensor = tensors.read(name)
        out[place] = cut(leaf, tensor.T if leaf.transpose else tensor)
    return out


def _check_tied_head(spec: ModelSpec, params: Params, tensors: Tensors) -> None:
    if not spec.tied or "lm_head.weight" not in tensors.files:
        return
    head = tensors.read("lm_head.weight").astype(params["embed"].dtype)
    if head.shape != params["embed"].shape or not np.array_equal(head, np.asarray(params["embed"])):
        raise UserError("config.json ties the head to the embedding, but lm_head.weight differs from it",
                        tensors.path, "set tie_word_embeddings to false in config.json")


def save_model(path: str | Path, spec: ModelSpec, params: Params, tokenizer_source: str | Path | None = None,
               max_shard_bytes: int = MAX_SHARD_BYTES) -> Path:
    """Writes a checkpoint directory that torch transformers loads.

    The directory appears whole or not at all.

    Args:
        path: must not exist yet, or be empty.
        spec, params: the network; layers stacked.
        tokenizer_source: checkpoint whose tokenizer and generation settings are copied along.
        max_shard_bytes: a larger checkpoint becomes several files and an index.

    Returns:
        `path`.
    """
    shards = _shard(_export(spec, params), max_shard_bytes)
    count = len(shards)
    names = (["model.safetensors"] if count == 1 else
             [f"model-{k + 1:05d}-of-{count:05d}.safetensors" for k in range(count)])
    with new_directory(path) as target:
        for name, shard in zip(names, shards, strict=True):
            save_tensors(target / name, shard)
        if count > 1:
            weight_map = {tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
            size = sum(array.nbytes for shard in shards for array in shard.values())
            index = {"metadata": {"total_size": size}, "weight_map": weight_map}
            write_atomic(target / INDEX, json.dumps(index, indent=2))
        dtype = str(jax.tree.leaves(params)[0].dtype)
        write_atomic(target / "config.json", json.dumps(write_config(spec, dtype), indent=2) + "\n")
        if tokenizer_source is not None:
            source = model_directory(tokenizer_source)
            for name in TOKENIZER_FILES:
                if (source / name).exists():
                    shutil.copy(source / name, target / name)
    return Path(path)


def save_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes one safetensors file; a full disk is an `OSError` with ENOSPC, as everywhere."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        save_file(tensors, path, metadata={"format": "pt"})
        path.chmod(0o644)  # the library makes it private
    except SafetensorError as error:
        # The library reports a full disk as a text of its own kind.
        if f"os error {errno.ENOSPC}" in str(error) or f"os error {errno.EDQUOT}" in str(error):
            raise OSError(errno.ENOSPC, str(error)) from error
        raise


def _export(spec: ModelSpec, params: Params) -> dict[str, np.ndarray]:
    """Checkpoint tensors by name, fused ones joined, in the order of the family's table."""
    shared: dict[str, list[Leaf]] = collections.defaultdict(list)
    for leaf in FAMILIES[spec.family].leaves(spec):
        shared[leaf.name].append(leaf)
    found = {}
    for leaves in shared.values():
        values = [np.asarray(_lookup(params, leaf.path)) for leaf in leaves]
        for place, name in _names(leaves[0], spec):
            tensor = fuse(leaves, [value[place] for value in values])
            found[name] = np.ascontiguousarray(tensor.T if leaves[0].transpose else tensor)
    return found


def _shard(tensors: dict[str, np.ndarray], limit: int) -> list[dict[str, np.ndarray]]:
    shards: list[dict[str, np.ndarray]] = [{}]
    room = limit
    for name, tensor in tensors.items():
        if shards[-1] and tensor.nbytes > room:
            shards.append({})
            room = limit
        shards[-1][name] = tensor
        room -= tensor.nbytes
    return shards


def _lookup(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _insert(tree: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
