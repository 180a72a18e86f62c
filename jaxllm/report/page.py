"""HTML page of a run: sections of text, tables and plots.

Rows hold untrusted text, written by models and strangers. The template escapes all of it, plots are images (which run
no scripts), and a content security policy in the page's head forbids scripts and requests.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

from jaxllm.report.plots import Plot, svg

# A browser shows a few hundred rows without delay.
SHOWN_ROWS = 200


@dataclass(frozen=True)
class Table:
    """A table; numbers are rounded and aligned to the right.

    Attributes:
        header: names of the columns.
        rows: cells of each row: text, numbers, None for an empty cell, or {mean, ci_low, ci_high}, empty too if
            mean is None.
        note: line below the table.
        filters: numbers of columns, such as a language or an outcome, by which the page can show some of the rows.
        folded: numbers of columns with cells that are shown by a click only, such as texts that may be harmful.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    filters: Sequence[int] = ()
    folded: Sequence[int] = ()

    def values(self, column: int) -> list[str]:
        """Returns the distinct values of a column as they are shown."""
        return list(dict.fromkeys(show(row[column]) for row in self.rows))


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        title: heading.
        text: paragraph below the heading.
        parts: tables and plots in reading order.
    """

    title: str
    text: str = ""
    parts: Sequence[Table | Plot] = field(default_factory=tuple)


def render(title: str, lead: str, sections: Sequence[Section], config: str, versions: Mapping[str, Any]) -> str:
    """Renders the page as HTML text.

    Args:
        title: heading of the page.
        lead: one or two sentences: task and outcome.
        sections: contents of the page.
        config: the resolved config as YAML, in a folded element.
        versions: versions of packages and devices; see `job.versions`.
    """
    return _template().render(title=title, lead=lead, sections=sections, config=config, versions=versions,
                              is_table=lambda part: isinstance(part, Table), image=_image, show=show,
                              is_number=is_number)


def head(rows: Sequence[Any], limit: int = SHOWN_ROWS, file: str = "rows.jsonl") -> tuple[Sequence[Any], str]:
    """Returns the first `limit` rows for a table, and a note when there are more.

    Args:
        rows: all rows.
        limit: number of rows that the page shows.
        file: file that has all rows, for the note; "" leaves it out.
    """
    if len(rows) <= limit:
        return rows, ""
    return rows[:limit], f"The first {limit} of {len(rows):,}" + (f"; {file} has all." if file else ".")


@functools.cache
def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("jaxllm.report", ".")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True).get_template("page.html")


def _image(plot: Plot) -> str | None:
    """Encodes a plot as a data URI; None without matplotlib."""
    drawn = svg(plot)
    return drawn and "data:image/svg+xml;base64," + base64.b64encode(drawn.encode()).decode()


def show(cell: Any) -> str:
    """Formats a cell: numbers with three decimals, small and large ones with four digits, intervals in brackets."""
    if cell is None:
        return "–"
    if isinstance(cell, Mapping):
        mean, low, high = (show(cell[name]) for name in ("mean", "ci_low", "ci_high"))
        return mean if cell["mean"] is None else f"{mean} [{low}, {high}]"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:.3f}" if 0.01 <= abs(cell) < 1000 or cell == 0 else f"{cell:.4g}"
    return str(cell)


def is_number(cell: Any) -> bool:
    """Returns True for numbers, intervals and empty cells, which are aligned to the right."""
    return cell is None or isinstance(cell, int | float | Mapping) and not isinstance(cell, bool)
