"""Documents in one model, from the command line's side."""

import dataclasses
import json
import shutil
import types
from pathlib import Path

import numpy as np
import pytest

from jaxllm.assets import asset_path
from jaxllm.cli import main
from jaxllm.config import DataConfig
from jaxllm.errors import UserError
from jaxllm.evaluate.retrieval import Retriever
from jaxllm.files import JsonlWriter, read_jsonl
from jaxllm.finetune.targets import interleave
from jaxllm.model import load
from jaxllm.self_param import chain, questions, retention, single, study
from jaxllm.self_param.config import Config, RecallConfig, UnrelatedConfig
from jaxllm.self_param.documents import Document, Pair
from jaxllm.self_param.evaluation import unchanged
from jaxllm.self_param.memory import Memory, recall_tokens, recalled
from jaxllm.self_param.room import windowed
from jaxllm.self_param.streams import MixtureConfig
from jaxllm.self_param.windows import WindowConfig, cut
from jaxllm.text.rows import read_rows
from jaxllm.train import make_mesh

QUICK = ["inject", "--data.path", "asset:tiny/documents.jsonl", "--unrelated.path", "asset:tiny/unrelated.jsonl",
         "--questions.per_document", "4", "--questions.max_tokens", "24", "--unrelated.train", "8",
         "--unrelated.drift", "4", "--unrelated.tokens", "16", "--unrelated.with_document", "false",
         "--train.steps", "8", "--train.batch_size", "4", "--train.lr", "5e-3", "--locality.questions", "6"]


def test_one_after_the_other_and_stopped_in_between(tmp_path, monkeypatch, capsys):
    """Stopped right after an injection was noted down, and once more right before: the same numbers to the last."""
    command = [*QUICK, "--documents", "3", "--setting", "sequential", "--compare", "[replay, retrieval]",
               "--finetune", "false", "--mixture.recall", "1", "--recall.texts", "8", "--reader", "base",
               "--windows.tokens", "64", "--out"]
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    assert main([*command, str(whole)]) == 0
    trained = chain.train_run

    def stop(*arguments):
        result = trained(*arguments)
        if arguments[4] in stops:
            stops.remove(arguments[4])
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(chain, "train_run", stop)
    stops = ["after-0002", "replay-0003"]
    assert [main([*command, str(torn)]) for _ in range(3)] == [130, 130, 0]
    one, other = (json.loads((out / "result.json").read_text()) for out in (whole, torn))
    assert one == other
    assert read_jsonl(whole / "steps.jsonl") == read_jsonl(torn / "steps.jsonl")

    # The first two documents have 66 and 65 tokens, the third 62.
    assert one["windows"] == [2, 2, 1]
    assert [(row["document"], row["window"]) for row in read_jsonl(whole / "pairs.jsonl")] == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 0)]
    assert np.shape(one["f1_matrix"]) == (4, 3) and set(one["baselines"]) == {"replay", "retrieval"}
    for numbers in (one, *one["baselines"].values()):
        matrix = np.array(numbers["f1_matrix"])
        assert matrix[0].tolist() == one["f1_matrix"][0]
        assert numbers["efficacy"]["mean"] == pytest.approx(retention.efficacy(matrix, [1, 2, 3]).mean())
        assert numbers["mean_seen"] == retention.mean_seen(matrix, [1, 2, 3])
        assert len(numbers["retention_by_lag"]) == len(numbers["drift_kl"]) == len(numbers["locality"]) == 3
    assert min(one["drift_kl"]) > 0 and one["baselines"]["retrieval"]["drift_kl"] == [0.0] * 3
    assert one["near_questions"] == 6 and one["f1_with_document"]["mean"] > 0.8
    # BM25 finds each document once it is there, and the reader is right about it.
    found = np.array(one["baselines"]["retrieval"]["f1_matrix"])
    assert found[3].mean() > 0.8 and found[1, 1:].max() < 0.5
    # The first injection is the same with and without replay, which has nothing to replay then.
    assert one["f1_matrix"][1] == one["baselines"]["replay"]["f1_matrix"][1]
    assert [path.name for path in sorted((whole / "adapters").iterdir())] == ["0000", "0001", "0002"]
    assert len(read_jsonl(whole / "rows.jsonl")) == one["questions"]
    page = (whole / "report.html").read_text()
    assert "Token F1 by document and injections made: injected with replay" in page
    take_out(whole, one, capsys)


def take_out(run, result, capsys):
    """The second of three documents leaves the model, which is the sum of its adapters."""
    capsys.readouterr()
    assert main(["inspect", str(run / "adapters"), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["adapters"]
    assert [one["provenance"]["documents"][0]["document"] for one in listed] == [0, 1, 2]
    assert main(["inspect", str(run / "adapters")]) == 0
    assert listed[1]["provenance"]["documents"][0]["begins"] in capsys.readouterr().out

    begins = listed[1]["provenance"]["documents"][0]["begins"]
    remove = lambda document: main(["remove", document, "--out", str(run)])
    assert remove("7") == 2 and "no documents in the model are meant by '7'" in capsys.readouterr().err
    assert remove(begins) == 0
    told = json.loads((run / "removed" / "0001.json").read_text())
    assert told["removed"] == 1 and told["left"] == [0, 2]
    assert told["f1"]["base"] == result["f1_matrix"][0] and told["f1"]["with"] == result["f1_matrix"][3]
    assert [path.name for path in sorted((run / "adapters").iterdir())] == ["0000", "0002"]
    assert remove("1") == 2  # it is not there any more
    shutil.copytree(run / "removed" / "0001", run / "adapters" / "0001")
    assert remove("1") == 2 and "stands there still" in capsys.readouterr().err
    shutil.rmtree(run / "adapters" / "0001")
    (run / "removed" / "0001").rename(run / "adapters" / "0001")
    assert remove("1") == 0 and json.loads((run / "removed" / "0001.json").read_text()) == told
    assert main(["remove", "1", "--out", str(run / "nowhere")]) == 2


def test_all_together(tmp_path):
    near, out = tmp_path / "near.jsonl", tmp_path / "out"
    other = tmp_path / "other.jsonl"
    first = read_rows("asset:tiny/paraphrases.jsonl", {"context": str, "question": str, "answers": list}).rows[:18]
    other.write_text("".join(json.dumps(row) + "\n" for row in [*first, {**first[0], "context": "elsewhere"}]))
    near.write_text('{"question": "Who commands the ship Nobo?"}\n{"question": " "}\n' + '{"question": "Who?"}\n' * 20)
    assert main([*QUICK, "--documents", "3", "--setting", "batch", "--finetune", "false", "--compare",
                 "[finetune_context]", "--locality.path", str(near), "--paraphrases", str(other),
                 "--out", str(out)]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["near_questions"] == 2 and result["rejected"] == 2 and result["setting"] == "batch"
    assert [(row["line"], row["reason"]) for row in read_jsonl(out / "rejected.jsonl")] == [
        (19, "its context is no document of the data"), (2, "question is empty")]
    # All questions of the three documents in other words.
    assert result["f1_paraphrased_with_document"]["mean"] == 1 > result["f1_paraphrased_before"]["mean"]
    last = read_jsonl(out / "steps.jsonl")[2]
    assert result["f1_paraphrased"]["mean"] == pytest.approx(np.mean(last["f1_paraphrased"]))
    assert len(last["f1_paraphrased"]) == 3
    assert "written together into one model" in (out / "report.html").read_text()
    assert np.shape(result["f1_matrix"]) == (2, 3) and result["efficacy"] == result["f1_after"]
    assert list(result["baselines"]) == ["finetune_context"] and len(result["perplexity"]) == 2
    lines = read_jsonl(out / "metrics.jsonl")
    assert [line["arm"] for line in lines if line["step"] in (8, 16)] == ["after", "finetune_context"]


@pytest.mark.parametrize("kinds", [{"qa": 1, "continuation": 1}, {"unrelated": 1}, {"qa": 1}])
def test_windows_that_nothing_is_asked_about(kinds, tmp_path, monkeypatch):
    """One of two windows has no pairs: it has its continuation, or is passed over; without either kind all stay."""
    monkeypatch.setattr(study, "training_pairs", lambda *_: [[[("Who?", "Rafara")], []]])
    mixture = dataclasses.replace(MixtureConfig(qa=0, continuation=0, unrelated=1), **{"unrelated": 0, **kinds})
    config = Config(DataConfig("x"), tmp_path, setting="batch", mixture=mixture, compare=["finetune_context"])
    document = Document("one two", (Pair("Who?", ("Rafara",)),), ("The crew counts 95.", "It is made of pine."))
    made = study.prepare(config, types.SimpleNamespace(directory=tmp_path), load("tiny"), make_mesh(1), [document],
                         [f"text {n} of some words" for n in range(40)], None)
    turns = [one.turns for one in made.streams["after"][0]]
    assert turns == {"qa": [("qa", "continuation"), ("continuation",)] if len(kinds) == 2 else [("qa",)],
                     "unrelated": [("unrelated",)] * 2}[next(iter(kinds))]
    assert len(made.streams["finetune_context"][0]) == 2
    source = interleave(made.streams["after"][0], 0)
    assert len({source.target(number) for number in range(4)}) == {2: 4, 1: 1 if "qa" in kinds else 4}[len(kinds)]


def test_the_nearest_window():
    """By what few windows have, with or without spaces; the answer decides where it is known."""
    pair = (Pair("q?", ("a",)),)
    dogs = Document("", pair, ("The dog that is of the man in the house is old.", "Rex barks.", "A cat and the dog."))
    assert dogs.nearest("Is it the dog Rex that barks?") == 1
    assert dogs.nearest("What is it?", "cat") == 2 and dogs.nearest("What is it?", "horse") == 0
    unbroken = Document("", pair, ("\u5317\u4eac\u662f\u4e2d\u56fd\u7684\u9996\u90fd",
                                   "\u4e0a\u6d77\u6709\u5f88\u591a\u6865\u6881"))
    assert unbroken.nearest("\u4e0a\u6d77\u6709\u5f88\u591a\u4ec0\u4e48") == 1


@pytest.mark.parametrize(("more", "message"), [
    (["--questions.source", "judge", "--questions.examples", "x.jsonl"], "questions.examples"),
    (["--windows.tokens", "8"], "windows.tokens"),
    (["--paraphrases", "asset:tiny/documents_mixed.jsonl"], "no document of the data"),
    (["--locality.path", "nowhere.jsonl"], "nowhere"),
    (["--reader", "base"], "reader"),
    (["--on_policy.share", "0.5", "--divergence.top_k", "4"], "set divergence.top_k to null"),
    (["--on_policy.share", "0.5", "--mixture.qa", "0"], "no pairs to answer"),
    (["--compare", "[replay]"], "means nothing in the setting single"),
    (["--setting", "batch", "--compare", "[replay]"], "set setting to sequential"),
    (["--setting", "batch", "--lora", "null", "--save", "nothing"], "kept as adapters"),
    (["--setting", "sequential", "--save", "model"], "convert --merge"),
    (["--setting", "sequential", "--locality.path", "nowhere.jsonl"], "nowhere"),
    (["--setting", "sequential", "--locality.questions", "-1"], "locality.questions")])
def test_settings_that_do_not_go_together(tmp_path, capsys, more, message):
    assert main([*QUICK, "--out", str(tmp_path / "out"), *more]) == 2
    assert message in capsys.readouterr().err


def test_documents_too_long_are_read_in_windows():
    """A long document and a long question that fit by themselves, and not together."""
    documents = [Document("ship " * 300, (Pair("q?", ("a",)),)), Document("short", (Pair("ship " * 300, ("a",)),))]
    config = Config(DataConfig("x"), Path("y"), setting="batch")
    model = load("tiny")
    length = lambda text: len(model.tokenizer.encode(text))
    assert [len(one.passages) for one in windowed(config, model, documents)] == [1, 1]
    parts = [one.passages for one in windowed(dataclasses.replace(config, compare=["retrieval"]), model, documents)]
    assert len(parts[0]) > 1 and parts[1] == ("short",)
    longest = length(config.format.ask("ship " * 300)) + config.sampling.max_tokens
    assert all(1 + length(config.format.read(part)) + longest <= model.spec.max_positions for part in parts[0])
    small = dataclasses.replace(config, windows=WindowConfig(tokens=40))
    assert max(length(part) for part in windowed(small, model, documents)[0].passages) <= 40
    # What retrieval may put behind a document, and what the model asks itself with its answer, has room as well.
    near = dataclasses.replace(config, compare=["retrieval"])
    most = max(length(part) for part in windowed(near, model, documents[:1], near=["ship " * 200])[0].passages)
    assert most + length(config.format.ask("ship " * 200)) + config.sampling.max_tokens < model.spec.max_positions
    own = Document("ship " * 490, (Pair("q?", ("a",)),))
    read = max(length(config.format.read(part)) for part in windowed(config, model, [own])[0].passages)
    assert read + config.questions.max_tokens + config.sampling.max_tokens < model.spec.max_positions
    with pytest.raises(UserError, match="near question that begins 'ship"):
        windowed(config, model, documents, near=["ship " * 600])
    endless = [Document("short", (Pair("ship " * 600, ("a",)),))]
    with pytest.raises(UserError, match="leaves room for"):
        windowed(config, model, endless)


def test_one_at_a_time_asked_in_other_words_after_worked_examples(tmp_path, monkeypatch):
    prompts, asked = [], questions.generate

    def noted(model, rows, *arguments, **more):
        prompts.extend(model.tokenizer.decode(list(row)) for row in rows)
        return asked(model, rows, *arguments, **more)

    monkeypatch.setattr(questions, "generate", noted)
    near, counted = tmp_path / "near.jsonl", []
    own = read_jsonl(asset_path("tiny/documents.jsonl"))[0]["question"]
    near.write_text("".join(json.dumps({"question": one}) + "\n" for one in (own, "Who sails?", "What is it?")))
    monkeypatch.setattr(single, "unchanged", lambda *both: counted.append(both) or unchanged(*both))
    assert main([*QUICK, "--documents", "1", "--finetune", "false", "--train.steps", "2", "--train.warmup_steps", "0",
                 "--questions.examples", "asset:worked_examples.jsonl", "--questions.per_document", "8",
                 "--paraphrases", "asset:tiny/paraphrases.jsonl", "--out", str(tmp_path / "out"), "--train.lr", "1e-9",
                 "--locality.path", str(near)]) == 0
    assert len(prompts) > 2 and all("Question: How many hives does Mira have? Answer: six\n" in one for one in prompts)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["f1_paraphrased_with_document"]["mean"] == 1 and "f1_paraphrased_after" in result
    assert result["windows"] == [1]
    # Hardly trained, it answers near questions as before; its own is none.
    ((before, after),) = counted
    assert len(before) == len(after) == 2 and result["locality"]["mean"] == 1
    assert unchanged(["The ship", "two"], ["ship.", "three"]) == 0.5


UNBROKEN = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))


@pytest.mark.parametrize(("text", "limit", "overlap"), [
    (" ".join(map(str, range(200))), 40, 10), (UNBROKEN, 30, 7), ("\n".join(map(str, range(100))), 9, 0),
    ("short", 40, 10), ("", 8, 2), (f"one two three {UNBROKEN} end of it", 20, 10)])
def test_windows_cover_a_text_and_overlap(text, limit, overlap):
    """Letters stand for tokens; no two places of a text look alike."""
    parts = cut(text, limit, overlap, len)
    starts = [text.index(part) for part in parts]
    ends = [start + len(part) for start, part in zip(starts, parts, strict=True)]
    assert all(len(part) <= limit for part in parts) and starts[0] == 0 and ends[-1] == len(text)
    for end, start in zip(ends, starts[1:], strict=False):
        assert end - overlap <= start <= end  # nothing is left out, and no more is read twice than was asked for
    assert ends == sorted(set(ends)) and starts == sorted(set(starts))
    if UNBROKEN not in text:
        assert all(text[start - 1].isspace() for start in starts[1:])
    elif text == UNBROKEN:
        assert len(parts) <= 1 + len(text) / (limit - overlap)


def test_a_model_tells_what_it_knows(tmp_path):
    """Whole questions with their answers, none twice, in the wording of the job; rehearsed before later injections."""
    config = Config(DataConfig("x"), Path("y"), recall=RecallConfig(texts=16))
    model = load("tiny")
    found = recalled(config, model, 0)
    assert 1 < len(found) <= 16 and len(set(found)) == len(found) and found == recalled(config, model, 0)
    for ids in found:
        text = model.tokenizer.decode(list(ids))
        assert text.startswith("Question:") and " Answer:" in text and text.endswith("\n")
        assert len(ids) <= recall_tokens(config) + 2
    silent = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, max_tokens=1),
                                 questions=dataclasses.replace(config.questions, max_tokens=1))
    with pytest.raises(UserError, match="came to the end of none within 2 tokens"):
        recalled(silent, model, 0)

    job = types.SimpleNamespace(directory=tmp_path)
    streams = types.SimpleNamespace(recall=found, turns=("qa", "recall"))
    memory = Memory(config, job, streams, "after")
    assert memory.before(1, model) == found and not (tmp_path / "recall.jsonl").exists()
    second = memory.before(2, model)
    assert second and set(second) != set(found)  # its own unrelated texts hold what it knew at first
    with JsonlWriter(tmp_path / "recall.jsonl") as writer:
        writer.write({"arm": "after", "step": 3, "texts": [[5, 6], list(second[0])]})
        writer.write({"arm": "replay", "step": 2, "texts": [[7]]})
    assert Memory(config, job, streams, "after").before(3, model) == (*second, (5, 6))
    given = dataclasses.replace(config, unrelated=UnrelatedConfig(path="others.jsonl"))
    assert Memory(given, job, streams, "after").before(3, model) == tuple(dict.fromkeys((*found, *second, (5, 6))))
    assert Memory(config, job, types.SimpleNamespace(recall=(), turns=("qa",)), "after").before(3, model) == ()


def test_retrieval_by_hand(monkeypatch):
    found = Retriever(["the red fox runs", "the blue dog sleeps", "the red dog"])
    assert found.best(["does the fox run?", "who sleeps?"]) == ["the red fox runs", "the blue dog sleeps"]
    assert found.best([]) == []
    monkeypatch.setitem(__import__("sys").modules, "bm25s", None)
    with pytest.raises(UserError, match="retrieval"):
        Retriever(["a"])
