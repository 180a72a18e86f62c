"""The algorithms as one table: how scores become advantages, the form of the loss, and where the KL penalty goes."""

from __future__ import annotations

import dataclasses
from typing import Literal

from jaxllm.ops import PolicySettings

Advantages = Literal["gae", "returns", "rloo", "grpo", "dr_grpo"]
KlPlace = Literal["reward", "loss"]


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """One way to turn scores into an update.

    Attributes:
        advantages: gae (needs values), returns (the sum of the rewards from a token on, whitened), or a baseline from
            the other responses to the same prompt.
        policy: form of the policy loss.
        kl_place: the KL penalty is subtracted from the reward, or added to the loss.
        kl_coef: its coefficient where the config gives none.
        group_size: responses to a prompt where the config gives none.
        passes: passes over the responses of an iteration where the config gives none.
        filters_groups: groups of equal scores are dropped, and replaced by other prompts (dynamic sampling).
    """

    advantages: Advantages
    policy: PolicySettings
    kl_place: KlPlace
    kl_coef: float
    group_size: int = 1
    passes: int = 1
    filters_groups: bool = False

    @property
    def has_values(self) -> bool:
        """Whether a value function is trained."""
        return self.advantages == "gae"

    @property
    def has_groups(self) -> bool:
        """Whether a response is compared with others to the same prompt."""
        return self.advantages in ("rloo", "grpo", "dr_grpo")


ALGORITHMS = {
    # 1707.06347, as for language models in 1909.08593.
    "ppo": Algorithm("gae", PolicySettings(), "reward", 0.2, passes=4),
    "reinforce": Algorithm("returns", PolicySettings(ratio="none"), "reward", 0.05),
    # 2402.14740.
    "rloo": Algorithm("rloo", PolicySettings(ratio="sequence", aggregate="sequence"), "reward", 0.05, group_size=4),
    # 2402.03300.
    "grpo": Algorithm("grpo", PolicySettings(aggregate="sequence"), "loss", 0.04, group_size=8),
    # 2503.20783.
    "dr_grpo": Algorithm("dr_grpo", PolicySettings(aggregate="constant"), "loss", 0.0, group_size=8),
    # 2503.14476.
    "dapo": Algorithm("grpo", PolicySettings(clip_high=0.28), "loss", 0.0, group_size=8, filters_groups=True),
    # 2507.18071.
    "gspo": Algorithm("grpo", PolicySettings(ratio="sequence_mean", clip_low=3e-4, clip_high=4e-4,
                                             aggregate="sequence"), "loss", 0.0, group_size=8)}
"""Algorithms by name, with the defaults of their papers."""
