"""Agents that learn together: roles, collective reward, exchange, and one iteration of all (CORY, 2410.06101).

One agent alone is the same loop without an observer. An iteration samples the pioneers' responses and then the
observers', scores them, and updates each agent by its own responses; no gradient passes between agents.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.cory.config import CollectiveReward, TeamConfig
from jaxllm.cory.prompts import Query, encode_query, longest_prompt, observer_prompt
from jaxllm.errors import UserError
from jaxllm.finetune.packing import can_pack
from jaxllm.finetune.texts import RowShape
from jaxllm.generate import Generator
from jaxllm.measures import pass_at_k
from jaxllm.model import Model
from jaxllm.models import ModelSpec
from jaxllm.ops import combined_reward, init_moments
from jaxllm.ops.advantages import equal_scores
from jaxllm.progress import notice
from jaxllm.rl.agent import CRITIC, Experience, Learner, drawn_seed, init_agent, penalized
from jaxllm.rl.rewards import RewardFn, Row
from jaxllm.rl.rollouts import Rollout, concatenate, rollout_shape
from jaxllm.statistics import interval
from jaxllm.text.thinking import opening_tag_of
from jaxllm.train import TrainState, row_indices

NAMES = ("llm1", "llm2")
"""Agents; the first is the pioneer of the first iteration."""
ROLES = ("pioneer", "observer")
# Purposes of random draws, see `drawn_seed`.
_QUERIES, _LIMITS, _SAMPLES, _ORDER, _HELD_BACK_QUERIES, _HELD_BACK_SAMPLES = range(CRITIC + 1, CRITIC + 7)
# Tokens that a response may take in an observer's prompt beyond its limit, or a query cut within a character beyond the
# longest cut: decoded and encoded again they may have more.
_SLACK = 8


@dataclasses.dataclass(frozen=True)
class Team:
    """The agents at one moment.

    Attributes:
        agents: state of every agent, in the order of `NAMES`.
        pioneer: index of the pioneer.
        drawn: batches of rows drawn so far.
        idle: iterations in a row, up to now, in which all updates of an agent were skipped, by agent; without those in
            which dynamic sampling left it no group.
    """

    agents: tuple[TrainState, ...]
    pioneer: int = 0
    drawn: int = 0
    idle: tuple[int, ...] = (0, 0)

    def in_role(self, role: int) -> int:
        """Returns the index of the pioneer (0) or the observer (1)."""
        return self.pioneer if role == 0 else 1 - self.pioneer


def collective_rewards(pioneer: np.ndarray, observer: np.ndarray, mode: CollectiveReward = "sum"
                       ) -> tuple[np.ndarray, np.ndarray]:
    """Computes the rewards of both agents from their scores for the same queries.

    Args:
        pioneer: scores `[B]`.
        observer: scores `[B]`; or `[B G]`, where G observers one after the other saw the same response of the pioneer,
            which then gets the mean over their pairs.
        mode: both get the sum (CORY), or the mean; or each its own (two separate runs).
    """
    if mode == "own":
        return pioneer, observer
    observers = len(observer) // len(pioneer)
    total = (np.repeat(pioneer, observers) + observer).astype(np.float32)
    total = total if mode == "sum" else total / np.float32(2)
    return total.reshape(-1, observers).mean(1), total


def combine(scores: Sequence[np.ndarray], mode: CollectiveReward) -> Sequence[np.ndarray]:
    """Computes the rewards of all agents; a single one gets its own scores."""
    return scores if len(scores) == 1 else collective_rewards(scores[0], scores[1], mode)


def differ(rewards: np.ndarray) -> np.ndarray:
    """Decides which groups have rewards that differ by more than rounding, `[..., G]` -> bool `[...]`."""
    return ~equal_scores(rewards.min(-1), rewards.max(-1))


def exchange(team: Team, iteration: int, every: int | None) -> Team:
    """Exchanges the roles after iteration number `iteration`, from 0, if `every` divides the iterations made.

    Roles are an index: weights, optimizer, KL coefficient and moments stay with their agent. With None there is no
    exchange.
    """
    if len(team.agents) < 2 or every is None or (iteration + 1) % every:
        return team
    return dataclasses.replace(team, pioneer=1 - team.pioneer)


@dataclasses.dataclass
class Clock:
    """Seconds by phase of an iteration."""

    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: collections.defaultdict(float))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time of a block to a phase."""
        start = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - start


@dataclasses.dataclass(frozen=True)
class Turn:
    """The responses of one role in an iteration.

    Attributes:
        queries: the bare query of every response.
        rollout: the responses.
        scores: float32 `[B]`, their task rewards.
        cut: bool `[B]`, the prompt has the pioneer's response in part, for it did not fit.
    """

    queries: list[Query]
    rollout: Rollout
    scores: np.ndarray
    cut: np.ndarray


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Everything of a run that does not change.

    Attributes:
        config: settings.
        base: the model, which is also the reference of all agents.
        rows, held_back: rows of the data.
        reward: the reward.
        learners: one for the pioneer and one for the observer, since their prompts differ in length.
        observer_length: the most tokens of an observer's prompt.
    """

    config: TeamConfig
    base: Generator
    rows: Sequence[Row]
    held_back: Sequence[Row]
    reward: RewardFn
    learners: tuple[Learner, ...]
    observer_length: int

    @classmethod
    def make(cls, config: TeamConfig, base: Generator, rows: Sequence[Row], held_back: Sequence[Row], reward: RewardFn,
             mesh: jax.sharding.Mesh) -> Trainer:
        """Makes the programs of a run.

        Args:
            config: settings.
            base: the model.
            rows, held_back: rows of the data.
            reward: the reward.
            mesh: the devices.

        Raises:
            UserError: see `prompt_lengths`, or the responses do not divide over the devices.
        """
        lengths = prompt_lengths(config, base.model, [*rows, *held_back])
        learners = tuple(Learner.make(base.model.spec, config, shape, mesh)
                         for shape in row_shapes(config, base.model.spec, lengths, mesh))
        return cls(config, base, rows, held_back, reward, learners, max(lengths[-1]))

    def start(self) -> Team:
        """Makes the agents before the first iteration: copies of the model."""
        return Team(tuple(init_agent(self.base, self.config, self.learners[0].optimizer, self.learners[0].mesh,
                                     self.config.seed) for _ in range(self.config.agents)))

    def iterate(self, team: Team, iteration: int) -> tuple[Team, dict[str, Any], list[Turn]]:
        """Makes one iteration.

        Args:
            team: the agents; their states are donated.
            iteration: its number, from 0.

        Returns:
            The agents after it; its metrics; and the responses of every role.

        Raises:
            UserError: a reward failed, or dynamic sampling found nothing to learn from; the agents are as they were.
        """
        clock, config = Clock(), self.config
        turns, groups, drawn = self._collect(team, iteration, clock)
        rewards = self._rewards(turns)
        agents, idle, lines = list(team.agents), list(team.idle), {}
        for role, turn in enumerate(turns):
            agent, learner = team.in_role(role), self.learners[role]
            seed = drawn_seed(config.seed, _ORDER, iteration, role)
            with clock.phase("score"):
                experience = learner.evaluate(self.base, agents[agent], turn.rollout, seed)
            coef = float(agents[agent].extra["kl_coef"])
            with clock.phase("update"):
                state, numbers = learner.update(self.base, agents[agent], experience, rewards[role], groups[role], seed)
                agents[agent] = learner.adapt(state, experience)
            if (groups[role] >= 0).any():
                idle[agent] = idle[agent] + 1 if numbers["skipped"] == numbers["updates"] else 0
            lines[NAMES[agent]] = {"role": ROLES[role], **describe(turn, experience, coef), **numbers}
        made = dataclasses.replace(team, agents=tuple(agents), drawn=drawn, idle=tuple(idle))
        after = exchange(made, iteration, config.exchange_every)
        if after.pioneer != made.pioneer:
            after = self._reset(after)
        seconds = {name: round(value, 4) for name, value in clock.seconds.items()}
        metrics = {"agents": {name: lines[name] for name in NAMES if name in lines},
                   "exchanged": after.pioneer != made.pioneer, "seconds": seconds}
        return after, metrics, turns

    def _reset(self, team: Team) -> Team:
        """Takes from both agents what `cory.exchange_resets` names."""
        resets = self.config.cory.exchange_resets
        if resets == "none":
            return team
        agents = []
        for state in team.agents:
            new = jax.jit(self.learners[0].optimizer.init)(state.params)
            place = lambda fresh, old: jax.device_put(fresh, old.sharding)
            state = dataclasses.replace(state, opt_state=jax.tree.map(place, new, state.opt_state))
            if resets == "all":
                extra = {"kl_coef": np.float32(self.config.kl_coef), "moments": init_moments()}
                state = dataclasses.replace(state, extra=jax.tree.map(place, extra, state.extra))
            agents.append(state)
        return dataclasses.replace(team, agents=tuple(agents))

    def _rewards(self, turns: Sequence[Turn]) -> Sequence[np.ndarray]:
        """Computes what every role is updated by, from scores with the penalties of each agent's own responses."""
        return combine([penalized(self.config, turn.scores, turn.rollout) for turn in turns], self.config.cory.reward)

    def _collect(self, team: Team, iteration: int, clock: Clock) -> tuple[list[Turn], list[np.ndarray], int]:
        """Samples and scores an iteration's responses; returns them and their groups by role, and the batches drawn.

        With dynamic sampling, groups of equal scores are replaced by others, drawn in further batches. Where these do
        not suffice either, such groups fill up the iteration; they are number -1, and left out of the loss.
        """
        config, size = self.config, self.config.group_size
        useful: list[list[Turn]] = []
        rest: list[list[Turn]] = []
        drawn = team.drawn
        for attempt in range(config.policy.resample if config.own.filters_groups else 1):
            turns = self._sample(team, iteration, attempt, drawn, clock)
            drawn += 1
            rewards = combine([turn.scores for turn in turns], config.cory.reward)
            if attempt == 0 and not any(map(differ, rewards)):
                values = dict.fromkeys(f"{one[0]:g}" for one in rewards)  # two where each agent has its own
                notice(f"reward: all responses of an iteration have the reward {', '.join(values)}, which prefers none "
                       "of them")
            groups = np.repeat(np.arange(len(rewards[-1]) // size, dtype=np.int32), size)
            if not config.own.filters_groups:
                # Of a pioneer's single responses the whole batch is one group.
                return turns, [groups if len(one) == len(groups) else np.zeros(len(one), np.int32)
                               for one in rewards], drawn
            for group in range(len(groups) // size):
                own = list(range(group * size, (group + 1) * size))
                part = [_part(turn, own) for turn in turns]
                (useful if any(differ(one[own]) for one in rewards) else rest).append(part)
            if len(useful) >= config.train.batch_size:
                break
        if not useful:
            raise UserError(f"no prompt of {config.policy.resample} batches has responses with different rewards",
                            "policy.resample", "choose an algorithm without dynamic sampling, other prompts or another "
                            "reward")
        chosen = [*useful, *rest][:config.train.batch_size]
        joined = [Turn([query for part in parts for query in part.queries],
                       concatenate([part.rollout for part in parts]),
                       *(np.concatenate([getattr(part, name) for part in parts]) for name in ("scores", "cut")))
                  for parts in zip(*chosen, strict=True)]
        rewards = combine([turn.scores for turn in joined], config.cory.reward)
        groups = np.repeat(np.arange(len(chosen), dtype=np.int32), size)
        used = [np.repeat(differ(one.reshape(-1, size)), size) for one in rewards]
        return joined, [np.where(own, groups, -1) for own in used], drawn

    def _sample(self, team: Team, iteration: int, attempt: int, drawn: int, clock: Clock) -> list[Turn]:
        """Samples and scores one batch: the pioneer's responses, and the observer's."""
        config = self.config
        indices = row_indices(config.seed, drawn, config.train.batch_size, len(self.rows))
        limit = config.limit
        if config.response_tokens is not None:
            low, high = config.response_tokens
            limit = int(np.random.default_rng(drawn_seed(config.seed, _LIMITS, iteration)).integers(low, high + 1))
        queries = self._queries([self.rows[int(i)] for i in indices], config.group_size, _QUERIES, iteration, attempt)
        observers = config.group_size if config.cory.shared_response else 1  # of one response
        turns: list[Turn] = []
        for role in range(config.agents):
            own = queries if role else queries[::observers]
            prompts, cut = [query.ids for query in own], np.zeros(len(own), bool)
            if role:
                responses = [text for text in turns[0].rollout.texts for _ in range(observers)]
                made = [observer_prompt(self.base.model, config.cory, query, response, self.observer_length)
                        for query, response in zip(own, responses, strict=True)]
                prompts, cut = [ids for ids, _ in made], np.array([short for _, short in made])
            agent = team.in_role(role)
            with clock.phase("rollout"):
                rollout = self.learners[role].sample(self.base, team.agents[agent], prompts, limit, drawn_seed(
                    config.seed, _SAMPLES, iteration, attempt, agent))
            with clock.phase("reward"):
                turns.append(Turn(own, rollout, self._score(own, rollout), cut))
        return turns

    def _queries(self, rows: Sequence[Row], times: int, *purpose: int) -> list[Query]:
        """Encodes the prompt of every row and repeats it; numbers of leading tokens are drawn for a purpose."""
        draws = np.random.default_rng(drawn_seed(self.config.seed, *purpose))
        longest = longest_prompt(self.config, self.base.model.spec)
        made = [encode_query(self.base.model, self.config.query, row, longest, draws) for row in rows]
        return [query for query in made for _ in range(times)]

    def _score(self, queries: Sequence[Query], rollout: Rollout) -> np.ndarray:
        """Computes task rewards: of the bare query with the response, for both roles.

        A response to messages has the opening tag of its thinking where the chat template writes it.
        """
        responses = [self._opening_tag(query, ids) + text for query, ids, text in zip(
            queries, rollout.prompts, rollout.texts, strict=True)]
        return self.reward([query.text for query in queries], responses, [query.row for query in queries])

    def _opening_tag(self, query: Query, ids: np.ndarray) -> str:
        """Returns the opening tag that the chat template writes at the end of a prompt; empty without."""
        if isinstance(query.text, str) or query.text[-1]["role"] == "assistant":  # the end is that of the row
            return ""
        return opening_tag_of(self.base.model.tokenizer, ids)

    def evaluate(self, team: Team) -> dict[str, dict[str, Any]]:
        """Measures every agent alone on the bare queries of the held-back rows: `task_reward`, `kl` and `length`, and
        `pass_at_k` by k where `held_back.pass_at` has numbers.

        Agents share the random draws, so that equal agents get equal numbers.

        Raises:
            UserError: a reward failed, or is neither 0 nor 1 where pass@k is computed.
        """
        found: dict[str, dict[str, Any]] = {}
        if not self.held_back:
            return found
        config, learner, size, samples = (self.config, self.learners[0], self.config.minibatch_size,
                                          self.config.held_back.samples)
        queries = self._queries(self.held_back, samples, _HELD_BACK_QUERIES)
        mean = lambda values: interval(np.reshape(values, (-1, samples)).mean(1), config.seed)  # over queries
        for name, state in zip(NAMES, team.agents, strict=False):
            rollout = learner.sample(self.base, state, [query.ids for query in queries], config.limit,
                                     drawn_seed(config.seed, _HELD_BACK_SAMPLES))
            kl = [learner.evaluate(self.base, state, rollout.take(range(start, min(start + size, len(queries))))).kl
                  for start in range(0, len(queries), size)]
            scores = self._score(queries, rollout)
            found[name] = {"task_reward": mean(scores), "kl": mean(np.concatenate(kl)), "length": mean(rollout.lengths)}
            if config.held_back.pass_at:
                rates = pass_rates(scores.reshape(-1, samples), config.held_back.pass_at)
                found[name]["pass_at_k"] = {str(k): interval(own, config.seed) for k, own in rates.items()}
        return found


def pass_rates(scores: np.ndarray, numbers: Sequence[int]) -> dict[int, np.ndarray]:
    """Computes pass@k of every query, `[Q]` by k.

    Args:
        scores: rewards `[Q, n]` of n responses to each query.
        numbers: the k, at most n.

    Raises:
        UserError: a reward is neither 0 nor 1.
    """
    if len(wrong := scores[(scores != 0) & (scores != 1)]):
        raise UserError(f"pass@k counts responses with the reward 1 among those with 0, and a reward is {wrong[0]:g}",
                        "held_back.pass_at", "leave it out, or choose a reward that is 0 or 1")
    right = scores.sum(1).astype(int)
    return {k: np.array([pass_at_k(scores.shape[1], int(count), k) for count in right], float) for k in numbers}


def prompt_lengths(config: TeamConfig, model: Model, rows: Sequence[Row]) -> list[list[int]]:
    """Returns the most tokens of the prompt of every row, of the pioneer and of the observer.

    Raises:
        UserError: there are no rows, a prompt is too long, or the model writes no text.
    """
    model.require_lm("be trained by rewards")
    if not rows:
        raise UserError("there is no prompt to train on", "data")
    longest = longest_prompt(config, model.spec)
    queries = [encode_query(model, config.query, row, longest) for row in rows]
    lengths = [[len(query.ids) for query in queries]]
    if config.agents == 2:
        bare = [len(observer_prompt(model, config.cory, query, "", longest)[0]) for query in queries]
        extra, template = 0, config.cory.observer_template
        if config.cory.transfer and "{response}" in template:
            extra = template.count("{response}") * (config.limit + _SLACK)
        elif config.cory.transfer and config.query.tokens is not None:  # there is no response to cut instead
            extra = template.count("{query}") * _SLACK
        lengths.append([min(length + extra, longest) for length in bare])
    return lengths


def row_shapes(config: TeamConfig, spec: ModelSpec, lengths: Sequence[Sequence[int]], mesh: jax.sharding.Mesh
               ) -> list[RowShape]:
    """Chooses the shape of rows of every role, from `prompt_lengths`."""
    multiple = config.train.accumulate * mesh.shape["data"] * mesh.shape["fsdp"]
    packed = config.train.packing and can_pack(spec)
    if not packed and config.minibatch_size % multiple:
        raise UserError(f"{config.minibatch_size} responses of an update do not divide over {multiple} microbatches "
                        "and devices", "train.minibatch_size", f"use a multiple of {multiple}")
    return [rollout_shape(own, config.limit, config.minibatch_size, multiple, packed=packed) for own in lengths]


def _part(turn: Turn, rows: Sequence[int]) -> Turn:
    return Turn([turn.queries[i] for i in rows], turn.rollout.take(rows), turn.scores[list(rows)], turn.cut[list(rows)])


def describe(turn: Turn, experience: Experience, kl_coef: float) -> dict[str, float]:
    """Computes the metrics of an agent's responses in an iteration.

    Args:
        turn: the responses.
        experience: numbers of their tokens.
        kl_coef: KL coefficient of the iteration.

    Returns:
        Means over responses: `task_reward`, `kl` (of whole distributions, summed over tokens), `combined_reward` (task
        reward - kl_coef * kl) and `length`; over tokens: `entropy` and `sampler_difference`, |log-probability now - at
        sampling|; the standard deviation `task_reward_std`; the share `truncated`, and of prompts in which the
        pioneer's response was cut, `response_cut`; and `kl_coef`.
    """
    rollout, known = turn.rollout, experience.known
    tokens = lambda values: float(values[rollout.mask].mean())
    combined = combined_reward(jnp.asarray(turn.scores), known["kl"], rollout.mask, kl_coef)
    return {"task_reward": float(turn.scores.mean()), "task_reward_std": float(turn.scores.std(dtype=float)),
            "kl": float(experience.kl.mean()), "combined_reward": float(combined.mean()), "kl_coef": kl_coef,
            "length": float(rollout.lengths.mean()), "truncated": float(rollout.truncated.mean()),
            "response_cut": float(turn.cut.mean()), "entropy": tokens(known["entropy"]),
            "sampler_difference": tokens(np.abs(known["logprobs"] - rollout.sampler_logprobs))}
