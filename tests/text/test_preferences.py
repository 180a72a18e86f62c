"""Rows of preference data: forms, implicit prompts, conversions without loss, reading, splitting by prompt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxllm.errors import UserError
from jaxllm.text.conversions import (
    pairs_from_ranks,
    pairs_from_scores,
    pairs_from_unpaired,
    ranks_from_pairs,
    scores_from_pairs,
    unpaired_from_pairs,
)
from jaxllm.text.forms import form_of, rows_of, split_pair
from jaxllm.text.implicit import split_conversations, split_texts
from jaxllm.text.preferences import (
    ClassifyRow,
    PairRow,
    SftRow,
    UnpairedRow,
    normalized,
    preference_rows,
    read_forms,
    split_by_prompt,
)


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# Implicit prompts.


@pytest.mark.parametrize("chosen, rejected, prompt", [
    ("Paris ", "London", ""),
    ("I am red", "I am blue", "I am"),  # without markers: the longest common start, in whole words
    ("The sky is blueish", "The sky is blue!", "The sky is"),
    ("x\n\nyes", "x\n\nno", "x\n\n"),
    ("Q: hue?\nA: I am red", "Q: hue?\nA: I am blue", "Q: hue?\nA:"),
    ("Q: a?\nA: b\nQ: c?\nA: d", "Q: a?\nA: b\nQ: c?\nA: dd", "Q: a?\nA: b\nQ: c?\nA:"),
    ("Q: a?\nA: yes", "Q: a?\nA: yes, it is", "Q: a?\nA:"),  # with a marker an answer may be the start of the other
    ("\n\nHuman: Hi\n\nAssistant: Well, yes", "\n\nHuman: Hi\n\nAssistant: Well, no", "\n\nHuman: Hi\n\nAssistant:"),
    ("\n\nHuman: A play.\nHuman: hi\n\nAssistant: a", "\n\nHuman: A play.\nHuman: hi\n\nAssistant: b",
     "\n\nHuman: A play.\nHuman: hi\n\nAssistant:"),  # a line within a turn is no marker
    ("Be kind.\n\nUser: Hi\n\nAssistant: a b", "Be kind.\n\nUser: Hi\n\nAssistant: a c",
     "Be kind.\n\nUser: Hi\n\nAssistant:"),
    ("### Instruction:\nAdd.\n\n### Response:\n3 a", "### Instruction:\nAdd.\n\n### Response:\n3 b",
     "### Instruction:\nAdd.\n\n### Response:"),
])
def test_the_prompt_of_two_texts(chosen, rejected, prompt):
    for a, b in ((chosen, rejected), (rejected, chosen)):
        got, first, second = split_texts(a, b)
        assert got == prompt and got + first == a and got + second == b


@pytest.mark.parametrize("chosen, rejected, reason", [
    ("The sky", "The sky is blue", "one text is the start of the other"),
    ("The sky is ", "The sky is blue", "one text is the start of the other"),
    ("", "", "equals"),
    ("", "a", "start of the other"),
    ("same", "same", "equals"),
    ("Hi there \n", "Hi there x", "the chosen answer is empty"),
    ("\n\nHuman: Hi\n\nAssistant:", "\n\nHuman: Hi\n\nAssistant: Hello", "the chosen answer is empty"),
    ("\n\nHuman: Hi\n\nAssistant: a", "\n\nHuman: Ho\n\nAssistant: b", "differ before the last answer"),
    ("\n\nHuman: Hi\n\nAssistant: a\n\nHuman: b\n\nAssistant: c", "\n\nHuman: Hi\n\nAssistant: x",
     "differ before the last answer"),
    ("\n\nHuman: Hi\n\nHuman: Ho\n\nAssistant: a", "\n\nHuman: Hi\n\nHuman: Ho\n\nAssistant: b", "repeats a role"),
    ("\n\nHuman: Hi\n\nAssistant: a\n\nAssistant: b", "\n\nHuman: Hi\n\nAssistant: c", "repeats a role"),
])
def test_two_texts_without_a_prompt_that_can_be_recognized(chosen, rejected, reason):
    for a, b in ((chosen, rejected), (rejected, chosen)):
        with pytest.raises(UserError, match=reason if a == chosen else reason.replace("chosen", "rejected")):
            split_texts(a, b)


PIECES = st.lists(st.sampled_from(["\n\nHuman:", "\n\nAssistant:", "Q:", "A:", "\n", " ", "\t", "a", "ab", "é",
                                   "e\u0301", "日本", "<|x|>"]), max_size=8).map("".join)


@given(PIECES, PIECES, PIECES)
@settings(max_examples=400, deadline=None)
def test_prompt_and_answer_are_the_original_text(start, a, b):
    try:
        prompt, chosen, rejected = split_texts(start + a, start + b)
    except UserError:
        return
    assert prompt + chosen == start + a and prompt + rejected == start + b
    assert chosen.strip() and rejected.strip()
    for text, answer in ((start + a, chosen), (start + b, rejected)):  # no word is cut
        inside = bool(prompt) and prompt[-1].isalnum() and answer[0].isalnum()
        assert not inside, (prompt, text)


Q, A, B, Q2 = user("Q"), assistant("A"), assistant("B"), user("Q2")


def test_the_prompt_of_two_conversations():
    system = {"role": "system", "content": "S"}
    assert split_conversations([system, Q, A], [system, Q, B]) == ([system, Q], [A], [B])
    assert split_conversations([Q, A, Q2, A], [Q, A, Q2, B]) == ([Q, A, Q2], [A], [B])
    tool = {"role": "tool", "content": "3"}
    assert split_conversations([Q, A, tool, A], [Q, B]) == ([Q], [A, tool, A], [B])
    assert split_conversations([Q, A, tool, A], [Q, A, tool, B]) == ([Q, A, tool], [A], [B])
    assert split_conversations([Q, A, A], [Q, A, B]) == ([Q], [A, A], [A, B])  # a prompt ends before the assistant


@pytest.mark.parametrize("chosen, rejected, reason", [
    ([Q, A], [Q, A, Q2], "the last turn of rejected is not the assistant's, so its answer is empty"),
    ([Q, A], [Q, A, Q2, B], "differ before the last answer"),
    ([Q, A], [Q2, A], "differ before the last answer"),
    ([A], [B], "no turn in common"),
    ([Q, A], [Q, A], "equals"),
])
def test_two_conversations_without_a_common_prompt(chosen, rejected, reason):
    with pytest.raises(UserError, match=reason):
        split_conversations(chosen, rejected)


# Forms.


def test_every_spelling_of_a_pair_is_the_same_row():
    messages = PairRow([Q], "A", "B", id=7)
    for row in ({"prompt": [Q], "chosen": "A", "rejected": "B"}, {"prompt": [Q], "chosen": [A], "rejected": [B]},
                {"prompt": "Q", "chosen": [A], "rejected": [B]}, {"prompt": "Q", "chosen": [A], "rejected": "B"},
                {"prompt": [Q], "chosen": [Q, A], "rejected": [Q, B]}, {"chosen": [Q, A], "rejected": [Q, B]},
                {"prompt": "Q", "chosen": [Q, A], "rejected": [Q, B]},
                {"prompt": None, "chosen": [Q | {"name": None}, A], "rejected": [Q, B]}):
        assert form_of(row) == "paired" and rows_of(row, "paired", 7) == [messages]
    system = {"role": "system", "content": "S"}
    with_system = {"prompt": "Q", "chosen": [system, Q, A], "rejected": [system, Q, B]}
    assert rows_of(with_system, "paired", 7) == [PairRow([system, Q], "A", "B", id=7)]
    full = {"prompt": "p", "chosen": "a", "rejected": "b", "label_probability": 0.75, "weight": 2, "margin": 1.5,
            "id": "x"}
    assert rows_of(full, "paired") == [PairRow("p", "a", "b", 0.75, 2.0, 1.5, "x")]
    assert rows_of({"chosen": "Q: h?\nA: a", "rejected": "Q: h?\nA: b"}, "paired", 1) == [
        PairRow("Q: h?\nA:", " a", " b", id=1)]
    several = rows_of({"prompt": [Q], "chosen": [A, Q2, B], "rejected": [B]}, "paired", 1)
    assert several == [PairRow([Q], [A, Q2, B], "B", id=1)]


def test_the_other_forms():
    assert rows_of({"prompt": "p", "completion": "c", "label": False, "weight": 3}, "unpaired", 2) == [
        UnpairedRow("p", "c", False, weight=3.0, id=2)]
    for label in (1, "true", "1", 1.0):
        [row] = rows_of({"prompt": [Q], "completion": [A], "label": label}, "unpaired", 2)
        assert row == UnpairedRow([Q], "A", True, id=2)
    assert rows_of({"prompt": "", "completion": "c", "label": 1}, "unpaired", 2) == [UnpairedRow("", "c", True, id=2)]
    assert rows_of({"prompt": "p", "completion": "c"}, "sft", 2) == [SftRow("p", "c", id=2)]
    assert rows_of({"prompt": "Q", "completion": [A]}, "sft", 2) == [SftRow([Q], "A", id=2)]
    assert rows_of({"messages": [Q, A]}, "sft", 2) == [SftRow(None, [Q, A], id=2)]
    assert rows_of({"text": "t"}, "sft", 2) == rows_of({"text": "t", "label": 1}, "sft", 2) == [SftRow(None, "t", id=2)]
    for label, name in ((1, 1), ("1", 1), (2.0, 2), ("good", "good"), ("01", "01"), ("1" * 5000, "1" * 5000)):
        assert rows_of({"text": "t", "label": label}, "classify", 2) == [ClassifyRow("t", None, name, id=2)]
    assert rows_of({"messages": [Q], "label": 0}, "classify", 2) == [ClassifyRow([Q], None, 0, id=2)]
    assert rows_of({"text": "t", "text_pair": "u", "label": 0}, "classify", 2) == [ClassifyRow("t", "u", 0, id=2)]


PAIR = {"prompt": "p", "chosen": "a", "rejected": "b"}


def test_rows_of_one_form_serve_kinds_that_they_hold():
    assert rows_of(PAIR, "unpaired", 3) == [UnpairedRow("p", "a", True, id=3), UnpairedRow("p", "b", False, id=3)]
    assert rows_of(PAIR | {"label_probability": 0.9, "weight": 2.0}, "unpaired", 3) == [
        UnpairedRow("p", "a", True, 0.9, 2.0, 3), UnpairedRow("p", "b", False, 0.9, 2.0, 3)]
    assert rows_of(PAIR, "sft", 3) == [SftRow("p", "a", id=3)]
    assert rows_of(PAIR | {"label_probability": 0.5}, "sft", 3) == [SftRow("p", "a", id=3)]
    assert rows_of(PAIR | {"label_probability": 0.4, "weight": 2.0}, "sft", 3) == [SftRow("p", "b", 2.0, 3)]
    scored = {"prompt": "p", "completions": ["a", "b", "c"], "scores": [1, 3, 2], "id": "s"}
    assert rows_of(scored, "paired") == [PairRow("p", "b", "a", id="s/1-0"), PairRow("p", "c", "a", id="s/2-0"),
                                         PairRow("p", "b", "c", id="s/1-2")]
    assert rows_of(scored, "paired", pairing="best_worst") == [PairRow("p", "b", "a", id="s/1-0")]
    ranked = {"prompt": "p", "completions": ["a", "b"], "ranks": [2, 1]}
    assert rows_of(ranked, "paired", 4) == [PairRow("p", "b", "a", id="4/1-0")]


@pytest.mark.parametrize("row, kind, reason", [
    (PAIR | {"rejected": "a"}, "paired", "chosen equals rejected"),
    (PAIR | {"rejected": " a\n"}, "paired", "chosen equals rejected"),
    (PAIR | {"chosen": " "}, "paired", "the chosen answer is empty"),
    (PAIR | {"rejected": ""}, "paired", "the rejected answer is empty"),
    (PAIR | {"prompt": " "}, "paired", "the prompt is empty"),
    (PAIR | {"prompt": [user(" ")]}, "paired", "the prompt is empty"),
    (PAIR | {"prompt": [Q, A]}, "paired", "the prompt ends with the assistant's turn"),
    (PAIR | {"prompt": []}, "paired", "field 'prompt' must be a list of messages, and not empty"),
    (PAIR | {"prompt": 3}, "paired", "field 'prompt' must be a text or a list of messages"),
    ({"prompt": "p", "chosen": "a"}, "paired", "field 'rejected' is missing"),
    ({"chosen": "a b", "rejected": [Q, A]}, "paired", "one of chosen and rejected is a text"),
    (PAIR | {"prompt": [Q2], "chosen": [Q, A]}, "paired", "chosen must start (after the prompt) and end with"),
    ({"prompt": "other", "chosen": [Q, A], "rejected": [Q, B]}, "paired", "have another prompt than 'prompt'"),
    (PAIR | {"prompt": [{"role": "human", "content": "x"}]}, "paired", "the role of message 1 must be one of system"),
    (PAIR | {"prompt": [{"role": "user", "content": ["x"]}]}, "paired", "message 1 must be an object with the texts"),
    (PAIR | {"prompt": [Q | {"tool_calls": []}]}, "paired", "message 1 has the unknown field 'tool_calls'"),
    (PAIR | {"label_probability": 1.2}, "paired", "label_probability must be between 0 and 1"),
    (PAIR | {"weight": 0}, "paired", "weight must be above 0"),
    (PAIR | {"margin": "wide"}, "paired", "margin must be a finite number"),
    (PAIR | {"weight": True}, "paired", "weight must be a finite number"),
    (PAIR | {"weight": 10**400}, "paired", "weight must be a finite number"),
    ({"prompt": "p", "completion": "c", "label": True}, "paired", "a row of the form {prompt, completion, label}, "
     "where {prompt, chosen, rejected} or {chosen, rejected} or {prompt, completions, scores}"),
    ({"prompt": "p", "completion": "c"}, "unpaired", "a row of the form {prompt, completion}, {messages} or {text}"),
    ({"prompt": "p", "completion": "c"}, "paired", "a row of the form {prompt, completion}, {messages} or {text}"),
    ({"prompt": "p", "completion": "c", "label": True}, "sft", "a row of the form {prompt, completion, label}"),
    ({"text": "t", "label": 1}, "paired", "a row of the form {text, label}"),
    (PAIR, "classify", "where {text, label} is needed"),
    ({"prompt": "p", "completion": "c", "label": "good"}, "unpaired", "label must be true or false"),
    ({"prompt": "p", "completion": "c", "label": 2}, "unpaired", "label must be true or false"),
    ({"prompt": "p", "completion": "c", "label": 0.5}, "unpaired", "label must be true or false"),
    ({"prompt": "p", "completion": " ", "label": True}, "unpaired", "the completion is empty"),
    ({"completion": "c", "label": True}, "unpaired", "field 'prompt' is missing"),
    ({"prompt": "", "completion": " ", "label": True}, "unpaired", "the completion is empty"),
    ({"text": "t", "label": True}, "classify", "label must be a whole number from 0 or the name of a class"),
    ({"text": "t", "label": -1}, "classify", "label must be a whole number from 0 or the name of a class"),
    ({"text": "t", "label": 0.5}, "classify", "label must be a whole number from 0 or the name of a class"),
    ({"text": "t", "label": float("inf")}, "classify", "label must be a whole number from 0 or the name of a class"),
    ({"text": "t", "label": " "}, "classify", "label must be a whole number from 0 or the name of a class"),
    ({"text": " ", "label": 1}, "classify", "text is empty"),
    ({"text": ""}, "sft", "text is empty"),
    ({"messages": [Q]}, "sft", "messages have no turn of the assistant with text"),
    ({"prompt": "p", "completions": ["a"], "scores": [1]}, "paired", "two or more are needed"),
    ({"prompt": "p", "completions": ["a", "b"], "scores": [1]}, "paired", "2 completions and 1 scores"),
    ({"prompt": "p", "completions": ["a", "b"], "scores": [1, 1]}, "paired", "no two answers have different scores"),
    ({"prompt": "p", "completions": ["a", "b"], "ranks": [None, 1]}, "paired", "no two answers have different ranks"),
    ({"prompt": "p", "completions": ["a", "b"], "scores": [True, 1]}, "paired", "score must be a finite number"),
    ({"prompt": "p", "completions": ["a", "b"], "scores": ["good", 1]}, "paired", "score must be a finite number"),
    ({"question": "x"}, "paired", "the columns (question) fit none of"),
    ({}, "paired", "the columns (none) fit none of"),
])
def test_rows_that_cannot_be_used(row, kind, reason):
    with pytest.raises(UserError) as error:
        rows_of(row, kind)
    assert reason in error.value.what


# Conversions.


def test_scores_are_compared_and_never_rescaled():
    row = {"prompt": "p", "completions": ["a", "b", "c", "d"], "scores": [5, 5, 3, None], "id": 1}
    pairs, rest = pairs_from_scores(row)
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("a", "c"), ("b", "c")]
    assert rest["completions"] == ["d"] and rest["scores"] == [None]
    [pair], _ = pairs_from_scores({"prompt": "p", "completions": ["a", "b"], "scores": [1, 7]})
    assert (pair["chosen"], pair["chosen_score"], pair["rejected_score"]) == ("b", 7, 1)
    [pair], _ = pairs_from_scores({"prompt": "p", "completions": ["a", "b"], "scores": ["10", "9"]})
    assert pair["chosen"] == "a"  # as numbers; as texts "10" < "9"


def test_best_against_worst_does_not_depend_on_the_order():
    row = {"prompt": "p", "completions": ["c", "a", "b", "d"], "scores": [5, 5, 3, 3]}
    turned = {"prompt": "p", "completions": ["d", "b", "a", "c"], "scores": [3, 3, 5, 5]}
    for given_row in (row, turned):
        [pair], rest = pairs_from_scores(given_row, "best_worst")
        assert (pair["chosen"], pair["rejected"]) == ("a", "b") and sorted(rest["completions"]) == ["c", "d"]
    assert pairs_from_scores({"prompt": "p", "completions": ["a", "b"], "scores": [None, None]}, "best_worst")[0] == []


SCORES = st.lists(st.one_of(st.none(), st.integers(-3, 3), st.floats(-5, 5)), min_size=2, max_size=6)


@given(SCORES, st.sampled_from(["all", "best_worst"]))
@settings(max_examples=200, deadline=None)
def test_scored_and_ranked_rows_come_back_with_ties_and_nulls(values, pairing):
    row = {"prompt": [Q], "completions": [f"a{i % 4}" for i in range(len(values))], "id": 3, "source": "s"}
    pairs, rest = pairs_from_scores(row | {"scores": values}, pairing)
    assert scores_from_pairs(pairs, rest) == row | {"scores": values}
    assert all(pair["chosen_score"] > pair["rejected_score"] for pair in pairs)
    ranked, left = pairs_from_ranks(row | {"ranks": values}, pairing)
    assert ranks_from_pairs(ranked, left) == row | {"ranks": values}
    assert all(pair["chosen_rank"] < pair["rejected_rank"] for pair in ranked)
    if pairing == "all":
        numbers = [value for value in values if value is not None]
        assert len(pairs) == len(ranked) == sum(a != b for i, a in enumerate(numbers) for b in numbers[:i])


ROWS = st.lists(st.fixed_dictionaries(
    {"prompt": st.sampled_from(["p", "q", [Q]]), "chosen": st.sampled_from("ab"), "rejected": st.sampled_from("bc")},
    optional={"weight": st.just(2.0)}), max_size=6)


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_pairs_come_back_from_unpaired_rows(rows):
    unpaired = unpaired_from_pairs(rows)
    assert [row["label"] for row in unpaired] == [True, False] * len(rows)
    assert pairs_from_unpaired(unpaired) == (rows, [])


def test_unpaired_rows_of_one_prompt_make_pairs():
    label = lambda prompt, text, wanted, **more: {"prompt": prompt, "completion": text, "label": wanted, **more}
    rows = [label("p", "a", True), label("p", "b", False), label("q", "c", True), label("p", "d", False)]
    pairs, rest = pairs_from_unpaired(rows)
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [("a", "b"), ("a", "d")] and rest == [rows[2]]
    [pair], _ = pairs_from_unpaired([label("p", "a", True, rater=1, n=2), label("p", "b", False, rater=3, n=2)])
    assert pair == {"prompt": "p", "chosen": "a", "rejected": "b", "chosen_rater": 1, "rejected_rater": 3, "n": 2}


def test_a_pair_as_scored_row():
    assert scores_from_pairs([PAIR]) == {"prompt": "p", "completions": ["a", "b"], "scores": [1.0, 0.0]}
    assert ranks_from_pairs([PAIR]) == {"prompt": "p", "completions": ["a", "b"], "ranks": [1, 2]}
    [pair], rest = pairs_from_scores(scores_from_pairs([PAIR]))
    assert pair.items() >= PAIR.items() and not rest["completions"]
    with pytest.raises(UserError, match="no common order"):
        scores_from_pairs([PAIR, PAIR])


# Files.


def test_a_file_has_its_rejected_lines_and_reasons(tmp_path):
    path = write(tmp_path / "rows.jsonl", [PAIR, PAIR | {"rejected": "a"}, {"prompt": "p", "completion": "c"}, PAIR])
    read = preference_rows(path, "paired", limit_bad=0.5, rejected_path=tmp_path / "rejected.jsonl")
    assert [row.id for row in read.rows] == read.lines == [1, 4] and read.forms == {"paired": 2}
    listed = [json.loads(line) for line in (tmp_path / "rejected.jsonl").read_text().splitlines()]
    assert [(row["line"], row["reason"][:22]) for row in listed] == [(2, "chosen equals rejected"),
                                                                   (3, "a row of the form {pro")]
    with pytest.raises(UserError, match="2 of 4 rows cannot be used"):
        preference_rows(path, "paired")
    assert preference_rows(path, "paired", limit=1).lines == [1]
    unpaired = write(tmp_path / "unpaired.jsonl", [{"prompt": "p", "completion": "c", "label": True}])
    with pytest.raises(UserError, match="{prompt, chosen, rejected}"):
        preference_rows(unpaired, "paired")
    with pytest.raises(UserError, match="there are no rows"):
        preference_rows(write(tmp_path / "none.jsonl", []), "paired")


def test_ties_and_missing_scores_are_counted(tmp_path):
    scored = lambda *scores: {"prompt": "p", "completions": [f"a{i}" for i in range(len(scores))], "scores": scores}
    path = write(tmp_path / "rows.jsonl", [scored(5, 5, 3, None), scored(1, 7), scored(2, 2)])
    read = read_forms(path)
    assert (read.kind, read.forms, read.ties, read.unscored, read.lines) == ("paired", {"scored": 2}, 1, 1, [1, 1, 2])
    assert [rejected.line for rejected in read.rejected] == [3]


def test_cells_of_a_csv_file(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion,label,weight\np,c,true,2\nq,d,FALSE,\n')
    assert preference_rows(path, "unpaired").rows == [UnpairedRow("p", "c", True, weight=2.0, id=1 + 1),
                                                      UnpairedRow("q", "d", False, id=3)]
    path.write_text('text,label\ngood film,1\n"bad, film",0\n')
    assert [row.label for row in preference_rows(path, "classify").rows] == [1, 0]
    path.write_text('prompt,completions,scores\np,"[""a"", ""b""]","[1, 2.5]"\n')
    assert preference_rows(path, "paired").rows == [PairRow("p", "b", "a", id="2/1-0")]
    messages = json.dumps([Q, A]).replace('"', '""')
    path.write_text(f'messages\n"{messages}"\n')
    assert preference_rows(path, "sft").rows == [SftRow(None, [Q, A], id=2)]


def test_the_kind_of_a_file_is_that_of_most_lines(tmp_path):
    path = write(tmp_path / "rows.jsonl", [{"text": "t"}, PAIR, {"chosen": "x y", "rejected": "x z"}])
    read = read_forms(path)
    assert read.kind == "paired" and read.lines == [2, 3] and [row.line for row in read.rejected] == [1]


# Splits.


def test_no_prompt_is_on_both_sides():
    rows = [PairRow(f"  Prompt {i // 2}\n" if i % 2 else f"prompt {i // 2}", "a", "b") for i in range(40)]
    rows += [UnpairedRow([user("PROMPT 3")], "c", True), SftRow(None, "prompt 3"), PairRow("Caf\u00e9", "a", "b"),
             PairRow("cafe\u0301", "b", "a")]
    train, held = split_by_prompt(rows, 0.25, seed=1)
    prompts = lambda side: {normalized(rows[i].prompt or rows[i].completion) for i in side}
    assert sorted([*train, *held]) == list(range(len(rows))) and not prompts(train) & prompts(held)
    assert 11 <= len(held) <= 15
    assert split_by_prompt(rows, 0.25, seed=1) == (train, held) != split_by_prompt(rows, 0.25, seed=2)
    larger = split_by_prompt(rows, 0.5, seed=1)[1]
    assert set(held) < set(larger)
    turned = split_by_prompt(rows[::-1], 0.25, seed=1)[1]  # the order of the file does not matter
    assert prompts(held) == {normalized(rows[::-1][i].prompt or rows[::-1][i].completion) for i in turned}


def test_small_and_extreme_splits():
    rows = [PairRow(f"p{i}", "a", "b") for i in range(3)]
    assert [len(side) for side in split_by_prompt(rows, 0.01)] == [2, 1]
    assert [len(side) for side in split_by_prompt(rows, 0.99)] == [1, 2]
    assert split_by_prompt(rows, 0.0) == ([0, 1, 2], [])
    assert split_by_prompt(rows[:1], 0.5) == ([0], [])
    alone = [PairRow("", f"a{i}", "b") for i in range(8)]  # rows without a prompt are not all on one side
    assert [len(side) for side in split_by_prompt(alone, 0.5)] == [4, 4]
    for share in (1.0, -0.1):
        with pytest.raises(ValueError, match="share"):
            split_by_prompt(rows, share)


# Real rows. Their texts are never shown.


def test_transcripts_of_real_rows_have_the_prompts_of_their_turns(shared):
    marks = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: "}
    for line in (shared / "preferences" / "hh_harmless.jsonl").open():
        row = json.loads(line)
        start = "".join(marks[turn["role"]] + turn["content"] for turn in row["prompt"]) + "\n\nAssistant:"
        try:
            got = split_pair({side: f"{start} {row[side]}" for side in ("chosen", "rejected")})
        except UserError as error:
            pytest.fail(f"row {row['id']}: {error.what}", pytrace=False)
        assert got == (start, f" {row['chosen']}", f" {row['rejected']}") or pytest.fail(f"row {row['id']}", False)


def test_defective_real_rows_are_rejected_with_their_defect(shared):
    reasons = {"role_repeat": ["repeats a role"], "empty_chosen": ["the chosen answer is empty"],
               "prompt_mismatch": ["differ before", "repeats a role"]}  # a rejected side may repeat a role too
    for line in (shared / "preferences" / "hh_raw_edge_cases.jsonl").open():
        row = json.loads(line)
        with pytest.raises(UserError) as error:
            split_pair(row)
        if not any(reason in error.value.what for defect in row["defects"] for reason in reasons[defect]):
            pytest.fail(f"row {row['index']}: {error.value.what}", pytrace=False)


@given(st.text(st.one_of(st.characters(), st.sampled_from(" \n\u2003\u0301\u0344\u0130")), max_size=12))
def test_a_normalized_text_has_as_many_words(text):
    assert len(normalized(text).split()) == len(text.split())
