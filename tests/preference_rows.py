"""Rows of preference losses for tests: the fixture of the golden values, and random pairs."""


import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxllm.ops import (
    Pairs,
    PreferenceSettings,
    Unpaired,
    preference_loss,
)
from jaxllm.ops.preference_losses import LOSSES, UNPAIRED

ON_PAIRS = sorted(LOSSES.keys() - UNPAIRED)
FIXTURE = dict(chosen=[-12.0], rejected=[-15.0], reference_chosen=[-13.0], reference_rejected=[-14.0],
               chosen_tokens=[6.0], rejected_tokens=[10.0], weight=[1.0])
S = PreferenceSettings


def pairs_of(**fields):
    return Pairs(**{name: jnp.asarray(np.asarray(values, np.float64), jnp.result_type(float))
                    for name, values in fields.items()})


def loss_of(name, rows, settings=None):
    (total, weight), _ = preference_loss(name, rows, settings)
    return total / weight


def draw(count=4, seed=0, spread=3.0):
    """Random pairs, all log-probabilities below 0."""
    random = np.random.default_rng(seed)
    log_prob = lambda: -random.uniform(2.0, 2.0 + 4 * spread, count)
    return dict(chosen=log_prob(), rejected=log_prob(), reference_chosen=log_prob(), reference_rejected=log_prob(),
                chosen_tokens=random.integers(1, 9, count) * 1.0, rejected_tokens=random.integers(1, 9, count) * 1.0,
                weight=np.ones(count))


def take(fields, rows):
    return {name: np.asarray(values)[rows] for name, values in fields.items()}


def unpaired(policy, desirable, kl=(0.0,), reference=None, weight=None, **more):
    array = lambda values: jnp.asarray(values, jnp.result_type(float))
    return Unpaired(array(policy), array(np.zeros(len(policy)) if reference is None else reference),
                    array(np.ones(len(policy)) if weight is None else weight), array(desirable), array(kl), **more)


def value_and_gradient(name, pairs, settings=None):
    def total(chosen, rejected):
        return preference_loss(name, dataclasses.replace(pairs, chosen=chosen, rejected=rejected), settings)[0][0]

    return jax.value_and_grad(total, (0, 1))(pairs.chosen, pairs.rejected)
