"""Members of a committee that score now: each against the same scores made by hand, resumed and found again."""

import gc
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from scipy.sparse import csr_matrix

import jaxllm
from jaxllm.cli import main
from jaxllm.feedback import heads, members
from jaxllm.feedback.difficulty import of_rows
from jaxllm.feedback.heads import fit_reward, out_of_fold, word_counts
from jaxllm.model import load_with_adapter
from jaxllm.text.forms import PairRow
from tests.feedback.rows import pairs, read, run, write

TINY = [{"id": f"t{n}", "prompt": f"Question: What is {n} plus 2? Answer:", "chosen": f" {n + 2}",
         "rejected": f" {n + 9}"} for n in range(12)]


def committee(folder, *own, rows=TINY, **keys):
    """Audits with members of a config file."""
    config = folder / "config.yaml"
    config.write_text(json.dumps({"committee": {"members": list(own)}}))
    return run("audit", folder / "audit", config=config, data__path=write(folder / "rows.jsonl", rows), **keys)


def scores_of(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "audit" / "committee.safetensors")["scores"]


def test_a_policy_against_its_reference(tmp_path, adapter):
    """beta (log pi - log ref), of the answers' tokens alone."""
    result = committee(tmp_path, {"name": "dpo", "kind": "dpo", "model": "tiny", "adapter": str(adapter), "beta": 0.2})
    model, own = load_with_adapter("tiny", adapter)
    generator = jaxllm.Generator(model)
    texts = [model.pair_ids(row["prompt"], row[side]) for row in TINY for side in ("chosen", "rejected")]
    ends = [(prompt, [*ids, model.tokenizer.eos_id]) for prompt, ids in texts]
    ours, theirs = ([score.logprob for score in generator.score(ends, adapter=one)] for one in (own, None))
    expected = 0.2 * (np.array(ours) - np.array(theirs)).reshape(-1, 2)
    np.testing.assert_allclose(scores_of(tmp_path)[:, 0], expected, atol=1e-4)
    assert np.abs(expected).max() > 1e-3 and result["members"]["dpo"]["voted"] == 12
    again = committee_again(tmp_path, {"name": "dpo", "kind": "dpo", "model": "tiny", "adapter": str(adapter),
                                       "reference": "tiny", "beta": 0.2})
    np.testing.assert_allclose(again, expected, atol=1e-4)


def test_the_weights_of_a_policy_are_in_memory_once(tmp_path, adapter, monkeypatch):
    """And not at all after its scores: the next member has their place."""
    live = lambda: sum(array.nbytes for array in jax.live_arrays())
    weights = sum(array.nbytes for array in jax.tree.leaves(jaxllm.load("tiny").params))
    gc.collect()
    before, seen, original = live(), [], members._in_place
    monkeypatch.setattr(members, "_in_place", lambda *own: seen.append(live() - before) or original(*own))
    for reference in (None, "tiny"):
        (tmp_path / str(reference)).mkdir()
        committee(tmp_path / str(reference), {"name": "dpo", "kind": "dpo", "model": "tiny", "adapter": str(adapter),
                                              "reference": reference})
        gc.collect()
        assert live() - before < 0.1 * weights
    assert len(seen) == 2 and seen[0] < 1.5 * weights and seen[1] < 2.5 * weights


def committee_again(folder, *own, **keys):
    other = folder / "again"
    other.mkdir()
    committee(other, *own, **keys)
    return scores_of(other)[:, 0]


def tuned(folder, method, *more):
    """Trains `tiny` for a few steps; returns the directory."""
    assert main(["tune", f"--method={method}", "--model=tiny", f"--data.path={write(folder / 'rows.jsonl', TINY)}",
                 f"--out={folder / 'out'}", "--train.epochs=1", "--train.batch_size=4", "--held_back.share=0",
                 *more]) == 0
    return folder / "out"


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A policy with an implicit reward that is not 0."""
    return tuned(tmp_path_factory.mktemp("policy"), "dpo", "--train.lr=1e-2") / "adapter"


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory):
    return tuned(tmp_path_factory.mktemp("reward"), "reward", "--save=model") / "model"


def test_a_reward_model_scores_as_jaxllm_score_does(tmp_path, reward_model):
    committee(tmp_path, {"name": "reward", "kind": "reward", "model": str(reward_model)})
    run("score", tmp_path / "score", model=reward_model, data__path=tmp_path / "rows.jsonl")
    expected = [[row["chosen"], row["rejected"]] for row in read(tmp_path / "score" / "rows.jsonl")]
    np.testing.assert_allclose(scores_of(tmp_path)[:, 0], expected, atol=1e-5)
    again = committee_again(tmp_path, {"name": "of a file", "kind": "scores",
                                       "path": str(tmp_path / "score" / "rows.jsonl")})
    np.testing.assert_allclose(again, expected, atol=1e-5)


def test_scores_are_found_again_by_the_texts(tmp_path, reward_model, monkeypatch):
    """A stopped run continues where it was, and rows in another file are not scored again."""
    own = {"name": "reward", "kind": "reward", "model": str(reward_model)}
    cache = tmp_path / "cache"
    monkeypatch.setattr(members, "CHUNK", 4)
    (tmp_path / "first").mkdir()
    committee(tmp_path / "first", own, committee__cache=cache)
    expected = scores_of(tmp_path / "first")
    [file] = cache.glob("scores-*.jsonl")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:6]) + lines[6][:10])  # stopped within a line
    scored = []
    original = members._in_place
    monkeypatch.setattr(members, "_in_place", lambda count, *rest: scored.append(count) or original(count, *rest))
    (tmp_path / "second").mkdir()
    committee(tmp_path / "second", own, committee__cache=cache, rows=TINY[::-1])
    assert sum(scored) == 6 and len(file.read_text().splitlines()) == 12
    np.testing.assert_allclose(scores_of(tmp_path / "second"), expected[::-1], atol=1e-5)


def test_a_policy_abstains_on_answers_that_do_not_fit(tmp_path, adapter):
    rows = [*TINY, {"id": "long", "prompt": "Question?", "chosen": " a b c" * 300, "rejected": " d"}]
    result = committee(tmp_path, {"name": "dpo", "kind": "dpo", "model": "tiny", "adapter": str(adapter)}, rows=rows)
    assert result["members"]["dpo"]["abstained"] == 1


def test_a_member_abstains_on_what_it_cannot_read(tmp_path, reward_model, capsys):
    rows = [*TINY, {"id": "long", "prompt": "a b c " * 2000, "chosen": "d", "rejected": "e"}]
    result = committee(tmp_path, {"name": "reward", "kind": "reward", "model": str(reward_model)}, rows=rows)
    assert result["members"]["reward"]["abstained"] == 1 and np.isnan(scores_of(tmp_path)[-1]).all()
    assert "abstains on 1 of 13 pairs" in capsys.readouterr().err


def judged(folder, verdicts, **verdict):
    """A judge of recorded answers, in both orders."""
    answers = [{"id": f"r{n}/{order}", "texts": [text]} for n, own in enumerate(verdicts)
               for order, text in zip(("ab", "ba"), own, strict=True)]
    path = write(folder / "answers.jsonl", answers)
    return {"name": "judge", "kind": "judge", "judge": {"kind": "recorded", "path": path}, "verdict": verdict}


def test_a_judge_votes_in_both_orders(tmp_path):
    own = judged(tmp_path, [("[[A]]", "[[B]]"), ("[[A]]", "[[A]]"), ("[[B]]", "[[A]]"), ("[[tie]]", "[[tie]]"),
                            ("nothing", "[[B]]")], attempts=1)
    result = committee(tmp_path, own, rows=pairs(5))
    assert [row["by_member"]["judge"] for row in read(tmp_path / "audit" / "rows.jsonl")] == [1, None, -1, 0, None]
    assert result["members"]["judge"]["same_in_both_orders"]["mean"] == 0.75
    assert result["members"]["judge"]["verdicts"] == {"rows": 10, "invalid": 1, "prompt_tokens": None,
                                                      "completion_tokens": None, "cost": None}


def test_probabilities_are_averaged_over_both_orders(tmp_path):
    answers = [{"id": f"r{n}/{order}", "probabilities": {"A": first, "B": second, "tie": 0.0}}
               for n, both in enumerate([((0.9, 0.1), (0.6, 0.4)), ((0.6, 0.4), (0.7, 0.3))])
               for order, (first, second) in zip(("ab", "ba"), both, strict=True)]
    path = write(tmp_path / "answers.jsonl", answers)
    own = {"name": "judge", "kind": "judge", "judge": {"kind": "recorded", "path": path}}
    (tmp_path / "strict").mkdir()
    result = committee(tmp_path / "strict", own | {"verdict": {"form": "choice"}}, rows=pairs(2))
    assert result["without_votes"] == 2 and "Member judge votes on no pair" in " ".join(result["notes"])
    committee(tmp_path, own | {"verdict": {"form": "choice", "disagreement": "mean"}}, rows=pairs(2))
    np.testing.assert_allclose(scores_of(tmp_path)[:, 0], [[0.65, 0.35], [0.45, 0.55]])


def test_ratings_are_averaged_over_both_orders(tmp_path):
    own = judged(tmp_path, [("8 6", "7 8"), ("5 5", "5 5"), ("3 9", "1 1")], form="rating", attempts=1)
    committee(tmp_path, own, rows=pairs(3))
    np.testing.assert_allclose(scores_of(tmp_path)[:, 0], [[8, 6.5], [5, 5], [2, 5]])
    assert [row["votes"] for row in read(tmp_path / "audit" / "rows.jsonl")] == [1, 0, 0]


def test_a_linear_reward_minimizes_its_loss():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (300, 4)) + [0.5, 0, 0, -0.2]
    weights = fit_reward(x, 0.1)
    gradient = -(x / (1 + np.exp(x @ weights))[:, None]).mean(0) + 0.1 * weights
    np.testing.assert_allclose(gradient, 0, atol=1e-4)


def test_a_trained_member_never_saw_the_pair(tmp_path):
    """Features that name each pair: trained on their own labels they would be right everywhere."""
    rng = np.random.default_rng(1)
    features = rng.normal(0, 1, (80, 2, 400))
    scores = out_of_fold(features[:, 0], features[:, 1], np.arange(80) % 5)
    assert 0.3 < np.mean(scores[:, 0] > scores[:, 1]) < 0.7
    deviations = [scores[np.arange(80) % 5 == fold].std() for fold in range(5)]
    assert max(deviations) < 3 * min(deviations)  # one scale for any penalty of each fold
    sparse = out_of_fold(csr_matrix(features[:, 0]), csr_matrix(features[:, 1]), np.arange(80) % 5)
    np.testing.assert_allclose(sparse, scores, atol=1e-4)
    seen = (features[:, 0] - features[:, 1]) @ fit_reward(features[:, 0] - features[:, 1], 1e-3)
    assert (seen > 0).all()


def test_words_that_tell_good_from_bad(tmp_path):
    result = committee(tmp_path, {"name": "words", "kind": "words"}, rows=pairs(60))
    assert result["members"]["words"]["agreement"]["mean"] == 1.0
    chosen, rejected = word_counts([PairRow("", "Good, good", "bad bad bad")])
    np.testing.assert_allclose(chosen.toarray(), [np.log1p([2, 1, 0])])
    np.testing.assert_allclose(rejected.toarray(), [np.log1p([0, 0, 3])])


def test_a_head_on_frozen_features(tmp_path, monkeypatch):
    """Features are those of the last token, in any batch, and are computed once."""
    monkeypatch.setattr(heads, "CHUNK", 7)
    own = {"name": "head", "kind": "head", "model": "tiny"}
    (tmp_path / "a").mkdir()
    committee(tmp_path / "a", own, committee__cache=tmp_path / "cache", batch_size=4)
    first = scores_of(tmp_path / "a")
    assert len(list((tmp_path / "cache").glob("states-*.npy"))) == 2
    monkeypatch.setattr(heads, "_states", None)  # nothing is computed again
    (tmp_path / "b").mkdir()
    committee(tmp_path / "b", own, committee__cache=tmp_path / "cache", batch_size=4)
    np.testing.assert_array_equal(scores_of(tmp_path / "b"), first)
    monkeypatch.undo()
    (tmp_path / "c").mkdir()
    committee(tmp_path / "c", own, batch_size=32)
    np.testing.assert_allclose(scores_of(tmp_path / "c"), first, rtol=2e-2, atol=2e-2)


def test_difficulty_is_a_ratio_of_perplexities():
    generator = jaxllm.Generator(jaxllm.load("tiny"))
    model = generator.model
    row = PairRow("Question: What is 3 plus 2? Answer:", " 5", "x")
    rows = [row, PairRow("Question: Where?", " the red tower", " a ship of Torla")]
    found = of_rows(generator, rows)
    assert np.isnan(found[0, 1])
    prompt, ids = model.pair_ids(rows[1].prompt, rows[1].chosen)
    after, alone = generator.score([(prompt, ids), (list(model.start), ids)])
    assert found[1, 0] == pytest.approx(np.exp((alone.logprob - after.logprob) / len(ids)), rel=1e-4)


class Letters:
    """A model with a token for each letter, which stores the texts that it scores."""

    def __init__(self, positions):
        self.texts = []
        self.model = SimpleNamespace(
            start=(0,), spec=SimpleNamespace(max_positions=positions),
            pair_ids=lambda prompt, answer: ([0, *map(ord, prompt)], [*map(ord, answer)]))

    def score(self, texts):
        self.texts += texts
        return [SimpleNamespace(logprob=-1.0, tokens=len(ids)) for _, ids in texts]


def test_difficulties_fit_a_small_model(capsys):
    generator = Letters(21)
    found = of_rows(generator, [PairRow("p" * 30, "a" * 30, "b" * 5)])
    assert np.isfinite(found).all() and max(len(prompt) + len(ids) for prompt, ids in generator.texts) == 21
    assert "2 prompts or answers are cut to 10 tokens" in capsys.readouterr().err
    of_rows(Letters(21), [PairRow("p" * 30, "aa", "bb")], limit=4)
    assert not capsys.readouterr().err


def test_difficulties_after_messages_have_the_turns_in_lines():
    generator = Letters(1000)
    turns = [{"role": "assistant", "content": "Where?"}, {"role": "user", "content": "There"},
             {"role": "assistant", "content": "No"}]
    of_rows(generator, [PairRow([{"role": "user", "content": "Where is it"}], "The red tower", turns)])
    texts = ["".join(map(chr, [*prompt[1:], *ids])) for prompt, ids in generator.texts]
    assert texts == ["user: Where is it\nassistant: The red tower",
                     "user: Where is it\nassistant: Where?\nuser: There\nassistant: No",
                     "The red tower", "Where?\nuser: There\nassistant: No"]


@pytest.mark.parametrize(("own", "match"), [
    ({"name": "m", "kind": "reward"}, "needs it"), ({"name": " ", "kind": "words"}, "needs a name"),
    ({"name": "m", "kind": "dpo", "model": "tiny"}, "needs its reference"),
    ({"name": "m", "kind": "reward", "model": "tiny"}, "this model none"),
    ({"name": "m", "kind": "words", "model": "tiny"}, "does not apply"),
    ({"name": "m", "kind": "judge"}, "needs it"),
    ({"name": "m", "kind": "scores", "path": "missing.jsonl"}, "missing.jsonl")])
def test_members_that_cannot_be_used(tmp_path, capsys, own, match):
    (tmp_path / "config.yaml").write_text(json.dumps({"committee": {"members": [own]}}))
    run("audit", tmp_path / "audit", expected=2, config=tmp_path / "config.yaml",
        data__path=write(tmp_path / "rows.jsonl", TINY))
    assert match in capsys.readouterr().err and not (tmp_path / "audit").exists()


def test_names_are_different(tmp_path, capsys):
    scores = [{"id": row["id"], "member": "words", "vote": 1} for row in TINY]
    (tmp_path / "config.yaml").write_text(json.dumps({"committee": {"members": [{"name": "words", "kind": "words"}]}}))
    run("audit", tmp_path / "audit", expected=2, config=tmp_path / "config.yaml",
        data__path=write(tmp_path / "rows.jsonl", TINY), committee__scores=write(tmp_path / "scores.jsonl", scores))
    assert "two members have the name 'words'" in capsys.readouterr().err
