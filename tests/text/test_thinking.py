"""The thinking at the start of an answer, and the tag at the end of a prompt that opens it."""

import pytest

from jaxllm.text.thinking import opening_tag, without_thinking


@pytest.mark.parametrize(("text", "expected"), [
    ("  <Think>a</think> b", " b"), ("a\n</think>\nb", "b"), ("a\n</think>\r\n\nb", "\nb"),
    ("<think>a\n</think>\nb", "b"), ("<reasoning>a", None),
    ('<think>It prints "</think>Yes".\n</think>\nNo', "No"), ("<think>```\na</think>No", "No"),
    *((text, text) for text in (
        "it prints <think>x</think> here", 'It ignores n. Its comment "</think> All is met." is no proof.',
        "It ignores n.\n```\n# text\n</think>\nAll is met.\n```", "It prints `</think>`\nand ends.",
        "Its text is '\u2028</think>\u2028Yes'."))])
def test_thinking_is_removed(text, expected):
    assert without_thinking(text) == expected


@pytest.mark.parametrize(("prompt", "expected"), [
    ("<|assistant|>\n<think>\n", "<think>\n"), ("<|assistant|><reasoning>", "<reasoning>"), ("<|assistant|>\n", ""),
    ("<think>\n\n</think>\n\n", ""), ("<think> Is <|assistant|>", "")])
def test_the_opening_tag_of_a_prompt(prompt, expected):
    assert opening_tag(prompt) == expected
