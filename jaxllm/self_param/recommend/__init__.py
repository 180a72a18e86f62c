"""Conversational recommendation: which titles a model names in a dialogue, and whether the right one is among them."""

from jaxllm.self_param.recommend.catalogue import Catalogue, title_name
from jaxllm.self_param.recommend.replies import titles_in
from jaxllm.self_param.recommend.scores import measures

__all__ = ["Catalogue", "measures", "title_name", "titles_in"]
