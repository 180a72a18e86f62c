"""Order of the targets: of one document, interleaved, and with earlier ones replayed; rehearsal data."""

import collections
import dataclasses
import types as types_

import numpy as np
import pytest

from jaxllm.errors import UserError
from jaxllm.finetune.targets import TARGET_TYPES, InterleavedTargets, ReplayTargets
from jaxllm.generate import Generator
from jaxllm.model import Model, load
from jaxllm.self_param.config import InjectConfig, MixtureConfig, QAPairConfig, RehearsalConfig, UnrelatedConfig
from jaxllm.self_param.prompts import FormatConfig, Prompts
from jaxllm.self_param.targets import (
    context_targets,
    document_targets,
    rehearsal_before,
    rehearsal_tokens,
    sample_rehearsal,
    sample_unrelated,
    teacher_reads,
)
from tests.letters import Letters

TEXTS = ["the red fox", "a blue dog", "no cat here", "at"]
CONFIG = InjectConfig(unrelated=UnrelatedConfig(with_document=False))
PAIRS = [("who?", "fox"), ("what?", "red"), ("why?", "so")]


@pytest.fixture(scope="module")
def documents(llama):
    prompts = Prompts(Model(*llama, Letters()), FormatConfig())
    return tuple(document_targets(CONFIG, prompts, text, PAIRS, [[5, 6, 7], [8, 9]], seed)
                 for seed, text in enumerate(TEXTS))


def types(source, numbers):
    return [TARGET_TYPES[source.target(number).target_type] for number in numbers]


def test_every_document_has_a_cycle_in_every_epoch(documents):
    source = InterleavedTargets(documents, 7)
    assert types(source, range(6)) == ["qa", "continuation", "unrelated"] * 2
    owner = {document.context: number for number, document in enumerate(documents)}
    # The teacher's context identifies the document of a question.
    questions = [source.target(number) for number in range(0, 36, 3)]
    owners = [owner[target.teacher[len(documents[0].prefix):][:target.offset]] for target in questions]
    for start in range(0, 12, 4):
        assert sorted(owners[start:start + 4]) == [0, 1, 2, 3]
    assert owners[:4] != owners[4:8]
    # Each document's three pairs come once before any comes again.
    counts = collections.Counter(zip(owners, (target.student for target in questions), strict=True))
    assert set(counts.values()) == {1} and len(counts) == 12
    again = InterleavedTargets(documents, 7)
    assert [again.target(n) for n in range(40)] == [source.target(n) for n in range(40)]


def test_a_document_too_short_for_a_target_type(documents):
    """Its two types fill the cycles of three: no target is left out or comes twice."""
    short = dataclasses.replace(documents[0], types=("qa", "unrelated"))
    source = InterleavedTargets((documents[1], short), 0)
    assert source.cycle == 3 and "continuation" in types(source, range(12))
    of_short = [n for n in range(48) if "continuation" not in types(source, range(n // 3 * 3, n // 3 * 3 + 3))]
    assert types(source, of_short) == ["qa", "unrelated"] * (len(of_short) // 2) and len(of_short) == 24
    assert [source.target(n) for n in of_short] == [short.target(n) for n in range(24)]


def test_replay_of_earlier_documents_every_other_cycle(documents):
    replay = ReplayTargets(documents[0], InterleavedTargets(documents[1:3], 3))
    offsets = [replay.target(number).offset for number in range(0, 24, 3)]
    lengths = [len(document.context) for document in documents]
    assert offsets[::2] == [lengths[0]] * 4 and sorted(offsets[1::2]) == sorted([lengths[1], lengths[2]] * 2)
    several = ReplayTargets(InterleavedTargets(documents[:2], 1), InterleavedTargets(documents[2:3], 3))
    assert several.cycle == 3 and several.target(3) == documents[2].target(0)
    assert len(replay.longest()) == sum(len(document.longest()) for document in documents[:3])


def test_how_often_a_teacher_reads_a_token(documents):
    """As counted; cuts are drawn with replacement, and each answer of the student is new."""
    one = dataclasses.replace(documents[0], types=("qa", "unrelated", "rehearsal"), rehearsal=((5,), (6, 7, 8)))
    drawn = [one.target(number) for number in range(90)]
    tokens = lambda targets: sum(len(target.teacher) for target in targets)
    assert teacher_reads([one], 90) == pytest.approx(tokens(drawn) / tokens({*drawn}))
    assert teacher_reads([one] * 3, 270) == pytest.approx(teacher_reads([one], 90))
    qa, cuts = (dataclasses.replace(one, types=(name,)) for name in ("qa", "continuation"))
    assert teacher_reads([qa], 2) == 1 and teacher_reads([qa], 30) == pytest.approx(10)
    assert teacher_reads([qa], 30, 1.0) == 1 and teacher_reads([qa], 30, 0.5) == pytest.approx(30 / 18)
    assert teacher_reads([cuts], 5000) == pytest.approx(5000 / (len(one.context) - 2))
    assert 1 < teacher_reads([cuts], 5) < 5


def test_rehearsal_targets_have_no_document(documents):
    """Each text once per epoch, with equal views of student and teacher; a type of ratio 0 is never drawn."""
    cycle = MixtureConfig(qa=1, continuation=0, unrelated=0, rehearsal=2).cycle
    source = dataclasses.replace(documents[0], types=cycle, rehearsal=((5,), (6, 7), (8,)))
    assert types(source, range(6)) == ["qa", "rehearsal", "rehearsal"] * 2
    targets = [source.target(number) for number in (1, 2, 4)]
    assert {target.student[len(source.prefix):] for target in targets} == {(5,), (6, 7), (8,)}
    assert all(target.offset == 0 and target.student == target.teacher for target in targets)
    assert max(len(target.student) for target in source.longest()) == max(
        len(source.target(number).student) for number in range(18))


def test_loss_on_answers_and_end_token(llama):
    """The question's own tokens are masked; the end token is the last of the target."""
    spec, params = llama
    model = Model(dataclasses.replace(spec, eos_ids=(2,)), params, Letters())
    config = dataclasses.replace(CONFIG, qa_pairs=QAPairConfig(loss_on="answer"))
    made = document_targets(config, Prompts(model, FormatConfig(), append_eos=True), "the fox", [("who?", "fox")],
                            [[5, 6]], 0)
    (target,) = made.questions
    question = model.tokenizer.encode("Question: who? Answer:")
    assert target.masked_tokens == len(model.prefix) + len(question)
    assert target.student == (*model.prefix, *question, *model.tokenizer.encode(" fox\n"), 2)
    with pytest.raises(UserError, match="no end token"):
        Prompts(Model(dataclasses.replace(spec, eos_ids=()), params, Letters()), FormatConfig(), append_eos=True)
    with pytest.raises(UserError, match="no continuation, or no QA pairs"):
        document_targets(dataclasses.replace(CONFIG, mixture=MixtureConfig(unrelated=0)), Prompts(
            Model(*llama, Letters()), FormatConfig(context="{context}")), "at", [], [], 0)


def test_the_document_alone(llama):
    model = Model(*llama, Letters())
    alone = context_targets(Prompts(model, FormatConfig()), "the red fox", 0)
    target = alone.target(np.random.default_rng(0).integers(100))
    assert target.student == target.teacher and target.offset == 0
    assert target.student == (*model.prefix, *model.tokenizer.encode("the red fox\n"))


@pytest.fixture(scope="module")
def tiny():
    return Generator(load("tiny"))


def test_no_text_is_both_trained_on_and_held_out(tiny):
    """Also where there are fewer texts than configured."""
    config = InjectConfig(unrelated=UnrelatedConfig("z", tokens=8, train=8, drift=4))
    texts = [f"{word} went home" for word in ("Lily", "Tom", "Sam", "Mia", "Ben", "Sue", "Tim", "Lily")]
    train, drift = sample_unrelated(config, tiny, texts)
    assert (len(train), len(drift)) == (3, 4) and not {*map(tuple, train)} & {*map(tuple, drift)}
    with pytest.raises(UserError, match="only 4 distinct texts"):
        sample_unrelated(config, tiny, texts[:4])


def test_rehearsal_data_is_sampled_closed_book(tiny):
    """Completed questions with answers in the format of the run, none twice, the same for the same seed."""
    config = InjectConfig(format=FormatConfig(mode="plain"), rehearsal=RehearsalConfig(texts=16))
    prompts, model = Prompts(tiny.model, config.format), tiny.model
    texts = sample_rehearsal(config, tiny, prompts, 0)
    assert 1 < len(texts) <= 16 and len(set(texts)) == len(texts)
    assert texts == sample_rehearsal(config, tiny, prompts, 0)
    for ids in texts:
        text = model.tokenizer.decode(list(ids))
        assert text.startswith("Question:") and " Answer:" in text and text.endswith("\n")
        assert len(ids) <= rehearsal_tokens(config) + 2
    silent = dataclasses.replace(config, sampling=dataclasses.replace(config.sampling, max_tokens=1),
                                 qa_pairs=dataclasses.replace(config.qa_pairs, max_tokens=1))
    with pytest.raises(UserError, match="none of 16 sampled questions ended within 2 tokens"):
        sample_rehearsal(silent, tiny, prompts, 0)


def test_questions_and_their_answers_are_drawn_with_different_seeds(tiny):
    seeds = []

    class Recorded:
        model = tiny.model

        def generate(self, rows, sampling, *, seed):
            seeds.append(seed)
            return [[types_.SimpleNamespace(text="Who is it?", finish_reason="stop")] * sampling.n for _ in rows]

    config = InjectConfig(format=FormatConfig(mode="chat"))
    for seed in (5, 5, 6):
        assert len(sample_rehearsal(config, Recorded(), Prompts(tiny.model, config.format), seed)) == 1
    assert seeds[::2] == [5, 5, 6] and seeds[1] == seeds[3] and len({*seeds}) == 4


def test_cut_questions_are_not_rehearsed(tiny):
    completion = lambda text, end: types_.SimpleNamespace(text=text, finish_reason=end)
    config, written = InjectConfig(format=FormatConfig(mode="chat")), []

    class Writer:
        model = tiny.model

        def generate(self, rows, sampling, *, seed):
            if not written:
                written.extend(rows)
                return [[completion("Where is the", "length"), completion("Who is it?", "stop")]]
            return [[completion("Bob", "stop")] for _ in rows]

    prompts = Prompts(tiny.model, config.format)
    assert sample_rehearsal(config, Writer(), prompts, 0) == (
        prompts.target("Who is it?", "Bob").student[len(prompts.prefix):],)


def test_rehearsal_accumulates_over_injections():
    samples = {1: ((1,), (2,)), 2: ((3,), (1,)), 3: ((5, 6), (3,))}
    assert rehearsal_before(1, samples, True) == rehearsal_before(1, samples, False) == ((1,), (2,))
    assert rehearsal_before(3, samples, True) == ((3,), (1,), (5, 6))
    assert rehearsal_before(3, samples, False) == ((1,), (2,), (3,), (5, 6))
