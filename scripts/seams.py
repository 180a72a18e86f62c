"""Measures the seams of the library that later work depends on, each in a fresh process, as one Markdown table.

    python scripts/seams.py [ITEM ...] [--rows 200000] [--json FILE]

    live         bytes of live arrays over ten calls of one Generator, generation and scoring in turn
    evaluation   compiled programs of the KL evaluation over documents of 3 to 6 questions
    collectives  collectives and temporaries of a vocabulary loss, table split over 4 of 8 virtual devices
    compile      seconds of the first generation with 30 layers of SmolLM2's shape, without and with a compile cache
    rows         CPU seconds and peak memory of 200,000 preference rows through a job that counts them
    cache        answers per second into the judge cache
    server       seconds that the server backend adds to 1,000 to 8,000 prompts
    choose       tokenizer calls of `LocalJudge.choose` for one prompt with two answers

Figures of `compile`, `rows`, `cache` and `server` depend on the machine; the others do not.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Line = tuple[str, str]  # what was measured, the value
DEVICES = {"collectives": 8}


def live(options: argparse.Namespace) -> Iterator[Line]:
    import jax

    import jaxllm

    generator = jaxllm.Generator(jaxllm.load("tiny"), donate=True)
    sampling = jaxllm.SamplingConfig(temperature=0.0, max_tokens=8)
    prompts = [generator.model.prompt_ids(f"Question: What is number {i}? Answer:") for i in range(4)]
    count = lambda: sum(array.nbytes for array in jax.live_arrays())
    weights, start, peaks, after = sum(leaf.nbytes for leaf in jax.tree.leaves(generator.params)), count(), [], []
    for call in range(10):
        during: list[int] = []
        if call % 2 == 0:
            generator.generate(prompts, sampling, on_prompt=lambda *_, during=during: during.append(count()))
        else:
            generator.score([(ids, ids[:5]) for ids in prompts],
                            on_batch=lambda _, during=during: during.append(count()))
        peaks.append(max(during))
        after.append(count())
    yield "weights, bytes", f"{weights:,}"
    yield "live bytes before the calls", f"{start:,}"
    yield "live bytes after each of the ten", ", ".join(f"{count:,}" for count in sorted({*after}))
    yield "largest live bytes during generation / scoring", f"{max(peaks[::2]):,} / {max(peaks[1::2]):,}"


def evaluation(options: argparse.Namespace) -> Iterator[Line]:
    import jax

    import jaxllm
    from jaxllm.assets import resolve
    from jaxllm.evaluate.likelihood import mean_kl, target_batches
    from jaxllm.files import read_jsonl
    from jaxllm.finetune.targets import build_target

    model = jaxllm.load("tiny")
    rows = read_jsonl(resolve("asset:tiny/documents.jsonl"))
    rows = [row for row in rows if row["context"] == rows[0]["context"]] * 6
    encode = model.tokenizer.encode
    targets = [build_target((), encode(row["context"]), encode(f"{row['question']} {row['answers'][0]}"), "qa")
               for row in rows[:6]]
    programs: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, _, **about: "backend_compile" in name and programs.append(about.get("fun_name", "")))
    counts = []
    for questions in (3, 4, 5, 6):
        before = len(programs)
        mean_kl(model, model.params, target_batches(targets[:questions], model.spec.max_positions))
        counts.append(len(programs) - before)
    yield "programs compiled for 3, 4, 5, 6 questions", ", ".join(map(str, counts))


def collectives(options: argparse.Namespace) -> Iterator[Line]:
    import jax
    import jax.numpy as jnp
    from jax.sharding import NamedSharding, PartitionSpec

    from jaxllm.devices import MeshConfig, open_mesh
    from jaxllm.ops import Unembedding, token_logprobs

    mesh = open_mesh(MeshConfig(data=2, tensor=4))
    vocabulary, width, tokens = 32768, 512, 2048
    shape = lambda dims, dtype, *axes: jax.ShapeDtypeStruct(
        dims, dtype, sharding=NamedSharding(mesh, PartitionSpec(*axes)))
    table = shape((vocabulary, width), jnp.float32, "tensor")
    hidden = shape((8, tokens // 8, width), jnp.float32, "data")
    targets = shape((8, tokens // 8), jnp.int32, "data")
    loss = lambda hidden, table, targets: token_logprobs(hidden, Unembedding(table), targets).sum()
    step = jax.jit(jax.grad(loss, argnums=(0, 1)), out_shardings=(hidden.sharding, table.sharding))
    program = step.lower(hidden, table, targets).compile()
    text, memory = program.as_text(), program.memory_analysis()
    names = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
    counts = {name: len(re.findall(rf"= [^=\n]*? {name}(?:-start)?\(", text)) for name in names}
    gathered = re.findall(r"= (\S+?)\{\S* all-gather(?:-start)?\(", text)
    yield ("loss and gradient, V=32,768, D=512, 2,048 tokens",
           ", ".join(f"{number} {name}" for name, number in counts.items() if number))
    yield "gathered arrays", ", ".join(gathered) or "none"
    yield "temporaries, bytes", f"{memory.temp_size_in_bytes:,}"


def compile_seconds(options: argparse.Namespace) -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        for name, cache in (("without a compile cache", ""), ("first run, empty cache", folder),
                            ("second run, from the cache", folder)):
            report = json.loads(_fresh("_compile_once", options, cache))
            yield f"first generation, {name}, seconds", f"{report['first']:.1f} (second call {report['second']:.1f})"


def _compile_once(options: argparse.Namespace) -> None:
    import jax

    import jaxllm
    from jaxllm.models import ModelSpec, Rope, init_params
    from jaxllm.text import load_tokenizer

    if options.cache:
        jax.config.update("jax_compilation_cache_dir", options.cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    else:
        jax.config.update("jax_enable_compilation_cache", False)
    spec = ModelSpec("llama", vocab_size=49152, width=576, layers=30, heads=9, kv_heads=3, head_dim=64, mlp_width=1536,
                     max_positions=8192, norm_eps=1e-5, rope=Rope(theta=100000.0), tied=True)
    params = jax.block_until_ready(jax.jit(lambda key: init_params(spec, key))(jax.random.key(0)))
    generator = jaxllm.Generator(jaxllm.Model(spec, params, load_tokenizer("tiny")), donate=True)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        generator.generate([list(range(100, 120))], jaxllm.SamplingConfig(temperature=0.0, max_tokens=8))
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"first": seconds[0], "second": seconds[1]}))


def rows(options: argparse.Namespace) -> Iterator[Line]:
    from rows_throughput import measure, write_rows

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, options.rows)
        used = measure(path, Path(folder) / "run")
        yield f"rows, {path.stat().st_size / 1e6:.0f} MB", f"{used['rows']:,}"
        yield "seconds of CPU", f"{used['cpu_s']:.1f}"
        yield "peak memory, MB", f"{used['peak_mb']:.0f}"


def cache(options: argparse.Namespace) -> Iterator[Line]:
    from jaxllm import SamplingConfig
    from jaxllm.judge import Cached, FunctionJudge, Prompt

    count = 20000
    prompts = [Prompt(f"prompt number {i} " * 10) for i in range(count)]
    judge = FunctionJudge(lambda prompt, sampling, seed: ["an answer"],
                          lambda prompt, answers: {answer: 1 / len(answers) for answer in answers}, "function")
    with tempfile.TemporaryDirectory() as folder:
        cached, sampling = Cached(judge, f"{folder}/answers.sqlite"), SamplingConfig(temperature=0.0, max_tokens=8)
        for name in ("written", "read"):
            start = time.perf_counter()
            cached.complete(prompts, sampling)
            yield f"answers {name} per second", f"{count / (time.perf_counter() - start):,.0f}"


def server(options: argparse.Namespace) -> Iterator[Line]:
    from jaxllm.judge import Prompt, ServerJudge

    os.environ["OPENAI_API_KEY"] = "none"
    seconds = []
    for count in (1000, 2000, 4000, 8000):
        judge = ServerJudge("model", base_url="http://localhost:9/v1")
        judge._try = lambda *_, **__: ("answer", None)  # a request that returns at once
        start = time.perf_counter()
        prompts = [Prompt(f"prompt {i}") for i in range(count)]
        judge._send(prompts, lambda prompt: {"max_tokens": 1}, lambda reply: reply, None, None, None)
        seconds.append(time.perf_counter() - start)
    yield "seconds for 1,000, 2,000, 4,000, 8,000 prompts", ", ".join(f"{value:.2f}" for value in seconds)


def choose(options: argparse.Namespace) -> Iterator[Line]:
    import jaxllm
    from jaxllm.judge import LocalJudge, Prompt

    model = jaxllm.load("tiny")
    texts: list[str] = []

    class Counting:
        """The tokenizer, with a record of what it encodes."""

        def __getattr__(self, name):
            return getattr(model.tokenizer, name)

        def encode(self, text, *arguments, **options):
            texts.append(text)
            return model.tokenizer.encode(text, *arguments, **options)

    prompt = "Question: Which option is pink? A: pink B: brown Answer:"
    judge = LocalJudge(dataclasses.replace(model, tokenizer=Counting()), "model", text_format="plain")
    judge.choose([Prompt(prompt)], ["yes", "no"])
    yield "calls of encode", str(len(texts))
    yield "of which with the whole prompt", str(sum(prompt in text for text in texts))
    yield f"characters encoded (prompt has {len(prompt)})", str(sum(map(len, texts)))


ITEMS: dict[str, Callable[[argparse.Namespace], Any]] = {
    "live": live, "evaluation": evaluation, "collectives": collectives, "compile": compile_seconds, "rows": rows,
    "cache": cache, "server": server, "choose": choose}
PARTS = {"_compile_once": _compile_once}


def _fresh(name: str, options: argparse.Namespace, argument: str = "") -> str:
    """Runs an item in a process of its own and returns its last line of output."""
    env = dict(os.environ, JAX_PLATFORMS="cpu", HF_HUB_OFFLINE="1")
    env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES.get(name, 1)}"
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, __file__, "--run", name, "--rows", str(options.rows), "--cache", argument]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed with status {done.returncode}")
    return done.stdout.splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("items", nargs="*", metavar="ITEM", help="items to measure; all by default")
    parser.add_argument("--rows", type=int, default=200_000, help="rows of the item rows")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--run", help=argparse.SUPPRESS)  # this process measures one item
    parser.add_argument("--cache", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run in PARTS:
        PARTS[options.run](options)
        return
    if options.run:
        print(json.dumps(list(ITEMS[options.run](options))))
        return
    if unknown := set(options.items) - set(ITEMS):
        parser.error(f"unknown items {', '.join(sorted(unknown))}; there are {', '.join(ITEMS)}")
    report = {}
    print("| item | measure | value |\n|---|---|---|")
    for item in options.items or ITEMS:
        report[item] = json.loads(_fresh(item, options))
        for measure, value in report[item]:
            print(f"| {item} | {measure} | {value} |", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
