"""Which judge, as a section of a job's config."""

from __future__ import annotations

import dataclasses
import math
import re
import urllib.parse
from dataclasses import dataclass
from typing import Literal

from jaxllm.config import check, tunable
from jaxllm.devices import DeviceConfig
from jaxllm.errors import UserError
from jaxllm.judge.cache import Cached
from jaxllm.judge.function import named_judge
from jaxllm.judge.local import LocalJudge
from jaxllm.judge.protocol import Judge
from jaxllm.judge.recorded import RecordedJudge
from jaxllm.judge.server import ServerJudge
from jaxllm.model import load
from jaxllm.models import unstack_layers
from jaxllm.models.tensors import fingerprint, model_directory


@dataclass(frozen=True)
class JudgeConfig:
    """Who answers.

    Args:
        kind: local (a checkpoint), openai (a server with that interface), recorded (answers in a file), or callable
            (a Python function).
        model: checkpoint directory, Hub id or tiny; of a server the model's name there.
        base_url: of the server's interface, such as http://localhost:8000/v1; OpenAI's own by default.
        path: file of recorded answers, or package.module:name of a function.
        cache: file that keeps the answers; none by default.
        key_variable: environment variable that holds the server's key.
        concurrency: requests under way at a time.
        per_minute: requests that may begin in a minute.
        seconds: to wait for a server's answer.
        retries: how often a failed request is sent again.
        batch_size: texts that a local model reads together.
    """

    kind: Literal["local", "openai", "recorded", "callable"] = "local"
    model: str | None = None
    base_url: str | None = None
    path: str | None = None
    cache: str | None = None
    key_variable: str = "OPENAI_API_KEY"
    concurrency: int = tunable(8)
    per_minute: float | None = tunable(None)
    seconds: float = tunable(60.0)
    retries: int = tunable(5)
    batch_size: int = tunable(32)

    def __post_init__(self):
        wanted = "path" if self.kind in ("recorded", "callable") else "model"
        given = getattr(self, wanted) or (self.kind == "local" and "tiny")
        check(bool(given), wanted, f"a judge of kind {self.kind} needs it")
        for name, kinds in (("model", ("local", "openai")), ("base_url", ("openai",)),
                            ("path", ("recorded", "callable"))):
            check(getattr(self, name) is None or self.kind in kinds, name,
                  f"means nothing to a judge of kind {self.kind}", f"leave it out, or set kind to {' or '.join(kinds)}")
        check(self.cache is None or self.kind != "recorded", "cache", "recorded answers are in a file already",
              "leave it out")
        if self.base_url is not None:
            url = urllib.parse.urlsplit(self.base_url)
            check(url.scheme in ("http", "https") and bool(url.hostname), "base_url",
                  "is no address; it looks like http://localhost:8000/v1")
            check("@" not in url.netloc, "base_url", "holds a user or password, which would be written to files",
                  "put the key into the environment variable that key_variable names")
        # The value is not shown: somebody may have put the key itself here.
        check(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key_variable) is not None, "key_variable",
              "is no name of an environment variable")
        for name in ("concurrency", "batch_size"):
            check(getattr(self, name) >= 1, name, f"must be 1 or more, got {getattr(self, name)}")
        check(self.retries >= 0, "retries", f"must be 0 or more, got {self.retries}")
        check(0 < self.seconds < math.inf, "seconds", f"must be above 0, got {self.seconds:g}")
        check(self.per_minute is None or self.per_minute > 0, "per_minute", f"must be above 0, got {self.per_minute}")


def open_judge(config: JudgeConfig, device: DeviceConfig | None = None) -> Judge:
    """The judge that a config describes.

    Raises:
        UserError: its model, file or function cannot be used.
    """
    judge = _open(config, device or DeviceConfig())
    return judge if config.cache is None else Cached(judge, config.cache)


def _open(config: JudgeConfig, device: DeviceConfig) -> Judge:
    if config.kind == "openai":
        return ServerJudge(config.model, config.base_url, config.key_variable, config.concurrency, config.per_minute,
                           config.seconds, config.retries)
    if config.kind == "recorded":
        return RecordedJudge(config.path)
    if config.kind == "callable":
        return named_judge(config.path)
    name = config.model or "tiny"
    model = load(name, device.param_dtype, quantization=device.quantize)
    if model.spec.head is not None:
        raise UserError("the model scores texts and does not answer", name, "use a language model as a judge")
    identity = f"{name} ({fingerprint(model_directory(name))}, {device})"
    model = dataclasses.replace(model, params=unstack_layers(model.params, consume=True))
    return LocalJudge(model, identity, config.batch_size, device.compute_dtype)
