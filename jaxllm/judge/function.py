"""A Python function as a judge."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.judge.protocol import Answer, Choice, Judge, Prompt, check_answers, choice_of, one_by_one, warn_of_low_mass

Complete = Callable[[Prompt, SamplingConfig, int], Sequence[str]]
Choose = Callable[[Prompt, Sequence[str]], Mapping[str, float]]


UNNAMED = "function"


class FunctionJudge(Judge):
    """Asks functions, a prompt at a time.

    Args:
        complete: from prompt, settings and seed to `sampling.n` texts; None if it completes nothing.
        choose: from prompt and answers to their probabilities; None if it chooses nothing.
        identity: for caches; change it whenever the functions change.
    """

    def __init__(self, complete: Complete | None = None, choose: Choose | None = None, identity: str = UNNAMED):
        self._complete, self._choose, self.identity = complete, choose, identity

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None) -> list[list[Answer]]:
        """See `Judge.complete`."""
        if self._complete is None:
            raise UserError("this judge completes nothing", self.identity)

        def answers(_: int, prompt: Prompt) -> list[Answer]:
            texts = self._complete(prompt, sampling, seed)
            if not isinstance(texts, list | tuple) or len(texts) != sampling.n or not all(
                    isinstance(text, str) for text in texts):
                raise UserError(f"the function must return a list of {sampling.n} texts, got {texts!r:.200}",
                                self.identity)
            return [Answer(text) for text in texts]

        return one_by_one(prompts, answers, on_answer)

    def choose(self, prompts: Sequence[Prompt], answers: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None) -> list[Choice]:
        """See `Judge.choose`."""
        check_answers(answers)
        if self._choose is None:
            raise UserError("this judge chooses nothing", self.identity)

        def choice(_: int, prompt: Prompt) -> Choice:
            given = self._choose(prompt, answers)
            try:
                return choice_of({answer: float(given[answer]) for answer in answers})
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"the function must give a probability for each answer, got {given!r:.200}: {error}",
                                self.identity) from None

        found = one_by_one(prompts, choice, on_answer)
        warn_of_low_mass(found, answers, self.identity)
        return found


def named_judge(path: str) -> FunctionJudge:
    """The judge that `package.module:name` stands for: a `FunctionJudge`, or a function that completes.

    A judge without an identity of its own has that of the module's text: once that changes, caches ask again.

    Raises:
        UserError: there is no such thing, or its module cannot be imported.
    """
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module's own code may raise anything
        missing = isinstance(error, ModuleNotFoundError) and module_name.startswith(str(error.name)) or not module_name
        raise UserError("no such module" if missing else f"the module cannot be imported: {type(error).__name__}: "
                        f"{error}", path, "give package.module:name") from error
    found = getattr(module, name, None)
    if not callable(found) and not isinstance(found, FunctionJudge):
        raise UserError("no such function" if found is None else "neither a function nor a FunctionJudge", path,
                        "give package.module:name")
    judge = found if isinstance(found, FunctionJudge) else FunctionJudge(found)
    if judge.identity == UNNAMED:
        source = Path(module.__file__).read_bytes() if getattr(module, "__file__", None) else b""
        judge.identity = f"{path} ({hashlib.sha256(source).hexdigest()[:16]})"
    return judge
