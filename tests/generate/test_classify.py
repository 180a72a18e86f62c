"""`jaxllm score` on classifiers and reward models."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxllm.cli import main
from jaxllm.models import Head, ModelSpec, forward, load_model, save_model, text_scores
from jaxllm.models.spec import Encoder
from jaxllm.text.examples import reward_text_ids
from jaxllm.text.tokenizer import load_tokenizer
from tests.networks import random_params

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film", "very", "a", "[", "]", "sep"]
BERT = ModelSpec("bert", vocab_size=len(WORDS), width=32, layers=2, heads=4, kv_heads=4, head_dim=8, mlp_width=48,
                 max_positions=32, norm="layer", norm_eps=1e-12, norms="outside", final_norm=False, activation="gelu",
                 gated_mlp=False, qkv_bias=True, out_bias=True, mlp_bias=True, rope=None, tied=True,
                 encoder=Encoder(token_types=2), pad_id=0,
                 head=Head(3, "first", True, "tanh", name="classifier", label_names=("no", "so so", "yes")))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A small random BERT with a WordPiece tokenizer, as a checkpoint."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("bert")
    words = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordPiece(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    source = folder / "source"
    source.mkdir()
    tokenizer.save(str(source / "tokenizer.json"))
    (source / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]",
        "sep_token": "[SEP]", "model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}))
    return save_model(folder / "model", BERT, random_params(BERT, seed=5), source)


def test_token_types_follow_the_tokenizer(bert, tmp_path):
    """A tokenizer that does not list token types gives all tokens type 0."""
    plain = tmp_path / "plain"
    shutil.copytree(bert, plain)
    config = json.loads((plain / "tokenizer_config.json").read_text())
    (plain / "tokenizer_config.json").write_text(json.dumps(config | {"model_input_names": ["input_ids"]}))
    assert load_tokenizer(bert).whole("good", "bad film")[1] == [0, 0, 0, 1, 1, 1]
    assert load_tokenizer(plain).whole("good", "bad film")[1] == [0] * 6


def score(model, rows, tmp_path, *arguments, status=0):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["score", "--model", str(model), "--data.path", str(path), "--out", str(tmp_path / "out"),
                 *arguments]) == status
    if status:
        return None, None
    return ([json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()],
            json.loads((tmp_path / "out" / "result.json").read_text()))


@pytest.mark.slow
def test_texts_and_pairs(bert, tmp_path):
    rows, result = score(bert, [{"id": "x", "text": "a very good film"}, {"text": "bad"},
                                {"text": "good", "text_pair": "a bad film"}], tmp_path)
    assert [row["id"] for row in rows] == ["x", 2, 3] and [row["tokens"] for row in rows] == [6, 3, 7]
    spec, params = load_model(bert)
    text_score = lambda ids, types: text_scores(spec, params, forward(
        spec, params, jnp.array([ids]), types=jnp.array([types])).hidden, jnp.ones((1, len(ids)), jnp.int32))[0]
    assert_allclose(rows[0]["score"], text_score([2, 8, 7, 4, 6, 3], [0] * 6), atol=1e-5)
    assert_allclose(rows[1]["score"], text_score([2, 5, 3], [0] * 3), atol=1e-5)
    assert_allclose(rows[2]["score"], text_score([2, 4, 3, 8, 5, 6, 3], [0] * 3 + [1] * 4), atol=1e-5)
    assert result["labels"] == ["no", "so so", "yes"] and result["rows"] == 3 and sum(result["highest"]) == 3
    assert_allclose(result["mean_score"], np.mean([row["score"] for row in rows], axis=0), rtol=1e-6)
    assert (tmp_path / "out" / "report.html").read_text().count("so so") >= 2


def test_a_tokenizer_without_an_end_token_adds_its_own_around_an_answer(bert):
    assert reward_text_ids(load_tokenizer(bert), "a good ", "film") == [2, 8, 4, 6, 3]


def test_special_tokens_in_a_text_are_ordinary_pieces(bert):
    """The text of a special token is tokenized as ordinary pieces."""
    ids, types = load_tokenizer(bert).whole("good [SEP] bad", "a")
    assert ids.count(3) == 2 and ids[0] == 2 and ids[-1] == 3
    assert types == [0] * (len(ids) - 2) + [1, 1]


@pytest.mark.slow
def test_batch_size_changes_nothing(bert, tmp_path):
    texts = [{"text": " ".join(["very"] * n + ["good film"])} for n in (1, 9, 4, 20, 2)]
    results = []
    for size in ("1", "4"):
        (tmp_path / size).mkdir()
        results.append(score(bert, texts, tmp_path / size, "--batch_size", size)[0])
    for row, other in zip(*results, strict=True):
        assert_allclose(row["score"], other["score"], atol=1e-5)


@pytest.mark.slow
def test_a_reward_model_reads_conversations(tmp_path):
    """The packaged model with a head: the score is that of the last token of the rendered conversation."""
    import dataclasses

    spec, params = load_model("tiny")
    spec = dataclasses.replace(spec, head=Head(1, "last"))
    params = {name: leaf for name, leaf in params.items() if name != "head"}
    params["score"] = {"out": {"kernel": jax.random.normal(jax.random.key(1), (spec.width, 1))}}
    save_model(tmp_path / "reward", spec, params, "tiny")
    messages = [{"role": "user", "content": "What is 3 + 4?"}, {"role": "assistant", "content": "7"}]
    rows, result = score(tmp_path / "reward", [{"messages": messages}, {"text": "7"}], tmp_path)
    ids = load_tokenizer("tiny").chat(messages, add_generation_prompt=False)
    hidden = forward(spec, params, jnp.array([ids])).hidden[0, -1]
    assert_allclose(rows[0]["score"], hidden @ params["score"]["out"]["kernel"], atol=1e-4)
    assert rows[0]["tokens"] == len(ids) and rows[1]["tokens"] == 1 + len(load_tokenizer("tiny").encode("7"))
    assert result["labels"] == ["score 1"]


@pytest.mark.parametrize(("row", "reason"), [
    ({"prompt": "x"}, "either text (and perhaps text_pair) or messages"),
    ({"text": "a", "messages": [{"role": "user", "content": "b"}]}, "either text"),
    ({"text": "very " * 40}, "42 tokens do not fit the context window of 32"),
    ({"messages": [{"role": "user", "content": "b"}]}, "no chat template"),
    ({"text": 5}, "field 'text'"),
])
def test_bad_rows_are_put_aside(bert, tmp_path, row, reason):
    score(bert, [{"text": "good"}, row], tmp_path, "--data.limit_bad", "0.6")
    (rejected,) = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert reason in rejected["reason"] and rejected["line"] == 2


def test_a_classifier_does_not_generate(bert, tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"prompt": "a"}) + "\n")
    assert main(["generate", "--model", str(bert), "--data.path", str(path), "--out", str(tmp_path / "out")]) == 2
    assert "use jaxllm score" in capsys.readouterr().err
