"""`inject` as a function: one text, several texts, and where the adapter goes."""

import dataclasses
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.assets import asset_path
from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.files import read_jsonl
from jaxllm.finetune.trainable import trainable_model
from jaxllm.generate import Generator
from jaxllm.model import Model, load
from jaxllm.models.quantized import quantize_params
from jaxllm.self_param import FormatConfig, InjectConfig, Prompts, inject
from jaxllm.self_param.config import MixtureConfig, QAPairConfig, UnrelatedConfig
from jaxllm.self_param.injection import _epoch_targets
from jaxllm.self_param.targets import document_targets
from jaxllm.train import loop
from jaxllm.train.config import TrainConfig
from tests.letters import Letters

ROWS = read_jsonl(asset_path("tiny/documents.jsonl"))
TEXT = ROWS[0]["context"]
PAIRS = [(row["question"], row["answers"][0]) for row in ROWS if row["context"] == TEXT][:2]
CONFIG = InjectConfig(format=FormatConfig(mode="plain"),
                      train=TrainConfig(steps=30, batch_size=8, lr=5e-3, warmup_steps=2),
                      mixture=MixtureConfig(qa=1, continuation=0, unrelated=0),
                      unrelated=UnrelatedConfig(tokens=8, train=4, drift=2))


@pytest.fixture(scope="module")
def model():
    return load("tiny")


def test_weights_that_are_all_trained_are_float32(model):
    """Of a bfloat16 checkpoint too; an adapter leaves the base as it is, and quantized weights need one."""
    half = dataclasses.replace(model, params=jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params))
    all_weights = dataclasses.replace(CONFIG, lora=None)
    assert trainable_model(half, CONFIG.lora, CONFIG.device) is half
    trained = trainable_model(half, None, all_weights.device).params
    assert {leaf.dtype for leaf in jax.tree.leaves(trained)} == {np.dtype("float32")}
    quantized = dataclasses.replace(model, params=quantize_params(model.params, "int8"))
    with pytest.raises(UserError, match="quantized weights are frozen"):
        trainable_model(quantized, None, all_weights.device)


@pytest.mark.slow
def test_one_text_with_its_own_pairs(model):
    """The adapter next to the base model answers from the document alone; the base model stays as it is."""
    before = np.array(model.params["embed"])
    injection = inject(model, TEXT, pairs=PAIRS, config=CONFIG, progress=False)
    generator, prompts = Generator(model), Prompts(model, CONFIG.format)
    answers = lambda adapter: [completion.text.strip() for (completion,) in generator.generate(
        [prompts.question(question) for question, _ in PAIRS], CONFIG.sampling, adapter=adapter)]
    assert answers(injection.adapter) == list(dict(PAIRS).values())
    assert not {*answers(None)} & {*dict(PAIRS).values()}
    assert injection.pairs == [[PAIRS]] and injection.metrics["loss"] < 0.5
    merged = Generator(dataclasses.replace(model, params=injection.params))
    greedy = SamplingConfig(temperature=0.0, max_tokens=4)
    ((next_to_base,),), ((other,),) = (own.generate([prompts.question(PAIRS[0][0])], greedy, adapter=adapter)
                                       for own, adapter in ((generator, injection.adapter), (merged, None)))
    assert next_to_base.token_ids == other.token_ids
    np.testing.assert_allclose(next_to_base.logprob, other.logprob, atol=1e-3)
    assert np.array_equal(before, model.params["embed"])


@pytest.mark.slow
def test_the_model_writes_the_pairs_of_several_texts(model):
    config = dataclasses.replace(CONFIG, train=TrainConfig(steps=2, batch_size=4, lr=1e-3),
                                 qa_pairs=QAPairConfig(per_document=4, max_tokens=24))
    texts = list(dict.fromkeys(row["context"] for row in ROWS))[:2]
    injection = inject(model, texts, config=config, progress=False)
    assert len(injection.pairs) == 2 and all(1 <= len(own[0]) <= 4 for own in injection.pairs)
    again = inject(model, texts, pairs=[own[0] for own in injection.pairs], config=config, progress=False)
    assert again.pairs == injection.pairs and again.metrics["loss"] == injection.metrics["loss"]
    with pytest.raises(UserError, match="1 lists of QA pairs for 2 documents"):
        inject(model, texts, pairs=[PAIRS], config=config)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_step_ends_the_call_without_an_adapter(model, monkeypatch, number):
    counted, steps = loop.count_tokens, []

    def signal_in_the_second(batch):
        steps.append(batch)
        if len(steps) == 2:
            signal.raise_signal(number)
        return counted(batch)

    monkeypatch.setattr(loop, "count_tokens", signal_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        inject(model, TEXT, pairs=PAIRS, config=CONFIG, progress=False)
    assert len(steps) == 2


def test_documents_and_pairs_that_cannot_be_used(model):
    with pytest.raises(UserError, match="documents: there is no document"):
        inject(model, [], config=CONFIG)
    with pytest.raises(UserError, match="pairs: the question 'Where [^']*' with its answer does not fit the context"):
        inject(model, TEXT, pairs=[*PAIRS, ("Where " * 600, "here")], config=CONFIG)


def test_an_epoch_uses_every_pair(llama):
    """The document with the most cycles decides; with two QA targets per cycle five pairs take three cycles."""
    prompts = Prompts(Model(*llama, Letters()), FormatConfig())
    targets = lambda pairs, **ratios: document_targets(
        dataclasses.replace(CONFIG, mixture=MixtureConfig(**ratios)), prompts, "the red fox",
        [(f"{i}?", "a") for i in range(pairs)], [[5, 6]], 0)
    assert _epoch_targets([targets(5, qa=2, continuation=0, unrelated=1)]) == 9
    assert _epoch_targets([targets(4, qa=2, continuation=0, unrelated=1), targets(5, qa=2, continuation=0,
                                                                                  unrelated=1)]) == 18
    assert _epoch_targets([targets(5, qa=0, continuation=0, unrelated=1)]) == 1
