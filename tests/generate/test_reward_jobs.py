"""`jaxllm score` with a reward model: pairs of answers, and adapters that carry the scoring head."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.cli import main
from jaxllm.errors import UserError
from jaxllm.judge import JudgeConfig, open_judge
from jaxllm.measures import class_measures, length_measures, pair_measures, reward_bench
from jaxllm.model import load
from jaxllm.models import LoraConfig, load_model, save_model, text_scores
from jaxllm.models.peft import save_adapter
from jaxllm.rl.rewards import RewardConfig, open_reward
from jaxllm.text.batches import pad_right
from jaxllm.text.examples import reward_text_ids
from tests.networks import forward, random_adapter
from tests.reward_models import save_language_model

ASK = [{"role": "user", "content": "Once upon a time?"}]
PAIRS = [{"id": "x", "prompt": ASK, "chosen": "yes", "rejected": [{"role": "assistant", "content": "no, never"}],
          "subset": "llmbar-natural"},
         {"prompt": ASK, "chosen": "the user", "rejected": "1 + 1", "subset": "math-prm"},
         {"prompt": "1 + 1 = ", "chosen": "2", "rejected": "3 or 4", "subset": "math-prm"}]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_language_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tuned(base, tmp_path_factory):
    """The adapter of a reward model with its head: its directory, the scoring model and the adapter."""
    model = load(base).with_score_head(1, ("better",), seed=2)
    adapter = random_adapter(model.spec, LoraConfig(rank=2), std=0.1)
    folder = tmp_path_factory.mktemp("tuned") / "adapter"
    return save_adapter(folder, model.spec, adapter, head=model.params["score"]), model, adapter


def score(tmp_path, rows, *arguments):
    tmp_path.mkdir(exist_ok=True)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status = main(["score", "--data.path", str(path), "--out", str(tmp_path / "out"), *map(str, arguments)])
    if status:
        return status, None
    return ([json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()],
            json.loads((tmp_path / "out" / "result.json").read_text()))


def rewards(model, adapter, texts):
    tokens, segments = pad_right(texts, max(map(len, texts)))
    hidden = forward(model.spec, model.params, jnp.asarray(tokens), segments=jnp.asarray(segments),
                     adapter=adapter).hidden
    return text_scores(model.spec, model.params, hidden, jnp.asarray(segments), jnp.asarray(tokens))[:, 0]


def test_pairs_are_compared_with_the_head_of_the_adapter(base, tuned, tmp_path):
    folder, model, adapter = tuned
    rows, result = score(tmp_path, PAIRS, "--model", base, "--adapter", folder)
    encode = lambda answers: [reward_text_ids(model.tokenizer, row["prompt"], answer)
                              for row, answer in zip(PAIRS, answers, strict=True)]
    texts = encode(("yes", "the user", "2")) + encode(("no, never", "1 + 1", "3 or 4"))
    chosen, rejected = [row["chosen"] for row in rows], [row["rejected"] for row in rows]
    assert_allclose(chosen + rejected, rewards(model, adapter, texts), atol=1e-5)
    assert [row["id"] for row in rows] == ["x", 2, 3]
    assert [row["tokens"] for row in rows] == [[len(texts[i]), len(texts[i + 3])] for i in range(3)]
    # The first two pairs have the same prompt.
    assert result.items() >= pair_measures(chosen, rejected, [0, 0, 1]).items()
    assert result.items() >= reward_bench(chosen, rejected, [row["subset"] for row in PAIRS]).items()
    lengths = np.array([row["tokens"] for row in rows])
    assert result["length"] == length_measures(lengths[:, 0], lengths[:, 1], np.greater(chosen, rejected))
    assert result["tokens"] == lengths.sum() and set(result["sections"]) == {"Chat Hard", "Reasoning"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "expected calibration error" in page and "math-prm" in page


def test_rl_and_audit_read_the_head_of_the_adapter(base, tuned, tmp_path):
    from safetensors.numpy import load_file

    folder, model, adapter = tuned
    rows = [row | {"id": f"r{number}"} for number, row in enumerate(PAIRS)]
    expected = np.reshape(rewards(model, adapter, [reward_text_ids(model.tokenizer, row["prompt"], row[side])
                                                   for row in rows for side in ("chosen", "rejected")]), (-1, 2))
    reward = open_reward(["reward_model"], RewardConfig(model=str(base), adapter=str(folder)))
    assert_allclose(reward([row["prompt"] for row in rows], ["yes", "the user", "2"], rows), expected[:, 0], atol=1e-5)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    member = {"name": "reward", "kind": "reward", "model": str(base), "adapter": str(folder)}
    assert main(["audit", "--data.path", str(path), "--out", str(tmp_path / "audit"), "--committee.members",
                 json.dumps([member])]) == 0
    assert_allclose(load_file(tmp_path / "audit" / "committee.safetensors")["scores"][:, 0], expected, atol=1e-5)


def test_a_merged_adapter_is_a_reward_model_of_its_own(base, tuned, tmp_path):
    folder, model, _ = tuned
    assert main(["convert", "--model", str(base), "--adapter", str(folder), "--merge", "--out",
                 str(tmp_path / "merged")]) == 0
    spec, params = load_model(tmp_path / "merged")
    assert spec == model.spec and "head" not in params
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"] and config["id2label"] == {"0": "better"}
    completions = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in PAIRS]
    adapted, _ = score(tmp_path / "a", PAIRS, "--model", base, "--adapter", folder)
    merged, result = score(tmp_path / "b", completions, "--model", tmp_path / "merged")
    assert_allclose([row["score"] for row in merged], [[row["chosen"]] for row in adapted], atol=1e-4)
    assert result["labels"] == ["better"]


def test_a_reward_model_does_not_generate(base, tuned, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a"}) + "\n")
    assert main(["generate", "--model", str(base), "--adapter", str(tuned[0]), "--data.path", str(path), "--out",
                 str(tmp_path / "out")]) == 2
    assert "use jaxllm score" in capsys.readouterr().err


def test_labels_measure_a_classifier(base, tmp_path):
    model = load(base).with_score_head(3, ("no", "so so", "yes"), seed=2)
    save_model(tmp_path / "model", model.spec, model.params, base)
    texts = ["Once", "upon", "a time", "1 + 1"]
    labels = ["yes", "so so", 0, "2"]
    data = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    rows, result = score(tmp_path / "job", [*data, {"text": "a", "label": "maybe"}, {"text": "a"}], "--model",
                         tmp_path / "model", "--data.limit_bad", 0.5)
    wanted = class_measures([row["score"] for row in rows], [2, 1, 0, 2], ("no", "so so", "yes"))
    assert result.items() >= wanted.items()
    rejected = [json.loads(line)["reason"] for line in (tmp_path / "job" / "out" / "rejected.jsonl").open()]
    assert rejected == [f"label must be a number from 0 to 2, or one of no, so so, yes; found {found}"
                        for found in ("'maybe'", "None")]
    with_pairs, _ = score(tmp_path / "pairs", PAIRS, "--model", tmp_path / "model")
    assert with_pairs == 2


def test_the_name_of_a_single_score_is_that_of_class_1(base, tmp_path):
    model = load(base).with_score_head(1, ("toxic",), seed=2)
    save_model(tmp_path / "model", model.spec, model.params, base)
    data = [{"text": text, "label": label} for text, label in (("Once", "toxic"), ("upon", 1), ("a", 0),
                                                               ("1 + 1", "not toxic"))]
    rows, result = score(tmp_path / "job", data, "--model", tmp_path / "model")
    wanted = class_measures([row["score"] for row in rows], [1, 1, 0, 0], ("not toxic", "toxic"))
    assert result.items() >= wanted.items() and set(result["classes"]) == {"not toxic", "toxic"}
    assert result["labels"] == ["toxic"] and "highest" not in result
    assert "highest in rows" not in (tmp_path / "job" / "out" / "report.html").read_text()


@pytest.mark.parametrize(("row", "reason"), [
    ({"prompt": "x", "chosen": "same", "rejected": "same"}, "chosen equals rejected"),
    ({"prompt": "x", "chosen": "a"}, "'rejected' is missing"),
    ({"prompt": "x", "chosen": "a " * 200, "rejected": "b"}, "do not fit the context window"),
    ({"text": "x"}, "'chosen' is missing"),
])
def test_pairs_that_cannot_be_compared_are_put_aside(base, tuned, tmp_path, row, reason):
    """Too long an answer drops the pair: it is never cut."""
    score(tmp_path, [*PAIRS, row], "--model", base, "--adapter", tuned[0], "--data.limit_bad", 0.6)
    (rejected,) = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").open()]
    assert reason in rejected["reason"] and rejected["line"] == 4


@pytest.mark.parametrize("verb, more", [("generate", []), ("evaluate", ["--task=qa"])])
def test_jobs_that_generate_name_what_has_the_scoring_head(base, tuned, tmp_path, capsys, verb, more):
    """The adapter of a reward model, or a reward model itself."""
    model = tuned[1]
    merged = save_model(tmp_path / "merged", model.spec, model.params, base)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "1 + 1", "question": "1 + 1?", "answers": ["2"]}) + "\n")
    for given, owner, what in ((["--model", base, "--adapter", tuned[0]], tuned[0], "the adapter has a scoring head"),
                               (["--model", merged], merged, "the model has a scoring head")):
        assert main([verb, *map(str, given), *more, f"--data.path={path}", f"--out={tmp_path / 'out'}"]) == 2
        shown = capsys.readouterr().err
        assert shown.startswith(f"jaxllm: {owner}: {what}") and "use jaxllm score" in shown
        assert not (tmp_path / "out").exists()


def test_a_judge_that_answers_names_the_adapter_with_a_scoring_head(base, tuned):
    with pytest.raises(UserError, match="the adapter has a scoring head") as caught:
        open_judge(JudgeConfig(kind="local", model=str(base), adapter=str(tuned[0])))
    assert str(caught.value).startswith(f"{tuned[0]}: ")
