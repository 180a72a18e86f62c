"""Throughput of a local judge on many programs against a loop over single prompts: the same model and the same answers.

    python scripts/bench_judge.py ROWS [--model tiny] [--prompts FILE] [--format plain] [--rows 64] [--max_tokens 10]
        [--method direct] [--batch_size 32] [--repeats 3]

ROWS has programs in the form of `jaxllm judge`; the first ones are judged by the first step of the method, greedily.
Both sides have compiled before the clock starts, and take turns. Tokens read are those of prompts that go through the
network; the prefix tree over the prompts' ids has as many nodes as any order of reading needs at least.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from jaxllm.codejudge import METHODS, CodeJudge, Config, load_prompts, read_items
from jaxllm.config import SamplingConfig
from jaxllm.devices import DeviceConfig
from jaxllm.judge import JudgeConfig, LocalJudge, Prompt, open_judge


def nodes(prompts: Sequence[Sequence[int]]) -> int:
    """Counts the nodes of the prefix tree over the ids."""
    count, before = 0, ()
    for ids in sorted(map(tuple, prompts)):
        common = next((i for i, (a, b) in enumerate(zip(ids, before, strict=False)) if a != b),
                      min(len(ids), len(before)))
        count, before = count + len(ids) - common, ids
    return count


def seconds(work: Callable[[], list[str]]) -> tuple[float, list[str]]:
    start = time.perf_counter()
    texts = work()
    return time.perf_counter() - start, texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--format", default="auto", choices=("auto", "chat", "plain"))
    parser.add_argument("--method", default="direct", choices=list(METHODS))
    for name, value in (("rows", 64), ("max_tokens", 10), ("repeats", 3), ("batch_size", 32)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    judge = open_judge(JudgeConfig(model=options.model, batch_size=options.batch_size, format=options.format),
                       DeviceConfig())
    assert isinstance(judge, LocalJudge)
    asker = CodeJudge(judge, Config(task="-", code=[Path("-")], method=options.method),
                      load_prompts(options.prompts))
    window = judge.model.spec.max_positions - options.max_tokens
    prompts: list[Prompt] = []
    for item in read_items(options.data)[0]:
        prompt = asker.prompt(asker.steps[0], item)
        if judge.unanswerable_reason(prompt, options.max_tokens) is None:
            prompts.append(prompt)
    prompts = prompts[:options.rows]
    sampling = SamplingConfig(temperature=0.0, max_tokens=options.max_tokens)
    together = lambda: [answers[0].text for answers in judge.complete(prompts, sampling)]
    single = lambda: [judge.complete([prompt], sampling)[0][0].text for prompt in prompts]
    together(), single()
    pairs = []
    for _ in range(options.repeats):
        before = judge.stats.prompt_tokens
        fast, ours = seconds(together)
        read = judge.stats.prompt_tokens - before
        slow, theirs = seconds(single)
        assert ours == theirs, "the answers differ"
        pairs.append((fast, slow))
        print(f"{len(prompts)} programs: {fast:.2f} s together, {slow:.2f} s one by one", flush=True)
    least = nodes([judge._ids(prompt) for prompt in prompts])
    print(f"| model | method | programs | seconds | one by one | ratio | tokens read | nodes | ratio |\n{'|---' * 9}|")
    fast, slow = (statistics.median(values) for values in zip(*pairs, strict=True))
    ratio = statistics.median(slow / fast for fast, slow in pairs)
    print(f"| {options.model} | {options.method} | {len(prompts)} | {fast:.2f} | {slow:.2f} | {ratio:.2f} | {read:,} | "
          f"{least:,} | {read / least:.3f} |")
    print(f"Prompts that do not fit a window of {window} tokens are left out.")


if __name__ == "__main__":
    main()
