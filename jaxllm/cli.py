"""The ``jaxllm`` command: one verb per job.

A verb is a module with a dataclass `Config` that describes the job and a function ``run(config) -> Path | None`` that
runs it and returns the path of its result.json, if it writes one. The module is imported only when its verb is called.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from functools import partial
from typing import Any

import jaxllm
from jaxllm.errors import LimitError, StorageError, UserError
from jaxllm.progress import printable


@dataclass(frozen=True)
class Verb:
    """One command.

    Attributes:
        module: module that has the dataclass `Config` and ``run``.
        help: one line of `jaxllm --help`; the docstring of `Config` describes the verb in its own help.
        single_process: the job cannot run in several processes.
        subject: key that may be given without its name, as the first argument.
    """

    module: str
    help: str
    single_process: bool = False
    subject: str | None = None


VERBS: dict[str, Verb] = {
    "inject": Verb("jaxllm.self_param.job", "write documents into a model's weights (SELF-PARAM)", True),
    "tune": Verb("jaxllm.finetune.tune.job", "fine-tune on examples or preferences: SFT, reward models, DPO and others",
                 True),
    "rl": Verb("jaxllm.cory.job", "fine-tune by reinforcement learning: PPO and others, one agent or two (CORY)", True),
    "remove": Verb("jaxllm.self_param.removal", "remove a document from the model of a sequential inject run", True,
                   subject="document"),
    "recommend": Verb("jaxllm.evaluate.recommend.job", "measure how often a model recommends the right item", True),
    "evaluate": Verb("jaxllm.evaluate.task_job", "measure exact match and pass@k on GSM8K, or question answers", True),
    "judge": Verb("jaxllm.codejudge.job", "judge whether programs are right, without running them (CodeJudge)", True),
    "consistency": Verb("jaxllm.consistency.job", "measure the logical consistency of a judge of pairs", True),
    "repair": Verb("jaxllm.consistency.repair_job", "repair contradictory comparisons (REPAIR)", True),
    "rank": Verb("jaxllm.consistency.rank_job", "order items by a judge of pairs (PairS)", True),
    "audit": Verb("jaxllm.feedback.audit_job", "audit preference labels by a committee of reward models and judges",
                  True),
    "clean": Verb("jaxllm.feedback.clean_job", "clean preference data: flip, remove, soften or weigh labels", True),
    "compare": Verb("jaxllm.evaluate.comparison.job", "measure how often one model answers better than another", True),
    "generate": Verb("jaxllm.generate.job", "complete prompts or answer conversations", True),
    "score": Verb("jaxllm.generate.score_job", "compute log-probabilities of completions, or scores of a classifier",
                  True),
    "check": Verb("jaxllm.evaluate.check_job", "audit fine-tuning data before training", True, subject="data.path"),
    "convert": Verb("jaxllm.checkpoint.convert_job", "change a checkpoint's layout, dtype or bits, or merge adapters",
                    True),
    "inspect": Verb("jaxllm.checkpoint.inspect_job", "describe a checkpoint: architecture, size, tokenizer",
                    subject="model"),
    "demo": Verb("jaxllm.self_param.demo", "inject the packaged documents into the packaged tiny model, in minutes",
                 True),
}

_HELP = """\
usage: jaxllm VERB [--config FILE] [--KEY VALUE ...] --out DIR

Fine-tunes language models and judges with them, in JAX.

verbs:
{verbs}

jaxllm VERB --help           every key of a verb, with type and default
jaxllm VERB --print_config   the resolved config, to start a file of your own

Keys come from --config FILE (YAML) and the command line; the last one wins. --train.lr 1e-5 sets lr in section train.
Relative paths, those in FILE too, start from the working directory.
A model is a directory in the Hugging Face layout, a GGUF file, a Hub id, or 'tiny', the packaged model.
A job writes into DIR: config.yaml, metrics.jsonl, rows.jsonl, rejected.jsonl, report.html, report.md,
result.json, checkpoints/; the last line printed is the path of result.json. Run the same command again to resume a
stopped job.

Exit status: 0 done, 1 internal error or full disk, 2 error in the command, the config or the data, 3 a measure is below
its --fail_under, 130 stopped.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status; only internal errors print a traceback."""
    argv = list(sys.argv[1:] if argv is None else argv)
    filter_loggers()
    try:
        with _interruptible():
            return _run(argv)
    except UserError as error:
        print(printable(f"jaxllm: {error}"), file=sys.stderr)
        return 2
    except StorageError as error:
        fix = "free some space or choose another --out; then run it again"
        print(printable(f"jaxllm: {error}\n  fix: {fix}"), file=sys.stderr)
        return 1
    except LimitError as error:
        if error.path is not None:
            print(error.path, flush=True)
        print(printable(f"jaxllm: {error}"), file=sys.stderr)
        return 3
    except KeyboardInterrupt as stop:
        print(f"jaxllm: {str(stop) or 'stopped'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # such as `jaxllm ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        traceback.print_exc()
        return 1


def entry() -> None:
    """Runs the console script."""
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
        near = difflib.get_close_matches(name, [*VERBS, "--help", "--version"], 1, 0.5)
        fix = f"did you mean {near[0]!r}?" if near else f"verbs are {', '.join(VERBS)}"
        raise UserError(f"there is no verb {name!r}", fix=fix)
    verb = VERBS[name]
    from jaxllm.files import storage
    from jaxllm.parsing import parse

    words = argv[1:]
    module = importlib.import_module(verb.module)
    try:
        if verb.subject is not None and words and not words[0].startswith("-"):
            words = [f"--{verb.subject}", *words]
        config = parse(module.Config, words, f"jaxllm {name}")
    except SystemExit as end:  # --help and --print_config
        return int(end.code or 0)
    if verb.single_process:
        from jaxllm.devices import check_one_process

        check_one_process(name)
    if _device_configs(config):
        from jaxllm.compile_cache import enable_compile_cache
        from jaxllm.memory import return_freed_memory

        return_freed_memory()
        if all(device.compile_cache for device in _device_configs(config)):
            enable_compile_cache()
    with storage(getattr(config, "out", "a file")):
        result = module.run(config)
    sys.stdout.flush()
    if result is not None:
        print(result, flush=True)
    return 0


def _device_configs(config: Any) -> list[Any]:
    """Returns the sections of a config, at any depth, that have a key `compile_cache`."""
    if not dataclasses.is_dataclass(config):
        return []
    sections = [config] if hasattr(config, "compile_cache") else []
    return sections + [section for field in dataclasses.fields(config)
                       for section in _device_configs(getattr(config, field.name))]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Makes SIGTERM raise KeyboardInterrupt, as Ctrl-C does, so that files are closed; training handles both itself."""

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


# Least level shown of the messages of other packages. Orbax logs the traceback of every error, once a thread, through
# absl or asyncio, and then raises it.
_SHOWN = {"absl": logging.CRITICAL, "asyncio": logging.CRITICAL, "orbax": logging.WARNING, "datasets": logging.WARNING,
          "bm25s": logging.WARNING, "transformers": logging.ERROR}


def filter_loggers() -> None:
    """Hides messages of other packages that do not help the user.

    By filters, since packages set the levels of their loggers when they are imported, after this.
    """
    for name, level in _SHOWN.items():
        logging.getLogger(name).addFilter(partial(_at_least, level))
    logging.getLogger("jax._src.xla_bridge").addFilter(_no_tpu)


def _at_least(level: int, record: logging.LogRecord) -> bool:
    return record.levelno >= level


def _no_tpu(record: logging.LogRecord) -> bool:
    """Hides that there is no TPU; shows that there is a GPU which jax does not use."""
    return record.levelno >= logging.ERROR or "TPU" not in record.getMessage()
