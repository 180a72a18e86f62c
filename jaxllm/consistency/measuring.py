"""Measures of matrices of answers, instance by instance, computed for many instances of similar size at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxllm.consistency.comparisons import groups_of
from jaxllm.consistency.data import Instance
from jaxllm.errors import UserError
from jaxllm.ops import consistency as ops
from jaxllm.ops import preference_graphs as graphs

# Elements of the arrays of a batch at most: [B, N, N], and [B, M, K, K] for sampled subsets.
ELEMENTS, SUBSET_ELEMENTS = 2**22, 2**26
# Steps N^(K - 1) for which s_tran(K) is computed exactly, and items for the least-squares ranking and for cycles, at a
# cost of N^3.
EXACT_STEPS, MOST_FOR_CUBIC = 2e10, 1000
# Instances of a batch at least, where none has more items than this.
LEAST_BATCH, MOST_FILLED = 8, 64
# Largest sets that are counted exactly: of larger ones, samples are as good and take seconds.
LARGEST_EXACT = 5
_NOTHING = Instance("", "", ())
# Why there is no exact s_tran: its chance level is not that of a complete tournament either.
PARTIAL = "the graph is partial, or has ties"
# Coins that decide where as many votes are for one slot as for the other: for the question, its negation, and the mean
# of both orders.
QUESTION, NEGATED, BOTH = 1, 2, 3
# The largest answer for the second slot.
BELOW_HALF = np.nextafter(np.float32(0.5), np.float32(0))


@dataclass(frozen=True)
class Settings:
    """How matrices are measured; see `config.Config`. Messages name the paraphrase, 0 for the question itself."""

    sizes: Sequence[int] = (3, 4, 5)
    subsets: int = 1000
    shuffle: bool = False
    tie: float | None = None
    missing: str = "drop"
    violations: int = 10
    seed: int = 0
    paraphrase: int = 0


def measure(instances: Sequence[Instance], settings: Settings) -> list[dict[str, Any]]:
    """Measures instances with matrices.

    Returns:
        For each instance `{n, s_tran, s_tran_debiased, s_comm, s_neg, human_agreement, human_agreement_debiased,
        human_answers, human_tied_answers, position_bias, answer_mass, coverage, coverage_negated, zeta, hodge,
        self_agreement, chance_self_agreement, longer_wins, violations, positions}`; None where something is not known.
        `s_tran` is `{K: {exact, sampled, subsets, reason}}`.

    Raises:
        UserError: an answer is missing, and `missing` is "error".
    """
    rows: list[dict[str, Any]] = [{} for _ in instances]
    for batch in _batches(instances, settings):
        for number, row in zip(batch, _measure(_filled([instances[i] for i in batch]), settings), strict=False):
            rows[number] = row
    return rows


def confidence_curve(instances: Sequence[Instance], settings: Settings, thresholds: Sequence[float]
                     ) -> list[dict[str, float | None]]:
    """Computes means over instances of the measures of those answers that are at least so far from 0.5.

    Returns:
        `{threshold, coverage, s_comm, human_agreement}` for each threshold; None where no instance has a value.
    """
    parts: dict[str, list[np.ndarray]] = {"coverage": [], "s_comm": [], "human_agreement": []}
    for batch in _batches(instances, settings):
        own = _filled([instances[i] for i in batch])
        size = _padded(max(len(one.items) for one in own))
        items, given = _items(own, size), _stack([one.p for one in own], own)
        p = _stack([settled(one.p, one, settings) for one in own], own)
        order = _stack([one.order for one in own], own) if any(map(_has_order, own)) else None
        values: dict[str, list[np.ndarray]] = {name: [] for name in parts}
        for threshold in thresholds:  # one after the other: p may be large
            left = ops.abstain(p, threshold)
            values["coverage"].append(_coverage(ops.abstain(given, threshold), items, own)[0])
            values["s_comm"].append(ops.commutativity(left, items, tie=settings.tie)[0])
            values["human_agreement"].append(np.full(len(own), np.nan) if order is None else ops.order_accuracy(
                left, order, items, tie=settings.tie)[0])
        for name in parts:
            parts[name].append(np.array(values[name]))
    columns = {name: np.concatenate(values, 1) for name, values in parts.items()}
    return [{"threshold": float(threshold), **{name: _mean(values[number]) for name, values in columns.items()}}
            for number, threshold in enumerate(thresholds)]


def _batches(instances: Sequence[Instance], settings: Settings) -> Iterator[list[int]]:
    """Groups instances of similar size, few enough for the bounds of memory."""
    by_size: dict[int, list[int]] = {}
    for number, instance in enumerate(instances):
        by_size.setdefault(_padded(len(instance.items)), []).append(number)
    for size, numbers in sorted(by_size.items()):
        limit = min(ELEMENTS // size**2, SUBSET_ELEMENTS // (settings.subsets * max(settings.sizes)**2))
        limit = 2**int(math.log2(max(1, limit)))
        yield from (numbers[start:start + limit] for start in range(0, len(numbers), limit))


def _filled(instances: list[Instance]) -> list[Instance]:
    """Appends instances without items, so that batches of many lengths need few programs."""
    if _padded(len(instances[0].items)) > MOST_FILLED:
        return instances
    return instances + [_NOTHING] * (max(LEAST_BATCH, 2**(len(instances) - 1).bit_length()) - len(instances))


def _padded(count: int) -> int:
    """Rounds a number of items up, so that instances of many sizes need few programs."""
    step = 16 if count <= 32 else 32 if count <= 512 else 1
    return -(-count // step) * step


def _items(instances: Sequence[Instance], size: int) -> np.ndarray:
    return np.arange(size) < np.array([[len(one.items)] for one in instances])


def _stack(matrices: Sequence[np.ndarray | None], instances: Sequence[Instance]) -> np.ndarray:
    """Stacks matrices to `[B, size, size]`, NaN where there is none."""
    size = _padded(max(len(one.items) for one in instances))
    stacked = np.full((len(matrices), size, size), np.nan, np.float32)
    for target, matrix in zip(stacked, matrices, strict=True):
        if matrix is not None:
            target[:len(matrix), :len(matrix)] = matrix
    return stacked


def settled(p: np.ndarray | None, instance: Instance, settings: Settings, coin: int = QUESTION) -> np.ndarray | None:
    """Decides what an instance's answers leave open, so that every comparison with an answer has a winner.

    Where half of the samples are for each slot, a coin decides: answers at random have the same measures for every
    number of samples then. Probabilities of 0.5 are for the first slot, as in the paper. Missing answers are 0.5 where
    settings demand it, except those of pairs that were not compared.

    Args:
        p: answers to the question or to its negation, `[N, N]`; None where there are none.
        instance: the instance.
        settings: `missing`, and the seed of the coin.
        coin: `QUESTION` or `NEGATED`.
    """
    if p is None:
        return None
    if instance.sampled:
        p = np.where((p == 0.5) & _coin(instance, settings, coin), BELOW_HALF, p)
    if settings.missing == "first":
        filled = np.asarray(ops.fill_missing(p))
        p = filled if instance.compared is None else np.where(instance.compared, filled, p)
    return p


def _coin(instance: Instance, settings: Settings, number: int) -> np.ndarray:
    count = len(instance.items)
    return np.random.default_rng((settings.seed, instance.key, 0, number)).random((count, count)) < 0.5


def _debiased(p: np.ndarray, instances: Sequence[Instance], settings: Settings) -> np.ndarray:
    """Averages both orders, `[B, size, size]`. Where they cancel out, a coin decides samples; probabilities are for the
    earlier item, except that there are no answers where they cancel out for all pairs: the judge has no opinion."""
    both = np.array(ops.debias(p))
    for own, one in zip(both, instances, strict=True):
        own = own[:len(one.items), :len(one.items)]
        level = np.abs(own - 0.5) <= ops.ROUNDING
        if one.p is not None and one.sampled:
            own[level] = np.where(_coin(one, settings, BOTH), BELOW_HALF, np.float32(0.5))[level]
        elif not (np.abs(own - 0.5) > ops.ROUNDING).any():
            own[:] = np.nan
    return both


def _has_order(instance: Instance) -> bool:
    return instance.order is not None


def _coverage(p: np.ndarray | jax.Array, items: np.ndarray, instances: Sequence[Instance]) -> tuple[np.ndarray, ...]:
    """Computes the share of the compared ordered pairs that have an answer, and their number, `[B]` each."""
    if all(one.compared is None for one in instances):
        return tuple(map(np.asarray, ops.coverage(p, items)))
    wanted = np.zeros(p.shape, bool)
    for target, instance in zip(wanted, instances, strict=True):
        count = len(instance.items)
        target[:count, :count] = True if instance.compared is None else instance.compared
    wanted &= np.asarray(graphs.pairs_of(p, items))
    return tuple(map(np.asarray, graphs.mean_over(~np.isnan(np.asarray(p)), wanted)))


def _measure(instances: Sequence[Instance], settings: Settings) -> list[dict[str, Any]]:
    count = len(instances)
    size = _padded(max(len(one.items) for one in instances))
    items = _items(instances, size)
    given = _stack([one.p for one in instances], instances)
    answers = [settled(one.p, one, settings) for one in instances]
    p = given if all(own is one.p for own, one in zip(answers, instances, strict=True)) else _stack(answers, instances)
    q = None
    nothing = np.full(count, np.nan)
    covered, covered_negated = _coverage(given, items, instances)[0], nothing
    if any(one.q is not None for one in instances):
        q = _stack([settled(one.q, one, settings, NEGATED) for one in instances], instances)
        covered_negated = np.where([one.q is None for one in instances], np.nan, _coverage(
            _stack([one.q for one in instances], instances), items, instances)[0])
    lacking = np.flatnonzero((covered < 1) | (covered_negated < 1))
    if settings.missing == "error" and lacking.size:
        wording = f" to paraphrase {settings.paraphrase}" if settings.paraphrase else ""
        raise UserError(f"instance {instances[lacking[0]].id!r} has comparisons without an answer{wording}", "missing",
                        "set missing to drop or first; rows.jsonl has the answers to the question itself, for "
                        "--judge.kind matrix")
    positions = np.stack([_positions(one, size, settings) for one in instances])
    graph = ops.preference_graph(p, items, positions=positions, tie=settings.tie)
    both = _debiased(p, instances, settings)
    debiased = ops.preference_graph(both, items, positions=positions, tie=settings.tie)
    votes_agree, coin_agrees = _self_agreement(given, items, instances)
    order = _stack([one.order for one in instances], instances) if any(map(_has_order, instances)) else None
    agreement, pairs, ties = (nothing, nothing, nothing) if order is None else ops.order_accuracy(
        p, order, items, tie=settings.tie)
    agreement_of_both = nothing if order is None else ops.order_accuracy(both, order, items, tie=settings.tie)[0]
    lengths = np.zeros((count, size), np.float32)
    for own, one in zip(lengths, instances, strict=True):
        own[:len(one.items)] = [len(text) for text in one.items] if any(one.items) else np.nan
    small = size <= MOST_FOR_CUBIC
    columns: dict[str, Any] = {
        "s_comm": ops.commutativity(p, items, tie=settings.tie)[0],
        "s_neg": nothing if q is None else ops.negation_invariance(p, q, items, tie=settings.tie)[0],
        "human_agreement": agreement, "human_agreement_debiased": agreement_of_both,
        "human_answers": pairs, "human_tied_answers": ties,
        "position_bias": ops.position_bias(p, items, tie=settings.tie)[0],
        "answer_mass": [_mean(one.mass) for one in instances],
        "coverage": covered, "coverage_negated": covered_negated,
        "zeta": graphs.kendall_zeta(graph, items),
        "hodge": graphs.hodge_rank(ops.log_odds(p), items)[1] if small else nothing,
        "self_agreement": votes_agree, "chance_self_agreement": coin_agrees,
        "longer_wins": ops.pairwise_accuracy(p, lengths, items, tie=settings.tie)[0]}
    chosen = {k: _subsets(instances, k, settings) for k in settings.sizes}
    transitive = {name: [_transitivity(own, items, instances, k, chosen[k]) for k in settings.sizes]
                  for name, own in (("s_tran", graph), ("s_tran_debiased", debiased))}
    found: list[list[dict[str, Any]]] = [[] for _ in instances]
    if settings.violations:
        found = _violations(p, q, graph, items, positions, settings, small)
    columns = {name: np.asarray(values) for name, values in columns.items()}
    rows = []
    for i, instance in enumerate(instances):
        row: dict[str, Any] = {"n": len(instance.items)}
        for name, by_size in transitive.items():
            row[name] = {str(k): {key: _known(values[i]) for key, values in own.items()}
                         for k, own in zip(settings.sizes, by_size, strict=True)}
        row |= {name: _known(values[i]) for name, values in columns.items()}
        if not instance.human:
            row["human_answers"] = row["human_tied_answers"] = None
        row["violations"] = found[i]
        row["positions"] = positions[i, :len(instance.items)].tolist()
        rows.append(row)
    return rows


def _self_agreement(given: np.ndarray, items: np.ndarray, instances: Sequence[Instance]
                    ) -> tuple[np.ndarray, np.ndarray]:
    """Computes the self-agreement of the comparisons that have two votes or more, and that of a coin with as many votes
    on each, `[B]`."""
    if all(one.votes is None for one in instances):
        nothing = np.full(len(instances), np.nan)
        return nothing, nothing
    votes = np.nan_to_num(_stack([one.votes for one in instances], instances)).astype(int)
    counted = (votes > 1) & np.asarray(graphs.pairs_of(given, items))
    levels = np.zeros(votes.max(initial=0) + 1)
    for number in np.unique(votes[counted]):
        levels[number] = ops.chance_self_agreement(int(number))
    agreement, _ = ops.self_agreement(np.where(counted, given, np.float32(np.nan)), items)
    by_chance, _ = graphs.mean_over(levels[votes], counted)
    return np.asarray(agreement), np.asarray(by_chance)


def _positions(instance: Instance, size: int, settings: Settings) -> np.ndarray:
    """Returns the positions of an instance's items in the order by which the graph is built."""
    count, positions = len(instance.items), np.arange(size, dtype=np.int32)
    if settings.shuffle:
        positions[:count] = np.random.default_rng((settings.seed, instance.key, 1)).permutation(count)
    elif instance.positions is not None:
        positions[:count] = instance.positions
    return positions


def _subsets(instances: Sequence[Instance], k: int, settings: Settings) -> np.ndarray:
    """Draws subsets of k items of every instance, `[B, M, K]`, -1 where an instance has fewer."""
    drawn = [graphs.subsets(len(one.items), k, settings.subsets, (settings.seed, one.key, k))
             if len(one.items) >= k else np.full((settings.subsets, k), -1, np.int32) for one in instances]
    most = max(int((rows[:, 0] >= 0).sum()) for rows in drawn)
    return np.stack(drawn)[:, :most]


def _transitivity(graph: jax.Array, items: np.ndarray, instances: Sequence[Instance], k: int, chosen: np.ndarray
                  ) -> dict[str, Any]:
    """Computes s_tran(K) of every instance, exactly and by samples, with the reason where there is no exact one."""
    count, size = len(instances), items.shape[1]
    nothing = np.full(count, np.nan)
    uncounted = (k > LARGEST_EXACT or size**(k - 1) > EXACT_STEPS or size > graphs.MOST_ITEMS
                 or math.comb(size - 1, k - 1) >= 2**31)
    exact = nothing if uncounted or k > size else np.asarray(graphs.transitivity(graph, k, items))
    sampled, drawn = nothing, np.zeros(count, int)
    if chosen.shape[1]:
        sampled, drawn = map(np.asarray, graphs.sampled_transitivity(graph, chosen))
    # A graph without an edge, or one of equal items, has no cycle for any judge.
    decided = np.asarray(graphs.strict_edges(graph & graphs.pairs_of(graph, items)).any((1, 2)))
    sampled = np.where(decided, sampled, np.nan)
    whole = np.asarray(graphs.complete(graph, items))
    listed = whole & (drawn == [math.comb(len(one.items), k) for one in instances])
    exact = np.where(listed & np.isnan(exact), sampled, exact)
    reasons: list[str | None] = []
    for i, one in enumerate(instances):
        if len(one.items) < k:
            reasons.append(f"it has fewer than {k} items")
        elif not decided[i]:
            reasons.append("the judge decides no pair")
        elif not whole[i]:
            reasons.append(PARTIAL)
        else:
            reasons.append(f"too many sets of {k} items to count them all" if np.isnan(exact[i]) else None)
    return {"exact": exact, "sampled": sampled, "subsets": drawn, "reason": reasons}


def _violations(p: np.ndarray, q: np.ndarray | None, graph: jax.Array, items: np.ndarray, positions: np.ndarray,
                settings: Settings, small: bool) -> list[list[dict[str, Any]]]:
    """Lists the strongest contradictions of every instance. Cycles have three items; longer ones only where those do
    not show that items contradict each other, as in partial graphs."""
    limit, tie = settings.violations, settings.tie
    kinds: dict[str, Callable[[], ops.Violations]] = {
        "cycle": lambda: ops.cyclic_triples(p, items, positions=positions, tie=tie, limit=limit),
        "order_flip": lambda: ops.order_flips(p, items, tie=tie, limit=limit),
        "negation_failure": lambda: ops.negation_failures(p, q, items, tie=tie, limit=limit)}
    if not small:
        del kinds["cycle"]
    if q is None:
        del kinds["negation_failure"]
    rows: list[list[dict[str, Any]]] = [[] for _ in p]
    for kind, find in kinds.items():
        for row, indices, strengths in zip(rows, *map(np.asarray, find()), strict=True):
            row += [{"kind": kind, "items": own.tolist(), "strength": round(float(strength), 6)}
                    for own, strength in zip(indices, strengths, strict=True) if own[0] >= 0]
        if kind == "cycle":
            for row, longer in zip(rows, _long_cycles(p, graph, items, positions), strict=True):
                row += longer[:limit - len(row)]
    return rows


def _long_cycles(p: np.ndarray, graph: jax.Array, items: np.ndarray, positions: np.ndarray
                 ) -> list[list[dict[str, Any]]]:
    """Lists a shortest cycle of every strongly connected component that has none of three items. A component of a
    complete tournament has one."""
    found: list[list[dict[str, Any]]] = [[] for _ in p]
    partial = np.flatnonzero(~np.asarray(graphs.complete(graph, items)))
    if not partial.size:
        return found
    labels = np.asarray(graphs.components(graph, items))
    edges = np.asarray(graph & graphs.pairs_of(graph, items))
    for i in partial:
        strict = edges[i] & ~edges[i].T
        margin = np.abs(np.where(positions[i][:, None] < positions[i], p[i], p[i].T) - 0.5)
        for part in (part for part in groups_of(labels[i]) if len(part) > 3):
            cycle = part[_shortest_cycle(edges[i][np.ix_(part, part)])]
            if len(cycle) > 3:
                pairs = cycle, np.roll(cycle, -1)
                strength = round(float(margin[pairs][strict[pairs]].min()), 6)
                found[i].append({"kind": "cycle", "items": cycle.tolist(), "strength": strength})
    return found


def _shortest_cycle(edges: np.ndarray) -> list[int]:
    """Finds a shortest cycle of a digraph `[N, N]` with an edge that has no reverse, from its lowest item on; empty
    where there is none."""
    from scipy.sparse import csgraph, csr_array

    length, before = csgraph.shortest_path(csr_array(edges.astype(float)), unweighted=True, return_predecessors=True)
    around = np.where(edges & ~edges.T, length.T, np.inf)
    last, first = (int(i) for i in np.unravel_index(np.argmin(around), around.shape))
    if np.isinf(around[last, first]):
        return []
    cycle = [last]
    while cycle[-1] != first:
        cycle.append(int(before[first, cycle[-1]]))
    cycle.reverse()
    lowest = cycle.index(min(cycle))
    return cycle[lowest:] + cycle[:lowest]


def _known(value: Any) -> Any:
    """Converts to a number or text that JSON can hold; None for NaN."""
    if value is None or isinstance(value, str):
        return value
    number = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(number, float) and math.isnan(number) else number


def _mean(values: np.ndarray | None) -> float | None:
    known = np.array([]) if values is None else values[~np.isnan(values)]
    return float(np.mean(known, dtype=np.float64)) if known.size else None


def column(rows: Sequence[Mapping[str, Any]], *path: str) -> np.ndarray:
    """Returns a measure of all instances as an array, NaN where it is not known."""
    def of(row: Any) -> float:
        for key in path:
            row = row[key]
        return math.nan if row is None else float(row)

    return np.array([of(row) for row in rows])
