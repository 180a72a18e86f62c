"""Cache of a judge's answers on disk, safe for several processes."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from jaxllm.config import SamplingConfig
from jaxllm.errors import StorageError, UserError
from jaxllm.files import expanded, plain
from jaxllm.judge.protocol import Answer, Choice, Judge, OnFailure, Prompt, Usage

T = TypeVar("T")
# Another process may be writing; a commit takes a moment.
LOCK_SECONDS = 60.0
# Answers wait at most this long for a commit, which is all that a kill can lose.
COMMIT_SECONDS, ROWS_PER_COMMIT = 0.2, 1000
KEYS_PER_QUERY = 500
# Another process may have stored the same prompt meanwhile; the length of a choice, which is no list, is 0.
STORE = """INSERT INTO answers VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value
           WHERE json_array_length(excluded.value) > json_array_length(value)"""
# Part of every key; increase it when the format of values changes.
FORMAT = 2


class Cached(Judge):
    """A judge that looks answers up in an SQLite file first, and adds new ones to it.

    Keys are hashes of the judge's identity, the prompt's content (not its id), the settings and the seed. The
    completions of a prompt share a key, for any `n`: where five are cached and eight are needed, three are generated.
    Where several processes store completions of one prompt, the longest list stays, and the first of equally long ones.
    Failures are not cached. The file is empty until there is an answer. It is in write-ahead mode (`-wal` and `-shm`
    files accompany it); answers are committed in batches, at the latest after `COMMIT_SECONDS`.

    Args:
        judge: answers prompts that are not in the file.
        path: the file.

    Raises:
        UserError: the file is damaged, or not a cache.
    """

    def __init__(self, judge: Judge, path: str | Path):
        self.judge, self.identity, self.path = judge, judge.identity, expanded(path)
        self.reads_messages, self.can_choose = judge.reads_messages, judge.can_choose
        self._lock = threading.Lock()
        self._pending: dict[str, str] = {}
        self._timer: threading.Timer | None = None
        self._grew = False  # whether it has stored an answer
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.open("ab").close()  # an error if it cannot be written, before there are answers

    @functools.cached_property
    def _database(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=LOCK_SECONDS, check_same_thread=False)
        with contextlib.suppress(sqlite3.OperationalError):  # locked by another process, which sets it
            database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=NORMAL")
        database.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        database.commit()
        return database

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None,
                 on_failure: OnFailure | None = None) -> list[list[Answer]]:
        """See `Judge.complete`."""
        settings = {name: value for name, value in plain(sampling).items() if name != "n"}
        # Greedy decoding does not depend on the seed.
        parts = ["complete", settings, seed if sampling.temperature > 0 else None]
        keys = [self._key([*parts, prompt.sample], prompt) for prompt in prompts]
        indices = _indices(keys)
        answers = self._load(indices, lambda value: [_answer(fields) for fields in value])
        results: list[list[Answer]] = [[] for _ in prompts]

        def deliver(key: str) -> None:
            for number in indices[key]:
                results[number] = answers[key][:sampling.n]
                if on_answer is not None:
                    on_answer(number, results[number])

        missing: dict[int, list[str]] = {}  # number of cached completions -> keys
        for key in indices:
            have = len(answers.setdefault(key, []))
            if have >= sampling.n:
                deliver(key)
            else:
                missing.setdefault(have, []).append(key)
        with self._committing():
            for have, own in missing.items():
                def store(number: int, more: list[Answer], own: list[str] = own) -> None:
                    answers[own[number]] += more
                    self._store(own[number], answers[own[number]])
                    deliver(own[number])

                first = [prompts[indices[key][0]] for key in own]
                self._query(lambda *calls, first=first, have=have: self.judge.complete(
                    [dataclasses.replace(prompt, sample=prompt.sample + have) for prompt in first],
                    dataclasses.replace(sampling, n=sampling.n - have), seed=seed, on_answer=calls[0],
                    on_failure=calls[1]), [indices[key] for key in own], store, on_failure)
        return results

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None,
               on_failure: OnFailure | None = None) -> list[Choice | None]:
        """See `Judge.choose`."""
        keys = [self._key(["choose", list(options)], prompt) for prompt in prompts]
        indices = _indices(keys)
        choices = self._load(indices, _choice)
        results: list[Choice | None] = [None] * len(prompts)

        def deliver(key: str) -> None:
            for number in indices[key]:
                results[number] = choices[key]
                if on_answer is not None:
                    on_answer(number, choices[key])

        for key in choices:
            deliver(key)
        own = [key for key in indices if key not in choices]

        def store(number: int, choice: Choice) -> None:
            choices[own[number]] = choice
            self._store(own[number], choice)
            deliver(own[number])

        with self._committing():
            self._query(lambda on_answer, on_failure: self.judge.choose(
                [prompts[indices[key][0]] for key in own], options, on_answer=on_answer, on_failure=on_failure),
                [indices[key] for key in own], store, on_failure)
        return results

    def unanswerable_reason(self, prompt: Prompt, max_tokens: int) -> str | None:
        """See `Judge.unanswerable_reason`."""
        return self.judge.unanswerable_reason(prompt, max_tokens)

    def count_tokens(self, prompt: Prompt) -> int | None:
        """See `Judge.count_tokens`."""
        return self.judge.count_tokens(prompt)

    def _query(self, call: Callable[..., list[Any]], indices: Sequence[Sequence[int]],
               store: Callable[[int, Any], None], on_failure: OnFailure | None) -> None:
        """Passes prompts on to the judge; `indices` are those that each of them has among all prompts."""
        done: set[int] = set()

        def answered(number: int, value: Any) -> None:
            done.add(number)
            store(number, value)
            self._grew = True

        def failed(number: int, reason: str) -> None:
            done.add(number)
            if on_failure is not None:
                for index in indices[number]:
                    on_failure(index, reason)

        if indices:
            try:
                values = call(answered, None if on_failure is None else failed)
            except UserError as error:
                again = (f"start again to continue: answers in {self.path} are not requested again" if self._grew
                         else None)
                raise UserError(error.what, error.where, ", then ".join(filter(None, (error.fix, again))) or None
                                ) from error
            for number, value in enumerate(values):
                if number not in done:  # a judge that does not call back
                    answered(number, value)

    def _key(self, settings: list[Any], prompt: Prompt) -> str:
        content = json.dumps([FORMAT, self.identity, prompt.sha256, settings], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def _load(self, keys: Iterable[str], parse: Callable[[Any], T]) -> dict[str, T]:
        keys, values = list(keys), {}
        with self._lock, self._errors():
            if not self.path.stat().st_size:
                return {}
            for start in range(0, len(keys), KEYS_PER_QUERY):
                some = keys[start:start + KEYS_PER_QUERY]
                marks = ", ".join("?" * len(some))
                values |= self._database.execute(f"SELECT key, value FROM answers WHERE key IN ({marks})", some)
            return {key: parse(json.loads(values[key])) for key in keys if key in values}

    def _store(self, key: str, value: Any) -> None:
        with self._lock:
            self._pending[key] = json.dumps(plain(value))
            if len(self._pending) >= ROWS_PER_COMMIT:
                self._commit()
            elif self._timer is None:
                self._timer = threading.Timer(COMMIT_SECONDS, self._commit_late)
                self._timer.daemon = True
                self._timer.start()

    def _commit(self) -> None:
        """Writes all pending answers; the lock is held."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pending:
            with self._errors(), self._database:
                self._database.executemany(STORE, self._pending.items())
            self._pending.clear()

    def _commit_late(self) -> None:
        # An error shows again, in the thread of the caller, at the next commit: the answers are still pending.
        with self._lock, contextlib.suppress(UserError, StorageError):
            self._commit()

    @contextlib.contextmanager
    def _committing(self) -> Iterator[None]:
        try:
            yield
        finally:
            with self._lock:
                self._commit()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns SQLite's errors into those that the user can act on."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "disk I/O" in str(error):
                raise StorageError(f"{self.path}: cannot be written: {error}") from error
            locked = "locked" in str(error)
            raise UserError(f"the cache cannot be used: {error}", self.path,
                            "another process keeps it locked: wait for it, or check whether it hangs" if locked
                            else "it may be another program's: choose another file") from error
        except (sqlite3.DatabaseError, LookupError, ValueError, TypeError) as error:
            raise UserError(f"the cache is damaged: {error}", self.path,
                            "remove the file; its answers are then generated again") from error
        except OSError as error:
            raise UserError(f"the cache cannot be used: {error.strerror}", self.path, "choose another file") from error


def _indices(keys: Sequence[str]) -> dict[str, list[int]]:
    indices: dict[str, list[int]] = {}
    for number, key in enumerate(keys):
        indices.setdefault(key, []).append(number)
    return indices


def _usage(fields: dict[str, Any]) -> dict[str, Any]:
    usage = fields["usage"]
    return fields | {"usage": None if usage is None else Usage(**usage)}


def _answer(fields: dict[str, Any]) -> Answer:
    return Answer(**_usage(fields))


def _choice(fields: dict[str, Any]) -> Choice:
    return Choice(**_usage(fields))
