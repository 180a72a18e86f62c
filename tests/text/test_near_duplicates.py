"""Near-duplicates: pairs of known similarity are found, and many rows of one template are no burden."""

import hashlib
import itertools
import random
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxllm.text import near_duplicates
from jaxllm.text.near_duplicates import BANDS, SKETCH, NearDuplicates, _hashes_of, _width, words_of

EVERY = lambda n: (np.arange(n), np.ones(n, bool))


def runs(text):
    words = text.split()
    return {tuple(words[i:i + 3]) for i in range(max(len(words) - 2, 1))} if words else set()


def jaccard(a, b):
    return len(runs(a) & runs(b)) / len(runs(a) | runs(b)) if runs(a) | runs(b) else 1.0


def collected(*rows):
    near = NearDuplicates(len(rows[0]))
    for row in rows:
        near.add(row)
    return near


def texts(count, words, seed=0):
    rng = random.Random(seed)
    return [" ".join(f"w{rng.randrange(10_000)}" for _ in range(words)) for _ in range(count)]


def edited(text, changes, rng):
    words = text.split()
    for place in rng.sample(range(len(words)), changes):
        words[place] = "other"
    return " ".join(words)


def test_case_blanks_and_punctuation_do_not_count():
    near = collected(["what is it?", "it's \u201ca b c\u201d - d."], ["what  is it", "it s a, b c d"],
                     ["what is that?", "a b c d"])
    earlier, similarity = near.find(1.0, *EVERY(3))
    assert earlier.tolist() == [-1, 0, -1] and similarity[1] == 1


@pytest.mark.parametrize(("a", "b", "same"), [
    ("2 + 2", "2 * 2", False), ("?!", "!?", False), ("", "", False), ("yes", "yes.", True),
    ("\u732b\u304c\u597d\u304d\u3067\u3059", "\u732b\u304c\u597d\u304d\u3067\u3059\u3002", True),
    ("\u732b\u304c\u597d\u304d", "\u72ac\u304c\u597d\u304d", False)])
def test_short_texts_and_other_scripts(a, b, same):
    earlier, _ = collected([a], [b]).find(0.9, *EVERY(2))
    assert (earlier[1] == 0) == same


def test_the_similarity_is_exact_for_short_parts():
    rng = random.Random(1)
    rows = [[text, answer] for text, answer in zip(texts(60, 30), texts(60, 60, 1), strict=True)]
    rows += [[edited(a, rng.randrange(3), rng), edited(b, rng.randrange(4), rng)] for a, b in rows]
    near = collected(*rows)
    earlier, similarity = near.find(0.7, *EVERY(120))
    expected = {}
    for i, j in itertools.combinations(range(120), 2):
        least = min(jaccard(a, b) for a, b in zip(rows[i], rows[j], strict=True))
        if least >= 0.7:
            expected.setdefault(j, (i, least))
    assert {j: (int(earlier[j]), pytest.approx(similarity[j])) for j in np.flatnonzero(earlier >= 0)} == expected
    assert 20 < len(expected) < 60


def test_every_part_must_be_alike():
    long = texts(1, 80)[0]
    rows = [[long, "a b c d"], [long, "e f g h"], [long, "a b c d"]]
    assert collected(*rows).find(0.8, *EVERY(3))[0].tolist() == [-1, -1, 0]


@pytest.mark.parametrize(("shared", "answer", "threshold"), [(120, 12, 0.8), (60, 5, 0.7)])
def test_a_part_that_all_rows_have_hides_no_pair(shared, answer, threshold):
    """An instruction for all rows, and answers that are repeated with one word more."""
    answers = texts(150, answer)
    near = collected(*([texts(1, shared)[0], text + end] for end in ("", " more") for text in answers))
    assert near.find(threshold, *EVERY(300))[0].tolist() == [-1] * 150 + list(range(150))


def test_long_parts_are_estimated():
    rng, base = random.Random(2), texts(60, 900)
    rows = [[text] for text in base] + [[edited(text, 20, rng)] for text in base]
    earlier, similarity = collected(*rows).find(0.75, *EVERY(120))
    exact = np.array([jaccard(*(row[0] for row in pair)) for pair in zip(rows[:60], rows[60:], strict=True)])
    assert (earlier[60:] == np.arange(60)).sum() >= 58 and (earlier[:60] == -1).all()
    found = earlier[60:] >= 0
    assert np.abs(similarity[60:] - exact)[found].max() < 4 * (0.13 * 0.87 / SKETCH) ** 0.5 + 0.01
    assert abs((similarity[60:] - exact)[found].mean()) < 0.02


def test_pairs_with_other_prompts_are_compared_no_further(monkeypatch):
    compared, similarities = [], near_duplicates._similarities
    monkeypatch.setattr(near_duplicates, "_similarities", lambda *args: compared.append(len(args[-1])) or
                        similarities(*args))
    answer = texts(1, 40)[0]
    near = collected(*([prompt, answer] for prompt in [*texts(30, 20), texts(1, 20)[0] + " more"]))
    assert near.find(0.8, *EVERY(31))[0].tolist() == [-1] * 30 + [0]
    assert compared[0] > 30 and compared[1:] == [1]


@given(st.text(st.sampled_from("ab+ \u2003\u732b\u304c\u0e01'-?\n\ud800"), max_size=40))
def test_words_of_parts_without_blanks_are_those_of_the_text(text):
    hashes = _hashes_of(text)
    assert hashes == b"".join(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
                              for word in words_of(text))


def test_few_hashes_of_words_stay_in_memory(monkeypatch):
    known = near_duplicates._Hashes()
    monkeypatch.setattr(near_duplicates, "_KNOWN", 10)
    for number in range(25):
        assert known[f"w{number}"] == known[f"w{number}"] and known["long" * 100 + str(number)]
    assert len(known) <= 10 and all(len(text) < 100 for text in known)


def test_rows_of_one_line_and_rows_that_are_not_used():
    rows = [["a b c d e"]] * 3
    assert collected(*rows).find(0.8, np.array([1, 1, 2]), np.ones(3, bool))[0].tolist() == [-1, -1, 0]
    assert collected(*rows).find(0.8, np.arange(3), np.array([False, True, True]))[0].tolist() == [-1, -1, 1]


def test_parts_and_rows_of_another_collection():
    near = collected(["a b c d", "x"], ["e f g", "y"])
    prompts = near.part(0)
    other = collected(["e f g"], ["h i j"])
    other.extend(prompts)
    assert len(other) == 4 and other.find(0.9, np.array([0, 0, 1, 1]), np.ones(4, bool))[0].tolist() == [-1, -1, -1, 0]
    assert NearDuplicates(1).find(0.8, np.zeros(0, int), np.zeros(0, bool))[0].tolist() == []


def test_memory_where_all_rows_have_a_part():
    """All rows share all bands of that part: of the 64 pairs of each row few are different."""
    n = 2000
    near = collected(*(["one instruction for all rows", f"a{i} b{i} c{i} d", f"e{i} f{i} g"] for i in range(n)))
    tracemalloc.start()
    found = near.find(0.8, *EVERY(n))[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found == -1).all() and peak < 3000 * n


def test_pairs_at_the_threshold_share_a_band():
    for threshold in (0.5, 0.7, 0.8, 0.9, 1.0):
        width = _width(threshold)
        assert 1 - (1 - threshold ** width) ** BANDS >= 0.999


def test_rows_of_one_template_take_no_square_of_their_number():
    words = "write a short answer to the question of the user about the town number"
    rows = [[f"{words} {n}", f"the town {n % 7} has a mayor and a river and a bridge", f"no {n}"] for n in range(8000)]
    near, start = collected(*rows), time.process_time()
    earlier, _ = near.find(0.8, *EVERY(8000))
    assert time.process_time() - start < 60 and (earlier == -1).all()
