"""A Python function as a judge."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.judge.protocol import (
    Answer,
    Choice,
    Judge,
    OnFailure,
    Prompt,
    check_options,
    choice_of,
    one_by_one,
    warn_of_low_mass,
)

Complete = Callable[[Prompt, SamplingConfig, int], Sequence[str]]
Choose = Callable[[Prompt, Sequence[str]], Mapping[str, float]]

UNNAMED = "function"


class FunctionJudge(Judge):
    """Calls functions, one prompt at a time; they may raise `NoAnswer`.

    Args:
        complete: maps prompt, settings and seed to `sampling.n` texts; None if the judge does not complete.
        choose: maps prompt and options to the options' probabilities; None if the judge does not choose.
        identity: part of cache keys; change it whenever the functions change.
    """

    def __init__(self, complete: Complete | None = None, choose: Choose | None = None, identity: str = UNNAMED):
        self._complete, self._choose, self.identity = complete, choose, identity
        self.can_choose = choose is not None

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None,
                 on_failure: OnFailure | None = None) -> list[list[Answer]]:
        """See `Judge.complete`."""
        complete = self._complete
        if complete is None:
            raise UserError("this judge cannot complete prompts", self.identity)

        def answers(prompt: Prompt) -> list[Answer]:
            texts = complete(prompt, sampling, seed)
            if not isinstance(texts, list | tuple) or len(texts) != sampling.n or not all(
                    isinstance(text, str) for text in texts):
                raise UserError(f"the function must return a list of {sampling.n} texts, got {texts!r:.200}",
                                self.identity)
            return [Answer(text) for text in texts]

        return one_by_one(prompts, answers, [], on_answer, on_failure, self.identity)

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None,
               on_failure: OnFailure | None = None) -> list[Choice | None]:
        """See `Judge.choose`."""
        check_options(options)
        choose = self._choose
        if choose is None:
            raise UserError("this judge cannot choose between options", self.identity)

        def choice(prompt: Prompt) -> Choice:
            given = choose(prompt, options)
            try:
                return choice_of({option: float(given[option]) for option in options})
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"the function must return a probability for each option, got {given!r:.200}: {error}",
                                self.identity) from None

        missing: Choice | None = None
        choices = one_by_one(prompts, choice, missing, on_answer, on_failure, self.identity)
        warn_of_low_mass(choices, options, self.identity)
        return choices


def named_judge(path: str) -> FunctionJudge:
    """Imports `package.module:name`, a `FunctionJudge` or a function that completes prompts.

    A judge without an identity gets the hash of its module's source, so that caches miss once that changes.

    Raises:
        UserError: there is no such name, or its module cannot be imported.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module's own code may raise anything
        missing = isinstance(error, ModuleNotFoundError) and module_name.startswith(str(error.name)) or not module_name
        raise UserError("no such module" if missing else f"the module cannot be imported: {type(error).__name__}: "
                        f"{error}", path, "give package.module:name") from error
    function = getattr(module, name, None)
    if not callable(function) and not isinstance(function, FunctionJudge):
        raise UserError("no such function" if function is None else "neither a function nor a FunctionJudge", path,
                        "give package.module:name")
    judge = function if isinstance(function, FunctionJudge) else FunctionJudge(function)
    if judge.identity == UNNAMED:
        source = Path(module.__file__).read_bytes() if module.__file__ else b""
        judge.identity = f"{path} ({hashlib.sha256(source).hexdigest()[:16]})"
    return judge
