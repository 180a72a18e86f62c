"""The directory of a job: its config, inputs, rows and result.

DIR/config.yaml     the resolved config, secrets masked
DIR/inputs.json     hashes of the inputs, compared when the job is resumed, the verb, and the moment of the first start
DIR/metrics.jsonl   metrics, a line per logged step
DIR/rows.jsonl      one result per input row, in the order of the input
DIR/rejected.jsonl  rows that could not be used, with reasons
DIR/report.html     tables and plots in one self-contained page
DIR/report.md       the headline numbers as a Markdown table
DIR/result.json     final numbers, seed and versions; written last, so its presence means that the job is finished
DIR/checkpoints/    training state
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jaxllm import __version__, assets, clock
from jaxllm.config import changed_keys, to_yaml
from jaxllm.directories import lock_file, locked
from jaxllm.errors import UserError
from jaxllm.files import (
    JsonlWriter,
    count_lines,
    expanded,
    is_temporary,
    iter_jsonl,
    plain,
    storage,
    write_atomic,
    write_jsonl,
)
from jaxllm.report import Section, Table, markdown, render

# Version of the keys of result.json; raised when a key changes its meaning or is removed.
SCHEMA_VERSION = 1
# Files that a job writes before its first long computation; removed again where it ends before any other.
_EARLY = ("config.yaml", "inputs.json", ".lock")
# Files of a failed job that a new job may overwrite.
_LEFTOVER = ("rejected.jsonl", ".lock")


@dataclass(frozen=True)
class Job:
    """A job's directory; made by `open_job`, used in a ``with`` block.

    If the block raises before the job wrote any result, its files are removed again, and the directory where the job
    made it, so that a corrected command can use it. In a multi-process job only the first process writes; in the
    others every method that writes does nothing.

    Fields:
        directory: DIR.
        config: the resolved config.
        resumed: DIR held this job already.
        finished: DIR held its result too, so there is nothing left to do.
        made: DIR was made for this job.
        primary: this process writes.
    """

    directory: Path
    config: Any
    resumed: bool
    finished: bool
    made: bool
    primary: bool
    _writers: dict[Path, JsonlWriter] = field(default_factory=dict, repr=False)
    _lock: Any = field(default=None, repr=False)  # open while this process works in DIR
    _verb: str | None = None

    def __enter__(self) -> Job:
        try:
            clock.pin(self._first_start())
        except UserError:
            self._release()
            raise
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        clock.pin(None)
        for writer in self._writers.values():
            writer.close()
        if not self.primary:
            return
        if error is not None and not self.resumed:
            files = list(self.directory.iterdir())
            empty = [path for path in files if path.is_file() and not path.stat().st_size]
            folders = [path for path in files if path.is_dir() and not any(path.iterdir())]  # such as checkpoints
            if {path.name for path in files} - {path.name for path in [*empty, *folders]} <= {*_EARLY, *_LEFTOVER}:
                for path in [*empty, *(self.directory / name for name in _EARLY)]:
                    path.unlink(missing_ok=True)
                for path in folders:
                    path.rmdir()
                if self.made:
                    with contextlib.suppress(OSError):  # not empty: the user may want to read rejected.jsonl
                        self.directory.rmdir()
        self._release()

    def _release(self) -> None:
        """Unlocks DIR."""
        if self._lock is not None:
            (self.directory / ".lock").unlink(missing_ok=True)
            self._lock.close()

    def _first_start(self) -> datetime:
        """Returns the time of the first start, which inputs.json stores with the verb."""
        pinned = _inputs(self.directory)
        if "started" not in pinned:
            pinned |= {} if self._verb is None else {"verb": self._verb}
            pinned["started"] = datetime.now().isoformat(timespec="seconds")
            if self.primary and not self.finished:
                write_atomic(self.directory / "inputs.json", json.dumps(pinned, indent=2) + "\n")
        return datetime.fromisoformat(pinned["started"])

    def pin(self, name: str, content: Any) -> None:
        """Records a hash of an input; a resumed job must have the same input.

        Args:
            name: name of the input.
            content: anything that JSON can hold.

        Raises:
            UserError: the input changed since the job started.
        """
        if self.primary:
            self._pin(name, hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest())

    def pin_file(self, name: str, path: str | Path | Sequence[Path], limit: int | None = None) -> None:
        """Records a hash of the bytes of an input file; a resumed job must have the same file.

        Args:
            name: name of the input.
            path: a file, a directory (all files in it), a packaged file ("asset:NAME"), or a list of files.
            limit: number of rows that are used, hashed too.

        Raises:
            UserError: the file changed since the job started, or it cannot be read.
        """
        if not self.primary:
            return
        digest = hashlib.sha256(f"limit {limit}".encode())
        for file in _files(path):
            try:
                with open(file, "rb") as opened:
                    digest.update(hashlib.file_digest(opened, "sha256").digest())
            except OSError as error:
                raise UserError(f"cannot be read: {error.strerror or error}", file) from error
        self._pin(name, digest.hexdigest())

    def shares(self, name: str, folder: str | Path) -> bool:
        """Returns whether the job in another directory pinned the same file, and limit, under a name."""
        with contextlib.suppress(UserError):  # the other hashes may be damaged
            return _inputs(expanded(folder)).get(name, "") == _inputs(self.directory).get(name)
        return False

    def _pin(self, name: str, digest: str) -> None:
        pinned = _inputs(self.directory)
        if pinned.setdefault(name, digest) != digest:
            raise UserError(f"the {name} changed since the run started", self.directory,
                            "choose another --out, or restore the old input")
        write_atomic(self.directory / "inputs.json", json.dumps(pinned, indent=2) + "\n")

    def already_done(self) -> Path:
        """Prints that the job is finished already; returns the path of result.json."""
        print(f"jaxllm: {self.directory} holds the finished run already; nothing was done", file=sys.stderr)
        return self.result_path

    @property
    def checkpoints(self) -> Path:
        """DIR/checkpoints, not created here."""
        return self.directory / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        """DIR/metrics.jsonl."""
        return self.directory / "metrics.jsonl"

    @property
    def rows_path(self) -> Path:
        """DIR/rows.jsonl."""
        return self.directory / "rows.jsonl"

    @property
    def rejected_path(self) -> Path | None:
        """DIR/rejected.jsonl as `read_rows` takes it: None in a process that does not write, or when all is done."""
        return self.directory / "rejected.jsonl" if self.primary and not self.finished else None

    @property
    def result_path(self) -> Path:
        """DIR/result.json."""
        return self.directory / "result.json"

    def result(self) -> dict[str, Any]:
        """Reads result.json of a finished run."""
        return json.loads(self.result_path.read_text(encoding="utf-8"))

    def rows_written(self) -> int:
        """Counts the complete rows in rows.jsonl, those of earlier starts included, without parsing them."""
        return count_lines(self.rows_path)

    def iter_rows(self) -> Iterator[dict]:
        """Yields the complete rows in rows.jsonl one at a time, those of earlier starts included."""
        return iter_jsonl(self.rows_path)

    def row(self, row: Mapping[str, Any]) -> None:
        """Appends one row to rows.jsonl; it is in the file when this returns.

        Raises:
            ValueError: it holds NaN, an infinity, or something JSON has no form for.
            StorageError: the disk is full; earlier rows are complete.
        """
        self._append(self.rows_path, row)

    def _append(self, path: Path, row: Mapping[str, Any]) -> None:
        if self.primary:
            self._writer(path).write(row)

    def _writer(self, path: Path) -> JsonlWriter:
        """Returns the writer of a file, opened on first use."""
        if path not in self._writers:
            self._writers[path] = JsonlWriter(path)
        return self._writers[path]

    def in_order(self, start: int, file: str = "rows.jsonl") -> Callable[[int, Mapping[str, Any]], int]:
        """Returns a writer of rows that arrive in any order; a row is written once all earlier ones are.

        Args:
            start: number of rows that the file has already.
            file: name of the file in the directory.

        Returns:
            `write(number, row) -> count`: takes a row's number, counted from the first row of the file, and the row;
            returns how many rows are written.
        """
        waiting: dict[int, Mapping[str, Any]] = {}
        written = start

        def take(number: int, row: Mapping[str, Any]) -> int:
            nonlocal written
            waiting[number] = row
            while written in waiting:
                self._append(self.directory / file, waiting.pop(written))
                written += 1
            return written

        return take

    def progress(self, show: Callable[[int], None]) -> Callable[[int], None]:
        """Returns a callback that shows the number of finished rows and appends it to metrics.jsonl, with the seconds
        since the callback was created.

        Args:
            show: progress bar; see `progress.bar`.
        """
        start = time.monotonic()

        def listen(done: int) -> None:
            show(done)
            if self.primary:
                self._writer(self.metrics_path).write({"step": done, "seconds": round(time.monotonic() - start, 3)})

        return listen

    def write_rejected(self, rejected: Iterable[Any]) -> None:
        """Writes rejected.jsonl (dataclasses or mappings), replacing an earlier one."""
        if self.primary:
            write_jsonl(self.directory / "rejected.jsonl", rejected)

    def write_report(self, title: str, lead: str, sections: Sequence[Section], headline: Table | None = None) -> None:
        """Writes report.html and report.md. A report that cannot be drawn is skipped with a warning, so that the job
        still writes its result.

        Args:
            title: heading of the page.
            lead: one or two sentences: task and outcome.
            sections: contents of the page.
            headline: table of report.md; the first table of the sections by default.
        """
        if not self.primary:
            return
        tables = [part for section in sections for part in section.parts if isinstance(part, Table)]
        try:
            page = render(title, lead, sections, to_yaml(self.config), versions())
            summary = markdown(title, lead, headline or next(iter(tables), None))
            # A lone surrogate, as half of an emoji that a model wrote, has no form in UTF-8.
            page, summary = (text.encode("utf-8", "backslashreplace").decode() for text in (page, summary))
        except Exception as error:  # matplotlib and jinja2 raise many types
            print(f"jaxllm: the report cannot be drawn ({type(error).__name__}: {error}); the numbers are in "
                  f"{self.result_path}", file=sys.stderr)
            return
        write_atomic(self.directory / "report.html", page)
        write_atomic(self.directory / "report.md", summary)

    def write_result(self, result: Mapping[str, Any]) -> Path:
        """Writes result.json: ``schema_version``, `result`, ``seed`` (of the config) and ``versions``. Call it last.

        Returns:
            path of result.json.

        Raises:
            ValueError: `result` holds NaN, an infinity, something JSON has no form for, or a key that is
                added here.
            StorageError: the disk is full; no result is left.
        """
        if taken := {"schema_version", "seed", "versions"} & set(result):
            raise ValueError(f"result holds {', '.join(sorted(taken))}, which the job adds")
        full = {"schema_version": SCHEMA_VERSION, **plain(result), "seed": getattr(self.config, "seed", None),
                "versions": versions()}
        if self.primary:
            text = json.dumps(full, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            write_atomic(self.result_path, text.encode("utf-8", "backslashreplace").decode())  # as `JsonlWriter`
        return self.result_path


def open_job(out: str | Path, config: Any, verb: str | None = None, resume: bool = True) -> Job:
    """Opens DIR for a job: creates it and writes its config, or resumes the same job in it.

    Two configs are of the same job when they differ in ``out`` and tunable keys only (`config.tunable`). In a
    multi-process job call it in every process, after ``jax.distributed.initialize``, with a DIR that all of them can
    read; the first process decides for all.

    Args:
        out: DIR.
        config: the resolved config, a dataclass.
        verb: verb of the command; a run that another verb started is refused. None compares none.
        resume: False refuses a directory that holds this job.

    Raises:
        UserError: DIR holds another run, is no directory, or may not be written.
        StorageError: the disk is full.
    """
    import jax

    out = expanded(out)
    if jax.process_count() == 1:
        claimed = _claim(out, config, verb, resume)
        return Job(out, config, *claimed, primary=True, _lock=_hold(out), _verb=verb)
    from jax.experimental import multihost_utils

    state, error = (False, False, False), None
    if jax.process_index() == 0:
        try:
            state = _claim(out, config, verb, resume)
        except Exception as raised:  # reported to the other processes first, which would wait forever
            error = raised
    resumed, finished, made, failed = multihost_utils.broadcast_one_to_all(
        np.array([*state, error is not None])
    ).tolist()
    if failed:
        raise error or UserError("the first process could not open the directory; its message gives the reason", out)
    primary = jax.process_index() == 0
    lock = _hold(out) if primary else None
    return Job(out, config, bool(resumed), bool(finished), bool(made), primary, _lock=lock, _verb=verb)


def _files(path: str | Path | Sequence[Path]) -> list[Path]:
    """Lists the files of an input in a fixed order."""
    if not isinstance(path, str | os.PathLike):
        return list(path)
    resolved = assets.resolve(path)
    return sorted(file for file in resolved.rglob("*") if file.is_file()) if resolved.is_dir() else [resolved]


def _hold(out: Path) -> Any:
    """Locks DIR for this process, and removes what a killed one left half-written."""
    try:
        lock = lock_file(out / ".lock", out)
        if lock is not None:
            for path in filter(is_temporary, out.iterdir()):
                path.unlink(missing_ok=True)
        return lock
    except OSError as error:
        if (out / "result.json").is_file():  # nothing will be written
            return None
        raise UserError(f"the directory may not be written: {error.strerror}", out, "choose another --out") from None


def _inputs(out: Path) -> dict[str, str]:
    """Reads inputs.json; an empty object without it."""
    path = out / "inputs.json"
    try:
        pinned = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if isinstance(pinned, dict) and all(isinstance(value, str) for value in pinned.values()):
            datetime.fromisoformat(pinned.get("started", "2000-01-01"))
            return pinned
    except ValueError:  # no JSON, no UTF-8, or no date
        pass
    raise UserError("not the hashes of a run's inputs", path,
                    "choose another --out, or remove the file to resume without comparing the inputs")


def _claim(out: Path, config: Any, verb: str | None, resume: bool) -> tuple[bool, bool, bool]:
    """Creates DIR or checks that it holds this job; returns (resumed, finished, made)."""
    path = out / "config.yaml"
    try:
        if path.is_file():
            # Runs of earlier versions have no verb.
            if verb is not None and (before := _inputs(out).get("verb", verb)) != verb:
                raise UserError(f"the directory holds a run of jaxllm {before}, not of jaxllm {verb}", out,
                                "choose another --out")
            _check_same(path, config)
            if not resume:
                raise UserError("this directory holds the run already", out, "choose another --out, or remove it")
            return True, (out / "result.json").is_file(), False
        if out.is_dir() and (others := sorted(p.name for p in out.iterdir()
                                              if p.name not in _LEFTOVER and not is_temporary(p))):
            raise UserError(f"the directory holds {others[0]} but no run", out, "choose another --out, or an empty one")
        with storage(out), contextlib.ExitStack() as stack:
            out.parent.mkdir(parents=True, exist_ok=True)
            if os.access(out.parent, os.W_OK):  # a directory that is mounted may be the only one that is
                stack.enter_context(locked(out))
            if path.is_file():  # another process has written it meanwhile
                return _claim(out, config, verb, resume)
            made = not out.exists()
            out.mkdir(exist_ok=True)
            write_atomic(path, to_yaml(config))
    except (FileExistsError, NotADirectoryError):
        raise UserError("there is a file where the directory should be", out, "choose another --out") from None
    except OSError as error:
        raise UserError(f"the directory cannot be used: {error.strerror}", out, "choose another --out") from None
    return False, False, made


def _check_same(path: Path, config: Any) -> None:
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        before = None
    if not isinstance(before, dict):
        raise UserError("not the config of a run", path, "choose another --out")
    if different := changed_keys(before, config):
        changes = "".join(f"\n  {key}: {old} there, {new} here" for key, (old, new) in list(different.items())[:5])
        raise UserError(f"the directory holds another run{changes}", path.parent,
                        f"choose another --out; to resume that run give --config {path} and no other keys")


def versions() -> dict[str, Any]:
    """Returns the versions of packages and Python, the platform and the devices."""
    import jax

    installed: dict[str, Any] = {"jaxllm": __version__}
    for name in ("jax", "jaxlib", "flax", "optax"):
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed[name] = None
    return {
        **installed,
        "python": platform.python_version(),
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }
