"""Progress bar and notices on standard error, and text that is safe for a terminal."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator

import tqdm


def printable(text: str) -> str:
    """Replaces control characters, with which data or answers could rewrite the terminal; lines and tabs remain."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}"
                   for letter in text)


@functools.cache
def notice(message: str) -> None:
    """Prints a line that a user should know of, once a process."""
    print(printable(f"jaxllm: {message}"), file=sys.stderr)


class _Lines:
    """Standard error on which every state of a bar is a line, where tqdm would go back to the start of one."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)


@contextlib.contextmanager
def bar(total: int, name: str, unit: str, shown: bool = True, done: int = 0) -> Iterator[Callable[..., None]]:
    """Shows progress with speed and time left; yields `show(done, note=None)`, which updates it.

    A terminal redraws one line; elsewhere a line is printed every ten seconds.

    Args:
        total: number of units of the whole job.
        name: label before the bar.
        unit: plural noun of what is counted.
        shown: False shows nothing.
        done: units finished before, by an earlier start of the job.
    """
    interval, file = (0.1, sys.stderr) if sys.stderr.isatty() else (10.0, _Lines())
    with tqdm.tqdm(total=total, initial=done, desc=name, unit=f" {unit}", file=file, mininterval=interval,
                   maxinterval=2 * interval, disable=not shown) as drawn:
        def show(done: int, note: str | None = None) -> None:
            if note is not None:
                drawn.set_postfix_str(note, refresh=False)
            drawn.update(done - drawn.n)

        yield show
