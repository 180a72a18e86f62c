"""Jobs of `jaxllm compare`: judges of every kind, symmetry of the sides, resume, and input that is refused."""

import json

import pytest

from jaxllm.cli import main
from jaxllm.errors import UserError
from jaxllm.evaluate.comparison.job import Config
from jaxllm.files import read_jsonl
from jaxllm.judge import FunctionJudge, RewardJudge
from jaxllm.model import load
from jaxllm.models import LoraConfig
from jaxllm.models.peft import save_adapter
from jaxllm.parsing import parse
from tests.networks import random_adapter
from tests.reward_models import save_language_model

# ---- judges of the tests ---------------------------------------------------------------------------------------


def parts(prompt):
    """The quoted answers in a prompt for the judge, or in the first turn of a retry."""
    _, rest = prompt.messages[0]["content"].split("\nResponse A:\n")
    first, rest = rest.split("\n\nResponse B:\n")
    return first, rest.split("\n\n")[0]


def longer(prompt, sampling, seed):
    first, second = map(len, parts(prompt))
    return ["[[tie]]" if first == second else "[[A]]" if first > second else "[[B]]"]


def position_biased(prompt, sampling, seed):
    return ["The first one is better.\n[[A]]"]


def unusable(prompt, sampling, seed):
    return ["I cannot compare them."]


def rates_the_first_higher(prompt, sampling, seed):
    """Two more for the first one, and one more for the longer one."""
    first, second = map(len, parts(prompt))
    return [f"{5 + (first > second)} {3 + (second > first)}\n10 10"]


def sometimes_unusable(prompt, sampling, seed):
    return ["no idea" if "cherry" in parts(prompt)[0] else longer(prompt, sampling, seed)[0]]


by_choice = FunctionJudge(choose=lambda prompt, options: {
    "A": 0.5 if len(parts(prompt)[0]) > len(parts(prompt)[1]) else 0.2, "B": 0.3, "tie": 0.1})

def leaning(prompt, options):
    """0.6 to 0.7 for the first answer."""
    first, second = map(len, parts(prompt))
    share = 0.6 + 0.1 * (first > second) + 0.05 * (first == second)
    return {"A": share, "B": 0.9 - share, "tie": 0.1}


leans_to_the_first = FunctionJudge(choose=leaning)

PROMPTS = [{"id": "one", "prompt": "Name a fruit."}, {"id": "two", "prompt": "Name a colour."},
           {"id": "three", "messages": [{"role": "user", "content": "Name a fruit, please."}]},
           {"id": "four", "prompt": "Name a tree."}]
ANSWERS = {"a": ["an apple", "a red one", "cherry <script>alert(1)</script>", "oak"], "b": ["fig", "blue", "x", "oak"]}


@pytest.fixture
def files(tmp_path):
    """Prompts and answers of both sides by id: A's are longer in three, the last ones are equal."""
    write(tmp_path / "prompts.jsonl", PROMPTS)
    for side, answers in ANSWERS.items():
        write(tmp_path / f"{side}.jsonl", [{"id": row["id"], "completion": answer}
                                           for row, answer in zip(PROMPTS, answers, strict=True)])
    return tmp_path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def compare(folder, name, judge, *more, a="a.jsonl", b="b.jsonl"):
    arguments = ["compare", "--data.path", str(folder / "prompts.jsonl"), "--out", str(folder / name), *more]
    arguments += [] if "--model_a" in more else ["--answers_a", str(folder / a)]
    arguments += [] if "--model_b" in more else ["--answers_b", str(folder / b)]
    if judge is not None:
        arguments += ["--judge.kind", "callable", "--judge.path", f"{__name__}:{judge}"]
    return main(arguments)


def result_of(folder, name="out"):
    return json.loads((folder / name / "result.json").read_text())


# ---- jobs ------------------------------------------------------------------------------------------------------


def test_a_function_judge(files):
    assert compare(files, "out", "longer") == 0
    result, rows = result_of(files), read_jsonl(files / "out" / "rows.jsonl")
    assert result["outcomes"] == {"win": 3, "tie": 1, "loss": 0, "none": 0} and result["schema_version"] == 1
    assert (result["win"]["mean"], result["win_tie"]["mean"], result["net_win"]["mean"]) == (0.75, 1.0, 0.75)
    assert result["win_rate"]["mean"] == 0.875 and result["sign_test_p"] == pytest.approx(2 / 8)
    assert result["position_consistency"]["mean"] == 1.0 and result["invalid_verdicts"]["mean"] == 0.0
    assert result["first_wins"]["mean"] == 0.5 and result["identical_answers"] == 1
    assert result["words_a"]["mean"] == 2.0 and result["words_b"]["mean"] == 1.0
    assert [row["outcome"] for row in rows] == ["win", "win", "win", "tie"]
    assert rows[2]["verdicts"] == {"ab": "a", "ba": "a"} and rows[2]["prompt"] == PROMPTS[2]["messages"]
    page = (files / "out" / "report.html").read_text()
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "A wins" in (files / "out" / "report.md").read_text()


def test_swapped_sides_of_a_job(files):
    assert compare(files, "one", "longer") == compare(files, "other", "longer", a="b.jsonl", b="a.jsonl") == 0
    one, other = result_of(files, "one"), result_of(files, "other")
    assert one["win"] == other["loss"] and one["loss"] == other["win"] and one["tie"] == other["tie"]
    assert one["words_a"] == other["words_b"] and one["sign_test_p"] == other["sign_test_p"]


def test_a_position_biased_judge_gives_no_win(files):
    assert compare(files, "out", "position_biased") == 0
    result = result_of(files)
    assert result["outcomes"] == {"win": 0, "tie": 4, "loss": 0, "none": 0}
    assert result["position_consistency"]["mean"] == 0.0 and result["first_wins"]["mean"] == 1.0
    assert compare(files, "none", "position_biased", "--verdict.disagreement", "leave_out") == 0
    assert result_of(files, "none")["outcomes"]["none"] == 4


def test_invalid_verdicts_are_no_ties(files, capsys):
    assert compare(files, "out", "sometimes_unusable") == 0
    result, rows = result_of(files), read_jsonl(files / "out" / "rows.jsonl")
    assert result["outcomes"] == {"win": 2, "tie": 1, "loss": 0, "none": 1} and result["win"]["n"] == 3
    assert result["invalid_verdicts"]["mean"] == 1 / 8 and result["position_consistency"]["n"] == 3
    assert rows[2]["outcome"] is None and rows[2]["verdicts"] == {"ab": None, "ba": "a"}
    assert compare(files, "none", "unusable") == 0
    result = result_of(files, "none")
    assert result["invalid_verdicts"]["mean"] == 1.0 and result["outcomes"]["none"] == 4
    assert result["win"] is result["length_controlled_win_rate"] is result["position_consistency"] is None
    assert "none of 4 prompts has an outcome" in capsys.readouterr().err


def test_a_choosing_judge(files):
    assert compare(files, "out", "by_choice", "--verdict.form", "choice") == 0
    result, rows = result_of(files), read_jsonl(files / "out" / "verdicts.jsonl")
    assert result["outcomes"] == {"win": 3, "tie": 1, "loss": 0, "none": 0}
    assert [(row["order"], row["verdict"]) for row in rows[:2]] == [("ab", "a"), ("ba", "a")]
    assert rows[0]["probabilities"] == {"A": pytest.approx(0.5 / 0.9), "B": pytest.approx(0.3 / 0.9),
                                        "tie": pytest.approx(0.1 / 0.9)} and rows[0]["mass"] == pytest.approx(0.9)


def test_probabilities_are_averaged_over_both_orders(files):
    """A judge that prefers the first answer, and the longer one a little: by the mean, the longer one wins."""
    form = ("leans_to_the_first", "--verdict.form", "choice")
    assert compare(files, "strict", *form) == compare(files, "mean", *form, "--verdict.disagreement", "mean") == 0
    assert result_of(files, "strict")["outcomes"]["tie"] == 4
    assert result_of(files, "mean")["outcomes"] == {"win": 3, "tie": 1, "loss": 0, "none": 0}
    row = read_jsonl(files / "mean" / "rows.jsonl")[0]
    assert (row["score_a"], row["score_b"]) == (pytest.approx(0.5), pytest.approx(0.4))


def test_ratings_are_averaged_over_both_orders(files):
    """Means 5 and 4 for longer and shorter answers, 4 for equal ones, though the first one's is always higher."""
    assert compare(files, "out", "rates_the_first_higher", "--verdict.form", "rating") == 0
    result, rows = result_of(files), read_jsonl(files / "out" / "rows.jsonl")
    assert [(row["score_a"], row["score_b"], row["outcome"]) for row in rows] == [(5, 4, "win")] * 3 + [(4, 4, "tie")]
    assert read_jsonl(files / "out" / "verdicts.jsonl")[1]["scores"] == {"a": 4, "b": 5}
    assert result["position_consistency"]["mean"] == 0.0 and result["win_tie"]["mean"] == 1.0
    assert (result["score_a"]["mean"], result["score_b"]["mean"], result["net_score"]["mean"]) == (4.75, 4.0, 0.75)


def test_recorded_verdicts_and_retries(files):
    """By id and order; the second attempt of one verdict is its retry; one is not recorded."""
    texts = {"one/ab": "[[A]]", "one/ba": "[[B]]", "two/ab": "hm", "two/ab/retry1": "[[B]]", "two/ba": "[[A]]",
             "three/ab": "[[tie]]", "three/ba": "[[tie]]", "four/ab": "[[A]]"}
    write(files / "judge.jsonl", [{"id": key, "texts": [text]} for key, text in texts.items()])
    assert compare(files, "out", None, "--judge.kind", "recorded", "--judge.path", str(files / "judge.jsonl")) == 0
    assert [row["outcome"] for row in read_jsonl(files / "out" / "rows.jsonl")] == ["win", "loss", "tie", None]
    verdicts = read_jsonl(files / "out" / "verdicts.jsonl")
    assert [row["attempts"] for row in verdicts] == [1, 1, 2, 1, 1, 1, 1, 0]
    assert "no answer is recorded" in verdicts[-1]["reason"] and verdicts[-1]["verdict"] is None


def test_a_stopped_job_continues(files):
    assert compare(files, "whole", "longer") == compare(files, "out", "longer") == 0
    verdicts = files / "out" / "verdicts.jsonl"
    (files / "out" / "result.json").unlink()
    verdicts.write_text("".join(verdicts.read_text().splitlines(True)[:3]) + '{"id": "tw')
    assert compare(files, "out", "longer") == 0
    for file in ("rows.jsonl", "verdicts.jsonl", "result.json"):
        assert (files / "out" / file).read_text() == (files / "whole" / file).read_text()
    (files / "out" / "result.json").unlink()
    write(files / "b.jsonl", [{"id": row["id"], "completion": "other"} for row in PROMPTS])
    assert compare(files, "out", "longer") == 2


def test_rows_of_generate_and_answers_in_order(files):
    write(files / "a.jsonl", [{"id": row["id"], "prompt": row.get("prompt", row.get("messages")), "completions": [
        {"text": answer, "finish_reason": "stop"}]} for row, answer in zip(PROMPTS, ANSWERS["a"], strict=True)][::-1])
    write(files / "b.jsonl", [{"completion": [{"role": "assistant", "content": answer}]} for answer in ANSWERS["b"]])
    assert compare(files, "out", "longer") == 0
    assert result_of(files)["outcomes"] == {"win": 3, "tie": 1, "loss": 0, "none": 0}


@pytest.mark.parametrize(("rows", "message"), [
    ([{"id": row["id"], "completion": "x"} for row in PROMPTS[:3]], "no answer to 1 of 4 prompts"),
    ([{"id": "one", "completion": "x"}] * 4, "1 ids occur several times, such as one"),
    ([{"completion": "x"}] * 3, "3 answers to 4 prompts"),
    ([{"completion": "x"}, *({"id": row["id"], "completion": "x"} for row in PROMPTS[1:])], "3 of 4 rows have an id"),
    ([{"prompt": "Other", "completion": "x"}] * 4, "another prompt than in line 1"),
    ([{"completions": [{"text": "x"}, {"text": "y"}]}] * 4, "2 completions; a comparison takes one"),
    ([{"text": "x"}] * 4, "either completion or completions")])
def test_answers_that_do_not_match_are_refused(files, capsys, rows, message):
    write(files / "b.jsonl", rows)
    assert compare(files, "out", "longer") == 2
    assert message in capsys.readouterr().err and not (files / "out").exists()


def test_rejected_prompts_and_further_answers(files, capsys):
    write(files / "prompts.jsonl", [PROMPTS[0], {"id": "bad"}, {"id": "both", "prompt": "x", "messages": [
        {"role": "user", "content": "x"}]}, PROMPTS[1]])
    assert compare(files, "out", "longer", "--data.limit_bad", "0.5") == 0
    assert result_of(files)["rejected"] == 2 and "2 answers have ids that no prompt has" in capsys.readouterr().err
    assert [row["reason"] for row in read_jsonl(files / "out" / "rejected.jsonl")] == [
        "neither prompt nor messages", "both prompt and messages"]
    write(files / "b.jsonl", [{"completion": "x"}] * 2)
    assert compare(files, "order", "longer", "--data.limit_bad", "0.5") == 2
    assert "the order does not match" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "key"), [
    ([], "model_a"), (["--model_a", "m"], "model_b"), (["--model_a", "m", "--answers_a", "f"], "model_a"),
    (["--answers_a", "f", "--adapter_a", "d", "--answers_b", "f"], "adapter_a"),
    (["--answers_a", "f", "--answers_b", "f", "--verdict.template", "{prompt} {first}"], "verdict.template"),
    (["--answers_a", "f", "--answers_b", "f", "--sampling.n", "2"], "sampling.n"),
    (["--answers_a", "f", "--answers_b", "f", "--verdict.form", "text", "--verdict.disagreement", "mean"],
     "verdict.disagreement"),
    (["--answers_a", "f", "--answers_b", "f", "--judge.kind", "reward", "--judge.model", "m", "--verdict.attempts",
      "1"], "verdict"),
    (["--answers_a", "f", "--answers_b", "f", "--judge.kind", "reward", "--judge.model", "m", "--judge.cache", "c"],
     "judge.cache")])
def test_configs_that_are_refused(arguments, key):
    with pytest.raises(UserError) as error:
        parse(Config, ["--data.path", "p", "--out", "o", *arguments])
    assert key in str(error.value)


class LengthReward(RewardJudge):
    """Scores the length of an answer; one of 100 letters or more is refused, and with it a whole call."""

    identity = "length"
    calls: list[int] = []

    def __init__(self):
        self.calls.clear()

    def scores(self, prompts, answers):
        if any(len(answer) >= 100 for answer in answers):
            raise UserError("an answer does not fit")
        self.calls.append(len(answers))
        return [float(len(answer)) for answer in answers]


@pytest.fixture
def reward_judge(monkeypatch):
    monkeypatch.setattr("jaxllm.evaluate.comparison.verdicts.open_judge", lambda *_: LengthReward())
    return ("--judge.kind", "reward", "--judge.model", "unused")


def test_higher_scores_win(files, reward_judge):
    """Equal answers tie; a pair that cannot be scored has no outcome; a stopped job writes the rest."""
    write(files / "a.jsonl", [{"id": row["id"], "completion": answer} for row, answer in
                              zip(PROMPTS, ["an apple", "red", "long " * 200, "oak"], strict=True)])
    assert compare(files, "one", None, *reward_judge) == 0
    result, rows = result_of(files, "one"), read_jsonl(files / "one" / "rows.jsonl")
    assert [(row["score_a"], row["score_b"], row["outcome"]) for row in rows] == [
        (8, 3, "win"), (3, 4, "loss"), (None, None, None), (3, 3, "tie")]
    assert rows[0]["verdicts"] == {"scores": "a"} and result["outcomes"] == {"win": 1, "tie": 1, "loss": 1, "none": 1}
    assert (result["score_a"]["mean"], result["net_score"]["mean"]) == (pytest.approx(14 / 3), pytest.approx(4 / 3))
    assert result["position_consistency"] is result["first_wins"] is None and result["invalid_verdicts"]["mean"] == 0.25
    verdicts = files / "one" / "verdicts.jsonl"
    before = verdicts.read_text()
    assert json.loads(before.splitlines()[2])["reason"] == "an answer does not fit"
    verdicts.write_text(before.splitlines(True)[0])
    (files / "one" / "result.json").unlink()
    assert compare(files, "one", None, *reward_judge) == 0 and verdicts.read_text() == before
    assert compare(files, "other", None, *reward_judge, a="b.jsonl", b="a.jsonl") == 0
    assert result_of(files, "other")["win"] == result["loss"] and result_of(files, "other")["loss"] == result["win"]


def test_a_stopped_job_scores_whole_calls_again(files, reward_judge, monkeypatch):
    monkeypatch.setattr("jaxllm.evaluate.comparison.verdicts.PAIRS_PER_CALL", 2)
    assert compare(files, "out", None, *reward_judge) == 0 and LengthReward.calls == [4, 4]
    verdicts = files / "out" / "verdicts.jsonl"
    before = verdicts.read_text()
    verdicts.write_text("".join(before.splitlines(True)[:3]))
    (files / "out" / "result.json").unlink()
    assert compare(files, "out", None, *reward_judge) == 0
    assert LengthReward.calls == [4] and verdicts.read_text() == before


@pytest.mark.slow
def test_a_reward_model(files, tmp_path):
    """A random model and an adapter with a scoring head; sides are symmetric, and a long pair has no outcome."""
    base = save_language_model(tmp_path / "base")
    model = load(base).with_score_head(1, seed=2)
    adapter = random_adapter(model.spec, LoraConfig(rank=2), std=0.1)
    folder = save_adapter(tmp_path / "adapter", model.spec, adapter, head={"out": model.params["score"]["out"]})
    judge = ("--judge.kind", "reward", "--judge.model", str(base), "--judge.adapter", str(folder))
    write(files / "a.jsonl", [{"id": row["id"], "completion": answer} for row, answer in
                              zip(PROMPTS, [*ANSWERS["a"][:2], "long " * 200, "oak"], strict=True)])
    assert compare(files, "one", None, *judge) == compare(files, "other", None, *judge, a="b.jsonl", b="a.jsonl") == 0
    one, other = result_of(files, "one"), result_of(files, "other")
    rows = read_jsonl(files / "one" / "rows.jsonl")
    assert one["win"] == other["loss"] and one["loss"] == other["win"] and one["outcomes"]["tie"] == 1
    assert one["outcomes"]["win"] + one["outcomes"]["loss"] == 2 and rows[2]["outcome"] is None
    assert all((row["outcome"] == "win") == (row["score_a"] > row["score_b"]) for row in rows[:2])
    assert "do not fit" in read_jsonl(files / "one" / "verdicts.jsonl")[2]["reason"]


@pytest.mark.slow
def test_a_model_generates_and_judges(tmp_path):
    """The tiny model answers and judges; a stopped generation continues; a long prompt is rejected."""
    write(tmp_path / "prompts.jsonl", [{"prompt": f"Question: What is {i} + {i}? Answer:"} for i in range(3)]
          + [{"prompt": "x y z " * 400}])
    write(tmp_path / "b.jsonl", [{"completion": f" {2 * i}"} for i in range(4)])
    more = ["--model_a", "tiny", "--data.limit_bad", "0.5", "--sampling.max_tokens", "6", "--sampling.temperature", "0"]
    assert compare(tmp_path, "out", None, *more) == 0
    result, rows = result_of(tmp_path), read_jsonl(tmp_path / "out" / "rows.jsonl")
    assert (result["prompts"], result["rejected"], len(rows)) == (3, 1, 3)
    assert all(row["answer_a"].strip() and row["answer_b"] == f" {2 * i}" for i, row in enumerate(rows))
    assert all(0 < row["mass"] <= 1 for row in read_jsonl(tmp_path / "out" / "verdicts.jsonl"))
    assert "side A: " in read_jsonl(tmp_path / "out" / "rejected.jsonl")[0]["reason"]
    answers = tmp_path / "out" / "answers_a.jsonl"
    before = answers.read_text()
    assert len(before.splitlines()) == 4
    (tmp_path / "out" / "result.json").unlink()
    answers.write_text(before.splitlines(True)[0])
    assert compare(tmp_path, "out", None, *more) == 0
    assert answers.read_text() == before and result_of(tmp_path) == result


@pytest.mark.slow
def test_sampled_answers_are_those_of_generate(files):
    """A prompt's draws are those of its line, whether lines before it are rejected, unreadable or done."""
    write(files / "prompts.jsonl", [{"id": "bad"}, {"id": "long", "prompt": "x y z " * 400},
                                    *({"id": f"r{i}", "prompt": "Review: The soup in"} for i in range(4))])
    write(files / "b.jsonl", [{"id": name, "completion": "x"} for name in ("long", "r0", "r1", "r2", "r3")])
    more = ["--data.limit_bad", "0.5", "--sampling.max_tokens", "8"]
    data = ["--data.path", str(files / "prompts.jsonl")]
    assert main(["generate", *data, "--out", str(files / "generated"), *more]) == 0
    assert compare(files, "out", "longer", "--model_a", "tiny", *more) == 0
    answers = files / "out" / "answers_a.jsonl"
    before = answers.read_text()
    generated = {row["id"]: row["completions"][0]["text"] for row in read_jsonl(files / "generated" / "rows.jsonl")}
    assert {row["id"]: row["answer"] for row in read_jsonl(answers)} == generated | {"long": None}
    assert len(set(generated.values())) > 1
    answers.write_text("".join(before.splitlines(True)[:3]))
    (files / "out" / "result.json").unlink()
    assert compare(files, "out", "longer", "--model_a", "tiny", *more) == 0 and answers.read_text() == before
