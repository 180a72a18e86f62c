"""A small random language model with a chat template, to be given a scoring head."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from jaxllm.models import save_model
from tests.networks import LLAMA, random_params
from tests.text.chat_tokenizers import CHATML, byte_level


def save_language_model(folder: Path) -> Path:
    """Writes the checkpoint, with ChatML as its template; returns its directory."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(), bos_token="<s>", eos_token="</s>",
                                        unk_token="<unk>")
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder / "tokenizer")
    spec = dataclasses.replace(LLAMA, vocab_size=len(tokenizer), layers=2, bos_id=0, eos_ids=(1,), max_positions=128)
    return save_model(folder / "model", spec, random_params(spec, seed=6), folder / "tokenizer")
