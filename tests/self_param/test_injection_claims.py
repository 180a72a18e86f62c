"""The table of claims and the table of runs, on records that were written for them."""

import argparse
import collections
import dataclasses
import json
import sys
from pathlib import Path

import pytest

from jaxllm.files import read_jsonl, write_jsonl
from jaxllm.parsing import parse
from jaxllm.self_param.config import Config
from jaxllm.self_param.metrics import Record, summarize
from tests.conftest import ROOT

sys.path.append(str(ROOT / "scripts"))  # the script imports others
import injection_claims  # noqa: E402
import injection_table  # noqa: E402
import verbs  # noqa: E402

NONE, SOME = [0.0, 0.0], [1.0, 0.5]


def write_run(folder, setting="single", closed_book=NONE, open_book=SOME, drift=0.1, unchanged=(), **scores):
    """Writes a run with the F1 by passage of every method, a list of them by injection in the setting sequential.

    `unchanged` has an entry per locality probe.
    """
    folder.mkdir(parents=True)
    records = [Record("closed_book", 0, [0, 1], [[], []], closed_book, closed_book, [],
                      probe_answers=["yes"] * len(unchanged)),
               Record("open_book", 0, [0, 1], [[], []], open_book, open_book, [])]
    for method, own in scores.items():
        steps = own if setting == "sequential" else [own] if setting == "batch" else [[f1] for f1 in own]
        records += [Record(method, step, [step - 1] if setting == "single" else [0, 1], [[]] * len(f1), f1, f1, [],
                           drift_kl=drift, drift_sums=[drift], drift_tokens=[1],
                           probe_answers=["yes" if same else "no" for same in unchanged])
                    for step, f1 in enumerate(steps, 1)]
    write_jsonl(folder / "records.jsonl", map(dataclasses.asdict, records))
    write_jsonl(folder / "rows.jsonl", [
        {"document": number, "question": "Who is it?", "answers": [f"{name} of {folder.name}"]}
        for number, name in ((0, "a"), (0, "b"), (1, "c"))])
    result = summarize(records, setting == "single", [1, 1] if setting == "batch" else [1, 2], 0)
    (folder / "result.json").write_text(json.dumps(result | {
        "setting": setting, "documents": 2, "questions": 3, "seed": 0, "versions": {"device_kind": "cpu"}}))
    return folder


def verdicts(runs):
    """Returns the rows of the claims {claim: (A - factor x B, by seed, units, verdict)}; runs by part and seed."""
    values = collections.defaultdict(dict)
    for part, own in runs.items():
        for seed, folder in own.items():
            for name, found in injection_claims.read_values(folder).items():
                values[f"{part} {name}"][seed] = found
    rows = [injection_claims.claim_row(values, *claim) for claim in injection_claims.CLAIMS]
    return {row[0]: tuple(row[3:]) for row in rows if row is not None}


def write_parts(path, parts, setting="single"):
    """Writes runs {part: {seed: scores}}; the parts of a seed have the same passages."""
    return {part: {seed: write_run(path / part / str(seed), setting, **scores) for seed, scores in own.items()}
            for part, own in parts.items()}


@pytest.mark.parametrize(("f1", "closed_book", "difference", "verdict"), [
    (SOME, NONE, "0.075", "holds"), ([0.5, 0.25], NONE, "-0.300", "fails"), ([0.99, 0.3], NONE, "-0.030", "open"),
    (SOME, SOME, "0.000", "open"), ([0.9, 0.2], [0.8, 0.3], "-0.180", "fails")])
def test_injection_has_to_reach_what_the_passage_adds(tmp_path, f1, closed_book, difference, verdict):
    scores = {"self_param": f1, "closed_book": closed_book}
    runs = write_parts(tmp_path, {"single": dict.fromkeys(range(5), scores)})
    found, by_seed, units, decided = verdicts(runs)["as good as open-book, single"]
    assert (found.split()[0], units, decided) == (difference, "10", verdict) and by_seed.count(":") == 5


def test_a_passage_that_adds_nothing_is_no_yardstick(tmp_path):
    scores = {"self_param": [0.6, 0.5], "open_book": [0.2, 0.1], "closed_book": [0.3, 0.2]}
    found = verdicts(write_parts(tmp_path, {"single": dict.fromkeys(range(5), scores)}))
    assert found["as good as open-book, single"][0::3] == ("0.390 [0.390, 0.390]", "open")


def test_a_share_is_left_of_what_was_learned(tmp_path):
    scores = {"self_param": [[0.2, 0.1], [0.15, 0.2]], "closed_book": [0.1, 0.1]}
    found = verdicts(write_parts(tmp_path, {"sequential": dict.fromkeys(range(6), scores)}, "sequential"))
    assert found["60 % is left after a sequence"][0::3] == ("-0.010 [-0.010, -0.010]", "fails")
    nothing = {"self_param": [[0.1, 0.1], [0.1, 0.1]], "closed_book": [0.1, 0.1]}
    found = verdicts(write_parts(tmp_path / "b", {"sequential": dict.fromkeys(range(6), nothing)}, "sequential"))
    assert found["60 % is left after a sequence"][-1] == "open"


def test_passages_of_one_model_are_one_unit(tmp_path):
    f1 = {0: [0.2, 0.23], 1: [0.5, 0.53], 2: [0.8, 0.83]}
    runs = write_parts(tmp_path, {"batch": {seed: {"self_param": own, "open_book": [0.8, 0.8]}
                                            for seed, own in f1.items()}}, "batch")
    [(claim, (found, by_seed, units, verdict))] = verdicts(runs).items()
    assert claim == "as good as open-book, batch" and (units, verdict) == ("3", "open")
    assert found == "-0.205 [-0.505, 0.095]" and by_seed == "0: -0.505, 1: -0.205, 2: 0.095"


def test_only_equal_seeds_are_compared(tmp_path):
    scores = [{"self_param": [[f1, 0.0], [f1, f1]]} for f1 in (0.9, 0.5, 0.4)]
    runs = write_parts(tmp_path, {"sequential": dict(enumerate(scores)), "no_unrelated": {0: scores[0]}}, "sequential")
    assert verdicts(runs)["without unrelated text half is lost"] == ("-0.900", "0: -0.900", "1", "open")
    runs["no_unrelated"] = {7: runs["no_unrelated"][0]}
    assert verdicts(runs).keys() == {"60 % is left after a sequence"}


def test_decay_leaves_out_the_last_passage(tmp_path):
    runs = write_parts(tmp_path, {"sequential": {seed: {"self_param": [[0.8, 0.0], [0.4, 1.0]]} for seed in range(6)}},
                       "sequential")
    assert verdicts(runs)["60 % is left after a sequence"][0::3] == ("-0.080 [-0.080, -0.080]", "fails")


def test_cross_entropy_is_compared_on_the_same_passages(tmp_path):
    scores = {"self_param": [0.8, 0.4], "finetune": [0.6, 0.3]}
    found = verdicts(write_parts(tmp_path, {"single": {0: scores, 2: scores, 3: scores}}))
    assert found["KL is better than cross-entropy"][0::3] == ("0.150 [0.117, 0.183]", "holds")
    assert found["KL changes other text less"][0::3] == ("0.000 [0.000, 0.000]", "open")


def question(context, text, answer="yes"):
    return {"context": context, "question": text, "answers": [answer]}


def test_no_question_is_taught_and_tested(tmp_path):
    rows = [question("a", text) for text in ("q1?", "Q1?", "q2?", "q3?", "q4?", "q5?")]
    rows += [question("a", "q2", "no"), *(question("b", f"r{i}?") for i in range(3)), question("c", "s?")]
    for seed in range(4):
        injection_claims.write_data(tmp_path, injection_claims.group_rows(rows), seed)
    read = lambda name: [(row["context"], row["question"]) for row in read_jsonl(tmp_path / f"{name}.jsonl")]
    taught = [{text for _, text in read(f"taught-{seed}")} for seed in range(4)]
    for seed, own in enumerate(taught):
        tested = {text for _, text in read(f"tested-{seed}")}
        assert (len(own), len(tested)) == (2, 3) and own | tested == {"Q1?", "q2", "q3?", "q4?", "q5?"}
    assert len(set(map(frozenset, taught))) > 1
    assert sorted(read("passages-0")) == sorted((row["context"], row["question"]) for row in rows)
    assert len({tuple(dict(read(f"passages-{seed}"))) for seed in range(4)}) > 1


def with_configs(rest):
    """Options of the script with the configs of the packaged model; `rest` follows `--`."""
    configs = ROOT / "configs" / "self_param"
    return argparse.Namespace(
        single=configs / "tiny.yaml", batch=configs / "tiny_batch.yaml", sequential=configs / "tiny_sequential.yaml",
        model="tiny", passages=(3, 4, 5), out=Path("out"), rest=rest)


@pytest.mark.parametrize(("part", "expected"), [
    ("single", {"documents": 3, "save": "nothing",
                "compare": ["finetune", "finetune_questions", "finetune_context"]}),
    ("batch", {"documents": 4, "compare": ["finetune_questions", "retrieval"]}),
    ("no_unrelated", {"documents": 5, "compare": [], "train.steps": 6, "mixture.unrelated": 0, "mixture.qa": 2,
                      "unrelated.train": 32, "unrelated.drift": 32}),
    ("own", {"documents": 3, "data.path": "out/tested-2.jsonl", "qa_pairs.per_document": 2, "qa_pairs.cloze": 0}),
    ("people", {"data.path": "out/tested-2.jsonl", "qa_pairs.source": "out/taught-2.jsonl", "qa_pairs.cloze": 0})])
def test_arguments_of_a_run(part, expected):
    options = with_configs(["--train.steps=8", "--qa_pairs.cloze=8", "--train.warmup_steps=1"])
    config = parse(Config, [*injection_claims.keys(part, options, 2), "--out=x"])
    for key, value in ({"seed": 2, "model": "tiny", "data.path": "out/passages-2.jsonl", "qa_pairs.cloze": 8,
                        "train.steps": 8} | expected).items():
        found = config
        for name in key.split("."):
            found = getattr(found, name)
        assert found == value, key


@pytest.mark.parametrize(("part", "rest", "key", "value"), [
    ("people", "--qa_pairs.answer_first=true", "answer_first", False),
    ("people", "--qa_pairs.closed_book_share=0.3", "closed_book_share", 0),
    ("own", "--qa_pairs.answer_first=true", "answer_first", True),
    ("own", "--qa_pairs.closed_book_share=0.3", "closed_book_share", 0.3)])
def test_keys_of_written_questions_are_for_the_models_own(part, rest, key, value):
    assert getattr(parse(Config, [*injection_claims.keys(part, with_configs([rest]), 0), "--out=x"]).qa_pairs,
                   key) == value


def test_an_epoch_without_unrelated_text_ends_with_the_pairs():
    options = with_configs(["--train.epochs=2", "--train.steps=null", "--train.warmup_steps=0"])
    config = parse(Config, [*injection_claims.keys("no_unrelated", options, 0), "--out=x"])
    assert (config.train.epochs, config.train.steps, config.mixture.unrelated) == (2, None, 0)


@pytest.mark.parametrize(("results", "status", "rows"), [
    ([0, 0, 0, 0], 0, 2), ([0, 0, 130], 0, 2), ([0, 2, 1, 0], 2, 2), ([0, 2, 0, 2], 2, 1), ([2], 2, None)])
def test_every_run_is_checked_and_those_that_are_done_are_in_the_table(tmp_path, monkeypatch, results, status, rows):
    write_jsonl(tmp_path / "rows.jsonl", [question("a", f"q{i}?") for i in range(4)])
    out, called = tmp_path / "out", []
    for seed in (0, 1):  # all runs are there, of this command or another
        write_run(out / f"single-{seed}", self_param=SOME, finetune=SOME)
        write_run(out / f"own-{seed}", self_param=SOME)

    def inject(arguments):
        called.append(Path(arguments[-1].removeprefix("--out=")).name)
        return results[len(called) - 1]

    monkeypatch.setattr(verbs, "jaxllm", inject)
    monkeypatch.setattr(sys, "argv", ["x", str(out), "--model=tiny", f"--data={tmp_path / 'rows.jsonl'}", "--seeds",
                                      "0", "1", "--only", "single", "own", "--", "--train.steps=7"])
    assert injection_claims.main() == status
    assert called == ["single-0", "own-0", "single-1", "own-1"][:len(results)]
    if rows is None:
        assert not (out / "claims.md").exists()
    else:
        text = (out / "claims.md").read_text()
        assert text.count("\n## ") == rows and "| closed-book | 0.000" in text


def scores_of(runs, label="SELF-PARAM"):
    """Returns the cells of a method's row in the table of runs, by column."""
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    head, _, *lines = injection_table.table(runs, results).splitlines()
    cells = lambda line: [cell.strip() for cell in line.split("|")][2:-1]
    return dict(zip(cells(head), cells(next(line for line in lines if f"{label} |" in line)), strict=True))


def test_one_number_for_a_run_has_no_interval(tmp_path):
    runs = [write_run(tmp_path / str(seed) / "run", "batch", drift=drift, self_param=SOME)
            for seed, drift in enumerate((0.25, 0.2, 0.3))]
    assert scores_of(runs) == {
        "token F1": "0.750 [0.500, 1.000]", "F1 / open-book F1": "1.000 [0.667, 1.333]",
        "contains a reference": "0.750 [0.500, 1.000]", "contains a reference / open-book": "1.000 [0.667, 1.333]",
        "drift KL, nats/token": "0.250", "F1 right after injection": "0.750"}


def test_without_an_open_book_answer_there_is_no_share(tmp_path):
    runs = [write_run(tmp_path / str(seed) / "run", open_book=open_book, self_param=SOME)
            for seed, open_book in enumerate((SOME, NONE))]
    results = [json.loads((run / "result.json").read_text()) for run in runs]
    assert [result["share_of_open_book"] for result in results] == [1, None]
    assert injection_table.table(runs, results).endswith("SELF-PARAM / open-book F1, by seed: 1.000, –.")


@pytest.mark.parametrize(("setting", "locality"), [("single", "0.500 [0.500, 0.500]"), ("batch", "0.500")])
def test_passages_in_another_order_keep_their_seeds_together(tmp_path, setting, locality):
    """The same passage is right in both runs, at other places; probes of a batch differ with the order."""
    runs = [write_run(tmp_path / str(seed) / "run", setting, unchanged=[True, False], self_param=f1)
            for seed, f1 in enumerate(([0.0, 1.0], [1.0, 0.0]))]
    rows = read_jsonl(runs[1] / "rows.jsonl")
    write_jsonl(runs[1] / "rows.jsonl", [row | {"document": 1 - row["document"]} for row in rows])
    scores = scores_of(runs)
    assert (scores["token F1"], scores["F1 / open-book F1"], scores["locality"]) == (
        "0.500 [0.000, 1.000]", "0.667 [0.000, 1.333]", locality)


def test_a_baseline_of_some_runs_names_their_seeds(tmp_path):
    runs = [write_run(tmp_path / "0" / "run", self_param=SOME, finetune=SOME),
            write_run(tmp_path / "1" / "run", self_param=SOME)]
    assert scores_of(runs, f"{injection_table.LABELS['finetune']} (seed 0)")["token F1"] == "0.750 [0.500, 1.000]"
