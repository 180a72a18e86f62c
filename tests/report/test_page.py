"""Reports: contents, and safety against untrusted text."""

import base64
import math
import re
import sys
from xml.etree import ElementTree

import pytest

from jaxllm.report import Bars, Heat, Histogram, Lines, Points, Section, Table, head, markdown, render
from jaxllm.report.page import show
from jaxllm.report.plots import svg

HOSTILE = "<script>alert(1)</script>\" onload='x' {{ 7 * 7 }} </td></table> $\\frac{1}{$ \u202e & <img src=x onerror=y>"
VALUE = {"mean": 0.5, "ci_low": 0.25, "ci_high": 0.75, "n": 4}


def page(*parts, title="T", lead="L", config="a: 1\n"):
    return render(title, lead, [Section(title, lead, parts)], config, {"jaxllm": "1"})


def images(html: str) -> list[str]:
    return [base64.b64decode(code).decode() for code in re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', html)]


def test_untrusted_text_stays_text():
    html = page(Table([HOSTILE], [[HOSTILE]], HOSTILE), title=HOSTILE, lead=HOSTILE, config=HOSTILE)
    assert "<script" not in html and "<img" not in html and "49" not in html
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 7
    assert html.count("</table>") == 1


def test_untrusted_names_in_plots():
    html = page(Lines(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: ([1], [2.0]), "b": ([1], [1.0])}),
                Bars(HOSTILE, HOSTILE, {HOSTILE: VALUE}))
    assert len(images(html)) == 2
    for drawn in images(html):
        assert "<script" not in drawn and "&lt;script&gt;" in drawn


def test_plots_are_images_with_any_names():
    name = "a\x0b\0\ud83d\uffff"
    unknown = {"mean": 0.5, "ci_low": None, "ci_high": None}
    for plot in (Bars(name, name, {name: unknown}), Histogram(name, name, [1.0])):
        ElementTree.fromstring(svg(plot))


def test_pages_fetch_and_run_nothing():
    html = page(Lines("loss", "step", "nats", {"a": ([1, 2], [2.0, 1.0])}))
    assert "default-src 'none'" in html
    assert not re.search(r"<script|<link|https?://", html)


@pytest.mark.parametrize("cell, text", [
    (None, "–"), (True, "yes"), (12345, "12,345"), (0.5, "0.500"), (0.0, "0.000"), (0.00012345, "0.0001234"),
    (12345.678, "1.235e+04"), ("x", "x"), (VALUE, "0.500 [0.250, 0.750]"),
    ({"mean": None, "ci_low": None, "ci_high": None, "n": 0}, "–")])
def test_cells(cell, text):
    assert show(cell) == text


def test_plots_are_reproducible_and_show_their_numbers():
    plot = Lines("loss", "step", "nats", {"a": ([1, 2], [2.0, 1.0]), "b": ([1, 2], [1.0, 0.0])}, log=True)
    assert svg(plot) == svg(plot)
    assert all(word in svg(plot) for word in (">loss<", ">step<", ">nats<", ">a<", ">b<"))


def test_plots_of_nothing_and_of_one_value():
    for plot in (Lines("t", "x", "y", {}), Lines("t", "x", "y", {"a": ([1], [0.0])}, log=True), Bars("t", "y", {}),
                 Heat("t", "x", "y", [[0.5, math.nan]]), Histogram("t", "x", []),
                 Histogram("t", "x", [3.0, 3.0, math.inf])):
        assert svg(plot).startswith("<?xml")


def test_one_point_of_a_line_is_seen():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    Lines("t", "x", "y", {"one": ([1], [0.5]), "two": ([1, 2], [0.5, 0.4])}).draw(axes)
    assert [line.get_marker() for line in axes.lines] == ["o", "None"]


def test_marks_of_lines_are_dotted():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    Lines("t", "x", "y", {"a": ([1, 2], [0.5, 0.4])}, marks=[1.5]).draw(axes)
    mark, line = axes.lines
    assert list(mark.get_xdata()) == [1.5, 1.5] and mark.get_linestyle() == ":" != line.get_linestyle()


def test_points_darken_in_their_order_and_the_last_joined_one_is_filled():
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    plot = Points("t", "x", "y", {"a": ([1.0, 3.0, 2.0], [5.0, 6.0, math.nan]), "b": ([], [])},
                  {"a": ([0.0, 4.0], [1.0, 2.0])})
    plot.draw(axes)
    first, second = axes.collections
    assert first.get_offsets()[:2].tolist() == [[1.0, 5.0], [3.0, 6.0]] and len(second.get_offsets()) == 0
    assert list(first.get_alpha()) == sorted(set(first.get_alpha())) and len(first.get_alpha()) == 3
    joined, last = axes.lines[:2]
    assert joined.get_xydata().tolist() == [[0.0, 1.0], [4.0, 2.0]] and joined.get_markerfacecolor() == "white"
    assert last.get_xydata().tolist() == [[4.0, 2.0]] and last.get_markerfacecolor() == joined.get_color()
    assert svg(plot) == svg(plot) and svg(Points("t", "x", "y", {})).startswith("<?xml")


def test_a_page_without_matplotlib(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"] + ["matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    html = page(Lines("loss", "step", "nats", {"a": ([1], [2.0])}), Table(["x"], [[1]]))
    assert "jaxllm[plot]" in html and "<img" not in html and "<table>" in html


def test_untrusted_text_cannot_break_the_markdown_table():
    hostile = "a | b\n| --- |\r\n# c `x` *y* _z_ <img src=x> [l](http://h) ![i](j) \\| \u202e~d~ $m$ &amp;"
    text = markdown(hostile, hostile, Table([hostile, "self_param"], [[hostile, 0.5], [None, VALUE]], hostile))
    title, _, lead, _, header, rule, first, second, _, note = text.rstrip("\n").split("\n")
    assert title == f"# {lead}" and lead == note
    assert header == f"| {lead} | self_param |" and rule == "| --- | ---: |"
    assert first == f"| {lead} | 0.500 |" and second == "| – | 0.500 [0.250, 0.750] |"
    assert "\u202e" not in text and re.findall(r"(?<!\\)(?:\\\\)*[|`*<>\[\]~$&!#]", lead) == []
    assert lead.startswith(r"a \| b \| --- \| \# c \`x\` \*y\* \_z\_ \<img src=x\> \[l\](http://h) \!\[i\](j) \\\| ")


def test_a_long_table_shows_its_first_rows():
    assert head([1, 2], 2) == ([1, 2], "")
    assert head(list(range(1234)), 2) == ([0, 1], "The first 2 of 1,234; rows.jsonl has all.")
    assert head([1, 2, 3], 1, "") == ([1], "The first 1 of 3.")
