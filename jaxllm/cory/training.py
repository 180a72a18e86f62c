"""The loop over iterations, for the command and for `train`, and the split of rows by prompt."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxllm.config import check
from jaxllm.cory.config import QueryConfig, TeamConfig
from jaxllm.cory.prompts import check_row, check_template, encode_query, longest_prompt
from jaxllm.cory.team import NAMES, Team, Trainer, Turn
from jaxllm.devices import open_mesh
from jaxllm.errors import UserError
from jaxllm.finetune.trainable import as_adapter, merged, trainable_model
from jaxllm.generate import Generator
from jaxllm.model import Model
from jaxllm.models import Adapter, Params
from jaxllm.progress import notice
from jaxllm.rl.rewards import Part, Reward, RewardFn, Row
from jaxllm.train import Checkpointer, MetricsSink, Session, TrainState

# Iterations in a row in which all updates of an agent are skipped, after which the run ends.
MOST_IDLE = 3


def split(rows: Sequence[Row], query: QueryConfig, held_back: int, model: Model) -> tuple[list[Row], list[Row]]:
    """Splits rows into those for training and others that are held back, chosen by a hash of their prompt.

    Rows are of one prompt if the shortest cut of both, see `QueryConfig.tokens`, is the same. All rows of a prompt are
    on one side, where the held-back one has a single row of each.

    Args:
        rows: the rows.
        query: settings of prompts.
        held_back: number of prompts, at most half of all.
        model: its tokenizer.
    """
    shortest = query if query.tokens is None else dataclasses.replace(query, tokens=[query.tokens[0]] * 2)
    by_prompt: dict[str, list[Row]] = {}
    for row in rows:
        ids = encode_query(model, shortest, row, sys.maxsize).ids
        by_prompt.setdefault(hashlib.sha256(ids.tobytes()).hexdigest(), []).append(row)
    count = min(held_back, len(by_prompt) // 2)
    if count < held_back:
        notice(f"there are {len(by_prompt)} different prompts, of which {count} are held back, and not {held_back}")
    chosen = set(sorted(by_prompt)[:count])
    return ([row for digest, own in by_prompt.items() if digest not in chosen for row in own],
            [own[0] for digest, own in by_prompt.items() if digest in chosen])


def agents_of(team: Team) -> dict[str, TrainState]:
    """Returns the states of the agents by name, as a checkpoint holds them."""
    return dict(zip(NAMES, team.agents, strict=False))


def fit(trainer: Trainer, team: Team, made: int, before: Mapping[str, Any], *, checkpointer: Checkpointer | None = None,
        metrics: MetricsSink | None = None, samples: MetricsSink | None = None, shown: int = 0, progress: bool = True
        ) -> tuple[Team, bool]:
    """Makes the iterations that are left.

    Args:
        trainer: the run.
        team: the agents after `made` iterations.
        made: iterations made.
        before: evaluation before training, which checkpoints hold.
        checkpointer: saves; None saves nothing.
        metrics: takes a line for every iteration.
        samples: takes the first responses of every agent and iteration.
        shown: number of these.
        progress: show a bar.

    Returns:
        The agents, and whether a signal stopped the run.

    Raises:
        UserError: a reward failed (the iterations before are saved), or an agent could not be updated in several
            iterations in a row.
    """
    config = trainer.config
    with Session(made, config.iterations, log_every=1, save_every=config.train.save_every, checkpointer=checkpointer,
                 metrics=metrics, progress=progress) as session:
        sidecar = lambda: {"pioneer": team.pioneer, "drawn": team.drawn, "idle": team.idle, "before": before}
        for iteration in session.steps():
            roles = {team.in_role(role): role for role in range(config.agents)}
            due = config.held_back.every is not None and iteration > 0 and iteration % config.held_back.every == 0
            try:  # an evaluation is part of the iteration after it: if it fails, the one before it is saved
                held_back = {"held_back": trainer.evaluate(team)} if due else {}
                team, numbers, turns = trainer.iterate(team, iteration)
            except UserError:
                if iteration:
                    session.finish(agents_of(team), sidecar())
                raise
            if samples is not None:
                for agent, role in sorted(roles.items()):
                    for sample in _first(turns[role], shown):
                        samples.write(iteration, {"agent": NAMES[agent], **sample})
            for own in numbers["agents"].values():
                if own["kl_estimate"] < -1:
                    notice(f"kl.kind: the mean estimate {config.kl_kind} of an iteration is below -1 nat a response, "
                           "and no divergence is negative: responses are few, or are not drawn from the policy (top_k, "
                           "top_p, min_p, repetition_penalty, logit_bias); k2, k3 and full are never negative")
            tokens = sum(int(turn.rollout.lengths.sum()) for turn in turns)
            session.log(iteration, {}, host={"iteration": iteration, **numbers, **held_back}, tokens=tokens)
            if max(team.idle) == MOST_IDLE:
                raise UserError(f"no update in {MOST_IDLE} iterations in a row, up to iteration {iteration}: no finite "
                                "loss and gradient, or no token left to train on", "train",
                                "lower the learning rate, scale or clip scores, or change scores.missing_end")
            session.save_if_due(iteration, agents_of(team), sidecar())
        session.finish(agents_of(team), sidecar())
        return team, session.interrupted


def _first(turn: Turn, count: int) -> list[dict[str, Any]]:
    """Describes the first responses of a role."""
    return [{"prompt": turn.queries[i].text, "response": turn.rollout.texts[i], "task_reward": float(turn.scores[i]),
             "length": int(turn.rollout.lengths[i])} for i in range(min(count, len(turn.scores)))]


@dataclasses.dataclass(frozen=True)
class Trained:
    """Result of `train`.

    Attributes:
        adapters: adapter of every agent, by name; None where all weights are trained.
        params: all weights of every agent, where these are trained, by name; else empty.
        before, after: `task_reward`, `kl` and `length` of every agent on held-back queries, each with its interval.
        metrics: numbers of every iteration.
    """

    adapters: dict[str, Adapter | None]
    params: dict[str, Params]
    before: dict[str, Any]
    after: dict[str, Any]
    metrics: list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class _Lines:
    lines: list[dict[str, Any]]

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """See `MetricsWriter.write`."""
        self.lines.append(dict(values))


def train(model: Model, rows: Sequence[Row], reward: RewardFn, *, config: TeamConfig, progress: bool = True) -> Trained:
    """Trains a model by reinforcement learning, with one agent or two.

    Args:
        model: the model; its weights are left as they are.
        rows: rows {prompt}, {messages} or {text}, or with the columns of `config.query.template`.
        reward: function (prompts, responses, rows) -> scores; see `rl.rewards`.
        config: algorithm, agents and training; `held_back.path` is of the command alone.
        progress: show a progress bar.

    Raises:
        UserError: a prompt, the observer's template or a reward cannot be used.
    """
    check(config.held_back.path is None, "held_back.path", "is read by the command alone", "leave it out")
    check_template(model, config)
    longest = longest_prompt(config, model.spec)
    for number, row in enumerate(rows, 1):
        check(isinstance(row, Mapping), f"row {number}", f"must be a mapping, got {type(row).__name__}")
        try:
            check_row(model, config, row, longest)
        except (UserError, ValueError) as error:  # the tokenizer refuses a lone surrogate
            what = error.what if isinstance(error, UserError) else str(error)
            raise UserError(what, f"row {number}", "remove it, or lower sampling.max_tokens") from None
    training, held_back = split(rows, config.query, config.held_back.rows, model)
    mesh, lines = open_mesh(config.mesh), _Lines([])
    base = Generator(trainable_model(model, config.lora, config.device), dtype=config.device.compute_dtype, mesh=mesh,
                     batch_size=min(256, config.rows))
    checked = reward if isinstance(reward, Reward) else Reward([Part(reward)])
    trainer = Trainer.make(config, base, training, held_back, checked, mesh)
    team = trainer.start()
    before = trainer.evaluate(team)
    team, interrupted = fit(trainer, team, 0, before, metrics=lines, progress=progress)
    if interrupted:
        raise KeyboardInterrupt
    agents, after = agents_of(team), trainer.evaluate(team)
    adapters = {name: as_adapter(state.params, config.lora) for name, state in agents.items()}
    params = {} if config.lora is not None else {
        name: merged(base.model, state.params, None) for name, state in agents.items()}
    return Trained(adapters, params, before, after, lines.lines)
