"""What changes how a step is computed does not change a training run: microbatches, packing, devices, a stop."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.cli import main
from jaxllm.finetune.tune.config import Config
from jaxllm.finetune.tune.data import read
from jaxllm.finetune.tune.tuning import prepare, scoring_model
from jaxllm.model import load
from jaxllm.parsing import parse
from jaxllm.train import Checkpointer, read_metrics
from tests.processes import run_file

STEPS, ROWS = 5, 20
# Weighted losses of the mixture take means over pairs, and over tokens.
METHODS = {"dpo": ["--method=dpo", "--loss=[sigmoid, ipo, sft]", "--loss_weights=[1.0, 0.01, 0.1]"],
           "sft": ["--method=sft"], "reward": ["--method=reward", "--centering=0.01"]}
# Losses that compute a statistic over the rows of a batch, which microbatches would separate.
COUPLED = {"kto": ["--method=kto"], "aot": ["--method=aot", "--preference.beta=0.5"], "bco": ["--method=bco"]}
SCRIPT = Path(__file__).with_name("tune_devices.py")
JOB = ["--lora=null", "--save=nothing", "--train.steps=4", "--train.schedule=constant", "--train.epochs=null",
       "--train.batch_size=8", "--train.log_every=1", "--train.lr=1e-4", "--held_back.share=0.2"]
JOBS = (*METHODS, *COUPLED)
EVERY = ["dpo", *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name != "dpo")]


def make_rows(columns=()):
    """Draws pairs of texts of different lengths."""
    random = np.random.default_rng(0)
    places = lambda: " ".join(random.choice(["Rinla", "Dorok", "Selva", "Marun"], random.integers(1, 6)))
    return [{"prompt": f"{i} ships sail to", "chosen": f" {places()}", "rejected": f" {places()} and back"} |
            {name: float(random.uniform(0.5, 1.0)) for name in columns} for i in range(ROWS)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """`run(method, *arguments)`: the numbers of every step of a packed run on rows with weights, margins and soft
    labels."""
    columns = {"sft": ["weight"], "dpo": ["weight", "label_probability"],
               "reward": ["weight", "label_probability", "margin"]}
    folder, model = tmp_path_factory.mktemp("rows"), load("tiny")

    def run(method, *arguments, steps=STEPS, checkpointer=None, seen=lambda: None):
        path = write(folder / f"{method}.jsonl", make_rows(columns.get(method, [])))
        config = parse(Config, [f"--data.path={path}", "--out=unused", *(METHODS | COUPLED)[method], *JOB,
                                "--train.packing=true", f"--train.steps={STEPS}", "--held_back.share=0", *arguments])
        (rows, _), lines = read(config, None), []
        tuning = prepare(config, scoring_model(config, model, []), rows, None, limit_bad=0.0, progress=False)
        tuning = dataclasses.replace(tuning, settings=dataclasses.replace(tuning.settings, steps=steps))
        tuning.fit(checkpointer, SimpleNamespace(write=lambda step, values: lines.append(dict(values, seen=seen()))),
                   progress=False)
        return lines

    return run


@pytest.fixture(scope="module")
def plain(run):
    """`plain(method)`: a run that is not changed."""
    made = {}
    return lambda method: made.setdefault(method, run(method))


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """Rows, and the numbers of a job on one device by method."""
    folder = tmp_path_factory.mktemp("one device")
    rows = write(folder / "rows.jsonl", make_rows())
    for method in JOBS:
        assert main(["tune", f"--method={method}", f"--data.path={rows}", f"--out={folder / method}", *JOB]) == 0
    return rows, {method: read_job(folder / method) for method in JOBS}


def read_job(folder):
    """Returns the losses and norms of all steps, and the means over the held-back rows."""
    lines = read_metrics(folder / "metrics.jsonl")
    assert len(lines) == 4
    steps = {name: [line[name] for line in lines] for name in ("loss", "grad_norm")}
    return steps | {name: measured["mean"] for name, measured in json.loads(
        (folder / "result.json").read_text())["eval"].items()}


def assert_same(lines, expected, limit=1e-5):
    """Compares all numbers but rates, those that rounding may change at a tie, and extremes, which are means of those
    of microbatches."""
    assert [len(lines), len(expected)] == [STEPS, STEPS] and lines[-1]["loss"] != lines[0]["loss"]
    for name in expected[0]:
        if not any(word in name for word in ("per_s", "accura", "seen", "min_", "max_")):
            values, others = ([line[name] for line in run] for run in (lines, expected))
            assert_allclose(values, others, rtol=limit, atol=limit, err_msg=name)


@pytest.mark.parametrize("method", EVERY)
@pytest.mark.parametrize("change", ["--train.accumulate=4", pytest.param("--train.packing=false",
                                                                         marks=pytest.mark.slow)])
def test_microbatches_and_packing(run, plain, method, change):
    assert_same(run(method, change), plain(method))


@pytest.mark.slow
@pytest.mark.parametrize("method", COUPLED)
def test_packing_of_losses_that_couple_rows(run, plain, method):
    assert_same(run(method, "--train.packing=false"), plain(method))


@pytest.mark.slow
@pytest.mark.parametrize("method", JOBS)
def test_a_stopped_run_goes_on(tmp_path, run, plain, method):
    """Bit for bit: order, moments and reference model are those of the whole run."""
    lines = []
    for steps in (2, STEPS):
        with Checkpointer(tmp_path / "checkpoints") as checkpointer:
            lines += run(method, steps=steps, checkpointer=checkpointer)
    assert_same(lines, plain(method), limit=0)


@pytest.mark.parametrize("method", EVERY)
def test_a_step_compiles_nothing_anew(run, programs, method):
    """With this seed all batches are packed into the same number of rows."""
    lines = run(method, "--seed=4", seen=programs)
    assert len({line["seen"] for line in lines}) == 1


@pytest.mark.long
def test_eight_devices(tmp_path, one_device):
    """Two copies of the weights, each split over two groups, each of two devices; the evaluation too."""
    rows, expected = one_device
    done = run_file(SCRIPT, ",".join(JOBS), rows, tmp_path, *JOB, "--mesh.data=2", "--mesh.fsdp=2",
                    "--mesh.tensor=2", devices=8)
    assert done.returncode == 0, done.stderr[-2000:]
    for method in JOBS:
        for name, value in read_job(tmp_path / method).items():
            assert_allclose(value, expected[method][name], rtol=1e-5, atol=1e-5, err_msg=f"{method} {name}")
