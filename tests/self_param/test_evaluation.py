"""Evaluation of a model: the draws of its answers."""

import dataclasses
import types

import pytest

from jaxllm.config import DataConfig, SamplingConfig
from jaxllm.self_param.config import Config
from jaxllm.self_param.data import Document, Question
from jaxllm.self_param.evaluation import Evaluator


@pytest.mark.parametrize("own", [None, 3])
def test_kinds_of_questions_share_no_draw(tmp_path, monkeypatch, own):
    """The questions have the seed of the run, as in `remove`; every method draws with the same seeds."""
    drawn = {}

    class Base:
        def generate(self, rows, sampling, **_):
            drawn[rows[0]] = sampling.seed
            return [[types.SimpleNamespace(text="x", finish_reason="stop")] for _ in rows]

    class Spelled:
        def question(self, question, passage=None):
            return question

    monkeypatch.setattr(Evaluator, "_perplexity", lambda *_: 1.0)
    config = Config(DataConfig("x"), tmp_path, seed=3, sampling=SamplingConfig(seed=own))
    document = Document("text", (Question("question", ("x",)),), paraphrases=(Question("paraphrase", ("x",)),),
                        portability=(Question("portability", ("y",)),))
    base = Base()
    evaluator = Evaluator(config, base, Spelled(), [document], ["probe"], [])
    record = evaluator.closed_book(base, None, [0], False)
    assert (record["f1"], record["f1_paraphrased"], record["f1_portability"]) == ([1.0], [1.0], [0.0])
    assert drawn["question"] == 3 and len({*drawn.values()}) == 4
    closed_book = dict(drawn)
    evaluator.open_book()
    assert drawn == closed_book
    elsewhere = dataclasses.replace(evaluator, config=dataclasses.replace(config, seed=4))
    elsewhere.closed_book(base, None, [0], False)
    assert (drawn == closed_book) is (own is not None)
