"""Reinforcement learning of one agent: rollouts, rewards, advantages, updates."""

from jaxllm.rl.agent import Experience, Learner, init_agent, penalized
from jaxllm.rl.algorithms import ALGORITHMS, Algorithm
from jaxllm.rl.config import RlConfig
from jaxllm.rl.rollouts import Rollout, make_rollout

__all__ = ["ALGORITHMS", "Algorithm", "Experience", "Learner", "RlConfig", "Rollout", "init_agent", "make_rollout",
           "penalized"]
