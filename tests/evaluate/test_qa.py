"""Token F1 and accuracy: the worked values of the method's description."""

import pytest

from jaxllm.evaluate.qa import accuracy, best, f1, normalize, same_answer


@pytest.mark.parametrize(("prediction", "reference", "value"), [
    ("The Eiffel Tower.", "eiffel tower", 1.0),
    ("Paris, France", "Paris", 0.666667),
    ("38% of banks", "38%", 0.5),
    ("yes yes no", "yes yes yes", 0.666667),
    ("well-known", "well known", 0.0),
    ("a", "the", 0.0),
    ("", "", 0.0),
    # A reference of articles or punctuation alone stays.
    ("A", "A", 1.0), ("a.", "A", 1.0), ("B", "A", 0.0), ("the", "the", 1.0), ("The answer is A.", "A", 0.4),
    ("+", "+", 1.0), ("+", "-", 0.0), ("...", "…", 0.0), ("the", "The cat", 0.0), (".", "Paris", 0.0),
    ("Cafe\u0301", "Caf\u00e9", 1.0), ("\u212b", "\u00c5", 1.0),
])
def test_f1_golden(prediction, reference, value):
    assert f1(prediction, reference) == pytest.approx(value, abs=5e-7)


def test_accuracy_golden():
    assert accuracy("Paris, France", "Paris") == 1.0
    assert accuracy("Lyon", "Paris") == 0.0


@pytest.mark.parametrize(("prediction", "reference", "value"), [
    ("B", "A", 0.0), ("A", "A", 1.0), ("(A)", "A", 1.0), ("The answer is A.", "A", 1.0), ("because", "A", 0.0),
    ("a", "the", 0.0),  # 1 in the code of SELF-PARAM, where every answer has such a reference
    ("+", "+", 1.0), ("1 + 1", "+", 1.0), ("-", "+", 0.0), ("the", "+", 0.0), ("", "A", 0.0),
    ("x", "", 1.0), ("Ame\u0301lie", "Am\u00e9lie", 1.0),
])
def test_accuracy_of_references_that_normalizing_would_empty(prediction, reference, value):
    assert accuracy(prediction, reference) == value


def test_same_answer():
    assert same_answer("A", "a.") and same_answer("+", " + ") and same_answer("The Cat", "cat")
    assert not same_answer("A", "the") and not same_answer("+", "-") and not same_answer("A", "")


def test_normalize():
    assert [normalize(text) for text in ("A", "The.", "+", " ", "e\u0301")] == ["a", "the", "+", "", "\u00e9"]
    assert normalize("The  cat's  a Dog!") == "cats dog"


def test_best_of_several_references():
    assert best(f1, "red fox", ["blue", "fox"]) == pytest.approx(2 / 3)
