"""The headline numbers of a run as a Markdown table."""

from __future__ import annotations

import re
from typing import Any

from jaxllm.report.page import Table, is_number, show

# Direction overrides of Unicode, with which a text can make its surroundings read as something else.
_DIRECTION = re.compile(r"[\u202a-\u202e\u2066-\u2069]")


def markdown(title: str, lead: str, table: Table | None) -> str:
    """Renders a heading, a paragraph and a table as GitHub-flavored Markdown; all text is escaped.

    Args:
        title: heading.
        lead: paragraph below the heading.
        table: headline numbers; None leaves the table out.
    """
    parts = [f"# {_escape(title)}", _escape(lead)]
    if table is not None:
        numeric = [all(is_number(row[i]) for row in table.rows) and bool(table.rows) for i in range(len(table.header))]
        lines = [_line(_escape(name) for name in table.header), _line("---:" if right else "---" for right in numeric)]
        parts.append("\n".join([*lines, *(_line(map(_cell, row)) for row in table.rows)]))
        if table.note:
            parts.append(_escape(table.note))
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Any) -> str:
    return show(cell) if is_number(cell) else _escape(show(cell))


def _escape(text: str) -> str:
    """Escapes a text so that it is one line of Markdown and is shown literally."""
    text = " ".join(_DIRECTION.sub("", text).split())
    text = re.sub(r"([\\`*{}\[\]<>#|~$&!])", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
