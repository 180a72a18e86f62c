"""Draws docs/self_param.svg, the picture of the README, from the first results table of docs/self_param.md.

    python scripts/readme_figure.py

Needs matplotlib (`pip install '.[plot]'`).
"""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

DOCS = Path(__file__).resolve().parent.parent / "docs"
# Column of the table -> title of its panel.
PANELS = {"token F1": "Token F1 of the answers", "locality": "Locality: other answers unchanged",
          "drift KL, nats/token": "Drift on unrelated text, nats/token"}
COLORS = {"closed_book": "#9a9a9a", "open_book": "#4c78a8", "self_param": "#e45756", "finetune": "#72b7b2",
          "finetune_questions": "#eeca3b"}
Interval = tuple[float, float, float]


def read_table(page: str) -> dict[str, dict[str, Interval | None]]:
    """Reads the first table with the first column `method`: {column: {method: (mean, low, high) or None}}."""
    lines = page[page.index("| method | token F1"):].splitlines()
    header, *rows = [[cell.strip() for cell in line.strip("|").split("|")]
                     for line in lines[:next(i for i, line in enumerate(lines) if not line.startswith("|"))]]
    methods = [re.match(r"`(\w+)`", row[0]).group(1) for row in rows[1:]]
    numbers = [[re.findall(r"\d+\.\d+", cell) for cell in row] for row in rows[1:]]
    return {name: {method: tuple(map(float, row[column])) or None for method, row in zip(methods, numbers, strict=True)}
            for column, name in enumerate(header)}


def main() -> None:
    table = read_table((DOCS / "self_param.md").read_text())
    plt.rcParams |= {"svg.hashsalt": "jaxllm", "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif"}
    figure, axes = plt.subplots(1, len(PANELS), figsize=(9, 2.6), sharey=True, layout="constrained")
    for axis, (column, title) in zip(axes, PANELS.items(), strict=True):
        for y, (method, interval) in enumerate(table[column].items()):
            if interval is None:
                axis.text(0, y, " does not apply", va="center", color="#777777", fontsize=8)
                continue
            mean, low, high = interval
            axis.barh(y, mean, color=COLORS[method], xerr=[[mean - low], [high - mean]],
                      error_kw={"elinewidth": 1, "capsize": 2})
            axis.text(high, y, f"  {mean:.3f}", va="center", fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.set_yticks(range(len(COLORS)), list(COLORS))
        axis.set_xlim(0, 1.25)
        axis.set_xticks([0, 0.5, 1])
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    figure.savefig(DOCS / "self_param.svg", metadata={"Date": None})
    print(DOCS / "self_param.svg")


if __name__ == "__main__":
    main()
