"""Training jobs on a checkpoint that is stored quantized."""

import json
import math

import jax
import pytest

from jaxllm.cli import main
from jaxllm.finetune.tune.config import ReferenceConfig, TuneConfig
from jaxllm.model import load
from jaxllm.models import save_model
from jaxllm.models.quantized import quantize_params
from jaxllm.train import read_metrics

STORY = "Lily lost her red ball in the park. A big dog found it."
ROWS = {"tune": {"prompt": "Q: Who? A:", "completion": " Lily"}, "rl": {"prompt": "Who lost it?"},
        "inject": {"context": STORY, "question": "Who lost a ball?", "answers": ["Lily"]}}
MORE = {"tune": ["--method=sft", "--train.batch_size=2", "--held_back.share=0"], "inject": ["--train.batch_size=2"],
        "rl": ["--reward=words", "--rewards.words={was: 1}", "--train.batch_size=2", "--train.minibatch_size=2",
               "--sampling.max_tokens=4"]}
DRY = {"tune": "--dry_run=true", "inject": "--dry_run=32", "rl": "--dry_run=true"}


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """The packaged model, quantized, in a directory."""
    model = load("tiny")
    return save_model(tmp_path_factory.mktemp("quantized") / "nf4", model.spec, quantize_params(model.params, "nf4"),
                      "tiny", layout="orbax")


@pytest.fixture
def run(tmp_path):
    """`run(verb, *arguments)`: exit status of a job in `tmp_path / "out"`."""
    def call(verb, *arguments):
        path = tmp_path / f"{verb}.jsonl"
        path.write_text((json.dumps(ROWS[verb]) + "\n") * 4)
        return main([verb, f"--data.path={path}", f"--out={tmp_path / 'out'}", *MORE[verb], *arguments])
    return call


@pytest.mark.parametrize("verb", ROWS)
def test_weights_that_are_stored_quantized_are_not_all_trained(verb, quantized, run, tmp_path, capsys):
    for more in ([], [DRY[verb]]):
        assert run(verb, f"--model={quantized}", "--lora=null", "--save=model", *more) == 2
        shown = capsys.readouterr().err
        assert shown.startswith(f"jaxllm: {quantized}: quantized weights are frozen, and lora is null\n  fix: ")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ROWS)
def test_an_adapter_is_not_merged_into_quantized_weights(verb, quantized, run, tmp_path, capsys):
    for more in ([f"--model={quantized}"], ["--device.quantize=nf4"]):
        assert run(verb, *more, "--save=model") == 2
        assert "an adapter is not merged into quantized weights" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("verb", ROWS)
def test_another_scheme_than_the_stored_one_is_refused_before_any_work(verb, quantized, run, tmp_path, capsys):
    for more in ([], [DRY[verb]]):
        assert run(verb, f"--model={quantized}", "--device.quantize=int8", *more) == 2
        assert "the weights are quantized as nf4, not as int8" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["dpo", pytest.param("reward", marks=pytest.mark.slow)])
def test_an_adapter_is_trained_on_quantized_weights(method, quantized, tmp_path):
    """On stored ones as on those that are quantized while they are loaded; other verbs read the adapter."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Q: Where is {name}? A:", "chosen": " here", "rejected": " nowhere"})
                            + "\n" for name in ("Rinla", "Dorok", "Selva", "Marun")))
    found = []
    for number, more in enumerate(([f"--model={quantized}"], ["--model=tiny", "--device.quantize=nf4"])):
        assert main(["tune", f"--method={method}", f"--data.path={path}", f"--out={tmp_path / str(number)}",
                     "--train.steps=3", "--train.epochs=null", "--train.batch_size=4", "--train.lr=1e-2",
                     "--train.log_every=1", "--held_back.share=0", *more]) == 0
        found.append([line["loss"] for line in read_metrics(tmp_path / str(number) / "metrics.jsonl")])
    assert found[0] == pytest.approx(found[1], rel=1e-5) and found[0][2] < found[0][0]
    if method == "dpo":
        assert found[0][0] == pytest.approx(math.log(2), abs=1e-5)
    verb = {"dpo": "generate", "reward": "score"}[method]
    assert main([verb, f"--model={quantized}", f"--adapter={tmp_path / '0' / 'adapter'}", f"--data.path={path}",
                 f"--out={tmp_path / verb}", *(["--sampling.max_tokens=2"] if method == "dpo" else [])]) == 0


@pytest.mark.parametrize("verb", ["tune", *(pytest.param(verb, marks=pytest.mark.slow) for verb in ("inject", "rl"))])
def test_a_dry_run_counts_stored_quantized_weights_as_they_are_stored(verb, quantized, run, capsys):
    """As those of the full checkpoint that are quantized while they are loaded."""
    found = []
    for more in ([f"--model={quantized}"], ["--model=tiny", "--device.quantize=nf4"]):
        assert run(verb, DRY[verb], *more) == 0
        found.append({line.split()[0]: line for line in capsys.readouterr().out.splitlines()[1:]})
    assert found[0] == found[1]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(load(quantized).params))
    assert f"{size / 2**20:,.1f} MiB" in found[0]["weights"]


@pytest.mark.parametrize("settings", [{"method": "sft"}, {"method": "dpo"}, {"method": "dpo", "reference": "step"},
                                      {"method": "kto"}])
def test_only_a_base_model_that_is_read_stays_next_to_the_trained_weights(settings):
    reference = ReferenceConfig(when=settings.get("reference", "auto"))
    config = TuneConfig(method=settings["method"], reference=reference, lora=None)
    assert config.trains_in_place == (settings in ({"method": "sft"}, {"method": "dpo"}))
    assert not TuneConfig(method=settings["method"], reference=reference).trains_in_place


def test_a_dry_run_counts_weights_that_are_trained_in_place_once(run, capsys):
    assert run("tune", DRY["tune"], "--lora=null", "--save=model") == 0
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    size = 4 * sum(leaf.size for leaf in jax.tree.leaves(load("tiny").params))  # float32
    assert [line.split() for line in shown if line.endswith("MiB") and "weights" in line] == [
        ["trained", "weights", f"{size / 2**20:,.1f}", "MiB"]]
