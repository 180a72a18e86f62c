"""Configs of jobs: frozen dataclasses that many jobs share, checks of values, and configs as YAML.

A config is a dataclass with types and defaults for its fields; ``Args:`` in its docstring describes the fields and is
the --help. Sections are fields that are dataclasses themselves, with keys like ``data.path``. Values are checked in
``__post_init__`` by raising ``UserError(what, "field name")``; `parsing.parse` completes the name to the whole key.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from jaxllm.errors import UserError
from jaxllm.files import plain

MASK = "(masked)"
SECRET = re.compile(
    r"(^|_)(password|passwd|secret|credentials?|authorization)(_|$)"
    r"|^(key|token)$|(^|_)(api|access|auth|bearer|private|secret|hf|hub|wandb|openai)_?(key|token)$",
    re.IGNORECASE,
)
NOT_SET = "(not set)"
# Keys of texts that may be paths of files or directories, in any section; `~` is expanded in them and in `Path` keys.
PATH_KEYS = ("model", "adapter", "path", "cache", "catalog", "source", "examples", "paraphrases", "portability",
             "prompts", "problems", "scores", "answers", "truth", "replay", "audit", "reference",
             *(f"{name}_{side}" for name in ("model", "adapter", "answers") for side in "ab"), "compare")


@dataclass(frozen=True)
class DataConfig:
    """Data file of a job.

    Args:
        path: .jsonl, .csv (each also .gz) or .parquet file, folder written by save_to_disk,
            ORG/NAME[/CONFIG][:SPLIT] on the Hub, or asset:NAME for a packaged file.
        limit: use the first N good rows only; null uses all.
        limit_bad: stop if a larger share of the rows is bad.
    """

    path: str
    limit: int | None = None
    limit_bad: float = 0.1

    def __post_init__(self):
        check(bool(self.path.strip()), "path", "no file given")
        check(self.limit is None or self.limit >= 1, "limit", f"must be 1 or more, got {self.limit}")
        check(0 <= self.limit_bad <= 1, "limit_bad", f"must be between 0 and 1, got {self.limit_bad:g}")


@dataclass(frozen=True)
class SamplingConfig:
    """Decoding settings.

    Args:
        temperature: divides the logits before sampling; 0 is greedy decoding.
        top_k: sample from the K most probable tokens only; 0 disables it.
        top_p: nucleus sampling: keep the smallest set of most probable tokens with a cumulative probability of at
            least top_p, among the tokens that top_k keeps; 1.0 disables it.
        min_p: keep tokens with at least min_p times the probability of the most probable token; 0 disables it.
        repetition_penalty: divides positive and multiplies negative logits of tokens that are in the text already; 1.0
            disables it.
        logit_bias: added to the logits of single tokens, by id, before the repetition penalty.
        max_tokens: maximum length of a completion, in tokens.
        n: completions for each prompt.
        stop: texts or special tokens that end a completion; they are not part of it. A word that starts with a bracket
            is a list: write '["[/INST]"]'.
        seed: seed of sampling; null uses the seed of the job.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = field(default_factory=dict)
    max_tokens: int = 128
    n: int = 1
    stop: list[str] = field(default_factory=list)
    seed: int | None = None

    def __post_init__(self):
        check(0 <= self.temperature < math.inf, "temperature", f"must be 0 or more, got {self.temperature:g}")
        check(self.top_k >= 0, "top_k", f"must be 0 (all tokens) or more, got {self.top_k}")
        check(0 < self.top_p <= 1, "top_p", f"must be above 0 and at most 1, got {self.top_p:g}")
        check(0 <= self.min_p < 1, "min_p", f"must be at least 0 and below 1, got {self.min_p:g}")
        check(0 < self.repetition_penalty < math.inf, "repetition_penalty",
              f"must be above 0, got {self.repetition_penalty:g}")
        check(self.max_tokens >= 1, "max_tokens", f"must be 1 or more, got {self.max_tokens}")
        check(self.n >= 1, "n", f"must be 1 or more, got {self.n}")
        for token, value in self.logit_bias.items():
            check(token >= 0 and math.isfinite(value), "logit_bias", f"must give tokens finite numbers, got {token}: "
                  f"{value:g}", "use -100 to exclude a token")
        if self.seed is not None:
            check_seed(self.seed)
        check(all(self.stop), "stop", "an empty text would end every completion at once")
        check(
            self.n == 1 or self.temperature > 0,
            "n",
            f"temperature 0 gives the same completion {self.n} times",
            "set n to 1 or temperature above 0",
        )


def tunable(default: Any = dataclasses.MISSING, *, default_factory: Any = dataclasses.MISSING) -> Any:
    """Declares a dataclass field that cannot change a job's results, only speed, memory or logging.

    A run may be resumed with another value of it. A tunable section makes all keys below it tunable. Exceptions are
    rounding, and the masks of dropout in packed rows, which depend on microbatches and devices.

    Args:
        default, default_factory: as in `dataclasses.field`.
    """
    return field(default=default, default_factory=default_factory, metadata={"tunable": True})


def instead_of(other: str) -> Any:
    """Declares a dataclass field that is null by default and goes with a null in the field `other` only.

    A config has the one that is given more directly, on the command line rather than in a file, or in a file rather
    than by default; the other one becomes null.
    """
    return field(default=None, metadata={"instead_of": other})


def changed_keys(before: Mapping[str, Any], config: Any) -> dict[str, tuple[Any, Any]]:
    """Compares a config with the saved one of an earlier run; returns {key: (value before, value now)}.

    Tunable keys and ``out`` are ignored. A key missing in the saved config counts as having its default, so that a run
    of an earlier version can be resumed after a key was added.

    Args:
        before: the saved config, as `to_dict` made it.
        config: the config now, a dataclass.
    """
    return {key: values for key, values in _changed(before, config, to_dict(config), "") if key != "out"}


def _changed(before: Mapping[str, Any], config: Any, now: Mapping[str, Any], prefix: str
             ) -> Iterator[tuple[str, tuple[Any, Any]]]:
    fields = {f.name: f for f in dataclasses.fields(config)}
    for name, field_ in fields.items():
        if field_.metadata.get("tunable"):
            continue
        key, value = prefix + name, getattr(config, name)
        old = before[name] if name in before else _default(field_, value)
        if dataclasses.is_dataclass(value) and isinstance(old, Mapping):
            yield from _changed(old, value, now[name], f"{key}.")
        elif old != now[name]:
            yield key, (old, now[name])
    yield from ((prefix + name, (old, NOT_SET)) for name, old in before.items() if name not in fields)


def _default(field_: dataclasses.Field, value: Any) -> Any:
    """Returns the default of a field as `to_dict` shows it; for a required section an empty dict."""
    if field_.default is not dataclasses.MISSING:
        return to_dict({field_.name: field_.default})[field_.name]
    if field_.default_factory is not dataclasses.MISSING:
        return to_dict({field_.name: field_.default_factory()})[field_.name]
    return {} if dataclasses.is_dataclass(value) else NOT_SET


def check_seed(seed: int) -> None:
    """Raises UserError unless all random generators in use accept `seed`."""
    check(0 <= seed < 2**31, "seed", f"must be at least 0 and below 2**31, got {seed}")


def check(fine: bool, key: str, what: str, fix: str | None = None) -> None:
    """Raises UserError(what, key, fix) unless `fine`; in ``__post_init__`` `key` is the field's name."""
    if not fine:
        raise UserError(what, key, fix)


def to_yaml(config: Any) -> str:
    """Dumps the resolved config as YAML that `parsing.from_yaml` reads, with secrets masked."""
    return yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes texts such as ``1e-5``, which are text in YAML 1.1 but numbers to the parser, as in YAML 1.2."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?([0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+"),
    list("-+.0123456789")
)


def to_dict(config: Any) -> dict[str, Any]:
    """Converts the resolved config to nested dicts and lists, with secrets masked.

    A secret is a text under a name such as ``api_key``, ``hf_token``, ``token`` or ``password``; not
    ``max_tokens``, ``stop_token`` or ``text_key``.
    """
    return masked(plain(config))


def masked(value: Any) -> Any:
    """Returns plain data with `MASK` in place of values with the key of a secret, at any depth."""
    if isinstance(value, dict):
        return {
            k: MASK if v not in (None, "") and SECRET.search(str(k).replace("-", "_")) else masked(v)
            for k, v in value.items()
        }
    return [masked(v) for v in value] if isinstance(value, list) else value
