"""Conversational recommendation: which titles a model names in a dialogue, and whether the right one is among them."""

from jaxllm.evaluate.recommend.catalog import Catalog, title_name
from jaxllm.evaluate.recommend.replies import titles_in
from jaxllm.evaluate.recommend.scores import measures

__all__ = ["Catalog", "measures", "title_name", "titles_in"]
