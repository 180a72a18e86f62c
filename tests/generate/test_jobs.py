"""`jaxllm generate` and `jaxllm score` from the command line's side."""

import json
import signal
from pathlib import Path

import pytest

from jaxllm.cli import main
from jaxllm.generate import Generator, score_job
from jaxllm.model import load
from jaxllm.models.peft import save_adapter
from tests.processes import run_file


@pytest.fixture
def rows(tmp_path):
    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)
    return write


@pytest.fixture
def story_model(shared):
    return str(shared / "models" / "stories260k")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_generate_writes_rows_in_order(rows, tmp_path, story_model, capsys):
    path = rows({"id": "b", "prompt": "Once upon a time there was a very long way to go for"},
                {"prompt": "The"}, {"id": 7, "prompt": ""})
    out = tmp_path / "out"
    assert main(["generate", "--model", story_model, "--data.path", path, "--out", str(out),
                 "--sampling.temperature", "0", "--sampling.max_tokens", "8"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "result.json")
    written = read(out / "rows.jsonl")
    assert [row["id"] for row in written] == ["b", 2, 7]
    assert written[2]["completions"][0]["text"].startswith("Once upon a time")
    for row in written:
        (completion,) = row["completions"]
        assert set(completion) == {"text", "token_ids", "logprob", "finish_reason"}
        assert completion["logprob"] < 0 and len(completion["token_ids"]) == 8
    result = json.loads((out / "result.json").read_text())
    assert result["rows"] == 3 and result["tokens"] == 24 and result["seed"] == 0


def test_scores_of_rows(rows, tmp_path, story_model):
    path = rows({"prompt": "Once upon a", "completion": " time, there was"},
                {"prompt": "Once upon a", "completion": " xylophone"}, {"prompt": "The", "completion": ""})
    assert main(["score", "--model", story_model, "--data.path", path, "--out", str(tmp_path / "out")]) == 0
    likely, unlikely, empty = read(tmp_path / "out" / "rows.jsonl")
    assert likely["logprob"] > unlikely["logprob"]
    assert likely["logprob"] / likely["tokens"] > -0.5
    assert empty["logprob"] == 0.0 and empty["tokens"] == 0


def test_score_equals_the_product_of_its_parts(rows, tmp_path, story_model):
    """log p(b c | a) = log p(b | a) + log p(c | a b), where the cut falls between tokens."""
    path = rows({"prompt": "The", "completion": " dog. He ran"}, {"prompt": "The", "completion": " dog."},
                {"prompt": "The dog.", "completion": " He ran"})
    assert main(["score", "--model", story_model, "--data.path", path, "--out", str(tmp_path / "out")]) == 0
    whole, first, second = (row["logprob"] for row in read(tmp_path / "out" / "rows.jsonl"))
    tokens = [row["tokens"] for row in read(tmp_path / "out" / "rows.jsonl")]
    assert tokens[0] == tokens[1] + tokens[2]
    assert abs(whole - first - second) < 1e-3


@pytest.mark.slow
def test_adapter_changes_the_score(rows, tmp_path, story_model, stories):
    import jax

    from jaxllm.models import Adapter, LoraConfig, init_adapter

    adapter = init_adapter(stories.spec, jax.random.key(0), LoraConfig())
    noisy = Adapter(jax.tree.map(lambda leaf: leaf + 0.05, adapter.params), adapter.scale)
    save_adapter(tmp_path / "adapter", stories.spec, noisy)
    path = rows({"prompt": "Once upon a", "completion": " time"})
    common = ["score", "--model", story_model, "--data.path", path]
    assert main([*common, "--out", str(tmp_path / "base")]) == 0
    assert main([*common, "--out", str(tmp_path / "changed"), "--adapter", str(tmp_path / "adapter")]) == 0
    base, changed = (read(tmp_path / name / "rows.jsonl")[0]["logprob"] for name in ("base", "changed"))
    assert abs(base - changed) > 0.1


@pytest.mark.parametrize(("arguments", "message"), [
    (["--model", "nowhere/at/all"], "no checkpoint directory"),
    (["--sampling.max_tokens", "600"], "context window of 512"),
    (["--sampling.temprature", "1"], "did you mean --sampling.temperature"),
    (["--adapter", "nowhere"], "adapter_config.json: the file is missing"),
    (["--batch_size", "0"], "batch_size: must be 1 or more"),
    (["--seed", "-1"], "seed: must be at least 0"),
])
def test_user_errors_exit_with_two(rows, tmp_path, story_model, capsys, arguments, message):
    path = rows({"prompt": "The"})
    given = ["generate", "--model", story_model, "--data.path", path, "--out", str(tmp_path / "out"), *arguments]
    assert main(given) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out" / "result.json").exists()


def test_a_few_bad_rows_are_put_aside(rows, tmp_path, story_model):
    good = [{"prompt": f"The {i}"} for i in range(12)]
    path = rows(*good, {"prompt": 5})
    assert main(["generate", "--model", story_model, "--data.path", path, "--out", str(tmp_path / "out"),
                 "--sampling.max_tokens", "2"]) == 0
    assert json.loads((tmp_path / "out" / "result.json").read_text())["rejected"] == 1
    assert "prompt" in read(tmp_path / "out" / "rejected.jsonl")[0]["reason"]


def test_the_samples_of_a_row_depend_on_its_line(rows, tmp_path, story_model):
    """A row that is put aside changes none of those after it."""
    texts = []
    for first in ({"prompt": 5}, {"prompt": "A"}):
        path, out = rows(first, *[{"prompt": "The"}] * 12), tmp_path / str(len(texts))
        assert main(["generate", "--model", story_model, "--data.path", path, "--out", str(out),
                     "--sampling.max_tokens", "4"]) == 0
        texts.append([row["completions"][0]["token_ids"] for row in read(out / "rows.jsonl")[-12:]])
    assert texts[0] == texts[1]


@pytest.mark.slow
def test_changed_prompts_are_no_continuation(rows, tmp_path, story_model, capsys):
    path = rows({"prompt": "The"})
    command = ["generate", "--model", story_model, "--data.path", path, "--out", str(tmp_path / "out"),
               "--sampling.max_tokens", "2"]
    assert main(command) == 0
    assert main(command) == 0 and "nothing was done" in capsys.readouterr().err
    rows({"prompt": "A"})
    assert main(command) == 2 and "the data changed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_loses_and_doubles_no_row(rows, tmp_path, story_model):
    """Killed, and in the middle of a line; the rest is the same as in a whole run."""
    path = rows(*({"prompt": f"The {word}"} for word in ("dog", "cat", "sun", "sea", "tree", "girl")))
    command = ["generate", "--model", story_model, "--data.path", path, "--sampling.max_tokens", "4",
               "--batch_size", "2", "--out"]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert main([*command, str(whole)]) == 0
    killed = run_file(Path(__file__).with_name("kill_after.py"), 3, *command, torn)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(read(torn / "rows.jsonl")) == 3 and not (torn / "result.json").exists()
    with open(torn / "rows.jsonl", "a") as file:
        file.write('{"id": 4, "promp')
    assert main([*command, str(torn)]) == 0
    for a, b in zip(read(torn / "rows.jsonl"), read(whole / "rows.jsonl"), strict=True):
        (completion,), (other,) = a.pop("completions"), b.pop("completions")
        assert completion.pop("logprob") == pytest.approx(other.pop("logprob"), abs=1e-5)  # of another batch size
        assert (a, completion) == (b, other)
    assert (torn / "result.json").read_text() == (whole / "result.json").read_text()


def test_a_killed_scoring_job_resumes(rows, tmp_path, story_model, monkeypatch, capsys):
    """Three rows a part; killed within the second, which is computed again as a whole: equal to the last digit."""
    monkeypatch.setattr(score_job, "ROWS_PER_CHUNK", 3)
    path = rows(*({"id": 4 if i == 1 else i, "prompt": "The", "completion": " dog" * (1 + i)} for i in range(8)))
    command = ["score", "--model", story_model, "--data.path", path, "--out"]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert main([*command, str(whole)]) == 0
    assert "2 rows of" in capsys.readouterr().err
    assert main([*command, str(torn)]) == 0
    lines = (whole / "rows.jsonl").read_text().splitlines(keepends=True)
    (torn / "rows.jsonl").write_text("".join(lines[:4]) + lines[4][:9])
    (torn / "result.json").unlink()
    assert main([*command, str(torn)]) == 0
    assert (torn / "rows.jsonl").read_text() == (whole / "rows.jsonl").read_text()
    (torn / "rows.jsonl").write_text("".join([lines[0], "\0\n", *lines[2:]]))
    (torn / "result.json").unlink()
    assert main([*command, str(torn)]) == 2 and "rows.jsonl:2: the line is damaged" in capsys.readouterr().err


def test_files_of_others_are_left_alone(rows, tmp_path, story_model, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_text("x")
    assert main(["generate", "--model", story_model, "--data.path", rows({"prompt": "The"}), "--out", str(out)]) == 2
    assert "precious" in capsys.readouterr().err and (out / "precious").read_text() == "x"


@pytest.mark.slow
def test_weights_that_are_not_finite(rows, tmp_path, stories, story_model, capsys):
    from jaxllm.models import save_model

    broken = stories.params | {"final_norm": {"scale": stories.params["final_norm"]["scale"] * float("nan")}}
    save_model(tmp_path / "model", stories.spec, broken, story_model)
    for verb, row in (("generate", {"prompt": "The"}), ("score", {"prompt": "The", "completion": " dog"})):
        assert main([verb, "--model", str(tmp_path / "model"), "--data.path", rows(row),
                     "--out", str(tmp_path / verb)]) == 2
        assert "not finite" in capsys.readouterr().err


@pytest.mark.slow
def test_a_model_without_a_begin_token(rows, tmp_path, shared):
    """GPT-2 has one token that both begins and ends; its tokenizer adds none."""
    import jax

    from jaxllm.models import ModelSpec, init_params, save_model

    spec = ModelSpec("gpt2", 50257, 16, 1, 2, 2, 8, 32, 64, norm="layer", activation="gelu_tanh", gated_mlp=False,
                     qkv_bias=True, out_bias=True, mlp_bias=True, rope=None, tied=True, eos_ids=(50256,))
    save_model(tmp_path / "model", spec, jax.jit(lambda key: init_params(spec, key))(jax.random.key(0)),
               shared / "tokenizers" / "gpt2")
    path = rows({"prompt": "hel", "completion": "lo"}, {"prompt": "", "completion": "Hi"})
    assert main(["score", "--model", str(tmp_path / "model"), "--data.path", path, "--out", str(tmp_path / "s")]) == 0
    assert [row["tokens"] for row in read(tmp_path / "s" / "rows.jsonl")] == [1, 1]


@pytest.mark.slow
def test_another_model_cannot_resume(rows, tmp_path, stories, story_model, capsys):
    """A finished run is not resumed with other weights: rows of two models must not share a file."""
    import shutil

    from jaxllm.models import save_model

    shutil.copytree(story_model, tmp_path / "model")
    command = ["generate", "--model", str(tmp_path / "model"), "--data.path", rows({"prompt": "The"}),
               "--out", str(tmp_path / "out"), "--sampling.max_tokens", "2"]
    assert main(command) == 0
    changed = stories.params | {"embed": stories.params["embed"] + 0.01}
    shutil.rmtree(tmp_path / "model")
    save_model(tmp_path / "model", stories.spec, changed, story_model)
    assert main(command) == 2 and "the model changed" in capsys.readouterr().err


@pytest.mark.parametrize(("row", "reason"), [
    ({"prompt": "The", "messages": [{"role": "user", "content": "x"}]}, "both prompt and messages"),
    ({"id": {"a": 1}, "prompt": "The"}, "'id': expected"), ({"prompt": "The", "max_tokens": 0}, "must be 1 or more"),
    ({}, "neither prompt nor messages")])
def test_contradictory_rows_are_rejected(rows, tmp_path, story_model, row, reason):
    path = rows(*({"prompt": f"The {i}"} for i in range(12)), row)
    assert main(["generate", "--model", story_model, "--data.path", path, "--out", str(tmp_path / "out"),
                 "--sampling.max_tokens", "2"]) == 0
    assert reason in read(tmp_path / "out" / "rejected.jsonl")[0]["reason"]


@pytest.mark.slow
def test_an_answer_in_a_conversation_is_scored_in_the_chat_template(rows, tmp_path, smollm2, capsys):
    messages = [{"role": "user", "content": "What is 2 + 3?"}]
    path = rows({"messages": messages, "completion": "5"}, {"prompt": messages, "completion": "5"},
                {"prompt": "What is 2 + 3?", "completion": " 5"})
    assert main(["score", "--model", str(smollm2), "--data.path", path, "--out", str(tmp_path / "out")]) == 0
    first, second, text = read(tmp_path / "out" / "rows.jsonl")
    model = load(smollm2)
    prompt, whole = (model.tokenizer.chat(turns, add_generation_prompt=generation) for turns, generation in (
        (messages, True), ([*messages, {"role": "assistant", "content": "5"}], False)))
    completion = whole[len(prompt):whole.index(model.tokenizer.eos_id, len(prompt)) + 1]
    [score] = Generator(model).score([(prompt, completion)])
    assert [first["logprob"], second["logprob"]] == pytest.approx([score.logprob] * 2, abs=1e-4)
    assert first["tokens"] == len(completion) == 2 and text["logprob"] != first["logprob"]
    assert "give messages to use its chat template" in capsys.readouterr().err


def test_rows_have_limits_of_their_own(rows, tmp_path, story_model):
    path = rows({"prompt": "The", "max_tokens": 3}, {"prompt": "The", "max_tokens": 9}, {"prompt": "The"})
    assert main(["generate", "--model", story_model, "--data.path", path, "--out", str(tmp_path / "out"),
                 "--sampling.max_tokens", "5", "--sampling.temperature", "0"]) == 0
    assert [len(row["completions"][0]["token_ids"]) for row in read(tmp_path / "out" / "rows.jsonl")] == [3, 9, 5]


def test_numbers_that_training_cannot_use_are_named(tmp_path, capsys):
    for key, value in (("lr", ".inf"), ("lr", "-1"), ("clip_norm", "0"), ("b1", "1"), ("warmup_steps", "100")):
        assert main(["inject", "--data.path", "x", "--out", str(tmp_path / "out"), f"--train.{key}", value]) == 2
        assert f"train.{key}" in capsys.readouterr().err
