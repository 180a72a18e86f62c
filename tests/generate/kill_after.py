"""Runs the command line and is killed, without a chance to clean up, once a number of rows is written."""

import os
import signal
import sys

from jaxllm.cli import main
from jaxllm.job import Job

limit, append = int(sys.argv[1]), Job._append


def append_and_count(self, path, record):
    append(self, path, record)
    if path == self.rows_path and self.rows_written() == limit:
        os.kill(os.getpid(), signal.SIGKILL)


Job._append = append_and_count
main(sys.argv[2:])
