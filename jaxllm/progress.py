"""A bar with the time left, on standard error."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import tqdm


@contextlib.contextmanager
def bar(total: int, name: str, unit: str, shown: bool = True, done: int = 0) -> Iterator[Callable[..., None]]:
    """Shows progress towards `total`; what it yields takes the number done so far, and perhaps a word
    to stand beside it. `done` were done before, in no time.

    Where no terminal listens it prints a line every ten seconds instead of redrawing one; with `shown` False it
    shows nothing.
    """
    interval = 0.1 if sys.stderr.isatty() else 10.0
    with tqdm.tqdm(total=total, initial=done, desc=name, unit=f" {unit}", file=sys.stderr, mininterval=interval,
                   maxinterval=2 * interval, disable=not shown) as drawn:
        def show(done: int, note: str | None = None) -> None:
            if note is not None:
                drawn.set_postfix_str(note, refresh=False)
            drawn.update(done - drawn.n)

        yield show
