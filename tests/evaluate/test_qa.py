"""Token F1 and accuracy: the worked values of the method's description."""

import pytest

from jaxllm.evaluate.qa import accuracy, best, f1, normalize


@pytest.mark.parametrize(("prediction", "reference", "value"), [
    ("The Eiffel Tower.", "eiffel tower", 1.0),
    ("Paris, France", "Paris", 0.666667),
    ("38% of banks", "38%", 0.5),
    ("yes yes no", "yes yes yes", 0.666667),
    ("well-known", "well known", 0.0),
    ("a", "the", 0.0),
    ("", "", 0.0),
])
def test_f1_golden(prediction, reference, value):
    assert f1(prediction, reference) == pytest.approx(value, abs=5e-7)


def test_accuracy_golden():
    assert accuracy("Paris, France", "Paris") == 1.0
    assert accuracy("a", "the") == 1.0  # both are nothing once articles are gone
    assert accuracy("Lyon", "Paris") == 0.0


def test_normalize():
    assert normalize("The  cat's  a Dog!") == "cats dog"


def test_best_of_several_references():
    assert best(f1, "red fox", ["blue", "fox"]) == pytest.approx(2 / 3)
