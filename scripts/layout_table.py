"""Writes the table of files in docs/layout.md: every module with its number of lines and the first sentence about it.

    python scripts/layout_table.py [--print]
"""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "layout.md"
MARKS = "<!-- files: python scripts/layout_table.py -->", "<!-- end of files -->"


def first_sentence(path: Path) -> str:
    """Returns the first sentence of a module's docstring on one line, or an empty string."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    return re.split(r"(?<=[.:]) (?=[A-Z`|])", text)[0].rstrip(":")


def table(package: Path) -> str:
    """Formats the modules of a package, by directory, as a Markdown table."""
    lines = ["| file | lines | |", "|---|---|---|"]
    paths = sorted(package.rglob("*.py"), key=lambda path: (path.parent != package, str(path.parent), path.name))
    for path in paths:
        count = len(path.read_text().splitlines())
        about = first_sentence(path).replace("|", "\\|")
        lines.append(f"| `{path.relative_to(package.parent)}` | {count} | {about} |")
    total = sum(len(path.read_text().splitlines()) for path in paths)
    return "\n".join([*lines, f"| {len(paths)} files | {total:,} | |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--print", action="store_true", help="print the table and leave the page as it is")
    if parser.parse_args().print:
        print(table(ROOT / "jaxllm"))
        return
    before, rest = PAGE.read_text().split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    PAGE.write_text(f"{before}{MARKS[0]}\n{table(ROOT / 'jaxllm')}\n{MARKS[1]}{after}")


if __name__ == "__main__":
    main()
