"""Progress bar and notices on standard error."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator

import tqdm


@functools.cache
def notice(message: str) -> None:
    """Prints a line that a user should know of, once a process."""
    print(f"jaxllm: {message}", file=sys.stderr)


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
    interval = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm.tqdm(total=total, initial=done, desc=name, unit=f" {unit}", file=sys.stderr, mininterval=interval,
                   maxinterval=2 * interval, disable=not shown) as drawn:
        def show(done: int, note: str | None = None) -> None:
            if note is not None:
                drawn.set_postfix_str(note, refresh=False)
            drawn.update(done - drawn.n)

        yield show
