"""Runs the command line and is killed, without a chance to clean up, once a number of rows is written."""

import os
import signal
import sys

from jaxllm.cli import main
from jaxllm.job import Job

limit, written = int(sys.argv[1]), Job.row


def row(self, record):
    written(self, record)
    if self.rows_written() == limit:
        os.kill(os.getpid(), signal.SIGKILL)


Job.row = row
main(sys.argv[2:])
