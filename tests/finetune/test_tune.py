"""`jaxllm tune` on the packaged model: every method, resume, and input that cannot be used."""

import dataclasses
import functools
import json
import math

import jax
import numpy as np
import pytest
import yaml

from jaxllm import load
from jaxllm.cli import main
from jaxllm.config import to_yaml
from jaxllm.errors import UserError
from jaxllm.finetune.tune import TuneConfig
from jaxllm.finetune.tune import run as run_module
from jaxllm.finetune.tune import tune as tune_rows
from jaxllm.finetune.tune.config import Config, HeldBackConfig, LengthConfig
from jaxllm.finetune.tune.data import Rows, encode, labels_of, read, split
from jaxllm.finetune.tune.tuning import plan, prepare
from jaxllm.models import LoraConfig
from jaxllm.parsing import parse
from jaxllm.text.forms import ClassifyRow, PairRow, SftRow, class_number
from jaxllm.train import TrainConfig, read_metrics

NAMES = ("Rinla", "Dorok", "Selva", "Marun", "Tikan", "Obrel")
PAIRS = [{"prompt": f"Q: Where does {name} sail? A:", "chosen": f" to the port of {name}", "rejected": " nowhere"}
         for name in NAMES] * 2
FORMS = {
    "pairs": PAIRS,
    "implicit": [{"chosen": row["prompt"] + row["chosen"], "rejected": row["prompt"] + row["rejected"]}
                 for row in PAIRS],
    "sft": [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS],
    "unpaired": [{"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
                 for row in PAIRS for side in ("chosen", "rejected")],
    "classify": [{"text": row["prompt"] + row[side], "label": side}
                 for row in PAIRS for side in ("chosen", "rejected")]}
FORMS_OF = {"sft": FORMS["sft"], "kto": FORMS["unpaired"]}
SETTINGS = ["--train.steps=3", "--train.batch_size=4", "--train.log_every=1", "--lora.rank=2", "--held_back.share=0.3",
            "--train.lr=1e-3", "--train.epochs=null"]


@pytest.fixture
def rows(tmp_path):
    def write(form, content=None):
        path = tmp_path / f"{form}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in content or FORMS[form]))
        return path
    return write


def tune(path, out, *more):
    return main(["tune", f"--data.path={path}", f"--out={out}", *SETTINGS, *more])


def result(out):
    return json.loads((out / "result.json").read_text())


# Loss of the first step, where the policy equals the reference model.
FIRST = {"dpo": math.log(2), "ipo": 25.0, "hinge": 1.0, "apo_zero": 1.0, "kto": 0.5, "apo_zero_unpaired": 0.5}


@pytest.mark.parametrize("method, form", [
    ("dpo", "pairs"), *(pytest.param(*case, marks=pytest.mark.slow) for case in [("kto", "unpaired"),
        ("apo_zero_unpaired", "unpaired"), ("dpo", "implicit"), ("ipo", "pairs"), ("hinge", "pairs"),
        ("apo_zero", "pairs"), ("simpo", "pairs"), ("cpo", "pairs"), ("orpo", "pairs"), ("rpo", "pairs"),
        ("kto", "pairs"), ("sft", "pairs")])])
def test_language_models(tmp_path, rows, method, form):
    out = tmp_path / "out"
    assert tune(rows(form), out, f"--method={method}") == 0
    lines, found = read_metrics(out / "metrics.jsonl"), result(out)
    if method in FIRST:
        assert lines[0]["loss"] == pytest.approx(FIRST[method], abs=1e-5)
    assert all(math.isfinite(line["loss"]) for line in lines) and len(lines) == 3
    assert lines[-1]["loss"] != lines[0]["loss"]
    held_back = found["eval"]["loss"]
    assert held_back["n"] == found["held_back_rows"] > 0 and math.isfinite(held_back["mean"])
    assert found["train"]["loss"] == lines[-1]["loss"]
    written = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert len(written) == found["held_back_rows"]
    assert np.mean([row["loss"] for row in written]) == pytest.approx(held_back["mean"], rel=0.2)
    assert held_back["ci_low"] <= held_back["mean"] <= held_back["ci_high"]
    assert (out / "adapter" / "adapter_model.safetensors").is_file() and (out / "report.html").is_file()


@pytest.mark.parametrize("method", ["reward", pytest.param("classify", marks=pytest.mark.slow)])
def test_models_with_a_scoring_head(tmp_path, rows, method):
    out = tmp_path / "out"
    path = rows("pairs" if method == "reward" else "classify")
    path.write_text(path.read_text() + json.dumps({"prompt": "", "chosen": "a", "rejected": "b"}) + "\n")
    assert tune(path, out, f"--method={method}", "--train.steps=6", "--train.lr=1e-2") == 0
    found = result(out)
    lines = read_metrics(out / "metrics.jsonl")
    assert found["rejected"] == 1
    assert lines[-1]["loss"] < lines[0]["loss"] and "accuracy" in found["eval"]


def test_classes_are_named_or_numbered():
    """A number is that of a class, unless it is the name of one."""
    texts = ("good", "bad", "fine")
    encoded = lambda labels, given: encode(
        TuneConfig(method="classify", labels=labels), load("tiny").with_score_head(2, labels),
        Rows([ClassifyRow(text, None, label) for text, label in zip(texts, given, strict=True)], [1, 2, 3], [], "rows",
             labels), 0.0).data.values["label"].tolist()
    assert encoded(["neg", "pos"], [1, 0, "pos"]) == [1, 0, 1]
    assert encoded(["1", "0"], [1, 0, "0"]) == [0, 1, 1]
    given = parse(Config, ["--method=classify", "--labels=[0, 1, pos]", "--data.path=x", "--out=y"])
    assert labels_of(given, []) == labels_of(TuneConfig(method="classify", labels=["0", "1", "pos"]), [])
    with pytest.raises(UserError, match="the class 2 is not one of neg, pos"):
        encoded(["neg", "pos"], [1, 0, 2])
    with pytest.raises(UserError, match="the class 0 is not one of 1, 2"):  # which would be the first and the second
        encoded(["1", "2"], [1, 2, 0])
    numbered = lambda *given: labels_of(TuneConfig(method="classify"), [ClassifyRow("a", None, one) for one in given])
    assert numbered(0, 2) == ["0", "1", "2"]
    with pytest.raises(UserError, match="a label is 999999999999999, and classes have numbers from 0 to 9999"):
        numbered(0, 999_999_999_999_999)


def test_a_dropped_row_is_listed_as_it_is():
    rows = Rows([ClassifyRow("good", None, 1, id="a"), ClassifyRow("bad " * 90, None, 0, id="b")], [1, 2], [], "rows",
                ["0", "1"])
    config = TuneConfig(method="classify", lengths=LengthConfig(max_length=16))
    [dropped] = encode(config, load("tiny").with_score_head(2, ["0", "1"]), rows, 0.0).dropped
    assert (dropped.line, json.loads(dropped.raw)) == (2, dataclasses.asdict(rows.rows[1]))


def test_columns_and_prompts_to_know_of_before_training(capsys):
    pair = lambda prompt, answer, **more: PairRow(prompt, answer, " b", **more)
    made = [pair("Q: a A:", " Rinla"), pair("The ship sai", "ls"), pair("Q: c A:", " a", margin=1.0)]
    encode_pairs = lambda rows: encode(TuneConfig(method="dpo"), load("tiny"), Rows(rows, [1, 2, 3], [], "x", []), 0.0)
    encode_pairs([made[0]])
    assert not capsys.readouterr().err
    encode_pairs(made)
    shown = capsys.readouterr().err
    assert "1 of 3 prompts of x have other tokens with their completions than alone" in shown
    assert "the margins of x are read by method reward only" in shown


def test_truncated_rows_are_counted_where_they_are():
    rows = [SftRow(f"Q {i}? A:", " word" * (90 if i % 2 else 2), id=i) for i in range(20)]
    config = TuneConfig(method="sft", lengths=LengthConfig(max_length=60))
    encoded = encode(config, load("tiny"), Rows(rows, list(range(20)), [], "rows", []), 0.0)
    sides = split(encoded, 0.4)
    assert encoded.truncated == 10 and [len(side.data) for side in sides] == [12, 8]
    assert [side.truncated for side in sides] == [sum(i % 2 for i in side.ids) for side in sides]


def test_pairs_without_a_prompt_are_units_of_their_own(rows, capsys):
    pairs = [{"chosen": f"Apple {name}", "rejected": f"Berry {name}"} for name in NAMES]
    path, other = rows("training", pairs), rows("held_back", [{"chosen": "Cherry", "rejected": "Damson"}, *PAIRS[:1]])
    config = parse(Config, [f"--data.path={path}", "--out=y", "--method=dpo", f"--held_back.path={other}"])
    assert len(set(encode(config, load("tiny"), read(config, None)[0], 0.0).clusters)) == len(NAMES)
    assert "have a prompt of the rows for training" not in capsys.readouterr().err
    rows("held_back", pairs[:1] + PAIRS[:1])
    read(config, None)
    assert "1 held-back rows" in capsys.readouterr().err


@pytest.mark.parametrize(("label", "names", "expected"), [
    (1, ["neg", "pos"], 1), ("1", ["neg", "pos"], 1), ("pos", ["neg", "pos"], 1), (1, [], 1), (2, [], None),
    (-1, ["neg", "pos"], None), (1, ["1", "0"], 0), ("0", ["1", "0"], 1), (0, ["1", "2"], None), (True, [], None),
    (None, [], None), (1.0, [], None), ("other", ["neg", "pos"], None)])
def test_tune_and_score_number_classes_alike(label, names, expected):
    assert class_number(label, names, 2) == expected


@pytest.mark.slow
def test_a_stopped_run_continues_bit_for_bit(tmp_path, rows, monkeypatch):
    path, more = rows("pairs"), ("--method=dpo", "--train.save_every=1", "--held_back.every=1")
    assert tune(path, tmp_path / "whole", *more) == 0
    from jaxllm.train import loop
    original, calls = loop.count_tokens, []

    def stop(batch):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(batch)

    monkeypatch.setattr(loop, "count_tokens", stop)
    assert tune(path, tmp_path / "stopped", *more) == 130
    monkeypatch.undo()
    assert tune(path, tmp_path / "stopped", *more) == 0
    numbers = [[{name: value for name, value in line.items() if "_per_s" not in name}
                for line in read_metrics(tmp_path / out / "metrics.jsonl")] for out in ("whole", "stopped")]
    assert numbers[0] == numbers[1]
    files = [(tmp_path / out / "adapter" / "adapter_model.safetensors").read_bytes() for out in ("whole", "stopped")]
    assert files[0] == files[1]


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "dots", "none"])
def test_a_run_recomputes_activations_as_its_dry_run_does(tmp_path, rows, monkeypatch, remat):
    seen, plain = [], run_module.make_objective_loss
    monkeypatch.setattr(run_module, "make_objective_loss",
                        lambda *arguments, **named: seen.append(named["remat"]) or plain(*arguments, **named))
    arguments = rows("sft"), tmp_path / "out", "--method=sft", "--train.steps=1", f"--train.remat={remat}"
    assert tune(*arguments, "--dry_run=true") == tune(*arguments) == 0
    assert seen == [remat, remat]


def test_held_back_rows_do_not_shorten_the_warmup(tmp_path, rows):
    assert tune(rows("pairs"), tmp_path / "out", "--method=sft", "--train.warmup_steps=2") == 0
    assert result(tmp_path / "out")["held_back_rows"] > 0


def test_the_best_weights_are_kept_and_training_ends_early(tmp_path, rows):
    """With a rate this high the loss on held-back rows is smallest early."""
    out = tmp_path / "out"
    path = rows("sft", [*FORMS["sft"], {"prompt": "without a completion"}])
    assert tune(path, out, "--method=sft", "--held_back.every=1", "--held_back.patience=2", "--train.lr=0.3",
                "--train.steps=12", "--held_back.keep=best") == 0
    found = result(out)
    assert found["rejected"] == 1
    history = {one["step"]: one["loss"] for one in found["evaluations"]}
    assert found["best_step"] == found["steps"] == min(history, key=history.get)
    assert max(history) == found["best_step"] + 2 < 12
    assert found["eval"]["loss"]["mean"] == pytest.approx(history[found["best_step"]], rel=1e-5)
    best = tune_rows(load("tiny"), FORMS["sft"], progress=False, config=TuneConfig(
        method="sft", lora=LoraConfig(rank=2), train=TrainConfig(steps=12, batch_size=4, lr=0.3, packing=True),
        held_back=HeldBackConfig(share=0.3, every=1, patience=2, keep="best")))
    assert best.held_back == found["eval"]


def test_the_last_step_is_evaluated_too(tmp_path, rows):
    """However many steps there are between two evaluations: at this rate it is the best one."""
    out = tmp_path / "out"
    assert tune(rows("sft"), out, "--method=sft", "--train.lr=1e-3", "--held_back.every=2",
                "--held_back.keep=best") == 0
    found = result(out)
    assert [one["step"] for one in found["evaluations"]] == [2, 3] and found["best_step"] == found["steps"] == 3


def test_without_a_value_to_choose_by_the_last_weights_are_kept(tmp_path, rows, capsys):
    """Held-back rows that are all desirable have no margin."""
    desirable = rows("desirable", [row for row in FORMS["unpaired"] if row["label"]])
    assert tune(rows("unpaired"), tmp_path / "out", "--method=kto", f"--held_back.path={desirable}",
                "--held_back.every=2", "--held_back.metric=rewards/margins", "--held_back.keep=best",
                "--held_back.patience=1") == 0
    found = result(tmp_path / "out")
    assert found["steps"] == 3 and found["best_step"] is None
    assert found["evaluations"] == [{"step": step, "rewards/margins": None} for step in (2, 3)]
    assert "rewards/margins" in capsys.readouterr().err and (tmp_path / "out" / "adapter").is_dir()


def test_the_shift_of_bco_is_the_mean_reward_of_all_steps(tmp_path, rows):
    """In the evaluations too, which add nothing to it."""
    out = tmp_path / "out"
    assert tune(rows("pairs"), out, "--method=bco", "--train.lr=3e-2", "--held_back.every=1") == 0
    lines = read_metrics(out / "metrics.jsonl")
    means = np.array([line["rewards/chosen"] + line["rewards/rejected"] for line in lines]) / 2
    shifts = [line["reward_shift"] for line in lines]
    assert shifts == pytest.approx(np.cumsum(means) / (1, 2, 3), rel=1e-4) and shifts[2] != pytest.approx(means[2])
    assert [line["eval_reward_shift"] for line in lines] == pytest.approx(shifts)
    measured = result(out)["eval"]
    assert measured["reward_shift"]["mean"] == pytest.approx(shifts[2]) and measured["reward_shift"]["ci_low"] is None
    assert measured["loss"]["ci_low"] is not None  # at the shift of training, so that rows are independent


@pytest.mark.parametrize("arguments, rate", [
    (["--method=dpo"], 2e-5), (["--method=dpo", "--lora=null"], 1e-6), (["--method=kto"], 2e-5),
    (["--method=simpo", "--lora=null"], 1e-6), (["--method=sft"], 2e-4), (["--method=sft", "--lora=null"], 2e-5),
    (["--method=reward"], 1e-4), (["--method=classify", "--lora=null"], 1e-5),
    (["--method=dpo", "--train.lr=1e-4"], 1e-4), (["--method=reward", "--train.lr=null"], 1e-4)])
def test_the_learning_rate_is_that_of_the_method_and_in_the_config(arguments, rate):
    config = parse(Config, ["--data.path=x", "--out=y", "--save=nothing", *arguments])
    assert yaml.safe_load(to_yaml(config))["train"]["lr"] == config.train.lr == rate


@pytest.mark.parametrize("arguments", [["rl", "--reward=length"], ["inject"]])
def test_other_jobs_have_no_learning_rate_of_a_method(arguments, tmp_path, capsys):
    assert main([*arguments, "--data.path=x", f"--out={tmp_path / 'out'}", "--train.lr=null"]) == 2
    assert "train.lr: must be a number" in capsys.readouterr().err


def test_unpaired_rows_without_mismatched_ones_need_no_others():
    config = parse(Config, ["--data.path=x", "--out=y", "--method=apo_zero_unpaired", "--train.batch_size=1",
                            "--reference.when=before"])
    assert config.objective.reference == "values" and config.objective.texts == 1


@pytest.mark.parametrize("arguments, labels, message", [
    ([], (1, 0, 1, 0, 1, 0, 1), ""),
    ([], (1, 1, 1, 0), "weights of 3 and 1 in all; the authors of KTO advise a ratio from 1 to 4/3"),
    (["--preference.undesirable_weight=2.5"], (1, 1, 1, 0), ""), ([], (1, 1), "weights of 2 and 0 in all"),
    (["--held_back.every=9"], (1, 0), "held_back.every is 9, and the run has 2 steps")])
def test_notices_before_training(rows, capsys, arguments, labels, message):
    unpaired = rows("unpaired", [{"prompt": f"Q: {i} A:", "completion": " a", "label": bool(label)}
                                 for i, label in enumerate(labels)])
    held_back = rows("held_back", [{"prompt": "Q: x A:", "completion": f" {text}", "label": True} for text in "ab"])
    config = parse(Config, [f"--data.path={unpaired}", "--out=y", "--method=kto", f"--held_back.path={held_back}",
                            "--train.steps=2", "--train.epochs=null", "--train.batch_size=2", *arguments])
    plan(config, load("tiny"), *read(config, None), limit_bad=0.0, progress=False)
    shown = capsys.readouterr().err
    assert "all held-back rows have the same prompt" in shown and message in shown
    assert ("authors of KTO" in shown) == ("authors of KTO" in message or labels == (1, 1))


@pytest.mark.parametrize("arguments, message", [
    (["--method=robust", "--preference.label_smoothing=0.6"], "label_smoothing"),
    (["--method=exo_pair", "--preference.label_smoothing=0"], "label_smoothing"),
    (["--method=nothing"], "sigmoid"),
    (["--method=kto", "--train.accumulate=2"], "accumulate"),
    (["--method=kto", "--train.batch_size=1"], "kto needs other rows in the batch"),
    (["--method=aot", "--train.accumulate=2"], "accumulate"),
    (["--method=dpo", "--loss=[sigmoid, kto]"], "kto"),
    (["--method=kto", "--loss=[sigmoid]"], "set method to dpo"),
    (["--method=cpo", "--loss=[sigmoid]"], "method cpo has none"),
    (["--method=orpo", "--loss=[orpo, ipo]"], "ipo has a reference model"),
    (["--method=reward", "--lengths.max_prompt_length=8"], "lengths.max_prompt_length"),
    (["--method=dpo", "--loss_weights=[1, 2]"], "loss_weights"),
    (["--method=sft", "--lora=null"], "save"),
    (["--method=simpo", "--preference.divergence=forward_kl"], "divergence"),
    (["--method=kto", "--preference.ld_alpha=0.5"], "ld_alpha"),
    (["--method=reward", "--preference.wpo=true"], "wpo"),
    (["--method=sft", "--preference.beta=0.2"], "preference"),
    (["--method=simpo", "--reference.sync_every=2"], "sync_every"),
    (["--method=kto", "--reference.when=before"], "when"),
    (["--method=dpo", "--centering=0.1"], "centering"),
    (["--method=reward", "--centering=.inf"], "centering"),
    (["--method=sft", "--labels=[a, b]"], "labels"),
    (["--method=dpo", "--held_back.patience=2"], "every"),
    (["--method=dpo", "--held_back.every=2", "--held_back.share=0"], "held-back rows"),
    (["--method=dpo", "--held_back.every=20", "--held_back.keep=best", "--train.save_every=8"], "train.save_every"),
    (["--method=dpo", "--loss=[]"], "loss"),
    (["--method=dpo", "--loss=[sigmoid, sigmoid]", "--loss_weights=[1, 2]"], "different"),
    (["--method=simpo", "--preference.ld_alpha=0.5"], "ld_alpha"),
    (["--method=sft", "--reference.when=step"], "reference.when"),
    (["--method=dpo", "--turns=last"], "turns"),
    (["--method=classify", "--labels=[a, a]"], "labels")])
def test_settings_that_do_not_fit(tmp_path, rows, capsys, arguments, message):
    assert tune(rows("pairs"), tmp_path / "out", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rows_that_do_not_fit(tmp_path, rows, capsys):
    same = rows("same", [{"prompt": "a", "chosen": "b", "rejected": "b"}] * 3)
    unpaired = rows("unpaired")
    for path, method, message in ((same, "dpo", "equal"), (unpaired, "dpo", "{prompt, chosen, rejected}"),
                               (rows("sft"), "reward", "{prompt, chosen, rejected}")):
        assert tune(path, tmp_path / "out", f"--method={method}") == 2
        assert message in capsys.readouterr().err


def test_rows_and_metrics_that_the_loss_does_not_have(tmp_path, rows, capsys):
    for column in ("label_probability", "weight"):
        soft = rows("soft", [row | {column: 0.9 - i / 100} for i, row in enumerate(PAIRS)])
        assert tune(soft, tmp_path / "out", "--method=aot") == 2
        assert f"sorts all pairs, so that {column} does not apply" in capsys.readouterr().err
    assert tune(rows("pairs"), tmp_path / "other", "--method=dpo", "--held_back.every=1", "--held_back.metric=acc") == 2
    assert "rewards/accuracies" in capsys.readouterr().err
    alone = rows("alone", [{"prompt": "a", "completion": text, "label": True} for text in ("b", "c", "d")])
    assert tune(alone, tmp_path / "alone", "--method=kto", "--held_back.share=0") == 2
    assert "apo_zero_unpaired" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--method=dpo"], *(pytest.param(case, marks=pytest.mark.slow) for case in (
    ["--method=kto"], ["--method=reward"], ["--method=bco"], ["--method=dpo", "--reference.sync_every=2"],
    ["--method=orpo", "--lora=null", "--save=nothing", "--train.accumulate=2"]))])
def test_a_dry_run_shows_rows_padding_and_memory(tmp_path, rows, capsys, arguments):
    assert tune(rows("pairs", [*PAIRS, {"prompt": "a"}]), tmp_path / "out", "--dry_run=true", *arguments) == 0
    shown = capsys.readouterr().out
    count = 24 if "--method=kto" in arguments else 12
    assert f" {count} in " in shown and "1 rejected, 0 dropped" in shown and "% padding" in shown
    for part in ("optimizer", "temporary, one step", "trained weights" if "--lora=null" in arguments else "adapter"):
        assert part in shown
    assert ("reference model" in shown) == ("--reference.sync_every=2" in arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("method", ["cpo", "kto"])
def test_an_evaluation_does_not_depend_on_its_batches(rows, method):
    """Means over tokens are of all rows, and so is the reference point of KTO."""
    from jaxllm import load

    content = [row | {"chosen": row["chosen"] * (1 + i % 3)} for i, row in enumerate(PAIRS[:5])]
    path, found = rows("pairs", content), []
    for batch_size in (2, 3, 5):
        config = parse(Config, [f"--data.path={path}", "--out=y", f"--method={method}", f"--held_back.path={path}",
                                f"--train.batch_size={batch_size}", "--lora.rank=2"])
        tuning = prepare(config, load("tiny"), *read(config, None), limit_bad=0.0, progress=False)
        moved = jax.tree.map(lambda leaf: leaf + 0.02, tuning.start.params)
        found.append(tuning.evaluate(dataclasses.replace(tuning.start, params=moved))[0])
    assert found[0]["loss"]["mean"] != pytest.approx({"cpo": 0.0, "kto": 0.5}[method], abs=1e-3)
    for other in found[1:]:
        assert {name: one["mean"] for name, one in other.items()} == pytest.approx(
            {name: one["mean"] for name, one in found[0].items()}, rel=1e-4)


@pytest.mark.slow
def test_extremes_of_the_scores_do_not_depend_on_accumulation():
    """The metrics of the first step, before the weights differ; each microbatch has scores of its own."""
    found = []
    for accumulate in (1, 2, 4):
        tuned = tune_rows(load("tiny"), PAIRS, progress=False, config=TuneConfig(
            method="reward", lora=LoraConfig(rank=2), held_back=HeldBackConfig(share=0),
            train=TrainConfig(steps=1, batch_size=4, accumulate=accumulate, packing=True)))
        found.append([tuned.metrics[name] for name in ("min_reward", "max_reward", "mean_reward")])
    assert found[0][0] < found[0][2] < found[0][1]
    assert found[1] == pytest.approx(found[0], abs=1e-5) and found[2] == pytest.approx(found[0], abs=1e-5)


def test_a_reward_model_is_no_language_model():
    config = parse(Config, ["--data.path=x", "--out=y", "--method=mpo"])
    assert config.kind == "pairs" and config.losses == {"sigmoid": 0.8, "bco_pair": 0.2, "sft": 1.0}
    assert config.objective.reference == "values"
    assert parse(Config, ["--data.path=x", "--out=y", "--method=simpo"]).objective.reference == "none"
    assert parse(Config, ["--data.path=x", "--out=y", "--method=kto"]).objective.reference == "base"


@pytest.mark.slow
def test_metrics_of_unpaired_rows_have_the_margin(tmp_path, rows):
    """Of the function as in the files of the command."""
    more = ("--method=apo_zero_unpaired", "--train.batch_size=8", "--held_back.share=0")
    assert tune(rows("unpaired"), tmp_path / "out", *more) == 0
    tuned = tune_rows(load("tiny"), FORMS["unpaired"], progress=False, config=TuneConfig(
        method="apo_zero_unpaired", lora=LoraConfig(rank=2), held_back=HeldBackConfig(share=0),
        train=TrainConfig(steps=3, batch_size=8, lr=1e-3, packing=True)))
    assert tuned.metrics["rewards/margins"] == pytest.approx(result(tmp_path / "out")["train"]["rewards/margins"])


@pytest.mark.slow
def test_the_function_trains_as_the_command_does(tmp_path, rows):
    """The same rows and settings give the same adapter and the same scoring head."""
    from jaxllm.models.peft import adapter_head, load_adapters

    assert tune(rows("pairs"), tmp_path / "out", "--method=reward") == 0
    model = load("tiny")
    tuned = tune_rows(model, PAIRS, progress=False, config=TuneConfig(
        method="reward", lora=LoraConfig(rank=2), train=TrainConfig(steps=3, batch_size=4, lr=1e-3, packing=True),
        held_back=HeldBackConfig(share=0.3)))
    spec, head = adapter_head(tmp_path / "out" / "adapter", model.spec)
    saved = load_adapters(tmp_path / "out" / "adapter", spec)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tuned.adapter.params):
        other = functools.reduce(lambda tree, key: tree[key.key], path, saved.params)
        np.testing.assert_array_equal(np.asarray(leaf), np.asarray(other))
    np.testing.assert_array_equal(tuned.head["out"]["kernel"], head["out"]["kernel"])
    assert tuned.held_back == result(tmp_path / "out")["eval"]
    np.testing.assert_array_equal(tuned.merged()["score"]["out"]["kernel"], head["out"]["kernel"])
    with pytest.raises(UserError, match="row 2"):
        tune_rows(model, [PAIRS[0], {"prompt": "a"}], config=TuneConfig(method="dpo"))


@pytest.mark.parametrize("method, copies", [("sft", 1), ("kto", 2)])
def test_weights_that_are_all_trained_exist_once(method, copies):
    """Besides the two moments of the optimizer; a reference model in every step is one more."""
    from jaxllm import load
    from jaxllm.finetune.tune.config import TuneConfig
    from jaxllm.finetune.tune.data import FORMS
    from jaxllm.finetune.tune.tuning import prepare
    from jaxllm.text.forms import rows_of
    from jaxllm.train import TrainConfig

    config = TuneConfig(method=method, lora=None, train=TrainConfig(steps=1, batch_size=2, packing=True))
    given = [made for row in FORMS_OF[method] for made in rows_of(row, FORMS[config.kind])]
    live = lambda: sum({x.unsafe_buffer_pointer(): x.nbytes for x in jax.live_arrays()}.values())
    before = live()
    model = load("tiny")
    size = sum(x.nbytes for x in jax.tree.leaves(model.params))
    rows = Rows(given, list(range(len(given))), [], "rows", [])
    tuning = prepare(config, model, rows, None, limit_bad=0.0, donate=True, progress=False)
    del model
    assert round((live() - before) / size, 1) == copies + 2
    assert bool(tuning.frozen) == (copies == 2)
