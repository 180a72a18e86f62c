"""Functions of many items in processes of their own."""

import functools
import os
import signal
import subprocess
import sys

import pytest

from jaxllm.errors import UserError
from jaxllm.parallel import in_order


def test_results_are_in_order_and_items_are_taken_as_they_are_needed():
    taken = []
    results = in_order(functools.partial(pow, 3), (taken.append(n) or n for n in range(50)), 2)
    assert next(results) == 1
    assert len(taken) == 4
    assert list(results) == [3**n for n in range(1, 50)]


@pytest.mark.parametrize(("function", "item", "error", "match"), [
    (int, "x", ValueError, "invalid literal for int"),
    (functools.partial(os.open, flags=os.O_RDONLY), "/none", FileNotFoundError, "/none"),
    (os._exit, 3, RuntimeError, "a process of this job ended")])
def test_an_exception_is_raised_here_after_the_results_before_it(function, item, error, match):
    results = in_order(functools.partial(_first, function), [None, item], 2)
    assert next(results) is None
    with pytest.raises(error, match=match):
        next(results)


def test_errors_of_users_have_their_parts():
    from jaxllm.text.readers import read_raw

    with pytest.raises(UserError, match="no such file") as caught:
        list(in_order(read_raw, ["none.jsonl"], 1))
    assert caught.value.where == "none.jsonl"


@pytest.mark.parametrize("end", ["SIGINT", "SIGKILL"])
def test_processes_end_with_this_one(tmp_path, end):
    """A script without a guard of its main module starts them too."""
    script = tmp_path / "script.py"
    script.write_text("import os, signal, time\nfrom jaxllm.parallel import in_order\n"
                      "signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background\n"
                      "for number in in_order(abs, iter(os.getpid, None), 2):\n    print(number, flush=True)\n"
                      "    time.sleep(0.1)\n")
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert int(process.stdout.readline()) == process.pid
    children = [int(name) for name in open(f"/proc/{process.pid}/task/{process.pid}/children").read().split()]
    assert len(children) == 2
    process.send_signal(getattr(signal, end))
    process.communicate(timeout=60)
    for child in children:
        with pytest.raises(ProcessLookupError):
            for _ in range(600):
                os.kill(child, 0)
                subprocess.run(["sleep", "0.1"])


def _first(function, item):
    return None if item is None else function(item)
