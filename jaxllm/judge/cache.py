"""Answers kept on disk, so that no judge is asked the same twice: not after a stop, and not by another process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from jaxllm.config import SamplingConfig
from jaxllm.errors import StorageError, UserError
from jaxllm.files import plain
from jaxllm.judge.protocol import Answer, Choice, Judge, Prompt

T = TypeVar("T")
# Another process may be writing; an answer takes a moment.
PATIENCE_SECONDS = 60.0
# Part of every key; goes up when what is kept of an answer changes.
FORMAT = 1


class Cached(Judge):
    """A judge that remembers.

    Every answer is in the file as soon as it is there. SQLite keeps several processes from harming each other. Prompts
    are told apart by their content, not by their id, which only recorded answers know: those are in a file already.

    Args:
        judge: who is asked what is not known.
        path: the file.

    Raises:
        UserError: the file is damaged, or something else.
    """

    def __init__(self, judge: Judge, path: str | Path):
        self.judge, self.identity, self.path = judge, judge.identity, Path(path)
        self._lock = threading.Lock()  # judges may tell of answers from several threads
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self.path, timeout=PATIENCE_SECONDS, check_same_thread=False)
            self._base.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
            self._base.commit()

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None) -> list[list[Answer]]:
        """See `Judge.complete`."""
        # The one that takes the likeliest token draws nothing.
        settings = ["complete", plain(sampling), seed if sampling.temperature > 0 else None]
        ask = lambda some, tell: self.judge.complete(some, sampling, seed=seed, on_answer=tell)
        return self._ask(prompts, settings, ask, on_answer, lambda found: [Answer(**one) for one in found],
                         lambda answers: [asdict(one) for one in answers])

    def choose(self, prompts: Sequence[Prompt], answers: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None) -> list[Choice]:
        """See `Judge.choose`."""
        ask = lambda some, tell: self.judge.choose(some, answers, on_answer=tell)
        return self._ask(prompts, ["choose", list(answers)], ask, on_answer, lambda found: Choice(**found), asdict)

    def obstacle(self, prompt: Prompt, tokens: int) -> str | None:
        """See `Judge.obstacle`."""
        return self.judge.obstacle(prompt, tokens)

    def _ask(self, prompts: Sequence[Prompt], settings: list[Any],
             ask: Callable[[Sequence[Prompt], Callable[[int, T], None]], list[T]],
             on_answer: Callable[[int, T], None] | None, read: Callable[[Any], T],
             write: Callable[[T], Any]) -> list[T]:
        keys = [self._key(prompt, settings) for prompt in prompts]
        results: dict[str, T] = {}
        for key in dict.fromkeys(keys):
            if (stored := self._get(key)) is not None:
                with self._explained():
                    results[key] = read(stored)
        places: dict[str, list[int]] = {}
        for number, key in enumerate(keys):
            places.setdefault(key, []).append(number)
            if key in results and on_answer is not None:
                on_answer(number, results[key])
        unknown = [key for key in places if key not in results]

        def tell(number: int, answer: T) -> None:
            key = unknown[number]
            results[key] = answer
            self._put(key, write(answer))
            for place in places[key] if on_answer is not None else ():
                on_answer(place, answer)

        if unknown:
            for number, answer in enumerate(ask([prompts[places[key][0]] for key in unknown], tell)):
                if unknown[number] not in results:  # a judge that told nothing on the way
                    tell(number, answer)
        return [results[key] for key in keys]

    def _key(self, prompt: Prompt, settings: list[Any]) -> str:
        about = json.dumps([FORMAT, self.identity, prompt.sha256, settings], sort_keys=True)
        return hashlib.sha256(about.encode()).hexdigest()

    def _get(self, key: str) -> Any:
        with self._lock, self._explained():
            row = self._base.execute("SELECT value FROM answers WHERE key = ?", (key,)).fetchone()
            return None if row is None else json.loads(row[0])

    def _put(self, key: str, value: Any) -> None:
        with self._lock, self._explained():
            self._base.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(plain(value))))
            self._base.commit()

    @contextlib.contextmanager
    def _explained(self):
        """Turns what SQLite says into what the user can do about it."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "full" in str(error) or "disk I/O" in str(error):
                raise StorageError(f"{self.path}: cannot be written: {error}") from error
            locked = "locked" in str(error)
            raise UserError(f"the cache cannot be used: {error}", self.path,
                            "another process keeps it busy: wait for that, or see whether it hangs" if locked
                            else "it may be another program's: choose another file") from error
        except (sqlite3.DatabaseError, ValueError, TypeError) as error:
            raise UserError(f"the cache is damaged: {error}", self.path,
                            "remove the file; its answers will be asked for again") from error
        except OSError as error:
            raise UserError(f"the cache cannot be used: {error.strerror}", self.path, "choose another file") from error
