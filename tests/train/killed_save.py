"""Run by test_checkpoints: saves step 1, starts to save step 2 and kills itself in the middle."""

import dataclasses
import os
import signal
import sys
import time

import jax.numpy as jnp
import toy

from jaxllm import train

with train.Checkpointer(sys.argv[1]) as checkpointer:
    for step in (1, 2):
        checkpointer.wait()
        state = train.init_state({"kernel": jnp.full(2**24, step, jnp.float32)}, toy.optimizer(), 0)
        print("saving", step, flush=True)
        checkpointer.save(step, dataclasses.replace(state, step=jnp.int32(step)))
    time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGKILL)
