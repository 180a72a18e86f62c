"""The glossary: words that the field does not use stay out of names, docstrings, comments, messages and pages."""

from pathlib import Path

import pytest

from scripts.prose_counts import name_parts, occurrences, prose
from tests.conftest import ROOT

# The first defines the list, the second names what was renamed. Strings that are data: `DATA_STRINGS` of the script.
EXEMPT = {"scripts/prose_counts.py", "CHANGELOG.md"}


def test_avoided_words_are_absent():
    hits = [f"{path}:{line}: [{words}] {text}" for path, line, words, text in occurrences(ROOT)
            if path.as_posix() not in EXEMPT]
    assert not hits, f"{len(hits)} words of the list in scripts/prose_counts.py:\n" + "\n".join(hits[:60])


def test_docstrings_comments_and_names_are_searched_everywhere(tmp_path: Path):
    source = '"""Whatever."""\nbeside = 1  # nobody\nprint("a message that says so")\n'
    for folder in ("tests", "scripts"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "module.py").write_text(source)
    lines = [(path.parts[0], line) for path, line, _, _ in occurrences(tmp_path)]
    assert sorted(lines) == [*[("scripts", line) for line in (1, 2, 2, 3)], *[("tests", line) for line in (1, 2, 2)]]


@pytest.mark.parametrize(("name", "parts"), [
    ("teacher_cache", ["teacher", "cache"]), ("OnPolicyTargets", ["on", "policy", "targets"]),
    ("KVCache2", ["kv", "cache", "2"]), ("_PRIVATE", ["private"])])
def test_names_are_split(name, parts):
    assert name_parts(name) == parts


def test_prose_of_a_python_file(tmp_path: Path):
    file = tmp_path / "module.py"
    file.write_text('"""A module."""\nx = 1  # a comment\nprint("a message", "word")\n')
    assert list(prose(file)) == [(1, "A module."), (2, "# a comment"), (3, "a message")]
