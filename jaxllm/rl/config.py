"""Settings of reinforcement learning of one agent: algorithm, KL penalty, scores, and updates."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Literal

from jaxllm.config import SamplingConfig, check, check_seed, tunable
from jaxllm.devices import DeviceConfig, MeshConfig
from jaxllm.finetune.inputs import check_trained_weights
from jaxllm.models import LoraConfig
from jaxllm.ops import PolicySettings
from jaxllm.ops.policy import Aggregate, KlKind
from jaxllm.rl.algorithms import ALGORITHMS, Algorithm, KlPlace
from jaxllm.train import OptimizerConfig
from jaxllm.train.config import Tracker


@dataclass(frozen=True)
class KlConfig:
    """KL penalty against the model before training.

    Args:
        kind: k1, k2, k3 and abs are computed from the probability of the sampled token; full is the divergence of whole
            next-token distributions, which as a reward restrains later tokens only. null is k1 in the reward and k3 in
            the loss.
        place: subtract it from the reward of every token, or add it to the loss; null is the algorithm's own.
        coef: coefficient; null is the algorithm's own.
        adaptive: move the coefficient so that the divergence approaches the target.
        target: divergence of a response that an adaptive coefficient aims at, nats.
        horizon: responses over which an adaptive coefficient can change by a fifth.
    """

    kind: KlKind | None = None
    place: KlPlace | None = None
    coef: float | None = None
    adaptive: bool = False
    target: float = 6.0
    horizon: int = 10_000

    def __post_init__(self):
        check(self.coef is None or 0 <= self.coef < math.inf, "coef", f"must be 0 or more, got {self.coef}")
        check(0 < self.target < math.inf, "target", f"must be above 0, got {self.target:g}")
        check(self.horizon >= 1, "horizon", f"must be 1 or more, got {self.horizon}")


@dataclass(frozen=True)
class ScoreConfig:
    """What becomes of the scores of responses before the KL penalty.

    Args:
        scale: divide by the standard deviation of all scores so far.
        center: subtract the mean of all scores so far, before they are divided.
        clip: largest absolute score; null does not clip.
        whiten: scale the rewards of tokens to variance 1 over the batch, keeping their mean.
        missing_end: a response that reaches its token limit keeps its score, gets it reduced by a penalty, replaced by
            the negative penalty (and by no other), or is left out of the loss (mask); its score still counts in the
            baseline of its group, in whitening and in the running moments.
        missing_end_penalty: that penalty.
        overlong_tokens: tokens before sampling.max_tokens over which a penalty grows to 1 (DAPO); 0 is without. Not
            with response_tokens.
    """

    scale: bool = False
    center: bool = False
    clip: float | None = None
    whiten: bool = False
    missing_end: Literal["keep", "penalty", "replace", "mask"] = "keep"
    missing_end_penalty: float = 1.0
    overlong_tokens: int = 0

    def __post_init__(self):
        check(self.clip is None or self.clip > 0, "clip", f"must be above 0, or null, got {self.clip}")
        check(not self.center or self.scale, "center", "scores are centered only where they are scaled",
              "set scores.scale to true")
        check(0 <= self.missing_end_penalty < math.inf, "missing_end_penalty",
              f"must be 0 or more, got {self.missing_end_penalty:g}")
        check(self.overlong_tokens >= 0, "overlong_tokens", f"must be 0 or more, got {self.overlong_tokens}")


@dataclass(frozen=True)
class PolicyConfig:
    """Loss of the policy, and of its value function; null is the algorithm's own.

    Args:
        group_size: responses to every prompt.
        clip_low: ratios of new to old probability are clipped at 1 - clip_low.
        clip_high: and at 1 + clip_high.
        aggregate: mean over tokens, over responses, or over the token limit of all responses (constant).
        gamma: discount of rewards.
        lam: lambda of generalized advantage estimation.
        value: values come from a linear head on the policy's hidden states (shared), or from a model of its own
            (separate).
        value_coef: weight of the value loss.
        value_clip: largest change of a value that the value loss rewards; 0 does not clip.
        entropy_coef: weight of an entropy bonus.
        max_ratio: an update is skipped if its mean ratio of new to old probability exceeds this.
        target_kl: passes over a batch end when the policy has moved by more than 1.5 times this; null never.
        importance_cap: largest weight by the ratio of the policy's probability to that at sampling: the weight of a
            token, or of a response where the algorithm's ratio is one of responses (rloo: the product over its tokens,
            gspo: their geometric mean); null trusts that the two are equal.
        resample: batches of prompts that an iteration draws at most, until enough groups are left without those of
            equal scores (DAPO).
    """

    group_size: int | None = None
    clip_low: float | None = None
    clip_high: float | None = None
    aggregate: Aggregate | None = None
    gamma: float = 1.0
    lam: float = 0.95
    value: Literal["shared", "separate"] = "shared"
    value_coef: float = 0.1
    value_clip: float = 0.2
    entropy_coef: float = 0.0
    max_ratio: float = 10.0
    target_kl: float | None = None
    importance_cap: float | None = None
    resample: int = 10

    def __post_init__(self):
        for name in ("gamma", "lam"):
            check(0 <= getattr(self, name) <= 1, name, f"must be between 0 and 1, got {getattr(self, name):g}")
        for name in ("value_coef", "value_clip", "entropy_coef"):
            check(0 <= getattr(self, name) < math.inf, name, f"must be 0 or more, got {getattr(self, name):g}")
        for name in ("clip_low", "clip_high"):
            value = getattr(self, name)
            check(value is None or value > 0, name, f"must be above 0, got {value}")
        check(self.max_ratio > 1, "max_ratio", f"must be above 1, got {self.max_ratio:g}")
        check(self.target_kl is None or self.target_kl > 0, "target_kl", f"must be above 0, got {self.target_kl}")
        check(self.importance_cap is None or self.importance_cap >= 1, "importance_cap",
              f"must be 1 or more, got {self.importance_cap}")
        for name in ("group_size", "resample"):
            value = getattr(self, name)
            check(value is None or value >= 1, name, f"must be 1 or more, got {value}")


@dataclass(frozen=True)
class RlTrainConfig(OptimizerConfig):
    """Updates of an iteration, with the optimizer's settings.

    Args:
        batch_size: prompts of an iteration.
        minibatch_size: responses of an update; null is all of an iteration.
        passes: passes over the responses of an iteration; null is 4 for ppo and 1 for the others.
        accumulate: microbatches that an update is computed in, one after the other, to save memory.
        remat: activations that the backward pass recomputes to save memory: none, all but the matrix products (dots),
            or all (full).
        packing: pack several responses into a row. Not for rotary embeddings that depend on the text length.
        save_every: iterations between checkpoints; null saves at the end and when the job is stopped.
        trackers: services that get the metrics too: tensorboard, wandb.
    """

    schedule: Literal["constant", "linear", "cosine"] = "constant"
    clip_norm: float | None = None
    batch_size: int = 64
    minibatch_size: int | None = None
    passes: int | None = None
    accumulate: int = tunable(1)
    remat: Literal["none", "full", "dots"] = tunable("none")
    packing: bool = True
    save_every: int | None = tunable(10)
    trackers: list[Tracker] = tunable(default_factory=list)

    def __post_init__(self):
        super().__post_init__()
        check(self.lr is not None, "lr", "must be a number")
        for name in ("batch_size", "accumulate"):
            check(getattr(self, name) >= 1, name, f"must be 1 or more, got {getattr(self, name)}")
        for name in ("minibatch_size", "passes", "save_every"):
            value = getattr(self, name)
            check(value is None or value >= 1, name, f"must be 1 or more, or null, got {value}")


@dataclass(frozen=True, kw_only=True)
class RlConfig:
    """How an agent learns from rewards.

    Args:
        algorithm: ppo, reinforce, rloo, grpo, dr_grpo, dapo or gspo.
        iterations: rounds of sampling, scoring and updating.
        sampling: sampling of responses; max_tokens is their limit.
        response_tokens: the limit of an iteration's responses is drawn from this range, both ends included; null is
            sampling.max_tokens.
        kl: KL penalty.
        scores: shaping of scores.
        policy: the losses.
        train: updates.
        lora: adapter; null trains all weights.
        mesh: how the devices share the work.
        device: dtypes.
        seed: seed of all random draws.
    """

    algorithm: str = "ppo"
    iterations: int = 100
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(max_tokens=16))
    response_tokens: list[int] | None = None
    kl: KlConfig = field(default_factory=KlConfig)
    scores: ScoreConfig = field(default_factory=ScoreConfig)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    train: RlTrainConfig = field(default_factory=RlTrainConfig)
    lora: LoraConfig | None = field(default_factory=LoraConfig)
    mesh: MeshConfig = tunable(MeshConfig())
    device: DeviceConfig = field(default_factory=DeviceConfig)
    seed: int = 0

    def __post_init__(self):
        check_seed(self.seed)
        check(self.algorithm in ALGORITHMS, "algorithm", f"there is no algorithm {self.algorithm!r}",
              f"use one of {', '.join(ALGORITHMS)}")
        check(self.iterations >= 1, "iterations", f"must be 1 or more, got {self.iterations}")
        check(self.sampling.temperature > 0, "sampling.temperature", "greedy responses to a prompt are all the same",
              "use a temperature above 0")
        check(self.sampling.n == 1, "sampling.n", "is not used here", "set policy.group_size")
        check(self.sampling.seed is None, "sampling.seed", "would give every iteration the same random numbers",
              "set seed")
        check(self.lora is None or self.lora.dropout == 0, "lora.dropout",
              "would make the probabilities of a response differ between its sampling and its update", "set it to 0")
        check_trained_weights(self.lora, self.device)
        if self.response_tokens is not None:
            check(len(self.response_tokens) == 2 and 1 <= self.response_tokens[0] <= self.response_tokens[1],
                  "response_tokens", f"must be the smallest and the largest limit, got {self.response_tokens}")
        own, rows = self.own, self.rows
        check(not own.has_groups or self.group_size > 1, "policy.group_size",
              f"{self.algorithm} compares a response with others to its prompt, and there is one",
              "set it to 2 or more")
        check(own.has_groups or self.group_size == 1, "policy.group_size",
              f"{self.algorithm} does not compare responses to a prompt", "leave it out")
        check(rows % self.minibatch_size == 0, "train.minibatch_size", f"must divide the {rows} responses of an "
              f"iteration, got {self.minibatch_size}")
        check(self.kl_kind not in ("k1", "abs") or self.kl_place == "reward", "kl.kind",
              f"the expected gradient of {self.kl_kind} in a loss is not that of a divergence", "use k2 or k3")
        check(self.kl_kind != "full" or self.kl_place == "reward", "kl.kind",
              "the full divergence is a penalty of the reward", "use k2 or k3, or set kl.place to reward")
        check(not self.kl.adaptive or self.kl_coef > 0, "kl.adaptive", "a coefficient of 0 stays 0", "set kl.coef")
        check(not (own.has_groups and self.scores.whiten), "scores.whiten",
              f"scales rewards of tokens, and {self.algorithm} compares whole responses", "set it to false")
        check(not own.has_groups or self.policy.gamma == 1, "policy.gamma",
              f"discounts rewards of tokens, and {self.algorithm} compares whole responses", "leave it out")
        check(own.has_values or self.policy.value == "shared", "policy.value", f"{self.algorithm} has no values",
              "leave it out")
        check(self.settings.ratio != "none" or self.policy.clip_low is None and self.policy.clip_high is None,
              "policy.clip_low", f"{self.algorithm} has no ratio to clip", "leave clip_low and clip_high out")
        plain = (self.sampling.top_k, self.sampling.top_p, self.sampling.min_p, self.sampling.repetition_penalty)
        check(self.policy.importance_cap is None or plain == (0, 1.0, 0.0, 1.0) and not self.sampling.logit_bias,
              "policy.importance_cap", "log-probabilities at sampling are those before top_k, top_p, min_p, penalty "
              "and bias", "sample without these, or leave the cap out")
        check(not self.scores.overlong_tokens or self.response_tokens is None, "scores.overlong_tokens",
              "counts from one limit, and response_tokens draws another in every iteration", "leave one of them out")
        check(self.limit >= self.scores.overlong_tokens, "scores.overlong_tokens",
              f"must be at most the limit of {self.limit} tokens, got {self.scores.overlong_tokens}")

    @property
    def own(self) -> Algorithm:
        """The algorithm."""
        return ALGORITHMS[self.algorithm]

    @property
    def settings(self) -> PolicySettings:
        """Form of the policy loss."""
        given = {name: value for name in ("clip_low", "clip_high", "aggregate")
                 if (value := getattr(self.policy, name)) is not None}
        return dataclasses.replace(self.own.policy, **given)

    @property
    def group_size(self) -> int:
        """Responses to a prompt."""
        return self.own.group_size if self.policy.group_size is None else self.policy.group_size

    @property
    def rows(self) -> int:
        """Responses of an iteration."""
        return self.train.batch_size * self.group_size

    @property
    def minibatch_size(self) -> int:
        """Responses of an update."""
        return self.rows if self.train.minibatch_size is None else self.train.minibatch_size

    @property
    def passes(self) -> int:
        """Passes over the responses of an iteration."""
        return self.own.passes if self.train.passes is None else self.train.passes

    @property
    def updates(self) -> int:
        """Optimizer steps of the whole run."""
        return self.iterations * self.passes * (self.rows // self.minibatch_size)

    @property
    def limit(self) -> int:
        """The most tokens of a response."""
        return self.sampling.max_tokens if self.response_tokens is None else self.response_tokens[1]

    @property
    def kl_coef(self) -> float:
        """Coefficient of the KL penalty before the first iteration."""
        return self.own.kl_coef if self.kl.coef is None else self.kl.coef

    @property
    def kl_place(self) -> KlPlace:
        """Where the KL penalty goes: reward or loss."""
        return self.own.kl_place if self.kl.place is None else self.kl.place

    @property
    def kl_in_loss(self) -> bool:
        """Whether the loss has a KL term."""
        return self.kl_place == "loss" and self.kl_coef > 0

    @property
    def kl_kind(self) -> KlKind:
        """Estimator of the KL penalty."""
        if self.kl.kind is not None:
            return self.kl.kind
        return "k1" if self.kl_place == "reward" else "k3"

    @property
    def scale(self) -> float | None:
        """Scale of the adapter; None where all weights are trained."""
        return None if self.lora is None else self.lora.alpha / self.lora.rank
