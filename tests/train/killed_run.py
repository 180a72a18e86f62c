"""Run by test_loop: the toy run, killed at its eighth step while a checkpoint may still be being written."""

import os
import signal
import sys
from pathlib import Path

import toy


def kill(step, state):
    if step == 8:
        os.kill(os.getpid(), signal.SIGKILL)


toy.run(Path(sys.argv[1]), save_every=3, hooks=[kill], progress=False)
