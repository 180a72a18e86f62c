"""The final number of a solution, on inputs that the usual pattern gets wrong."""

import json
from decimal import Decimal

import pytest

from jaxllm.evaluate.gsm8k import final_number, is_right
from jaxllm.measures import pass_at_k


@pytest.mark.parametrize(("solution", "answer", "right"), [
    (r"The answer is $\boxed{18}$.", "18", True),
    ("So she pays 18 dollars. Let me check that again...", "18", True),
    ("She pays 18...", "18", True),
    ("The answer is 2.9999999999999999999", "3", False),
    ("It is 8.5", "9", False),
    ("It is 72.0", "#### 72", True),
    ("That makes $1,234.", "#### 1,234", True),
    ("The change is -3 dollars", "#### -3", True),
    ("It is 18.\nQuestion: What is 5 + 5? Answer: 10", "#### 18", True),
    ("**Question:** 2+16?\n\n**Answer:** The answer is 18.\nQuestion: 1+1?", "18", True),
    ("The final answer is 18 (see step 1.2.3)", "18", True),
    ("I do not know", "#### 18", False),
    ("I do not know.\n\nQuestion: What is 9 + 9? Answer: 18", "#### 18", False),
    ("Restating the Question: 3 apples, 5 more.\nAnswer: 8", "8", True),
    ("<think>\n6 * 3 = 20, no\n</think>\n18", "#### 18", True),
    ("<think>\n6 * 3 = 18, but wait", "#### 18", False),
    ("", "#### 18", False)])
def test_final_numbers(solution, answer, right):
    assert is_right(solution, answer) is right


def test_the_strict_form_reads_the_mark():
    assert is_right("#### 18" + " and so on" * 60, "#### 18", strict=True)
    assert not is_right("The answer is 18", "#### 18", strict=True)
    assert final_number("#### 18\n#### 20", strict=True) == Decimal(18)


def test_an_answer_without_a_number_is_an_error():
    with pytest.raises(ValueError, match="no number"):
        is_right("18", "unknown")


def test_every_answer_of_the_data_set_is_right(shared):
    """The rule finds the number in every solution of the data set itself, with and without its mark."""
    with open(shared / "gsm8k" / "test.jsonl") as file:
        answers = [json.loads(line)["answer"] for line in file]
    assert len(answers) == 990
    assert all(is_right(answer, answer) and is_right(answer, answer, strict=True) for answer in answers)


@pytest.mark.parametrize(("samples", "right", "k", "expected"), [
    (8, 2, 1, .25), (8, 2, 4, .7857143), (8, 0, 3, 0), (4, 3, 2, 1), (200, 1, 1, .005), (4, 1, 2, .5),
    (2, 0, 5, None), (1, 1, 10, None)])
def test_pass_at_k(samples, right, k, expected):
    found = pass_at_k(samples, right, k)
    assert found is None if expected is None else found == pytest.approx(expected, abs=1e-7)


def test_pass_at_k_is_a_mean_over_problems():
    """Pooled counts of both problems would give 0.7857."""
    assert (pass_at_k(4, 4, 2) + pass_at_k(4, 0, 2)) / 2 == .5
