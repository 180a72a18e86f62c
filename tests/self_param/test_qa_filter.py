"""Checks of QA pairs: form, groundedness, gains from the document, coverage; and cloze pairs."""

import numpy as np
import pytest

from jaxllm.generate import Generator, Score
from jaxllm.model import load
from jaxllm.self_param.cloze import BLANK, cloze_pairs
from jaxllm.self_param.config import QAPairConfig
from jaxllm.self_param.phrases import sentences
from jaxllm.self_param.prompts import FormatConfig, Prompts
from jaxllm.self_param.qa_filter import (
    PassagePairs,
    QAPair,
    answer_gains,
    as_row,
    coverage,
    drop_repeated,
    drop_surplus,
    drop_unusable,
    of_row,
    question_gains,
    summarize_pairs,
)

TEXT = "Rinla is a ship. The crew of Rinla counts 95 sailors. Rinla is made of pine."
PAIRS = [QAPair("What is Rinla?", "a ship"), QAPair("What kind of thing is Rinla?", "ship"),
         QAPair("How many sailors are in the crew of Rinla?", "95"), QAPair("What is Rinla made of?", "pine")]


def reasons(pairs):
    return [reason for _, reason in pairs.dropped]


def test_answers_have_letters_and_words_of_the_document():
    text = "The lighthouse was built in 1871, by two brothers. Choose A."
    answers = ["Two brothers.", "1871", "three brothers", "?", "A"]
    pairs = PassagePairs([QAPair(answer, answer) for answer in answers])
    drop_unusable(text, pairs, QAPairConfig(grounded=True, min_answer=2))
    assert [pair.answer for pair in pairs.selected] == ["Two brothers.", "1871"]
    assert sorted(reasons(pairs)) == ["short_answer", "short_answer", "ungrounded"]
    pairs = PassagePairs([QAPair("q", "three brothers"), QAPair("q", "...")])
    drop_unusable(text, pairs, QAPairConfig())
    assert [pair.answer for pair in pairs.selected] == ["three brothers"]


@pytest.mark.parametrize(("text", "answer", "grounded"), [
    ("Rinla's crew", "Rinla", True), ("Otto\u2019s lamp", "Otto", True), ("the \u201cRinla\u201d sails", "Rinla", True),
    ("1871-1873", "1871", True), ("a well-known ship", "known", True), ("$95/day", "95", True), ("3.5 m", "5", False),
    ("\u5317\u4eac\u662f\u4e2d\u56fd\u7684\u9996\u90fd\u3002", "\u5317\u4eac", True),
    ("रक्षा ने 308 अंक", "रक्षा", True), ("रक्षा ने 308 अंक", "रक", False),
    ("It is a ship.", "the ship", True), ("Choose A or B.", "A", True), ("Choose C or B.", "A", False),
    ("Paris is north of Lyon. Rome is south.", "Rome is north", False)])
def test_a_grounded_answer_is_a_part_of_the_text(text, answer, grounded):
    pairs = PassagePairs([QAPair("Which?", answer)])
    drop_unusable(text, pairs, QAPairConfig(grounded=True))
    assert bool(pairs.selected) is grounded


def test_questions_that_differ_by_case_and_punctuation_are_duplicates():
    pairs = PassagePairs([QAPair("Who?", "a"), QAPair("who", "b"), QAPair("?", "c"), QAPair("When?", "d")])
    pairs.drop_duplicates()
    assert pairs.selected == [("Who?", "a"), ("When?", "d")] and reasons(pairs) == ["duplicate"] * 2


def test_pairs_with_one_answer_are_limited():
    pairs = PassagePairs([QAPair("Who?", "the Mavo"), QAPair("When?", "1871"), QAPair("Who is it?", "Mavo."),
                          QAPair("Who sails?", "mavo"), QAPair("What year?", "1871")])
    drop_repeated(pairs, 2)
    assert [pair.question for pair in pairs.selected] == ["Who?", "When?", "Who is it?", "What year?"]
    assert pairs.dropped == [(QAPair("Who sails?", "mavo"), "repeated")]
    drop_repeated(pairs, 1)
    assert [pair.question for pair in pairs.selected] == ["Who?", "When?"]


def test_a_surplus_leaves_one_pair_for_every_sentence():
    pairs = PassagePairs(list(PAIRS))
    drop_surplus(TEXT, pairs, 3)
    assert pairs.selected == [PAIRS[0], PAIRS[2], PAIRS[3]] and pairs.dropped == [(PAIRS[1], "surplus")]
    drop_surplus(TEXT, pairs, 3)
    assert len(pairs.selected) == 3
    assert coverage(TEXT, PAIRS) == 1 and coverage(TEXT, PAIRS[:2]) == pytest.approx(1 / 3) and coverage("", []) == 0


@pytest.mark.parametrize(("question", "answer", "share"), [
    ("What is the question?", "It is this.", 0), ("How many did they see?", "many", 0), ("zzz?", "qqq", 0),
    ("Is he mad of it?", "the crew of Rinla", 1 / 3), ("Which wood is it?", "pine", 1 / 3),
    ("How many sailors are there?", "12", 1 / 3)])
def test_a_pair_about_nothing_covers_no_sentence(question, answer, share):
    assert coverage(TEXT, [QAPair(question, answer)]) == pytest.approx(share)
    assert coverage("One sentence only here.", [QAPair(question, answer)]) == coverage(" ", PAIRS) == 0
    pairs = PassagePairs([QAPair(question, answer), *PAIRS])
    drop_surplus(TEXT, pairs, 4)
    assert (pairs.dropped == [(QAPair(question, answer), "surplus")]) is (share == 0)


def test_the_summary_counts_cloze_pairs_apart():
    """They do not cover a sentence."""
    made = [QAPair(*pair) for pair in cloze_pairs(TEXT, 3)]
    pairs = PassagePairs([PAIRS[0], *made[:2]], [(PAIRS[3], "cut"), (made[2], "too_long")])
    assert summarize_pairs([TEXT], [pairs]) == {
        "generated": 2, "cloze": 3, "selected": 3, "dropped": {"cut": 1, "too_long": 1},
        "coverage": pytest.approx(1 / 3)}


def test_the_summary_counts_every_question():
    pairs = PassagePairs(PAIRS[:2], [(PAIRS[2], "ungrounded"), (PAIRS[3], "cut")])
    other = PassagePairs(list(PAIRS))
    assert summarize_pairs([TEXT, TEXT], [pairs, other]) == {
        "generated": 8, "cloze": 0, "selected": 6, "dropped": {"cut": 1, "ungrounded": 1},
        "coverage": pytest.approx(2 / 3)}
    assert of_row(as_row(pairs)) == pairs


class Scorer:
    """Returns given log-probabilities, in place of a model; stores its arguments."""

    def __init__(self, *logprobs):
        self.logprobs, self.pairs = list(logprobs), []

    def score(self, pairs):
        self.pairs += pairs
        return [Score(sum(own), len(own), np.array(own)) for own in self.logprobs]


@pytest.mark.parametrize("mode", ["plain", "chat"])
def test_gains_compare_the_same_tokens(mode):
    """The two views of a question, and of an answer, end with the same tokens, and only these are scored, without the
    label of the question and the end of the turn."""
    model = load("tiny")
    prompts = Prompts(model, FormatConfig(mode=mode))
    scorer = Scorer([-2.0, -3.0, -1.0], [-1.0, -1.0, -1.0])
    assert question_gains(scorer, prompts, TEXT, ["What is Rinla?"]) == [3.0]
    assert answer_gains(scorer, prompts, TEXT, [PAIRS[0]]) == [3.0]
    for (short, without), (long, given) in zip(scorer.pairs[::2], scorer.pairs[1::2], strict=True):
        assert tuple(without) == tuple(given) and len(long) > len(short) > 0
    decode = model.tokenizer.decode
    question, answer = (decode(list(scorer.pairs[i][1])) for i in (0, 2))
    assert question.strip() == "What is Rinla?" and answer.strip() == "a ship"


def test_gains_of_the_packaged_model():
    """A document raises the log-probability of a question about it, more than that of a question about another."""
    model = load("tiny")
    generator, prompts = Generator(model), Prompts(model, FormatConfig(mode="plain"))
    about, elsewhere = question_gains(generator, prompts, TEXT, ["How many sailors does Rinla have?",
                                                                 "How many sailors does Torla have?"])
    assert about > elsewhere
    right, wrong = answer_gains(generator, prompts, TEXT, [QAPair("How many sailors does Rinla have?", "95"),
                                                           QAPair("How many sailors does Rinla have?", "12")])
    assert right > wrong + 3


def test_every_cloze_answer_completes_its_sentence():
    text = "In 1871 Otto Hahn of Orrin lit 2,000 lamps, and nobody understood why. A short one."
    pairs = cloze_pairs(text, 99)
    assert pairs[0] == ("Complete the sentence: In 1871 Otto Hahn of Orrin ...", "lit 2,000 lamps, and nobody "
                        "understood why.")
    assert [answer for _, answer in pairs[1:]] == ["1871", "Otto Hahn of Orrin", "2,000", "understood"]
    assert all(question.partition(": ")[2].replace(BLANK, answer) == sentences(text)[0]
               for question, answer in pairs[1:])
    both = cloze_pairs(text + " The crew of Rinla counts 95 sailors.", 3)
    assert [answer for _, answer in both][1] == "Rinla counts 95 sailors." and len(both) == 3
    assert cloze_pairs("Short. 12.", 5) == []
