"""The ``jaxllm`` command: one verb per job.

A verb is a module with a dataclass that describes the job and a function ``run(config) -> Path | None`` that does it
and returns the path of its result.json, if it leaves one. The module is imported when its verb is called and not
before.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import jaxllm
from jaxllm.errors import StorageError, UserError


@dataclass(frozen=True)
class Verb:
    """Where a job lives: `module` has the dataclass `Config` and ``run``; `help` is one line.

    `subject` is the key that may be given without its name, as the first word. `other` is a key that asks for another
    job, and where that one lives.
    """

    module: str
    help: str
    subject: str | None = None
    other: tuple[str, str] | None = None


VERBS: dict[str, Verb] = {
    "inject": Verb("jaxllm.self_param.job", "write documents into a model's weights (SELF-PARAM)",
                   other=("--remove", "jaxllm.self_param.removal")),
    "recommend": Verb("jaxllm.evaluate.recommend.job", "whether a model names the film that is recommended next"),
    "generate": Verb("jaxllm.generate.job", "complete prompts or answer conversations"),
    "score": Verb("jaxllm.generate.score_job", "log-probabilities of given texts, or the scores of a classifier"),
    "convert": Verb("jaxllm.checkpoint.convert_job", "another layout, number format or number of bits; merge adapters"),
    "inspect": Verb("jaxllm.checkpoint.inspect_job", "what a checkpoint is and what it weighs", subject="model"),
    "demo": Verb(
        "jaxllm.self_param.demo", "inject the packaged documents into the packaged tiny model, in minutes"
    ),
}

_HELP = """\
usage: jaxllm VERB [--config FILE] [--KEY VALUE ...] --out DIR

Fine-tunes language models and judges with them, in JAX.

verbs:
{verbs}

jaxllm VERB --help           every key of a verb, with type and default
jaxllm VERB --print_config   the resolved config, to start a file of your own

Keys come from --config FILE (YAML) and the command line, the later one wins: --train.lr 1e-5 sets lr in section train.
A model is a directory in the Hugging Face layout or 'tiny', the packaged one. A job writes into DIR:
config.yaml, metrics.jsonl, rows.jsonl, rejected.jsonl, report.html, result.json, checkpoints/; the last line
printed is the path of result.json. The same command again continues a job that was stopped.

Exit status: 0 done, 1 our fault or the disk is full, 2 something in the command, the config or the data, 130
stopped.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; a traceback is printed for our own faults only."""
    argv = list(sys.argv[1:] if argv is None else argv)
    _quiet()
    try:
        with _interruptible():
            return _run(argv)
    except UserError as error:
        print(f"jaxllm: {error}", file=sys.stderr)
        return 2
    except StorageError as error:
        fix = "free some space or choose another --out; then run it again"
        print(f"jaxllm: {error}\n  fix: {fix}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"jaxllm: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if "No space left on device" in str(error):  # tensorstore's own way to say it
            print(f"jaxllm: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        return 1


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        width = max(map(len, VERBS)) + 2
        verbs = "\n".join(f"  {name:<{width}}{verb.help}" for name, verb in VERBS.items())
        print(_HELP.format(verbs=verbs), end="")
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"jaxllm {jaxllm.__version__}")
        return 0
    name = argv[0]
    if name not in VERBS:
        near = difflib.get_close_matches(name, VERBS, 1, 0.5)
        fix = f"did you mean {near[0]!r}?" if near else f"verbs are {', '.join(VERBS)}"
        raise UserError(f"there is no verb {name!r}", fix=fix)
    verb = VERBS[name]
    from jaxllm.config import parse
    from jaxllm.files import storage

    words, place = argv[1:], verb.module
    if verb.other is not None and any(word.partition("=")[0] == verb.other[0] for word in words):
        place = verb.other[1]
    module = importlib.import_module(place)
    try:
        if verb.subject is not None and words and not words[0].startswith("-"):
            words = [f"--{verb.subject}", *words]
        config = parse(module.Config, words, verb.help, f"jaxllm {name}")
    except SystemExit as end:  # --help and --print_config
        return int(end.code or 0)
    with storage(getattr(config, "out", "a file")):
        result = module.run(config)
    sys.stdout.flush()
    if result is not None:
        print(result, flush=True)
    return 0


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Lets SIGTERM end a job as Ctrl-C does, with its files closed and a word; training handles both by itself."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("terminated; the same command starts it again")

    if threading.current_thread() is not threading.main_thread():  # where signals are not delivered
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)


def _quiet() -> None:
    """Leaves out what other packages say about themselves; warnings about the work at hand come through."""
    for name in ("absl", "orbax", "datasets"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # transformers sets the level of its logger when it is imported, after this; a filter stays.
    logging.getLogger("transformers").addFilter(_no_advice)
    logging.getLogger("jax._src.xla_bridge").addFilter(_no_tpu)


def _no_advice(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _no_tpu(record: logging.LogRecord) -> bool:
    """That a machine has no TPU is no news; that it has a GPU which is not used is."""
    return record.levelno >= logging.ERROR or "TPU" not in record.getMessage()
