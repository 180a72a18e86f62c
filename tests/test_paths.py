"""`~` is the home directory in every key that may be a path, however it is given."""

import functools
import importlib
import typing
from pathlib import Path

import pytest
import yaml

from jaxllm.cli import VERBS
from jaxllm.config import PATH_KEYS
from jaxllm.parsing import _alternatives, _keys, parse

# Keys of texts that are no paths, by their last name.
OTHER_TEXTS = {"base_url", "key_variable", "prompt", "context", "question", "answer", "document", "stop", "targets",
               "template", "method", "loss", "labels", "metric", "algorithm", "reward", "label", "options", "words",
               "observer_template", "subset", "weights", "task", "language", "fail_under", "drop", "member", "extra"}
REQUIRED = {"data.path": "x", "out": "x", "model": "x", "catalog": "x", "document": "1", "method": "dpo"}
CONFIGS = {verb: importlib.import_module(about.module).Config for verb, about in VERBS.items()}


def path_keys(config):
    """Keys of a config with the type path, or with a text (or texts) that may be one."""
    texts = {key: [kind for part in _alternatives(hint) for kind in (part, *typing.get_args(part))]
             for key, hint in _keys(config).items()}
    return [key for key, kinds in texts.items()
            if Path in kinds or str in kinds and key.rpartition(".")[2] in PATH_KEYS]


def value_of(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("verb", CONFIGS)
def test_every_text_is_known_to_be_a_path_or_not(verb):
    texts = {key.rpartition(".")[2] for key, hint in _keys(CONFIGS[verb]).items()
             if str in (kinds := _alternatives(hint)) or any(str in typing.get_args(kind)[:1] for kind in kinds)}
    assert texts <= {*PATH_KEYS, *OTHER_TEXTS}


@pytest.mark.parametrize("verb", CONFIGS)
def test_tilde_is_expanded_in_every_path(verb, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = CONFIGS[verb]
    keys = [key for key in path_keys(config) if key != "code"]  # in place of data.path, see below
    # Some keys apply to some backends of a judge, sources of QA pairs or sides of a comparison only.
    alone = {"judge.path": ("kind=recorded",), "judge.cache": ("kind=openai", "model=m"), "qa_pairs.source": (),
             "answers_a": (), "answers_b": (), "ifd.path": (), "ifd.model": (), "replay": ()}
    groups = [(settings, [key for key in keys if key.endswith(end)]) for end, settings in alone.items()]
    groups.append(((), [key for key in keys if not key.endswith(tuple(alone))]))
    for settings, own in groups:
        nested = {}
        for key in own:
            *sections, name = key.split(".")
            functools.reduce(lambda inner, section: inner.setdefault(section, {}), sections, nested)[name] = "~/a b"
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(nested))
        given = [f"--{key}={value}" for key, value in REQUIRED.items()
                 if key not in own and {str, Path} & {*_alternatives(_keys(config).get(key))}]
        given += [f"--{key.rpartition('.')[0]}.{setting}" for key in own for setting in settings]
        given += ["--merge"] if verb == "convert" else []
        given += ["--method=none"] if verb == "clean" and "replay" not in own else []
        given += ["--committee.scores=x"] if verb == "audit" and "committee.scores" not in own else []
        given += [f"--model_{side}=x" for side in "ab" if verb == "compare" and not {f"model_{side}", f"answers_{side}"}
                  & set(own)]
        forms = [[f"--{key}=~/a b" for key in own], ["--config=~/c.yaml"]]
        forms += [[word for key in own for word in (f"--{key}", "~/a b")], ["--config", "~/c.yaml"]] * (verb == "score")
        for words in forms if own else ():
            parsed = parse(config, [*words, *given])
            assert [str(value_of(parsed, key)) for key in own] == [f"{tmp_path}/a b"] * len(own)


def test_tilde_is_expanded_in_lists_of_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse(CONFIGS["judge"], ["--task", "t", "--code", "~/a", "b"]).code == [tmp_path / "a", Path("b")]


def test_other_texts_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    config = parse(CONFIGS["generate"], ["--data.path", "x~/y", "--out", "o", "--sampling.stop", "[~/]"])
    assert (config.data.path, config.sampling.stop) == ("x~/y", ["~/"])


def test_convert_writes_into_the_home_directory(tmp_path, monkeypatch):
    from jaxllm.cli import main

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert main(["convert", "--model=~/nothing", "--out=~/m1"]) == 2
    assert main(["convert", "--model=tiny", "--out=~/m1"]) == 0
    assert (tmp_path / "m1" / "config.json").is_file() and not (tmp_path / "~").exists()


def test_a_name_that_no_user_has_is_left_as_it_is(tmp_path, monkeypatch, capsys):
    from jaxllm.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["convert", "--model=tiny", "--out", "~no.such.user/m"]) == 0
    assert (tmp_path / "~no.such.user" / "m" / "config.json").is_file()
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    data = ["--data.path", "rows.jsonl", "--out", "o"]
    for words in (["--model", "~no.such.user/x"], ["--data.path=~no.such.user/x.jsonl"],
                  ["--adapter=~no.such.user/x"], ["--config=~no.such.user/x.yaml"]):
        assert main(["generate", *data, *words]) == 2
        assert "~no.such.user/x" in capsys.readouterr().err


def test_a_section_may_be_a_file_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data.yaml").write_text("path: ~/x.jsonl\nlimit: 3\n")
    (tmp_path / "stop.yaml").write_text("stop: [a]\n")
    for words in (["--data", "~/data.yaml"], [f"--data={tmp_path}/data.yaml", "--sampling=~/stop.yaml"]):
        config = parse(CONFIGS["generate"], [*words, "--out=o"])
        assert (config.data.path, config.data.limit) == (str(tmp_path / "x.jsonl"), 3)
    assert config.sampling.stop == ["a"]
