"""Run by test_checkpoints with little disk space: a save that fits, and some that do not."""

import dataclasses
import resource
import signal
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxllm import train
from jaxllm.cli import filter_loggers


def state_of(step: int, size: int) -> train.TrainState:
    # noise, which does not compress
    kernel = np.random.default_rng(step).standard_normal(size, np.float32)
    state = train.init_state({"kernel": jax.device_put(kernel)}, optax.sgd(0.1), 0)
    return dataclasses.replace(state, step=jnp.int32(step))


if len(sys.argv) == 2:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

filter_loggers()
folder = Path(sys.argv[1]) / "checkpoints"
first = state_of(1, 1000)
for attempt in ("wait", "close"):  # the error is raised at the next access to the disk
    checkpointer = train.Checkpointer(folder)
    if attempt == "wait":
        checkpointer.save(1, first)
    try:
        checkpointer.save(2, state_of(2, 2_000_000))
        getattr(checkpointer, attempt)()
    except train.StorageError as error:
        print("StorageError", error)
    if attempt == "wait":
        checkpointer.close()

with train.Checkpointer(folder) as checkpointer:
    restored = checkpointer.restore(state_of(0, 1000)).tree
    np.testing.assert_array_equal(restored.params["kernel"], first.params["kernel"])
    print("restored", int(restored.step))
    checkpointer.save(3, state_of(3, 1000))
    checkpointer.wait()
    print("saved", checkpointer.latest_step())
