"""SELF-PARAM: documents written into a model's weights (2410.00487)."""

from jaxllm.self_param.evaluation import ask
from jaxllm.self_param.streams import make_streams

__all__ = ["ask", "make_streams"]
