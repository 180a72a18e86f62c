"""Settings of `jaxllm rl`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jaxllm.config import DataConfig, check, tunable
from jaxllm.rl.config import RlConfig
from jaxllm.rl.rewards import RewardConfig
from jaxllm.text.templates import fields_of

CollectiveReward = Literal["sum", "mean", "own"]


@dataclass(frozen=True)
class QueryConfig:
    """Prompts, from the rows of the data.

    Args:
        template: text with columns of a row in braces; null takes the column prompt, messages or text.
        tokens: number of leading tokens of the prompt that are used, drawn for every row from this range, both ends
            included; null uses all.
    """

    template: str | None = None
    tokens: list[int] | None = None

    def __post_init__(self):
        check(self.template is None or bool(fields_of(self.template)), "template",
              "has no column in braces, so that all prompts would be the same")
        check(self.tokens is None or len(self.tokens) == 2 and 1 <= self.tokens[0] <= self.tokens[1], "tokens",
              f"must be the smallest and the largest number, got {self.tokens}")


@dataclass(frozen=True)
class CoryConfig:
    """Cooperation of two agents (CORY, 2410.06101): the observer sees the pioneer's response to the same query.

    Args:
        observer_template: prompt of the observer, with the fields {query} (required) and {response}, the pioneer's. Of
            messages the last one is replaced.
        transfer: show the pioneer's response; without, both agents see the query alone.
        reward: reward of both agents: the sum of both scores, their mean, or each its own score.
        shared_response: the pioneer gives one response to a query, and all observers of the group see it. Its reward is
            the mean over their pairs, compared with those of the whole batch. Group algorithms without dynamic
            sampling.
        exchange_resets: state that an exchange of roles resets, as the released code does, which makes new trainers:
            none, the optimizer's, or also the KL coefficient and the moments of scores (all).
    """

    observer_template: str = 'A first attempt: "{query}{response}"\nA better one: {query}'
    transfer: bool = True
    reward: CollectiveReward = "sum"
    shared_response: bool = False
    exchange_resets: Literal["none", "optimizer", "all"] = "none"

    def __post_init__(self):
        fields = fields_of(self.observer_template)
        check("query" in fields, "observer_template", "{query} is not in it",
              "put it where the observer reads the query")
        check(set(fields) <= {"query", "response"}, "observer_template",
              f"knows {{query}} and {{response}}, and has {{{(set(fields) - {'query', 'response'} or {''}).pop()}}}")


@dataclass(frozen=True)
class HeldBackConfig:
    """Rows that are not trained on: every agent answers their bare queries, before and after training.

    Args:
        rows: number of rows, chosen by a hash of the prompt; 0 evaluates nothing.
        path: file of these rows; null takes them from the data.
        every: iterations between evaluations, which are in metrics.jsonl as `held_back` of the next iteration; null
            evaluates before and after.
        samples: responses of every agent to each query; the task reward, KL and length of a query are their means.
        pass_at: numbers k of samples, at most `samples`: pass@k is the probability that one of k solves the query. The
            rewards must be 0 or 1.
    """

    rows: int = 64
    path: str | None = None
    every: int | None = None
    samples: int = 1
    pass_at: list[int] = field(default_factory=list)

    def __post_init__(self):
        least = 0 if self.path is None else 1
        check(self.rows >= least, "rows", f"must be {least} or more, got {self.rows}")
        check(self.every is None or self.every >= 1, "every", f"must be 1 or more, or null, got {self.every}")
        check(self.samples >= 1, "samples", f"must be 1 or more, got {self.samples}")
        check(not self.pass_at or self.rows > 0, "pass_at", "needs held-back queries", "set held_back.rows")
        check(all(1 <= k <= self.samples for k in self.pass_at), "pass_at", f"must be from 1 to the {self.samples} "
              f"responses to a query, got {self.pass_at}", "raise held_back.samples")


@dataclass(frozen=True, kw_only=True)
class TeamConfig(RlConfig):
    """How one agent learns, or two that cooperate.

    Args:
        agents: 1, or 2 for a pioneer and an observer.
        exchange_every: iterations after which both agents exchange their roles; null never.
        cory: cooperation of two agents.
        query: prompts.
        held_back: rows for evaluation.
    """

    agents: int = 1
    exchange_every: int | None = 5
    cory: CoryConfig = field(default_factory=CoryConfig)
    query: QueryConfig = field(default_factory=QueryConfig)
    held_back: HeldBackConfig = field(default_factory=HeldBackConfig)

    def __post_init__(self):
        super().__post_init__()
        check(self.agents in (1, 2), "agents", f"must be 1 or 2, got {self.agents}")
        check(self.exchange_every is None or self.exchange_every >= 1, "exchange_every",
              f"must be 1 or more, or null, got {self.exchange_every}")
        check(self.cory.exchange_resets == "none" or self.train.schedule == "constant" and not self.train.warmup_steps,
              "cory.exchange_resets", "would start the schedule of the learning rate again", "use a constant rate")
        if self.cory.shared_response:
            key = "cory.shared_response"
            check(self.agents == 2 and self.cory.transfer, key, "is for a pioneer and observers that see its response",
                  "set agents to 2 and cory.transfer to true")
            check(self.own.has_groups and not self.own.filters_groups, key,
                  f"is for group algorithms without dynamic sampling, and algorithm is {self.algorithm}",
                  "use rloo, grpo, dr_grpo or gspo")
            check(self.train.batch_size > 1, key, "compares the pioneer's responses to different prompts",
                  "raise train.batch_size")
            check(self.train.schedule == "constant" and not self.train.warmup_steps, key,
                  "gives the pioneer fewer updates than the observer, and the learning rate follows their number",
                  "use a constant rate")


@dataclass(frozen=True)
class Config(TeamConfig):
    """Fine-tunes a model by reinforcement learning: one agent, or two that cooperate (CORY).

    Args:
        data: rows with the column prompt (a text), messages or text, or those of query.template.
        out: directory for the results.
        model: checkpoint directory, GGUF file, Hub id, or tiny.
        reward: classifier (the score of a class), reward_model, judge (the probability of its first option), gsm8k (1
            for the right number, else 0; gsm8k_strict reads it after ####), words (the sum of their values), or
            package.module:name of a function (prompts, responses, rows) -> scores. A list of several is added.
        rewards: their models and weights.
        samples: responses of every agent and iteration that rows.jsonl and the report show.
        save: output in DIR/agents: adapters, models (with the adapter merged), or nothing.
        dry_run: print shapes and memory, and exit.
    """

    data: DataConfig
    out: Path
    model: str = "tiny"
    reward: str | list[str] = "gsm8k"
    rewards: RewardConfig = field(default_factory=RewardConfig)
    samples: int = tunable(4)
    save: Literal["adapter", "model", "nothing"] = "adapter"
    dry_run: bool = False

    def __post_init__(self):
        super().__post_init__()
        self.rewards.check_names(self.reward_names, "reward")
        check(self.samples >= 0, "samples", f"must be 0 or more, got {self.samples}")
        check(self.save != "adapter" or self.lora is not None, "save",
              "all weights are trained, so there is no adapter", "set save to model or nothing")
        check(self.save != "model" or self.device.quantize is None, "save",
              "an adapter is not merged into quantized weights", "set save to adapter, and merge with jaxllm convert")

    @property
    def reward_names(self) -> list[str]:
        """Names of the rewards."""
        return [self.reward] if isinstance(self.reward, str) else self.reward
