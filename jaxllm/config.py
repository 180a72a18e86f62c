"""Job descriptions: frozen dataclasses, read from YAML files and the command line by jsonargparse.

A job is a dataclass whose fields have types and defaults and whose docstring says under ``Args:`` what each
is for. Sections are fields that are dataclasses themselves, which makes keys like ``data.path``. What may not
be is checked in ``__post_init__`` by raising ``UserError(what, "field name")``; `parse` completes the name to
the whole key.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from jaxllm.errors import UserError
from jaxllm.files import plain

T = TypeVar("T")

MASK = "(masked)"
_SECRET = re.compile(
    r"(^|_)(password|passwd|secret|credentials?|authorization)(_|$)"
    r"|^(key|token)$|(^|_)(api|access|auth|bearer|private|secret|hf|hub|wandb|openai)_?(key|token)$",
    re.IGNORECASE,
)
_FLAGS = ("config", "help", "print_config")


@dataclass(frozen=True)
class DataConfig:
    """Where rows come from.

    Args:
        path: .jsonl, .jsonl.gz, .csv or .parquet file, folder written by save_to_disk,
            ORG/NAME[/CONFIG][:SPLIT] on the Hub, or asset:NAME for a packaged file.
        limit: use only the first so many good rows.
        limit_bad: share of bad rows beyond which the job stops.
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
    """How tokens are drawn.

    Args:
        temperature: divides the logits; 0 takes the likeliest token.
        top_k: draw only from the so many likeliest tokens; 0 is all.
        top_p: draw only from the likeliest tokens that together have this probability, of all tokens; 1 is all.
        min_p: draw only from tokens at least so likely, as a share of the likeliest one's probability; 0 is all.
        repetition_penalty: makes tokens less likely that stand in the text already; 1 changes nothing.
        logit_bias: what is added to the logits of some tokens, by id.
        max_tokens: end an answer after so many tokens.
        n: answers for each prompt.
        stop: texts that end an answer.
        seed: of the draws; that of the job by default.
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
                  f"{value:g}", "use -100 for a token that is never to be said")
        if self.seed is not None:
            check_seed(self.seed)
        check(all(self.stop), "stop", "an empty text would end every answer at once")
        check(
            self.n == 1 or self.temperature > 0,
            "n",
            f"temperature 0 gives the same answer {self.n} times",
            "set n to 1 or temperature above 0",
        )


def tunable(default: Any = dataclasses.MISSING, *, default_factory: Any = dataclasses.MISSING) -> Any:
    """Declares a dataclass field that cannot change a job's results, only speed, memory or logging.

    A run may be resumed with another value of it. A tunable section makes all keys below it tunable.

    Args:
        default, default_factory: as in `dataclasses.field`.
    """
    return field(default=default, default_factory=default_factory, metadata={"tunable": True})


def changed_keys(before: Mapping[str, Any], config: Any) -> dict[str, tuple[Any, Any]]:
    """Compares a config with the saved one of an earlier run; returns {key: (value before, value now)}.

    Tunable keys and ``out`` are ignored. A key missing in the saved config counts as having its default, so that a run
    of an earlier version can be resumed after a key was added.

    Args:
        before: the saved config, as `to_dict` made it.
        config: the config now, a dataclass.
    """
    return {key: values for key, values in _changed(before, config, to_dict(config), "") if key != "out"}


NOT_SET = "(not set)"


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
    """Default of a field as `to_dict` shows it; of a required section, an empty one, whose keys have defaults."""
    if field_.default is not dataclasses.MISSING:
        return to_dict({field_.name: field_.default})[field_.name]
    if field_.default_factory is not dataclasses.MISSING:
        return to_dict({field_.name: field_.default_factory()})[field_.name]
    return {} if dataclasses.is_dataclass(value) else NOT_SET


def check_seed(seed: int) -> None:
    """Raises UserError unless `seed` is one that every generator in use takes."""
    check(0 <= seed < 2**31, "seed", f"must be at least 0 and below 2**31, got {seed}")


def check(fine: bool, key: str, what: str, fix: str | None = None) -> None:
    """Raises UserError(what, key, fix) unless `fine`; in ``__post_init__`` `key` is the field's name."""
    if not fine:
        raise UserError(what, key, fix)


def parse(job: type[T], argv: Sequence[str], description: str = "", prog: str = "jaxllm") -> T:
    """The job that YAML files and arguments describe together.

    Args:
        job: dataclass of the job.
        argv: ``--config FILE`` and ``--key value``, ``--section.key value`` or ``--section.key=value``, later
            ones overriding earlier ones. Lists are written ``'[a, b]'`` or added to with ``--key+ a``.
        description: first lines of the help.
        prog: name of the command in the help.

    Raises:
        UserError: a key that does not exist (with the nearest that does), a value of another type, a required
            key that is missing, a value that may not be, or a file that cannot be read.
        SystemExit: status 0, after ``--help`` or ``--print_config``.
    """
    parser = _parser(job, description, prog)
    known = _keys(job)
    argv = _spell_out(argv, known)
    origins = _check_arguments(argv, known, job)
    try:
        values = parser.parse_args(list(argv))
    except ArgumentError as error:
        raise _explained(error.message or str(error), known, origins) from None
    values = vars(values)
    values.pop("config", None)
    return _build(job, values, "", origins)


def from_yaml(job: type[T], path: str | Path) -> T:
    """The job that one YAML file describes; errors as `parse`."""
    return parse(job, [f"--config={path}"])


def to_yaml(config: Any) -> str:
    """The resolved config as YAML that `from_yaml` reads, with secrets masked."""
    return yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes texts such as ``1e-5``: text in YAML 1.1, but a number to the parser, as in YAML 1.2."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"), list("-+0123456789")
)


def to_dict(config: Any) -> dict[str, Any]:
    """The resolved config as plain nested dicts and lists, with secrets masked.

    Secret is a text under a name such as ``api_key``, ``hf_token``, ``token`` or ``password``; not
    ``max_tokens``, ``stop_token`` or ``text_key``.
    """
    return _masked(plain(config))


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            k: MASK if isinstance(v, str) and v and _SECRET.search(k.replace("-", "_")) else _masked(v)
            for k, v in value.items()
        }
    return [_masked(v) for v in value] if isinstance(value, list) else value


# ---- the parser --------------------------------------------------------------------------------------------


def _parser(job: type, description: str, prog: str):
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        def format_help(self) -> str:
            sections = map(_optional_help, dataclasses.fields(job), _hints(job).values())
            text = re.sub(r"<class\s+'Path'>", "path", super().format_help() + "".join(sections))
            # A section may be given as a file of its own; a line a section that says so tells nobody anything.
            return re.sub(r"\n  --[\w.]+ CONFIG\s+Path to a configuration file\.", "", text)

    parser = Parser(
        prog=prog,
        usage=f"{prog} [--config FILE] [--KEY VALUE ...]",
        description=description or None,
        exit_on_error=False,
        allow_abbrev=False,
        default_env=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below.")
    parser.add_class_arguments(job, nested_key=None)
    return parser


def _optional_help(field_: dataclasses.Field, kind: Any) -> str:
    """Help for the keys of a ``section | None``, of which jsonargparse shows only the section."""
    from jsonargparse import ArgumentParser

    section = _section(kind)
    if section is None or section is kind:
        return ""
    default = field_.default if field_.default_factory is dataclasses.MISSING else field_.default_factory()
    parser = ArgumentParser(usage="", add_help=False, default_env=False)
    parser.add_class_arguments(section, field_.name)
    if dataclasses.is_dataclass(default):
        parser.set_defaults({f"{field_.name}.{k}": v for k, v in vars(default).items()})
    return "\n" + parser.format_help().partition("\n\n")[2]


def _keys(job: type, prefix: str = "") -> dict[str, Any]:
    """Every key of a job, sections included, with its type."""
    found = {}
    for name, kind in _hints(job).items():
        found[prefix + name] = kind
        if section := _section(kind):
            found |= _keys(section, f"{prefix}{name}.")
    return found


def _hints(job: type) -> dict[str, Any]:
    hints = typing.get_type_hints(job)
    return {f.name: hints[f.name] for f in dataclasses.fields(job)}


def _section(kind: Any) -> type | None:
    """The dataclass that a field holds, alone or ``| None``."""
    return next((k for k in _alternatives(kind) if isinstance(k, type) and dataclasses.is_dataclass(k)), None)


def _alternatives(kind: Any) -> tuple:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _free(kind: Any) -> bool:
    """Whether any key may stand below this one: a mapping whose keys the user names."""
    origins = [typing.get_origin(k) or k for k in _alternatives(kind)]
    return any(isinstance(origin, type) and issubclass(origin, Mapping) for origin in origins)


def _check_arguments(argv: Sequence[str], known: dict[str, Any], job: type) -> dict[str, str]:
    """Refuses keys that do not exist, here and in the files; returns where each key was last given."""
    origins: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        if not word.startswith("--") or word == "--":
            continue
        key, equals, value = word[2:].partition("=")
        key = key.removesuffix("+")
        if key == "config":
            value = value if equals else next(words, "")
            origins |= _check_file(value, job)
        elif key.removesuffix(".help") not in known and key not in _FLAGS and not _below_free(key, known):
            raise _unknown(key, known, "command line", "--")
        origins[key] = "command line"
    return origins


def _spell_out(argv: Sequence[str], known: dict[str, Any]) -> list[str]:
    """``--flag`` as ``--flag true``, for keys that are true or false."""
    words = []
    for i, word in enumerate(argv):
        words.append(word)
        last = i + 1 == len(argv) or argv[i + 1].startswith("--")
        if last and word.startswith("--") and known.get(word[2:]) is bool:
            words.append("true")
    return words


def _below_free(key: str, known: dict[str, Any]) -> bool:
    parts = key.split(".")
    return any(_free(known.get(".".join(parts[:i]))) for i in range(1, len(parts)))


def _unknown(key: str, known: Iterable[str], where: str | None, dashes: str = "") -> UserError:
    last = key.rpartition(".")[2]
    near = [k for k in known if k.rpartition(".")[2] == last]  # the right name in the wrong section
    near = near or difflib.get_close_matches(key, known, 1) or difflib.get_close_matches(last, known, 1)
    fix = f"did you mean {dashes}{near[0]}?" if near else "--help lists the keys"
    return UserError(f"there is no key {dashes}{key}", where, fix)


def _check_file(path: str, job: type) -> dict[str, str]:
    """Reads a YAML file for its keys only: where each stands, which do not exist, which stand twice."""
    if not path:
        raise UserError("no file given", "--config")
    try:
        root = yaml.compose(Path(path).read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise UserError(f"not valid UTF-8 at byte {error.start + 1}", path) from None
    except OSError as error:
        raise UserError(f"the config cannot be read: {error.strerror}", path) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"not valid YAML: {what}", f"{path}:{mark.line + 1}" if mark else path) from None
    if not isinstance(root, yaml.MappingNode):
        fix = "write lines such as 'seed: 1'; --print_config shows all"
        raise UserError("expected keys and values", path, fix)
    return dict(_file_keys(root, path, job, "", _keys(job)))


def _file_keys(
    node: yaml.MappingNode, path: str, job: type, prefix: str, known: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    kinds, seen = _hints(job), set()
    for name_node, value in node.value:
        name, where = str(name_node.value), f"{path}:{name_node.start_mark.line + 1}"
        if name not in kinds:
            raise _unknown(prefix + name, known, where)
        if name in seen:
            raise UserError(f"{prefix}{name} stands twice", where, "remove one")
        seen.add(name)
        yield prefix + name, where
        section = _section(kinds[name])
        if section and isinstance(value, yaml.MappingNode):
            yield from _file_keys(value, path, section, f"{prefix}{name}.", known)
        elif section and (section is kinds[name] or value.tag != "tag:yaml.org,2002:null"):
            raise UserError(f"{prefix}{name} is a section: expected keys below it", where)
        elif value.value == MASK:
            raise UserError(f"{prefix}{name} was masked when this file was saved", where, "give it again")


# ---- what went wrong ---------------------------------------------------------------------------------------


def _explained(message: str, known: dict[str, Any], origins: dict[str, str]) -> UserError:
    """jsonargparse's message as key, place, expected type and value; in another form it is left as it is."""
    keys = re.findall(r'Parser key "([^"]+)":\s', message)
    if keys:
        key = keys[0] if len(keys) == 1 or "." in keys[0] else ".".join(keys)
        value = re.search(r"Got value: (.*)", message) or re.search(r"Given value: (.*)", message)
        key = key if key in known else keys[0]
        if key in known and value:
            shown = MASK if _SECRET.search(key.rpartition(".")[2]) else value[1].strip()
            return UserError(f"{key}: expected {type_name(known[key])}, got {shown!r}", _origin(key, origins))
    if missing := re.search(r"arguments? (?:are|is) required: (.*)", message):
        names = [name.strip() for name in missing[1].split(",")]
        plural = "s" if len(names) > 1 else ""
        return UserError(
            f"required key{plural} missing: {', '.join(names)}",
            fix=f"add --{names[0]} VALUE, or '{names[0]}: VALUE' in the --config file",
        )
    if unexpected := re.search(r"unrecognized arguments: (.*)", message):
        return UserError(f"unexpected {unexpected[1]!r}", "command line", "keys are written --KEY VALUE")
    if lacking := re.search(r"argument --([\w.]+)\S*: expected", message):
        return UserError(f"--{lacking[1]} has no value", "command line")
    if foreign := re.search(r"(?:Option|does not accept option) '([\w.]+)'", message):
        sections = {
            k for kind in known.values() for k in typing.get_args(kind)
            if isinstance(k, type) and dataclasses.is_dataclass(k)
        }
        inner = [name for section in sections for name in _hints(section)]
        return _unknown(foreign[1], [*known, *inner], _origin(keys[0], origins) if keys else None)
    return UserError(" ".join(message.split()))


def _origin(key: str, origins: dict[str, str]) -> str | None:
    """Where a key, something below it, or the section it is in was given."""
    if below := [where for name, where in origins.items() if name.startswith(f"{key}.")]:
        return below[-1]
    while key and key not in origins:
        key = key.rpartition(".")[0]
    return origins.get(key)


def type_name(kind: Any) -> str:
    """A type as the user reads it: ``int``, ``list of text``, ``one of a, b``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(k) for k in arguments)
    if origin in (list, tuple):
        return f"list of {type_name(arguments[0])}" if arguments else "list"
    if origin is dict:
        return f"mapping to {type_name(arguments[1])}" if arguments else "mapping"
    if kind is type(None):
        return "null"
    return {str: "text", Path: "path", bool: "true or false"}.get(kind, getattr(kind, "__name__", str(kind)))


def _build(kind: Any, value: Any, prefix: str, origins: dict[str, str]) -> Any:
    """Values of a section as its dataclass; a refused value is named by its whole key and place."""
    from jsonargparse import Namespace

    value = vars(value) if isinstance(value, Namespace) else value
    section = _section(kind)
    if isinstance(value, list) and (inner := next(iter(typing.get_args(kind)), None)) and _section(inner):
        return [_build(inner, v, f"{prefix}{i}.", origins) for i, v in enumerate(value)]
    if section is None or value is None:
        if isinstance(value, float) and math.isnan(value):
            raise UserError(f"{prefix[:-1]}: expected a number, got nan", _origin(prefix[:-1], origins))
        return value
    if not isinstance(value, dict):
        raise UserError(f"{prefix[:-1]} is a section: expected keys below it", _origin(prefix[:-1], origins))
    kinds = _hints(section)
    fields = {name: _build(kinds[name], v, f"{prefix}{name}.", origins) for name, v in value.items()}
    try:
        return section(**fields)
    except UserError as error:
        if error.where not in kinds:
            raise
        key = f"{prefix}{error.where}"
        raise UserError(f"{key}: {error.what}", _origin(key, origins), error.fix) from None
