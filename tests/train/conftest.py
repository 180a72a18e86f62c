"""Makes the toy model importable from tests and from the processes they start."""

import sys
from pathlib import Path

import pytest

from tests.processes import run_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


@pytest.fixture
def run_script():
    """Runs a file of this folder in a fresh process: `run_script(name, *args, devices=1)`."""
    return lambda name, *args, devices=1: run_file(HERE / name, *args, devices=devices)
