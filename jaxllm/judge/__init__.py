"""Judges answer prompts: a local model, a reward model, a server, recorded answers, or a Python function."""

from jaxllm.judge.cache import Cached
from jaxllm.judge.config import JudgeConfig, open_judge
from jaxllm.judge.function import FunctionJudge
from jaxllm.judge.job import (
    Completions,
    Invalid,
    JudgedRow,
    JudgeSummary,
    Options,
    Sample,
    judge_rows,
    retry_in_conversation,
    retry_same_prompt,
    split_answerable,
)
from jaxllm.judge.local import LocalJudge
from jaxllm.judge.protocol import Answer, Choice, Judge, NoAnswer, Prices, Prompt, Usage, choice_of
from jaxllm.judge.recorded import RecordedJudge
from jaxllm.judge.reward import RewardJudge
from jaxllm.judge.server import ServerJudge

__all__ = ["Answer", "Cached", "Choice", "Completions", "FunctionJudge", "Invalid", "Judge", "JudgeConfig",
           "JudgeSummary", "JudgedRow", "LocalJudge", "NoAnswer", "Options", "Prices", "Prompt", "RecordedJudge",
           "RewardJudge", "Sample", "ServerJudge", "Usage", "choice_of", "judge_rows", "open_judge",
           "retry_in_conversation", "retry_same_prompt", "split_answerable"]
