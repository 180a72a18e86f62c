"""The judge as a section of a job's config."""

from __future__ import annotations

import math
import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxllm.config import check, masked, tunable
from jaxllm.devices import DeviceConfig, MeshConfig, open_mesh
from jaxllm.files import plain
from jaxllm.judge.cache import Cached
from jaxllm.judge.function import named_judge
from jaxllm.judge.local import LocalJudge
from jaxllm.judge.protocol import Judge, Prices
from jaxllm.judge.recorded import RecordedJudge
from jaxllm.judge.reward import RewardJudge
from jaxllm.judge.server import ServerJudge
from jaxllm.model import check_lm, load_with_adapter
from jaxllm.models.mesh import model_shardings
from jaxllm.models.tensors import fingerprint, model_directory

# Name of the cache in the directory of a job.
ANSWERS = "answers.sqlite"


@dataclass(frozen=True)
class JudgeConfig:
    """A judge: local model, reward model, server, recorded answers or Python function.

    Args:
        kind: local (a checkpoint), reward (a reward model, which scores answers and writes none), openai (an
            OpenAI-compatible server), recorded (answers in a file), or callable (a Python function).
        model: checkpoint directory, GGUF file, Hub id, or tiny; for a server the model's name there.
        base_url: address of the server's interface, such as http://localhost:8000/v1; OpenAI's own by default.
        path: file of recorded answers, or package.module:name of a function.
        cache: SQLite file that caches the answers. auto is answers.sqlite in the directory of the job for a server, and
            no file for other judges; null is none.
        key_variable: environment variable with the server's key.
        concurrency: requests in flight at a time.
        per_minute: requests started per minute; null for no limit.
        seconds: time-out of a request.
        retries: number of times that a failed request is sent again.
        batch_size: sequences that a local model decodes or scores together.
        adapter: directory of a LoRA adapter for a local model, or of several that are applied as their sum; for a
            reward model perhaps with its scoring head.
        mesh: how the devices share a local model's work.
        format: encoding of prompts that are plain texts by a local model. auto is chat where the model has a chat
            template, else plain; chat makes the text one user message; plain continues the raw text.
        extra: further fields of every request to a server, such as {reasoning_effort: low}, or top_logprobs: 5 in place
            of 20.
        spellings: an option's probability is the sum over its spellings (with a blank before it, in other case), or
            that of the most probable one (max).
        prompt_price: price of a million prompt tokens, for the costs in the results; null without costs.
        completion_price: price of a million completion tokens.
    """

    kind: Literal["local", "reward", "openai", "recorded", "callable"] = "local"
    model: str | None = None
    base_url: str | None = None
    path: str | None = None
    cache: str | None = tunable("auto")
    key_variable: str = tunable("OPENAI_API_KEY")
    concurrency: int = tunable(8)
    per_minute: float | None = tunable(None)
    seconds: float = tunable(60.0)
    retries: int = tunable(5)
    batch_size: int = tunable(32)
    adapter: str | None = None
    mesh: MeshConfig = tunable(MeshConfig())
    format: Literal["auto", "chat", "plain"] = "auto"
    extra: dict[str, Any] | None = None
    spellings: Literal["sum", "max"] = "sum"
    prompt_price: float | None = None
    completion_price: float | None = None

    def __post_init__(self):
        needed = "path" if self.kind in ("recorded", "callable") else "model"
        given = getattr(self, needed) or (self.kind == "local" and "tiny")
        check(bool(given), needed, f"a judge of kind {self.kind} needs it")
        for name, kinds in (("model", ("local", "reward", "openai")), ("base_url", ("openai",)),
                            ("extra", ("openai",)), ("adapter", ("local", "reward")),
                            ("path", ("recorded", "callable"))):
            check(getattr(self, name) is None or self.kind in kinds, name,
                  f"does not apply to a judge of kind {self.kind}",
                  f"leave it out, or set kind to {' or '.join(kinds)}")
        check(self.format == "auto" or self.kind in ("local", "reward"), "format",
              f"does not apply to a judge of kind {self.kind}, which always gets texts as user messages",
              "leave it at auto")
        check(self.spellings == "sum" or self.kind in ("local", "openai"), "spellings",
              f"does not apply to a judge of kind {self.kind}", "leave it at sum")
        check(self.cache in (None, "auto") or self.kind != "recorded", "cache",
              "recorded answers are in a file already", "leave it out")
        for name in self.extra or {}:
            check(name not in ("model", "messages", "n", "stream"), "extra",
                  f"holds {name}, which the judge sets itself", "leave it out")
        check(masked(extra := plain(self.extra)) == extra, "extra", "holds a key, which would be written to files",
              "put it into the environment variable that key_variable names")
        if self.base_url is not None:
            url = urllib.parse.urlsplit(self.base_url)
            check(url.scheme in ("http", "https") and bool(url.hostname), "base_url",
                  "is not an address; it looks like http://localhost:8000/v1")
            check("@" not in url.netloc and not url.query and not url.fragment, "base_url",
                  "holds a user, a password or a query, which would be written to files",
                  "put the key into the environment variable that key_variable names")
        # The value is not shown: it may be the key itself, given here by mistake.
        check(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_variable) is not None, "key_variable",
              "is not a name of an environment variable")
        for name in ("concurrency", "batch_size"):
            check(getattr(self, name) >= 1, name, f"must be 1 or more, got {getattr(self, name)}")
        check(self.retries >= 0, "retries", f"must be 0 or more, got {self.retries}")
        check(0 < self.seconds < math.inf, "seconds", f"must be above 0, got {self.seconds:g}")
        check(self.per_minute is None or self.per_minute > 0, "per_minute", f"must be above 0, got {self.per_minute}")
        for name in ("prompt_price", "completion_price"):
            price = getattr(self, name)
            check(price is None or 0 <= price < math.inf, name, f"must be 0 or more, got {price}")

    @property
    def prices(self) -> Prices | None:
        """The prices; None where none is given."""
        if self.prompt_price is None and self.completion_price is None:
            return None
        return Prices(self.prompt_price or 0.0, self.completion_price or 0.0)


def open_judge(config: JudgeConfig, device: DeviceConfig | None = None, directory: Path | None = None) -> Judge:
    """Opens the judge of a config.

    Args:
        config: the judge.
        device: number formats of a local model.
        directory: directory of the job, for the cache of a server's answers; None without one.

    Raises:
        UserError: its model, file or function cannot be used.
    """
    judge, cache = _open(config, device or DeviceConfig()), config.cache
    if cache == "auto":
        cache = str(directory / ANSWERS) if config.kind == "openai" and directory is not None else None
    return judge if cache is None else Cached(judge, cache)


def _open(config: JudgeConfig, device: DeviceConfig) -> Judge:
    if config.kind == "openai":
        return ServerJudge(config.model or "", config.base_url, config.key_variable, config.concurrency,
                           config.per_minute, config.seconds, config.retries, config.spellings, config.extra)
    if config.kind == "recorded":
        return RecordedJudge(config.path or "")
    if config.kind == "callable":
        return named_judge(config.path or "")
    name = config.model or "tiny"
    mesh = open_mesh(config.mesh)
    if config.kind == "local":
        check_lm(name, config.adapter, "answer prompts")
    model, adapter = load_with_adapter(name, config.adapter, device.param_dtype,
                                       lambda spec: model_shardings(spec, mesh), device.quantize)
    # Number formats only change rounding, and a stopped run may be resumed with others.
    quantized = "" if device.quantize is None else f", {device.quantize}"
    identity = f"{name} ({fingerprint(model_directory(name))}{quantized})"
    if config.adapter is not None:
        identity += f" + {config.adapter} ({fingerprint(Path(config.adapter))})"
    settings: dict[str, Any] = dict(adapter=adapter, mesh=mesh, text_format=config.format, donate=True)
    if config.kind == "reward":
        return RewardJudge(model, identity, config.batch_size, device.compute_dtype, **settings)
    return LocalJudge(model, identity, config.batch_size, device.compute_dtype, **settings, spellings=config.spellings)
