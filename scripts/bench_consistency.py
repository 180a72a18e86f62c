"""Speed and memory of exact transitivity, and of networkx on sampled subgraphs in the same run.

    python scripts/bench_consistency.py

Prints the seconds of s_tran(5), exact for all instances, and of 1,000 sampled subgraphs of each instance in networkx;
and the seconds and peak memory of the cyclic triads of one large instance, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import jax
import networkx
import numpy as np

from jaxllm.ops.preference_graphs import cyclic_triads, subsets, transitivity


def tournaments(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Draws noisy orders: an edge follows a hidden order with probability 0.9, `[count, size, size]`."""
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((count, size, size)) < 0.9, 1)
    lower = ~np.swapaxes(upper, 1, 2) & np.tril(np.ones((size, size), bool), -1)
    return upper | lower


def sampled_by_networkx(graphs: np.ndarray, samples: int) -> list[float]:
    """Computes the share of sampled subgraphs that are acyclic, one graph after the other."""
    shares = []
    for number, graph in enumerate(graphs):
        whole = networkx.from_numpy_array(graph, create_using=networkx.DiGraph)
        chosen = subsets(len(graph), 5, samples, (0, number))
        shares.append(sum(networkx.is_directed_acyclic_graph(whole.subgraph(rows.tolist())) for rows in chosen)
                      / samples)
    return shares


def small(instances: int, size: int, samples: int) -> dict:
    """Compares both on the same instances."""
    graphs = tournaments(instances, size)
    started = time.perf_counter()
    exact = np.asarray(jax.block_until_ready(transitivity(graphs, 5)))
    first = time.perf_counter() - started
    seconds = []
    for _ in range(5):
        started = time.perf_counter()
        jax.block_until_ready(transitivity(graphs, 5))
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    sampled = sampled_by_networkx(graphs, samples)
    theirs, ours = time.perf_counter() - started, float(np.median(seconds))
    return {"instances": instances, "items": size, "exact_seconds": ours, "exact_seconds_with_compilation": first,
            "networkx_seconds": theirs, "ratio": theirs / ours, "ratio_with_compilation": theirs / first,
            "largest_difference": float(np.abs(exact - sampled).max())}


def large(size: int, pipe) -> None:
    """Measures one large instance; sends the result."""
    rng = np.random.default_rng(0)
    graph = np.zeros((size, size), bool)
    for i in range(size):
        graph[i, i + 1:] = rng.random(size - 1 - i) < 0.9
        graph[i + 1:, i] = ~graph[i, i + 1:]
    started = time.perf_counter()
    triads = float(jax.block_until_ready(cyclic_triads(graph)))
    seconds = time.perf_counter() - started
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    pipe.send({"items": size, "triads": triads, "seconds": seconds, "peak_gb": int(lines["VmHWM"].split()[0]) / 2**20})


def main() -> None:
    """Prints both measurements as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=1000)
    parser.add_argument("--items", type=int, default=20)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--large", type=int, default=20_000)
    options = parser.parse_args()
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=large, args=(options.large, theirs))
    process.start()
    theirs.close()  # so that `recv` ends where the process was killed
    print(json.dumps(ours.recv(), indent=2))
    process.join()
    print(json.dumps(small(options.instances, options.items, options.samples), indent=2))


if __name__ == "__main__":
    main()
