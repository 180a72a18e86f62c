"""Verbs of jaxllm as steps of a script: a finished one does nothing, and refuses other settings and data in its folder.

The same command continues a script that was stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxllm.cli import main as jaxllm


def call(*arguments: Any) -> None:
    """Runs a verb; an error of it ends the script."""
    words = [str(argument) for argument in arguments]
    if jaxllm(words):
        raise SystemExit(f"jaxllm {' '.join(words)} failed")


def call_all(verb: str, runs: Mapping[Path, Sequence[str]], minutes: float | None) -> tuple[list[Path], int]:
    """Runs a verb in one folder after the other, until the time is over.

    A run that fails is left out, and the others go on; where the first one fails, so would they, and none is made.

    Args:
        verb: name of the verb.
        runs: arguments by folder.
        minutes: time after which the running one is stopped, with a checkpoint; None for no limit.

    Returns:
        the finished folders, and the exit status: 0 where the time was over, and that of the first run that failed.
    """
    finished, failed = list[Path](), 0
    with _stop_after(minutes):
        for folder, arguments in runs.items():
            print(f"run {folder.name}", flush=True)
            status = jaxllm([verb, *arguments, f"--out={folder}"])
            if status == 130:
                break
            if not status:
                finished.append(folder)
                continue
            failed = failed or status
            if not finished:
                break
    return finished, failed


@contextlib.contextmanager
def _stop_after(minutes: float | None) -> Iterator[None]:
    """Sends SIGTERM to this process after some minutes, as long as the block runs; None sends nothing."""
    timer = None if minutes is None else threading.Timer(60 * minutes, os.kill, (os.getpid(), signal.SIGTERM))
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()


def parse_with_keys(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses the command line; `rest` is what follows `--`, keys for all runs of a verb."""
    given = sys.argv[1:]
    split = given.index("--") if "--" in given else len(given)
    options = parser.parse_args(given[:split])
    options.rest = given[split + 1:]
    return options


def check_files(parser: argparse.ArgumentParser, *paths: Path) -> None:
    """Ends the script where one of its input files is missing."""
    if missing := [str(path) for path in paths if not path.is_file()]:
        parser.error(f"no file {', '.join(missing)}")
