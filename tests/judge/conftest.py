"""Fixtures of the tests of judges."""

import threading

import pytest

from tests.judge.local_server import Server


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
