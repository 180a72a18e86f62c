"""`jaxllm inject` and `jaxllm demo` from the command line's side."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from safetensors import safe_open

from jaxllm.assets import resolve
from jaxllm.cli import main
from jaxllm.errors import UserError
from jaxllm.files import read_jsonl
from jaxllm.finetune import run as finetune_run
from jaxllm.models import load_spec
from jaxllm.self_param import experiment, qa_pairs
from jaxllm.self_param import job as inject_job
from jaxllm.self_param.demo import describe
from tests.conftest import ROOT

STORY = ("Once upon a time, there was a little girl named Lily. She lost her red ball in the park. "
         "A big dog found the ball. Lily was happy and played with the dog all day.")
# For other processes: the tests' compile cache, and that without adding to it.
CACHE = {"JAX_COMPILATION_CACHE_DIR": str(ROOT / ".cache" / "xla"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
         "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
READ_ONLY = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1000"}
QUICK = ["--train.steps", "6", "--train.batch_size", "4", "--qa_pairs.per_document", "6", "--unrelated.train", "8",
         "--unrelated.drift", "4", "--unrelated.tokens", "16"]


@pytest.fixture
def arguments(tmp_path, shared):
    """The command line of a short run on the real checkpoint."""
    rows = [{"context": STORY, "question": "Who lost a ball?", "answers": ["Lily"]},
            {"context": STORY, "question": "Who found the ball?", "answers": ["a dog", "dog"]}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--model", str(shared / "models" / "stories260k"), "--data.path", str(path), *QUICK]


def test_a_mode_without_questions_for_an_answer_is_refused_before_weights_are_read(arguments, tmp_path, monkeypatch,
                                                                                   capsys):
    monkeypatch.setattr(inject_job, "load_model", lambda *_: pytest.fail("weights were read"))
    assert main(["inject", *arguments, "--qa_pairs.answer_first", "true", "--out", str(tmp_path / "out")]) == 2
    assert "qa_pairs.answer_first" in capsys.readouterr().err


@pytest.mark.slow
def test_output_of_a_run(arguments, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["inject", *arguments, "--compare", "[finetune]", "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "result.json")
    result = json.loads((out / "result.json").read_text())
    for metric, methods in {"f1": ("closed_book", "open_book", "self_param", "finetune"),
                            "kl": ("closed_book", "self_param", "finetune"),
                            "drift_kl": ("self_param", "finetune")}.items():
        for method, value in result[metric].items():
            assert set(value) == {"mean", "ci_low", "ci_high", "n"}
            assert value["n"] == (method in methods) and (value["mean"] is not None) == (method in methods), method
    assert (result["documents"], result["questions"], result["rejected"], result["seed"]) == (1, 2, 0, 0)
    assert result["kl"]["self_param"]["mean"] < result["kl"]["closed_book"]["mean"]
    assert np.shape(result["f1_matrix"]) == (2, 1) and list(result["baselines"]) == ["finetune"]
    assert [row["question"] for row in read_jsonl(out / "rows.jsonl")] == ["Who lost a ball?", "Who found the ball?"]
    steps = read_jsonl(out / "metrics.jsonl")
    assert [(row["step"], row["method"], row["injection"]) for row in steps] == [
        (1, "self_param", 1), (6, "self_param", 1), (7, "finetune", 1), (12, "finetune", 1)]
    assert (out / "adapters" / "0000" / "adapter_model.safetensors").is_file()
    assert not list((out / "checkpoints").iterdir())
    assert "Mean F1 over 2 questions on 1 document" in describe(out / "result.json")
    page = (out / "report.html").read_text()
    assert "Who lost a ball?" in page and page.count("<img src=\"data:image/svg+xml") == 4
    # the same command again finds the work done
    before = (out / "result.json").stat().st_mtime_ns
    assert main(["inject", *arguments, "--compare", "[finetune]", "--out", str(out)]) == 0
    assert (out / "result.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_the_saved_adapter_is_the_injected_model(arguments, tmp_path):
    out = tmp_path / "out"
    assert main(["inject", *arguments, "--out", str(out)]) == 0
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "Question: Who lost a ball? Answer:"}) + "\n")
    assert main(["generate", "--model", arguments[1], "--adapter", str(out / "adapters" / "0000"),
                 "--data.path", str(prompts), "--out", str(tmp_path / "generated"), "--sampling.temperature", "0",
                 "--sampling.max_tokens", "16", "--sampling.stop", '["\\n"]']) == 0
    text = read_jsonl(tmp_path / "generated" / "rows.jsonl")[0]["completions"][0]["text"].strip()
    assert text == read_jsonl(out / "rows.jsonl")[0]["self_param"]["text"]


@pytest.mark.slow
def test_all_weights_and_saved_model(arguments, tmp_path):
    out = tmp_path / "out"
    assert main(["inject", *arguments, "--out", str(out), "--lora", "null", "--save", "model"]) == 0
    assert load_spec(out / "models" / "0000") == load_spec(arguments[1])
    assert (out / "models" / "0000" / "tokenizer.json").is_file()


@pytest.mark.slow
def test_pairs_from_a_file(arguments, tmp_path, monkeypatch):
    """The student answers some of them itself."""
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps({"context": STORY, "question": "What was lost?", "answers": ["a ball"]}) + "\n")
    out, started = tmp_path / "out", []
    plain = finetune_run.OnPolicyTargets.__init__
    monkeypatch.setattr(finetune_run.OnPolicyTargets, "__init__",
                        lambda self, *rest: started.append(rest) or plain(self, *rest))
    assert main(["inject", *arguments, "--out", str(out), "--qa_pairs.source", str(pairs), "--on_policy.share", "0.5",
                 "--on_policy.every", "2", "--compare", "[finetune]"]) == 0
    assert read_jsonl(out / "pairs.jsonl")[0]["pairs"] == [{"question": "What was lost?", "answer": "a ball"}]
    assert len(started) == 1  # plain fine-tuning trains on the stored answers


@pytest.mark.slow
def test_a_terminated_run_resumes(arguments, tmp_path):
    """SIGTERM in the middle of training, the same command again: as if nothing had happened."""
    arguments = [*arguments, "--train.steps", "40", "--train.log_every", "1"]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert main(["inject", *arguments, "--out", str(whole)]) == 0
    command = [sys.executable, "-m", "jaxllm", "inject", *arguments, "--out", str(torn)]
    environment = dict(os.environ, **CACHE)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 300
    while len(read_jsonl(torn / "metrics.jsonl")) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert not (torn / "result.json").exists()
    assert main(["inject", *arguments, "--out", str(torn)]) == 0
    results = [json.loads((out / "result.json").read_text()) for out in (whole, torn)]
    assert results[0] == results[1]
    untimed = [[{k: v for k, v in row.items() if not k.endswith("_per_s")} for row in
                read_jsonl(out / "metrics.jsonl")] for out in (whole, torn)]
    assert untimed[0] == untimed[1] and len(untimed[0]) == 40
    assert (whole / "adapters/0000/adapter_model.safetensors").read_bytes() == \
        (torn / "adapters/0000/adapter_model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("share", ["0", "0.5"])
def test_a_run_that_ended_before_its_training_keeps_what_it_sampled(share, arguments, tmp_path, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    other = STORY.replace("ball", "kite")
    with open(arguments[3], "a") as file:
        file.write(json.dumps({"context": other, "question": "Who lost a kite?", "answers": ["Lily"]}) + "\n")
    command = ["inject", *arguments, "--generation_batch_size", "4", "--qa_pairs.closed_book_share", share, "--out"]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert main([*command, str(whole)]) == 0
    counts = json.loads((whole / "result.json").read_text())["qa_pairs"]
    assert ("answer_tokens" in counts) is (share != "0") and all(counts.get("answer_tokens", {"none": 1}).values())
    plain, checked = qa_pairs.drop_surplus, []

    def drop_surplus(text, *rest):
        checked.append(text)
        if len(checked) == 2:
            raise KeyboardInterrupt
        return plain(text, *rest)

    monkeypatch.setattr(qa_pairs, "drop_surplus", drop_surplus)
    assert main([*command, str(torn)]) == 130
    assert len(read_jsonl(torn / "pairs.jsonl")) == 1
    with monkeypatch.context() as patch:
        patch.setattr(experiment, "training_plan", interrupt)
        assert main([*command, str(torn)]) == 130
    texts = read_jsonl(torn / "unrelated.jsonl")
    assert [row["held_out"] for row in texts] == [False] * (len(texts) - 4) + [True] * 4
    assert all(row["ids"] for row in texts)
    monkeypatch.setattr(experiment, "sample_unrelated", None)
    assert main([*command, str(torn)]) == 0
    assert checked == [STORY, other, other]
    for name in ("unrelated.jsonl", "pairs.jsonl", "records.jsonl"):
        assert (torn / name).read_bytes() == (whole / name).read_bytes(), name


@pytest.mark.parametrize(("rows", "more", "message"), [
    ([{"context": "  ", "question": "Who?", "answers": ["x"]}], [], "'context' is empty"),
    ([{"context": STORY, "question": "Who? " * 600, "answers": ["x"]}], [], "the context window of 512"),
    ([{"context": STORY, "question": "Who?", "answers": []}], [], "'answers' is empty"),
    ([{"context": STORY, "question": "Who?"}], [], "answers"),
    ([{"context": STORY, "question": "Who?", "answers": ["x"]}], ["--qa_pairs.source", "EMPTY"],
     "its context is no document of the data"),
    ([{"context": STORY, "question": "Who?", "answers": ["x"]}], ["--model", "no/such/dir"], "no checkpoint directory"),
    ([{"context": STORY, "question": "Who?", "answers": ["x"]}], ["--train.stepz", "3"], "--train.steps"),
    ([{"context": STORY, "question": "Who?", "answers": ["x"]}], ["--lora", "null"], "no adapter"),
    ([{"context": STORY, "question": "Who?", "answers": ["x"]}], ["--train.warmup_steps", "6"], "warmup"),
    ([{"context": STORY, "question": "Who?", "answers": ["x"]}], ["--unrelated.path", "nowhere.jsonl"], "nowhere"),
    ([{"context": STORY, "question": "Who?", "answers": ["x " * 600]}], [], "the reference answer"),
    ([{"context": STORY, "question": "Who?", "answers": ["x"]}], ["--qa_pairs.max_tokens", "500"],
     "a generated question of qa_pairs.max_tokens"),
    ([{"context": STORY, "question": "Who?", "answers": ["x"]}],
     ["--unrelated.tokens", "600", "--unrelated.with_document", "false"], "unrelated.tokens"),
    ([{"context": STORY, "question": "Who?", "answers": ["x"]}], ["--seed", "-1"], "seed"),
])
def test_user_errors_exit_with_two_and_leave_nothing(arguments, tmp_path, capsys, rows, more, message):
    path = tmp_path / "bad.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    other = tmp_path / "pairs.jsonl"
    other.write_text(json.dumps({"context": "other", "question": "a?", "answers": ["b"]}) + "\n")
    more = [str(other) if argument == "EMPTY" else argument for argument in more]
    out = tmp_path / "out"
    assert main(["inject", *arguments, "--data.path", str(path), "--out", str(out), *more]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not (out / "result.json").exists() and not (out / "config.yaml").exists()


@pytest.mark.slow
def test_changed_data_cannot_resume(arguments, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["inject", *arguments, "--out", str(out)]) == 0
    with open(arguments[3], "a") as file:
        file.write(json.dumps({"context": STORY, "question": "What now?", "answers": ["x"]}) + "\n")
    assert main(["inject", *arguments, "--out", str(out)]) == 2
    assert "the data changed" in capsys.readouterr().err


def test_malformed_line_is_named(arguments, tmp_path, capsys):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"context": "a b c", "question": "q?", "answers": ["x"]}\n{"context": \n')
    assert main(["inject", *arguments, "--data.path", str(path), "--out", str(tmp_path / "out")]) == 2
    assert f"{path}:2" in capsys.readouterr().err


@pytest.mark.slow
def test_another_run_is_not_overwritten(arguments, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["inject", *arguments, "--out", str(out)]) == 0
    before = (out / "result.json").read_bytes()
    assert main(["inject", *arguments, "--out", str(out), "--seed", "1"]) == 2
    assert "holds another run" in capsys.readouterr().err
    assert (out / "result.json").read_bytes() == before


@pytest.mark.slow
def test_full_disk_exits_with_one(arguments, tmp_path):
    """A file-size limit simulates a full disk: the run fails with status 1 and no result."""
    out = tmp_path / "out"
    code = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (40000, 40000)); "
            "from jaxllm.cli import main; sys.exit(main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", code, "inject", *arguments, "--out", str(out)], capture_output=True,
                          text=True, timeout=300, env=dict(os.environ, **CACHE | READ_ONLY))
    assert done.returncode == 1, done.stderr
    assert "fix: free some space" in done.stderr
    assert not (out / "result.json").exists()


def tiny_is_there():
    try:
        return resolve("tiny").is_dir()
    except UserError:
        return False


@pytest.mark.long
@pytest.mark.skipif(not tiny_is_there(), reason="the packaged model has not been made")
def test_the_demo_teaches_the_packaged_model(tmp_path, capsys):
    """One document end to end: wrong closed-book answers before the injection, correct ones after it."""
    assert main(["demo", "--documents", "1", "--out", str(tmp_path / "demo")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and lines[-1] == str(tmp_path / "demo" / "result.json")
    result = json.loads((tmp_path / "demo" / "result.json").read_text())
    mean = lambda method: result["f1"][method]["mean"]
    assert mean("closed_book") <= 0.15 and mean("self_param") >= 0.8 * mean("open_book") > 0.6


@pytest.mark.long
@pytest.mark.parametrize(("eight", "more"), [
    (["--mesh.data", "2", "--mesh.fsdp", "2", "--mesh.tensor", "2"],
     ["--train.batch_size", "8", "--divergence.top_k", "null"]),
    # Fewer targets in a step than devices. A large eps, since packed rows of other lengths round differently.
    (["--mesh.data", "8"], ["--train.packing", "true", "--divergence.top_k", "8", "--train.eps", "1e-3"])],
    ids=["padded", "packed, cached teacher"])
def test_eight_devices_write_what_one_writes(tmp_path, eight, more):
    """Weights split four ways, rows two ways, or rows eight ways: the same losses, the same model, the same answers."""
    command = [sys.executable, "-m", "jaxllm", "inject", "--data.path", "asset:tiny/documents.jsonl",
               "--documents", "1", *QUICK, *more,
               "--format.mode", "plain", "--locality.questions", "0", "--qa_pairs.source",
               "asset:tiny/documents.jsonl",
               "--unrelated.path", "asset:tiny/unrelated.jsonl"]
    meshes = {"one": [], "eight": eight}
    for name, mesh in meshes.items():
        flags = os.environ["XLA_FLAGS"] + (" --xla_force_host_platform_device_count=8" if mesh else "")
        done = subprocess.run([*command, *mesh, "--out", str(tmp_path / name)], capture_output=True, text=True,
                              env=dict(os.environ, XLA_FLAGS=flags, **CACHE), cwd=ROOT, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
    single, eight = ([read_jsonl(tmp_path / name / file) for file in ("metrics.jsonl", "rows.jsonl")]
                     for name in meshes)
    ours, theirs = (json.loads((tmp_path / name / "result.json").read_text()) for name in meshes)
    assert theirs["versions"]["devices"] == 8
    if "--train.packing" in more:
        assert ours["teacher_cache"] == pytest.approx(theirs["teacher_cache"], rel=1e-4)
        assert 0 <= ours["teacher_cache"]["kl"] - ours["teacher_cache"]["kl_top_k"] < ours["teacher_cache"]["kl"]
        assert all(0 < line["top_k_rest"] < 0.5 for line in single[0])
        assert "8 most probable tokens are cached" in (tmp_path / "one" / "report.html").read_text()
    else:
        assert ours["teacher_cache"] is theirs["teacher_cache"] is None
    assert single[1] == eight[1]
    for a, b in zip(single[0], eight[0], strict=True):
        assert abs(a["loss"] - b["loss"]) < 1e-4 and abs(a["grad_norm"] - b["grad_norm"]) < 1e-3 * a["grad_norm"]
    with safe_open(tmp_path / "one/adapters/0000/adapter_model.safetensors", "numpy") as ours, \
            safe_open(tmp_path / "eight/adapters/0000/adapter_model.safetensors", "numpy") as theirs:
        for key in ours.keys():
            # Adam divides by the gradient's size, so a rounding where there is hardly any gradient is seen.
            assert_allclose(ours.get_tensor(key), theirs.get_tensor(key), atol=1e-4)


def test_a_batch_that_devices_cannot_share_is_an_error(monkeypatch):
    from jaxllm.config import DataConfig
    from jaxllm.self_param import job
    from jaxllm.train.config import TrainConfig

    config = job.Config(DataConfig("x"), "out", train=TrainConfig(lr=1e-3, batch_size=3, steps=1))
    monkeypatch.setattr(job, "open_mesh", lambda *_: type("Mesh", (), {"shape": {"data": 2, "fsdp": 1}}))
    with pytest.raises(UserError, match="3 rows per step .* 2 devices"):
        job.training_mesh(config)
    packed = dataclasses.replace(config, train=dataclasses.replace(config.train, packing=True))
    assert job.training_mesh(packed).shape["data"] == 2


@pytest.mark.slow
def test_unusable_rows_are_listed(arguments, tmp_path):
    """Of every input file, each with a reason; repeated questions are counted."""
    data = tmp_path / "rows.jsonl"
    data.write_text(data.read_text() + data.read_text().splitlines()[0] + "\n")
    pairs, texts = tmp_path / "pairs.jsonl", tmp_path / "texts.jsonl"
    good = [{"context": STORY, "question": f"Question {i}?", "answers": ["a ball"]} for i in range(20)]
    bad = [{"context": STORY + " ", "question": "Q?", "answers": ["x"]}, {"context": STORY, "question": "Q?",
                                                                        "answers": ["x " * 600]}]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in good + bad))
    texts.write_text("".join(json.dumps({"text": f"Number {i} said hello to {i + 1}."}) + "\n" for i in range(40))
                     + '{"txt": "x"}\n{"text": " "}\n')
    out = tmp_path / "out"
    assert main(["inject", *arguments, "--out", str(out), "--qa_pairs.source", str(pairs),
                 "--unrelated.path", str(texts)]) == 0
    reasons = [row["reason"] for row in read_jsonl(out / "rejected.jsonl")]
    assert len(reasons) == 4 and "'text' is missing" in reasons[0] and "'text' is empty" in reasons[1]
    assert "no document of the data" in reasons[2] and "do not fit" in reasons[3]
    result = json.loads((out / "result.json").read_text())
    assert (result["rejected"], result["repeated"]) == (4, 1)
    assert main(["inject", *arguments, "--out", str(out), "--qa_pairs.source", str(pairs),
                 "--unrelated.path", str(texts)]) == 0  # nothing to do
    assert [row["reason"] for row in read_jsonl(out / "rejected.jsonl")] == reasons
    texts.write_text(texts.read_text().replace("hello", "goodbye"))
    assert main(["inject", *arguments, "--out", str(out), "--qa_pairs.source", str(pairs),
                 "--unrelated.path", str(texts)]) == 2


@pytest.mark.slow
def test_a_kill_while_a_finished_checkpoint_goes_away(arguments, tmp_path, monkeypatch):
    """Half of it removed, the record written: the same command finishes."""
    from jaxllm.finetune import run

    plain = run.shutil.rmtree

    def half(folder, *rest, **options):
        if not Path(folder).name.startswith(".self_param"):  # Orbax removes older checkpoints
            return plain(folder, *rest, **options)
        if not options:  # with options it is the remainder of an earlier kill, and there is none yet
            next(path for path in folder.rglob("_METADATA")).unlink()
            raise KeyboardInterrupt

    monkeypatch.setattr(run.shutil, "rmtree", half)
    out = tmp_path / "out"
    command = ["inject", *arguments, "--train.save_every", "2", "--out", str(out)]
    assert main(command) == 130
    monkeypatch.setattr(run.shutil, "rmtree", plain)
    assert main(command) == 0
    assert not [path for path in (out / "checkpoints").iterdir() if "self_param" in path.name]
    assert json.loads((out / "result.json").read_text())["f1"]["self_param"]["n"] == 1
