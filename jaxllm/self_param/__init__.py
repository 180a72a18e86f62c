"""SELF-PARAM: documents injected into the weights of a model (2410.00487).

    from jaxllm import load, Generator
    from jaxllm.self_param import inject

    model = load("tiny")
    injection = inject(model, "The ship Rinla sails from Torla.")
    Generator(model).generate([model.prompt_ids("...")], sampling, adapter=injection.adapter)
"""

from jaxllm.self_param.config import InjectConfig
from jaxllm.self_param.evaluation import answer_questions
from jaxllm.self_param.injection import Injection, inject
from jaxllm.self_param.prompts import FormatConfig, Prompts
from jaxllm.self_param.qa_filter import QAPair

__all__ = ["FormatConfig", "InjectConfig", "Injection", "Prompts", "QAPair", "answer_questions", "inject"]
