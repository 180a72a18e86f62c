"""Measures peak host memory of loading a checkpoint on CPU; the bound is the model and three of its largest tensors.

    python scripts/loading_memory.py [--layers 4] [--stored bfloat16] [--dtype bfloat16] [--quantize none nf4] [--gguf]

Writes a Llama checkpoint of random numbers, 2 GB by default, and loads it in a fresh process for every scheme. After
imports and the start of the backend, the process is measured from outside:

    all         VmHWM of /proc: peak resident memory, pages of mapped files included (exact)
    anonymous   RssAnon: memory that the process has allocated (sampled every millisecond)
    mapped      RssFile: pages of files that the process has mapped, which the system may take back (sampled)

The bound is on `all`, and a tensor counts in the dtype that it is loaded in. Files were just written and come from the
page cache, so the rate is that of the loader, not of the disk. With --gguf the checkpoint is a GGUF file in blocks of 8
bits.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from jaxllm.models import ModelSpec, init_params, load_model  # noqa: E402
from jaxllm.models.families import tensor_maps, write_config  # noqa: E402
from jaxllm.models.matching import lookup, names_of  # noqa: E402
from jaxllm.models.tensors import INDEX, save_tensors  # noqa: E402

# The embedding has the size of a feed-forward matrix, so nearly every tensor is among the largest: the worst case.
# A layer has 243 million parameters, embedding and head 134 million.
WIDTH, VOCABULARY = 4096, 16_384
TENSORS_ALLOWED = 3


def network(layers: int) -> ModelSpec:
    return ModelSpec("llama", VOCABULARY, WIDTH, layers, heads=32, kv_heads=8, head_dim=128, mlp_width=4 * WIDTH,
                     max_positions=2048)


def write_checkpoint(folder: Path, spec: ModelSpec, dtype: jnp.dtype) -> int:
    """Writes a checkpoint, one file per layer and one for the rest; returns the size of its largest tensor.

    All tensors are views of one array of noise: memory does not depend on values.
    """
    shapes = jax.eval_shape(lambda: init_params(spec, jax.random.key(0)))
    files: dict[str, dict[str, tuple[int, ...]]] = {}
    for leaf in tensor_maps(spec):
        for index, name in names_of(leaf, spec):
            shape = lookup(shapes, leaf.path).shape[len(index):]
            file = f"model-{index[0] if index else 'rest'}.safetensors"
            files.setdefault(file, {})[name] = shape[::-1] if leaf.transpose else shape
    largest = max(int(np.prod(shape)) for tensors in files.values() for shape in tensors.values())
    noise = (np.random.default_rng(0).standard_normal(largest, np.float32) * 0.02).astype(dtype)
    for file, tensors in files.items():
        save_tensors(folder / file, {name: noise[:np.prod(shape)].reshape(shape) for name, shape in tensors.items()})
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps(write_config(spec, jnp.dtype(dtype).name)))
    return noise.size


def write_gguf(file: Path, spec: ModelSpec) -> int:
    """Writes a GGUF file of zeros in blocks of 8 bits (Q8_0); returns the number of values of its largest tensor."""
    from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, get_tensor_name_map

    writer, names, block = GGUFWriter(file, "llama"), get_tensor_name_map(MODEL_ARCH.LLAMA, spec.layers), 32
    writer.add_context_length(spec.max_positions)
    writer.add_embedding_length(spec.width)
    writer.add_block_count(spec.layers)
    writer.add_feed_forward_length(spec.mlp_width)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.kv_heads)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    shapes, largest = jax.eval_shape(lambda: init_params(spec, jax.random.key(0))), 0
    for leaf in tensor_maps(spec):
        for index, name in names_of(leaf, spec):
            shape = lookup(shapes, leaf.path).shape[len(index):]
            shape, largest = shape[::-1] if leaf.transpose else shape, max(largest, int(np.prod(shape)))
            stored = names.get_name(name, (".weight", ".bias"))
            if len(shape) == 1:
                writer.add_tensor(stored, np.zeros(shape, np.float32))
            else:
                blocks = np.zeros((*shape[:-1], shape[-1] // block * (block + 2)), np.uint8)
                writer.add_tensor(stored, blocks, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return largest


def resident(pid: int | str) -> dict[str, int]:
    """Reads the resident bytes of a process, by the names of /proc/PID/status."""
    rows = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if row[0].startswith(("VmHWM", "VmRSS", "Rss"))}


def load(pipe, folder: Path, dtype: str, scheme: str | None) -> None:
    """Loads the checkpoint in the fresh process; sends its memory before and its results after."""
    jax.block_until_ready(jax.jit(lambda x: x + 1)(jnp.zeros(8)))  # starts the backend and its compiler
    pipe.send(resident("self"))
    start = time.perf_counter()
    _, params = load_model(folder, jnp.dtype(dtype), scheme=scheme)
    jax.block_until_ready(params)
    seconds = time.perf_counter() - start
    pipe.send((seconds, sum(leaf.nbytes for leaf in jax.tree.leaves(params)), resident("self")["VmHWM"]))


def measure(folder: Path, dtype: str, scheme: str | None) -> tuple[float, int, dict[str, int]]:
    """Returns seconds, bytes of the loaded model, and peaks in bytes above the level before loading."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=load, args=(theirs, folder, dtype, scheme))
    process.start()
    theirs.close()  # otherwise the end of the process would not be noticed
    before = ours.recv()
    peaks = {"RssAnon": 0, "RssFile": 0}
    while not ours.poll(0.001):
        now = resident(process.pid)
        peaks = {name: max(peak, now[name] - before[name]) for name, peak in peaks.items()}
    seconds, nbytes, most = ours.recv()
    process.join()
    return seconds, nbytes, {"all": most - before["VmRSS"], "anonymous": peaks["RssAnon"], "mapped": peaks["RssFile"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--stored", choices=("bfloat16", "float32"), default="bfloat16", help="format in the files")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="format as loaded")
    parser.add_argument("--quantize", nargs="+", choices=("none", "int8", "int4", "nf4"), default=["none", "nf4"])
    parser.add_argument("--gguf", action="store_true", help="a GGUF file, in place of --stored")
    options = parser.parse_args()
    holds, mega = True, 1e6
    with tempfile.TemporaryDirectory() as folder:
        spec = network(options.layers)
        model = Path(folder) / "model.gguf" if options.gguf else Path(folder)
        largest = write_gguf(model, spec) if options.gguf else write_checkpoint(
            model, spec, jnp.dtype(options.stored))
        largest *= jnp.dtype(options.dtype).itemsize
        stored = sum(file.stat().st_size for file in Path(folder).iterdir())
        print(f"{stored / mega:,.0f} MB in {'Q8_0' if options.gguf else options.stored}, loaded in {options.dtype}, "
              f"largest tensor {largest / mega:,.0f} MB; figures in MB")
        print(f"{'quantized':10}{'model':>8}{'all':>8}{'anonymous':>11}{'mapped':>8}{'bound':>8}  holds"
              f"{'seconds':>9}{'MB/s':>8}")
        for name in options.quantize:
            seconds, nbytes, peak = measure(model, options.dtype, None if name == "none" else name)
            bound = nbytes + TENSORS_ALLOWED * largest
            holds &= peak["all"] <= bound
            print(f"{name:10}{nbytes / mega:8,.0f}{peak['all'] / mega:8,.0f}{peak['anonymous'] / mega:11,.0f}"
                  f"{peak['mapped'] / mega:8,.0f}{bound / mega:8,.0f}  {'yes' if peak['all'] <= bound else 'no':5}"
                  f"{seconds:9.1f}{stored / seconds / mega:8,.0f}", flush=True)
    raise SystemExit(0 if holds else 1)


if __name__ == "__main__":
    main()
