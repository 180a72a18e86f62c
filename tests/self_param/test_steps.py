"""Steps and methods of an experiment without a network: order, rehearsal data, merging, resume."""

import types

import jax.numpy as jnp
import pytest

from jaxllm.config import DataConfig
from jaxllm.devices import DeviceConfig
from jaxllm.files import read_jsonl
from jaxllm.finetune import run
from jaxllm.finetune.on_policy import OnPolicyConfig
from jaxllm.self_param import dry_run, experiment
from jaxllm.self_param.config import Config, MixtureConfig
from jaxllm.self_param.experiment import Experiment, run_experiment, weight_dtype
from jaxllm.self_param.targets import DocumentTargets
from jaxllm.train import make_mesh
from jaxllm.train.config import TrainConfig

FIRST = ((1, 2), (3,))
MERGED = []  # adapters, since a test began


class Weights:
    """A `Generator` stub: the names of the adapters merged into the base model."""

    model = types.SimpleNamespace(spec=None)

    def __init__(self, params=()):
        self.params = params

    def merged(self, adapter, donate=False):
        assert donate is bool(self.params)
        MERGED.append(adapter)
        return Weights((*self.params, adapter))


class Evaluations:
    """An `Evaluator` stub that records which weights were evaluated."""

    def __init__(self):
        self.evaluated = []

    def _record(self, numbers, **more):
        return {"documents": list(numbers), "answers": [["x"]] * len(numbers), "f1": [0.0] * len(numbers),
                "accuracy": [0.0] * len(numbers), "f1_paraphrased": [None] * len(numbers), **more}

    def closed_book(self, generator, adapter, numbers, with_kl, rehearsal=(), base_answers=()):
        changed = bool(generator.params) or adapter is not None
        assert list(base_answers) == (["base"] if changed else [])  # changed weights are compared with the base's
        self.evaluated.append((generator.params, adapter, list(numbers), with_kl))
        return self._record(numbers, rehearsal=[list(ids) for ids in rehearsal],
                            probe_answers=["changed" if changed else "base"])

    def open_book(self):
        return self._record(range(3))

    def retrieval(self, injected):
        return self._record(range(3), answers=[[str(number)] for number in (*injected, "-", "-")[:3]])


def sources(types_):
    return [(DocumentTargets((), (number,), (), ((9,),), (), types_, number, FIRST),) for number in range(3)]


@pytest.fixture
def runs(monkeypatch):
    """Replaces training, saving, merging and sampling; returns the runs: name, base, rehearsal texts of the source."""
    trained = []
    MERGED.clear()

    def train_run(job, current, source, plan, name, first_step, labels, base):
        if name in trained_stops:
            trained_stops.remove(name)
            raise KeyboardInterrupt
        own = source.new if hasattr(source, "new") else source
        own = own.sources[0] if hasattr(own, "sources") else own
        trained.append((name, first_step, labels, own.rehearsal))
        return types.SimpleNamespace(adapter=name, params=None)

    trained_stops = []
    monkeypatch.setattr(experiment, "train_run", train_run)
    monkeypatch.setattr(experiment, "_save", lambda *_: None)
    monkeypatch.setattr(experiment, "remove_checkpoints", lambda *_: None)
    monkeypatch.setattr(experiment, "load_adapter", lambda folder, spec: f"{folder.parent.parent.name}/{folder.name}")
    monkeypatch.setattr(experiment, "sample_rehearsal", lambda config, weights, prompts, seed: (
        (len(weights.params), 7), (1, 2)))
    return trained, trained_stops


def make(tmp_path, setting, compare=(), **more):
    config = Config(DataConfig("x"), tmp_path, setting=setting, compare=list(compare),
                    mixture=MixtureConfig(qa=1, rehearsal=1, unrelated=1), **more)
    job = types.SimpleNamespace(directory=tmp_path, checkpoints=tmp_path / "checkpoints")
    targets = {"self_param": sources(("unrelated", "rehearsal"))}
    targets |= {method: sources(("unrelated",)) for method in compare if method != "retrieval"}
    plans = {method: types.SimpleNamespace(train=TrainConfig(steps=steps))
             for method, steps in zip(targets, (10, 4), strict=False)}
    return Experiment(config, job, Weights(), None, [None] * 3, Evaluations(), targets, plans, 1)


def test_sequential_injections_build_on_each_other(tmp_path, runs):
    trained, stops = runs
    own = make(tmp_path, "sequential", ["finetune_questions", "retrieval"])
    stops += ["self_param-0003", "finetune_questions-0002"]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run_experiment(own)
    records = run_experiment(own)
    assert [(record.method, record.step) for record in records] == [
        ("closed_book", 0), ("open_book", 0), *(("self_param", step) for step in (1, 2, 3)),
        *(("finetune_questions", step) for step in (1, 2, 3)), *(("retrieval", step) for step in (1, 2, 3))]
    # In epochs methods have different numbers of steps; the lines of each follow those of the last.
    assert [(name, first_step) for name, first_step, *_ in trained] == [
        ("self_param-0001", 0), ("self_param-0002", 10), ("self_param-0003", 20), ("finetune_questions-0001", 30),
        ("finetune_questions-0002", 34), ("finetune_questions-0003", 38)]
    assert trained[1][2] == {"method": "self_param", "injection": 2}
    # The base model's texts, then those of each later model; the unrelated texts are sampled, so the first go.
    assert [rehearsal for *_, rehearsal in trained[:3]] == [FIRST, ((1, 7), (1, 2)), ((1, 7), (1, 2), (2, 7))]
    assert [record.rehearsal for record in records[2:6]] == [[], [[1, 7], [1, 2]], [[2, 7], [1, 2]], []]
    # A resumed run merges the stored adapters of the injections that are done; KL is measured at the end, for which the
    # last adapter is applied next to the weights.
    weights = [(params, adapter, with_kl) for params, adapter, numbers, with_kl in own.evaluator.evaluated if params]
    folder = tmp_path.name
    assert weights == [(("self_param-0001",), None, False), (("self_param-0001", "self_param-0002"), None, False),
                       ((f"{folder}/0000", f"{folder}/0001"), "self_param-0003", True),
                       (("finetune_questions-0001",), None, False),
                       (("finetune_questions/0000", "finetune_questions-0002"), None, False),
                       (("finetune_questions/0000", "finetune_questions-0002"), "finetune_questions-0003", True)]
    # Those of a method that is finished are not merged.
    assert MERGED == ["self_param-0001", "self_param-0002", f"{folder}/0000", f"{folder}/0001",
                      "finetune_questions-0001", "finetune_questions/0000", "finetune_questions-0002"]
    assert len(read_jsonl(tmp_path / experiment.RECORDS)) == len(records)
    assert run_experiment(own) == records and len(trained) == 6 and len(MERGED) == 7


def test_a_kill_before_checkpoints_are_removed_leaves_none_in_the_end(tmp_path, runs, monkeypatch):
    """They are removed, those that were renamed too, also where all methods are finished."""
    own = make(tmp_path, "sequential")

    def killed(job, names):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "remove_checkpoints", killed)
    for step in (1, 2, 3):
        (own.job.checkpoints / f"self_param-{step:04d}").mkdir(parents=True)
    (own.job.checkpoints / ".self_param-0003").mkdir()
    with pytest.raises(KeyboardInterrupt):
        run_experiment(own)
    monkeypatch.setattr(experiment, "remove_checkpoints", run.remove_checkpoints)
    records = run_experiment(own)
    assert [record.step for record in records] == [0, 0, 1, 2, 3] and not list(own.job.checkpoints.iterdir())


def test_single_injections_start_from_the_base_model(tmp_path, runs):
    trained, stops = runs
    own = make(tmp_path, "single", ["finetune"])
    stops += ["self_param-0002"]
    with pytest.raises(KeyboardInterrupt):
        run_experiment(own)
    records = run_experiment(own)
    assert [(record.method, record.step, record.documents) for record in records[2:]] == [
        (method, step, [step - 1]) for method in ("self_param", "finetune") for step in (1, 2, 3)]
    assert own.evaluator.evaluated[1:] == [((), name, [int(name[-1]) - 1], True) for name, *_ in trained]
    assert {rehearsal for *_, rehearsal in trained} == {FIRST}


def test_batch_injects_all_documents_at_once(tmp_path, runs):
    trained, _ = runs
    own = make(tmp_path, "batch", ["retrieval"])
    records = run_experiment(own)
    assert [(record.method, record.step) for record in records] == [
        ("closed_book", 0), ("open_book", 0), ("self_param", 1), ("retrieval", 1)]
    assert records[3].answers == [["0"], ["1"], ["2"]]
    assert own.evaluator.evaluated[-1] == ((), "self_param-0001", [0, 1, 2], True) and not MERGED


@pytest.mark.parametrize(("setting", "params", "dtype"), [
    ("single", "auto", None), ("sequential", "auto", "float32"), ("sequential", "bfloat16", "bfloat16"),
    ("batch", "float32", "float32")])
def test_weights_that_adapters_are_merged_into_are_float32(tmp_path, setting, params, dtype):
    config = Config(DataConfig("x"), tmp_path, setting=setting, device=DeviceConfig(params=params))
    assert weight_dtype(config) == (dtype and jnp.dtype(dtype))


@pytest.mark.parametrize(("setting", "documents", "merges"), [
    ("sequential", None, True), ("sequential", 1, False), ("batch", None, False), ("single", None, False)])
def test_the_dry_run_counts_merged_weights_where_a_run_makes_them(tmp_path, monkeypatch, setting, documents, merges):
    monkeypatch.setattr(dry_run, "_temporary", lambda *_: 0)
    config = Config(DataConfig("x"), tmp_path, setting=setting, documents=documents, dry_run=16)
    assert ("merged weights" in dry_run.dry_run(config, make_mesh())) is merges


@pytest.mark.parametrize("teacher", ["frozen", "latest", "average"])
def test_the_dry_run_compiles_the_step_of_on_policy_targets(tmp_path, teacher):
    config = Config(DataConfig("x"), tmp_path, dry_run=16, on_policy=OnPolicyConfig(0.5, teacher=teacher))
    text = dry_run.dry_run(config, make_mesh())
    assert ("average of the adapter" in text) is (teacher == "average")
