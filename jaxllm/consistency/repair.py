"""REPAIR (2410.02205, section 4): conflict-free comparisons from noisy ones, and what was changed.

A comparison is a row `{instance, first, second, winner}`: `winner` is "first", "second" or "tie". In a row with
`relation: negated` the question was negated ("which one is worse"), and `winner` is the item that the answer names, the
worse one. Comparisons of one instance may contradict each other, in both orders of presentation and in both relations.
Functions are pure: they change no row that they get.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxllm.consistency.comparisons import WINNERS, Comparisons, key_of
from jaxllm.consistency.ranking import ESTIMATORS, Estimator, Ranking
from jaxllm.errors import UserError
from jaxllm.ops.preference_graphs import subsets
from jaxllm.text.rows import Rejected, RowSet, as_text
from jaxllm.text.schema import check_row

Name = str | int
"""Name of an instance or of an item; 1 and "1" are different names."""

# The types of names are checked by `row_problem`.
REQUIRED: Mapping[str, Any] = MappingProxyType({"instance": Any, "first": Any, "second": Any, "winner": str})
OPTIONAL: Mapping[str, Any] = MappingProxyType({"relation": str})
RELATIONS = ("original", "negated")
EVIDENCE = ("observed", "inferred", "overturned")
OUTCOMES = ("retained", "overturned", "resolved", "undecided")
OTHER = {"first": "second", "second": "first", "tie": "tie"}
# Items of the sets of `s_tran`, as in table 2 of the paper.
SET_SIZE = 5


@dataclass(frozen=True)
class Instance:
    """Comparisons of the items of one instance.

    Attributes:
        name: name of the instance.
        items: names of the items, in the order of their first appearance.
        comparisons: comparisons by numbers of the items; the winner is the better item, in negated rows too.
        rows: position of every comparison's row, `[C]`.
    """

    name: Name
    items: tuple[Name, ...]
    comparisons: Comparisons
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Repaired:
    """Conflict-free comparisons.

    Attributes:
        rows: `{instance, first, second, winner, relation, evidence, margin}`. `evidence` is "observed" where most
            comparisons of the pair that name a winner name this one; "overturned" where most name the other one; else
            "inferred", as for pairs that were not compared. `margin` is the difference of the scores, above 0, in the
            units of the estimator.
        audit: an entry for each usable comparison, in order: its `line`, the fields of the row, `repaired`, the winner
            after the repair or None, `margin` or None, and `outcome`: "retained", "overturned", "resolved" (a tie that
            has a winner now) or "undecided" (no row is emitted for the pair).
        statistics: counts before and after; see `repair`.
        rejected: rows that cannot be used.
    """

    rows: list[dict[str, Any]]
    audit: list[dict[str, Any]]
    statistics: dict[str, Any]
    rejected: list[Rejected]


def row_problem(row: Mapping[str, Any]) -> str | None:
    """Returns the reason why a row that fits `REQUIRED` and `OPTIONAL` is no comparison, or None."""
    for field in ("instance", "first", "second"):
        name = row[field]
        if not isinstance(name, str | int) or isinstance(name, bool) or name == "":
            return f"{field} is {name!r}, not a name (text or a whole number)"
    first, second, winner, relation = row["first"], row["second"], row["winner"], row.get("relation", "original")
    if first == second:
        return f"{first!r} is compared with itself"
    if winner not in WINNERS:
        hint = next((f" (for {winner!r} write {slot!r})" for slot in ("first", "second") if row[slot] == winner), "")
        return f"winner is {winner!r}, not first, second or tie{hint}"
    return None if relation in RELATIONS else f"relation is {relation!r}, not original or negated"


def check_comparisons(rows: Iterable[Mapping[str, Any]], source: str = "comparisons",
                      lines: Sequence[int] | None = None, contradictory: str = "count") -> RowSet:
    """Separates comparisons from rows that cannot be used.

    Args:
        rows: rows with the fields `REQUIRED` and `OPTIONAL`; further fields are allowed.
        source: name of the rows' file, for messages.
        lines: number of every row in its file; from 1 by default.
        contradictory: "count" uses all answers to the same question (instance, first, second, relation), as votes.
            "reject" uses none of them where they differ, for a judge that must answer a question in one way only.
            Answers to different questions, such as those in both orders, are never rejected.

    Raises:
        UserError: `contradictory` is neither of the two words.
    """
    if contradictory not in ("count", "reject"):
        raise UserError(f"no treatment of contradictory rows {contradictory!r}", "contradictory",
                        "use count or reject")
    good, numbers, rejected = [], [], []
    schema = {name: (expected, True) for name, expected in REQUIRED.items()}
    schema |= {name: (expected, False) for name, expected in OPTIONAL.items()}
    for position, own in enumerate(rows):
        row, line = dict(own), position + 1 if lines is None else lines[position]
        reason = check_row(row, schema) or row_problem(row)
        if reason is None:
            good.append(row)
            numbers.append(line)
        else:
            rejected.append(Rejected(source, line, reason, as_text(own)))
    if contradictory == "reject":
        good, numbers, further = _without_contradictions(good, numbers, source)
        rejected = sorted(rejected + further, key=lambda row: row.line)
    return RowSet(good, numbers, rejected)


def group_comparisons(rows: Sequence[Mapping[str, Any]]) -> list[Instance]:
    """Groups comparisons by instance, in the order of the first appearance.

    Raises:
        ValueError: a row is no comparison; see `check_comparisons`.
    """
    members: dict[Name, list[int]] = {}
    for position, row in enumerate(rows):
        if (reason := row_problem(row)) is not None:
            raise ValueError(f"row {position}: {reason}")
        members.setdefault(row["instance"], []).append(position)
    instances = []
    for name, own in members.items():
        number: dict[Name, int] = {}
        pairs = [[number.setdefault(rows[position][slot], len(number)) for slot in ("first", "second")]
                 for position in own]
        first, second = np.array(pairs).T
        comparisons = Comparisons(first, second, [better(rows[position]) for position in own], len(number))
        instances.append(Instance(name, tuple(number), comparisons, tuple(own)))
    return instances


def better(row: Mapping[str, Any]) -> str:
    """Returns the slot of the better item, or "tie": `winner`, or the other slot where the relation is negated."""
    return OTHER[row["winner"]] if row.get("relation") == "negated" else row["winner"]


def repair(rows: Iterable[Mapping[str, Any]], estimator: str | Estimator = "win_loss", *, both_orders: bool = False,
           negations: bool = False, require_connected: bool = False, min_margin: float = 0.0, seed: int = 0,
           source: str = "comparisons", lines: Sequence[int] | None = None, contradictory: str = "count") -> Repaired:
    """Estimates an order of each instance's items, and emits every pair that has one: no pairs in conflict, no cycles.

    Pairs that were compared come first, in the order of their first comparison and as it presented them; the order of
    presentation of other pairs is drawn. Items that no comparison orders (equal scores) have no row.

    Args:
        rows, source, lines, contradictory: see `check_comparisons`.
        estimator: name in `ranking.ESTIMATORS`, or a function of `Comparisons`, such as
            `functools.partial(bradley_terry, prior=0.5)`. The win-loss rate, the default of the paper, can overturn
            comparisons of sparse data without conflicts; Kemeny and Schulze never do.
        both_orders: emit each pair in both orders of presentation.
        negations: emit each row with the negated question too; see `with_negations`.
        require_connected: emit no pair of items that no chain of comparisons connects. Only methods with a common
            scale (win-loss, Copeland, Elo, Bradley-Terry with a prior on all pairs) order such items at all.
        min_margin: smallest difference of scores for which a pair is emitted.
        seed: seed of the orders of presentation that are drawn.

    Returns:
        Rows, audit, rejected rows, and the statistics `rejected` (number of rows), `before` and `after` (see
        `measure_rows`; coverage is over the pairs of the items that were compared), `evidence` (pairs by evidence),
        `outcomes` (comparisons by outcome), `overturned_share`, the share of comparisons with a winner that are
        overturned, None where there are none, and `distance`, the number of comparisons that the best orders
        contradict, None for estimators that do not compute it (all but Kemeny).

    Raises:
        UserError: an option is invalid, or there is no estimate for an instance.
    """
    if isinstance(estimator, str) and estimator not in ESTIMATORS:
        raise UserError(f"no estimator {estimator!r}", "estimator", f"use one of {', '.join(ESTIMATORS)}")
    if not min_margin >= 0:
        raise UserError(f"the smallest margin is {min_margin}", "min_margin", "use 0 or a positive number")
    checked = check_comparisons(rows, source, lines, contradictory)
    estimate = ESTIMATORS[estimator] if isinstance(estimator, str) else estimator
    emitted, audit = [], [{} for _ in checked.rows]
    evidence: Counter[str] = Counter()
    distances: list[int] = []
    for instance in group_comparisons(checked.rows):
        ranking = _ranking(instance, estimate)
        distances += [] if ranking.distance is None else [ranking.distance]
        decided = ranking.decided & (_margins(ranking) >= min_margin)
        if require_connected:
            components = instance.comparisons.components
            decided = decided & (components[:, None] == components)
        for row in _emitted(instance, ranking, decided, seed):
            evidence[row["evidence"]] += 1
            emitted += [row, _swapped(row)] if both_orders else [row]
        for position, entry in _audited(instance, ranking, decided, checked):
            audit[position] = entry
    if negations:
        emitted = with_negations(emitted)
    before = measure_rows(checked.rows)
    outcomes = Counter(entry["outcome"] for entry in audit)
    named = sum(row["winner"] != "tie" for row in checked.rows)
    statistics = {"rejected": len(checked.rejected), "before": before,
                  "after": measure_rows(emitted, before["possible_pairs"], before["instances"]),
                  "evidence": {name: evidence[name] for name in EVIDENCE},
                  "outcomes": {name: outcomes[name] for name in OUTCOMES},
                  "overturned_share": outcomes["overturned"] / named if named else None,
                  "distance": sum(distances) if distances else None}
    return Repaired(emitted, audit, statistics, checked.rejected)


def with_negations(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Adds the negated question after each row: the same presentation, with the other item as the answer.

    Returns:
        Twice as many rows, with `relation` "original" and "negated" in turn.

    Raises:
        ValueError: a row is negated.
    """
    augmented: list[dict[str, Any]] = []
    for row in rows:
        if row.get("relation", "original") != "original":
            raise ValueError("a negated row has no further negation")
        augmented += [{**row, "relation": "original"}, {**row, "relation": "negated", "winner": OTHER[row["winner"]]}]
    return augmented


def flip_labels(rows: Sequence[Mapping[str, Any]], share: float = 0.1, seed: int = 0
                ) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Exchanges the winner and the loser of randomly drawn rows: simulated noise of labels.

    Exactly `share` of the rows with a winner are flipped, rounded half to even (2410.02205 flips each of them with that
    probability). With the same seed, the rows of a smaller share are among those of a larger one.

    Args:
        rows: comparisons; ties are never flipped, and not counted.
        share: share of the rows, 0 to 1.
        seed: seed of the draw.

    Returns:
        Copies of all rows, and whether each was flipped, `[R]`.

    Raises:
        UserError: `share` is not within 0 and 1.
    """
    if not 0 <= share <= 1:
        raise UserError(f"the share of flipped labels is {share}", "share", "use a number from 0 to 1")
    named = np.flatnonzero([row["winner"] != "tie" for row in rows])
    flipped = np.zeros(len(rows), bool)
    flipped[np.random.default_rng(seed).permutation(named)[:round(share * len(named))]] = True
    return [{**row, "winner": OTHER[row["winner"]]} if own else dict(row)
            for row, own in zip(rows, flipped, strict=True)], flipped


def measure_rows(rows: Sequence[Mapping[str, Any]], possible_pairs: int | None = None, instances: int | None = None
                 ) -> dict[str, Any]:
    """Counts comparisons and their conflicts, over all instances.

    Args:
        rows: comparisons.
        possible_pairs: number of pairs for the coverage; by default the pairs of the items in the rows.
        instances: number of instances for the means; by default of those in the rows.

    Returns:
        `rows`; `ties`, rows without a winner; `instances`; `pairs`, of items that are compared; `possible_pairs`, and
        `coverage`, pairs over these; `conflicting_pairs`, with wins of both items; `cycles`, triples of items in which
        majorities form a cycle; `cyclic_instances`, with a cycle of any length; `s_tran`, the share of the sets of five
        items (at most 1,000 of an instance) in which they form none, a mean over instances; `s_comm`, of the pairs that
        are compared in both orders of presentation, the share with the same majority in both; `rows_per_instance` and
        `pairs_per_instance`; `first_slot`, the share of rows with a winner that name the item shown first. Shares and
        means of nothing are None.
    """
    counts: Counter[str] = Counter()
    transitive = []
    for instance in (grouped := group_comparisons(rows)):
        comparisons = instance.comparisons
        edges = (comparisons.margins > 0).astype(np.int64)
        upper = np.triu_indices(comparisons.count, 1)
        counts["pairs"] += int((comparisons.played[upper] > 0).sum())
        counts["possible_pairs"] += len(upper[0])
        counts["conflicting_pairs"] += int(((comparisons.wins > 0) & (comparisons.wins.T > 0))[upper].sum())
        counts["cycles"] += int(((edges @ edges) * edges.T).sum()) // 3  # each cycle starts at each of its items
        counts["cyclic_instances"] += not is_acyclic(edges)
        if comparisons.count >= SET_SIZE:
            chosen = subsets(comparisons.count, SET_SIZE, seed=key_of(instance.name))
            chosen = chosen[chosen[:, 0] >= 0]
            transitive.append(is_acyclic(edges[chosen[:, :, None], chosen[:, None, :]]).mean())
        in_both, agreeing = _both_orders(comparisons)
        counts["in_both_orders"] += in_both
        counts["agreeing"] += agreeing
    total = len(grouped) if instances is None else instances
    possible = counts["possible_pairs"] if possible_pairs is None else possible_pairs
    ties = sum(row["winner"] == "tie" for row in rows)
    ratio = lambda part, whole: part / whole if whole else None
    return {"rows": len(rows), "ties": ties, "instances": len(grouped), "pairs": counts["pairs"],
            "possible_pairs": possible, "coverage": ratio(counts["pairs"], possible),
            **{name: counts[name] for name in ("conflicting_pairs", "cycles", "cyclic_instances")},
            "s_tran": float(np.mean(transitive)) if transitive else None,
            "s_comm": ratio(counts["agreeing"], counts["in_both_orders"]),
            "rows_per_instance": ratio(len(rows), total), "pairs_per_instance": ratio(counts["pairs"], total),
            "first_slot": ratio(sum(row["winner"] == "first" for row in rows), len(rows) - ties)}


def _both_orders(comparisons: Comparisons) -> tuple[int, int]:
    """Counts the pairs that are compared in both orders of presentation, and those of them with the same majority, or
    the same tie, in both."""
    shape = comparisons.count, comparisons.count
    wins, shown = np.zeros(shape), np.zeros(shape, bool)  # wins less losses of the item that is shown first
    np.add.at(wins, (comparisons.first, comparisons.second), 2 * comparisons.points - 1)
    shown[comparisons.first, comparisons.second] = True
    both = np.triu(shown & shown.T)
    return int(both.sum()), int((both & (np.sign(wins) == -np.sign(wins.T))).sum())


def is_acyclic(edges: np.ndarray) -> np.ndarray:
    """Checks whether digraphs `[..., N, N]` have no cycle, `[...]`, by removing items without a successor N times."""
    edges = np.asarray(edges) > 0
    remaining = np.ones(edges.shape[:-1], bool)
    for _ in range(edges.shape[-1]):
        remaining &= (edges & remaining[..., None, :]).any(-1)
    return np.asarray(~remaining.any(-1))


def _without_contradictions(rows: list[dict[str, Any]], lines: list[int], source: str
                            ) -> tuple[list[dict[str, Any]], list[int], list[Rejected]]:
    """Separates rows that answer the same question in different ways."""
    answers: dict[tuple, dict[str, int]] = {}  # of a question: winner -> first line
    question = lambda row: (row["instance"], row["first"], row["second"], row.get("relation", "original"))
    for row, line in zip(rows, lines, strict=True):
        answers.setdefault(question(row), {}).setdefault(row["winner"], line)
    good, numbers, rejected = [], [], []
    for row, line in zip(rows, lines, strict=True):
        others = [(winner, other) for winner, other in answers[question(row)].items() if winner != row["winner"]]
        if others:
            winner, other = others[0]
            rejected.append(Rejected(source, line, f"contradictory: line {other} answers the same question with "
                                     f"{winner!r}", as_text(row)))
        else:
            good.append(row)
            numbers.append(line)
    return good, numbers, rejected


def _ranking(instance: Instance, estimate: Estimator) -> Ranking:
    try:
        return estimate(instance.comparisons)
    except UserError as error:
        where = f"instance {instance.name!r}" + ("" if error.where is None else f", {error.where}")
        raise UserError(error.what, where, error.fix) from None


def _margins(ranking: Ranking) -> np.ndarray:
    """Computes the differences of scores, `[N, N]`, 0 where one is unknown."""
    return np.nan_to_num(ranking.scores[:, None] - ranking.scores)


def _emitted(instance: Instance, ranking: Ranking, decided: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """Builds a row for each decided pair, in one order of presentation."""
    comparisons = instance.comparisons
    shown = {}  # pair -> pair as presented
    for pair in zip(comparisons.first.tolist(), comparisons.second.tolist(), strict=True):
        shown.setdefault((min(pair), max(pair)), pair)
    pairs = list(shown.values())
    swaps = np.random.default_rng((seed, key_of(instance.name))).random((comparisons.count, comparisons.count)) < 0.5
    pairs += [(j, i) if swaps[i, j] else (i, j) for i, j in itertools.combinations(range(comparisons.count), 2)
              if (i, j) not in shown]
    margins, votes, rows = _margins(ranking), comparisons.margins, []
    for first, second in pairs:
        if not decided[first, second] and not decided[second, first]:
            continue
        winner, high, low = ("first", first, second) if decided[first, second] else ("second", second, first)
        evidence = {1: "observed", 0: "inferred", -1: "overturned"}[int(np.sign(votes[high, low]))]
        rows.append({"instance": instance.name, "first": instance.items[first], "second": instance.items[second],
                     "winner": winner, "relation": "original", "evidence": evidence,
                     "margin": float(margins[high, low])})
    return rows


def _swapped(row: Mapping[str, Any]) -> dict[str, Any]:
    """Presents the items of a row in the other order."""
    return {**row, "first": row["second"], "second": row["first"], "winner": OTHER[row["winner"]]}


def _audited(instance: Instance, ranking: Ranking, decided: np.ndarray, checked: RowSet
             ) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (position, entry of the audit) of an instance's comparisons."""
    comparisons, margins = instance.comparisons, _margins(ranking)
    for position, first, second in zip(instance.rows, comparisons.first.tolist(), comparisons.second.tolist(),
                                       strict=True):
        row = checked.rows[position]
        repaired, margin = None, None
        if decided[first, second] or decided[second, first]:
            good = "first" if decided[first, second] else "second"
            repaired = OTHER[good] if row.get("relation") == "negated" else good
            margin = float(abs(margins[first, second]))
        outcome = "undecided" if repaired is None else "resolved" if row["winner"] == "tie" else \
            "retained" if repaired == row["winner"] else "overturned"
        yield position, {"line": checked.lines[position], "instance": instance.name, "first": row["first"],
                         "second": row["second"], "winner": row["winner"],
                         "relation": row.get("relation", "original"), "repaired": repaired, "outcome": outcome,
                         "margin": margin}
