"""The loss of every algorithm, after the policy has moved, against the formulas of its paper in NumPy."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxllm.rl.config import KlConfig, PolicyConfig, RlTrainConfig, ScoreConfig
from tests.rl.test_learner import BATCH, LIMIT, Setup, settings

GROUP, COEF, ENTROPY = 4, 0.1, 0.05


def baseline(algorithm, scores):
    """Advantages of one group."""
    if algorithm == "rloo":
        return scores - (scores.sum() - scores) / (len(scores) - 1)
    centered = scores - scores.mean()
    return centered if algorithm == "dr_grpo" else centered / scores.std(ddof=1)


def token_losses(algorithm, advantages, new, old, mask):
    """Policy losses of tokens, `[B, T]`."""
    change = np.where(mask, new - old, 0.0)
    if algorithm == "rloo":
        change = np.repeat(change.sum(1, keepdims=True), LIMIT, 1)
    elif algorithm == "gspo":
        change = np.repeat(change.sum(1, keepdims=True) / mask.sum(1, keepdims=True), LIMIT, 1)
    low, high = {"dapo": (0.2, 0.28), "gspo": (3e-4, 4e-4)}.get(algorithm, (0.2, 0.2))
    ratio = np.exp(change)
    return np.maximum(-advantages * ratio, -advantages * np.clip(ratio, 1 - low, 1 + high))


def averaged(algorithm, losses, mask):
    losses = np.where(mask, losses, 0.0)
    if algorithm == "dapo":
        return losses.sum() / mask.sum()
    if algorithm == "dr_grpo":
        return losses.sum() / (len(mask) * LIMIT)
    return (losses.sum(1) / mask.sum(1)).mean()


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "accumulate"), [
    ("rloo", 1), ("grpo", 2), ("dr_grpo", 2), ("dapo", 1), ("gspo", 1)])
def test_losses_of_group_algorithms(algorithm, accumulate):
    """Of the first and the second pass over all responses, with a KL penalty and an entropy bonus.

    Some responses are left out of the loss, and count in the baseline.
    """
    config = settings(algorithm, kl=KlConfig(coef=COEF), scores=ScoreConfig(missing_end="mask"), policy=PolicyConfig(
        group_size=GROUP, entropy_coef=ENTROPY), train=RlTrainConfig(
            batch_size=BATCH, lr=2e-2, passes=2, accumulate=accumulate))
    setup = Setup(config)
    setup.iterate(0)
    rollout = setup.learner.sample(setup.base, setup.state, setup.prompts, LIMIT, 1)
    lengths = 1 + np.arange(len(rollout.prompts)) % LIMIT
    rollout = dataclasses.replace(rollout, mask=np.arange(LIMIT) < lengths[:, None], truncated=lengths == LIMIT)
    experience = setup.learner.evaluate(setup.base, setup.state, rollout, 1)
    scores = np.random.default_rng(1).normal(size=len(rollout.prompts)).astype(np.float32)
    own = lambda state, learner: learner.update(setup.base, jax.tree.map(lambda x: x.copy(), state), experience, scores,
                                                setup.groups, 1)
    one = dataclasses.replace(setup.learner, config=dataclasses.replace(
        config, train=dataclasses.replace(config.train, passes=1)))
    (moved, first), (_, both) = own(setup.state, one), own(setup.state, setup.learner)
    now = setup.learner.evaluate(setup.base, moved, rollout, 1).known

    mask, known = rollout.mask, experience.known
    penalty = np.where(mask, known["logprobs"] - known["reference_logprobs"], 0.0).sum(1)
    shaped = scores - COEF * penalty if config.kl_place == "reward" else scores
    advantages = np.concatenate([baseline(algorithm, part) for part in np.split(shaped, len(shaped) // GROUP)])[:, None]
    used = mask & ~rollout.truncated[:, None]

    def expected(current):
        losses = token_losses(algorithm, advantages, current["logprobs"], known["logprobs"], mask)
        if config.kl_place == "loss":
            ratio = np.exp(current["reference_logprobs"] - current["logprobs"])
            losses = losses + COEF * (ratio - 1 - np.log(ratio))
        losses = losses - ENTROPY * current["entropy"]
        kept = used.any(1)
        return averaged(algorithm, losses[kept], used[kept])

    assert np.abs(now["logprobs"] - known["logprobs"])[mask].max() > 0.2, "ratios are clipped"
    assert first["loss"] == pytest.approx(expected(known), abs=2e-5)
    assert 2 * both["loss"] - first["loss"] == pytest.approx(expected(now), abs=1e-4)
    assert both["clip_fraction"] > 0
