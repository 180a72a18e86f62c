"""Conversations that end with the assistant, and prompts that were rendered elsewhere."""

import json

import pytest

from jaxllm.cli import main
from jaxllm.errors import UserError
from jaxllm.judge import LocalJudge, Prompt
from jaxllm.model import load

ANSWERS = ["It is", " It is  ", "It is\n", "a\nb"]


def turns(*contents):
    roles = ("user", "assistant") * 3
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


@pytest.mark.parametrize("backend", ["byte_level", "metaspace"])
@pytest.mark.parametrize("template", ["chatml", "llama3", "generation"])
def test_the_last_text_of_the_assistant_is_continued(saved, backend, template):
    ours, fast = saved(backend, template)
    for answer in ANSWERS:
        for messages in (turns("1 + 1?", answer), turns("a", "b", "c", answer)):
            expected = fast.apply_chat_template(messages, continue_final_message=True, tokenize=True, return_dict=True)
            assert ours.chat_prompt(messages) == expected["input_ids"]
    assert ours.chat_prompt(turns("a", "b", "c")) == ours.chat(turns("a", "b", "c"))


def test_a_last_text_that_cannot_be_located(saved):
    ours, _ = saved("byte_level", "{% for m in messages %}{{ m['content'] | replace('a', 'b') }}{% endfor %}")
    with pytest.raises(UserError, match="cannot be located"):
        ours.chat_prompt(turns("b", "a"))


@pytest.mark.slow
def test_jobs_and_judges_continue_it(tmp_path, capsys):
    model, messages = load("tiny"), turns("Who sails?", "The sailor is")
    ids = model.tokenizer.chat(messages, add_generation_prompt=False)
    prompt = model.tokenizer.chat_prompt(messages)
    assert prompt == ids[:len(prompt)] and model.tokenizer.decode(prompt).endswith("The sailor is")
    assert LocalJudge(model, "tiny")._ids(Prompt(messages)) == prompt
    path = tmp_path / "rows.jsonl"
    rows = [{"messages": messages}, {"prompt": "x<|user|>\nHi<|end|>"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = str(tmp_path / "out")
    assert main(["generate", "--data.path", str(path), "--out", out, "--sampling.max_tokens", "1"]) == 0
    err = capsys.readouterr().err
    assert err.count("are continued from there") == 1
    assert err.count("prompts spell control tokens such as <|user|>, which are read as ordinary text") == 1
