"""Documents: rows, nearest passages, and chunks that fit the context window."""

import dataclasses
import json

import pytest

from jaxllm.config import DataConfig, SamplingConfig
from jaxllm.errors import UserError
from jaxllm.job import open_job
from jaxllm.model import load
from jaxllm.self_param import data
from jaxllm.self_param.chunking import check_probes, chunk_documents, split_text
from jaxllm.self_param.config import (
    ChunkingConfig,
    Config,
    InjectConfig,
    LocalityConfig,
    QAPairConfig,
    UnrelatedConfig,
)
from jaxllm.self_param.data import QA_ROW, Document, Question, group_rows
from jaxllm.self_param.phrases import answer_phrases
from jaxllm.self_param.prompts import FormatConfig, Prompts
from jaxllm.text.rows import read_rows

UNBROKEN = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))

PLAIN = FormatConfig(mode="plain")


def test_rows_are_grouped_by_context(tmp_path):
    row = lambda context, question: {"context": context, "question": question, "answers": ["x"]}
    rows = [row("a", "1?"), row("b", "2?"), row("a", "3?"), row("a", "1?")]
    documents = group_rows(rows)
    assert [(document.text, [pair.question for pair in document.questions]) for document in documents] == [
        ("a", ["1?", "3?"]), ("b", ["2?"])]
    bad = [row(" ", "1?"), row("a", ""), {**row("a", "1?"), "answers": []}, {**row("a", "1?"), "answers": ["x", " "]}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(own) + "\n" for own in [*bad, rows[0]]))
    read = read_rows(path, QA_ROW, limit_bad=1.0)
    assert read.rows == rows[:1] and [(own.line, own.reason) for own in read.rejected] == [
        (1, "field 'context' is empty"), (2, "field 'question' is empty"), (3, "field 'answers' is empty"),
        (4, "field 'answers', item 2 is empty")]


@pytest.mark.parametrize(("setting", "probes"), [
    ("single", ["Where is Mary?", "Where is Otto?"]), ("batch", ["Where is Otto?"]),
    ("sequential", ["Where is Otto?"])])
def test_a_test_question_of_the_model_is_no_locality_probe(setting, probes, tmp_path):
    """In the setting single the evaluation leaves out those of the one document."""
    row = lambda context, question: {"context": context, "question": question, "answers": ["x"]}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(own) + "\n" for own in [
        row("a", "Where is Mary?"), row("b", "Who is it?"), row("c", "Where is Mary?"), row("c", "Where is Otto?")]))
    config = Config(DataConfig(str(path)), tmp_path / "out", setting=setting, documents=2)
    with open_job(config.out, config) as job:
        assert data.load_data(config, job).locality_probes == probes


def test_locality_probes_are_about_many_documents(tmp_path, capsys):
    row = lambda context, question: {"context": context, "question": question, "answers": ["x"]}
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row(name, f"{name} {number}?")) + "\n"
                            for name in "abcd" for number in range(3)))
    for count, expected in ((1, ["b 0?", "c 0?", "d 0?", "b 1?"]), (4, [])):
        config = Config(DataConfig(str(path)), tmp_path / f"out-{count}", setting="batch", documents=count,
                        locality=LocalityConfig(questions=4))
        with open_job(config.out, config) as job:
            assert data.load_data(config, job).locality_probes == expected
    assert capsys.readouterr().err.count("locality is not measured") == 1


def test_the_nearest_passage():
    """By rare trigrams, with or without spaces; a passage with the answer takes precedence."""
    dogs = Document("", chunks=("The dog that is of the man in the house is old.", "Rex barks.", "A cat and the dog."))
    assert dogs.nearest_passage("Is it the dog Rex that barks?") == 1
    assert dogs.nearest_passage("What is it?", "cat") == 2 and dogs.nearest_passage("What is it?", "horse") == 0
    unbroken = Document("", chunks=("\u5317\u4eac\u662f\u4e2d\u56fd\u7684\u9996\u90fd",
                                    "\u4e0a\u6d77\u6709\u5f88\u591a\u6865\u6881"))
    assert unbroken.nearest_passage("\u4e0a\u6d77\u6709\u5f88\u591a\u4ec0\u4e48") == 1


def test_the_passages_are_normalized_once_for_all_questions(monkeypatch):
    normalized = []
    monkeypatch.setattr(data, "normalize", lambda text: normalized.append(text) or text.lower())
    document = Document("", chunks=("A cat.", "A dog."))
    assert [document.nearest_passage(question) for question in ("Which cat?", "Which dog?", "A dog?")] == [0, 1, 1]
    assert len(normalized) == 5
    replaced = dataclasses.replace(document, chunks=("A dog.", "A cat."))
    assert replaced.nearest_passage("Which cat?") == 1 and replaced != document
    assert document == Document("", chunks=("A cat.", "A dog."))


@pytest.mark.parametrize(("text", "limit", "overlap"), [
    (" ".join(map(str, range(200))), 40, 10), (UNBROKEN, 30, 7), ("\n".join(map(str, range(100))), 9, 0),
    ("short", 40, 10), ("", 8, 2), (f"one two three {UNBROKEN} end of it", 20, 10)])
def test_chunks_cover_a_text_and_overlap(text, limit, overlap):
    """A character is a token; no two positions of a text look alike."""
    parts = split_text(text, limit, overlap, len)
    starts = [text.index(part) for part in parts]
    ends = [start + len(part) for start, part in zip(starts, parts, strict=True)]
    assert all(len(part) <= limit for part in parts) and starts[0] == 0 and ends[-1] == len(text)
    for end, start in zip(ends, starts[1:], strict=False):
        assert end - overlap <= start <= end  # nothing is left out, and the overlap is at most as configured
    assert ends == sorted(set(ends)) and starts == sorted(set(starts))
    if UNBROKEN not in text:
        assert all(text[start - 1].isspace() for start in starts[1:])
    elif text == UNBROKEN:
        assert len(parts) <= 1 + len(text) / (limit - overlap)


def test_documents_beyond_the_context_budget_are_chunked():
    """A long document and a long question that fit separately, and not together."""
    documents = [Document("ship " * 300, (Question("q?", ("a",)),)),
                 Document("short", (Question("ship " * 300, ("a",)),))]
    config, model = InjectConfig(format=PLAIN), load("tiny")
    prompts = Prompts(model, config.format)
    assert [len(own.passages) for own in chunk_documents(config, prompts, documents)] == [1, 1]

    # Retrieval may put any question after any document.
    questions = ["q?", "ship " * 300]
    parts = [own.passages for own in chunk_documents(config, prompts, documents, questions)]
    assert len(parts[0]) > 1 and parts[1] == ("short",)
    sequences = [len(prompts.question(questions[1], part)) + config.sampling.max_tokens for part in parts[0]]
    assert model.spec.max_positions - 5 <= max(sequences) <= model.spec.max_positions

    small = dataclasses.replace(config, chunking=ChunkingConfig(tokens=40))
    assert max(len(prompts.document(part)) for part in chunk_documents(small, prompts, documents)[0].passages) <= 40
    # A generated question and its answer fit too.
    (own,) = chunk_documents(config, prompts, [Document("ship " * 490, (Question("q?", ("a",)),))])
    longest = max(len(prompts.question("", part, examples=True)) for part in own.passages)
    pair = config.qa_pairs.max_tokens + config.sampling.max_tokens + prompts.answer_end_tokens
    assert len(own.passages) > 1 and longest + pair <= model.spec.max_positions
    with pytest.raises(UserError, match="leaves .* of the context window of 512"):
        chunk_documents(config, prompts, [Document("short", (Question("ship " * 600, ("a",)),))])
    with pytest.raises(UserError, match="the locality probe that starts with 'ship"):
        check_probes(Config(DataConfig("x"), "out"), prompts, ["ship " * 600])


def test_a_request_for_a_question_with_a_long_answer_fits():
    config, model = InjectConfig(
        format=FormatConfig(mode="chat"), unrelated=UnrelatedConfig(with_document=False),
        qa_pairs=QAPairConfig(answer_first=True), sampling=SamplingConfig(max_tokens=4)), load("tiny")
    prompts, text = Prompts(model, config.format), "Cape Orrin Lighthouse Society is of Torla and of Orrin. " * 40
    (own,) = chunk_documents(config, prompts, [Document(text)])
    requests = [len(prompts.question_request(part, phrase)) + config.qa_pairs.max_tokens
                for part in own.passages for phrase in answer_phrases(text)]
    assert len(own.passages) > 1 and model.spec.max_positions - 25 <= max(requests) <= model.spec.max_positions


def test_question_and_answer_are_separated_at_token_borders():
    prompts = Prompts(load("tiny"), PLAIN)
    ids, question_tokens = prompts.pair("Who sails?", "Bob")
    assert ids == prompts.encode("Question: Who sails? Answer: Bob\n")
    assert ids[:question_tokens] == prompts.encode("Question: Who sails? Answer:")
    assert prompts.question("Who?", "text") == [*prompts.model.prefix, *prompts.encode("text\n"),
                                                *prompts.encode("Question: Who? Answer:")]
