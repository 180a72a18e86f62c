"""Injection by several methods, from the command line: batch, sequential, removal, resume."""

import dataclasses
import json
import shutil
import types

import numpy as np
import pytest

from jaxllm.assets import asset_path
from jaxllm.cli import main
from jaxllm.config import DataConfig
from jaxllm.errors import UserError
from jaxllm.evaluate.retrieval import Retriever
from jaxllm.files import read_jsonl
from jaxllm.finetune.targets import interleave
from jaxllm.generate import Generator
from jaxllm.model import load
from jaxllm.self_param import experiment, metrics
from jaxllm.self_param.config import Config, MixtureConfig, RehearsalConfig
from jaxllm.self_param.data import Document, Question
from jaxllm.self_param.prompts import FormatConfig, Prompts
from jaxllm.self_param.qa_filter import QAPair
from jaxllm.text.rows import read_rows
from jaxllm.train import make_mesh

QUICK = ["inject", "--data.path", "asset:tiny/documents.jsonl", "--unrelated.path", "asset:tiny/unrelated.jsonl",
         "--qa_pairs.per_document", "4", "--qa_pairs.max_tokens", "24", "--unrelated.train", "8",
         "--unrelated.drift", "4", "--unrelated.tokens", "16", "--unrelated.with_document", "false",
         "--train.steps", "8", "--train.batch_size", "4", "--train.lr", "5e-3", "--locality.questions", "6",
         "--format.mode", "plain"]


@pytest.mark.long
def test_sequential_injection_resumes(tmp_path, monkeypatch, capsys):
    """Stopped after training and before the record, twice: the same numbers to the last digit."""
    command = [*QUICK, "--documents", "3", "--setting", "sequential", "--compare", "[replay, retrieval]",
               "--mixture.rehearsal", "1", "--rehearsal.texts", "8", "--teacher", "base",
               "--chunking.tokens", "64", "--out"]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert main([*command, str(whole)]) == 0
    train = experiment.train_run

    def stop(*arguments):
        result = train(*arguments)
        if arguments[4] in stops:
            stops.remove(arguments[4])
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(experiment, "train_run", stop)
    stops = ["self_param-0002", "replay-0003"]
    assert [main([*command, str(torn)]) for _ in range(3)] == [130, 130, 0]
    result, resumed = (json.loads((out / "result.json").read_text()) for out in (whole, torn))
    assert result == resumed
    assert read_jsonl(whole / "records.jsonl") == read_jsonl(torn / "records.jsonl")

    # The first two documents have 66 and 65 tokens, the third 62.
    assert result["chunks"] == [2, 2, 1]
    assert [(row["document"], row["chunk"]) for row in read_jsonl(whole / "pairs.jsonl")] == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert np.shape(result["f1_matrix"]) == (4, 3) and set(result["baselines"]) == {"replay", "retrieval"}
    for numbers in (result, *result["baselines"].values()):
        matrix = np.array(numbers["f1_matrix"])
        assert matrix[0].tolist() == result["f1_matrix"][0]
        assert numbers["efficacy"]["mean"] == pytest.approx(metrics.efficacy(matrix, [1, 2, 3]).mean())
        assert numbers["mean_seen"] == metrics.mean_seen(matrix, [1, 2, 3])
        assert len(numbers["retention_by_lag"]) == len(numbers["drift_kl_by_step"]) == 3
        assert len(numbers["locality_by_step"]) == 3
    assert min(result["drift_kl_by_step"]) > 0 and result["baselines"]["retrieval"]["drift_kl_by_step"] == [0.0] * 3
    assert list(result["f1"]) == ["closed_book", "open_book", "self_param", "replay", "retrieval"]
    assert result["drift_kl"]["self_param"]["mean"] == result["drift_kl_by_step"][-1]
    assert result["locality"]["replay"]["mean"] == result["baselines"]["replay"]["locality_by_step"][-1]
    assert 0 < result["kl"]["self_param"]["mean"] < result["kl"]["closed_book"]["mean"]
    assert result["locality_probes"] == 6 and result["f1"]["open_book"]["mean"] > 0.8
    # BM25 retrieves each document once it is injected, and the open-book model answers right.
    retrieved = np.array(result["baselines"]["retrieval"]["f1_matrix"])
    assert retrieved[3].mean() > 0.8 and retrieved[1, 1:].max() < 0.5
    # The first injection is the same with and without replay, which has nothing to replay then.
    assert result["f1_matrix"][1] == result["baselines"]["replay"]["f1_matrix"][1]
    assert [path.name for path in sorted((whole / "adapters").iterdir())] == ["0000", "0001", "0002"]
    assert len(read_jsonl(whole / "rows.jsonl")) == result["questions"]
    page = (whole / "report.html").read_text()
    assert "Token F1 by document and injections: SELF-PARAM with replay" in page
    check_removal(whole, result, capsys)


def check_removal(run, result, capsys):
    """Removes the second of three documents from the model, which is the sum of its adapters."""
    capsys.readouterr()
    assert main(["inspect", str(run / "adapters"), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["adapters"]
    assert [adapter["provenance"]["documents"][0]["document"] for adapter in listed] == [0, 1, 2]
    assert main(["inspect", str(run / "adapters")]) == 0
    assert listed[1]["provenance"]["documents"][0]["begins"] in capsys.readouterr().out

    begins = listed[1]["provenance"]["documents"][0]["begins"]
    remove = lambda document: main(["remove", document, "--out", str(run)])
    assert remove("7") == 2 and "'7' matches no injected document" in capsys.readouterr().err
    assert remove(begins) == 0
    scores = json.loads((run / "removed" / "0001.json").read_text())
    assert scores["removed"] == 1 and scores["left"] == [0, 2]
    assert scores["f1"]["base"] == result["f1_matrix"][0] and scores["f1"]["with"] == result["f1_matrix"][3]
    assert [path.name for path in sorted((run / "adapters").iterdir())] == ["0000", "0002"]
    assert remove("1") == 2  # it is not there any more
    shutil.copytree(run / "removed" / "0001", run / "adapters" / "0001")
    assert remove("1") == 2 and "document was already removed" in capsys.readouterr().err
    shutil.rmtree(run / "adapters" / "0001")
    (run / "removed" / "0001").rename(run / "adapters" / "0001")
    assert remove("1") == 0 and json.loads((run / "removed" / "0001.json").read_text()) == scores
    assert main(["remove", "1", "--out", str(run / "nowhere")]) == 2


@pytest.mark.slow
def test_batch_injection(tmp_path):
    near, other, out = tmp_path / "near.jsonl", tmp_path / "other.jsonl", tmp_path / "out"
    portable = tmp_path / "portable.jsonl"
    first = read_rows("asset:tiny/paraphrases.jsonl", {"context": str, "question": str, "answers": list}).rows[:18]
    other.write_text("".join(json.dumps(row) + "\n" for row in [*first, {**first[0], "context": "elsewhere"}]))
    portable.write_text(json.dumps({**first[0], "question": "Is that ship a ship?", "answers": ["yes"]}) + "\n")
    near.write_text('{"question": "Who commands the ship Nobo?"}\n{"question": " "}\n' + '{"question": "Who?"}\n' * 20)
    assert main([*QUICK, "--documents", "3", "--setting", "batch", "--compare", "[finetune_context]",
                 "--locality.path", str(near), "--paraphrases", str(other), "--portability", str(portable),
                 "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["locality_probes"] == 2 and result["rejected"] == 2 and result["setting"] == "batch"
    assert [(row["line"], row["reason"]) for row in read_jsonl(out / "rejected.jsonl")] == [
        (19, "its context is no document of the data"), (2, "field 'question' is empty")]
    # Paraphrases of all questions of the three documents.
    paraphrased = result["f1_paraphrased"]
    assert paraphrased["open_book"]["mean"] == 1 > paraphrased["closed_book"]["mean"]
    last = read_jsonl(out / "records.jsonl")[2]
    assert paraphrased["self_param"]["mean"] == pytest.approx(np.mean(last["f1_paraphrased"]))
    assert len(last["f1_paraphrased"]) == 3 and last["f1_portability"][1:] == [None, None]
    assert [own["n"] for own in result["f1_portability"].values()] == [1, 1, 1, 1]
    assert "F1, portability" in (out / "report.html").read_text()
    assert "injected together into one model" in (out / "report.html").read_text()
    assert np.shape(result["f1_matrix"]) == (2, 3) and result["efficacy"] == result["f1"]["self_param"]
    assert list(result["baselines"]) == ["finetune_context"] and len(result["perplexity_by_step"]) == 2
    assert result["kl"]["self_param"]["n"] == 3 and result["locality"]["finetune_context"]["n"] == 2
    lines = read_jsonl(out / "metrics.jsonl")
    assert [line["method"] for line in lines if line["step"] in (8, 16)] == ["self_param", "finetune_context"]


@pytest.mark.parametrize("ratios", [{"qa": 1, "continuation": 1}, {"unrelated": 1}, {"qa": 1}])
@pytest.mark.slow
def test_chunks_without_qa_pairs(ratios, tmp_path):
    """One of two chunks has no pairs: it has its continuation, or is left out; without either type all stay."""
    mixture = dataclasses.replace(MixtureConfig(qa=0, continuation=0, unrelated=1), **{"unrelated": 0, **ratios})
    config = Config(DataConfig("x"), tmp_path, setting="batch", mixture=mixture, compare=["finetune_context"])
    document = Document("one two", (Question("Who?", ("Rafara",)),), ("The crew counts 95.", "It is made of pine."))
    base = Generator(load("tiny"))
    prepared = experiment.prepare(
        config, types.SimpleNamespace(directory=tmp_path, resumed=False), base, make_mesh(1),
        Prompts(base.model, config.format), [document], given=[[QAPair("How many count the crew?", "95")]], probes=[],
        texts=[f"text {n} of some words" for n in range(40)])
    types_ = [own.types for own in prepared.targets["self_param"][0]]
    assert types_ == {"qa": [("qa", "continuation"), ("continuation",)] if len(ratios) == 2 else [("qa",)],
                      "unrelated": [("unrelated",)] * 2}[next(iter(ratios))]
    assert len(prepared.targets["finetune_context"][0]) == 2
    source = interleave(prepared.targets["self_param"][0], 0)
    assert len({source.target(number) for number in range(4)}) == {2: 4, 1: 1 if "qa" in ratios else 4}[len(ratios)]


@pytest.mark.slow
def test_a_run_started_again_keeps_its_rehearsal_texts(tmp_path, monkeypatch):
    """They are written after the pairs, so that an error in these leaves the directory to another command."""
    config = Config(DataConfig("x"), tmp_path, mixture=MixtureConfig(rehearsal=1), rehearsal=RehearsalConfig(texts=8),
                    format=FormatConfig(mode="plain"))
    passage = "The crew of the ship counts 95."
    document = Document(passage, (Question("Who?", ("Rafara",)),), (passage,))
    base = Generator(load("tiny"))

    def prepared(*answers):
        return experiment.prepare(
            config, types.SimpleNamespace(directory=tmp_path, resumed=False), base, make_mesh(1),
            Prompts(base.model, config.format), [document], given=[[QAPair("How many?", own) for own in answers]],
            probes=[], texts=[f"text {n} of some words" for n in range(40)]).targets["self_param"][0][0].rehearsal

    with pytest.raises(UserError, match="no QA pairs"):
        prepared()
    assert not (tmp_path / "rehearsal.jsonl").exists()
    (tmp_path / "pairs.jsonl").unlink()
    sampled = prepared("95")
    rows = read_jsonl(tmp_path / "rehearsal.jsonl")
    assert sampled and [tuple(row["ids"]) for row in rows] == list(sampled)
    assert [row["text"] for row in rows] == [base.model.tokenizer.decode(ids) for ids in sampled]
    monkeypatch.setattr(experiment, "sample_rehearsal", None)
    assert prepared("95") == sampled


@pytest.mark.parametrize(("more", "message"), [
    (["--qa_pairs.source", "judge", "--qa_pairs.examples", "x.jsonl"], "qa_pairs.examples"),
    (["--chunking.tokens", "8"], "chunking.tokens"),
    (["--paraphrases", "asset:tiny/documents_mixed.jsonl"], "no document of the data"),
    (["--locality.path", "nowhere.jsonl"], "nowhere"),
    (["--teacher", "base"], "teacher"),
    (["--on_policy.share", "0.5", "--on_policy.teacher", "average", "--divergence.top_k", "4"],
     "set divergence.top_k to null"),
    (["--on_policy.share", "0.5", "--on_policy.teacher", "latest", "--lora", "null"], "latest needs an adapter"),
    (["--on_policy.teacher", "latest"], "raise share"),
    (["--on_policy.share", "0.5", "--on_policy.teacher", "latest", "--teacher", "base", "--setting", "sequential"],
     "set teacher to latest"),
    (["--on_policy.share", "0.5", "--mixture.qa", "0"], "needs QA targets"),
    (["--compare", "[replay]"], "is not defined for setting single"),
    (["--setting", "batch", "--compare", "[replay]"], "set setting to sequential"),
    (["--setting", "batch", "--lora", "null", "--save", "nothing"], "stores injections as adapters"),
    (["--setting", "sequential", "--save", "model"], "convert --merge"),
    (["--setting", "sequential", "--locality.path", "nowhere.jsonl"], "nowhere"),
    (["--setting", "sequential", "--locality.questions", "-1"], "locality.questions")])
def test_settings_that_do_not_go_together(tmp_path, capsys, more, message):
    assert main([*QUICK, "--out", str(tmp_path / "out"), *more]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_single_injection_with_worked_examples_and_probes(tmp_path, monkeypatch):
    """Hardly trained, the model answers the probes as before; a document's own question is no probe of it."""
    prompts, generate = [], Generator.generate

    def recorded(self, rows, *arguments, **more):
        prompts.extend(self.model.tokenizer.decode(list(row)) for row in rows)
        return generate(self, rows, *arguments, **more)

    monkeypatch.setattr(Generator, "generate", recorded)
    near, out = tmp_path / "near.jsonl", tmp_path / "out"
    own = read_jsonl(asset_path("tiny/documents.jsonl"))[0]["question"]
    near.write_text("".join(json.dumps({"question": probe}) + "\n" for probe in (own, "Who sails?", "What is it?")))
    assert main([*QUICK, "--documents", "1", "--train.steps", "2", "--train.warmup_steps", "0",
                 "--qa_pairs.examples", "asset:worked_examples.jsonl", "--qa_pairs.per_document", "8",
                 "--paraphrases", "asset:tiny/paraphrases.jsonl", "--out", str(out), "--train.lr", "1e-9",
                 "--locality.path", str(near)]) == 0
    generation = [prompt for prompt in prompts if "Question: How many hives does Mira have? Answer: six\n" in prompt]
    assert len(generation) > 2
    result = json.loads((out / "result.json").read_text())
    assert result["f1_paraphrased"]["open_book"]["mean"] == 1 and result["chunks"] == [1]
    probes = [record["probe_answers"] for record in read_jsonl(out / "records.jsonl")]
    assert len(probes[0]) == 3 and probes[1] == [] and probes[2] == [None, *probes[0][1:]]
    assert result["locality"]["self_param"] == {"mean": 1, "ci_low": 1, "ci_high": 1, "n": 1}
    assert result["locality_by_step"] == [1] and result["locality_tokens"]["self_param"]["mean"] == 1
    tokens = [record["probe_tokens"] for record in read_jsonl(out / "records.jsonl")]
    assert tokens == [[], [], [None, 1, 1]]


def test_retrieval_by_hand(monkeypatch):
    index = Retriever(["the red fox runs", "the blue dog sleeps", "the red dog"])
    assert index.best(["does the fox run?", "who sleeps?"]) == ["the red fox runs", "the blue dog sleeps"]
    assert index.best([]) == []
    monkeypatch.setitem(__import__("sys").modules, "bm25s", None)
    with pytest.raises(UserError, match="retrieval"):
        Retriever(["a"])
