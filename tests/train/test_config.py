import dataclasses

import pytest

from jaxllm.errors import UserError
from jaxllm.train.config import TrainConfig


def test_steps_or_epochs():
    assert TrainConfig().resolve().steps == 100
    assert TrainConfig(steps=7).resolve(1000).steps == 7
    # 2.5 passes over 10 targets in batches of 4: 25 targets
    resolved = TrainConfig(epochs=2.5, batch_size=4).resolve(10)
    assert (resolved.steps, resolved.epochs) == (7, None)
    assert resolved.resolve() == resolved
    assert dataclasses.replace(TrainConfig(lr=1e-3), epochs=1, batch_size=3).resolve(7).steps == 3
    assert TrainConfig(epochs=1.1, batch_size=1).resolve(10).steps == 11  # 11.000000000000002 in floating point
    assert TrainConfig(epochs=1e-9).resolve(1).steps == 1


@pytest.mark.parametrize(("settings", "message"), [
    (dict(steps=3, epochs=1), "epochs: steps is 3 already"),
    (dict(epochs=0), "epochs: must be above 0"),
    (dict(steps=0), "steps: must be 1 or more"),
    (dict(warmup_steps=100), "100 warmup steps in a run of 100"),
    (dict(batch_size=6, accumulate=4), "accumulate: must divide"),
])
def test_impossible_settings(settings, message):
    with pytest.raises(UserError, match=message):
        TrainConfig(**settings)


def test_settings_that_depend_on_the_number_of_rows():
    with pytest.raises(UserError, match="no rows to count epochs"):
        TrainConfig(epochs=1).resolve()
    with pytest.raises(UserError, match="8 warmup steps in a run of 2"):
        TrainConfig(epochs=1, warmup_steps=8, batch_size=4).resolve(8)
