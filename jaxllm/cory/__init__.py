"""CORY (2410.06101): two cooperating agents that are fine-tuned by reinforcement learning, and the job for one or two.
"""

from jaxllm.cory.config import Config, CoryConfig
from jaxllm.cory.team import Team, Trainer, collective_rewards, exchange

__all__ = ["Config", "CoryConfig", "Team", "Trainer", "collective_rewards", "exchange"]
