"""Reports of runs: a self-contained HTML page of tables and plots, and a Markdown table of the headline numbers."""

from jaxllm.report.markdown import markdown
from jaxllm.report.page import Section, Table, head, render
from jaxllm.report.plots import Bars, Graph, Heat, Histogram, Lines, Points

__all__ = ["Bars", "Graph", "Heat", "Histogram", "Lines", "Points", "Section", "Table", "head", "markdown", "render"]
