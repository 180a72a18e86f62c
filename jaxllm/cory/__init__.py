"""CORY (2410.06101): two cooperating agents that are fine-tuned by reinforcement learning, and the job for one or two.
"""

from jaxllm.cory.config import Config, CoryConfig, HeldBackConfig, QueryConfig, TeamConfig
from jaxllm.cory.team import Team, Trainer, collective_rewards, exchange
from jaxllm.cory.training import Trained, train

__all__ = ["Config", "CoryConfig", "HeldBackConfig", "QueryConfig", "Team", "TeamConfig", "Trained", "Trainer",
           "collective_rewards", "exchange", "train"]
