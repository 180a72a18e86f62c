"""Whoever answers a prompt is a judge: a local model, a server, recorded answers, a function."""

from jaxllm.judge.cache import Cached
from jaxllm.judge.config import JudgeConfig, open_judge
from jaxllm.judge.function import FunctionJudge
from jaxllm.judge.local import LocalJudge
from jaxllm.judge.protocol import Answer, Choice, Judge, Prompt, choice_of
from jaxllm.judge.recorded import RecordedJudge
from jaxllm.judge.server import ServerJudge

__all__ = ["Answer", "Cached", "Choice", "FunctionJudge", "Judge", "JudgeConfig", "LocalJudge", "Prompt",
           "RecordedJudge", "ServerJudge", "choice_of", "open_judge"]
