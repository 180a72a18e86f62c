"""`jaxllm convert` copies all files of a tokenizer, and lists the others."""

import pytest

from jaxllm.cli import main
from jaxllm.models import load_model, save_model
from tests.checkpoint.converting import convert


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny")


def test_all_files_of_a_tokenizer_travel(tiny, tmp_path, capsys):
    copied = ["tokenizer.model", "tokenizer.model.v3", "sentencepiece.bpe.model", "spiece.model", "vocab.json",
              "vocab.txt", "merges.txt", "added_tokens.json", "special_tokens_map.json", "generation_config.json",
              "tekken.json", "qwen.tiktoken", "source.spm", "chat_template.json",
              "additional_chat_templates/tool_use.jinja"]
    left = ["README.md", "modeling.py", "onnx/model.onnx", "preprocessor_config.json", "pytorch_model.bin"]
    base = save_model(tmp_path / "base", *tiny, "tiny")
    contents = {name: f'{{"of": "{name}"}}' for name in [*copied, *left, ".gitattributes"]}
    for name, text in contents.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(text)
    capsys.readouterr()
    result = convert(tmp_path / "out", model=base)
    assert {name: (tmp_path / "out" / name).read_text() for name in copied} == {name: contents[name] for name in copied}
    expected = ["README.md", "modeling.py", "onnx/", "preprocessor_config.json", "pytorch_model.bin"]
    assert result["not_copied"] == expected
    assert f"not copied from {base}: {', '.join(expected)}\n" in capsys.readouterr().err
    assert not (tmp_path / "out" / ".gitattributes").exists()
    convert(tmp_path / "again", model=save_model(tmp_path / "plain", *tiny, "tiny"))
    assert "not copied" not in capsys.readouterr().err


def test_a_file_that_cannot_be_copied_is_an_error(tiny, tmp_path, capsys):
    base = save_model(tmp_path / "base", *tiny, "tiny")
    for path in (base / "tokenizer_extra.json", base / "additional_chat_templates" / "x.jinja"):
        path.parent.mkdir(exist_ok=True)
        path.symlink_to("nowhere")
        assert main(["convert", f"--model={base}", f"--out={tmp_path}/out"]) == 2
        assert f"jaxllm: {path}: cannot be copied: No such file or directory\n" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
        path.unlink()
