"""README and docs: their commands parse, what is marked `run` runs, doctests pass, links resolve.

Code blocks carry a marker after the language: `sh run` and `python run` are executed, `sh check` is parsed by the
command itself (`--print_config`), `jsonl FILE` is written to the directory in which the page's blocks run. Python
blocks with `>>>` are doctests.
"""

import contextlib
import doctest
import io
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from jaxllm.cli import main
from tests.conftest import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARKERS = {"sh": ("run", "check"), "python": ("run", ""), "yaml": ("",), "text": ("",)}
page = pytest.mark.parametrize("page", [path for path in PAGES if path.exists()], ids=lambda path: path.stem)


def blocks(path: Path, *languages: str) -> list[tuple[str, str]]:
    """`(marker, text)` of the code blocks of a page in the given languages."""
    return [(marker, text) for language, marker, text in BLOCK.findall(path.read_text()) if language in languages]


def commands(text: str) -> list[list[str]]:
    """The words of every command of a shell block; a line that ends with a backslash continues."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


@pytest.fixture
def directory(tmp_path, monkeypatch):
    """An empty working directory with the checkout's configs in it."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jaxllm(words: list[str]) -> str:
    """Runs a command of the package and returns what it printed."""
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        status = main(words)
    assert status == 0, f"jaxllm {shlex.join(words)} exits with {status}: {errors.getvalue()[-2000:]}"
    return out.getvalue()


@page
def test_blocks_have_known_markers(page):
    for language, marker, _ in BLOCK.findall(page.read_text()):
        assert language == "jsonl" and marker or marker in MARKERS[language], f"```{language} {marker}"
    assert page.read_text().count("```") == 2 * len(BLOCK.findall(page.read_text()))


@page
def test_commands_exist(page, directory):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for _, text in blocks(page, "sh"):
        for program, *words in commands(text):
            match program:
                case "jaxllm":
                    jaxllm([*words, "--print_config"])
                case "make":
                    assert {word for word in words if "=" not in word} <= set(targets), words
                case "pip":
                    assert words[0] == "install" and set(re.findall(r"\[([\w,]+)\]", words[1])) <= set(extras), words
                case "python":
                    source = (ROOT / words[0]).read_text()
                    assert all(word[2:] in source for word in words if word.startswith("--")), words
                case _:
                    raise AssertionError(f"{program}: not a command of this project")


@page
@pytest.mark.slow
def test_marked_blocks_run(page, directory):
    namespace: dict = {}
    for language, marker, text in BLOCK.findall(page.read_text()):
        if language == "jsonl":
            Path(marker).write_text(text)
        elif language == "python" and marker == "run":
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(text, f"{page.name}", "exec"), namespace)
        elif language == "sh" and marker == "run":
            for program, *words in commands(text):
                assert program == "jaxllm"
                jaxllm(words)


@page
@pytest.mark.slow
def test_doctests(page, directory):
    sessions = "\n".join(text for _, text in blocks(page, "python") if ">>>" in text)
    if not sessions:
        pytest.skip("no doctest on this page")
    test = doctest.DocTestParser().get_doctest(sessions, {}, page.name, str(page), 0)
    report = io.StringIO()
    failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(
        test, out=report.write).failed
    assert not failed, report.getvalue()


@page
def test_links_resolve(page):
    slug = lambda title: re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-")
    text = BLOCK.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        other = (page.parent / file).resolve() if file else page
        assert other.exists(), target
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.*)$", other.read_text(), re.MULTILINE)), target


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_layout_page_names_every_module():
    listed = set(re.findall(r"^\| `(jaxllm/[\w/]+\.py)`", (ROOT / "docs" / "layout.md").read_text(), re.MULTILINE))
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "jaxllm").rglob("*.py")}
    assert listed == modules, "run scripts/layout_table.py"
