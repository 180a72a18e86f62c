"""The form of a family of programs, names to draw from, and severities of faults."""

from __future__ import annotations

import dataclasses
from typing import Any

# Name in the bodies -> names to draw from.
POOLS = {name: [name, *others.split()] for name, others in {
    "x": "item element value entry", "y": "other candidate following z", "n": "number num quantity m",
    "k": "size width step q", "a": "first u alpha", "b": "second h beta", "c": "third r gamma",
    "low": "lower minimum lo floor", "high": "upper maximum hi ceiling", "xs": "items values numbers data seq nums",
    "ys": "others extra more rest", "s": "text string phrase line", "t": "pattern sample reference target",
    "ch": "char letter symbol character", "w": "word key name token", "words": "names strings labels tokens",
    "rows": "grid matrix lists table", "row": "inner record strip", "d": "mapping lookup entries pairs_of",
    "e": "other_map addition update", "p": "piece pair group", "i": "idx index pos", "j": "col offset at",
    "total": "acc running subtotal", "count": "counter tally cnt", "out": "result res answer collected",
    "best": "top winner leader", "last": "prev previous recent", "cur": "current now here",
    "left": "front lhs begin", "right": "back rhs stop", "mid": "middle centre half",
    "stack": "pending opened waiting", "seen": "visited known met", "g": "source stream feed",
    "v": "val content weight", "pairs": "records scored bookings", "parts": "pieces sections segments",
}.items()}

# Kind of fault -> how bad it is. The first six kinds leave a program right; the others make it wrong.
SEVERITY = {
    "unused_variable": "Negligible", "unused_helper": "Negligible", "dead_code": "Negligible", "no_op": "Negligible",
    "no_input_check": "Negligible", "redundant_check": "Negligible", "another_algorithm": "Negligible",
    "missed_edge_case": "Small", "off_by_one": "Major", "wrong_operator": "Major", "wrong_initial_value": "Major",
    "wrong_return": "Major", "unfinished": "Fatal", "undefined_name": "Fatal", "other_task": "Fatal",
}


@dataclasses.dataclass(frozen=True)
class Family:
    """Describes a task that has several wordings and several right and wrong programs.

    Args:
        name: task id; also a name of the function.
        params: parameters with annotations, as they are written in a `def`.
        returns: annotation of the result.
        wordings: statements of the task; each fixes the results of all examples.
        right: bodies that do the task.
        wrong: (kind, number of a body, old text, new text), or (kind, whole body). Bodies of `right` and then of `odd`
            are numbered; the old text occurs once, and no old text means that the new one comes first.
        examples: (arguments, result). Every wrong program differs or raises on at least one.
        odd: (kind, body) of programs that do the task and look unusual.
        kin: tasks of equal kin belong to the same subset, and none is offered in place of another.
    """

    name: str
    params: str
    returns: str
    wordings: tuple[str, ...]
    right: tuple[str, ...]
    wrong: tuple[tuple[Any, ...], ...]
    examples: tuple[tuple[tuple, Any], ...]
    odd: tuple[tuple[str, str], ...] = ()
    kin: str = ""
