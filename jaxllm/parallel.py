"""A function of many items in processes of their own, with the results in order.

The processes run nothing but functions of this package: unlike those of `multiprocessing` they do not import the main
module again, so a script needs no guard; they import what the function's module does, and end when this process ends.
"""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import queue
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
MOST = 4  # processes


def processes() -> int:
    """Returns the number of processes that `in_order` is worth: one for each core, 4 at most."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST)


def in_order(function: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
    """Yields a function of each item, in order. At most `2 * count` items, or their results, are in memory.

    Args:
        function: a function of a module of this package, or a `functools.partial` of one.
        items: arguments of the calls.
        count: number of processes.

    Raises:
        Exception: as the function raises it, when the results before are yielded.
        RuntimeError: a process ended.
    """
    idle: queue.SimpleQueue[Connection] = queue.SimpleQueue()

    def call(item: Item) -> Result:
        connection = idle.get()
        try:
            connection.send((function, item))
            done, result = connection.recv()
        except (EOFError, ConnectionError):
            raise RuntimeError("a process of this job ended: it was killed, or memory is short") from None
        finally:
            idle.put(connection)
        if not done:
            raise result
        return result

    with contextlib.ExitStack() as stack:
        for _ in range(count):
            idle.put(stack.enter_context(_process()))
        # A thread waits for each process, so that none waits for this one.
        threads = ThreadPoolExecutor(count)
        stack.callback(threads.shutdown, cancel_futures=True)
        waiting: collections.deque[Future[Result]] = collections.deque()
        for item in items:
            waiting.append(threads.submit(call, item))
            if len(waiting) == 2 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextlib.contextmanager
def _process() -> Iterator[Connection]:
    """Starts a process that `_serve` runs in; yields the connection to it, and ends it."""
    ours, theirs = multiprocessing.Pipe()
    with ours:
        with theirs:
            number = theirs.fileno()
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from jaxllm.parallel import _serve; _serve({number})"],
                stdin=subprocess.DEVNULL, pass_fds=[number], start_new_session=True,  # Ctrl-C is for this process
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)})
        try:
            yield ours
        finally:
            process.kill()
            process.wait()


def _serve(number: int) -> None:
    """Calls functions as they are sent to the file descriptor `number`, until it is closed."""
    with Connection(number) as connection, contextlib.suppress(EOFError, ConnectionError):
        while True:
            function, item = connection.recv()
            try:
                answer: tuple[bool, Any] = True, function(item)
            except Exception as error:
                error.add_note(f"in another process:\n{traceback.format_exc()}")
                answer = False, error
            connection.send(answer)
