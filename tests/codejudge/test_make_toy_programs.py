"""Programs of the packaged model's task: labels, and names of arguments that only one subset has."""

import ast
import sys

from tests.conftest import ROOT

sys.path.append(str(ROOT / "scripts"))

import make_toy_programs  # noqa: E402
from tiny_world import LIST_NAMES, NUMBER_NAMES  # noqa: E402


def arguments(row):
    [function] = ast.parse(row["candidate"]).body
    return {argument.arg for argument in function.args.args}


def test_subsets_share_no_names_and_no_rows():
    rows = make_toy_programs.make_rows(300, 100, seed=3)
    assert rows == make_toy_programs.make_rows(300, 100, seed=3)
    assert [row["subset"] for row in rows] == ["train"] * 300 + ["test"] * 100
    assert len({row["id"] for row in rows}) == len({(row["task"], row["candidate"]) for row in rows}) == 400
    unseen = {*NUMBER_NAMES[True], *LIST_NAMES[True]}
    assert all((arguments(row) <= unseen) == (row["subset"] == "test") for row in rows)
    assert not any(arguments(row) & unseen for row in rows[:300])
    assert 0.4 < sum(row["label"] for row in rows) / 400 < 0.6


def test_labels_are_right_for_the_task():
    """Runs the programs of one task: the wording has the result."""
    rows = [row for row in make_toy_programs.make_rows(600, 200, seed=3) if row["task"].startswith("Subtract ")]
    assert {row["label"] for row in rows} == {0, 1}
    for row in rows:
        second, first = row["task"].removeprefix("Subtract ").removesuffix(".").split(" from ")
        scope = {}
        exec(row["candidate"], scope)  # a program of our own table
        function = next(value for name, value in scope.items() if name != "__builtins__")
        results = [function(**{first: a, second: b}) == a - b for a, b in ((7, 3), (2, 9), (4, 4), (0, 5))]
        assert all(results) == bool(row["label"]), row
