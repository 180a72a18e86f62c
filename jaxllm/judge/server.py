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
from jaxllm.judge.protocol import Answer, Choice, Prompt, check_answers, choice_of, warn_of_low_mass

T = TypeVar("T")
# The most that the interface gives.
TOP_LOGPROBS = 20


class ServerJudge:
    """Asks a server, several prompts at a time; a text is sent as what the user says.

    Requests that fail for a reason that may pass (429, 5xx, no connection, no answer in time, an answer that is none)
    are sent again after growing pauses. What was answered before a failure that stays has been told to `on_answer`.

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
        key = os.environ.get(key_variable)
        if key is None and base_url is None:
            raise UserError(f"the environment variable {key_variable} holds no key", "judge")
        # A server of one's own usually wants none, and the client insists on something.
        self._client = openai.OpenAI(api_key=key or "none", base_url=base_url, timeout=seconds, max_retries=retries)
        self._openai, self.model, self.retries, self.concurrency = openai, model, retries, concurrency
        self.identity = f"{model} at {base_url or 'api.openai.com'}"
        self._pause = 0.0 if per_minute is None else 60.0 / per_minute
        self._next, self._lock = 0.0, threading.Lock()

    def complete(self, prompts: Sequence[Prompt], sampling: SamplingConfig, *, seed: int = 0,
                 on_answer: Callable[[int, list[Answer]], None] | None = None) -> list[list[Answer]]:
        """See `Judge.complete`; whether draws repeat is the server's business.

        Raises:
            UserError: the server fails for good, or a setting has no name in its interface.
        """
        for name, neutral in (("top_k", 0), ("min_p", 0.0), ("repetition_penalty", 1.0)):
            if getattr(sampling, name) != neutral:
                raise UserError(f"sampling.{name} has no place in this interface", self.identity,
                                f"leave it at {neutral}")
        settings = dict(temperature=sampling.temperature, top_p=sampling.top_p, max_tokens=sampling.max_tokens,
                        n=sampling.n, seed=seed)
        if sampling.stop:
            settings["stop"] = list(sampling.stop)
        if sampling.logit_bias:
            settings["logit_bias"] = {str(token): value for token, value in sampling.logit_bias.items()}

        def read(response: Any) -> list[Answer]:
            answers = [Answer(one.message.content, one.finish_reason) for one in response.choices]
            if len(answers) != sampling.n or not all(isinstance(one.text, str) for one in answers):
                raise ValueError(f"{sampling.n} texts were asked for")
            return answers

        return self._ask(prompts, settings, read, on_answer)

    def choose(self, prompts: Sequence[Prompt], answers: Sequence[str], *,
               on_answer: Callable[[int, Choice], None] | None = None) -> list[Choice]:
        """See `Judge.choose`: of the likeliest first tokens, those that begin one answer and no other are counted."""
        check_answers(answers)
        plain = {answer: answer.strip().lower() for answer in answers}

        def meant(token: str) -> str | None:
            token = token.strip().lower()
            fits = [answer for answer, text in plain.items() if token and (
                text.startswith(token) or token.startswith(text) and not token[len(text):][:1].isalnum())]
            return fits[0] if len(fits) == 1 else None

        def read(response: Any) -> Choice:
            found = dict.fromkeys(answers, 0.0)
            for one in response.choices[0].logprobs.content[0].top_logprobs:
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
        results: list[T | None] = [None] * len(prompts)
        with concurrent.futures.ThreadPoolExecutor(self.concurrency) as pool:
            waiting = {pool.submit(self._one, prompt, settings, read): number for number, prompt in enumerate(prompts)}
            failed: BaseException | None = None
            while waiting:
                done, _ = concurrent.futures.wait(waiting, return_when=concurrent.futures.FIRST_COMPLETED)
                for future in done:
                    number = waiting.pop(future)
                    if (error := future.exception()) is not None:
                        failed = failed or error
                        continue
                    results[number] = future.result()
                    if on_answer is not None:
                        on_answer(number, results[number])
                if failed is not None:  # nothing new is asked; what is under way may still be answered
                    waiting = {future: number for future, number in waiting.items() if not future.cancel()}
            if failed is not None:
                raise failed
        return results

    def _one(self, prompt: Prompt, settings: dict[str, Any], read: Callable[[Any], T]) -> T:
        for attempt in range(self.retries + 1):
            self._wait()
            try:
                return read(self._client.chat.completions.create(model=self.model, messages=prompt.messages,
                                                                 **settings))
            except (self._openai.APIResponseValidationError, AttributeError, LookupError, TypeError,
                    ValueError) as error:
                # An answer that is none: the client retries all that fails before.
                if attempt == self.retries:
                    raise UserError(f"the server's answer cannot be used: {type(error).__name__}: {error}",
                                    self.identity, "see what it sends; answers so far are kept") from error
                time.sleep(min(0.5 * 2**attempt, 8.0))
            except self._openai.OpenAIError as error:
                raise UserError(f"the server does not answer: {type(error).__name__}: {str(error)[:300]}",
                                self.identity, "answers so far are kept; the same command goes on") from error
        raise AssertionError("the loop ends by returning or raising")

    def _wait(self) -> None:
        """Waits for this request's turn."""
        with self._lock:
            now = time.monotonic()
            start = max(self._next, now)
            self._next = start + self._pause
        time.sleep(max(0.0, start - now))
