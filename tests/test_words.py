"""The glossary: words that the field does not use stay out of names, docstrings, comments, messages and pages."""

from pathlib import Path

import pytest

from scripts.prose_counts import name_parts, occurrences, prose
from tests.conftest import ROOT

# Files that define the list, name what was renamed, or hold data: sentences of the packaged world and prompts.
EXEMPT = {"scripts/prose_counts.py", "CHANGELOG.md", "scripts/tiny_measure.py", "scripts/family_fixtures.py",
          "scripts/tiny_world.py", "scripts/make_tiny_model.py",
          "scripts/tiny_paraphrases.py", "scripts/tiny_tables.py", "tests/test_words.py"}


def test_avoided_words_are_absent():
    hits = [f"{path}:{line}: [{words}] {text}" for path, line, words, text in occurrences(ROOT)
            if str(path) not in EXEMPT and path.parts[0] != "tests"]
    assert not hits, f"{len(hits)} words of the list in scripts/prose_counts.py:\n" + "\n".join(hits[:60])


@pytest.mark.parametrize(("name", "parts"), [
    ("teacher_cache", ["teacher", "cache"]), ("OnPolicyTargets", ["on", "policy", "targets"]),
    ("KVCache2", ["kv", "cache", "2"]), ("_PRIVATE", ["private"])])
def test_names_are_split(name, parts):
    assert name_parts(name) == parts


def test_prose_of_a_python_file(tmp_path: Path):
    file = tmp_path / "module.py"
    file.write_text('"""A module."""\nx = 1  # a comment\nprint("a message", "word")\n')
    assert list(prose(file)) == [(1, "A module."), (2, "# a comment"), (3, "a message")]
