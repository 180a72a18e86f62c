"""SELF-PARAM: documents written into a model's weights (2410.00487)."""

from jaxllm.self_param.evaluation import ask, gap
from jaxllm.self_param.injection import Injection, inject, make_recipe
from jaxllm.self_param.loss import make_loss, reading_gap
from jaxllm.self_param.streams import make_streams

__all__ = ["Injection", "ask", "gap", "inject", "make_loss", "make_recipe", "make_streams", "reading_gap"]
