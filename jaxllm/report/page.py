"""The page: sections of words, tables and plots.

Whatever text goes in comes out as text. Rows hold what models and strangers wrote, so the template escapes all of it,
plots are images (in which nothing runs), and a policy in the page's head forbids scripts and requests altogether.
"""

from __future__ import annotations

import base64
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2

from jaxllm.report.plots import Plot, svg


@dataclass(frozen=True)
class Table:
    """Rows under a header; numbers are rounded and set to the right.

    Attributes:
        header: names of the columns.
        rows: cells of each row: text, numbers, None for nothing, or {mean, ci_low, ci_high}.
        note: a line below.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: its heading.
        text: a paragraph before the rest.
        parts: tables and plots in reading order.
    """

    title: str
    text: str = ""
    parts: Sequence[Table | Plot] = field(default_factory=tuple)


def render(title: str, lead: str, sections: Sequence[Section], config: str, versions: Mapping[str, Any]) -> str:
    """The page as HTML text.

    Args:
        title: of the run.
        lead: what was done and what came of it, in a sentence or two.
        sections: what to show.
        config: the resolved config as YAML, shown folded.
        versions: what the numbers were made with.
    """
    return _template().render(title=title, lead=lead, sections=sections, config=config, versions=versions,
                              is_table=lambda part: isinstance(part, Table), image=_image, show=show,
                              is_number=_is_number)


@functools.cache
def _template() -> jinja2.Template:
    loader = jinja2.PackageLoader("jaxllm.report", ".")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True).get_template("page.html")


def _image(plot: Plot) -> str | None:
    """A plot as a data URI; None where it cannot be drawn."""
    drawn = svg(plot)
    return drawn and "data:image/svg+xml;base64," + base64.b64encode(drawn.encode()).decode()


def show(cell: Any) -> str:
    """A cell as text: numbers to three decimals, or four digits where these would not show; intervals in brackets."""
    if cell is None:
        return "–"
    if isinstance(cell, Mapping):
        return f"{show(cell['mean'])} [{show(cell['ci_low'])}, {show(cell['ci_high'])}]"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:.3f}" if 0.01 <= abs(cell) < 1000 or cell == 0 else f"{cell:.4g}"
    return str(cell)


def _is_number(cell: Any) -> bool:
    return cell is None or isinstance(cell, int | float | Mapping) and not isinstance(cell, bool)
