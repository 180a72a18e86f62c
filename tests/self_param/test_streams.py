"""Whose turn it is: within a document, among several, and when earlier ones are rehearsed."""

import collections
import dataclasses

import numpy as np
import pytest

from jaxllm.errors import UserError
from jaxllm.finetune.targets import TARGET_TYPES, InterleavedTargets, ReplayTargets
from jaxllm.model import Model
from jaxllm.self_param.documents import FormatConfig
from jaxllm.self_param.streams import MixtureConfig, document_alone, make_streams
from tests.letters import Letters

TEXTS = ["the red fox", "a blue dog", "no cat here", "at"]


@pytest.fixture(scope="module")
def documents(llama):
    model = Model(*llama, Letters())
    pairs = [("who?", "fox"), ("what?", "red"), ("why?", "so")]
    return tuple(make_streams(model, text, pairs, [[5, 6, 7], [8, 9]], FormatConfig(), MixtureConfig(), seed, False)
                 for seed, text in enumerate(TEXTS))


def kinds(source, numbers):
    return [TARGET_TYPES[source.target(number).target_type] for number in numbers]


def test_every_document_has_its_turn_in_every_round(documents):
    together = InterleavedTargets(documents, 7)
    assert kinds(together, range(6)) == ["qa", "continuation", "unrelated"] * 2
    owner = {document.context: number for number, document in enumerate(documents)}
    # What the teacher reads before a question tells whose it is.
    asked = [together.target(number) for number in range(0, 36, 3)]
    owners = [owner[target.teacher[len(documents[0].prefix):][:target.offset]] for target in asked]
    for start in range(0, 12, 4):
        assert sorted(owners[start:start + 4]) == [0, 1, 2, 3]
    assert owners[:4] != owners[4:8]
    # Each document's three pairs come once before any comes again.
    told = collections.Counter(zip(owners, (target.student for target in asked), strict=True))
    assert set(told.values()) == {1} and len(told) == 12
    again = InterleavedTargets(documents, 7)
    assert [again.target(n) for n in range(40)] == [together.target(n) for n in range(40)]


def test_a_document_too_short_for_a_kind(documents):
    """Its turns are its own two kinds, one after the other through turns of three: none is left out or comes twice."""
    short = dataclasses.replace(documents[0], turns=("qa", "unrelated"))
    together = InterleavedTargets((documents[1], short), 0)
    assert together.cycle == 3 and "continuation" in kinds(together, range(12))
    of_short = [n for n in range(48) if "continuation" not in kinds(together, range(n // 3 * 3, n // 3 * 3 + 3))]
    assert kinds(together, of_short) == ["qa", "unrelated"] * (len(of_short) // 2) and len(of_short) == 24
    assert [together.target(n) for n in of_short] == [short.target(n) for n in range(24)]


def test_earlier_documents_every_other_turn(documents):
    rehearsal = ReplayTargets(documents[0], InterleavedTargets(documents[1:3], 3))
    read = [rehearsal.target(number).offset for number in range(0, 24, 3)]
    lengths = [len(document.context) for document in documents]
    assert read[::2] == [lengths[0]] * 4 and sorted(read[1::2]) == sorted([lengths[1], lengths[2]] * 2)
    several = ReplayTargets(InterleavedTargets(documents[:2], 1), InterleavedTargets(documents[2:3], 3))
    assert several.cycle == 3 and several.target(3) == documents[2].target(0)
    assert len(rehearsal.longest()) == sum(len(document.longest()) for document in documents[:3])


def test_what_the_model_knew_is_told_without_the_document(documents):
    """Each text once a round, the same for student and teacher; no kind is drawn that has no share."""
    turns = MixtureConfig(qa=1, continuation=0, unrelated=0, recall=2).turns
    knowing = dataclasses.replace(documents[0], turns=turns, recall=((5,), (6, 7), (8,)))
    assert kinds(knowing, range(6)) == ["qa", "recall", "recall"] * 2
    told = [knowing.target(number) for number in (1, 2, 4)]
    assert {target.student[len(knowing.prefix):] for target in told} == {(5,), (6, 7), (8,)}
    assert all(target.offset == 0 and target.student == target.teacher for target in told)
    assert max(len(target.student) for target in knowing.longest()) == max(
        len(knowing.target(number).student) for number in range(18))


def test_answers_alone_and_their_end(llama):
    """Behind the question's own tokens begins what is learned; the end token is the last of it."""
    spec, params = llama
    model = Model(dataclasses.replace(spec, eos_ids=(2,)), params, Letters())
    made = make_streams(model, "the fox", [("who?", "fox")], [[5, 6]], FormatConfig(), MixtureConfig(), 0, False,
                        answers_only=True, end=True)
    (target,) = made.questions
    question = model.tokenizer.encode("Question: who? Answer:")
    assert target.masked_tokens == len(model.prefix) + len(question)
    assert target.student == (*model.prefix, *question, *model.tokenizer.encode(" fox\n"), 2)
    endless = Model(dataclasses.replace(spec, eos_ids=()), params, Letters())
    with pytest.raises(UserError, match="no end token"):
        make_streams(endless, "the fox", [("who?", "fox")], [[5, 6]], FormatConfig(), MixtureConfig(), 0, False,
                     end=True)


def test_the_document_alone(llama):
    model = Model(*llama, Letters())
    alone = document_alone(model, "the red fox", FormatConfig(), 0)
    target = alone.target(np.random.default_rng(0).integers(100))
    assert target.student == target.teacher and target.offset == 0
    assert target.student == (*model.prefix, *model.tokenizer.encode("the red fox\n"))
