"""Conversational recommendation: titles that a model lists in a dialogue, scored against those recommended next."""

from jaxllm.evaluate.recommend.catalog import Catalog, title_name
from jaxllm.evaluate.recommend.replies import titles_in
from jaxllm.evaluate.recommend.scores import measures

__all__ = ["Catalog", "measures", "title_name", "titles_in"]
