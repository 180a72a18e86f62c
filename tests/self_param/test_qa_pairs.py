"""QA pairs: parsing of replies, filters, and the three sources."""

import dataclasses
import json
import types

import numpy as np
import pytest

from jaxllm.errors import UserError
from jaxllm.evaluate.qa import f1, normalize
from jaxllm.generate import Generator
from jaxllm.judge import Answer, FunctionJudge, JudgeConfig, Prompt
from jaxllm.model import load
from jaxllm.self_param import qa_pairs
from jaxllm.self_param.cloze import cloze_pairs
from jaxllm.self_param.config import InjectConfig, MixtureConfig, QAPairConfig
from jaxllm.self_param.data import Document
from jaxllm.self_param.phrases import answer_phrases
from jaxllm.self_param.prompts import FormatConfig, Prompts
from jaxllm.self_param.qa_filter import PassagePairs, QAPair, as_row, of_row, summarize_pairs
from jaxllm.self_param.qa_pairs import (
    INSTRUCTION,
    check_covered,
    judge_source,
    make_qa_pairs,
    pairs_of_file,
    parse_pairs,
)
from jaxllm.self_param.report import _qa_pairs
from jaxllm.text.rows import RowSet

REPLY = """Sure:
1. Question: Who built it? Answer: two brothers
- Question: When?  Answer:  in 1871 Question: What else? Answer: nothing

Question: On two lines?
Answer: yes, here
Question: Without an answer? Answer:
Question: and no more"""


@pytest.fixture(scope="module")
def tiny():
    return load("tiny")

PLAIN = FormatConfig(mode="plain")


def test_replies_are_parsed_line_by_line():
    """Numbers and bullets of the next item are not part of an answer, nor are asterisks; an answer may be missing."""
    assert parse_pairs(REPLY) == [("Who built it?", "two brothers"), ("When?", "in 1871"), ("What else?", "nothing"),
                                  ("On two lines?", "yes, here"), ("Without an answer?", "")]
    assert parse_pairs("**Question:** Who? **Answer:** Bob\n2. **Question:** When?\n**Answer:** now") == [
        ("Who?", "Bob"), ("When?", "now")]
    assert parse_pairs("") == [] and parse_pairs("Answer: x\nQuestion:") == []
    example = INSTRUCTION.partition("this would be\n")[2].partition("\nThe text is")[0]
    assert len(parse_pairs(example)) == 3


def test_a_judge_is_queried_in_several_replies():
    queries, done = [], []

    def answer(prompt, sampling, seed):
        queries.append((prompt.content[0]["content"], sampling.n, seed))
        return [f"Question: {i}? Answer: {i}" for i in range(sampling.n)]

    source = judge_source(FunctionJudge(answer), QAPairConfig(per_document=20), 5, done.append)
    assert source(["one", "two"]) == [PassagePairs([("0?", "0"), ("1?", "1"), ("2?", "2")])] * 2
    assert [text.removeprefix(INSTRUCTION) for text, *_ in queries] == ["one", "two"] and done == [1, 2]
    assert queries[0][1:] == (3, 5)


def test_answers_that_a_judge_did_not_finish_are_dropped():
    """Missing ones, and one with which a reply ends that was cut."""
    replies = [Answer("Question: Who? Answer: Bob\nQuestion: When? Answer: in the year 18", "length"),
               Answer("Question: What? Answer:\nQuestion: Why? Answer: so", "stop"),
               Answer("Question: Where? Answer: here\nQuestion: and th", "length")]
    judge = types.SimpleNamespace(complete=lambda *_, **__: [replies])
    (pairs,) = judge_source(judge, QAPairConfig(per_document=20), 5)(["one"])
    assert pairs.selected == [("Who?", "Bob"), ("Why?", "so"), ("Where?", "here")]
    assert pairs.dropped == [(("When?", "in the year 18"), "cut_answer"), (("What?", ""), "cut_answer")]


@pytest.mark.parametrize(("first", "ends", "selected", "reasons"), [
    ("95", "sl", [0], ["cut_answer"]), ("95", "ls", [1], ["cut_answer"]), ("95", "ll", [0, 1], []),
    ("95", "ss", [0, 1], []), ("", "sl", [1], ["short_answer"])])
def test_cut_answers_are_dropped_where_others_are_complete(tiny, first, ends, selected, reasons):
    """A model that never ends an answer has only cut and empty ones."""
    made = [QAPair("How many sailors?", first), QAPair("What is Rinla made of?", "pine of the")]
    completion = lambda text, end: types.SimpleNamespace(text=text, finish_reason={"s": "stop", "l": "length"}[end])
    calls = iter([[[completion(pair.question, "s") for pair in made]],
                  [[completion(pair.answer, end)] for pair, end in zip(made, ends, strict=True)]])
    writer = types.SimpleNamespace(generate=lambda *_, **__: next(calls), batch_size=2)
    config = InjectConfig(format=PLAIN, qa_pairs=QAPairConfig(per_document=2))
    ((own,),) = make_qa_pairs(config, writer, Prompts(tiny, PLAIN), [Document("Rinla is made of pine.")])
    assert own.selected == [made[number] for number in selected]
    assert [reason for _, reason in own.dropped] == reasons


def test_recorded_replies_of_a_judge(tmp_path, tiny):
    """Pairs that are not grounded in the document or exceed the context window are dropped."""
    text = "The ship Rinla sails from Torla."
    replies = tmp_path / "replies.jsonl"
    prompt = Prompt([{"role": "user", "content": INSTRUCTION + text}])
    reply = "Question: Where does it sail from? Answer: Torla\nQuestion: Who sails? Answer: Bob\n"
    reply += f"Question: {'long ' * 600}? Answer: Torla"
    replies.write_text(json.dumps({"prompt_sha256": prompt.sha256, "texts": [reply]}) + "\n")
    judge = JudgeConfig("recorded", path=str(replies))
    config = InjectConfig(format=PLAIN, qa_pairs=QAPairConfig("judge", judge, per_document=4, grounded=True))
    ((pairs,),) = make_qa_pairs(config, Generator(tiny), Prompts(tiny, config.format), [Document(text)])
    assert pairs.selected == [("Where does it sail from?", "Torla")]
    assert [reason for _, reason in pairs.dropped] == ["too_long", "ungrounded"]


def test_pairs_of_a_file_go_to_the_nearest_chunk(tiny):
    documents = [Document("one two", (), ("The crew counts 95 sailors.", "It is made of pine."))]
    row = lambda context, question, answer: {"context": context, "question": question, "answers": [answer, "other"]}
    rows = [row("one two", "How many sailors are there?", "95"), row("elsewhere", "Who?", "Bob"),
            row("one two", "What is it made of?", "pine"), row("one two", "long " * 600, "x")]
    prompts = Prompts(tiny, PLAIN)
    given, rejected = pairs_of_file(RowSet(rows, [1, 2, 3, 4], []), "pairs.jsonl", {"one two"}, prompts, documents,
                                    "unknown")
    assert [(own.line, own.reason) for own in rejected] == [
        (2, "unknown"), (4, "the document and this pair do not fit the context window")]
    (made,) = make_qa_pairs(InjectConfig(), None, prompts, documents, given)
    assert [own.selected for own in made] == [[("How many sailors are there?", "95")],
                                              [("What is it made of?", "pine")]]


def test_the_model_writes_pairs_about_the_document(tiny):
    """Questions are sampled with the document in the prompt; the answers are those of the open-book model."""
    text = "Rinla is a ship. The crew of Rinla counts 95 sailors. Rinla is made of pine.\n"
    config = InjectConfig(format=PLAIN, qa_pairs=QAPairConfig(per_document=8, max_tokens=24))
    generator, prompts = Generator(tiny), Prompts(tiny, config.format)
    ((own,),) = make_qa_pairs(config, generator, prompts, [Document(text)])
    pairs = own.selected
    assert len(pairs) + len(own.dropped) == 8
    assert 1 <= len(pairs) <= 8 and len({normalize(pair.question) for pair in pairs}) == len(pairs)
    ((completion,),) = generator.generate([prompts.question(pairs[0].question, text)], config.sampling)
    assert completion.text.strip() == pairs[0].answer


def test_pairs_of_an_earlier_start_are_not_made_again(tiny):
    """The others are the same as in one go, and are handed over one passage after the other."""
    documents = [Document(f"{name} is a ship. The crew of {name} counts {crew} sailors. It is made of pine.\n")
                 for name, crew in (("Rinla", 95), ("Dorok", 40), ("Selva", 12))]
    config = InjectConfig(format=PLAIN, qa_pairs=QAPairConfig(per_document=4, max_tokens=24))
    prompts, others = Prompts(tiny, PLAIN), []
    whole = make_qa_pairs(config, Generator(tiny), prompts, documents)
    alone = Generator(tiny, batch_size=4)
    made = make_qa_pairs(config, alone, prompts, documents, made=whole[0], on_made=others.append)
    assert made == whole and made[0][0] is whole[0][0] and others == [whole[1][0], whole[2][0]]
    assert make_qa_pairs(config, None, prompts, documents, made=[own for (own,) in whole]) == whole


def test_more_samples_leave_a_choice(tiny):
    """Questions that fail a check are replaced by others; the ones left over are a surplus."""
    text = "Rinla is a ship. The crew of Rinla counts 95 sailors. Rinla is made of pine.\n"
    settings = QAPairConfig(per_document=2, samples=16, max_tokens=24, question_gain=0.5, answer_gain=0.0)
    config = InjectConfig(format=PLAIN, qa_pairs=settings)
    ((own,),) = make_qa_pairs(config, Generator(tiny), Prompts(tiny, config.format), [Document(text)])
    assert len(own.selected) == 2 and len(own.selected) + len(own.dropped) == 16
    assert "surplus" in {reason for _, reason in own.dropped}


def test_questions_are_written_for_a_phrase_and_answered_by_the_model(tiny):
    """Where a limit leaves a choice, a pair with the answer of its phrase stays; half of the words are enough."""
    text, chat = "Rinla is made of old pine. The crew of Rinla counts 95 sailors.", FormatConfig(mode="chat")
    completion = lambda text, end="stop": types.SimpleNamespace(text=text, finish_reason=end)
    prompts, calls = Prompts(tiny, chat), []
    written = [completion(f"Question {number}?") for number in range(4)] + [completion("cut", "length")]
    answers = [completion(text) for text in ("Rinla", "Rinla.", "95 sailors", "it is made of it")]
    replies = iter([[[one] for one in own] for own in (written, answers)])

    def generate(ids, sampling, *, seed, row_ids=None, on_prompt=None):
        calls.append((ids, sampling.n, row_ids))
        return next(replies)

    settings = QAPairConfig(per_document=9, per_answer=1, samples=5, answer_first=True)
    config = InjectConfig(format=chat, qa_pairs=settings)
    writer = types.SimpleNamespace(generate=generate, batch_size=2)
    phrases = answer_phrases(text, 5)
    assert phrases == ["old pine", "Rinla", "Rinla counts 95 sailors", "made", "crew"]
    ((own,),) = make_qa_pairs(config, writer, prompts, [Document(text)])
    assert calls[0] == ([prompts.question_request(text, phrase) for phrase in phrases], 1, [0, 1, 2, 3, 4])
    assert own.selected == [("Question 1?", "Rinla."), ("Question 2?", "95 sailors"),
                            ("Question 3?", "it is made of it")]
    assert [(pair.question, reason) for pair, reason in own.dropped] == [("cut", "cut"), ("Question 0?", "repeated")]
    with pytest.raises(UserError, match=r"qa_pairs\.answer_first.*chat mode"):
        make_qa_pairs(InjectConfig(format=PLAIN, qa_pairs=settings), writer, Prompts(tiny, PLAIN), [Document(text)])
    with pytest.raises(UserError, match="answer_first"):
        QAPairConfig("cloze", answer_first=True)


def test_answers_are_mixed_with_the_closed_book_model(tiny):
    """The same questions, with answers that agree with the open-book ones; batches and a resumed run change nothing."""
    documents = [Document(f"{name} is a ship. The crew of {name} counts {crew} sailors. It is made of pine.\n")
                 for name, crew in (("Rinla", 95), ("Dorok", 40), ("Selva", 12))]
    prompts, settings = Prompts(tiny, PLAIN), QAPairConfig(per_document=4, max_tokens=24)
    plain = make_qa_pairs(InjectConfig(format=PLAIN, qa_pairs=settings), Generator(tiny), prompts, documents)
    config = InjectConfig(format=PLAIN, qa_pairs=dataclasses.replace(settings, closed_book_share=0.5))
    whole = make_qa_pairs(config, Generator(tiny), prompts, documents)
    pairs, open_book = ([pair for (own,) in made for pair in own.selected] for made in (whole, plain))
    assert [pair.question for pair in pairs] == [pair.question for pair in open_book] and len(pairs) > 4
    assert all(f1(*answers) >= 0.5 for answers in zip(*([pair.answer for pair in own] for own in (pairs, open_book)),
                                                      strict=True))
    assert all(own.answer_tokens is None for (own,) in plain) and all(min(own.answer_tokens) > 0 for (own,) in whole)
    assert [of_row(json.loads(json.dumps(as_row(own)))) for (own,) in whole] == [own for (own,) in whole]
    counts = summarize_pairs([document.text for document in documents], [own for (own,) in whole])
    assert counts["answer_tokens"] == {"open_book": sum(own.answer_tokens[0] for (own,) in whole),
                                       "closed_book": sum(own.answer_tokens[1] for (own,) in whole)}
    assert f"{counts['answer_tokens']['closed_book']} are drawn from the closed-book" in _qa_pairs(counts).text
    assert make_qa_pairs(config, Generator(tiny, batch_size=3), prompts, documents, made=whole[0]) == whole


def test_mixtures_that_disagree_with_the_passage_are_drawn_again(tiny, monkeypatch):
    """So are cut ones, unless the open-book answer is cut too. After ten the open-book answer stays."""
    def completion(text, end="stop"):
        return types.SimpleNamespace(text=text, finish_reason=end, token_ids=text.split())

    answers = {"A?": completion("95 sailors"), "B?": completion("pine"), "C?": completion("of the ship", "length"),
               "D?": completion("from Torla")}
    calls = iter([[[completion(question) for question in answers]], [[own] for own in answers.values()]])
    writer, drawn = types.SimpleNamespace(generate=lambda *_, **__: next(calls), batch_size=2), []
    config = InjectConfig(format=PLAIN, qa_pairs=QAPairConfig(per_document=4, closed_book_share=0.5))
    prompts, text = Prompts(tiny, PLAIN), "Rinla is a ship."
    both = {tuple(prompts.question(question)): question for question in answers}

    def mix(generator, requests, share, sampling, *, seed, row_ids):
        questions = [both[tuple(closed_book)] for _, closed_book in requests]
        assert [prompts.question(question, text) for question in questions] == [open_book for open_book, _ in requests]
        drawn.append((questions, share, seed, row_ids))
        made = {"A?": completion("95 big sailors" if len(drawn) == 3 else "many"), "B?": completion("oak"),
                "C?": completion("of the ships", "length"), "D?": completion("from Torla on", "length")}
        return [(made[question], np.array([True, False, False])) for question in questions]

    monkeypatch.setattr(qa_pairs, "generate_mixture", mix)
    ((own,),) = make_qa_pairs(config, writer, prompts, [Document(text)])
    assert own.selected == [("A?", "95 big sailors"), ("B?", "pine"), ("D?", "from Torla")]
    assert own.dropped == [(("C?", "of the ships"), "cut_answer")] and own.answer_tokens == (7, 2)
    assert [questions for questions, *_ in drawn] == [[*answers], *[["A?", "B?", "D?"]] * 2, *[["B?", "D?"]] * 7]
    assert drawn[0][1] == 0.5 and drawn[0][3] == [0, 1, 2, 3] and drawn[3][3] == [1, 3]
    assert len({seed for _, _, seed, _ in drawn}) == 10


@pytest.mark.parametrize(("source", "share"), [("model", 1.0), ("model", -0.1), ("cloze", 0.5), ("pairs.jsonl", 0.5)])
def test_shares_of_the_closed_book_model_that_are_refused(source, share):
    with pytest.raises(UserError, match="closed_book_share"):
        QAPairConfig(source, closed_book_share=share)


def test_cloze_pairs_need_no_model(tiny):
    text = "Rinla is a ship from Torla. The crew of Rinla counts 95 sailors."
    alone = InjectConfig(format=PLAIN, qa_pairs=QAPairConfig("cloze", per_document=3))
    ((own,),) = make_qa_pairs(alone, None, Prompts(tiny, PLAIN), [Document(text)])
    assert [pair.answer for pair in own.selected] == ["ship from Torla.", "Rinla counts 95 sailors.", "Torla"]
    given = InjectConfig(format=PLAIN, qa_pairs=QAPairConfig(cloze=2))
    ((own,),) = make_qa_pairs(given, None, Prompts(tiny, PLAIN), [Document(text)], [[("Who sails?", "the crew")]])
    assert [pair.answer for pair in own.selected] == ["the crew", "ship from Torla.", "Rinla counts 95 sailors."]


def test_a_cloze_pair_comes_once(tiny):
    """The source makes the pairs of the key too; one that it dropped does not come back."""
    text = "Rinla is a ship from Torla. The crew of Rinla counts 95 sailors."
    config = InjectConfig(format=PLAIN, qa_pairs=QAPairConfig("cloze", per_document=3, per_answer=1, cloze=6))
    ((own,),) = make_qa_pairs(config, None, Prompts(tiny, PLAIN), [Document(text)])
    assert own.selected == [QAPair(*pair) for pair in cloze_pairs(text, 6)] and not own.dropped
    config = dataclasses.replace(config, qa_pairs=dataclasses.replace(config.qa_pairs, min_answer=6))
    ((own,),) = make_qa_pairs(config, None, Prompts(tiny, PLAIN), [Document(text)])
    assert [pair.answer for pair, _ in own.dropped] == ["Torla"] and len(own.selected) == 5


def test_cloze_pairs_that_do_not_fit_are_listed(tiny):
    prompts = Prompts(tiny, PLAIN)
    hundred = len(tiny.tokenizer.encode("ship " * 100))
    text = "The " + "ship " * (prompts.window * 60 // hundred) + "sails."
    config = InjectConfig(format=PLAIN, qa_pairs=QAPairConfig(cloze=1))
    ((own,),) = make_qa_pairs(config, None, prompts, [Document(text)], [[("Who sails?", "the crew")]])
    assert own.selected == [("Who sails?", "the crew")] and [reason for _, reason in own.dropped] == ["too_long"]


def test_a_document_without_pairs_is_an_error_with_the_reasons(tiny):
    config = InjectConfig(format=PLAIN, qa_pairs=QAPairConfig(grounded=True, min_answer=2))
    documents = [Document("The lighthouse was built in 1871."), Document("It is red.")]
    message = "no QA pairs for 1 of 2 documents.*'It is red.'.*a word of the answer"
    made = make_qa_pairs(config, None, Prompts(tiny, PLAIN), documents, [[("When?", "1871")], [("Color?", "blue")]])
    with pytest.raises(UserError, match=message) as error:
        check_covered(config, documents, made)
    assert "qa_pairs.cloze" in str(error.value)
    check_covered(config, documents[:1], [[PassagePairs([]), PassagePairs([QAPair("When?", "1871")])]])
    check_covered(InjectConfig(mixture=MixtureConfig(qa=0)), documents, [[PassagePairs([])]] * 2)
