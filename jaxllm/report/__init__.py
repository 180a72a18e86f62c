"""A run as one page to look at: tables and plots in a single HTML file that needs nothing beside it."""

from jaxllm.report.page import Section, Table, render
from jaxllm.report.plots import Bars, Heat, Histogram, Lines

__all__ = ["Bars", "Heat", "Histogram", "Lines", "Section", "Table", "render"]
