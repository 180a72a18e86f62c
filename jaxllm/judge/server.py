"""An OpenAI-compatible server as a judge, through the official client."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import math
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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
from jaxllm.judge.server_errors import Failed, Unusable, is_transient, is_unreachable, of_status, unsupported

T = TypeVar("T")
# The most that the interface allows.
TOP_LOGPROBS = 20
# After this many failures in a row, without an answer between them, the fault is hardly the prompts'.
FAILURES_IN_A_ROW = 8
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 8.0
# First pause of all requests where the server wants fewer and does not mention for how long. It doubles: five retries
# wait for a minute, the usual period of such limits.
LIMITED_PAUSE_SECONDS = 2.0
# The newer name of max_tokens; some servers know the old name only.
NEWER_LIMIT = "max_completion_tokens"
# Settings that have no effect at 1, and are left out for servers that refuse them.
NEUTRAL_AT_ONE = ("temperature", "top_p")


class ServerJudge(Judge):
    """Sends prompts to a server, several at a time; a text is sent as one user message.

    Requests that fail for a transient reason (429, 5xx, no connection, time-out, malformed response) are sent again
    after growing pauses. A prompt that has no answer then, or that the server refuses, does not keep the others from
    being answered. The call ends after an error that concerns all prompts (401, 402, 403, 404, no connection), and
    after `FAILURES_IN_A_ROW` prompts without an answer between them, except for those that are too long or that a
    content filter refuses; earlier answers were passed to `on_answer`.

    Args:
        model: name of the model at the server.
        base_url: address of the interface, such as http://localhost:8000/v1; None for OpenAI's own.
        key_variable: name of the environment variable that holds the key.
        concurrency: requests in flight at a time.
        per_minute: requests started per minute; None for no limit.
        seconds: time-out of a request.
        retries: number of times that a failed request is sent again.
        spellings: the probability of an option is the sum over its spellings, or that of the most probable one.
        extra: further fields of every request, such as {"reasoning_effort": "low"}, in place of those with these names.

    Raises:
        UserError: the client is not installed, or there is no key for OpenAI's own interface.
    """

    def __init__(self, model: str, base_url: str | None = None, key_variable: str = "OPENAI_API_KEY",
                 concurrency: int = 8, per_minute: float | None = None, seconds: float = 60.0, retries: int = 5,
                 spellings: Spellings = "sum", extra: Mapping[str, Any] | None = None):
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
        self.extra = dict(extra or {})
        if self.extra:
            self.identity += f", {json.dumps(self.extra, sort_keys=True)}"
        self._interval = 0.0 if per_minute is None else 60.0 / per_minute
        self._next, self._lock = 0.0, threading.Lock()
        # Parameters that this server does not know -> its name for them, or None to leave them out.
        self._changes: dict[str, str | None] = {}

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
                                        max_tokens=sampling.max_tokens)
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        if sampling.logit_bias:
            settings["logit_bias"] = {str(token): value for token, value in sampling.logit_bias.items()}

        def completed(prompt: Prompt, stop: threading.Event) -> list[Answer]:
            answers: list[Answer] = []
            while (missing := sampling.n - len(answers)) > 0:  # a server may send fewer than it should
                number = {"n": missing} if missing > 1 else {}
                seeded = settings | number | {"seed": _seed(base, prompt.sample + len(answers))}
                answers += self._answer(prompt, seeded, _completions, stop)
            return answers[:sampling.n]

        return self._send(prompts, completed, [], on_answer, on_failure)

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
            shares = dict.fromkeys(options, 0.0)
            for top in _first_tokens(response):
                if (option := option_of(top.token)) is not None:
                    own = math.exp(top.logprob)
                    shares[option] = shares[option] + own if self.spellings == "sum" else max(shares[option], own)
            return choice_of(shares, _usage(response))

        settings = dict(max_tokens=1, temperature=1.0, logprobs=True, top_logprobs=TOP_LOGPROBS)
        missing: Choice | None = None
        choices = self._send(prompts, lambda prompt, stop: self._answer(prompt, settings, read, stop), missing,
                             on_answer, on_failure)
        warn_of_low_mass(choices, options, self.identity)
        return choices

    def _send(self, prompts: Sequence[Prompt], answer: Callable[[Prompt, threading.Event], T], missing: T,
              on_answer: Callable[[int, Any], None] | None, on_failure: OnFailure | None) -> list[T]:
        """Calls `answer` for every prompt, in threads; `missing` is the result of one without an answer."""
        results: dict[int, T] = {}
        failures: dict[int, Failed] = {}
        in_a_row: list[int] = []  # prompts that failed since the last answer, for what may concern others too
        stop = threading.Event()
        pool = concurrent.futures.ThreadPoolExecutor(self.concurrency)
        queue = iter(enumerate(prompts))
        running: dict[concurrent.futures.Future, int] = {}

        def refill() -> None:
            """Keeps a request ready for every thread, and no more, so that waiting costs the same for any number."""
            while len(running) < 2 * self.concurrency and (following := next(queue, None)) is not None:
                number, prompt = following
                running[pool.submit(answer, prompt, stop)] = number

        def hopeless() -> bool:
            """Whether the failures since the last answer concern all prompts."""
            return (stop.is_set() or len(in_a_row) >= FAILURES_IN_A_ROW
                    or any(failures[number].scope == "all" for number in in_a_row))

        def report(failed: list[int]) -> None:
            """Passes failures on that concern single prompts."""
            while failed:
                number = failed.pop(0)
                if on_failure is not None:
                    on_failure(number, failures[number].error.what)

        try:
            refill()
            while running:
                done, _ = concurrent.futures.wait(running, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in sorted(done, key=running.__getitem__):
                    number = running.pop(future)
                    try:
                        results[number] = future.result()
                    except Failed as failed:
                        failures[number] = failed
                        if failed.scope == "prompt":
                            report([number])
                        else:
                            in_a_row.append(number)
                        continue
                    except concurrent.futures.CancelledError:
                        continue  # it was never sent: no fault of its prompt
                    if on_answer is not None:
                        on_answer(number, results[number])
                    if not hopeless():  # the others failed by themselves, as this answer shows
                        report(in_a_row)
                if hopeless():
                    stop.set()  # no new requests; those in flight may still be answered
                    running = {future: number for future, number in running.items() if not future.cancel()}
                else:
                    refill()
        except BaseException:
            stop.set()  # an interrupt, or a callback that failed
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if failures and (on_failure is None or stop.is_set()):
            raise self._explain(failures, len(results), len(prompts), stop.is_set())
        report(in_a_row)
        return [results.get(number, missing) for number in range(len(prompts))]

    def _explain(self, failures: dict[int, Failed], answered: int, total: int, hopeless: bool) -> UserError:
        """Makes one error of all failures: one that concerns all prompts, else the last of many in a row, else the
        first."""
        shared = next((failed for failed in failures.values() if failed.scope == "all"), None)
        number, last = list(failures.items())[-1] if hopeless else min(failures.items())
        error = last.error if shared is None else shared.error
        what = (error.what if shared is not None else
                f"{FAILURES_IN_A_ROW} prompts in a row have no answer: {error.what}" if hopeless else
                f"prompt {number + 1}: {error.what}")
        return UserError(f"{what} ({answered} of {total} prompts have an answer)", self.identity, error.fix)

    def _answer(self, prompt: Prompt, settings: dict[str, Any], read: Callable[[Any], T], stop: threading.Event) -> T:
        """Returns the answer to one prompt.

        Raises:
            Failed: there is none.
            CancelledError: the call ended before the request's turn, and nothing was sent.
        """
        failed: Failed | None = None
        for attempt in range(self.retries + 1):
            if not self._wait(stop):
                raise failed or concurrent.futures.CancelledError()
            result = self._adapt(prompt, settings, read, stop)
            if not isinstance(result, Failed):
                return result
            failed = result
            if failed.pause is None or attempt == self.retries or stop.is_set():
                raise failed
            pause = max(failed.pause, min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS))
            if failed.limited:
                self._hold(pause if failed.pause else LIMITED_PAUSE_SECONDS * 2**attempt)
            else:
                stop.wait(pause)
        raise AssertionError("the loop ends by returning or raising")

    def _adapt(self, prompt: Prompt, settings: dict[str, Any], read: Callable[[Any], T], stop: threading.Event
               ) -> T | Failed:
        """Sends a request, and at once again without what the server refuses by name, if that has no effect."""
        changes = self._changes
        while True:
            result = self._try(prompt, settings, read, changes)
            if not isinstance(result, Failed):
                self._changes = self._changes | changes
                return result
            name = unsupported(result)
            if name == "max_tokens" and name not in changes and NEWER_LIMIT in result.message:
                changes = changes | {name: NEWER_LIMIT}
            elif name in NEUTRAL_AT_ONE and name not in changes and settings.get(name) == 1:
                changes = changes | {name: None}
            else:
                return self._advised(result, name) if name in settings or name in self.extra else result
            if not self._wait(stop):
                return result

    def _advised(self, failed: Failed, name: str) -> Failed:
        """Adds to a refusal of a parameter how to do without it; all prompts have it."""
        fix = (f"leave {name} out of judge.extra" if name in self.extra else
               f"set sampling.{name} to 1" if name in NEUTRAL_AT_ONE else
               f"leave sampling.{name} out" if name in ("stop", "logit_bias") else failed.error.fix)
        return Failed(UserError(failed.error.what, failed.error.where, fix), "all")

    def _try(self, prompt: Prompt, settings: dict[str, Any], read: Callable[[Any], T],
             changes: Mapping[str, str | None]) -> T | Failed:
        """Sends a request once; returns the answer or the failure."""
        own = {name: value for setting, value in settings.items() if (name := changes.get(setting, setting))}
        try:
            response = self._client.chat.completions.create(model=self.model, messages=prompt.messages,
                                                            extra_body=self.extra or None, **own)
        except UnicodeEncodeError as error:
            return Failed(self._error("the request cannot be sent", error), "prompt")
        except self._openai.APIStatusError as error:
            what = "the server does not answer" if is_transient(error.status_code) else "the server refuses"
            return of_status(error.status_code, self._error(what, error), str(error), error.code,
                             error.response.headers, self._key_variable)
        except self._openai.APIConnectionError as error:  # time-outs included
            return Failed(self._error("the server does not answer", error),
                          "all" if is_unreachable(error) else "unknown", 0.0)
        except (self._openai.OpenAIError, ValueError, TypeError) as error:
            return Failed(self._error("the server's answer cannot be used", error), "unknown", 0.0)
        if sent := getattr(response, "error", None):  # with status 200, as gateways send it
            code, message = (sent.get("code"), sent.get("message")) if isinstance(sent, Mapping) else (None, None)
            status = int(str(code)) if str(code).isdecimal() else 500
            message = str(message or sent)
            return of_status(status, self._error("the server's answer is an error", message), message, code, {},
                             self._key_variable)
        try:
            return read(response)
        except Unusable as error:
            return Failed(self._error("the server's answer cannot be used", str(error), error.fix), error.scope)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            return Failed(self._error("the server's answer cannot be used", error), "unknown", 0.0)

    def _error(self, what: str, error: object, fix: str | None = None) -> UserError:
        message = f"{type(error).__name__}: {error}" if isinstance(error, Exception) else str(error)
        if self._key:  # a server may echo the request
            message = message.replace(self._key, "***")
        return UserError(f"{what}: {message[:300]}", self.identity, fix)

    def _hold(self, seconds: float) -> None:
        """Lets no request start before `seconds` have passed."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

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


def _choices(response: Any) -> list[Any]:
    """Returns the choices of a response; raises a ValueError where it has none."""
    choices = getattr(response, "choices", None)
    if not isinstance(choices, list) or not choices:
        raise ValueError("it holds no choices")
    return choices


def _completions(response: Any) -> list[Answer]:
    """Parses the completions of a response. A refused one among others is an empty text; so is one without an answer
    after thinking that reached the token limit."""
    choices, usage = _choices(response), _usage(response)
    contents = [choice.message.content for choice in choices]
    if not any(isinstance(content, str) or content is None and choice.finish_reason == "length"
               for content, choice in zip(contents, choices, strict=True)):
        refusal = getattr(choices[0].message, "refusal", None)
        raise Unusable(f"the model refused: {refusal}" if refusal else
                       f"it holds no text; the model may have refused (finish reason: {choices[0].finish_reason})",
                       "prompt")
    return [Answer(content if isinstance(content, str) else "", choice.finish_reason, None,
                   None if number else usage)
            for number, (content, choice) in enumerate(zip(contents, choices, strict=True))]


def _first_tokens(response: Any) -> list[Any]:
    """Returns the most probable first tokens of a response."""
    logprobs = getattr(_choices(response)[0], "logprobs", None)
    content = getattr(logprobs, "content", None)
    if not content or not content[0].top_logprobs:
        raise Unusable("it lists no token probabilities", "unknown",
                       "use a server that sends log-probabilities, or let the judge answer in text")
    return content[0].top_logprobs


def _usage(response: Any) -> Usage | None:
    """Token counts of a response; None where the server sends none."""
    usage = getattr(response, "usage", None)
    counts: list[Any] = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    return Usage(*counts) if all(type(count) is int and count >= 0 for count in counts) else None
