"""Measures `jaxllm audit` and `jaxllm clean --method sac` on many preference rows: seconds, and peak memory (Linux).

    python scripts/feedback_scale.py [--rows 200000]

Writes temporary files of synthetic preference rows (11 fields, about 1 kB each) and of the scores that eight members
give them, in wide form, and runs both verbs in processes of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rows_throughput import write_rows

MEMBERS = 8


def write_scores(path: Path, count: int) -> None:
    """Writes scores of eight members that agree with most labels, of the rows of `write_rows`."""
    rng = np.random.default_rng(0)
    with open(path, "w", encoding="utf-8") as file:
        for number in range(count):
            scores = rng.normal([0.7, 0.0], 1.0, (MEMBERS, 2)) + rng.normal(0, 0.5, 2)
            file.write(json.dumps({"id": f"row-{number}", "scores": {
                f"m{member}": own for member, own in enumerate(scores.round(4).tolist())}}) + "\n")


def measure(*words: Any) -> dict[str, float]:
    """Runs a verb in a process of its own; returns seconds, cpu_s (user and system) and peak_mb (resident memory), both
    of all its processes."""
    start, peak, ended = time.perf_counter(), 0, 0
    process = subprocess.Popen([sys.executable, "-m", "jaxllm", *map(str, words)], stdout=subprocess.DEVNULL)
    while not ended:
        peak = max(peak, resident(process.pid))
        time.sleep(0.05)
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"jaxllm {' '.join(map(str, words))} failed")
    return {"seconds": time.perf_counter() - start, "cpu_s": used.ru_utime + used.ru_stime, "peak_mb": peak / 1024}


def resident(number: int) -> int:
    """Returns the resident memory of a process and those that it started, in KiB; pages that they share count once."""
    folder = Path("/proc") / str(number)
    try:
        own = re.search(r"^Pss: *(\d+)", (folder / "smaps_rollup").read_text(), re.MULTILINE)
        children = (folder / "task" / str(number) / "children").read_text().split()
        # Before it runs a program of its own, a process is in the memory of the one that starts it.
        started = [child for child in children if command(child) != command(number)]
    except OSError:  # it has ended
        return 0
    return (int(own[1]) if own else 0) + sum(map(resident, map(int, started)))


def command(number: int | str) -> bytes:
    """Returns the command line of a process."""
    return (Path("/proc") / str(number) / "cmdline").read_bytes()


def audit_and_clean(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """Measures both verbs on `count` rows."""
    rows, scores = folder / "rows.jsonl", folder / "scores.jsonl"
    write_rows(rows, count)
    write_scores(scores, count)
    audit = measure("audit", "--data.path", rows, "--committee.scores", scores, "--out", folder / "audit")
    return {"audit": audit, "clean": measure("clean", "--method", "sac", "--data.path", rows, "--audit",
                                             folder / "audit", "--out", folder / "cleaned")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = audit_and_clean(Path(folder), options.rows)
    for verb, used in found.items():
        print(f"{verb}: {used['seconds']:.1f} s ({used['cpu_s']:.1f} s CPU), peak {used['peak_mb']:.0f} MB")


if __name__ == "__main__":
    main()
