"""Prompts of the judge: instructions from a YAML file, and judged texts in fences that they cannot close.

Task, program, reference, analysis and the language's name are untrusted. They are inserted in one pass, so that braces
in them stay text, between fences with more backticks than any run in them; an unknown language is named on fences
alone. Control tokens that they spell are text for the tokenizer of a local model, and a separate message to a server.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jaxllm.codejudge.answers import Taxonomy
from jaxllm.errors import UserError
from jaxllm.files import expanded, read_yaml
from jaxllm.text.fences import fence_for, fenced

STEPS = ("analyze", "chain_of_thought", "summarize", "direct", "faults", "ice_score", "helpfulness", "pairwise")
CATALOGUES = ("default", "extended", "conala")
FIELDS = ("task", "examples", "reference", "program", "other", "analysis", "language", "note", "faults", "step_by_step",
          "worked_example", "few_shot_summary")
# Fields that hold judged texts, which are put in fences.
_QUOTED = ("task", "examples", "reference", "program", "other", "analysis")
_FIELD = re.compile(r"\{(" + "|".join(FIELDS) + r")\}")
# Names of languages; one that is not known is written on fences alone.
LANGUAGE = re.compile(r"(?=.{1,40}$)[A-Za-z][\w+#/-]*(?:\.[\w+#/-]+)*(?: [\w+#/.-]*[\w+#])?", re.ASCII)
# Fields that a prompt must show; the others need the task and the program.
_DEMANDED = {"summarize": ("analysis",), "pairwise": ("task", "program", "other")}
_NO_PROGRAM = "(The program is empty.)"
_EMPTY = {"program": _NO_PROGRAM, "other": _NO_PROGRAM, "analysis": "(The review is empty.)"}


@dataclass(frozen=True)
class Prompts:
    """The contents of a prompts file.

    Attributes:
        steps: name of a step -> system parts and user parts.
        notes: data set -> what is special about its programs.
        catalogues: name -> faults, each `{kind, severity, about, reference?}`.
        weights, aliases: see `Taxonomy`.
        settings: texts of step_by_step, worked_example and few_shot_summary.
        fences: judged texts are put in fences; without them they can pose as parts of the prompt.
        sha256: hash of the whole contents.
    """

    steps: Mapping[str, Mapping[str, Sequence[Any]]]
    notes: Mapping[str, Any]
    catalogues: Mapping[str, Sequence[Mapping[str, Any]]]
    weights: Mapping[str, float]
    aliases: Mapping[str, str]
    settings: Mapping[str, str]
    fences: bool
    sha256: str = field(repr=False)

    def taxonomy(self, catalogue: str, weights: Mapping[str, float] | None = None) -> Taxonomy:
        """Returns the kinds of faults of a catalogue, with other weights where given."""
        kinds = {one["kind"]: one["severity"] for one in self.catalogues[catalogue]}
        return Taxonomy({**self.weights, **(weights or {})}, kinds, self.aliases)

    def note(self, protocol: str, fields: Mapping[str, str | None]) -> str:
        """Returns what is special about the programs of a data set, for a prompt with some fields."""
        parts = self.notes.get(protocol) or []
        return _joined(parts if isinstance(parts, list) else [parts], {name: "" for name in fields if fields[name]})

    def fault_list(self, catalogue: str, reference: bool) -> str:
        """Lists a catalogue for a prompt, one kind a line."""
        return "\n".join(f"- {one['kind']} ({one['severity']}): {one['about']}" for one in self.catalogues[catalogue]
                         if reference or not one.get("reference"))

    def build(self, step: str, fields: Mapping[str, str | None], chat: bool = True) -> str | list[dict[str, str]]:
        """Builds a prompt.

        Args:
            step: one of `STEPS`.
            fields: values of `FIELDS`, and `tag`, the language on the fences of programs; a field that is absent, None
                or empty is not there for `if`, but a program or an analysis may be empty.
            chat: False makes one text of the instruction and the user's message.

        Returns:
            Messages, or a text where there is no instruction or `chat` is False.
        """
        there = {name: value for name, value in fields.items() if value or (value == "" and name in _EMPTY)}
        fence = fence_for(*(there[name] or "" for name in _QUOTED if name in there))
        tag = there.get("tag") or ""
        shown: dict[str, str] = {}
        for name, value in there.items():
            text = value or _EMPTY.get(name, "")
            if name in _QUOTED and self.fences:
                code = name in ("program", "other", "reference")
                text = fenced(text, fence, _tag(tag) if code else "")
            shown[name] = text
        system, user = (_joined(self.steps[step].get(role, ()), shown) for role in ("system", "user"))
        if not system:
            return user
        if not chat:
            return f"{system}\n\n{user}"
        return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def _tag(language: str) -> str:
    return re.sub(r"[^\w+#.-]", "", language.lower())


def _joined(parts: Sequence[Any], shown: Mapping[str, str]) -> str:
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif ("if" in part and part["if"] in shown) or ("unless" in part and part["unless"] not in shown):
            texts.append(part["text"])
    return "\n\n".join(_FIELD.sub(lambda match: shown.get(match[1], ""), text).strip("\n") for text in texts)


@cache
def _default() -> Mapping[str, Any]:
    return read_yaml(Path(__file__).parent / "prompts.yaml", "the prompts")


def load_prompts(path: str | Path | None = None) -> Prompts:
    """Reads a prompts file; sections and steps that it leaves out are those of the package.

    Raises:
        UserError: it cannot be read, or has another form.
    """
    contents: dict[str, Any] = dict(_default())
    if path is not None:
        own = _read(expanded(path))
        if unknown := set(own) - set(contents):
            raise UserError(f"there is no section {sorted(map(str, unknown))[0]!r}", path,
                            f"sections are {', '.join(contents)}")
        for name, value in own.items():
            merged = isinstance(contents[name], dict) and isinstance(value, dict)
            contents[name] = {**contents[name], **value} if merged else value
    _check(contents, path or "prompts.yaml")
    digest = hashlib.sha256(json.dumps(contents, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    return Prompts({name: _roles(step) for name, step in contents["prompts"].items()}, contents["notes"],
                   contents["catalogues"], {name: float(points) for name, points in contents["weights"].items()},
                   contents["aliases"],
                   {name: contents[name] for name in ("step_by_step", "worked_example", "few_shot_summary")},
                   bool(contents["fences"]), digest)


def _read(path: Path) -> dict[str, Any]:
    own = read_yaml(path, "the prompts")
    if not isinstance(own, dict):
        raise UserError("expected sections such as prompts and weights", path, "see jaxllm/codejudge/prompts.yaml")
    return own


def _roles(step: Mapping[str, Any]) -> dict[str, list[Any]]:
    return {role: list(parts) if isinstance(parts, list) else [parts] for role, parts in step.items()}


def _check(contents: Mapping[str, Any], where: Any) -> None:
    """Raises a `UserError` unless all sections have their form, and every prompt shows what is judged."""
    def demand(fine: bool, what: str, fix: str | None = None) -> None:
        if not fine:
            raise UserError(what, where, fix)

    for name in ("prompts", "notes", "catalogues", "weights", "aliases"):
        demand(isinstance(contents[name], dict) and all(isinstance(key, str) for key in contents[name]),
               f"{name} is a mapping from texts", "quote words such as 'No'")
    for name in ("step_by_step", "worked_example", "few_shot_summary"):
        demand(isinstance(contents[name], str), f"{name} is a text")
    demand(isinstance(contents["fences"], bool), "fences is true or false")
    for name, points in contents["weights"].items():
        demand(isinstance(points, int | float) and not isinstance(points, bool) and 0 <= points < float("inf"),
               f"the weight of {name} is no number of 0 or more: {points!r}")
    severities = tuple(contents["weights"])
    for alias, severity in contents["aliases"].items():
        demand(severity in severities, f"the alias {alias!r} names the severity {severity!r}, which has no weight")
    for catalogue, faults in contents["catalogues"].items():
        for fault in faults if isinstance(faults, list) else [None]:
            own = fault if isinstance(fault, dict) else {}
            demand(all(isinstance(own.get(key), str) for key in ("kind", "severity", "about")),
                   f"a fault of the catalogue {catalogue} needs kind, severity and about")
            demand(own["severity"] in severities, f"the fault {own['kind']} has the severity {own['severity']!r}, "
                   "which has no weight", f"severities are {', '.join(severities)}")
    for name, note in contents["notes"].items():
        _check_parts(note if isinstance(note, list) else [note], f"the note {name}", where)
    for name, step in contents["prompts"].items():
        demand(name in STEPS, f"there is no prompt {name!r}", f"prompts are {', '.join(STEPS)}")
        demand(isinstance(step, dict) and "user" in step and not set(step) - {"system", "user"},
               f"the prompt {name} needs user, and perhaps system")
        for role, parts in _roles(step).items():
            _check_parts(parts, f"{role} of the prompt {name}", where)
        shown = str(step)
        for field_name in _DEMANDED.get(name, ("task", "program")):
            demand(f"{{{field_name}}}" in shown, f"the prompt {name} does not show {{{field_name}}}")


def _check_parts(parts: Sequence[Any], name: str, where: Any) -> None:
    for part in parts:
        text = part.get("text") if isinstance(part, dict) else part
        keys = set(part) if isinstance(part, dict) else {"if", "text"}
        if not isinstance(text, str) or keys not in ({"if", "text"}, {"unless", "text"}):
            raise UserError(f"a part of {name} is neither a text nor {{if, text}} nor {{unless, text}}", where)
        used = set(re.findall(r"\{(\w+)\}", text))
        used |= {part.get("if") or part.get("unless")} if isinstance(part, dict) else set()
        if unknown := [one for one in used if one not in FIELDS]:
            raise UserError(f"{name} uses {unknown[0]!r}, which is no field", where, f"fields are {', '.join(FIELDS)}")
