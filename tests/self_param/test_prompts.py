"""Prompts in a chat template: the ids of whole conversations, and targets aligned at their ends."""

import numpy as np
import pytest

from jaxllm import load
from jaxllm.errors import UserError
from jaxllm.generate import Completion
from jaxllm.model import Model
from jaxllm.self_param.evaluation import reading_problem
from jaxllm.self_param.prompts import FormatConfig, Prompts
from tests.letters import Letters

PASSAGE = "The ship Rinla sails from Torla."
CHAT = FormatConfig(mode="chat")


@pytest.fixture(scope="module")
def model():
    return load("tiny")


def conversation(model, text, answer=None):
    messages = [{"role": "user", "content": text}]
    return model.tokenizer.chat(messages if answer is None else [*messages, {"role": "assistant", "content": answer}],
                                answer is None)


def test_auto_takes_the_template_where_there_is_one(model, llama):
    assert Prompts(model, FormatConfig()).format == Prompts(model, CHAT).format
    letters = Model(*llama, Letters())
    plain = Prompts(letters, FormatConfig(question="Q {question}")).format
    assert (plain.chat, plain.question, plain.context) == (False, "Q {question}", "{context}\n")
    with pytest.raises(UserError, match="format.mode: is chat, and the model has no chat template"):
        Prompts(letters, CHAT)


def test_questions_are_conversations(model):
    prompts = Prompts(model, CHAT, examples="An example.\n\n")
    assert prompts.question("Who sails?") == conversation(model, "Who sails?")
    assert prompts.question("Who sails?", PASSAGE) == conversation(model, f"{PASSAGE}\n\nWho sails?")
    assert prompts.question("Who?", PASSAGE, True) == conversation(model, f"An example.\n\n{PASSAGE}\n\nWho?")
    about = conversation(model, f"An example.\n\n{PASSAGE}\n\nAsk one short question that the text above answers. "
                                "Write only the question.")
    assert prompts.question_request(PASSAGE) == about
    assert prompts.question_request(PASSAGE, "pine") == conversation(
        model, f'An example.\n\n{PASSAGE}\n\nAsk one short question about the text above that has the answer "pine". '
               "Write only the question.")
    assert list(prompts.prefix) == conversation(model, "Z")[:len(prompts.prefix)] and len(prompts.prefix) == 2


def test_targets_are_aligned_conversations(model):
    prompts = Prompts(model, CHAT)
    target = prompts.target("Who sails?", "Bob", PASSAGE)
    assert list(target.student) == conversation(model, "Who sails?", "Bob")
    assert list(target.teacher) == conversation(model, f"{PASSAGE}\n\nWho sails?", "Bob")
    assert target.student[-1] == model.tokenizer.eos_id
    assert target.prompt_tokens == len(conversation(model, "Who sails?"))
    # Every token with a loss is predicted by a state of the teacher that predicts the same token.
    first = target.masked_tokens
    assert first == len(prompts.prefix) and target.offset == len(target.teacher) - len(target.student)
    assert target.student[first:] == target.teacher[first + target.offset:]
    assert prompts.target("Who sails?", "Bob", PASSAGE, mask_prompt=True).masked_tokens == target.prompt_tokens
    alone = prompts.target("Who sails?", "Bob")
    assert alone.student == alone.teacher == target.student and alone.offset == 0
    ids, question_tokens = prompts.pair("Who sails?", "Bob")
    assert [*prompts.prefix, *ids] == list(target.student)
    assert question_tokens == target.prompt_tokens - len(prompts.prefix)
    assert len(target.student) == target.prompt_tokens + len(model.tokenizer.encode(" Bob")) + prompts.answer_end_tokens


def test_a_border_token_that_differs_has_no_loss(model, monkeypatch):
    """Where tokens of the template merge with the first word, the views agree only after it."""
    prompts = Prompts(model, CHAT)
    plain = type(prompts)._conversation

    def merged(self, question, answer, passage):
        ids = plain(self, question, answer, passage)
        if passage is None:
            ids[len(self.prefix)] = 7
        return ids

    monkeypatch.setattr(type(prompts), "_conversation", merged)
    target = prompts.target("Who sails?", "Bob", PASSAGE)
    assert target.masked_tokens == len(prompts.prefix) + 1
    assert target.student[target.masked_tokens:] == target.teacher[target.masked_tokens + target.offset:]


@pytest.mark.parametrize("text", ["Who sails?", "1. Who sails?", "Question: Who sails?", "**Question 2:** Who sails?",
                                  "- Who sails? "])
def test_labels_of_generated_questions(model, text):
    assert Prompts(model, CHAT).question_of(text) == "Who sails?"


def completion(text, reason="stop"):
    return Completion(text, [5], -1.0, reason, np.array([-1.0], np.float32))


def test_open_book_answers_of_no_use_are_reported(model):
    plain, chat = (Prompts(model, FormatConfig(mode=mode)) for mode in ("plain", "chat"))
    good = [completion("Torla")] * 4
    assert reading_problem(chat, good, 0.4) is None
    assert "set format.mode to chat" in reading_problem(plain, [completion("")] * 4, 0.0)
    assert "75% of its answers are empty" in reading_problem(chat, [completion("")] * 3 + good[:1], 0.25)
    cut = reading_problem(chat, [completion("It is a long", "length")] * 3 + good[:1], 0.3)
    assert "75% are cut at sampling.max_tokens: raise sampling.max_tokens" in cut
    assert "token F1 of 0.010" in reading_problem(chat, good, 0.01)
