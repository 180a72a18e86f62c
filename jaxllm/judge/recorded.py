"""Recorded answers as a judge."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.judge.protocol import (
    Answer,
    Choice,
    Judge,
    NoAnswer,
    OnFailure,
    Prompt,
    check_options,
    choice_of,
    normalized,
    one_by_one,
    warn_of_low_mass,
)
from jaxllm.text.rows import data_files, read_rows


class RecordedJudge(Judge):
    """Looks answers up in rows `{prompt_sha256 | id, texts, probabilities?}`.

    A prompt is looked up by its hash, then by its id; a retry has the id of its row with `/retry1`, `/retry2`, ...
    appended. Completion number k of a prompt is `texts[k]`.

    Args:
        path: JSONL file of the rows.

    Raises:
        UserError: a row has neither hash nor id, or neither texts nor probabilities; or two rows have the same key.
    """

    def __init__(self, path: str | Path):
        self.path = path
        recorded = read_rows(path, {}, {"prompt_sha256": str, "id": Any, "texts": list[str], "probabilities": dict},
                             limit_bad=0.0)
        self.rows: dict[str, dict[str, Any]] = {}
        for line, row in zip(recorded.lines, recorded.rows, strict=True):
            keys = [str(row["prompt_sha256"]).lower()] if row.get("prompt_sha256") is not None else []
            keys += [str(row["id"])] if row.get("id") is not None else []
            if not keys or not ({"texts", "probabilities"} & set(row)):
                raise UserError("a row needs prompt_sha256 or id, and texts or probabilities", f"{path}:{line}")
            for key in keys:
                if key in self.rows:
                    raise UserError(f"a second row for {key}", f"{path}:{line}", "remove one")
                self.rows[key] = row
        content = hashlib.sha256(b"".join(file.read_bytes() for file in data_files(path))).hexdigest()[:16]
        self.identity = f"recorded answers ({Path(path).name}, {content})"

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None,
                 on_failure: OnFailure | None = None) -> list[list[Answer]]:
        """See `Judge.complete`; the texts do not depend on the settings."""

        def answers(prompt: Prompt) -> list[Answer]:
            texts, last = self._row(prompt).get("texts", []), prompt.sample + sampling.n
            if len(texts) < last:
                raise NoAnswer(f"{len(texts)} texts are recorded, {last} are needed")
            return [Answer(text) for text in texts[prompt.sample:last]]

        return one_by_one(prompts, answers, [], on_answer, on_failure, str(self.path))

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None,
               on_failure: OnFailure | None = None) -> list[Choice | None]:
        """See `Judge.choose`; an option that a row lists in no spelling has probability 0."""
        check_options(options)
        by_text = {normalized(option): option for option in options}

        def choice(prompt: Prompt) -> Choice:
            recorded = self._row(prompt).get("probabilities")
            if recorded is None:
                raise NoAnswer("no probabilities are recorded")
            shares = dict.fromkeys(options, 0.0)
            try:
                for spelled, share in recorded.items():
                    if (text := normalized(spelled)) in by_text:
                        shares[by_text[text]] += float(share)
                return choice_of(shares)
            except (TypeError, ValueError) as error:
                raise NoAnswer(f"the recorded probabilities cannot be used: {error}") from None

        missing: Choice | None = None
        choices = one_by_one(prompts, choice, missing, on_answer, on_failure, str(self.path))
        warn_of_low_mass(choices, options, self.identity)
        return choices

    def _row(self, prompt: Prompt) -> dict[str, Any]:
        row = self.rows.get(prompt.sha256) or (None if prompt.id is None else self.rows.get(str(prompt.id)))
        if row is None:
            named = "" if prompt.id is None else f", id {prompt.id}"
            raise NoAnswer(f"no answer is recorded (sha256 {prompt.sha256}{named})",
                           "record it, or use a judge that answers")
        return row
