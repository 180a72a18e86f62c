"""Counts words of prose and identifiers that the glossary avoids, and terms of the field, for one or several checkouts.

    python scripts/prose_counts.py [CHECKOUT ...] [--list]

Prints a Markdown table with one column per checkout; `--list` prints every occurrence of an avoided word instead.
Prose is docstrings, comments and messages of Python files, comments of YAML files, and Markdown pages without code
blocks. `tests/test_words.py` uses the same lists.
"""

from __future__ import annotations

import argparse
import ast
import functools
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

# Word -> what to write in its stead.
AVOIDED_PROSE = {
    "told|tell|tells": "says by a verb of the domain: reports, raises, returns, prints",
    "asked|asks|asking": "prompted, queried, requested",
    "said|say|says": "generates, answers, states; nouns: completion, output",
    "whose": "with, of",
    "whatever": "any, regardless of",
    "nobody": "no ...",
    "so many": "number of",
    "lies|lie": "is, is located",
    "stands|stand": "is",
    "beside": "next to, with",
    "behind": "after",
    "kept": "stored, retained",
    "likeliest": "most probable, top-k, argmax",
    "reworded": "paraphrases",
    "beginning|beginnings": "prefix, start",
    "arm|arms": "method",
    "strange": "unknown",
    r"reader(?!\.yaml)": "teacher, open-book model",
    "room": "context budget, space",
}
AVOIDED_NAMES = {
    "told|untold": "teacher_cache, before_injection", "said|say": "completions, answer", "arm|arms": "method",
    "asked|asking": "prompts, query", "room": "budget", "gap": "kl", "nats": "nll", "reader": "teacher",
    "strange": "unknown", "likeliest": "top_k, argmax", "reworded": "paraphrases", "beginning|beginnings": "prefix",
    "useless": "rejected", "obstacle": "unanswerable_reason", "admit": "insert", "beside": "next_to", "behind": "after",
    "lies|lie|stands|stand": "is", "whatever|whose|nobody": "any, of, no",
    "sight": "attention_mask", "recipe": "train_plan", "study": "experiment",
}
# Scripts with strings that are data: sentences of the invented world, prompts, and the card of the packaged model.
DATA_STRINGS = ("scripts/tiny_world.py", "scripts/tiny_tables.py", "scripts/tiny_measure.py",
                "scripts/make_tiny_model.py")
# Right in some names and vague in most: counted, not forbidden.
VAGUE_NAMES = ("found", "one", "kind", "place", "places", "kept")
# First word of an argument's description.
AVOIDED_STARTS = ("of", "what", "who", "whose")
FIELD_TERMS = ["prefill", "KV cache", "attention mask", "chunk|chunks|chunked", "rollout|rollouts",
               "baseline|baselines", "decode|decodes|decoding", "teacher", "student", "open-book|open_book",
               "closed-book|closed_book", "locality", "paraphrase|paraphrases|paraphrased", "rehearsal",
               "log-probability|log-probabilities", "greedy", "nucleus"]
SOURCES = ("jaxllm/**/*.py", "scripts/*.py", "tests/**/*.py", "configs/**/*.yaml", "jaxllm/assets/*.yaml", "docs/*.md",
           "*.md", ".github/**/*.yml")
DESCRIPTION = re.compile(r"^ {4,}(?P<name>\*{0,2}\w[\w.`]*(?:, \w+)*): (?P<first>[\w-]+)", re.MULTILINE)


def files(root: Path) -> list[Path]:
    """Files of a checkout that are searched, sorted; without the packaged models."""
    return sorted({path for pattern in SOURCES for path in root.glob(pattern) if path.is_file()})


@functools.lru_cache(maxsize=1)  # the functions below go through the same file one after the other
def nodes(text: str) -> list[ast.AST]:
    """Parses a Python file."""
    return list(ast.walk(ast.parse(text)))


def docstrings(text: str) -> Iterator[tuple[int, str]]:
    """Yields (line, text) of the docstrings of a Python file."""
    for node in nodes(text):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) \
                    and isinstance(first.value.value, str):
                yield first.lineno, first.value.value


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Yields (line, text) of the comments of a Python file."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def messages(text: str) -> Iterator[tuple[int, str]]:
    """Yields (line, text) of the strings of a Python file that look like prose and are no docstrings."""
    own = {line for line, _ in docstrings(text)}
    for node in nodes(text):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            if node.lineno not in own:
                yield node.lineno, node.value


def names(text: str) -> Iterator[tuple[int, str]]:
    """Yields (line, name) of the names that a Python file defines: functions, classes, arguments, variables, fields."""
    for node in nodes(text):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr


def name_parts(name: str) -> list[str]:
    """Splits `snake_case` and `CamelCase` into lower-case words."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]


def prose(path: Path, with_messages: bool = True) -> Iterator[tuple[int, str]]:
    """Yields (line, text) of the prose of a file."""
    text = path.read_text()
    if path.suffix == ".py":
        yield from docstrings(text)
        yield from comments(text)
        if with_messages:
            yield from messages(text)
    elif path.suffix in (".yaml", ".yml"):
        for number, line in enumerate(text.splitlines(), 1):
            if "#" in line:
                yield number, line.partition("#")[2]
    else:
        fenced = False
        for number, line in enumerate(text.splitlines(), 1):
            fenced ^= line.startswith("```")
            if not fenced:
                yield number, line


def pattern(words: str) -> re.Pattern:
    """Compiles alternatives separated by `|` into a search for whole words."""
    return re.compile(rf"(?<![\w.-])(?:{words})(?![\w-])", re.IGNORECASE)


def occurrences(root: Path, with_messages: bool = True) -> Iterator[tuple[Path, int, str, str]]:
    """Yields (file, line, avoided words, text) for a checkout, without strings of tests and of `DATA_STRINGS`."""
    searches, any_of_them = {words: pattern(words) for words in AVOIDED_PROSE}, pattern("|".join(AVOIDED_PROSE))
    parts = {word: words for words in AVOIDED_NAMES for word in words.split("|")}
    for path in files(root):
        relative = path.relative_to(root)
        has_data = relative.parts[0] == "tests" or relative.as_posix() in DATA_STRINGS
        for line, text in prose(path, with_messages and not has_data):
            for words, search in searches.items() if any_of_them.search(text) else ():
                for hit in search.finditer(text):
                    start = line + text.count("\n", 0, hit.start())
                    yield relative, start, words, " ".join(text[max(0, hit.start() - 30):hit.end() + 30].split())
        if path.suffix == ".py":
            source = path.read_text()
            for line, name in names(source):
                for part in set(name_parts(name)) & set(parts):
                    yield relative, line, f"name: {parts[part]}", name
            for line, text in docstrings(source):
                for hit in DESCRIPTION.finditer(text):
                    if hit["first"].lower() in AVOIDED_STARTS:
                        yield (relative, line + text.count("\n", 0, hit.start()),
                               f"description starts with: {'|'.join(AVOIDED_STARTS)}", hit[0].strip())


def field_terms(root: Path) -> Counter[str]:
    """Counts the field's terms in the prose of a checkout."""
    texts = [text for path in files(root) for _, text in prose(path, False)]
    return Counter({words: sum(len(pattern(words).findall(text)) for text in texts) for words in FIELD_TERMS})


def vague_names(root: Path) -> Counter[str]:
    """Counts definitions of the names that are right in few contexts."""
    return Counter(name for path in files(root) if path.suffix == ".py" for _, name in names(path.read_text())
                   if name in VAGUE_NAMES)


def table(roots: Sequence[Path]) -> str:
    """Formats the counts of several checkouts as a Markdown table."""
    avoided = [Counter(words for _, _, words, _ in occurrences(root, False)) for root in roots]
    terms, vague = [field_terms(root) for root in roots], [vague_names(root) for root in roots]
    size = [sum(len(text.split()) for path in files(root) for _, text in prose(path, False)) for root in roots]
    head = ["", *(str(root) for root in roots)]
    starts = f"description starts with: {'|'.join(AVOIDED_STARTS)}"
    rows = [["words of prose", *size], ["**avoided in prose**"]]
    rows += [[words, *(count[words] for count in avoided)] for words in [*AVOIDED_PROSE, starts]]
    rows += [["**avoided in names**"]]
    rows += [[words, *(count[f"name: {words}"] for count in avoided)] for words in AVOIDED_NAMES]
    rows += [["**vague names, definitions**"]]
    rows += [[name, *(count[name] for count in vague)] for name in VAGUE_NAMES]
    rows += [["**the field's terms**"]]
    rows += [[words, *(count[words] for count in terms)] for words in FIELD_TERMS]
    full = [[str(cell).replace("|", ", ") for cell in row] + [""] * (len(head) - len(row)) for row in [head, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in full]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path, nargs="*", default=[Path(__file__).resolve().parent.parent])
    parser.add_argument("--list", action="store_true", help="every occurrence of an avoided word")
    options = parser.parse_args()
    if not options.list:
        print(table(options.checkouts))
        return
    for root in options.checkouts:
        for path, line, words, text in occurrences(root):
            print(f"{path}:{line}: [{words}] {text}")


if __name__ == "__main__":
    main()
