"""Files of pairs and scores: forms, what is missing, and input that is wrong."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy import stats

from jaxllm.errors import UserError
from jaxllm.feedback import audit_rows
from jaxllm.feedback.data import Pairs, decision_of, read_pairs
from jaxllm.text import readers
from tests.feedback.rows import audit, clean, pair, pairs, read, run, wide, write


def fails(tmp_path, capsys, rows, scores, match, **keys):
    run("audit", tmp_path / "audit", expected=2, data__path=write(tmp_path / "rows.jsonl", rows),
        committee__scores=write(tmp_path / "scores.jsonl", scores), **keys)
    error = capsys.readouterr().err
    assert match in error, error
    assert not (tmp_path / "audit" / "result.json").exists()


def votes(count, members=2, vote=1):
    return [{"id": f"r{n}", "member": f"m{m}", "vote": vote} for n in range(count) for m in range(members)]


def test_long_and_wide_scores_are_the_same(tmp_path):
    scores = np.random.default_rng(0).normal(0, 1, (20, 3, 2))
    long = [{"id": f"r{n}", "member": f"m{m}", "chosen": scores[n, m, 0], "rejected": scores[n, m, 1]}
            for n in range(20) for m in range(3)]
    for name, own in (("a", wide(scores)), ("b", long)):
        (tmp_path / name).mkdir()
        audit(tmp_path / name, pairs(20), own)
    read_rows = [(tmp_path / name / "audit" / "rows.jsonl").read_bytes() for name in "ab"]
    assert read_rows[0] == read_rows[1]


def test_members_that_scored_other_rows_abstain_there(tmp_path, capsys):
    own = votes(10)[:-3] + [{"id": "other", "member": "m0", "vote": 1}]
    result = audit(tmp_path, pairs(10), own)
    error = capsys.readouterr().err
    assert "member m0 has scored fewer rows" in error or "member m1 has scored fewer rows" in error
    assert "1 lines of scores have ids that no row has" in error
    assert result["members"]["m0"]["abstained"] + result["members"]["m1"]["abstained"] == 3
    assert sum(result["vote_histogram"]) + result["without_votes"] == 10


def test_null_is_no_vote_and_zero_is_a_tie(tmp_path):
    own = [{"id": "r0", "member": "m", "vote": None}, {"id": "r1", "member": "m", "vote": 0},
           {"id": "r2", "member": "m", "vote": 1, "vote_swapped": None},
           {"id": "r3", "member": "m", "vote": 1, "vote_swapped": -1},
           {"id": "r4", "member": "m", "vote": 1, "vote_swapped": 1}]
    result = audit(tmp_path, pairs(5), own)
    assert [row["by_member"]["m"] for row in read(tmp_path / "audit" / "rows.jsonl")] == [None, 0, None, None, 1]
    assert result["vote_histogram"] == [1, 1] and result["without_votes"] == 3


@pytest.mark.parametrize(("line", "match"), [
    ('{"id": "r0", "scores": {"m0": [NaN, 1.0]}}', "'m0' must be two finite numbers"),
    ('{"id": "r0", "scores": {"m0": [1.0]}}', "must be two finite numbers"),
    ('{"id": "r0", "scores": {"m0": ["1", 2]}}', "must be two finite numbers"),
    ('{"id": "r0", "scores": {"m0": [1e999, 2]}}', "must be two finite numbers"),
    ('{"id": "r0", "scores": {"m0": [1e200, 2]}}', "must be two finite numbers"),
    ('{"id": "r0", "scores": {" ": [1, 2]}}', "must be two finite numbers"),
    ('{"id": "r0", "member": "m0", "vote_swapped": 1}', "needs vote"),
    ('{"id": "r0", "member": "m0", "vote": 1, "chosen": 1, "rejected": 2}', "either a vote or scores"),
    ('{"id": "r0", "member": "m0", "vote": 2}', "a vote must be 1"),
    ('{"id": "r0", "member": "m0", "vote": true}', "a vote must be 1"),
    ('{"id": "r0", "vote": 1}', "'member' is missing"),
    ('{"id": "r0", "member": "m0", "vote": 1, "criterion": "taste"}', "criterion must be one of"),
    ('{"id": "r0", "member": "m0", "chosen": "high", "rejected": 1}', "must be finite numbers"),
    ('{"id": "r0", "member": "m0", "chosen": 1}', "'rejected' is missing"),
    ('{"id": "r0", "member": "m0", "score": 1}', "'chosen' is missing"),
    ('{"member": "m0", "vote": 1}', "'id' is missing")])
def test_lines_of_scores_that_cannot_be_used(tmp_path, capsys, line, match):
    """A bad line of many is reported and its member abstains there; a file of bad lines is refused."""
    good = "".join(json.dumps(row) + "\n" for row in wide(np.ones((30, 1, 2)))[1:])
    (tmp_path / "scores.jsonl").write_text(line + "\n" + good)
    result = run("audit", tmp_path / "audit", data__path=write(tmp_path / "rows.jsonl", pairs(30)),
                 committee__scores=tmp_path / "scores.jsonl")
    assert result["rejected_scores"] == 1 and result["without_votes"] == 1
    assert match in capsys.readouterr().err
    assert match in read(tmp_path / "audit" / "rejected.jsonl")[0]["reason"]
    (tmp_path / "scores.jsonl").write_text(line + "\n")
    run("audit", tmp_path / "bad", expected=2, data__path=tmp_path / "rows.jsonl",
        committee__scores=tmp_path / "scores.jsonl")
    assert "rows cannot be used" in capsys.readouterr().err


def test_one_score_of_a_line_that_is_not_finite(tmp_path):
    lines = wide(np.ones((30, 2, 2)) * [1.0, 0.0])
    lines[0]["scores"]["m1"] = [1e300, 0]
    result = audit(tmp_path, pairs(30), lines)
    assert result["members"]["m0"]["voted"] == 30 and result["members"]["m1"]["voted"] == 29


def test_csv_and_whole_numbers_as_floats(tmp_path):
    (tmp_path / "scores.csv").write_text("id,member,chosen,rejected\n" + "".join(f"r{n},m,{n}.5,1\n" for n in range(9)))
    votes_ = [{"id": f"r{n}", "member": "v", "vote": [1.0, -1.0, None][n % 3]} for n in range(9)]
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"committee": {"members": [{"name": "s", "kind": "scores",
                                                             "path": str(tmp_path / "scores.csv")}]}}))
    result = run("audit", tmp_path / "audit", config=config, data__path=write(tmp_path / "rows.jsonl", pairs(9)),
                 committee__scores=write(tmp_path / "votes.jsonl", votes_))
    assert result["members"]["s"]["voted"] == 9 and result["members"]["v"]["voted"] == 6


def test_of_the_second_reading_the_lines_that_are_shown_are_parsed(tmp_path, monkeypatch):
    calls, parse = [], readers._parse
    monkeypatch.setattr(readers, "_parse", lambda line: calls.append(line) or parse(line))
    audit(tmp_path, pairs(30), wide(np.random.default_rng(0).normal(size=(30, 3, 2))), suspicious=4)
    assert len(calls) == 30 + 30 + 4


def test_no_member_votes(tmp_path):
    result = audit(tmp_path, pairs(4), [{**row, "vote_swapped": -1} for row in votes(4)])
    assert result["without_votes"] == 4 and "No member voted on any pair." in result["notes"]
    assert result["committee_sizes"][0]["spread"] is None


def test_what_ends_an_audit(tmp_path, capsys):
    rows = pairs(4)
    fails(tmp_path, capsys, [*rows, pair(2)], votes(4), "the id 'r2' occurs twice, in lines 3 and 5")
    fails(tmp_path, capsys, rows, [*votes(4), {"id": "r1", "member": "m0", "vote": -1}], "two entries for the id 'r1'")
    fails(tmp_path, capsys, rows, [{"id": "x", "member": "m0", "vote": -1}], "none of its ids")
    fails(tmp_path, capsys, rows, [*votes(3), {"id": "r3", "member": "m0", "chosen": 1, "rejected": 2}],
          "scores for some rows and votes for others")
    fails(tmp_path, capsys, [{"id": "r0", "prompt": "Question?", "chosen": "", "rejected": "no"}], votes(1),
          "the chosen answer is empty")
    unnamed = [{name: value for name, value in row.items() if name != "id"} for row in rows]
    fails(tmp_path, capsys, unnamed, votes(4), "by their ids, and some rows have none")
    fails(tmp_path, capsys, [pair(0, domain=["helpful"])], votes(1), "domain must be a text")
    fails(tmp_path, capsys, [pair(0, human_votes=["good"])], votes(1), "human_votes must be a list")
    run("audit", tmp_path / "none", expected=2, data__path=tmp_path / "rows.jsonl")
    assert "the committee has no members" in capsys.readouterr().err


def test_rows_without_a_prompt_count_by_their_answers(tmp_path):
    """Without a common start of the answers the prompt is empty. Copies are dependent, whichever answer is chosen."""
    rows = [{"id": f"r{n}", "chosen": f"{n // 2} yes", "rejected": f"no {n // 2}"} for n in range(20)]
    rows[1] |= {"chosen": rows[0]["rejected"], "rejected": rows[0]["chosen"]}
    result = audit(tmp_path, rows, votes(20))
    assert result["data"]["prompts"]["lines_without"] == 20 and result["rows"] == 20
    assert "20 rows have no prompt, and members score their answers alone." in result["notes"]
    interval = result["data"]["length"]["longer_is_better"]
    assert interval["n"] == 20
    found = read_pairs(tmp_path / "rows.jsonl")
    assert found.clusters[0] == found.clusters[1] and len(set(found.clusters)) == 10


def test_one_member_and_equal_members(tmp_path, capsys):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = audit(tmp_path / "one", pairs(10), votes(10, 1))
    assert any("single member" in note for note in one["notes"])
    assert one["kappa"]["fleiss"]["mean"] is None and one["correlation"]["mean"] is None
    exact = 0.025 ** (1 / 10)  # ten of ten prompts
    assert one["members"]["m0"]["agreement"]["ci_low"] == pytest.approx(exact)
    assert one["bucket_shares"]["none"]["ci_high"] == one["low_or_none"]["ci_high"] == pytest.approx(1 - exact)
    two = audit(tmp_path / "two", pairs(10), votes(10, 2))
    assert any("they are one member" in note for note in two["notes"])
    assert two["kappa"]["percent"]["mean"] == 1 and two["kappa"]["krippendorff"]["mean"] is None


def test_intervals_resample_pairs_where_all_have_one_prompt(tmp_path):
    """One prompt is no sample: kappas had no width, rates that of a single observation, and a sign test no value."""
    rows = [row | {"prompt": "Say something.", "human_votes": [1, -1 if n % 3 else 1, 1]} for n, row in
            enumerate(pairs(40))]
    own = [{"id": f"r{n}", "member": f"m{m}", "vote": 1 if (n * (m + 3)) % 7 > 2 else -1} for n in range(40)
           for m in range(3)]
    result = audit(tmp_path, rows, own)
    member = result["members"]["m0"]
    found = [result["low_or_none"], member["agreement"], result["kappa"]["fleiss"], result["kappa"]["krippendorff"],
             result["people"]["agreement"]["percent"], result["bucket_shares"]["full"]]
    truth = write(tmp_path / "truth.jsonl", [{"id": f"r{n}", "flipped": n % 4 == 0} for n in range(40)])
    cleaned = clean(tmp_path, "vote_maj_r", truth=truth)
    for one in [*found, cleaned["precision"], cleaned["f1"], cleaned["auroc"]]:
        assert 0.05 < one["ci_high"] - one["ci_low"] < 0.7
    assert member["sign_test_p"] == pytest.approx(stats.binomtest(round(40 * member["agreement"]["mean"]), 40).pvalue)


def test_people(tmp_path):
    assert decision_of(["chosen", "rejected"]) == "" and decision_of([]) == ""
    assert decision_of(["chosen", "uncertain", "uncertain"]) == "chosen"
    assert decision_of(["both_bad", "both_bad", "chosen"]) == "both_bad"
    rows = [pair(n, human_votes=[1, 1, -1] if n % 2 else ["rejected", "rejected", None]) for n in range(20)]
    result = audit(tmp_path, rows, votes(20))
    assert result["people"]["decided"] == 20 and result["people"]["label_is_right"]["mean"] == 0.5
    assert result["people"]["committee_agrees"]["mean"] == 0.5
    assert result["people"]["answers"] == {"rejected": 30, "tie": 0, "chosen": 20, "both_good": 0, "both_bad": 0}
    assert result["calibration"]["judged_by_people"] == 20 and result["calibration"]["noise"] > 0.4
    assert result["members"]["m0"]["agreement_with_people"]["mean"] == 0.5


def test_other_committees_do_not_vote(tmp_path):
    harmless = [{"id": f"r{n}", "member": "m0", "vote": -1, "criterion": "harmlessness"} for n in range(10)]
    own = [*votes(10, 2), *harmless]
    result = audit(tmp_path, pairs(10), own)
    assert result["voters"] == 2 and result["vote_histogram"] == [0, 0, 10]
    assert result["members"]["m0 (harmlessness)"]["agreement"]["mean"] == 0


def test_votes_in_both_orders_of_some_pairs(tmp_path):
    own = [{"id": f"r{n}", "member": "m", "vote": 1} | ({"vote_swapped": -1} if n < 4 else {}) for n in range(10)]
    same = audit(tmp_path, pairs(10), own)["members"]["m"]["same_in_both_orders"]
    assert same["mean"] == 0 and same["n"] == 4


def test_overlap_with_a_test_set(tmp_path):
    other = write(tmp_path / "test.jsonl", pairs(3))
    assert audit(tmp_path, pairs(10), votes(10), compare=other)["data"]["overlap"]["rows"] == 3


def test_each_row_of_a_line_has_its_own_issues(tmp_path):
    """A scored line makes several pairs: only those with the answers concerned have an issue."""
    prompt = {"prompt": "Is it so?"}
    rows = [prompt | {"id": "s", "completions": ["yes", "yes indeed", "no way"], "scores": [3, 2, 1]},
            prompt | {"id": "t", "completions": ["yes", "no way"], "scores": [2, 1]},
            prompt | {"id": "c", "chosen": "yes indeed", "rejected": "yes"}]
    found = read_pairs(write(tmp_path / "rows.jsonl", rows))
    assert dict(zip(found.ids, found.issues, strict=True)) == {
        "s/0-1": ("contradiction", "both", "contained"), "s/0-2": ("both",), "s/1-2": (),
        "t/0-1": ("duplicate", "both"), "c": ("contradiction", "both", "contained")}


def test_an_unknown_domain_is_ranked_with_the_mixed_ones(tmp_path):
    scores = np.random.default_rng(4).normal(0, 1, (60, 3, 2))
    scores[0] = [[-9.0, -9.1]] * 3
    found = []
    for name in ("code", "mixed"):
        (tmp_path / name).mkdir()
        result = audit(tmp_path / name, [pair(n, domain=name if n < 3 else "mixed") for n in range(60)], wide(scores))
        counted = result["sources_by_domain"]
        assert list(counted) == list(dict.fromkeys([name, "mixed"])) and counted[name]["5|6"] == 1
        total = {source: sum(own[source] for own in counted.values()) for source in result["sources"]}
        assert total == result["sources"]
        found.append([(row["quantiles"], row["source"]) for row in read(tmp_path / name / "audit" / "rows.jsonl")])
    assert found[0] == found[1] and found[0][0][1] == "5|6"


def test_pairs_that_people_decided_are_last_in_a_review(tmp_path):
    rows = [pair(n, human_votes=["tie"] if n < 2 else ["both_bad"] if n == 2 else []) for n in range(20)]
    audit(tmp_path, rows, wide(np.random.default_rng(5).normal(0, 1, (20, 3, 2))), review=17)
    assert {row["id"] for row in read(tmp_path / "audit" / "review.jsonl")} == {f"r{n}" for n in range(3, 20)}


def test_margins_over_the_members(tmp_path):
    scores = np.random.default_rng(6).normal(0, 1, (20, 3, 2)) * [[1.0], [10.0], [0.1]]
    scores[0, 1:] = np.nan
    audit(tmp_path, pairs(20), wide(scores))
    lines = read(tmp_path / "audit" / "rows.jsonl")
    margins = np.stack([(own[:, 0] - own[:, 1]) / np.nanstd(own) for own in np.moveaxis(scores, 1, 0)], 1)
    np.testing.assert_allclose([row["margin_mean"] for row in lines], np.nanmean(margins, 1), atol=1e-5)
    np.testing.assert_allclose([row["margin_std"] for row in lines], np.nanstd(margins, 1), atol=1e-5)


def test_label_probabilities_of_the_other_answer_are_pointed_out(tmp_path, capsys):
    read_pairs(write(tmp_path / "rows.jsonl", [pair(n, label_probability=n / 4) for n in range(5)]))
    assert "2 rows have a label_probability below one half" in capsys.readouterr().err


def test_the_order_of_the_rows_changes_no_row(tmp_path):
    scores = np.random.default_rng(2).normal(0, 1, (60, 4, 2))
    order = np.random.default_rng(3).permutation(60)
    lines = []
    for name, rows, own in (("a", pairs(60), wide(scores)), ("b", [pairs(60)[n] for n in order],
                                                            wide(scores)[::-1])):
        (tmp_path / name).mkdir()
        audit(tmp_path / name, rows, own)
        lines.append({row["id"]: {key: row[key] for key in ("votes", "bucket", "source", "rule", "margin", "quantiles",
                                                                         "label_probability")}
                      for row in read(tmp_path / name / "audit" / "rows.jsonl")})
    assert lines[0] == lines[1]


@pytest.mark.parametrize("texts", [False, True])
def test_large_files_are_read_in_blocks_as_they_are_in_one(tmp_path, monkeypatch, texts):
    """Bad lines, duplicates, contradictions and near-duplicates across blocks, and a line with several pairs."""
    rows = [pair(number, tags=[f"t{number % 3}"], domain=["helpful", "own"][number % 2],
                 human_votes=["chosen", None, -1][:number % 4]) for number in range(90)]
    words = " ".join(f"word{number}" for number in range(40))
    rows += [pair(90, prompt=words, chosen=f"{words} yes", rejected=f"{words} no"),
             {**rows[3], "id": "same"}, {**rows[4], "id": "other", "chosen": rows[4]["rejected"],
                                         "rejected": rows[4]["chosen"]},
             pair(91, prompt=words + " more", chosen=f"{words} yes", rejected=f"{words} no"),
             pair(92, prompt=[{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]),
             pair(93, label_probability=0.2, weight=2.0, tags=["\u00e9"]),
             {"id": "s", "prompt": "Best?", "completions": ["a", "b", "c", "d"], "scores": [1, 2, 2, None]}]
    lines = [json.dumps(row, ensure_ascii=number % 2 == 0) for number, row in enumerate(rows)]
    lines[20:20] = ["no JSON", "", json.dumps(pair(0, domain=1)), '{"id": "x", "prompt": "?", "chosen": "\\ud800"}']
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    whole = read_pairs(path, texts=texts, rejected_path=tmp_path / "whole.jsonl")
    for name, value in (("LARGE", 0), ("BLOCK", 1500), ("processes", lambda: 2)):
        monkeypatch.setattr(readers, name, value)
    read = read_pairs(path, texts=texts, rejected_path=tmp_path / "blocks.jsonl")
    assert len(whole) == 98 and len(whole.rejected) == 3 and {own for one in whole.issues for own in one} >= {
        "duplicate", "contradiction", "near_duplicate", "roles"}
    for name in Pairs.__dataclass_fields__:
        ours, theirs = getattr(read, name), getattr(whole, name)
        if isinstance(theirs, np.ndarray):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)
        elif name != "audit":
            assert ours == theirs, name
    for name in ("result", "ids", "issues", "row_issues"):
        assert list(getattr(read.audit, name).items()) == list(getattr(whole.audit, name).items())
    assert (tmp_path / "blocks.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    path.write_text("\n".join([*lines, json.dumps(rows[5])]))
    with pytest.raises(UserError, match="the id 'r5' occurs twice, in lines 6 and 102"):
        read_pairs(path)
    path.write_bytes(b"\xff\xfe" + path.read_bytes())
    with pytest.raises(UserError, match="the text is UTF-16"):
        read_pairs(path)


def test_large_files_of_scores_are_read_in_blocks_as_they_are_in_one(tmp_path, monkeypatch):
    """Lines of all forms, with null, bad ones, and ids that no row has."""
    own = wide(np.random.default_rng(0).normal(size=(60, 3, 2)))
    for number in (5, 6, 41):
        own[number]["scores"]["m1"] = [None, 1]
    own[8]["scores"] = {"m2": [1, 2], "m0": [3, 4]}
    own[9]["criterion"], own[10]["scores"]["m1"], own[11]["id"] = "helpfulness", [1.0, "2"], "unknown"
    own += [{"id": f"r{number}", "member": "votes", "vote": number % 2} for number in range(0, 60, 2)]
    own[30:30] = [{"id": "r9", "member": "m1", "chosen": 1, "rejected": 0}]
    write(tmp_path / "rows.jsonl", pairs(60))
    write(tmp_path / "scores.jsonl", own)
    found = []
    for blocks in (False, True):
        if blocks:
            for name, value in (("LARGE", 0), ("BLOCK", 1500), ("processes", lambda: 2)):
                monkeypatch.setattr(readers, name, value)
            monkeypatch.setattr(audit_rows, "LARGE", 0)
            monkeypatch.setattr(audit_rows, "BLOCK", 7)
            monkeypatch.setattr(audit_rows, "processes", lambda: 2)
        out = tmp_path / f"audit{blocks}"
        result = run("audit", out, data__path=tmp_path / "rows.jsonl", committee__scores=tmp_path / "scores.jsonl")
        found.append((result, *((out / name).read_bytes() for name in ("rows.jsonl", "rejected.jsonl")),
                      {name: values.tolist() for name, values in load_file(out / "committee.safetensors").items()}))
    assert repr(found[0]) == repr(found[1])
    assert list(found[0][0]["members"]) == ["m0", "m1", "m2", "m0 (helpfulness)", "m1 (helpfulness)",
                                            "m2 (helpfulness)", "votes"]
    assert found[0][0]["rejected_scores"] == 1
    write(tmp_path / "scores.jsonl", [*wide(np.ones((60, 3, 2))), *wide(np.ones((7, 3, 2)))])
    run("audit", tmp_path / "twice", expected=2, data__path=tmp_path / "rows.jsonl",
        committee__scores=tmp_path / "scores.jsonl")


def test_what_runs_in_other_processes_imports_no_jax():
    names = ", ".join(f"jaxllm.feedback.{name}" for name in ("audit_rows", "data", "rewriting", "scores"))
    subprocess.run([sys.executable, "-c", f"import sys, {names}; assert 'jax' not in sys.modules"], check=True)
