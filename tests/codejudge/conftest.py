"""Fixture of the tests of CodeJudge."""

import pytest

from tests.codejudge.recorded import Files


@pytest.fixture
def files(tmp_path):
    """Runs of `jaxllm judge` in a directory of their own."""
    return Files(tmp_path)
