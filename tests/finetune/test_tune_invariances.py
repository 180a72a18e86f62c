"""What changes how a step is computed does not change a training run: microbatches, packing, devices, a stop."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.cli import main
from jaxllm.finetune.texts import completion_text, scored_text
from jaxllm.finetune.tune.config import Config
from jaxllm.finetune.tune.run import FixedGroups
from jaxllm.model import Model
from jaxllm.models import with_score_head
from jaxllm.parsing import parse
from jaxllm.train import Checkpointer, read_metrics
from tests.networks import LLAMA, random_params
from tests.processes import run_file
from tests.tuning import trajectory

STEPS, ROWS = 5, 20
# Weighted losses of the mixture take means over pairs, and over tokens.
METHODS = {"dpo": ["--method=dpo", "--loss=[sigmoid, ipo, sft]", "--loss_weights=[1.0, 0.01, 0.1]"],
           "sft": ["--method=sft"], "reward": ["--method=reward", "--centering=0.01"]}
SCRIPT = Path(__file__).with_name("tune_devices.py")
JOB = ["--lora=null", "--save=nothing", "--train.steps=4", "--train.epochs=null", "--train.batch_size=8",
       "--train.log_every=1", "--train.lr=1e-4", "--held_back.share=0.2"]
EVERY = ["dpo", *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS if name != "dpo")]


def run(method, *arguments, **more):
    """Trains a small random network; packed by default."""
    config = parse(Config, ["--data.path=unused", "--out=unused", *METHODS[method], "--lora=null", "--save=nothing",
                            f"--train.steps={STEPS}", "--train.epochs=null", "--train.batch_size=8",
                            "--train.log_every=1", "--train.lr=3e-3", "--train.schedule=constant",
                            "--train.packing=true", *arguments])
    spec, params = LLAMA, random_params(LLAMA, 0)
    if method == "reward":
        spec, params = with_score_head(spec, params, 1)
    return trajectory(config, Model(spec, params, None), data(method, spec), **more)


def data(method, spec):
    """Draws texts of 5 to 16 tokens, pairs with margins and soft labels, and weights."""
    random = np.random.default_rng(0)
    draw = lambda: random.integers(3, LLAMA.vocab_size, random.integers(2, 9)).tolist()
    groups = []
    for _ in range(ROWS):
        prompt, answers = draw(), [draw() for _ in range(1 if method == "sft" else 2)]
        groups.append(tuple(scored_text(spec, prompt + answer) if method == "reward" else
                            completion_text(prompt + answer, [False] * len(prompt) + [True] * len(answer))
                            for answer in answers))
    values = {"weight": random.choice([0.5, 1.0, 2.0], ROWS)}
    if method != "sft":
        values |= {"label_probability": random.uniform(0.6, 1.0, ROWS), "margin": random.uniform(0.0, 0.5, ROWS)}
    return FixedGroups(groups, {name: value.astype(np.float32) for name, value in values.items()}, list(range(ROWS)))


@pytest.fixture(scope="module")
def plain():
    """`plain(method)`: the numbers of every step of a packed run."""
    made = {}
    return lambda method: made.setdefault(method, run(method))


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """Rows, and the numbers of a job on one device by method."""
    folder = tmp_path_factory.mktemp("one device")
    random, rows = np.random.default_rng(0), folder / "rows.jsonl"
    places = lambda: " ".join(random.choice(["Rinla", "Dorok", "Selva", "Marun"], random.integers(1, 6)))
    rows.write_text("".join(json.dumps({"prompt": f"{i} ships sail to", "chosen": f" {places()}",
                                        "rejected": f" {places()} and back"}) + "\n" for i in range(ROWS)))
    for method in METHODS:
        assert main(["tune", f"--method={method}", f"--data.path={rows}", f"--out={folder / method}", *JOB]) == 0
    return rows, {method: read_job(folder / method) for method in METHODS}


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
def test_microbatches_and_packing(plain, method, change):
    assert_same(run(method, change), plain(method))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_goes_on(tmp_path, plain, method):
    """Bit for bit: order, moments and reference model are those of the whole run."""
    lines = []
    for steps in (2, STEPS):
        with Checkpointer(tmp_path / "checkpoints") as checkpointer:
            lines += run(method, steps=steps, checkpointer=checkpointer)
    assert_same(lines, plain(method), limit=0)


@pytest.mark.parametrize("method", EVERY)
def test_a_step_compiles_nothing_anew(programs, method):
    lines = run(method, seen=programs)
    assert len({line["seen"] for line in lines}) == 1


@pytest.mark.slow
def test_eight_devices(tmp_path, one_device):
    """Two copies of the weights, each split over two groups, each of two devices; the evaluation too."""
    rows, expected = one_device
    done = run_file(SCRIPT, ",".join(METHODS), rows, tmp_path, *JOB, "--mesh.data=2", "--mesh.fsdp=2",
                    "--mesh.tensor=2", devices=8)
    assert done.returncode == 0, done.stderr[-2000:]
    for method in METHODS:
        for name, value in read_job(tmp_path / method).items():
            assert_allclose(value, expected[method][name], rtol=1e-5, atol=1e-5, err_msg=f"{method} {name}")
