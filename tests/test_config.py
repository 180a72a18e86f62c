"""Keys, types and sources of a job's config; errors name all three."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from jaxllm.config import DataConfig, SamplingConfig, changed_keys, check, to_dict, to_yaml
from jaxllm.errors import UserError
from jaxllm.parsing import from_yaml, parse


@dataclass(frozen=True)
class TrainConfig:
    """How weights move.

    Args:
        lr: step size.
        steps: number of updates.
    """

    lr: float = 1e-3
    steps: int = 10

    def __post_init__(self):
        check(self.lr > 0, "lr", f"must be positive, got {self.lr:g}")


@dataclass(frozen=True)
class JobConfig:
    """A job.

    Args:
        model: model directory.
        out: where the job writes.
        lora: trains an adapter with these settings.
        train: trains.
    """

    model: str
    out: Path
    data: DataConfig
    seed: int = 0
    divergence: Literal["forward", "reverse"] = "forward"
    train: TrainConfig = TrainConfig()
    lora: TrainConfig | None = None
    stages: list[TrainConfig] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    weights: dict[str, float] = field(default_factory=dict)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    api_key: str | None = None
    stop_token: str = "</s>"


BASE = "model: tiny\nout: runs/a\ndata:\n  path: x.jsonl\n"
QUOTES = "\n  fix: put a text in quotes that YAML reads as something else"
GIVEN = ["--model", "tiny", "--out", "runs/a", "--data.path", "x.jsonl"]


@pytest.fixture
def written(tmp_path):
    def write(text: str, name: str = "job.yaml") -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return write


def test_defaults_and_types():
    config = parse(JobConfig, GIVEN)
    assert config == JobConfig("tiny", Path("runs/a"), DataConfig("x.jsonl"))
    assert isinstance(config.train, TrainConfig) and isinstance(config.sampling, SamplingConfig)


def test_the_command_line_overrides_files_and_later_files_earlier_ones(written):
    first = written(BASE + "seed: 1\ntrain:\n  lr: 1e-5\n  steps: 5\n")
    second = written(
        "seed: 2\ntrain: {steps: 6}\nweights: {a: 1, b: 2.5}\nstages: [{lr: 1}, {steps: 2}]\n", "b.yaml"
    )
    args = [
        "--config",
        first,
        f"--config={second}",
        "--train.steps",
        "7",
        "--lora.lr=3e-4",
        "--sampling.stop+",
        "###",
    ]
    config = parse(JobConfig, args)
    assert (config.seed, config.train, config.lora) == (2, TrainConfig(1e-5, 7), TrainConfig(3e-4, 10))
    assert config.weights == {"a": 1.0, "b": 2.5} and config.stages == [
        TrainConfig(1.0),
        TrainConfig(steps=2),
    ]
    assert config.sampling.stop == ["###"] and isinstance(config.train.lr, float)


@pytest.mark.parametrize(("words", "expected"), [
    (["a"], ["a"]), (["a", "b c", "--seed", "3"], ["a", "b c"]), (["1", "null"], ["1", "null"]),
    (["=x=1"], ["x=1"]), (["=[a, b]"], ["a", "b"]),
    (["a", "--sampling.stop", "b", "--sampling.stop=c"], ["a", "b", "c"]),
    (["[a, b]"], ["a", "b"])])
def test_lists_of_texts_are_written_as_words(words, expected):
    first = ["--sampling.stop" + words.pop(0)] if words[0].startswith("=") else ["--sampling.stop"]
    assert parse(JobConfig, [*GIVEN, *first, *words]).sampling.stop == expected


@pytest.mark.parametrize(("words", "expected"), [
    (["1", "2"], [1, 2]), (["3", "--seed", "3"], [3]), (["[1, 2]"], [1, 2]), (["1", "--sizes=2"], [1, 2])])
def test_lists_of_numbers_are_written_as_words(words, expected):
    assert parse(JobConfig, [*GIVEN, "--sizes", *words]).sizes == expected


@pytest.mark.parametrize(
    "args, message",
    [
        (["--sizes", "1", "x"], "command line: sizes: expected list of int, got 'x'"),
        (["--train.lrr", "1"], "command line: there is no key --train.lrr\n  fix: did you mean --train.lr?"),
        (["--lr", "1"], "command line: there is no key --lr\n  fix: did you mean --train.lr?"),
        (
            ["--trian.steps=1"],
            "command line: there is no key --trian.steps\n  fix: did you mean --train.steps?",
        ),
        (["--train.st", "1"], "command line: there is no key --train.st\n  fix: did you mean --train.steps?"),
        (["--sampling.temp", "1"],
         "command line: there is no key --sampling.temp\n  fix: did you mean --sampling.temperature?"),
        (["--zzz", "1"], "command line: there is no key --zzz\n  fix: --help lists the keys"),
        (["--stages", "[{lx: 1}]"], "command line: there is no key lx\n  fix: --help lists the keys"),
        (["--train.lr", "fast"], "command line: train.lr: expected float, got 'fast'"),
        (["--train.steps", "1.5"], "command line: train.steps: expected int, got '1.5'"),
        (["--seed", "true"], "command line: seed: expected int, got 'True'"),
        (["--lora.steps", "x"], "command line: lora.steps: expected int, got 'x'"),
        (["--data.limit", "x"], "command line: data.limit: expected int or null, got 'x'"),
        (["--divergence", "sideways"], "command line: divergence: expected one of forward, reverse, got 'sideways'"),
        (["--weights.a", "x"], "command line: weights: expected mapping to float, got 'x'"),
        (["--train.lr", ".nan"], "command line: train.lr: expected a number, got nan"),
        (["--train.lr", ".inf"], "command line: train.lr: expected a finite number, got inf"),
        (["--weights", "{a: 1.0, b: .nan}"], "command line: weights: expected a number, got nan"),
        (["--train.lr", "-1"], "command line: train.lr: must be positive, got -1"),
        (["--lora.lr", "0"], "command line: lora.lr: must be positive, got 0"),
        (["--stages", "[{steps: 1}, {lr: -1}]"], "command line: stages.1.lr: must be positive, got -1"),
        (["--seed"], "command line: --seed has no value"),
        (["stray"], "command line: unexpected 'stray'\n  fix: keys are written --KEY VALUE"),
        (["--config"], "--config: no file given"),
        (["--data", "rows.jsonl"],
         "command line: data is a section: expected keys below it\n  fix: did you mean --data.path rows.jsonl?"),
        (["--train", "null"],
         "command line: train is a section: expected keys below it\n  fix: write --train.KEY VALUE"),
        (["--train", "{lr: 1, lr: 2}"], "command line: train.lr is given twice\n  fix: remove one"),
        (["--lora={lx: 1}"], "command line: there is no key --lora.lx\n  fix: did you mean --lora.lr?"),
    ],
)
def test_errors_on_the_command_line(args, message):
    with pytest.raises(UserError) as error:
        parse(JobConfig, [*GIVEN, *args])
    assert str(error.value) == message


@pytest.mark.parametrize(
    "text, line, message",
    [
        ("train:\n  lr: 1\n  lrr: 1\n", 7, "there is no key train.lrr\n  fix: did you mean train.lr?"),
        ("tain:\n  lr: 1\n", 5, "there is no key tain\n  fix: did you mean train?"),
        ("train:\n  seed: 3\n", 6, "there is no key train.seed\n  fix: did you mean seed?"),
        ("lora:\n  rank: 3\n", 6, "there is no key lora.rank\n  fix: did you mean lora.lr?"),
        ("seed: 1\nseed: 2\n", 6, "seed is given twice\n  fix: remove one"),
        ("train: 3\n", 5, "train is a section: expected keys below it"),
        ("train:\n", 5, "train is a section: expected keys below it"),
        ("seed: null\n", 5, "seed: expected int, got null"),
        ("stop_token:\n", 5, "stop_token: expected text, got null"),
        ("weights:\n", 5, "weights: expected mapping to float, got null"),
        ("divergence: ~\n", 5, "divergence: expected one of forward, reverse, got null"),
        ("sampling:\n  max_tokens:\n", 6, "sampling.max_tokens: expected int, got null"),
        ("lora: {lr: null}\n", 5, "lora.lr: expected float, got null"),
        ("train:\n  lr: fast\n", 6, "train.lr: expected float, got 'fast'"),
        ("stop_token: no\n", 5, f"stop_token: expected text, got 'False'{QUOTES}"),
        ("sampling:\n  n: 1\n  top_p: 1.5\n", 7, "sampling.top_p: must be above 0 and at most 1, got 1.5"),
        ("api_key: 12345\n", 5, f"api_key: expected text or null, got '(masked)'{QUOTES}"),
        ("sampling:\n  logit_bias: {5: 1, 5: 2}\n", 6, "sampling.logit_bias.5 is given twice\n  fix: remove one"),
        ("stages:\n- {lr: 1, lr: 2}\n", 6, "stages.0.lr is given twice\n  fix: remove one"),
        ("api_key: (masked)\n", 5, "api_key was masked when this file was saved\n  fix: give it again"),
        ("seed: [1\n", 6, "not valid YAML: expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_errors_in_a_file(written, text, line, message):
    path = written(BASE + text)
    with pytest.raises(UserError) as error:
        parse(JobConfig, ["--config", path])
    assert str(error.value) == f"{path}:{line}: {message}"


def test_null_is_a_value_where_the_type_has_it(written):
    config = from_yaml(JobConfig, written(BASE + "lora:\napi_key: null\nsampling: {seed: ~}\n"))
    assert (config.lora, config.api_key, config.sampling.seed) == (None, None, None)
    for null in ("null", "~", "Null"):
        assert parse(JobConfig, [*GIVEN, "--lora.lr", "1", "--lora", null]).lora is None


def test_files_that_are_no_config(written, tmp_path):
    for text in ("", "- a\n", "just text\n"):
        with pytest.raises(UserError, match="expected keys and values"):
            from_yaml(JobConfig, written(text))
    with pytest.raises(UserError, match="absent.yaml: the config cannot be read: No such file"):
        from_yaml(JobConfig, tmp_path / "absent.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"model: \xe9\n")
    with pytest.raises(UserError, match="not valid UTF-8 at byte 8"):
        from_yaml(JobConfig, tmp_path / "latin.yaml")


@pytest.mark.parametrize("text", ["stop_token: ._\n", "stop_token: !foo bar\n", "train: {lr: ._}\n"])
def test_errors_of_the_yaml_parser_name_the_file(written, text):
    path = written(BASE + text)
    with pytest.raises(UserError) as error:
        from_yaml(JobConfig, path)
    assert str(error.value).startswith(path) and "<unicode string>" not in str(error.value)


def test_keys_of_a_section_that_is_a_file(written):
    path = written("lr: 1\nlx: 2\n", "train.yaml")
    with pytest.raises(UserError) as error:
        parse(JobConfig, [*GIVEN, f"--train={path}"])
    assert str(error.value) == f"{path}:2: there is no key train.lx\n  fix: did you mean train.lr?"


def test_missing_keys():
    with pytest.raises(UserError) as error:
        parse(JobConfig, ["--model", "tiny"])
    message = (
        "required keys missing: out, data.path\n  fix: add --out VALUE, or 'out: VALUE' in the --config file"
    )
    assert str(error.value) == message


def test_yaml_round_trip(written):
    args = [
        *GIVEN,
        "--train.lr",
        "1e-5",
        "--lora.steps",
        "3",
        "--weights.a",
        "1",
        "--sampling.stop",
        '["\\n", "é: #"]',
    ]
    config = parse(JobConfig, [*args, "--stages", "[{lr: 2}]", "--stop_token", "1e-5"])
    assert config.stop_token == "1e-5"
    for text in ("1e-5", "1.5e3", "1.e5", ".5e3", "-1E5"):  # numbers to the parser, as in YAML 1.2
        config = dataclasses.replace(config, stop_token=text)
        assert from_yaml(JobConfig, written(to_yaml(config))) == config


def test_print_config_is_a_config(capsys, written):
    with pytest.raises(SystemExit) as end:
        parse(JobConfig, [*GIVEN, "--train.lr", "1e-5", "--print_config"])
    assert not end.value.code
    config = from_yaml(JobConfig, written(capsys.readouterr().out))
    assert config == parse(JobConfig, [*GIVEN, "--train.lr", "1e-5"])


def test_help_shows_every_key_with_type_default_and_help(capsys):
    with pytest.raises(SystemExit) as end:
        parse(JobConfig, ["--help"], "jaxllm verb")
    assert not end.value.code
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "usage: jaxllm verb [--config FILE] [--KEY VALUE ...] A job.",
        "keys: --model MODEL",
        "train (trains): --train.lr",
        "--model MODEL model directory. (required, type: str)",
        "--out OUT where the job writes. (required, type: path)",
        "--train.lr LR step size. (type: float, default: 0.001)",
        "--sampling.n N completions for each prompt. (type: int, default: 1)",
        "--data.limit LIMIT use the first N good rows only; null uses all. (type: int | null, default: null)",
    ):
        assert part in text


def test_secrets_are_masked_and_nothing_else():
    @dataclass(frozen=True)
    class Keys:
        api_key: str = "s3cret"
        hf_token: str = "s3cret"
        token: str = "s3cret"
        admin_password: str = "s3cret"
        max_tokens: int = 5
        stop_token: str = "</s>"
        text_key: str = "text"
        api_key_env: str = "OPENAI_API_KEY"
        headers: dict = field(
            default_factory=lambda: {"Authorization": "s3cret", "X-Api-Key": "s3cret", "Accept": "*"}
        )
        access_key: str | None = None

    assert to_dict(Keys()) == {
        "api_key": "(masked)",
        "hf_token": "(masked)",
        "token": "(masked)",
        "admin_password": "(masked)",
        "max_tokens": 5,
        "stop_token": "</s>",
        "text_key": "text",
        "api_key_env": "OPENAI_API_KEY",
        "headers": {"Authorization": "(masked)", "X-Api-Key": "(masked)", "Accept": "*"},
        "access_key": None,
    }
    assert "s3cret" not in to_yaml(Keys())


@pytest.mark.parametrize(
    "key, value",
    [
        ("temperature", -0.1),
        ("temperature", float("inf")),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("max_tokens", 0),
        ("n", 0),
        ("stop", [""]),
    ],
)
def test_sampling_out_of_range(key, value):
    with pytest.raises(UserError) as error:
        SamplingConfig(**{key: value})
    assert error.value.where == key


def test_sampling_contradiction():
    assert SamplingConfig(temperature=0).n == 1
    with pytest.raises(UserError, match="n: temperature 0 gives the same completion 3 times"):
        SamplingConfig(temperature=0, n=3)


def test_data_out_of_range():
    for key, value in [("path", " "), ("limit", 0), ("limit_bad", 1.1), ("limit_bad", -0.1)]:
        with pytest.raises(UserError) as error:
            DataConfig(**{"path": "x", key: value})
        assert error.value.where == key


def test_help_shows_the_keys_of_an_optional_section(capsys):
    @dataclass(frozen=True)
    class Job:
        """Job."""

        lora: TrainConfig | None = field(default_factory=lambda: TrainConfig(lr=0.5))

    globals()["Job"] = Job
    with pytest.raises(SystemExit):
        parse(Job, ["--help"])
    assert "--lora.lr LR step size. (type: float, default: 0.5)" in " ".join(capsys.readouterr().out.split())


@dataclass(frozen=True)
class Outer:
    """Outer section.

    Args:
        inner: a section within it.
        stages: sections in a list.
    """

    inner: TrainConfig | None = field(default_factory=lambda: TrainConfig(lr=0.25))
    stages: list[TrainConfig] = field(default_factory=list)


def test_help_shows_the_keys_of_sections_within_sections(capsys):
    @dataclass(frozen=True)
    class NestedJob:
        """Job."""

        outer: Outer = field(default_factory=Outer)

    globals()["NestedJob"] = NestedJob
    with pytest.raises(SystemExit):
        parse(NestedJob, ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--outer.inner.lr LR step size. (type: float, default: 0.25)" in text
    assert "outer.stages (each item): lr LR step size. (type: float, default: 0.001)" in text


def test_runs_resume_with_other_keys_that_cannot_change_results():
    from jaxllm.generate.job import Config as Generate
    from jaxllm.self_param.job import Config as Inject

    for job, tunable_keys, fixed_keys in [
        (Generate, ["batch_size=4", "device.compile_cache=false", "mesh.data=2"],
         ["seed=1", "device.params=bfloat16", "device.compute=float32", "device.quantize=int8"]),
        (Inject, ["train.log_every=3", "train.save_every=5", "train.remat=none", "generation_batch_size=4",
                  "mesh.data=2"], ["train.steps=3", "train.lr=1", "data.limit=3", "sampling.seed=2"]),
    ]:
        given = ["--data.path", "x.jsonl", "--out", "runs/a"]
        saved = to_dict(parse(job, given))
        assert changed_keys(saved, parse(job, [*given, *(f"--{key}" for key in tunable_keys), "--out", "b"])) == {}
        changed = changed_keys(saved, parse(job, [*given, *(f"--{key}" for key in fixed_keys)]))
        assert set(changed) == {key.partition("=")[0] for key in fixed_keys}
