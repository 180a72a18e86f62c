"""Programs to judge: rows of a data file, or files of source code."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from jaxllm.codejudge.answers import GRADES
from jaxllm.codejudge.prompts import LANGUAGE
from jaxllm.errors import UserError
from jaxllm.generate.rows_job import ID
from jaxllm.text.rows import Rejected, RowSet, read_rows

LANGUAGES = {"python": "Python", "cpp": "C++", "java": "Java", "js": "JavaScript", "go": "Go", "ts": "TypeScript",
             "rust": "Rust", "cs": "C#", "c": "C"}
"""Names of languages as a judge reads them."""
_OTHER_NAMES = {"py": "python", "python3": "python", "c++": "cpp", "javascript": "js", "golang": "go",
                "typescript": "ts", "csharp": "cs", "c#": "cs"}
SUFFIXES = {".py": "python", ".cpp": "cpp", ".cc": "cpp", ".cxx": "cpp", ".hpp": "cpp", ".h": "c", ".c": "c",
            ".java": "java", ".js": "js", ".mjs": "js", ".jsx": "js", ".ts": "ts", ".tsx": "ts",
            ".go": "go", ".rs": "rust", ".cs": "cs", ".rb": "Ruby", ".php": "PHP", ".swift": "Swift",
            ".kt": "Kotlin", ".scala": "Scala", ".sh": "shell", ".sql": "SQL", ".r": "R", ".jl": "Julia",
            ".hs": "Haskell", ".lua": "Lua", ".pl": "Perl", ".ml": "OCaml", ".ex": "Elixir", ".dart": "Dart"}
"""Suffix of a file -> its language."""
NAMES = {name.lower(): name for name in (
    *(name for name in SUFFIXES.values() if name not in LANGUAGES), "Ada", "Assembly", "Bash", "Clojure", "COBOL",
    "Common Lisp", "Crystal", "CUDA", "D", "Delphi", "Elm", "Erlang", "F#", "Fortran", "Groovy", "Lisp", "MATLAB",
    "Nim", "Objective-C", "Octave", "Pascal", "PowerShell", "Prolog", "Racket", "Scheme", "Smalltalk", "Solidity",
    "Tcl", "VBA", "Verilog", "VHDL", "Visual Basic", "Zig")}
"""Other languages that a prompt names; one that is in neither table is named on the fences of its programs alone."""
UNNAMED = "an unnamed language"
ON_FENCE = "the language that its fence names"
PROTOCOLS = ("pooled", "humanevalx", "apps", "bigcodebench", "conala")

_TEXTS = ("task", "problem", "language", "examples", "reference", "declaration", "group", "dataset",
          "subset", "problem_id")
_SCHEMA: dict[str, Any] = {"id": ID, **dict.fromkeys(_TEXTS, str), "group": ID, "problem_id": ID,
                           "label": int | bool, "grade": float, "grader_grades": list[float]}
# Columns that a row takes from the row that its problem_id names.
_SHARED = ("task", "problem", "examples", "reference", "declaration", "dataset")


@dataclass(frozen=True)
class Item:
    """A program to judge.

    Attributes:
        id: identifier, unique in a run, as given; by default the number of the line.
        task: description of what the program should do.
        candidate: the program, or its part after the declaration.
        language: language, by one name for all its spellings; None where it is not known.
        examples: examples of inputs and outputs.
        declaration: text before the candidate and the reference, such as imports and a signature.
        reference: a right program, without the declaration.
        label: 1 for a right program, 0 for a wrong one; None if it is not known.
        grade: grade by people, 0 to 4; None if it is not known.
        graders: grades of the single people.
        group: rows of a group are dependent; by default those with the same task.
        dataset: data set, in lower case letters and digits only.
        subset: part of the data set.
        edit: edit of `robustness.EDITS` that was applied to the candidate.
    """

    id: str | int | float
    task: str
    candidate: str
    language: str | None = None
    examples: str | None = None
    declaration: str = ""
    reference: str | None = None
    label: int | None = None
    grade: float | None = None
    graders: tuple[float, ...] = ()
    group: str = ""
    dataset: str = ""
    subset: str | None = None
    edit: str | None = None

    @property
    def program(self) -> str:
        """The whole program: declaration and candidate."""
        return self.declaration + self.candidate

    @property
    def fields(self) -> dict[str, str | None]:
        """Fields of a prompt, and the `tag` of its programs' fences."""
        reference = None if self.reference is None else self.declaration + self.reference
        name = self.language or ""
        known = LANGUAGES.get(name.lower()) or NAMES.get(name.lower())
        tag = known or (name if LANGUAGE.fullmatch(name) else None)
        return {"task": self.task.strip("\n"), "examples": self.examples, "reference": reference,
                "program": self.program if self.program.strip() else "",
                "language": known or (UNNAMED if tag is None else ON_FENCE), "tag": tag}

    @property
    def protocol(self) -> str:
        """Protocol of the row's data set, by which it is evaluated and worded; pooled for others."""
        return self.dataset if self.dataset in PROTOCOLS else "pooled"


def read_items(path: str | Path, limit: int | None = None, limit_bad: float = 0.1,
               subsets: Sequence[str] | None = None,
               problems: str | Path | None = None, rejected_path: Path | None = None) -> tuple[list[Item], RowSet]:
    """Reads rows `{id?, task (or problem), candidate, language?, examples?, reference?, declaration?, label?, grade?,
    grader_grades?, group?, dataset?, subset?, problem_id?}`.

    A row with a `problem_id` takes task, examples, reference, declaration, group and dataset from the row with that id,
    in `problems` or in the same file. A row without an id has the number of its line.

    Args:
        path, limit, limit_bad, rejected_path: as in `rows.read_rows`.
        subsets: use only rows of these subsets.
        problems: file with the rows that `problem_id` names.

    Raises:
        UserError: a file cannot be read, or too many rows cannot be used.
    """
    known = cache(partial(_problems, path, problems))
    seen: set[str] = set()

    def refusal(row: dict[str, Any]) -> str | None:
        if "problem_id" in row:
            source = known().get(str(row["problem_id"]))
            if source is None:
                return f"there is no row with the id {row['problem_id']!r}, which problem_id names"
            has_task = "task" in row or "problem" in row
            row.setdefault("group", _group(source) or f"problem {row['problem_id']}")
            row |= {name: source[name] for name in _SHARED if name in source and name not in row
                    and not (has_task and name in ("task", "problem"))}
        if (reason := _row_problem(row)) is None and "id" in row:
            if str(row["id"]) in seen:
                return f"a second row with the id {row['id']!r}"
            seen.add(str(row["id"]))
        return reason

    found = read_rows(path, {"candidate": str}, _SCHEMA, limit_bad, rejected_path, limit, refusal,
                      None if subsets is None else lambda row: row.get("subset") in subsets)
    return [_item(row, row.get("id", line if str(line) not in seen else f"line {line}"))
            for line, row in zip(found.lines, found.rows, strict=True)], found


def _problems(path: str | Path, problems: str | Path | None) -> dict[str, dict[str, Any]]:
    """Rows by id: those of the file with the problems, or of the data file itself; wrong ones are left out."""
    found: dict[str, dict[str, Any]] = {}
    for row in read_rows(path if problems is None else problems, {}, _SCHEMA, 1.0).rows:
        if "id" in row and "problem_id" not in row and found.setdefault(str(row["id"]), row) is not row:
            if problems is not None:  # in the data file the second row is rejected
                raise UserError(f"a second row with the id {row['id']!r}", problems, "remove one")
    return found


def _row_problem(row: Mapping[str, Any]) -> str | None:
    """Returns why a row cannot be judged; None if it can."""
    task = row.get("task", row.get("problem"))
    if task is None:
        return "field 'task' is missing (or 'problem')"
    if not task.strip():
        return "field 'task' is empty"
    language = row.get("language")
    if language is not None and not LANGUAGE.fullmatch(language):
        return f"language is {language[:40]!r}, which is no name of a language"
    label = row.get("label")
    if label is not None and label not in (0, 1):
        return (f"label is {label!r}, neither 0 (wrong) nor 1 (right); a grade from {GRADES[0]} to {GRADES[-1]} is a "
                "field of its own")
    grade = row.get("grade")
    if grade is not None and not GRADES[0] <= grade <= GRADES[-1]:
        return f"grade is {grade!r}, no number from {GRADES[0]} to {GRADES[-1]}"
    return None


def language_of(name: str | None) -> str | None:
    """Returns the one name of a language for any of its names, in any case; names that are not known as they are."""
    lower = (name or "").lower()
    return _OTHER_NAMES.get(lower, lower if lower in LANGUAGES else NAMES.get(lower, name))


def _group(row: Mapping[str, Any]) -> str | None:
    """Returns the group of a row, by default that of all rows with its task; None without a task."""
    if "group" in row:
        return str(row["group"])
    task = row.get("task", row.get("problem"))
    return None if task is None else "task " + hashlib.sha256(task.encode()).hexdigest()[:16]


def _item(row: Mapping[str, Any], name: str | int | float) -> Item:
    task = row.get("task", row.get("problem", ""))
    label = row.get("label")
    return Item(name, task, row["candidate"], language_of(row.get("language")), row.get("examples"),
                row.get("declaration", ""), row.get("reference"), None if label is None else int(label),
                None if row.get("grade") is None else float(row["grade"]), tuple(row.get("grader_grades", ())),
                _group(row) or "", re.sub(r"[^a-z0-9]", "", row.get("dataset", "").lower()), row.get("subset"))


def read_code(task: str, paths: Sequence[Path], language: str | None = None) -> tuple[list[Item], list[Rejected]]:
    """Reads files of source code; of directories all files with the suffix of a language.

    Args:
        task: description of what the programs should do.
        paths: files and directories.
        language: language of all files; by default that of their suffix.

    Returns:
        Programs with their paths as ids, and files and folders of directories that cannot be read.

    Raises:
        UserError: a path does not exist, a file that is named cannot be read, or there is no program.
    """
    items: list[Item] = []
    files, rejected = _code_files(paths)
    for path in files:
        text = _text(path)
        if isinstance(text, str):
            items.append(Item(str(path), task, text, language_of(language) or SUFFIXES.get(path.suffix.lower()),
                              group=task))
        elif path in paths:
            raise UserError(text.reason, path)
        else:
            rejected.append(text)
    if not items:
        listed = "".join(f"\n  {one.file}: {one.reason}" for one in rejected[:3])
        raise UserError(f"there is no program to judge{listed}", "code", "give files of source code, or a directory")
    return items, rejected


def _text(path: Path) -> str | Rejected:
    """Reads a file, or returns why it is no source code."""
    try:
        content = path.read_bytes()
        if b"\0" in content:
            return Rejected(str(path), 1, "it holds NUL bytes, so it is no source code", "")
        return content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        return Rejected(str(path), 1, f"not valid UTF-8 at byte {error.start + 1}", "")
    except OSError as error:
        return Rejected(str(path), 1, f"cannot be read: {error.strerror or error}", "")


def _code_files(paths: Sequence[Path]) -> tuple[list[Path], list[Rejected]]:
    """Lists files once each, in the order in which they are named; those of a directory by name; and folders that
    cannot be read. Pipes and devices are passed over."""
    found: dict[Path, None] = {}
    failed: list[Rejected] = []
    note = lambda error: failed.append(Rejected(str(error.filename), 1, f"cannot be read: {error.strerror}", ""))
    for path in paths:
        try:
            if path.is_dir():
                for folder, folders, files in os.walk(path, onerror=note):
                    folders[:] = sorted(name for name in folders if not name.startswith("."))
                    found |= {file: None for name in sorted(files) if (file := Path(folder) / name).suffix.lower()
                              in SUFFIXES and (file.is_file() or file.is_symlink())}
            elif path.is_file():
                found[path] = None
            else:
                raise UserError("there is no such file", path)
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror or error}", path) from None
    return list(found), failed


def with_edits(items: Sequence[Item], edits: Sequence[str]) -> list[Item]:
    """Returns the programs with each edit of `robustness.EDITS` that applies to them; ids get `/EDIT` appended."""
    from jaxllm.codejudge.robustness import EDITS

    changed = []
    for item in items:
        for name in edits:
            candidate = EDITS[name].apply(item.declaration, item.candidate, (item.language or "").lower())
            if candidate is not None:
                changed.append(replace(item, id=f"{item.id}/{name}", candidate=candidate, edit=name))
    return changed

