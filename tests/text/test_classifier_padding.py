"""The padding token of models that score a text at the last token that is not padding, here and in torch."""

from __future__ import annotations

import dataclasses
import json

import pytest

from jaxllm.model import Model
from jaxllm.models import save_model
from jaxllm.text.examples import reward_text_ids
from jaxllm.text.tokenizer import load_tokenizer
from tests.networks import LLAMA, random_params
from tests.text.chat_tokenizers import BACKENDS, CHATML

CLOSED = CHATML.replace("<|im_end|>\n", "<|im_end|><s>")  # a conversation ends in the begin token


@pytest.mark.parametrize(("template", "token"), [(None, "<s>"), ("chatml", "<s>"), ("llama2", "<s>"),
                                                 (CLOSED, "<|im_start|>")])
def test_a_special_token_that_ends_no_text(saved, template, token):
    """Padding is the end token by default, and <unk> may be a text's last token: neither is taken."""
    tokenizer, fast = saved("byte_level", template)
    assert tokenizer.pad_id == tokenizer.eos_id
    assert tokenizer.classifier_pad_id == fast.convert_tokens_to_ids(token)
    conversation = [{"role": "user", "content": "Once"}]
    texts = [reward_text_ids(tokenizer, "Once", " upon")]
    texts += [reward_text_ids(tokenizer, conversation, "upon")] if template else []
    assert all(ids[-1] != tokenizer.classifier_pad_id for ids in texts)


def test_the_tokenizers_own_padding_token_is_kept():
    assert load_tokenizer("tiny").classifier_pad_id == load_tokenizer("tiny").pad_id == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_saved_tokenizer_pads_with_it(saved, backend, tmp_path):
    """Config and tokenizer name the same padding token, so torch reads the token that is read here."""
    from transformers import AutoTokenizer

    tokenizer, _ = saved(backend, "chatml")
    base = dataclasses.replace(LLAMA, vocab_size=tokenizer.vocab_size, layers=1, bos_id=tokenizer.bos_id,
                               eos_ids=(tokenizer.eos_id,), pad_id=tokenizer.eos_id)
    model = Model(base, random_params(base, seed=0), tokenizer).with_score_head(1)
    assert model.spec.pad_id == tokenizer.classifier_pad_id
    save_model(tmp_path / "model", model.spec, model.params, tokenizer.source)
    written = AutoTokenizer.from_pretrained(tmp_path / "model")
    assert written.pad_token_id == model.spec.pad_id != written.eos_token_id
    assert json.loads((tmp_path / "model" / "config.json").read_text())["pad_token_id"] == model.spec.pad_id
    again = model.with_score_head(1)
    assert again.spec == model.spec and again.params is model.params


def test_without_such_a_token_torch_takes_one_text_at_a_time(saved, capsys):
    tokenizer, _ = saved("byte_level", None)
    only_end = dataclasses.replace(tokenizer, rows=1, bos_id=None, eos_id=0, stop_ids=(0,))
    model = Model(dataclasses.replace(LLAMA, layers=1, pad_id=0), random_params(LLAMA, seed=0), only_end)
    assert model.with_score_head(1).spec.pad_id is None
    assert "one text at a time" in capsys.readouterr().err
