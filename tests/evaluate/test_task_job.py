"""`jaxllm evaluate`: exact match, pass@k and question answering."""

import json

import pytest

from jaxllm.cli import main
from jaxllm.errors import UserError
from jaxllm.evaluate.task_job import Config, score, summarize
from jaxllm.parsing import parse


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_arithmetic_of_the_packaged_model(tmp_path):
    """It adds numbers, and ends its answers by a line break; one row has no number and is rejected."""
    rows = [{"id": i, "question": f"What is {a} + {b}?", "answer": f"#### {a + b}"} for i, (a, b) in enumerate(
        [(37, 5), (12, 4), (60, 3), (81, 7), (5, 2)])]
    data = write(tmp_path / "rows.jsonl", [*rows, {"question": "What?", "answer": "none"}])
    out = tmp_path / "run"
    assert main(["evaluate", f"--data.path={data}", f"--out={out}", "--template=Question: {question} Answer:",
                 "--sampling.max_tokens=8", "--sampling.n=4", "--sampling.temperature=0.7", "--k=[1, 2, 4]",
                 "--sampling.stop=[\"\\n\"]", "--data.limit_bad=0.5", "--format=plain"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["rows"] == 5 and result["rejected"] == 1 and result["samples"] == 4
    found = {k: value["mean"] for k, value in result["pass_at_k"].items()}
    assert 0.4 < found["1"] <= found["2"] <= found["4"]
    assert result["exact_match"]["mean"] == pytest.approx(found["1"])
    assert result["exact_match_strict"]["mean"] == 0
    assert result["finished"]["stop"] > 15 and result["finished"]["stop"] + result["finished"]["length"] == 20
    lines = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [0, 1, 2, 3, 4]
    assert "pass@4" in (out / "report.html").read_text()


def test_questions_on_the_packaged_documents(tmp_path):
    data = write(tmp_path / "rows.jsonl", [{
        "context": "The ship Rinla sails from Torla. Its captain is Mavo.", "question": question, "answers": answers}
        for question, answers in (("Who is the captain of the ship Rinla?", ["Mavo"]),
                                  ("Where does the ship Rinla sail from?", ["Torla", "the town Torla"]))])
    out = tmp_path / "run"
    assert main(["evaluate", "--task=qa", f"--data.path={data}", f"--out={out}", "--format=plain",
                 "--sampling.max_tokens=8"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["f1"]["mean"] == 1.0 and result["accuracy"]["mean"] == 1.0 and result["empty"] == 0


def test_scores_of_written_answers():
    row = {"answer": "4 + 5 = 9\n#### 9"}
    assert score("gsm8k", "The answer is 9.", row) == {"right": True, "strict": False}
    assert not score("gsm8k", "<think>It is 9", row)["right"] and score("gsm8k", "3\n</think>\n9", row)["right"]
    guess = "<think>Is it Paris or Rome? Rome I guess</think> Rome"
    assert score("qa", guess, {"answers": ["Paris"]}) == {"f1": 0.0, "accuracy": 0.0, "right": False}
    assert score("qa", guess, {"answers": ["Rome"]})["right"]
    assert score("gsm8k", "#### 9 and then 10", row) == {"right": False, "strict": True}
    made = lambda *rights: {"answers": [{"right": right, "strict": False, "finish_reason": "stop", "tokens": 3,
                                         "text": "x"} for right in rights]}
    config = parse(Config, ["--data.path=x", "--out=y", "--sampling.n=4", "--sampling.temperature=1.0", "--k=[2]"])
    result = summarize(config, [made(True, True, True, True), made(False, False, False, False)])
    assert result["pass_at_k"]["2"]["mean"] == 0.5, "a mean over problems, not over pooled samples"


@pytest.mark.parametrize(("arguments", "message"), [
    (["--k=[5]", "--sampling.n=4", "--sampling.temperature=1.0"], "pass@k is known"),
    (["--template=fixed"], "template")])
def test_settings_that_do_not_fit(arguments, message):
    with pytest.raises(UserError, match=message):
        parse(Config, ["--data.path=x", "--out=y", *arguments])


@pytest.mark.slow
def test_gsm8k_end_to_end(shared, tmp_path):
    """The packaged model knows nothing of such problems: the path works, and the rows are complete."""
    out = tmp_path / "run"
    assert main(["evaluate", f"--data.path={shared / 'gsm8k' / 'test.jsonl'}", f"--out={out}", "--data.limit=8",
                 "--sampling.max_tokens=32", "--template={question}\nAnswer:", "--format=plain"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["rows"] == 8 and result["exact_match"]["mean"] <= 0.5
