"""A tokenizer with more tokens than the embedding has rows: only texts with such a token are refused."""

import json
import shutil

import numpy as np
import pytest

from jaxllm import Generator, SamplingConfig, load
from jaxllm.assets import asset_path
from jaxllm.checkpoint.inspect_job import inspect
from jaxllm.cli import main
from jaxllm.config import DataConfig
from jaxllm.errors import UserError
from jaxllm.job import open_job
from jaxllm.judge import LocalJudge, Prompt
from jaxllm.self_param.config import Config
from jaxllm.self_param.data import load_data, read_documents
from jaxllm.text import encode_example

REASON = "the text has the token '<extra>' with the id 1280, for which the model's embedding of 1280 rows has none"
GREEDY = SamplingConfig(temperature=0.0, max_tokens=2)


def with_tokens(folder, *tokens):
    """Copies the tiny model, with tokens added to its tokenizer; a special one is spelled <|...|>."""
    from tokenizers import AddedToken, Tokenizer

    shutil.copytree(asset_path("tiny"), folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for token in tokens:
        tokenizer.add_tokens([AddedToken(token, special=token.startswith("<|"), normalized=False)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def larger(tmp_path_factory):
    return with_tokens(tmp_path_factory.mktemp("larger") / "model", "<extra>", "<|image|>")


@pytest.fixture(scope="module")
def model(larger):
    return load(larger)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_only_texts_with_such_a_token_are_refused(model):
    plain = load("tiny")
    assert model.tokenizer.vocab_size == 1282 and model.tokenizer.beyond_rows == 2
    for text in ("The ship", "a <|image|> as text"):  # a special token is ordinary text here
        assert model.prompt_ids(text) == plain.prompt_ids(text)
    message = lambda text: [{"role": "user", "content": text}]
    for encode in (model.tokenizer.encode, model.tokenizer.whole, model.prompt_ids,
                   lambda text: model.pair_ids("x", text), lambda text: model.pair_ids(text, "x"),
                   lambda text: model.tokenizer.chat(message(text)),
                   lambda text: model.tokenizer.chat_turns(message(text)),
                   lambda text: encode_example(model.tokenizer, prompt="x", completion=text)):
        with pytest.raises(UserError) as error:
            encode("an <extra> token")
        assert error.value.what == REASON
        encode("a token")


@pytest.mark.parametrize("ids", [[5, 1280], [5, -1]])
def test_ids_without_a_row_are_refused(model, ids):
    generator = Generator(model)
    for call in (lambda: generator.generate([[5], ids], GREEDY), lambda: generator.score([([5], [6]), ([5], ids)]),
                 lambda: generator.score([(ids, [5])])):
        with pytest.raises(UserError, match=f"no token has the id {ids[1]}; the model has 1280"):
            call()


@pytest.mark.slow
def test_jobs_reject_the_row(larger, tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"prompt": "A", "completion": " b"}, {"prompt": "an <extra>", "completion": " b"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for verb, more in (("generate", ["--sampling.max_tokens", "1"]), ("score", [])):
        out = tmp_path / verb
        assert main([verb, "--model", str(larger), "--data.path", str(path), "--data.limit_bad", "0.5",
                     "--out", str(out), *more]) == 0
        assert [(row["line"], row["reason"]) for row in read(out / "rejected.jsonl")] == [(2, REASON)]
        assert len(read(out / "rows.jsonl")) == 1


def test_judges_fail_the_prompt(model):
    judge = LocalJudge(model, "larger", batch_size=2)
    prompts, failures = [Prompt("Is it?"), Prompt("Is <extra> it?")], {}
    answers = judge.complete(prompts, GREEDY, on_failure=failures.__setitem__)
    assert [len(own) for own in answers] == [1, 0] and REASON in failures[1]
    assert REASON in judge.unanswerable_reason(prompts[1], 2) and judge.unanswerable_reason(prompts[0], 2) is None


def test_training_rows_are_rejected(larger, tmp_path):
    row = {"context": "A ship.", "question": "What?", "answers": ["ship"]}
    rows = [row, row | {"context": "An <extra> ship."}, row | {"answers": ["x", "<extra>"]}, row | {"note": "<extra>"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(own) + "\n" for own in rows))
    config = Config(DataConfig(str(path), limit_bad=0.5), tmp_path / "out", model=str(larger))
    with open_job(config.out, config) as job:
        data = load_data(config, job)
    assert [document.text for document in data.documents] == ["A ship."]
    assert [(own.line, own.reason) for own in data.rejected.rows] == [(2, REASON), (3, REASON)]


def test_a_rejected_document_has_no_number_when_documents_are_read_again(larger, tmp_path):
    """`remove` finds a document by the number that it had in `inject`."""
    path = tmp_path / "rows.jsonl"
    row = {"question": "What?", "answers": ["ship"]}
    texts = ["An <extra> ship.", "A ship.", "A boat.", "A raft."]
    path.write_text("".join(json.dumps({"context": text} | row) + "\n" for text in texts))
    config = Config(DataConfig(str(path), limit_bad=0.5), tmp_path / "out", model=str(larger), documents=2)
    with open_job(config.out, config) as job:
        data = load_data(config, job)
    assert read_documents(config) == data.documents
    assert [document.text for document in data.documents] == ["A ship.", "A boat."]


def test_such_a_token_is_never_sampled(model):
    bias = SamplingConfig(temperature=5.0, max_tokens=40, n=4)
    (completions,) = Generator(model).generate([model.prompt_ids("The")], bias)
    assert max(max(own.token_ids) for own in completions) < 1280


def test_inspect_and_convert(larger, tmp_path):
    summary = inspect(str(larger))
    assert summary["supported"] and summary["tokenizer"]["tokens"] == 1282
    assert summary["tokenizer"]["without_embedding"] == 2 and "without_embedding" not in inspect("tiny")["tokenizer"]
    assert main(["convert", "--model", str(larger), "--out", str(tmp_path / "out")]) == 0
    back = load(tmp_path / "out")
    assert back.tokenizer.beyond_rows == 2 and np.shape(back.params["embed"])[0] == 1280


def test_end_tokens_without_a_row_end_nothing(tmp_path, capsys):
    folder = with_tokens(tmp_path / "model", "<|end_of_all|>")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": "<|end_of_all|>"}))
    model = load(folder)
    assert "the tokenizer has 1 more tokens than the embedding has rows" in capsys.readouterr().err
    assert model.tokenizer.eos_id == 1280 and 1280 not in model.stop_ids and 1280 not in model.start
    with pytest.raises(UserError, match="'<|end_of_all|>' with the id 1280"):
        encode_example(model.tokenizer, prompt="x", completion="y", end=True)
