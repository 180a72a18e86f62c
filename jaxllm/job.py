"""What every job leaves behind: one directory with its config, its rows and its result.

DIR/config.yaml     the resolved config, secrets masked
DIR/metrics.jsonl   numbers as they come
DIR/rows.jsonl      what happened to each input row
DIR/rejected.jsonl  rows that could not be used, with reasons
DIR/report.html     the run to look at: one page that needs nothing beside it
DIR/result.json     final numbers, seed and versions; written last, so that it stands for a finished job
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from jaxllm import __version__
from jaxllm.config import to_dict, to_yaml
from jaxllm.errors import UserError
from jaxllm.files import JsonlWriter, plain, read_jsonl, storage, write_atomic, write_jsonl
from jaxllm.report import Section, render

# What a job has written before it did anything that took time; gone again after a mistake.
_FIRST = ("config.yaml", "inputs.json", "pairs.jsonl", ".lock")
# What a mistake leaves behind for the user to read.
_LEFT = ("rejected.jsonl", ".lock")


@dataclass(frozen=True)
class Job:
    """A job's directory; made by `open_job`, used in a ``with`` block.

    A block that ends in a UserError before the job had anything to show takes the directory back, so that the
    mended command can use it. Only the first process of a multi-process job writes; in the others every method
    that writes does nothing.

    Fields:
        directory: DIR.
        config: the resolved config.
        resumed: whether DIR held this job already.
        finished: whether it held the result as well, so that nothing is left to do.
        primary: whether this process writes.
    """

    directory: Path
    config: Any
    resumed: bool
    finished: bool
    primary: bool
    _rows: list[JsonlWriter] = field(default_factory=list, repr=False)
    _lock: Any = field(default=None, repr=False)  # open while this process works in DIR

    def __enter__(self) -> Job:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for writer in self._rows:
            writer.close()
        if not self.primary:
            return
        if kind is not None and issubclass(kind, UserError) and not self.resumed:
            if {path.name for path in self.directory.iterdir()} <= {*_FIRST, *_LEFT}:
                for name in _FIRST:
                    (self.directory / name).unlink(missing_ok=True)
                rejected = self.directory / "rejected.jsonl"
                if rejected.is_file() and not rejected.stat().st_size:
                    rejected.unlink()
                with contextlib.suppress(OSError):  # not empty: rejected rows stay for the user to see
                    self.directory.rmdir()
        if self._lock is not None:
            (self.directory / ".lock").unlink(missing_ok=True)
            self._lock.close()

    def pin(self, name: str, content: Any) -> None:
        """Notes what a job was started on, and makes sure that a resumed one is on the same.

        Args:
            name: of the input.
            content: what JSON can hold.

        Raises:
            UserError: it changed since the job began.
        """
        if not self.primary:
            return
        path = self.directory / "inputs.json"
        pinned = json.loads(path.read_text()) if path.is_file() else {}
        digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
        if pinned.setdefault(name, digest) != digest:
            raise UserError(f"the {name} changed since the run in it began", self.directory,
                            "choose another --out, or put the old input back")
        write_atomic(path, json.dumps(pinned, indent=2) + "\n")

    def already_done(self) -> Path:
        """Says that nothing is left to do; the path of result.json."""
        print(f"jaxllm: {self.directory} holds the finished run already; nothing was done", file=sys.stderr)
        return self.result_path

    @property
    def checkpoints(self) -> Path:
        """DIR/checkpoints, not created here."""
        return self.directory / "checkpoints"

    @property
    def metrics_path(self) -> Path:
        return self.directory / "metrics.jsonl"

    @property
    def rejected_path(self) -> Path | None:
        """DIR/rejected.jsonl as `read_rows` takes it: None in a process that does not write, or when all is done."""
        return self.directory / "rejected.jsonl" if self.primary and not self.finished else None

    @property
    def result_path(self) -> Path:
        return self.directory / "result.json"

    def rows_done(self) -> list[dict]:
        """Rows that stand in rows.jsonl, of an earlier start too; a row cut short by a kill is not among
        them.
        """
        return read_jsonl(self.directory / "rows.jsonl")

    def row(self, row: Mapping[str, Any]) -> None:
        """Appends one row to rows.jsonl; it is in the file when this returns.

        Raises:
            ValueError: it holds NaN, an infinity, or something JSON has no form for.
            StorageError: the disk is full; the rows before are whole.
        """
        if not self.primary:
            return
        if not self._rows:
            self._rows.append(JsonlWriter(self.directory / "rows.jsonl"))
        self._rows[0].write(row)

    def in_order(self, start: int) -> Callable[[int, Mapping[str, Any]], int]:
        """A writer of rows that come in any order, each written as soon as all before it are.

        Args:
            start: rows that stand in rows.jsonl already.

        Returns:
            takes the number of a row, counted from the first of the file, and the row; returns how many are written.
        """
        waiting: dict[int, Mapping[str, Any]] = {}
        written = start

        def take(number: int, row: Mapping[str, Any]) -> int:
            nonlocal written
            waiting[number] = row
            while written in waiting:
                self.row(waiting.pop(written))
                written += 1
            return written

        return take

    def progress(self, show: Callable[[int], None]) -> Callable[[int], None]:
        """A listener that shows how many rows are done and notes it, with the seconds since it was made, in
        metrics.jsonl."""
        start = time.monotonic()

        def listen(done: int) -> None:
            show(done)
            if self.primary:
                with JsonlWriter(self.metrics_path) as writer:
                    writer.write({"step": done, "seconds": round(time.monotonic() - start, 3)})

        return listen

    def write_rejected(self, rejected: Iterable[Any]) -> None:
        """Writes rejected.jsonl (dataclasses or mappings), replacing an earlier one."""
        if self.primary:
            write_jsonl(self.directory / "rejected.jsonl", rejected)

    def write_report(self, title: str, lead: str, sections: Sequence[Section]) -> None:
        """Writes report.html; where that fails it says so, since a page must not cost the run its result.

        Args:
            title: of the page.
            lead: what was done and what came of it, in a sentence or two.
            sections: what to show.
        """
        if not self.primary:
            return
        try:
            page = render(title, lead, sections, to_yaml(self.config), versions())
        except Exception as error:  # whatever the drawing raises
            print(f"jaxllm: report.html cannot be drawn ({type(error).__name__}: {error}); the numbers are in "
                  f"{self.result_path}", file=sys.stderr)
            return
        write_atomic(self.directory / "report.html", page)

    def write_result(self, result: Mapping[str, Any]) -> Path:
        """Writes result.json: `result`, then ``seed`` (of the config) and ``versions``; the last thing a job
        does.

        Returns:
            its path.

        Raises:
            ValueError: `result` holds NaN, an infinity, something JSON has no form for, or a key that is
                added here.
            StorageError: the disk is full; no result is left.
        """
        if taken := {"seed", "versions"} & set(result):
            raise ValueError(f"result holds {', '.join(sorted(taken))}, which the job adds")
        full = {**plain(result), "seed": getattr(self.config, "seed", None), "versions": versions()}
        if self.primary:
            write_atomic(
                self.result_path, json.dumps(full, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
            )
        return self.result_path


def open_job(out: str | Path, config: Any, resume: bool = True) -> Job:
    """Opens DIR for a job: makes it and writes its config, or finds the same job in it and resumes.

    Two configs are the same when they differ in ``out`` only. In a multi-process job call it in every
    process, after ``jax.distributed.initialize``, with a DIR that all of them can read; what the first
    process finds holds for all.

    Args:
        out: DIR.
        config: the resolved config, a dataclass.
        resume: False refuses a directory in which this very job stands.

    Raises:
        UserError: DIR holds another run, is no directory, or may not be written.
        StorageError: the disk is full.
    """
    import jax

    out = Path(out).expanduser()
    if jax.process_count() == 1:
        claimed = _claim(out, config, resume)
        return Job(out, config, *claimed, primary=True, _lock=_hold(out))
    from jax.experimental import multihost_utils

    found, error = (False, False), None
    if jax.process_index() == 0:
        try:
            found = _claim(out, config, resume)
        except Exception as raised:  # told to the other processes first, which would wait forever
            error = raised
    resumed, finished, failed = multihost_utils.broadcast_one_to_all(
        np.array([*found, error is not None])
    ).tolist()
    if failed:
        raise error or UserError("the first process could not open the directory; its message says why", out)
    primary = jax.process_index() == 0
    return Job(out, config, bool(resumed), bool(finished), primary, _lock=_hold(out) if primary else None)


def _hold(out: Path) -> Any:
    """Keeps other processes from working in DIR while this one does; the system lets go when it ends."""
    import fcntl

    try:
        lock = open(out / ".lock", "w")
    except OSError as error:
        if (out / "result.json").is_file():  # nothing will be written
            return None
        raise UserError(f"the directory may not be written: {error.strerror}", out, "choose another --out") from None
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not (out / ".lock").exists() or os.fstat(lock.fileno()).st_ino != (out / ".lock").stat().st_ino:
            raise BlockingIOError  # its owner removed it meanwhile, and another process may hold a new one
    except (BlockingIOError, PermissionError):
        lock.close()
        raise UserError("another process is at work in this directory", out,
                        "wait for it, or choose another --out") from None
    except OSError:  # a file system without locks
        lock.close()
        return None
    return lock


def _claim(out: Path, config: Any, resume: bool) -> tuple[bool, bool]:
    """Makes DIR this job's; returns whether it was already, and whether the job is finished."""
    path = out / "config.yaml"
    try:
        if path.is_file():
            _check_same(path, to_dict(config))
            if not resume:
                raise UserError("this directory holds the run already", out, "choose another --out, or remove it")
            return True, (out / "result.json").is_file()
        if out.is_dir() and (found := sorted(p.name for p in out.iterdir() if p.name not in _LEFT)):
            raise UserError(f"the directory holds {found[0]} but no run", out, "choose another --out, or an empty one")
        with storage(out):
            out.mkdir(parents=True, exist_ok=True)
            write_atomic(path, to_yaml(config))
    except (FileExistsError, NotADirectoryError):
        raise UserError("a file stands where the directory should be", out, "choose another --out") from None
    except OSError as error:
        raise UserError(f"the directory cannot be used: {error.strerror}", out, "choose another --out") from None
    return False, False


def _check_same(path: Path, now: dict[str, Any]) -> None:
    try:
        then = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        then = None
    if not isinstance(then, dict):
        raise UserError("not the config of a run", path, "choose another --out")
    before, after = _flat(then), _flat(now)
    different = [k for k in (before | after) if k != "out" and before.get(k) != after.get(k)]
    if different:
        changes = "".join(
            f"\n  {k}: {before.get(k, '(not set)')} there, {after.get(k, '(not set)')} here"
            for k in different[:5]
        )
        raise UserError(
            f"the directory holds another run{changes}",
            path.parent,
            f"choose another --out; to resume that run give --config {path} and no other keys",
        )


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, inner in value.items():
        flat |= (
            _flat(inner, f"{prefix}{key}.")
            if isinstance(inner, dict) and inner
            else {f"{prefix}{key}": inner}
        )
    return flat


def versions() -> dict[str, Any]:
    """What the numbers were made with: package versions, Python, platform and devices."""
    import jax

    found: dict[str, Any] = {"jaxllm": __version__}
    for name in ("jax", "jaxlib", "flax", "optax"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return {
        **found,
        "python": platform.python_version(),
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
    }
