"""Pairs that others write: how replies are read, and which pairs are left out."""

import json
import types

import pytest

from jaxllm.config import DataConfig
from jaxllm.errors import UserError
from jaxllm.files import read_jsonl
from jaxllm.judge import FunctionJudge, JudgeConfig, Prompt
from jaxllm.model import load
from jaxllm.self_param.asking import INSTRUCTION, judge_source, read_pairs
from jaxllm.self_param.config import Config
from jaxllm.self_param.documents import Document
from jaxllm.self_param.pairs import training_pairs
from jaxllm.self_param.questions import QuestionConfig, collect, usable

REPLY = """Sure:
1. Question: Who built it? Answer: two brothers
- Question: When?  Answer:  in 1871 Question: What else? Answer: nothing

Question: On two lines?
Answer: yes, here
Question: Without an answer? Answer:
Question: and no more"""


def test_replies_are_read_line_by_line():
    """Numbers and bullets of the next item do not stick to an answer; pairs without an answer are none."""
    assert read_pairs(REPLY) == [("Who built it?", "two brothers"), ("When?", "in 1871"), ("What else?", "nothing"),
                                 ("On two lines?", "yes, here")]
    assert read_pairs("") == [] and read_pairs("Answer: x\nQuestion:") == []
    example = INSTRUCTION.partition("this would be\n")[2].partition("\nThe text is")[0]
    assert len(read_pairs(example)) == 3


def test_what_is_left_out():
    text = "The lighthouse was built in 1871, by two brothers."
    grounded = QuestionConfig(grounded=True, min_answer=2)
    assert usable(text, "Two brothers.", grounded) and usable(text, "1871", grounded)
    assert not usable(text, "three brothers", grounded) and not usable(text, "?", grounded)
    assert usable(text, "three brothers", QuestionConfig()) and not usable(text, "...", QuestionConfig())
    source = lambda texts: [[("Q?", "1871"), ("q", "1871"), ("Who?", "nobody")] for _ in texts]
    assert collect(source, [text], grounded) == [[("Q?", "1871")]]
    with pytest.raises(UserError, match="no question-answer pairs for 1 of 1"):
        collect(lambda texts: [[("Who?", "nobody")]], [text], grounded)


def test_a_judge_is_asked_in_several_replies():
    asked = []

    def answer(prompt, sampling, seed):
        asked.append((prompt.content[0]["content"], sampling.n, seed))
        return [f"Question: {i}? Answer: {i}" for i in range(sampling.n)]

    told = []
    source = judge_source(FunctionJudge(answer), QuestionConfig(per_document=20), 5, told.append)
    assert source(["one", "two"]) == [[("0?", "0"), ("1?", "1"), ("2?", "2")]] * 2
    assert [text.removeprefix(INSTRUCTION) for text, *_ in asked] == ["one", "two"] and told == [1, 2]
    assert asked[0][1:] == (3, 5)


def test_the_job_takes_a_judge(tmp_path):
    """Recorded replies by the hash of what is asked; left out is what is not in the document or does not fit."""
    text = "The ship Rinla sails from Torla."
    replies = tmp_path / "replies.jsonl"
    prompt = Prompt([{"role": "user", "content": INSTRUCTION + text}])
    reply = "Question: Where does it sail from? Answer: Torla\nQuestion: Who sails? Answer: Bob\n"
    reply += f"Question: {'long ' * 600}? Answer: Torla"
    replies.write_text(json.dumps({"prompt_sha256": prompt.sha256, "texts": [reply]}) + "\n")
    questions = QuestionConfig("judge", JudgeConfig("recorded", path=str(replies)), per_document=4, grounded=True)
    config = Config(DataConfig("x"), tmp_path, questions=questions)
    job = types.SimpleNamespace(directory=tmp_path, resumed=False)
    assert training_pairs(config, job, load("tiny"), [Document(text, ())], None) == [
        [[("Where does it sail from?", "Torla")]]]
    assert read_jsonl(tmp_path / "pairs.jsonl")[0]["pairs"] == [
        {"question": "Where does it sail from?", "answer": "Torla"}]
