"""Parsers that all methods of judging share."""

import pytest

from jaxllm.judge import Invalid
from jaxllm.judge.answers import last_line_option, short_option


@pytest.mark.parametrize(("text", "expected"), [
    ("A", "A"), (" b.", "B"), ("**(A)**", "A"), ("Answer: B", "B"), ("First, A is short.\nThe answer is A.\n\n", "A"),
    ("Summary B", "B"), (r"\boxed{A}", "A"), ("<think>B</think>\nA", "A"), ("A or B", None), ("not A", None),
    ("", None),
    ("A\nbut who knows", None), ("<think>A", None), ("C", None), ("AB", None), ("A, B", None), ("I think A", None)])
def test_an_option_is_alone_on_the_last_line(text, expected):
    found = last_line_option(text, ["A", "B"], ["summary"])
    assert isinstance(found, Invalid) if expected is None else found == expected


@pytest.mark.parametrize(("text", "expected"), [
    ("A", "A"), ("A\nExplanation: it is", "A"), ("Summary A is more coherent.", "A"), ("Option B", "B"),
    ("$\\boxed{A}$", "A"), ("B: it reads better", "B"), ("A good one is the second", None), ("A because\nB", "B"),
    ("A.\nAnswer: B", None), ("", None), ("neither", None), ("**B** - it flows", "B"), ("The better one is A", None),
    ("Summary A is worse.", None), ("**A** isn't coherent, B is", None), ("Summary A fails to flow.", None),
    ("B: not as long", "B"), ("Summary A is clearly better than summary B.", "A")])
def test_short_answers(text, expected):
    found = short_option(text, ["A", "B"], ["summary"])
    assert isinstance(found, Invalid) if expected is None else found == expected


def test_options_of_several_words():
    assert last_line_option("Answer: option two", ["Option one", "Option two"]) == "Option two"
    assert last_line_option("YES!", ["Yes", "No"]) == "Yes"
    assert last_line_option("maybe", ["a", "b", "c"]).reason == "its last line is none of a, b, c"
