"""Writes small Python programs with labels, right or wrong for their task, to train and to test judges of code.

    python scripts/make_programs.py OUT.jsonl [--count 2000] [--seed 0] [--held_back 0.2]

Rows are {id, task, language, candidate, label, group, fault, severity, subset}. `group` is a family of
`program_families`; families of subset `test` do not occur in `train`. Label 1 is right for the task. `fault` is the
kind of fault of a wrong program, or what is unusual about a right one; `severity` is Negligible for the latter.

Programs come in pairs, one right and one wrong for the same task. Both get comments, annotations and the like with the
same probability and are about equally long, so that the label can only be derived from what the program does. No
program runs here: labels come from the table, and `tests/codejudge` verifies every program of the table by running it.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import functools
import inspect
import io
import itertools
import json
import random
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from program_families import FAMILIES, POOLS, SEVERITY, Family

from jaxllm.files import write_jsonl

# Names of the function, in place of the family's name; of a parameterless helper; of a variable without use.
FUNCTIONS = ["solve", "solution", "compute", "answer_for", "run", "task", "func", "process", "calculate", "work"]
HELPERS = ["demo", "main", "check_later", "more_cases", "usage"]
UNUSED = ["flag", "debug", "unused", "limit_hint", "tmp", "verbose"]
UNUSED_VALUES = ["0", "1", "None", "True", "False", '""', "[]", "{}"]
PLACEHOLDERS = ["pass", "...", "raise NotImplementedError", "return None", "return NotImplemented"]
COMMENTS = ["main part", "see the task", "plain Python", "next step", "work on the input", "TODO: add tests",
            "first version", "no imports from other packages", "short and simple", "TODO: measure the time",
            "the result comes below", "one step after the other"]
REMARKS = ["", "", "  # TODO", "  # TODO: finish this", "  # to be done"]
MISSING = "missing_name_"  # in a body: a name that is not defined
CHOICES = 12  # right programs, of which the one that fits a wrong program best is taken


@dataclasses.dataclass(frozen=True)
class Program:
    """Holds the text of a function body with the names of the table.

    Args:
        params: names of the parameters.
        body: text of the body.
        label: 1 if it does the task, else 0.
        fault: kind of fault, or what is unusual about a right program.
    """

    params: tuple[str, ...]
    body: str
    label: int
    fault: str | None = None


@dataclasses.dataclass(frozen=True)
class Surface:
    """Describes what a program looks like, apart from what it does. Two programs of a pair have the same surface.

    Args:
        annotated: parameters and result have type annotations.
        docstring: the function has a wording of the task as docstring.
        blank: there is a blank line after the first statement.
        comments: number of comment lines.
        extra: kind of statement without effect, or None.
        placeholder: placeholder in that statement.
        remark: comment after a placeholder, or an empty string.
    """

    annotated: bool
    docstring: bool
    blank: bool
    comments: int
    extra: str | None
    placeholder: str
    remark: str


def signature(family: Family) -> tuple[list[str], list[str]]:
    """Returns names and annotations of a family's parameters."""
    pairs = [param.split(": ") for param in re.split(r", (?=\w+: )", family.params)]
    return [name for name, _ in pairs], [annotation for _, annotation in pairs]


@functools.cache
def local_names(body: str, params: tuple[str, ...]) -> frozenset[str]:
    """Returns the names of the function, its parameters and its variables."""
    names = {"f", *params}
    for node in ast.walk(ast.parse(body)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return frozenset(names)


def edited(family: Family, bodies: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields (kind, body) of the wrong programs that the table lists."""
    for kind, *change in family.wrong:
        if len(change) == 1:
            yield kind, change[0]
            continue
        number, old, new = change
        if old and bodies[number].count(old) != 1:
            raise ValueError(f"{family.name}: {old!r} is not unique in body {number}")
        yield kind, bodies[number].replace(old, new) if old else new + bodies[number]


def unfinished(body: str) -> Iterator[str]:
    """Yields a body cut off before each statement but the first, with each of the placeholders instead of the rest."""
    lines = body.split("\n")
    for line, placeholder in itertools.product(statement_lines(body)[1:], PLACEHOLDERS):
        yield "\n".join([*lines[:line], placeholder])


def undefined(body: str, params: tuple[str, ...]) -> Iterator[str]:
    """Yields a body for each use of a local name, with a name in its stead that is not defined."""
    names, lines = local_names(body, params), body.split("\n")
    for node in ast.walk(ast.parse(body)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names:
            line = lines[node.lineno - 1]
            line = line[:node.col_offset] + MISSING + line[node.end_col_offset:]
            yield "\n".join([*lines[:node.lineno - 1], line, *lines[node.lineno:]])


def right_programs(family: Family) -> list[Program]:
    """Returns all right programs of the table for a family, in the order in which it numbers them."""
    params = tuple(signature(family)[0])
    bodies = [(None, body) for body in family.right] + list(family.odd)
    return [Program(params, inspect.cleandoc(body), 1, fault) for fault, body in bodies]


def wrong_programs(family: Family) -> list[Program]:
    """Returns the wrong programs of the table for a family and those that derive from its right programs."""
    right = right_programs(family)
    params, bodies = right[0].params, [program.body for program in right]
    made = list(edited(family, bodies))
    for body in bodies:
        made += [("unfinished", text) for text in unfinished(body)]
        made += [("undefined_name", text) for text in undefined(body, params)]
    return [Program(params, body, 0, kind) for kind, body in made]


def other_tasks(family: Family, families: Iterable[Family]) -> list[Program]:
    """Returns right programs of other families with parameters of the same types; they are wrong here."""
    found = []
    for other in families:
        related = other.name == family.name or (family.kin and other.kin == family.kin)
        if not related and signature(other)[1] == signature(family)[1]:
            found += [dataclasses.replace(program, label=0, fault="other_task") for program in right_programs(other)]
    return found


@functools.cache
def name_positions(body: str) -> list[tuple[int, int, int, str]]:
    """Returns (line, start, end, name) of the names in a body, last first, without attributes and keyword arguments."""
    tokens = list(tokenize.generate_tokens(io.StringIO(body).readline))
    depth, found = 0, []
    for before, token, after in zip([None, *tokens], tokens, tokens[1:], strict=False):
        depth += (token.string in "([{") - (token.string in ")]}") if token.type == tokenize.OP else 0
        attribute = before is not None and before.string == "."
        if token.type == tokenize.NAME and not attribute and not (depth > 0 and after.string == "="):
            found.append((token.start[0] - 1, token.start[1], token.end[1], token.string))
    return found[::-1]


def renamed(body: str, names: dict[str, str]) -> str:
    """Replaces names in a body, but neither attributes nor names of keyword arguments."""
    lines = body.split("\n")
    for row, start, end, name in name_positions(body):
        lines[row] = lines[row][:start] + names.get(name, name) + lines[row][end:]
    return "\n".join(lines)


@functools.cache
def statement_lines(body: str) -> list[int]:
    """Returns the number of the first line of each statement of a body, counted from 0."""
    return [statement.lineno - 1 for statement in ast.parse(body).body]


def draw_names(program: Program, family: Family, rng: random.Random) -> dict[str, str]:
    """Draws a name for the function, each of its variables and an undefined one; all of them differ."""
    drawn = {"f": rng.choice([family.name, family.name, family.name.replace("_", ""), *rng.sample(FUNCTIONS, 3)])}
    for name in sorted(local_names(program.body, program.params) - {"f"}):
        drawn[name] = rng.choice([choice for choice in POOLS[name] if choice not in drawn.values()])
    free = sorted(set(itertools.chain(*POOLS.values())) - set(drawn.values()))
    return {**drawn, MISSING: rng.choice(free)}


def draw_surface(rng: random.Random) -> Surface:
    """Draws the surface of a pair of programs."""
    extra = rng.choice(["unused_variable", "unused_helper", "dead_code", "no_op"]) if rng.random() < 0.15 else None
    return Surface(rng.random() < 0.4, rng.random() < 0.25, rng.random() < 0.2, rng.choice([0, 0, 0, 1, 1, 2]), extra,
                   rng.choice(PLACEHOLDERS[:2] if extra == "no_op" else PLACEHOLDERS), rng.choice(REMARKS))


def render(program: Program, family: Family, surface: Surface, rng: random.Random) -> str:
    """Writes a program with drawn names and the given surface."""
    names = draw_names(program, family, rng)
    lines, starts = renamed(program.body, names).split("\n"), statement_lines(program.body)
    placeholder = surface.placeholder + surface.remark
    inserted = defaultdict(list)  # number of a line -> lines that come before it
    if surface.docstring:
        inserted[0].append(f'"""{rng.choice(family.wordings)}"""')
    if surface.extra == "no_op":
        inserted[0].append(placeholder)
    elif surface.extra == "unused_variable":
        inserted[rng.choice(starts)].append(f"{rng.choice(UNUSED)} = {rng.choice(UNUSED_VALUES)}")
    elif surface.extra == "dead_code":
        inserted[len(lines)].append(placeholder)
    if surface.blank:
        inserted[starts[1] if len(starts) > 1 else 0].append("")
    for comment in rng.sample(COMMENTS, surface.comments):
        inserted[rng.choice(starts)].append(f"# {comment}")
    if program.fault == "unfinished":  # its last line is the placeholder
        lines[-1] += surface.remark
    body = [line for number, text in enumerate(lines) for line in [*inserted[number], text]] + inserted[len(lines)]
    _, types = signature(family)
    params = [f"{names[name]}: {kind}" if surface.annotated else names[name]
              for name, kind in zip(program.params, types, strict=True)]
    head = f"def {names['f']}({', '.join(params)}){f' -> {family.returns}' if surface.annotated else ''}:"
    text = [head, *(f"    {line}" if line else "" for line in body)]
    if surface.extra == "unused_helper":
        helper = [f"def {rng.choice(HELPERS)}():", f"    {placeholder}"]
        text = [*helper, "", "", *text] if rng.random() < 0.5 else [*text, "", "", *helper]
    return "\n".join(text) + "\n"


class Pairs:
    """Draws pairs of a right and a wrong program of one family.

    Args:
        family: the task.
        families: tasks of the same subset, with right programs that are wrong for this one.
        rng: source of all draws.
    """

    def __init__(self, family: Family, families: Sequence[Family], rng: random.Random):
        self.family, self.rng = family, rng
        self.right, self.wrong = right_programs(family), defaultdict(list)
        for program in [*wrong_programs(family), *other_tasks(family, families)]:
            self.wrong[program.fault].append(program)
        # A fault of the table is drawn as often as each of the kinds that derive from all right programs.
        listed = [kind for kind, *_ in family.wrong]
        self.kinds = listed + sorted(set(self.wrong) - set(listed))
        self.deck: list[str] = []
        self.bag: dict[str, list[Program]] = {}
        self.used, self.seen, self.excess = Counter(), set(), 0

    def draw_wrong(self) -> Program:
        """Draws a wrong program; kinds and the programs of a kind come in turn."""
        if not self.deck:
            self.deck = self.rng.sample(self.kinds, len(self.kinds))
        kind = self.deck.pop()
        if not self.bag.get(kind):
            self.bag[kind] = self.rng.sample(self.wrong[kind], len(self.wrong[kind]))
        return self.bag[kind].pop()

    def draw(self) -> list[tuple[Program, Surface, str]]:
        """Returns a right and a wrong program with their texts, which have not been drawn before.

        The right one is among those with a similar length; the sum of the differences stays near 0.
        """
        for _ in range(100):
            program, surface = self.draw_wrong(), draw_surface(self.rng)
            right_surface = surface
            if program.fault == "unfinished":  # the right program gets the same placeholder, where it has no effect
                placeholder = program.body.rpartition("\n")[2]
                extras = ["dead_code"] + ["no_op"] * (placeholder in PLACEHOLDERS[:2])
                surface = dataclasses.replace(surface, extra=None)
                right_surface = dataclasses.replace(surface, extra=self.rng.choice(extras), placeholder=placeholder)
            wrong = render(program, self.family, surface, self.rng)
            choices = []
            for candidate in self.rng.choices(self.right, k=CHOICES):
                text = render(candidate, self.family, right_surface, self.rng)
                cost = abs(len(text) - len(wrong) + self.excess / 2) + 10 * self.used[candidate]
                choices.append((cost, text, candidate))
            _, right, candidate = min(choices, key=lambda choice: choice[:2])
            if {right, wrong} & self.seen or right == wrong:
                continue
            self.seen |= {right, wrong}
            self.used[candidate] += 1
            self.excess = max(-60, min(60, self.excess + len(right) - len(wrong)))
            return [(candidate, right_surface, right), (program, surface, wrong)]
        raise ValueError(f"{self.family.name}: the table has too few programs for the count")


def split(families: Sequence[Family], held_back: float, rng: random.Random) -> dict[str, str]:
    """Maps each family to a subset; about the given share goes to `test`, and kin stays together."""
    groups = defaultdict(list)
    for family in families:
        groups[family.kin or family.name].append(family.name)
    subsets, rest = {}, round(held_back * len(families))
    for kin in rng.sample(sorted(groups), len(groups)):
        subset = "test" if len(groups[kin]) <= rest else "train"
        rest -= len(groups[kin]) if subset == "test" else 0
        subsets.update(dict.fromkeys(groups[kin], subset))
    return subsets


def make_rows(count: int, seed: int, held_back: float, families: Sequence[Family] = FAMILIES) -> list[dict]:
    """Makes rows, one half of them right, in an order that depends on the seed.

    Args:
        count: number of rows, even.
        seed: seed of all draws.
        held_back: share of the families in subset `test`.
        families: the tasks; the numbers of rows of two of them differ by at most 2.
    """
    rng = random.Random(seed)
    subsets = split(families, held_back, rng)
    order = rng.sample(families, len(families))
    rows = []
    for number, family in enumerate(order):
        of_subset = [other for other in families if subsets[other.name] == subsets[family.name]]
        pairs = Pairs(family, of_subset, rng)
        drawn = [item for _ in range(number, count // 2, len(order)) for item in pairs.draw()]
        for place, (program, surface, text) in enumerate(rng.sample(drawn, len(drawn))):
            fault = program.fault or surface.extra
            rows.append({"id": f"{family.name}-{place:03d}", "task": rng.choice(family.wordings), "language": "python",
                         "candidate": text, "label": program.label, "group": family.name, "fault": fault,
                         "severity": fault and SEVERITY[fault], "subset": subsets[family.name]})
    return rng.sample(rows, len(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=2000, help="number of rows, even")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held_back", type=float, default=0.2, help="share of the tasks in subset test")
    options = parser.parse_args()
    if options.count < 2 or options.count % 2 or not 0 <= options.held_back <= 1:
        parser.error("--count is even and positive, --held_back is from 0 to 1")
    rows = make_rows(options.count, options.seed, options.held_back)
    write_jsonl(options.out, rows)
    print(json.dumps({subset: dict(Counter(row["fault"] or "none" for row in rows if row["subset"] == subset))
                      for subset in ("train", "test")}, indent=1))


if __name__ == "__main__":
    main()
