"""`jaxllm rl`: files and numbers of a run, and the same numbers after a stop in any phase."""

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from jaxllm.assets import resolve
from jaxllm.cli import main
from jaxllm.cory import team as team_module
from jaxllm.generate import Generator
from jaxllm.model import load_with_adapter
from jaxllm.rl import rewards
from jaxllm.train import read_metrics
from tests.conftest import ROOT
from tests.processes import run_file

PHASES = ("rollout", "reward", "score", "update")


def arguments(out, *more):
    return ["rl", "--data.path=asset:tiny/reviews.jsonl", f"--out={out}", "--query.tokens=[6, 9]", "--reward=words",
            "--rewards.words={was: 1, a: 0.5, the: -0.5}", "--agents=2", "--iterations=4", "--exchange_every=2",
            "--sampling.max_tokens=5", "--train.batch_size=4", "--train.passes=2", "--train.minibatch_size=2",
            "--train.lr=1e-3", "--train.save_every=1", "--lora.rank=4", "--held_back.rows=3", "--data.limit=20",
            "--kl.adaptive=true", "--scores.scale=true", *more]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("rl") / "run"
    assert main(arguments(out)) == 0
    return out


def comparable(out):
    """Metrics, samples and result without what depends on time and machine."""
    lines = [{name: value for name, value in line.items() if not name.endswith(("_per_s", "seconds"))}
             for line in read_metrics(out / "metrics.jsonl")]
    result = json.loads((out / "result.json").read_text())
    del result["seconds_per_iteration"], result["versions"]
    return lines, (out / "rows.jsonl").read_text(), result


@pytest.mark.slow
def test_files_and_numbers(finished):
    lines = read_metrics(finished / "metrics.jsonl")
    assert [line["step"] for line in lines] == [line["iteration"] for line in lines] == [0, 1, 2, 3]
    assert [line["exchanged"] for line in lines] == [False, True, False, True]
    roles = [(line["agents"]["llm1"]["role"], line["agents"]["llm2"]["role"]) for line in lines]
    assert roles == [("pioneer", "observer")] * 2 + [("observer", "pioneer")] * 2
    for line in lines:
        assert set(line["seconds"]) == set(PHASES)
        for agent in line["agents"].values():
            for name in ("task_reward", "kl", "combined_reward", "kl_coef", "approx_kl", "clip_fraction", "entropy",
                         "length"):
                assert np.isfinite(agent[name]), name
            assert agent["combined_reward"] == pytest.approx(agent["task_reward"] - agent["kl_coef"] * agent["kl"])
            assert agent["kl"] >= 0
    assert lines[0]["agents"]["llm1"]["kl"] == pytest.approx(0, abs=1e-5)
    result = json.loads((finished / "result.json").read_text())
    for agent in ("llm1", "llm2"):
        for when in ("before", "after"):
            for name in ("task_reward", "kl", "length"):
                assert set(result["agents"][agent][when][name]) == {"mean", "ci_low", "ci_high", "n"}
    assert result["held_back_rows"] == 3 and result["first_ratio_error"] <= 1e-5
    samples = [json.loads(line) for line in (finished / "rows.jsonl").read_text().splitlines()]
    assert {(sample["step"], sample["agent"]) for sample in samples} == {
        (step, agent) for step in range(4) for agent in ("llm1", "llm2")}
    page = (finished / "report.html").read_text()
    assert "By role" in page and "Samples" in page and "Roles are exchanged after iterations 1, 3" in page


@pytest.mark.slow
def test_adapters_load_again(finished):
    prompts = finished / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "Review: The soup"}) + "\n")
    for agent in ("llm1", "llm2"):
        model, adapter = load_with_adapter("tiny", finished / "agents" / agent)
        assert adapter is not None and np.any(np.asarray(adapter.params["layers"]["attn"]["q"]["b"]))
    out = finished.parent / "generated"
    assert main(["generate", f"--data.path={prompts}", f"--adapter={finished / 'agents' / 'llm1'}", f"--out={out}",
                 "--sampling.max_tokens=4"]) == 0


class Killed(BaseException):
    """In place of a kill: nothing that the job does on an error happens."""


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_a_run_that_is_stopped_in_any_phase_comes_to_the_same_numbers(finished, phase, tmp_path, monkeypatch):
    out, plain, count = tmp_path / "run", team_module.Clock.phase, 0

    @contextlib.contextmanager
    def interrupted(self, name):
        nonlocal count
        count += name == phase
        if count == 6:  # the second agent's turn in the third iteration
            raise Killed
        with plain(self, name):
            yield

    monkeypatch.setattr(team_module.Clock, "phase", interrupted)
    with pytest.raises(Killed):
        main(arguments(out))
    made = len(read_metrics(out / "metrics.jsonl"))
    assert made == 2 and not (out / "result.json").exists()
    monkeypatch.setattr(team_module.Clock, "phase", plain)
    assert main(arguments(out)) == 0
    assert comparable(out) == comparable(finished)


@pytest.mark.slow
def test_a_run_that_is_stopped_at_an_exchange_comes_to_the_same_numbers(finished, tmp_path, monkeypatch):
    out, plain = tmp_path / "run", team_module.exchange

    def interrupted(team, iteration, every):
        if iteration == 1:
            raise Killed
        return plain(team, iteration, every)

    monkeypatch.setattr(team_module, "exchange", interrupted)
    with pytest.raises(Killed):
        main(arguments(out))
    monkeypatch.setattr(team_module, "exchange", plain)
    assert main(arguments(out)) == 0
    assert comparable(out) == comparable(finished)


@pytest.mark.slow
def test_a_finished_run_is_not_repeated(finished, capsys):
    before = (finished / "result.json").read_text()
    assert main(arguments(finished)) == 0
    assert "nothing was done" in capsys.readouterr().err
    assert (finished / "result.json").read_text() == before


@pytest.mark.slow
def test_one_agent_with_all_weights(tmp_path):
    out = tmp_path / "run"
    assert main(arguments(out, "--agents=1", "--lora=null", "--save=model", "--iterations=2",
                          "--train.minibatch_size=4", "--algorithm=rloo", "--policy.group_size=2")) == 0
    result = json.loads((out / "result.json").read_text())
    assert list(result["agents"]) == ["llm1"]
    assert main(["inspect", str(out / "agents" / "llm1")]) == 0


@pytest.mark.slow
def test_a_trained_classifier_as_reward(tmp_path):
    """Trained by jaxllm tune: every response is scored with its prompt as one text, by the class of the config."""
    reviews = [json.loads(line) for line in (resolve("tiny") / "reviews.jsonl").read_text().splitlines()]
    data = tmp_path / "reviews.jsonl"
    data.write_text("".join(json.dumps({"text": row["prompt"].split("\n")[0], "label": row["answers"][0]}) + "\n"
                            for row in reviews if row["kind"] == "label"))
    assert main(["tune", "--method=classify", "--model=tiny", f"--data.path={data}", f"--out={tmp_path / 'classifier'}",
                 "--train.batch_size=16"]) == 0
    adapter, out = tmp_path / "classifier" / "adapter", tmp_path / "run"
    command = arguments(out, "--rewards.model=tiny", f"--rewards.adapter={adapter}", "--rewards.label=positive",
                        "--iterations=1", "--save=nothing")
    assert main(["--reward=classifier" if word == "--reward=words" else word for word in command
                 if not word.startswith("--rewards.words")]) == 0
    model, head = load_with_adapter("tiny", adapter)
    samples = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    texts = [model.tokenizer.whole(sample["prompt"] + sample["response"]) for sample in samples]
    label = model.spec.head.label_names.index("positive")
    scores = [scored[label] for scored in Generator(model).classify(texts, adapter=head)]
    assert len(samples) == 8 and [sample["task_reward"] for sample in samples] == pytest.approx(scores, abs=1e-4)
    lines = read_metrics(out / "metrics.jsonl")[0]["agents"]
    for name, agent in lines.items():
        own = [sample["task_reward"] for sample in samples if sample["agent"] == name]
        assert agent["task_reward"] == pytest.approx(np.mean(own), abs=1e-5)


@pytest.mark.slow
def test_a_dry_run(tmp_path, capsys):
    assert main(arguments(tmp_path / "run", "--dry_run=true")) == 0
    shown = capsys.readouterr().out
    assert "2 agents" in shown and "optimizer, all agents" in shown and "observer" in shown
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_memory_of_a_second_agent(tmp_path, capsys):
    """By the compiler's analysis, at prompts of one length: what it trains, its optimizer, and nothing temporary."""
    def memory(agents):
        assert main(arguments(tmp_path / "run", "--dry_run=true", "--cory.transfer=false", f"--agents={agents}")) == 0
        return {name: float(value.replace(",", "")) for name, value in re.findall(
            r"^  (\S[^\n]*?) +([\d,.]+) MiB$", capsys.readouterr().out, re.MULTILINE)}

    one, two = memory(1), memory(2)
    assert two["weights"] == one["weights"] and two["temporary, one update"] == one["temporary, one update"]
    assert two["trained, all agents"] == pytest.approx(2 * one["trained, all agents"], abs=0.1)
    assert two["total"] <= 1.15 * one["total"]


@pytest.mark.slow
def test_memory_of_a_classifier_is_in_the_total(tmp_path, capsys):
    """It has the weights of the model that is trained."""
    assert main(arguments(tmp_path / "run", "--dry_run=true", "--agents=1", "--reward=classifier",
                          "--rewards.model=tiny", "--rewards.label=1")) == 0
    sizes = {name: float(value) for name, value in re.findall(r"^  (\S[^\n]*?) +([\d.]+) MiB$",
                                                              capsys.readouterr().out, re.MULTILINE)}
    assert sizes["reward model"] == sizes["weights"] > 0
    assert sizes.pop("total") == pytest.approx(sum(sizes.values()), abs=0.3)


@pytest.mark.parametrize(("rows", "more", "message"), [
    ([{"other": 1}], [], "no prompt, messages or text"), ([{"prompt": ""}], [], "prompt is empty"),
    ([{"prompt": "a b"}], ["--query.template={question}"], "question"),
    ([{"messages": [{"role": "user", "content": " "}]}], [], "prompt is empty"),
    ([{"messages": [{"role": "user", "content": "a b c"}]}], [], "query.tokens cuts texts"),
    ([{"prompt": "soup " * 600}], ["--query.tokens=null"], "604 tokens, and with a response 507 fit"),
    ([{"prompt": "soup " * 300}], ["--query.tokens=null"], "rows.jsonl:1: the observer's prompt has"),
    ([{"prompt": "a b"}], ["--sampling.max_tokens=512"], "sampling.max_tokens: a response of 512"),
    ([{"prompt": "a b"}], ["--response_tokens=[2, 600]"], "response_tokens: a response of 600")])
def test_rows_without_a_prompt(rows, more, message, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(arguments(tmp_path / "run", f"--data.path={path}", *more)) == 2
    out = capsys.readouterr().err
    rejected = tmp_path / "run" / "rejected.jsonl"
    assert message in out + (rejected.read_text() if rejected.exists() else "")


@pytest.fixture
def eighth_call(monkeypatch):
    """Replaces the eighth call of the reward by a function of the responses; returns a list that grows by each call."""
    calls, plain = [], rewards.words_reward

    def replace(fail):
        def reward(prompts, responses, rows, *, values):
            calls.append(len(responses))
            return fail(responses) if len(calls) == 8 else plain(prompts, responses, rows, values=values)

        monkeypatch.setattr(rewards, "words_reward", reward)
        return calls

    return replace


@pytest.mark.slow
def test_a_reward_that_fails_leaves_what_was_done(finished, tmp_path, capsys, eighth_call):
    """Iterations before it are saved, also between checkpoints; the same command goes on to the same numbers."""
    calls = eighth_call(lambda responses: [float("nan")] * len(responses))  # 2 before training, 2 an iteration
    out = tmp_path / "run"
    assert main(arguments(out, "--train.save_every=null")) == 2
    assert "returned nan" in capsys.readouterr().err
    assert len(read_metrics(out / "metrics.jsonl")) == 2 and (out / "checkpoints" / "2").is_dir()
    assert main(arguments(out, "--train.save_every=null")) == 0
    assert comparable(out) == comparable(finished)
    assert len(calls) == 8 + 2 * 2 + 2, "no iteration was repeated"


@pytest.mark.parametrize("held_back", [0, 1])
def test_a_reward_that_fails_at_first_leaves_the_directory_free(held_back, tmp_path, monkeypatch, capsys):
    """Before training, or in its first iteration: a corrected reward may use it."""
    out = tmp_path / "run"
    monkeypatch.setattr(rewards, "words_reward", lambda *_, **__: [float("nan")] * 4)
    assert main(arguments(out, "--agents=1", f"--held_back.rows={held_back}")) == 2
    assert "the reward words" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
def test_a_reward_that_fails_in_an_evaluation_leaves_what_was_done(finished, tmp_path, capsys, eighth_call):
    def fail(responses):
        raise ZeroDivisionError("no words")

    calls = eighth_call(fail)  # 2 before training, 2 an iteration, and the second agent in the evaluation after two
    command = arguments(tmp_path / "run", "--train.save_every=null", "--held_back.every=2")
    assert main(command) == 2
    assert "the reward words failed: ZeroDivisionError: no words" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoints" / "2").is_dir()
    assert main(command) == 0
    assert len(calls) == 8 + 3 + 2 + 2 * 2 + 2, "its row is looked for among three; no iteration was repeated"
    lines, samples, result = comparable(tmp_path / "run")
    assert [set(line.pop("held_back", ())) for line in lines] == [set(), set(), {"llm1", "llm2"}, set()]
    assert (lines, samples, result) == comparable(finished)


@pytest.mark.slow
def test_iterations_without_an_update_are_counted_on_after_a_stop(tmp_path, capsys, monkeypatch):
    """Infinite losses from the start: the run ends after its third iteration, also if it was stopped in that."""
    out, plain, rollouts = tmp_path / "run", team_module.Clock.phase, 0
    command = arguments(out, "--agents=1", "--held_back.rows=0", "--scores.scale=false", "--train.minibatch_size=4",
                        "--iterations=9")

    @contextlib.contextmanager
    def interrupted(self, name):
        nonlocal rollouts
        rollouts += name == "rollout"
        if rollouts == 3:
            raise Killed
        with plain(self, name):
            yield

    monkeypatch.setattr(rewards, "words_reward", lambda prompts, responses, rows, *, values: [
        1e30 * len(text) for text in responses])
    monkeypatch.setattr(team_module.Clock, "phase", interrupted)
    with pytest.raises(Killed):
        main(command)
    assert len(read_metrics(out / "metrics.jsonl")) == 2
    monkeypatch.setattr(team_module.Clock, "phase", plain)
    assert main(command) == 2
    assert "no update in 3 iterations in a row, up to iteration 2" in capsys.readouterr().err


@pytest.mark.long
def test_both_agents_learn_to_praise(tmp_path):
    """Two fifths of the iterations of the tiny config, at a lower coefficient: each agent alone, on bare queries."""
    out = tmp_path / "run"
    assert main(["rl", f"--config={ROOT / 'configs' / 'cory' / 'tiny.yaml'}", f"--out={out}", "--iterations=24",
                 "--kl.coef=0.1", "--save=nothing"]) == 0
    for name, agent in json.loads((out / "result.json").read_text())["agents"].items():
        before, after = (agent[when]["task_reward"] for when in ("before", "after"))
        assert after["ci_low"] > before["ci_high"], (name, before, after)


@pytest.mark.long
def test_eight_devices_come_to_the_same_numbers(tmp_path):
    """Two devices split rows, two the base's weights and two the heads."""
    common = ["--train.minibatch_size=8", "--train.batch_size=8", "--iterations=2", "--exchange_every=1",
              "--train.eps=1e-4", "--train.accumulate=2"]
    assert main(arguments(tmp_path / "one", *common)) == 0
    done = run_file(Path(__file__).with_name("rl_devices.py"), *arguments(tmp_path / "eight", *common)[1:],
                    "--mesh.data=2", "--mesh.fsdp=2", "--mesh.tensor=2", devices=8)
    assert done.returncode == 0, done.stderr[-3000:]
    for one, eight in zip(*(read_metrics(tmp_path / name / "metrics.jsonl") for name in ("one", "eight")), strict=True):
        for agent, numbers in one["agents"].items():
            other = eight["agents"][agent]
            for name in ("task_reward", "kl", "loss", "approx_kl", "grad_norm", "entropy", "length"):
                assert numbers[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4), (one["step"], agent, name)
            assert other["first_ratio_error"] <= 1e-5
