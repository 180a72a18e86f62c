"""Answers given earlier, by anyone, as a judge."""

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
    Prompt,
    check_answers,
    choice_of,
    one_by_one,
    plain_answer,
    warn_of_low_mass,
)
from jaxllm.text.rows import read_rows


class RecordedJudge(Judge):
    """Looks answers up in rows `{prompt_sha256 | id, texts, probabilities?}`.

    Args:
        path: JSONL file of the rows.

    Raises:
        UserError: a row has neither hash nor id, or neither texts nor probabilities; or two rows are of one prompt.
    """

    def __init__(self, path: str | Path):
        self.path = path
        found = read_rows(path, {}, {"prompt_sha256": str, "id": Any, "texts": list[str], "probabilities": dict},
                          limit_bad=0.0)
        self.rows: dict[str, dict[str, Any]] = {}
        for line, row in zip(found.lines, found.rows, strict=True):
            keys = [str(row["prompt_sha256"]).lower()] if row.get("prompt_sha256") is not None else []
            keys += [str(row["id"])] if row.get("id") is not None else []
            if not keys or not ({"texts", "probabilities"} & set(row)):
                raise UserError("a row needs prompt_sha256 or id, and texts or probabilities", f"{path}:{line}")
            for key in keys:
                if key in self.rows:
                    raise UserError(f"a second row for {key}", f"{path}:{line}", "remove one")
                self.rows[key] = row
        content = hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
        self.identity = f"recorded answers ({Path(path).name}, {content})"

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None) -> list[list[Answer]]:
        """See `Judge.complete`; the first `sampling.n` texts of each row, whatever the other settings are."""

        def answers(number: int, prompt: Prompt) -> list[Answer]:
            texts = self._row(prompt, number).get("texts", [])
            if len(texts) < sampling.n:
                raise UserError(f"{len(texts)} texts are recorded for prompt {number + 1}, {sampling.n} are asked for",
                                self.path)
            return [Answer(text) for text in texts[:sampling.n]]

        return one_by_one(prompts, answers, on_answer)

    def choose(self, prompts: Sequence[Prompt], answers: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None) -> list[Choice]:
        """See `Judge.choose`; an answer that a row lists in no spelling has probability 0 there."""
        check_answers(answers)
        plain = {plain_answer(answer): answer for answer in answers}

        def choice(number: int, prompt: Prompt) -> Choice:
            listed = self._row(prompt, number).get("probabilities")
            if listed is None:
                raise UserError(f"no probabilities are recorded for prompt {number + 1}", self.path)
            try:
                found = dict.fromkeys(plain, 0.0)
                for spelled, share in listed.items():
                    if (answer := plain_answer(spelled)) in found:
                        found[answer] += float(share)
                return choice_of({plain[answer]: share for answer, share in found.items()})
            except (TypeError, ValueError) as error:
                raise UserError(f"probabilities of prompt {number + 1}: {error}", self.path) from None

        found = one_by_one(prompts, choice, on_answer)
        warn_of_low_mass(found, answers, self.identity)
        return found

    def _row(self, prompt: Prompt, number: int) -> dict[str, Any]:
        row = self.rows.get(prompt.sha256) or (None if prompt.id is None else self.rows.get(str(prompt.id)))
        if row is None:
            named = "" if prompt.id is None else f", id {prompt.id}"
            raise UserError(f"no answer is recorded for prompt {number + 1} (sha256 {prompt.sha256}{named})", self.path,
                            "record it, or use a judge that answers")
        return row
