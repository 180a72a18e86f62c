"""A reward for reinforcement learning: the probability that a judge gives to Yes for a program."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxllm.codejudge.data import Item, language_of
from jaxllm.codejudge.judging import METHODS, YES_NO, choice_probability, step_content
from jaxllm.codejudge.prompts import load_prompts
from jaxllm.errors import UserError
from jaxllm.judge import Judge, Prompt
from jaxllm.progress import notice
from jaxllm.text.forms import Text
from jaxllm.text.thinking import without_thinking

# A block ends with a fence at the start or the end of a line: within a line, backticks are a part of the program.
_BLOCK = re.compile(r"(?<!`)(`{3,}+)[^\n`]*\n(.*?)(?:^[ \t]*\1|\1[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class VerdictProbability:
    """Rewards a program with the probability of Yes after the prompt of the method `direct`.

    The task is the column `task` of a row or, without it, the prompt; the program is the column `declaration`, if there
    is one, and the first fenced block of the response or, without a block, the whole response. Thinking at its start
    does not count.

    Args:
        judge: the judge; `jaxllm rl` opens that of `rewards.judge`.
        prompts: prompts file; None takes the package's.
    """

    judge: Judge | None = None
    prompts: str | None = None

    def opened(self, judge: Judge, prompts: str | None = None) -> VerdictProbability:
        """Returns the reward with a judge."""
        return VerdictProbability(judge, prompts)

    @property
    def identity(self) -> str:
        """Describes judge and prompts."""
        return f"{None if self.judge is None else self.judge.identity}, prompts {load_prompts(self.prompts).sha256}"

    def __call__(self, prompts: Sequence[Text], responses: Sequence[str], rows: Sequence[Mapping[str, Any]]
                 ) -> list[float]:
        """Returns a number from 0 to 1 for every response; see `rl.rewards.RewardFn`.

        A response that ends within its thinking has the reward 0, and so, with a notice, a program that the judge
        cannot read, such as a very long one.

        Raises:
            UserError: there is no judge.
        """
        if self.judge is None:
            raise UserError("it needs a judge", "rewards.judge", "set rewards.judge.model")
        wording, step = load_prompts(self.prompts), METHODS["direct"][0]
        codes = [code_in(response) for response in responses]
        questions = []
        for prompt, code, row in zip(prompts, codes, rows, strict=True):
            if code is not None:
                item = Item("", str(row.get("task") or _as_text(prompt)), code, language_of(row.get("language")),
                            row.get("examples"), row.get("declaration") or "", row.get("reference"))
                questions.append(Prompt(step_content(wording, step, item, chat=self.judge.reads_messages)))
        choices = iter(self.judge.choose(questions, YES_NO, on_failure=lambda _, reason: notice(
            f"a program without a verdict has the reward 0: {reason}")))
        values = [None if code is None else choice_probability(next(choices)) for code in codes]
        return [0.0 if value is None else value for value in values]


def code_in(response: str) -> str | None:
    """Returns the first fenced block after a response's thinking, or all that follows; None if it ends within it."""
    if (own := without_thinking(response)) is None:
        return None
    match = _BLOCK.search(own)
    return match[2] if match else own


def _as_text(prompt: Text) -> str:
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


verdict_probability = VerdictProbability()
