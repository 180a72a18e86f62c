"""Comparisons of two models on targets, against logits of the whole vocabulary."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.errors import UserError
from jaxllm.evaluate.likelihood import same_prediction_by_target, target_batches
from jaxllm.finetune.targets import build_target
from jaxllm.model import Model
from jaxllm.models import LoraConfig, compute_logits
from tests.letters import Letters
from tests.networks import forward, random_adapter, random_tokens


def test_equal_predictions_by_target(llama):
    """Targets of several lengths, in two batches, the last of which is not full; the prompt does not count."""
    spec, params = llama
    adapter = random_adapter(spec, LoraConfig(rank=4), 0.02)
    texts = [random_tokens(1, length, seed=length)[0].tolist() for length in range(6, 16)]
    targets = [build_target((1,), (), text, "qa", prompt_tokens=4, mask_prompt=True) for text in texts]
    batches = target_batches(targets, spec.max_positions, 8)
    same, tokens = same_prediction_by_target(Model(spec, params, Letters()), params, batches, adapter=adapter)
    expected = []
    for target in targets:
        ids = jnp.asarray([target.student])
        before, after = (compute_logits(spec, params, forward(spec, params, ids, adapter=own).hidden)[0].argmax(-1)
                         for own in (None, adapter))
        expected.append(np.asarray(before == after)[4:-1].sum())
    assert same[:10].tolist() == expected and tokens[:10].tolist() == [len(text) - 4 for text in texts]
    assert 0 < same.sum() < tokens.sum() and not same[10:].any()

    same, tokens = same_prediction_by_target(Model(spec, params, Letters()), params, batches)
    assert (same == tokens).all()


def test_predictions_of_damaged_weights_are_refused(llama):
    spec, params = llama
    damaged = params | {"final_norm": {"scale": params["final_norm"]["scale"] * jnp.nan}}
    batches = target_batches([build_target((1,), (), (5, 6, 7), "qa")], spec.max_positions)
    with pytest.raises(UserError, match="not finite"):
        same_prediction_by_target(Model(spec, params, Letters()), damaged, batches)
