"""Conversions among the forms of preference rows, on dicts: scored and ranked rows, pairs, unpaired rows.

Every conversion carries other columns along and returns, next to the rows, what makes none, so that its inverse gives
back the original.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from jaxllm.errors import UserError

Pairing = Literal["all", "best_worst"]
_ANSWERS = ("prompt", "chosen", "rejected", "completion", "label")


def pairs_from_scores(row: Mapping[str, Any], pairing: Pairing = "all") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Makes pairs of a row ``{prompt, completions, scores}``; more is better.

    Answers with equal scores make no pair, nor does an answer without one (null). Scores are compared, never rescaled.

    Args:
        row: numbers as scores, or texts of numbers.
        pairing: all pairs with different scores, in the order of the answers; or the best against the worst, where of
            equal ones that with the smallest text is taken.

    Returns:
        Pairs with the columns `chosen_score`, `rejected_score`, `chosen_index`, `rejected_index` (numbers of the
        answers in the row); and the row of the answers in no pair, with the column `indexes`.

    Raises:
        UserError: there are fewer than two answers, another number of scores, or a score is no finite number.
    """
    return _pairs(row, "score", pairing, lambda score: score)


def pairs_from_ranks(row: Mapping[str, Any], pairing: Pairing = "all") -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Makes pairs of a row ``{prompt, completions, ranks}``; less is better. Otherwise as `pairs_from_scores`."""
    return _pairs(row, "rank", pairing, lambda rank: -rank)


def scores_from_pairs(pairs: Sequence[Mapping[str, Any]], rest: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Makes one row ``{prompt, completions, scores}`` of the pairs of one prompt; the inverse of `pairs_from_scores`.

    Args:
        pairs: pairs with scores; or a single one without, and then the scores are 1 and 0.
        rest: the row of the answers in no pair.

    Raises:
        UserError: several pairs without scores, which may have no order.
    """
    return _joined(pairs, rest, "score", (1.0, 0.0))


def ranks_from_pairs(pairs: Sequence[Mapping[str, Any]], rest: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Makes one row ``{prompt, completions, ranks}`` of the pairs of one prompt; the inverse of `pairs_from_ranks`."""
    return _joined(pairs, rest, "rank", (1, 2))


def unpaired_from_pairs(pairs: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Makes two rows ``{prompt, completion, label, pair}`` of every pair: the chosen answer is desirable.

    `pair` is the number of the pair.
    """
    rows = []
    for number, pair in enumerate(pairs):
        others = {name: value for name, value in pair.items() if name not in _ANSWERS}
        if "prompt" in pair:
            others = {"prompt": pair["prompt"]} | others
        rows += [others | {"completion": pair[name], "label": name == "chosen", "pair": number}
                 for name in ("chosen", "rejected")]
    return rows


def pairs_from_unpaired(rows: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Makes pairs of unpaired rows: within a pair (column `pair`), else every desirable with every undesirable answer
    to a prompt.

    A column that differs becomes two, `chosen_NAME` and `rejected_NAME`.

    Returns:
        The pairs, and the rows that are in none.
    """
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        key = ("pair", row["pair"]) if row.get("pair") is not None else ("prompt", json.dumps(row.get("prompt")))
        groups.setdefault(key, []).append(row)
    pairs, rest = [], []
    for group in groups.values():
        sides = [[row for row in group if bool(row["label"]) is wanted] for wanted in (True, False)]
        pairs += [_pair_of(chosen, rejected) for chosen, rejected in itertools.product(*sides)]
        rest += [dict(row) for row in group] if not all(sides) else []
    return pairs, rest


def _pair_of(chosen: Mapping[str, Any], rejected: Mapping[str, Any]) -> dict[str, Any]:
    pair = {"chosen": chosen["completion"], "rejected": rejected["completion"]}
    for name in dict.fromkeys([*chosen, *rejected]):
        if name not in ("completion", "label", "pair"):
            a, b = chosen.get(name), rejected.get(name)
            pair |= {name: a} if a == b else {f"chosen_{name}": a, f"rejected_{name}": b}
    return pair


def order_of(row: Mapping[str, Any], name: Literal["score", "rank"]) -> list[float | None]:
    """Returns the scores or ranks of a row as numbers; null without one.

    Raises:
        UserError: there are fewer than two answers, another number of scores, or a score is no finite number.
    """
    answers, values = from_cell(row.get("completions")), from_cell(row.get(f"{name}s"))
    if not isinstance(answers, list) or not isinstance(values, list):
        raise UserError(f"completions and {name}s must be lists")
    if len(answers) != len(values) or len(answers) < 2:
        raise UserError(f"there are {len(answers)} completions and {len(values)} {name}s; two or more are needed, "
                        f"with a {name} each")
    return [None if value is None else as_number(value, name) for value in values]


def from_cell(value: Any) -> Any:
    """Returns the JSON value that a text spells, as cells of a CSV file do; the text itself if it spells none."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def as_number(value: Any, name: str) -> float:
    """Returns a number, or that which a text spells; `name` is its column, for the error message."""
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):  # the latter by a whole number beyond float
            number = float(value) if isinstance(value, str) else value
            if math.isfinite(number):
                return number
    raise UserError(f"{name} must be a finite number")


def _pairs(row: Mapping[str, Any], name: Literal["score", "rank"], pairing: Pairing, goodness: Callable[[float], float]
           ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    values, answers = order_of(row, name), from_cell(row["completions"])
    good = {i: goodness(value) for i, value in enumerate(values) if value is not None}
    if pairing == "best_worst" and good:
        text = lambda i: json.dumps(answers[i], ensure_ascii=False)
        best = min((i for i in good if good[i] == max(good.values())), key=text)
        worst = min((i for i in good if good[i] == min(good.values())), key=text)
        ordered = [(best, worst)]
    else:
        ordered = [(a, b) if good[a] > good[b] else (b, a) for a, b in itertools.combinations(good, 2)]
    ordered = [(a, b) for a, b in ordered if good[a] != good[b]]
    others = {key: value for key, value in row.items() if key not in ("completions", f"{name}s")}
    pairs = [{**others, "chosen": answers[a], "rejected": answers[b], f"chosen_{name}": values[a],
              f"rejected_{name}": values[b], "chosen_index": a, "rejected_index": b} for a, b in ordered]
    unused = sorted(set(range(len(values))) - {i for pair in ordered for i in pair})
    return pairs, {**others, "completions": [answers[i] for i in unused], f"{name}s": [values[i] for i in unused],
                   "indexes": unused}


def _joined(pairs: Sequence[Mapping[str, Any]], rest: Mapping[str, Any] | None, name: str, plain: tuple[float, float]
            ) -> dict[str, Any]:
    own = [f"{side}_{what}" for side in ("chosen", "rejected") for what in (name, "index")]
    if len(pairs) == 1 and own[0] not in pairs[0]:
        pairs = [{**pairs[0], own[0]: plain[0], own[2]: plain[1], own[1]: 0, own[3]: 1}]
    if not all(set(own) <= set(pair) for pair in pairs):
        raise UserError(f"several pairs without {name}s have no common order", "pairs")
    answers = {}
    for pair in pairs:
        for side in ("chosen", "rejected"):
            answers[pair[f"{side}_index"]] = pair[side], pair[f"{side}_{name}"]
    if rest is not None:
        answers |= {i: (text, value) for i, text, value in
                    zip(rest["indexes"], rest["completions"], rest[f"{name}s"], strict=True)}
    given = dict(pairs[0] if pairs else rest or {})
    others = {key: value for key, value in given.items()
              if key not in (*own, "chosen", "rejected", "completions", f"{name}s", "indexes")}
    texts = [answers[i] for i in sorted(answers)]
    return {**others, "completions": [text for text, _ in texts], f"{name}s": [value for _, value in texts]}
