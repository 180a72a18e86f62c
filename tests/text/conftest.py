"""Shared data, where it is present, and small tokenizers with chat templates."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    path = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("../shared/data is absent")
    return path


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """(name of a backend, name or text of a template) -> our tokenizer and that of transformers."""
    from transformers import PreTrainedTokenizerFast

    from jaxllm.text import load_tokenizer
    from tests.text.chat_tokenizers import BACKENDS, TEMPLATES

    made = {}

    def get(backend: str, template: str | None):
        key = (backend, template)
        if key not in made:
            fast = PreTrainedTokenizerFast(
                tokenizer_object=BACKENDS[backend](), bos_token="<s>", eos_token="</s>", unk_token="<unk>"
            )
            fast.chat_template = TEMPLATES.get(template, template)
            directory = tmp_path_factory.mktemp("tokenizer")
            fast.save_pretrained(directory)
            made[key] = (load_tokenizer(directory), fast)
        return made[key]

    return get
