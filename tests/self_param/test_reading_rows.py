"""Conversations that teach a model to read: the prompts of an injection, and no passage on both sides."""

import json
import sys

from jaxllm import load
from jaxllm.files import read_jsonl, write_jsonl
from jaxllm.self_param.prompts import ANSWER_REQUEST, CLOSED_BOOK_REQUEST, REQUEST, FormatConfig, Prompts
from jaxllm.text.examples import encode_example
from scripts import reading_rows

FORMAT = FormatConfig().resolve(True)


def rows_about(name, count, ask="Where does {} sail?"):
    context = f"The ship {name} sails to {name}land. " * 3
    return [{"context": context, "question": ask.format(name) * (1 + i), "answers": [f"{name}LAND"], "id": i}
            for i in range(count)]


def test_conversations_have_the_prompts_of_an_injection():
    rows = rows_about("Rinla", 3)
    answered, written, aimed = (row["messages"] for row in reading_rows.conversations(rows, 2))
    assert [turn["role"] for turn in answered] == ["user", "assistant"] * 2
    assert answered[0]["content"] == FORMAT.context_text(rows[0]["context"]) + FORMAT.question_text(rows[0]["question"])
    assert answered[2]["content"] == FORMAT.question_text(rows[1]["question"])
    assert answered[1]["content"] == answered[3]["content"] == FORMAT.answer_text("RinlaLAND")
    assert [turn["content"] for turn in written] == [
        FORMAT.context_text(rows[0]["context"]) + REQUEST, rows[0]["question"], REQUEST, rows[1]["question"]]
    request = ANSWER_REQUEST.replace("{answer}", "RinlaLAND")
    assert [turn["content"] for turn in aimed] == [
        FORMAT.context_text(rows[0]["context"]) + request, rows[0]["question"], request, rows[1]["question"]]


def test_a_model_learns_from_the_tokens_that_an_injection_has():
    """First turns, headers and the end of an answer included."""
    model, rows = load("tiny"), rows_about("Rinla", 2)
    prompts, (question, passage) = Prompts(model, FormatConfig(mode="chat")), (rows[0]["question"], rows[0]["context"])
    answered, written, aimed = (encode_example(model.tokenizer, messages=row["messages"])
                         for row in reading_rows.conversations(rows, 2))
    target = prompts.target(question, rows[0]["answers"][0], passage)
    assert tuple(answered.ids[:len(target.teacher)]) == target.teacher
    learned = answered.loss_mask[:len(target.teacher)]
    assert learned.sum() == len(target.student) - target.prompt_tokens and learned[-1]
    assert answered.ids[:answered.prompt_length].tolist() == prompts.question(question, passage)
    assert written.ids[:written.prompt_length].tolist() == prompts.question_request(passage)
    assert aimed.ids[:aimed.prompt_length].tolist() == prompts.question_request(passage, rows[0]["answers"][0])


def test_questions_without_a_passage_follow_those_about_others():
    passages = [rows_about(name, 3) for name in ("Rinla", "Dorok", "Selva")] + [rows_about("Marun", 1, "no question")]
    made = [row["messages"] for row in reading_rows.closed_book_conversations(passages, 2)]
    assert {turn["content"] for turns in made for turn in turns[::2]} == {CLOSED_BOOK_REQUEST}
    assert [[turn["content"] for turn in turns[1::2]] for turns in made] == [
        [passages[0][0]["question"], passages[1][0]["question"]],
        [passages[2][0]["question"], passages[0][1]["question"]],
        [passages[1][1]["question"], passages[2][1]["question"]]]
    model = load("tiny")
    example, prompts = encode_example(model.tokenizer, messages=made[0]), Prompts(model, FormatConfig(mode="chat"))
    assert example.ids[:example.prompt_length].tolist() == prompts.question_request()


def test_answers_are_in_the_passage_and_questions_are_questions():
    no_answer = [row | {"answers": ["elsewhere"]} for row in rows_about("Dorok", 1)]
    [written] = reading_rows.conversations(no_answer, 5)
    assert written["messages"][0]["content"].endswith(REQUEST)
    [answered] = reading_rows.conversations(rows_about("Dorok", 1, "where {} sails"), 5)
    assert answered["messages"][-1]["content"] == "DorokLAND"


def test_no_passage_is_taught_and_injected(tmp_path, monkeypatch, capsys):
    first = [row for name in ("Rinla", "Dorok", "Selva", "Marun") for row in rows_about(name, 2)]
    write_jsonl(tmp_path / "first.jsonl", first)
    again = [row | {"context": row["context"].replace(". ", ".\n")} for row in first]
    write_jsonl(tmp_path / "more.jsonl", again + rows_about("Tikan", 1))
    files = [tmp_path / "first.jsonl", tmp_path / "more.jsonl"]
    arguments = ["x", tmp_path / "out", *files, "--held_back", 2, "--words", 5, 60, "--others", 5, "--validation", 1]
    monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
    reading_rows.main()
    printed = capsys.readouterr().out
    assert "about 2 passages" in printed and "4 questions about 2 held-back passages" in printed
    read = {name: read_jsonl(tmp_path / "out" / f"{name}.jsonl") for name in ("rows", "validation", "passages")}
    assert len(read["passages"]) == 4 and len({row["context"] for row in read["passages"]}) == 2
    names = {role: {name for name in ("Rinla", "Dorok", "Selva", "Marun", "Tikan") if name in json.dumps(rows)}
             for role, rows in read.items()}
    assert len(names["validation"]) == 1 and len(names["passages"]) == 2
    assert sorted(name for own in names.values() for name in own) == ["Dorok", "Marun", "Rinla", "Selva", "Tikan"]
