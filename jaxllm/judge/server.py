"""An OpenAI-compatible server as a judge, through the official client."""

from __future__ import annotations

import concurrent.futures
import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from jaxllm.config import SamplingConfig
from jaxllm.errors import UserError
from jaxllm.judge.protocol import (
    MOST_PROBABLE,
    Answer,
    Choice,
    Judge,
    OnFailure,
    Prompt,
    Spellings,
    Usage,
    check_options,
    choice_of,
    normalized,
    warn_of_low_mass,
)

T = TypeVar("T")
# The most that the interface allows.
TOP_LOGPROBS = 20
# Statuses after which the same request may succeed; so may all from 500 on.
TRANSIENT_STATUSES = {408, 409, 429}
# After this many failures without any answer the fault is hardly the prompts'.
FAILURES_WITHOUT_ANSWER = 8
LONGEST_PAUSE_SECONDS = 8.0
# The newer name of max_tokens; some servers know the old name only.
NEWER_LIMIT = "max_completion_tokens"


class _Failed(Exception):
    """A prompt has no answer.

    Attributes:
        error: why.
        fatal: whether other prompts would have none either.
    """

    def __init__(self, error: UserError, fatal: bool):
        super().__init__(error.what)
        self.error, self.fatal = error, fatal


class ServerJudge(Judge):
    """Sends prompts to a server, several at a time; a text is sent as one user message.

    Requests that fail for a transient reason (429, 5xx, no connection, time-out, malformed response) are sent again
    after growing pauses. A prompt that the server refuses does not keep the others from being answered. An error that
    concerns all prompts (such as 401) ends the call; earlier answers were passed to `on_answer`.

    Args:
        model: name of the model at the server.
        base_url: address of the interface, such as http://localhost:8000/v1; None for OpenAI's own.
        key_variable: name of the environment variable that holds the key.
        concurrency: requests in flight at a time.
        per_minute: requests started per minute; None for no limit.
        seconds: time-out of a request.
        retries: number of times that a failed request is sent again.
        spellings: the probability of an option is the sum over its spellings, or that of the most probable one.

    Raises:
        UserError: the client is not installed, or there is no key for OpenAI's own interface.
    """

    def __init__(self, model: str, base_url: str | None = None, key_variable: str = "OPENAI_API_KEY",
                 concurrency: int = 8, per_minute: float | None = None, seconds: float = 60.0, retries: int = 5,
                 spellings: Spellings = "sum"):
        try:
            import openai
        except ImportError:
            raise UserError("the client for servers is not installed", "judge.kind",
                            "pip install 'jaxllm[api]'") from None
        self._key, self._key_variable = os.environ.get(key_variable, "").strip(), key_variable
        if not self._key and base_url is None:
            raise UserError(f"the environment variable {key_variable} holds no key", "judge")
        # A server of one's own usually wants no key, and the client insists on something. Requests are sent again
        # here and not by the client, so that retries too keep the rate.
        self._client = openai.OpenAI(api_key=self._key or "none", base_url=base_url, timeout=seconds, max_retries=0)
        self._openai, self.model, self.retries, self.concurrency = openai, model, retries, concurrency
        url = self._client.base_url
        self.identity = f"{model} at {url.host}{f':{url.port}' if url.port else ''}{url.path.rstrip('/')}"
        self.spellings = spellings
        if spellings == "max":
            self.identity += MOST_PROBABLE
        self._interval = 0.0 if per_minute is None else 60.0 / per_minute
        self._next, self._lock = 0.0, threading.Lock()
        self._limit = "max_tokens"  # this server's name of it

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None,
                 on_failure: OnFailure | None = None) -> list[list[Answer]]:
        """See `Judge.complete`; whether draws repeat depends on the server.

        Raises:
            UserError: prompts have no answer, or a setting has no counterpart in the interface.
        """
        for name, neutral in (("top_k", 0), ("min_p", 0.0), ("repetition_penalty", 1.0)):
            if getattr(sampling, name) != neutral:
                raise UserError(f"sampling.{name} has no counterpart in this interface", self.identity,
                                f"leave it at {neutral}")
        base = seed if sampling.seed is None else sampling.seed
        settings: dict[str, Any] = dict(temperature=sampling.temperature, top_p=sampling.top_p,
                                        max_tokens=sampling.max_tokens, n=sampling.n)
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        if sampling.logit_bias:
            settings["logit_bias"] = {str(token): value for token, value in sampling.logit_bias.items()}

        def read(response: Any) -> list[Answer]:
            usage = _usage(response)
            answers = [Answer(choice.message.content, choice.finish_reason, None, None if number else usage)
                       for number, choice in enumerate(response.choices)]
            if len(answers) != sampling.n:
                raise ValueError(f"{sampling.n} completions were requested, {len(answers)} came")
            if not all(isinstance(answer.text, str) for answer in answers):
                raise ValueError("it holds no text; the model may have refused")
            return answers

        request = lambda prompt: {**settings, "seed": _seed(base, prompt.sample)}
        return self._send(prompts, request, read, [], on_answer, on_failure)

    def choose(self, prompts: Sequence[Prompt], options: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None,
               on_failure: OnFailure | None = None) -> list[Choice | None]:
        """See `Judge.choose`: sums the most probable first tokens that are an option or the start of only one.

        A token that equals an option counts for it, though it might be the start of a longer one.
        """
        check_options(options)
        by_text = {normalized(option): option for option in options}

        def option_of(token: str) -> str | None:
            token = normalized(token)
            if token in by_text:
                return by_text[token]
            matches = [option for text, option in by_text.items() if token and (
                text.startswith(token) or token.startswith(text) and not token[len(text):][:1].isalnum())]
            return matches[0] if len(matches) == 1 else None

        def read(response: Any) -> Choice:
            shares, listed = dict.fromkeys(options, 0.0), response.choices[0].logprobs.content[0].top_logprobs
            if not listed:
                raise ValueError("it lists no token probabilities")
            for top in listed:
                if (option := option_of(top.token)) is not None:
                    own = math.exp(top.logprob)
                    shares[option] = shares[option] + own if self.spellings == "sum" else max(shares[option], own)
            return choice_of(shares, _usage(response))

        settings = dict(max_tokens=1, temperature=1.0, logprobs=True, top_logprobs=TOP_LOGPROBS)
        missing: Choice | None = None
        choices = self._send(prompts, lambda prompt: settings, read, missing, on_answer, on_failure)
        warn_of_low_mass(choices, options, self.identity)
        return choices

    def _send(self, prompts: Sequence[Prompt], request: Callable[[Prompt], dict[str, Any]], read: Callable[[Any], T],
              missing: T, on_answer: Callable[[int, Any], None] | None, on_failure: OnFailure | None) -> list[T]:
        """Sends every prompt and parses the responses with `read`; `missing` is the result of one without an answer."""
        results: dict[int, T] = {}
        failures: dict[int, _Failed] = {}
        stop = threading.Event()
        pool = concurrent.futures.ThreadPoolExecutor(self.concurrency)
        queue = iter(enumerate(prompts))
        running: dict[concurrent.futures.Future, int] = {}
        reported: set[int] = set()

        def refill() -> None:
            """Keeps a request ready for every thread, and no more, so that waiting costs the same for any number."""
            while len(running) < 2 * self.concurrency and (following := next(queue, None)) is not None:
                number, prompt = following
                running[pool.submit(self._answer, prompt, request(prompt), read, stop)] = number

        def report() -> None:
            """Passes failures on once an answer shows that they concern single prompts."""
            for number in sorted(failures.keys() - reported):
                if on_failure is not None and (results or not running):
                    reported.add(number)
                    on_failure(number, failures[number].error.what)

        try:
            refill()
            while running:
                done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    number = running.pop(future)
                    try:
                        results[number] = future.result()
                    except _Failed as failed:
                        failures[number] = failed
                        continue
                    except concurrent.futures.CancelledError:
                        continue  # it was never sent: no fault of its prompt
                    if on_answer is not None:
                        on_answer(number, results[number])
                if self._hopeless(failures, bool(results)):
                    stop.set()  # no new requests; those in flight may still be answered
                    running = {future: number for future, number in running.items() if not future.cancel()}
                else:
                    refill()
                    report()
        except BaseException:
            stop.set()  # an interrupt, or a callback that failed
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if failures and (on_failure is None or self._hopeless(failures, bool(results))):
            raise self._explain(failures, len(results), len(prompts))
        report()
        return [results.get(number, missing) for number in range(len(prompts))]

    def _hopeless(self, failures: dict[int, _Failed], answered: bool) -> bool:
        """Whether failures concern all prompts."""
        return (any(failed.fatal for failed in failures.values())
                or not answered and len(failures) >= FAILURES_WITHOUT_ANSWER)

    def _explain(self, failures: dict[int, _Failed], answered: int, total: int) -> UserError:
        """Makes one error of all failures: a fatal one, else that of the first prompt."""
        number, worst = min(failures.items(), key=lambda item: (not item[1].fatal, item[0]))
        what = worst.error.what if worst.fatal else f"prompt {number + 1}: {worst.error.what}"
        return UserError(f"{what} ({answered} of {total} prompts have an answer)", self.identity,
                         worst.error.fix or "answers are preserved where judge.cache names a file")

    def _answer(self, prompt: Prompt, settings: dict[str, Any], read: Callable[[Any], T], stop: threading.Event) -> T:
        """Returns the answer to one prompt.

        Raises:
            _Failed: there is none.
            CancelledError: the call ended before the request's turn, and nothing was sent.
        """
        failed: _Failed | None = None
        for attempt in range(self.retries + 1):
            if not self._wait(stop):
                raise failed or concurrent.futures.CancelledError()
            limit = self._limit
            result, pause = self._try(prompt, settings, read, limit)
            if (isinstance(result, _Failed) and limit == "max_tokens" and _wants_newer_name(result)
                    and self._wait(stop)):
                result, pause = self._try(prompt, settings, read, NEWER_LIMIT)
                if not isinstance(result, _Failed):
                    self._limit = NEWER_LIMIT
            if not isinstance(result, _Failed):
                return result
            failed = result
            if pause is None or attempt == self.retries or stop.is_set():
                raise result
            stop.wait(max(pause, min(0.5 * 2**attempt, LONGEST_PAUSE_SECONDS)))
        raise AssertionError("the loop ends by returning or raising")

    def _try(self, prompt: Prompt, settings: dict[str, Any], read: Callable[[Any], T],
             limit: str) -> tuple[T | _Failed, float | None]:
        """Sends a request once; `limit` is the name of max_tokens.

        Returns:
            The answer or the failure, and the seconds to wait before a retry (None: a retry would not help).
        """
        try:
            response = self._client.chat.completions.create(
                model=self.model, messages=prompt.messages,
                **{limit if name == "max_tokens" else name: value for name, value in settings.items()})
        except UnicodeEncodeError as error:
            return self._failed("the request cannot be sent", error, False), None
        except self._openai.APIStatusError as error:
            if error.status_code in TRANSIENT_STATUSES or error.status_code >= 500:
                return self._failed("the server does not answer", error, True), _retry_after(error.response)
            fatal = error.status_code in (401, 403, 404)
            fix = (f"check the key in {self._key_variable}" if error.status_code in (401, 403) else
                   "check judge.model and judge.base_url" if fatal else None)
            return self._failed("the server refuses", error, fatal, fix), None
        except self._openai.APIConnectionError as error:  # time-outs included
            return self._failed("the server does not answer", error, True), 0.0
        except (self._openai.OpenAIError, ValueError, TypeError) as error:
            return self._failed("the server's answer cannot be used", error, False), 0.0
        try:
            return read(response), None
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            return self._failed("the server's answer cannot be used", error, False), 0.0

    def _failed(self, what: str, error: Exception, fatal: bool, fix: str | None = None) -> _Failed:
        message = f"{type(error).__name__}: {error}"
        if self._key:  # a server may echo the request
            message = message.replace(self._key, "***")
        return _Failed(UserError(f"{what}: {message[:300]}", self.identity, fix), fatal)

    def _wait(self, stop: threading.Event) -> bool:
        """Waits for this request's turn; returns False where the call ended before."""
        with self._lock:
            now = time.monotonic()
            start = max(self._next, now)
            self._next = start + self._interval
        return not stop.wait(max(0.0, start - now))


def _seed(seed: int, sample: int) -> int:
    """Seed of the request that starts with completion number `sample`."""
    if not sample:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/{sample}".encode()).digest()[:4], "big") % 2**31


def _usage(response: Any) -> Usage | None:
    """Token counts of a response; None where the server sends none."""
    usage = getattr(response, "usage", None)
    counts: list[Any] = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    return Usage(*counts) if all(type(count) is int and count >= 0 for count in counts) else None


def _wants_newer_name(failed: _Failed) -> bool:
    """Whether a server knows the token limit by its newer name only."""
    return "Unsupported parameter: 'max_tokens'" in failed.error.what and NEWER_LIMIT in failed.error.what


def _retry_after(response: Any) -> float:
    """Seconds of the Retry-After header, at most 60."""
    try:
        return min(max(float(response.headers.get("retry-after", 0)), 0.0), 60.0)
    except ValueError:  # a date
        return 0.0
