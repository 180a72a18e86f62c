"""An OpenAI-compatible server as a judge, asked through the official client."""

from __future__ import annotations

import concurrent.futures
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.judge.protocol import (
    Answer,
    Choice,
    Judge,
    Prompt,
    check_answers,
    choice_of,
    plain_answer,
    warn_of_low_mass,
)

T = TypeVar("T")
# The most that the interface gives.
TOP_LOGPROBS = 20
# Statuses after which the same request may succeed; so may all from 500 on.
PASSING = {408, 409, 429}
# So many prompts without any that is answered, and the fault is hardly theirs.
HOPELESS = 8
LONGEST_PAUSE = 8.0
# What newer models call max_tokens; servers of other makers may know the old name only.
NEWER_LIMIT = "max_completion_tokens"


class _Failed(Exception):
    """A prompt has no answer.

    Attributes:
        error: why.
        fatal: no other prompt would have one either.
    """

    def __init__(self, error: UserError, fatal: bool):
        super().__init__(error.what)
        self.error, self.fatal = error, fatal


class ServerJudge(Judge):
    """Asks a server, several prompts at a time; a text is sent as what the user says.

    Requests that fail for a reason that may pass (429, 5xx, no connection, no answer in time, an answer that is none)
    are sent again after growing pauses. A prompt that the server refuses does not keep the others from being asked;
    what was answered has been told to `on_answer` before the failure is raised.

    Args:
        model: name of the model at the server.
        base_url: of the interface, such as http://localhost:8000/v1; None for OpenAI's own.
        key_variable: name of the environment variable that holds the key.
        concurrency: requests under way at a time.
        per_minute: requests that may begin in a minute; None for any number.
        seconds: to wait for an answer.
        retries: how often a request is sent again.

    Raises:
        UserError: the client is not installed, or there is no key for OpenAI's own interface.
    """

    def __init__(self, model: str, base_url: str | None = None, key_variable: str = "OPENAI_API_KEY",
                 concurrency: int = 8, per_minute: float | None = None, seconds: float = 60.0, retries: int = 5):
        try:
            import openai
        except ImportError:
            raise UserError("the client for servers is not installed", "judge.kind",
                            "pip install 'jaxllm[api]'") from None
        self._key, self._key_variable = os.environ.get(key_variable, "").strip(), key_variable
        if not self._key and base_url is None:
            raise UserError(f"the environment variable {key_variable} holds no key", "judge")
        # A server of one's own usually wants none, and the client insists on something. Requests are sent again here
        # and not by the client, so that they too keep the rate.
        self._client = openai.OpenAI(api_key=self._key or "none", base_url=base_url, timeout=seconds, max_retries=0)
        self._openai, self.model, self.retries, self.concurrency = openai, model, retries, concurrency
        url = self._client.base_url
        self.identity = f"{model} at {url.host}{f':{url.port}' if url.port else ''}{url.path.rstrip('/')}"
        self._interval = 0.0 if per_minute is None else 60.0 / per_minute
        self._next, self._lock = 0.0, threading.Lock()
        self._limit = "max_tokens"  # what this server calls it

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None) -> list[list[Answer]]:
        """See `Judge.complete`; whether draws repeat is the server's business.

        Raises:
            UserError: prompts have no answer, or a setting has no name in the interface.
        """
        for name, neutral in (("top_k", 0), ("min_p", 0.0), ("repetition_penalty", 1.0)):
            if getattr(sampling, name) != neutral:
                raise UserError(f"sampling.{name} has no place in this interface", self.identity,
                                f"leave it at {neutral}")
        settings = dict(temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens,
                        n=sampling.n, seed=seed if sampling.seed is None else sampling.seed)
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        if sampling.logit_bias:
            settings["logit_bias"] = {str(token): value for token, value in sampling.logit_bias.items()}

        def read(response: Any) -> list[Answer]:
            answers = [Answer(one.message.content, one.finish_reason) for one in response.choices]
            if len(answers) != sampling.n:
                raise ValueError(f"{sampling.n} texts were asked for, {len(answers)} came")
            if not all(isinstance(one.text, str) for one in answers):
                raise ValueError("it holds no text; the model may have refused")
            return answers

        return self._ask(prompts, settings, read, on_answer)

    def choose(self, prompts: Sequence[Prompt], answers: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None) -> list[Choice]:
        """See `Judge.choose`: counted are the likeliest first tokens that are an answer or begin just one.

        A token that is an answer counts for it, though it might begin a longer one.
        """
        check_answers(answers)
        plain = {plain_answer(answer): answer for answer in answers}

        def meant(token: str) -> str | None:
            token = plain_answer(token)
            if token in plain:
                return plain[token]
            fits = [answer for text, answer in plain.items() if token and (
                text.startswith(token) or token.startswith(text) and not token[len(text):][:1].isalnum())]
            return fits[0] if len(fits) == 1 else None

        def read(response: Any) -> Choice:
            found, listed = dict.fromkeys(answers, 0.0), response.choices[0].logprobs.content[0].top_logprobs
            if not listed:
                raise ValueError("it lists no likely tokens")
            for one in listed:
                if (answer := meant(one.token)) is not None:
                    found[answer] += math.exp(one.logprob)
            return choice_of(found)

        settings = dict(max_tokens=1, temperature=1.0, logprobs=True, top_logprobs=TOP_LOGPROBS)
        choices = self._ask(prompts, settings, read, on_answer)
        warn_of_low_mass(choices, answers, self.identity)
        return choices

    def _ask(self, prompts: Sequence[Prompt], settings: dict[str, Any], read: Callable[[Any], T],
             on_answer: Callable[[int, T], None] | None) -> list[T]:
        """What `read` makes of the answer to every prompt."""
        results: dict[int, T] = {}
        failures: dict[int, _Failed] = {}
        stop = threading.Event()
        pool = concurrent.futures.ThreadPoolExecutor(self.concurrency)
        try:
            waiting = {pool.submit(self._one, prompt, settings, read, stop): number
                       for number, prompt in enumerate(prompts)}
            while waiting:
                done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    number = waiting.pop(future)
                    try:
                        results[number] = future.result()
                    except _Failed as failed:
                        failures[number] = failed
                        continue
                    if on_answer is not None:
                        on_answer(number, results[number])
                if any(one.fatal for one in failures.values()) or not results and len(failures) >= HOPELESS:
                    stop.set()  # nothing new is asked; what is under way may still be answered
                    waiting = {future: number for future, number in waiting.items() if not future.cancel()}
        except BaseException:
            stop.set()  # an interrupt, or a listener that failed: nobody waits for answers any more
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if failures:
            raise self._explain(failures, len(results), len(prompts))
        return [results[number] for number in range(len(prompts))]

    def _explain(self, failures: dict[int, _Failed], answered: int, asked: int) -> UserError:
        """One error for all prompts that have no answer, by the one that weighs most."""
        number, worst = min(failures.items(), key=lambda one: (not one[1].fatal, one[0]))
        what = worst.error.what if worst.fatal else f"prompt {number + 1}: {worst.error.what}"
        return UserError(f"{what} ({answered} of {asked} prompts have an answer)", self.identity,
                         worst.error.fix or "answers are kept where judge.cache names a file")

    def _one(self, prompt: Prompt, settings: dict[str, Any], read: Callable[[Any], T], stop: threading.Event) -> T:
        """The answer to one prompt.

        Raises:
            _Failed: there is none.
        """
        for attempt in range(self.retries + 1):
            self._wait(stop)
            named = self._limit
            failed, pause = self._try(prompt, settings, read, named)
            if isinstance(failed, _Failed) and named == "max_tokens" and _wants_newer_name(failed):
                self._wait(stop)
                again, pause = self._try(prompt, settings, read, NEWER_LIMIT)
                if not isinstance(again, _Failed):
                    self._limit = NEWER_LIMIT
                failed = again
            if not isinstance(failed, _Failed):
                return failed
            if pause is None or attempt == self.retries or stop.is_set():
                raise failed
            stop.wait(max(pause, min(0.5 * 2**attempt, LONGEST_PAUSE)))
        raise AssertionError("the loop ends by returning or raising")

    def _try(self, prompt: Prompt, settings: dict[str, Any], read: Callable[[Any], T],
             limit: str) -> tuple[T | _Failed, float | None]:
        """An answer, or why there is none and how long to wait at least before another try (None: it is no use).

        `limit` is what the number of tokens is called.
        """
        try:
            response = self._client.chat.completions.create(
                model=self.model, messages=prompt.messages,
                **{limit if name == "max_tokens" else name: value for name, value in settings.items()})
        except UnicodeEncodeError as error:
            return self._failed("the request cannot be sent", error, False), None
        except self._openai.APIStatusError as error:
            if error.status_code in PASSING or error.status_code >= 500:
                return self._failed("the server does not answer", error, True), _retry_after(error.response)
            fatal = error.status_code in (401, 403, 404)
            fix = (f"look at the key in {self._key_variable}" if error.status_code in (401, 403) else
                   "look at judge.model and judge.base_url" if fatal else None)
            return self._failed("the server refuses", error, fatal, fix), None
        except self._openai.APIConnectionError as error:  # a time-out is one
            return self._failed("the server does not answer", error, True), 0.0
        except (self._openai.OpenAIError, ValueError, TypeError) as error:
            return self._failed("the server's answer cannot be used", error, False), 0.0
        try:
            return read(response), None
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            return self._failed("the server's answer cannot be used", error, False), 0.0

    def _failed(self, what: str, error: Exception, fatal: bool, fix: str | None = None) -> _Failed:
        said = f"{type(error).__name__}: {error}"
        if self._key:  # a server may send back what it was sent
            said = said.replace(self._key, "***")
        return _Failed(UserError(f"{what}: {said[:300]}", self.identity, fix), fatal)

    def _wait(self, stop: threading.Event) -> None:
        """Waits for this request's turn."""
        with self._lock:
            now = time.monotonic()
            start = max(self._next, now)
            self._next = start + self._interval
        stop.wait(max(0.0, start - now))


def _wants_newer_name(failed: _Failed) -> bool:
    """Whether a server says that it knows the limit of tokens by another name only."""
    return "Unsupported parameter: 'max_tokens'" in failed.error.what and NEWER_LIMIT in failed.error.what


def _retry_after(response: Any) -> float:
    """Seconds that the server asks to be left alone, within reason."""
    try:
        return min(max(float(response.headers.get("retry-after", 0)), 0.0), 60.0)
    except ValueError:  # a date
        return 0.0
