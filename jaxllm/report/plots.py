"""Plots of the report, drawn by matplotlib without a display."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Okabe and Ito's palette, which is safe for color-blind readers (darkest first, without yellow).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Lines:
    """Line plot.

    Attributes:
        title: title of the plot.
        x: name of the horizontal axis.
        y: name of the vertical axis, with its unit.
        series: name -> (xs, ys).
        log: logarithmic vertical axis, without values that are not positive.
        order: names in the order of their colors, so that a name has the same color in all plots of a page.
        marks: places on the horizontal axis with a dotted vertical line.
    """

    title: str
    x: str
    y: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    log: bool = False
    order: Sequence[str] = ()
    marks: Sequence[float] = ()

    def draw(self, axes) -> None:
        """Draws on the axes of matplotlib."""
        for mark in self.marks:
            axes.axvline(mark, color="#bbbbbb", lw=0.8, ls=":", zorder=0)
        for color, (name, (xs, ys)) in zip(_colors(self.series, self.order), self.series.items(), strict=True):
            shown = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y) and (y > 0 or not self.log)]
            axes.plot(*zip(*shown, strict=True) if shown else ([], []), color=color, label=_literal(name), lw=1.2,
                      marker="o" if len(shown) == 1 else None)  # one point makes no line
        if self.log:
            axes.set_yscale("log")
        if all(isinstance(x, int) for xs, _ in self.series.values() for x in xs):
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(_literal(self.x))
        axes.set_ylabel(_literal(self.y))
        if len(self.series) > 1:
            axes.legend(frameon=False)


@dataclass(frozen=True)
class Points:
    """Scatter plot of ordered points, from light to dark, with others that are joined by a line.

    Attributes:
        title: title of the plot.
        x: name of the horizontal axis, with its unit.
        y: name of the vertical axis, with its unit.
        series: name -> (xs, ys), small points.
        joined: name -> (xs, ys), large points in the color of the name; the last one is filled.
        order: names in the order of their colors, so that a name has the same color in all plots of a page.
    """

    title: str
    x: str
    y: str
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    joined: Mapping[str, tuple[Sequence[float], Sequence[float]]] = field(default_factory=dict)
    order: Sequence[str] = ()

    def draw(self, axes) -> None:
        """Draws on the axes of matplotlib."""
        names = list(dict.fromkeys([*self.series, *self.joined]))
        for color, name in zip(_colors(names, self.order), names, strict=True):
            xs, ys = self.series.get(name, ((), ()))
            shades = [0.15 + 0.6 * i / max(len(xs) - 1, 1) for i in range(len(xs))]
            axes.scatter(xs, ys, s=14, color=color, alpha=shades or None, lw=0)
            xs, ys = self.joined.get(name, ((), ()))
            axes.plot(xs, ys, color=color, lw=1.2, marker="o", ms=7, mfc="white", label=_literal(name))
            axes.plot(xs[-1:], ys[-1:], color=color, marker="o", ms=7)
        axes.set_xlabel(_literal(self.x))
        axes.set_ylabel(_literal(self.y))
        if len(names) > 1:
            axes.legend(frameon=False)


@dataclass(frozen=True)
class Bars:
    """Bar plot of means with confidence intervals.

    Attributes:
        title: title of the plot.
        y: name of the vertical axis, with its unit.
        values: name -> {mean, ci_low, ci_high}; an interval is not drawn where an end is None.
        top: upper end of the axis; by default that of the values.
        order: names in the order of their colors, so that a name has the same color in all plots of a page.
        x: name of the horizontal axis, if the names are numbers on it: all bars have one color.
    """

    title: str
    y: str
    values: Mapping[str, Mapping[str, Any]]
    top: float | None = None
    order: Sequence[str] = ()
    x: str | None = None

    def draw(self, axes) -> None:
        """Draws on the axes of matplotlib."""
        colors = _colors(self.values, self.order) if self.x is None else [COLORS[0]] * len(self.values)
        for i, (color, value) in enumerate(zip(colors, self.values.values(), strict=True)):
            mean, low, high = value["mean"], value["ci_low"], value["ci_high"]
            # A bootstrap interval need not hold its mean to the last digit.
            error = None if low is None or high is None else [[max(mean - low, 0)], [max(high - mean, 0)]]
            axes.bar(i, mean, width=0.6, color=color, yerr=error, capsize=4)
        # Many names fit under an axis only if they are slanted.
        slanted = dict(rotation=20, ha="right") if len(self.values) > 4 and self.x is None else {}
        axes.set_xticks(range(len(self.values)), [_literal(name) for name in self.values], **slanted)
        axes.set_xlabel(_literal(self.x or ""))
        axes.set_ylabel(_literal(self.y))
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]), top=self.top)


@dataclass(frozen=True)
class Histogram:
    """Histogram of values.

    Attributes:
        title: title of the plot.
        x: name of the values, with their unit.
        values: the values.
    """

    title: str
    x: str
    values: Sequence[float]

    def draw(self, axes) -> None:
        """Draws on the axes of matplotlib."""
        # Bins need values that differ by more than rounding.
        values = [float(f"{value:.9g}") for value in self.values if math.isfinite(value)]
        axes.hist(values, bins=min(40, max(len(set(values)), 1)), color=COLORS[0])
        axes.set_xlabel(_literal(self.x))
        axes.set_ylabel("count")


@dataclass(frozen=True)
class Heat:
    """Heat map of a matrix with values between 0 and 1, blank where they are NaN; the first row is at the bottom.

    Attributes:
        title: title of the plot.
        x, y: names of the axes.
        values: rows of equal length.
    """

    title: str
    x: str
    y: str
    values: Sequence[Sequence[float]]

    def draw(self, axes) -> None:
        """Draws on the axes of matplotlib."""
        image = axes.imshow(self.values, origin="lower", aspect="auto", vmin=0, vmax=1, cmap="cividis",
                            interpolation="nearest")
        axes.figure.colorbar(image, ax=axes)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(_literal(self.x))
        axes.set_ylabel(_literal(self.y))


@dataclass(frozen=True)
class Graph:
    """Small directed graph with its nodes on a circle.

    Attributes:
        title: title of the plot.
        nodes: labels of the nodes.
        edges: (from, to), by numbers of the nodes.
        marked: edges that are drawn in color, such as those of a cycle.
    """

    title: str
    nodes: Sequence[str]
    edges: Sequence[tuple[int, int]]
    marked: Sequence[tuple[int, int]] = ()

    def draw(self, axes) -> None:
        """Draws on the axes of matplotlib."""
        angles = [math.pi / 2 - 2 * math.pi * i / len(self.nodes) for i in range(len(self.nodes))]
        places = [(math.cos(angle), math.sin(angle)) for angle in angles]
        for edge in sorted(self.edges, key=lambda edge: edge in self.marked):
            color, width = (COLORS[1], 1.8) if edge in self.marked else ("#bbbbbb", 0.7)
            axes.annotate("", places[edge[1]], places[edge[0]], arrowprops=dict(
                arrowstyle="-|>", color=color, lw=width, shrinkA=11, shrinkB=11))
        for label, (x, y) in zip(self.nodes, places, strict=True):
            axes.text(x, y, _literal(label), ha="center", va="center", fontsize="small",
                      bbox=dict(boxstyle="circle,pad=0.25", fc="white", ec=COLORS[0]))
        axes.set_xlim(-1.3, 1.3)
        axes.set_ylim(-1.3, 1.3)
        axes.set_aspect("equal")
        axes.set_axis_off()


Plot = Lines | Points | Bars | Histogram | Heat | Graph


def svg(plot: Plot) -> str | None:
    """Draws a plot as SVG text; returns None without matplotlib."""
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        return None
    # Names of shapes are drawn from a fixed salt: the same numbers give the same file.
    with rc_context({"svg.hashsalt": "jaxllm", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        plot.draw(axes)
        axes.set_title(_literal(plot.title), loc="left", fontsize="medium")
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue()


def _colors(names: Iterable[str], order: Sequence[str]) -> list[str]:
    index = {name: i for i, name in enumerate(dict.fromkeys([*order, *names]))}
    return [COLORS[index[name] % len(COLORS)] for name in names]


def _literal(text: str) -> str:
    """Escapes dollar signs, a pair of which would be typeset as a formula, and replaces what no XML may hold."""
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text).replace("$", r"\$")
