"""The packaged model, loaded once for each file."""

import pytest

from jaxllm.model import load


@pytest.fixture(scope="module")
def model():
    return load("tiny")
