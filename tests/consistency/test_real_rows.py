"""Rows of NovelEval and CaTeRS through `jaxllm consistency`: simulated judges with golden values, and a model."""

import gzip
import json

import numpy as np
import pytest

from jaxllm.files import read_jsonl
from scripts.consistency_rows import main


@pytest.fixture
def converted(shared, tmp_path):
    """Returns a function that converts a data set to rows."""
    def rows(name, *options):
        main([str(shared / "consistency" / f"{name}.jsonl"), str(tmp_path / "converted.jsonl"), *map(str, options)])
        return read_jsonl(tmp_path / "converted.jsonl")

    return rows


def sources(shared, name):
    return [json.loads(line) for line in (shared / "consistency" / f"{name}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("bias", "levels"), [(1e-3, {1, 2}), (1.5, {2}), (2.5, set())])
def test_relevance_by_a_judge_with_a_bias(consistency, converted, shared, bias, levels):
    """NovelEval: a judge that knows the relevance is commutative where it differs by more than the bias."""
    labels = [np.array([own["relevance"] for own in row["candidates"]]) for row in sources(shared, "noveleval")]
    result = consistency(converted("noveleval", "--simulate", bias), "--judge.kind", "matrix", "--violations", 0)
    apart = [np.abs(own[:, None] - own)[np.triu_indices(20, 1)] for own in labels]
    expected = np.mean([np.isin(own, list(levels)) for own in apart])
    assert result["n"] == 16 and result["items"] == [20] and result["rejected"] == 0
    assert result["s_comm"]["mean"] == result["s_neg"]["mean"] == pytest.approx(expected)
    assert result["position_bias"]["mean"] == pytest.approx((1 - expected) / 2)
    assert result["human_tied_answers"] == 2 * sum((own == 0).sum() for own in apart)
    assert result["human_agreement_debiased"]["mean"] == 1  # a constant bias hides what the judge knows
    if levels == {1, 2}:  # 54 % of the pairs are tied, and go to the item that is shown first
        assert expected == pytest.approx(1 - 0.538, abs=0.03) and result["human_agreement"]["mean"] == 1
    assert result["s_tran_debiased"]["5"]["exact"]["mean"] == 1
    assert result["s_tran"]["5"]["exact"]["mean"] == 1 or levels == {2}


def test_events_in_the_order_of_the_text(consistency, converted, shared):
    """CaTeRS: the order in which events are mentioned is mostly, not always, that of time."""
    stories = [row for row in sources(shared, "caters") if len(row["events"]) >= 7]
    result = consistency(converted("caters", "--simulate", 0), "--judge.kind", "matrix")
    assert result["n"] == len(stories) == 183 and result["items"][0] == 7 and result["repeated_items"] == 0
    for name in ("s_comm", "s_neg", "coverage", "zeta"):
        assert result[name]["mean"] == 1
    in_order = [np.mean([a < b for a, b in pairs]) for row in stories if (pairs := {
        (own["arg1"], own["arg2"]) for own in row["relations"] if own["type"].endswith("BEFORE")})]
    assert result["human_agreement"]["mean"] == pytest.approx(np.mean(in_order)) and 0.5 < np.mean(in_order) < 1
    assert result["human_agreement"]["n"] == len(in_order) == 181
    first = consistency(converted("caters", "--simulate", 40), "--judge.kind", "matrix", "--violations", 0)
    assert first["s_comm"]["mean"] == first["s_neg"]["mean"] == 0 and first["s_tran"]["5"]["exact"]["mean"] == 1
    assert first["human_agreement"]["mean"] == 0.5


def test_mentions_of_equal_events_have_numbers(converted, shared):
    for row, source in zip(converted("caters"), [row for row in sources(shared, "caters") if len(row["events"]) >= 7],
                           strict=True):
        assert len(set(row["items"])) == len(row["items"])
        assert [text.split(" (mention")[0] for text in row["items"]] == [own["text"] for own in source["events"]]


def test_a_row_of_reviews_has_one_of_each_rating(tmp_path):
    """The reviews are too long, or used once; there are as many rows as reviews of the rarest rating."""
    reviews = [{"text": f"review {k} of {rating}", "rating": rating} for rating, count in ((1, 4), (4, 2), (9, 3))
               for k in range(count)]
    with gzip.open(tmp_path / "reviews.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in [*reviews, {"text": "x" * 31, "rating": 4}])
    main([str(tmp_path / "reviews.jsonl.gz"), str(tmp_path / "rows.jsonl"), "--characters", "30"])
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert [row["id"] for row in rows] == ["0", "1"]
    for row in rows:
        assert sorted(row["human"]) == [1, 4, 9]
        assert [int(text.split()[-1]) for text in row["items"]] == row["human"]
    texts = [text for row in rows for text in row["items"]]
    assert len(set(texts)) == 6 and set(texts) <= {row["text"] for row in reviews}
    assert len({tuple(row["human"]) for row in rows}) == 2  # the order does not follow the rating


def test_damaged_and_empty_files(tmp_path):
    for name, text in (("empty", ""), ("damaged", '{"doc_id": "1"\n')):
        (tmp_path / f"{name}.jsonl").write_text(text)
    main([str(tmp_path / "empty.jsonl"), str(tmp_path / "rows.jsonl")])
    assert read_jsonl(tmp_path / "rows.jsonl") == []
    with pytest.raises(SystemExit, match=r"damaged\.jsonl, line 1: not valid JSON"):
        main([str(tmp_path / "damaged.jsonl"), str(tmp_path / "rows.jsonl")])


@pytest.mark.parametrize(("name", "template"), [("noveleval", "relevance"), ("caters", "temporal")])
def test_a_model_judges_real_rows(consistency, converted, name, template):
    rows = converted(name, "--documents", 2, "--items", 3)
    result = consistency([{**row, "items": [text[:300] for text in row["items"]]} for row in rows], "--judge.model",
                         "tiny", "--judge.format", "plain", "--template", template)
    assert result["n"] == 2 and result["prompts"] == {"original": 12, "negated": 12}
    assert result["coverage"]["mean"] == 1 and 0 < result["answer_mass"]["mean"] < 1
    assert (consistency.out / "report.html").stat().st_size > 0
