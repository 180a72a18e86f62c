"""Measures a job that only reads its rows: peak memory and CPU time for many preference rows.

    python scripts/rows_throughput.py [--rows 200000]

Writes a temporary JSONL file of synthetic preference rows (11 fields, about 1 kB each) and runs a job over it in a
process of its own: the file is pinned by its hash, every row is parsed and checked, and a count is written to
result.json.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from jaxllm.job import open_job
from jaxllm.text.rows import NonEmpty, Rejected, check_share, data_files, iter_rows

REQUIRED = {"prompt": NonEmpty[str], "chosen": NonEmpty[str], "rejected": NonEmpty[str]}
OPTIONAL = {"id": str | int, "score_chosen": float, "score_rejected": float, "tags": list[str]}


@dataclass(frozen=True)
class Config:
    """A job that counts the rows of a file.

    Args:
        data: JSONL file.
        out: directory of the job.
    """

    data: str
    out: Path


def run(config: Config) -> Path:
    """Runs the job; returns the path of its result.json."""
    with open_job(config.out, config) as job:
        job.pin_file("data", data_files(config.data))
        good, rejected = 0, []
        for row in iter_rows(config.data, REQUIRED, OPTIONAL):
            if isinstance(row, Rejected):
                rejected.append(row)
            else:
                good += 1
        job.write_rejected(rejected)
        check_share(good, rejected, 0.1)
        return job.write_result({"rows": good, "rejected": len(rejected)})


def write_rows(path: Path, count: int) -> None:
    """Writes `count` synthetic preference rows."""
    rng = random.Random(0)
    words = 'the model gives a better answer: as it reads "more" of the text and does not repeat itself é\n'.split(" ")
    text = lambda length: " ".join(rng.choices(words, k=length))
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            file.write(json.dumps({
                "id": f"row-{i}", "prompt": text(30), "chosen": text(55), "rejected": text(55), "source": "synthetic",
                "annotator": i % 50, "score_chosen": rng.random(), "score_rejected": rng.random(), "lang": "en",
                "tags": ["helpful", "short"], "created": "2024-01-01T00:00:00Z"}, ensure_ascii=False) + "\n")


def measure(path: Path, out: Path) -> dict[str, float]:
    """Runs the job in a process of its own; returns rows, peak_mb (resident memory) and cpu_s (user and system)."""
    done = subprocess.run([sys.executable, __file__, "--job", str(path), str(out)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        result = json.loads(run(Config(options.job[0], Path(options.job[1]))).read_text())
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({"rows": result["rows"], "peak_mb": used.ru_maxrss / 1024,
                          "cpu_s": used.ru_utime + used.ru_stime}))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_rows(path, options.rows)
        size = path.stat().st_size / 1e6
        used = measure(path, Path(folder) / "run")
    print(f"{used['rows']:,} rows ({size:.0f} MB): peak {used['peak_mb']:.0f} MB resident, {used['cpu_s']:.1f} s CPU")


if __name__ == "__main__":
    main()
