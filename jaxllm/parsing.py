"""Parser of configs: YAML files and command-line arguments into dataclasses, by jsonargparse, with precise errors."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import json
import math
import os
import re
import types
import typing
from argparse import ArgumentError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from jaxllm.config import MASK, PATH_KEYS, SECRET
from jaxllm.errors import UserError
from jaxllm.files import expanded, repeated_key, yaml_node

_MARK = "\N{ZERO WIDTH SPACE}"
T = TypeVar("T")
_FLAGS = ("config", "help", "print_config")
_NULLS = ("null", "Null", "NULL", "~")  # of YAML


def parse(job: type[T], argv: Sequence[str], prog: str = "jaxllm") -> T:
    """Parses YAML files and command-line arguments into a config.

    Args:
        job: dataclass of the config; its docstring describes the command in the help.
        argv: ``--config FILE`` and ``--key value``, ``--section.key value`` or ``--section.key=value``; later
            ones override earlier ones. Lists are written ``'[a, b]'``, lists of texts and numbers also ``a b``, and
            extended with ``--key+ a``.
        prog: name of the command in the help.

    Raises:
        UserError: an unknown key (with the most similar known one), a value of another type, a missing required
            key, an invalid value, or a file that cannot be read.
        SystemExit: status 0, after ``--help`` or ``--print_config``.
    """
    parser = _parser(job, prog)
    known = _keys(job)
    argv = _spell_out(argv, known)
    origins = _check_arguments(argv, known, job)
    try:
        values = parser.parse_args(list(argv))
    except (ArgumentError, ValueError) as error:  # ValueError: a text that YAML 1.1 takes for a number, such as ._
        message = getattr(error, "message", None) or str(error)
        raise _explained(message, known, origins, _last_file(argv)) from None
    values = vars(values)
    values.pop("config", None)
    return _build(job, values, "", origins)


def from_yaml(job: type[T], path: str | Path) -> T:
    """Parses one YAML file into a config; errors as `parse`."""
    return parse(job, [f"--config={path}"])


def _parser(job: type, prog: str):
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):
        def format_help(self) -> str:
            sections = _inner_help(job, None, "")
            text = re.sub(r"<class\s+'Path'>", "path", super().format_help() + "".join(sections))
            # A section may be a file of its own, which the help would repeat for every section.
            return re.sub(r"\n  (?:--)?[\w.]+ CONFIG\s+Path to a configuration file\.", "", text)

    parser = Parser(
        prog=prog,
        usage=f"{prog} [--config FILE] [--KEY VALUE ...]",
        description=_docstring(job) or None,
        exit_on_error=False,
        allow_abbrev=False,
        default_env=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below.")
    parser.add_class_arguments(job, nested_key=None)
    _name_groups(parser, {job.__name__: "keys"})
    return parser


def _docstring(job: type) -> str:
    """Returns the docstring of a dataclass up to ``Args:``; "" for the signature that is there by default."""
    text = inspect.cleandoc(job.__doc__ or "").partition("Args:")[0].strip()
    return "" if text.startswith(f"{job.__name__}(") else text


def _name_groups(parser: Any, titles: Mapping[str, str]) -> None:
    """Titles the groups of keys in the help by the section, where jsonargparse takes the first line of a docstring."""
    for name, group in parser.groups.items():
        group.title = titles.get(name) or f"{name} ({' '.join(group.title.split())})"


def _inner_help(job: type, default: Any, prefix: str) -> Iterator[str]:
    """Yields the help for the keys that jsonargparse leaves out: those of each ``section | None`` and of the sections
    in a list.

    Args:
        job: dataclass of the config, or of a section.
        default: its default; None takes those of its fields.
        prefix: key of the section, with a dot at its end.
    """
    for field_, hint in zip(dataclasses.fields(job), _hints(job).values(), strict=True):
        key, section, items = prefix + field_.name, _section(hint), _section_of_list(hint)
        value = getattr(default, field_.name) if default is not None else _field_default(field_)
        if items is not None:
            for text in (_section_help(items, None, None, f"{key} (each item)"), *_inner_help(items, None, "")):
                yield re.sub(r"\n  --", "\n  ", text)
        if section is not None:
            value = value if dataclasses.is_dataclass(value) else None
            if section is not hint:
                yield _section_help(section, value, key, None)
            yield from _inner_help(section, value, f"{key}.")


def _section_help(section: type, default: Any, key: str | None, title: str | None) -> str:
    """Formats the help for the keys of a section."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(usage="", add_help=False, default_env=False)
    parser.add_class_arguments(section, key)
    if default is not None:
        parser.set_defaults({f"{key}.{name}": value for name, value in vars(default).items()})
    _name_groups(parser, {} if title is None else {section.__name__: title})
    return "\n" + parser.format_help().partition("\n\n")[2]


def _field_default(field_: dataclasses.Field) -> Any:
    return field_.default if field_.default_factory is dataclasses.MISSING else field_.default_factory()


def _keys(job: type, prefix: str = "") -> dict[str, Any]:
    """Lists all keys of a config, sections included, with their types."""
    keys = {}
    for name, hint in _hints(job).items():
        keys[prefix + name] = hint
        if section := _section(hint):
            keys |= _keys(section, f"{prefix}{name}.")
    return keys


def _hints(job: type) -> dict[str, Any]:
    hints = typing.get_type_hints(job)
    return {f.name: hints[f.name] for f in dataclasses.fields(job)}


def _section(hint: Any) -> type | None:
    """Returns the dataclass of a field's type, alone or ``| None``."""
    return next((k for k in _alternatives(hint) if isinstance(k, type) and dataclasses.is_dataclass(k)), None)


def _section_of_list(hint: Any) -> type | None:
    """Returns the dataclass of the items of a list."""
    lists = [k for k in _alternatives(hint) if typing.get_origin(k) is list]
    return _section(typing.get_args(lists[0])[0]) if lists else None


def _alternatives(hint: Any) -> tuple:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _takes_null(hint: Any) -> bool:
    return hint is Any or type(None) in _alternatives(hint)


def _free(hint: Any) -> bool:
    """Returns whether this is a mapping with keys that the user chooses."""
    origins = [typing.get_origin(k) or k for k in _alternatives(hint)]
    return any(isinstance(origin, type) and issubclass(origin, Mapping) for origin in origins)


def _check_arguments(argv: Sequence[str], known: dict[str, Any], job: type) -> dict[str, str]:
    """Refuses unknown keys, here and in the files; returns the source of each key: command line, or file and line."""
    origins: dict[str, str] = {}
    for word, following in zip(argv, [*argv, ""][1:], strict=True):
        if not word.startswith("--") or word == "--":
            continue
        key, equals, value = word[2:].partition("=")
        key, value = key.removesuffix("+"), value if equals else following
        if key == "config":
            origins |= _check_file(value, job)
        elif _section(known.get(key)) and (equals or not value.startswith("--")):
            origins |= _check_section(key, value, known)
        elif key.removesuffix(".help") not in known and key not in _FLAGS and not _below_free(key, known):
            raise _unknown(key, known, "command line", "--")
        origins[key] = "command line"
    return origins


def _spell_out(argv: Sequence[str], known: dict[str, Any]) -> list[str]:
    """Writes ``--flag`` as ``--flag true``, for keys of type bool; words after the key of a list of texts or numbers,
    and those after it in another place, as one list; and expands ``~`` in the names of config files.
    """
    words: list[str] = []
    lists: dict[str, list[str]] = {}  # all values of a key so far
    at = 0
    while at < len(argv):
        word = argv[at]
        at += 1
        if word.startswith("--config=") or at > 1 and argv[at - 2] == "--config":
            option = "--config=" if word.startswith("--config=") else ""
            word = option + os.path.expanduser(word.removeprefix(option))
        name, equals, value = word[2:].partition("=") if word.startswith("--") else ("", "", "")
        following = argv[at] if at < len(argv) else "--"
        first = value if equals else following
        item = _list_item(known.get(name))
        if item is not None and first[:1] != "[" and first not in _NULLS and (
                equals or not following.startswith("--")):
            values = lists.setdefault(name, [])
            values += [value] if equals else []
            while at < len(argv) and not equals and not argv[at].startswith("--"):
                values.append(argv[at])
                at += 1
            words += [f"--{name}", f"[{', '.join(values)}]" if item in (int, float) else json.dumps(values)]
            continue
        words.append(word)
        if known.get(name) is bool and not equals and following.startswith("--"):
            words.append("true")
    return words


def _list_item(hint: Any) -> Any:
    """Returns the type of the items of a list of texts or numbers; None for another type."""
    inner = [typing.get_args(k)[0] for k in _alternatives(hint) if typing.get_origin(k) is list]
    return next((k for k in inner if k in (str, Path, int, float) or typing.get_origin(k) is typing.Literal), None)


def _below_free(key: str, known: dict[str, Any]) -> bool:
    parts = key.split(".")
    return any(_free(known.get(".".join(parts[:i]))) for i in range(1, len(parts)))


def _unknown(key: str, known: Iterable[str], where: str | None, dashes: str = "") -> UserError:
    last = key.rpartition(".")[2]
    near = [k for k in known if k.rpartition(".")[2] == last]  # the right name in the wrong section
    longer = [k for k in known if k.startswith(key)]
    near = near or (longer if len(longer) == 1 else difflib.get_close_matches(key, known, 1))
    near = near or difflib.get_close_matches(last, known, 1)
    fix = f"did you mean {dashes}{near[0]}?" if near else "--help lists the keys"
    return UserError(f"there is no key {dashes}{key}", where, fix)


def _check_file(path: str, job: type) -> dict[str, str]:
    """Reads the keys of a YAML file; refuses unknown and repeated ones, and returns file and line of each."""
    if not path:
        raise UserError("no file given", "--config")
    root = yaml_node(path, "the config")
    if not isinstance(root, yaml.MappingNode):
        fix = "write lines such as 'seed: 1'; --print_config shows all"
        raise UserError("expected keys and values", path, fix)
    return dict(_file_keys(root, path, job, "", _keys(job)))


def _check_section(key: str, value: str, known: dict[str, Any]) -> dict[str, str]:
    """Reads the keys of a section that is a YAML file or ``{key: value}``, as `_check_file`; null has none."""
    hint, root = known[key], None
    section = _section(hint)
    assert section is not None
    if value in _NULLS and _takes_null(hint):
        return {}
    if file := value.endswith((".yaml", ".yml", ".json")):
        root = yaml_node(expanded(value), "the section")
    else:
        with contextlib.suppress(yaml.YAMLError):  # the message below names the form
            root = yaml.compose(value, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        required = [field_.name for field_ in dataclasses.fields(section)
                    if field_.default is field_.default_factory is dataclasses.MISSING]
        fix = f"did you mean --{key}.{required[0]} {value}?" if required else f"write --{key}.KEY VALUE"
        raise UserError(f"{key} is a section: expected keys below it", value if file else "command line", fix)
    if not file and (twice := repeated_key(root)):
        raise UserError(f"{key}.{twice[0]} is given twice", "command line", "remove one")
    return dict(_file_keys(root, value if file else None, section, f"{key}.", known))


def _file_keys(
    node: yaml.MappingNode, path: str | None, job: type, prefix: str, known: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """Yields the keys of a mapping and of its sections, with file and line; a path of None is the command line."""
    hints = _hints(job)
    for name_node, value in node.value:
        name = str(name_node.value)
        where = "command line" if path is None else f"{path}:{name_node.start_mark.line + 1}"
        if name not in hints:
            raise _unknown(prefix + name, known, where, "" if path else "--")
        yield prefix + name, where
        section = _section(hints[name])
        if section and isinstance(value, yaml.MappingNode):
            yield from _file_keys(value, path, section, f"{prefix}{name}.", known)
        elif section and (section is hints[name] or value.tag != "tag:yaml.org,2002:null"):
            raise UserError(f"{prefix}{name} is a section: expected keys below it", where)
        elif value.value == MASK:
            raise UserError(f"{prefix}{name} was masked when this file was saved", where, "give it again")


# ---- errors ------------------------------------------------------------------------------------------------


def _last_file(argv: Sequence[str]) -> str | None:
    """Returns the last config file, the most probable source of an error that names none."""
    files = [word.removeprefix("--config=") for word in argv if word.startswith("--config=")]
    files += [following for word, following in zip(argv, argv[1:], strict=False) if word == "--config"]
    return files[-1] if files else None


def _explained(message: str, known: dict[str, Any], origins: dict[str, str], file: str | None) -> UserError:
    """Turns jsonargparse's message into key, source, expected type and value; one of another form is of `file`."""
    keys = re.findall(r'Parser key "([^"]+)":\s', message)
    if keys:
        key = keys[0] if len(keys) == 1 or "." in keys[0] else ".".join(keys)
        value = re.search(r"Got value: (.*)", message) or re.search(r"Given value: (.*)", message)
        key = key if key in known else keys[0]
        if key in known and value:
            shown = MASK if SECRET.search(key.rpartition(".")[2]) else value[1].strip()
            where, expected = _origin(key, origins), type_name(known[key])
            quoted = where not in (None, "command line") and re.search("text|path", expected)
            return UserError(f"{key}: expected {expected}, got {shown!r}", where,
                             "put a text in quotes that YAML reads as something else" if quoted else None)
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
            k for hint in known.values() for k in typing.get_args(hint)
            if isinstance(k, type) and dataclasses.is_dataclass(k)
        }
        inner = [name for section in sections for name in _hints(section)]
        return _unknown(foreign[1], [*known, *inner], _origin(keys[0], origins) if keys else None)
    message = re.sub(r'\s*in "<unicode string>", line (\d+), column \d+:?', r" (line \1)", message)
    return UserError(" ".join(re.sub(r'Parser key "([^"]+)"', r"\1", message).split()), file)


def _origin(key: str, origins: dict[str, str]) -> str | None:
    """Returns the source of a key, of a key below it, or of the section that has it."""
    if below := [where for name, where in origins.items() if name.startswith(f"{key}.")]:
        return below[-1]
    while key and key not in origins:
        key = key.rpartition(".")[0]
    return origins.get(key)


def _rank(key: str, origins: dict[str, str]) -> int:
    """Returns 2 for a key of the command line, 1 for one of a file, 0 for one that is not given."""
    return 0 if key not in origins else 2 if origins[key] == "command line" else 1


def type_name(hint: Any) -> str:
    """Names a type for a message: ``int``, ``list of text``, ``one of a, b``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_name(k) for k in arguments)
    if origin in (list, tuple):
        return f"list of {type_name(arguments[0])}" if arguments else "list"
    if origin is dict:
        return f"mapping to {type_name(arguments[1])}" if arguments else "mapping"
    if hint is type(None):
        return "null"
    return {str: "text", Path: "path", bool: "true or false"}.get(hint, getattr(hint, "__name__", str(hint)))


def _expanded(hint: Any, value: Any, name: str) -> Any:
    """Expands `~` in a path, which a shell leaves as it is in ``--key=~/x`` and in files."""
    if isinstance(value, list) and (items := typing.get_args(hint)):
        return [_expanded(items[0], item, name) for item in value]
    if isinstance(value, Path):
        return expanded(value)
    return os.path.expanduser(value) if name in PATH_KEYS and isinstance(value, str) else value


def _nonfinite(value: Any) -> float | None:
    """Returns the first NaN or infinity of a value, a list or a mapping; None where there is none."""
    if isinstance(value, float):
        return None if math.isfinite(value) else value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((wrong for item in inner if (wrong := _nonfinite(item)) is not None), None)


def _build(hint: Any, value: Any, prefix: str, origins: dict[str, str]) -> Any:
    """Builds the dataclass of a section; an invalid value is reported with its whole key and source."""
    from jsonargparse import Namespace

    value = vars(value) if isinstance(value, Namespace) else value
    section = _section(hint)
    if isinstance(value, list) and (inner := next(iter(typing.get_args(hint)), None)) and _section(inner):
        return [_build(inner, v, f"{prefix}{i}.", origins) for i, v in enumerate(value)]
    if value is None and not _takes_null(hint) and section is None:
        raise UserError(f"{prefix[:-1]}: expected {type_name(hint)}, got null", _origin(prefix[:-1], origins))
    if section is None or (value is None and _takes_null(hint)):
        if (wrong := _nonfinite(value)) is not None:  # no JSON could hold it
            expected = "a number" if math.isnan(wrong) else "a finite number"
            raise UserError(f"{prefix[:-1]}: expected {expected}, got {wrong}", _origin(prefix[:-1], origins))
        return _expanded(hint, value, prefix[:-1].rpartition(".")[2])
    if not isinstance(value, dict):
        raise UserError(f"{prefix[:-1]} is a section: expected keys below it", _origin(prefix[:-1], origins))
    hints = _hints(section)
    # jsonargparse marks keys that are names of a dictionary's methods, such as items, and adds the file of a section.
    own = {name.removeprefix(_MARK): v for name, v in value.items() if name != "__path__"}
    fields = {name: _build(hints[name], v, f"{prefix}{name}.", origins) for name, v in own.items()}
    for field_ in dataclasses.fields(section):
        other = field_.metadata.get("instead_of")
        if other is not None and fields.get(field_.name) is not None and (
                _rank(prefix + field_.name, origins) > _rank(prefix + other, origins)):
            fields[other] = None
    try:
        return section(**fields)
    except UserError as error:
        if error.where not in hints:
            raise
        key = f"{prefix}{error.where}"
        raise UserError(f"{key}: {error.what}", _origin(key, origins), error.fix) from None
