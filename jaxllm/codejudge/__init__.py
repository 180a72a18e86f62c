"""CodeJudge (2410.02184): whether programs are right, judged by a language model without running them."""

from jaxllm.codejudge.answers import PARSERS, Fault, Taxonomy, fault_score
from jaxllm.codejudge.config import Config
from jaxllm.codejudge.data import Item, read_code, read_items
from jaxllm.codejudge.judging import METHODS, CodeJudge
from jaxllm.codejudge.prompts import Prompts, load_prompts

__all__ = ["METHODS", "PARSERS", "CodeJudge", "Config", "Fault", "Item", "Prompts", "Taxonomy", "fault_score",
           "load_prompts", "read_code", "read_items"]
