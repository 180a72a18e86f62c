import json
import math
import os
import subprocess
import sys

import numpy as np

from jaxllm.train import MetricsWriter, read_metrics


def test_a_line_is_in_the_file_as_soon_as_it_is_written(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    writer = MetricsWriter(path)
    writer.write(1, {"loss": np.float32(0.5), "rows": np.int64(3), "phase": "warmup", "best": None})
    assert path.read_text() == '{"step": 1, "loss": 0.5, "rows": 3, "phase": "warmup", "best": null}\n'
    writer.close()


def test_values_that_json_cannot_represent(tmp_path):
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path) as writer:
        writer.write(3, {"loss": math.nan, "norm": np.float32(np.inf), "gap": -math.inf, "ok": 1})

    def refuse(token):
        raise AssertionError(f"{token} is not JSON")

    assert json.loads(path.read_text(), parse_constant=refuse) == {
        "step": 3,
        "loss": None,
        "norm": None,
        "gap": None,
        "ok": 1,
        "nonfinite": {"loss": "nan", "norm": "inf", "gap": "-inf"},
    }


def test_nested_values(tmp_path):
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path) as writer:
        agents = {"leader": {"kl": np.float32(0.5)}, "follower": {"kl": math.nan}}
        writer.write(1, {"agents": agents, "lengths": [1, 2]})
    assert read_metrics(path) == [{"step": 1, "agents": {"leader": {"kl": 0.5}, "follower": {"kl": None}},
                                   "lengths": [1, 2], "nonfinite": {"agents.follower.kl": "nan"}}]


def test_resuming_removes_later_lines_and_a_torn_one(tmp_path):
    path = tmp_path / "m.jsonl"
    with MetricsWriter(path) as writer:
        for step in (2, 4, 6):
            writer.write(step, {"loss": step / 2})
    with open(path, "a") as file:
        file.write('{"step": 8, "lo')
    assert [line["step"] for line in read_metrics(path)] == [2, 4, 6]
    with MetricsWriter(path, resume_step=4) as writer:
        writer.write(6, {"loss": 9.0})
    assert (
        path.read_text() == '{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 2.0}\n{"step": 6, "loss": 9.0}\n'
    )


def test_a_new_run_starts_an_empty_file(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 0, "loss": 1.0}\n')
    with MetricsWriter(path):
        pass
    assert path.read_text() == ""
    assert os.listdir(tmp_path) == ["m.jsonl"]


FILL = """
import resource, signal, sys
from jaxllm.train import MetricsWriter, StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = MetricsWriter(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    for step in range(10):
        writer.write(step, {"loss": 1.0})
except StorageError as error:
    print("StorageError", error)
"""


def test_a_full_disk_is_a_storage_error_and_earlier_lines_stay(tmp_path):
    path = tmp_path / "m.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith(f"StorageError {path}: cannot be written"), done.stderr
    assert [line["step"] for line in read_metrics(path)] == [0, 1, 2, 3]
