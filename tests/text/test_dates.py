"""Chat templates that write the date: all prompts of a run have the one of its first start."""

import dataclasses
import json
import shutil
from datetime import date, datetime

import pytest

from jaxllm import clock, load
from jaxllm.assets import asset_path
from jaxllm.job import open_job
from jaxllm.judge import LocalJudge
from jaxllm.text import load_tokenizer

MESSAGES = [{"role": "user", "content": "Which day is it?"}]
DATED = "{{ 'Today Date: ' + strftime_now('%d %b %Y') + '\n' }}"


@dataclasses.dataclass(frozen=True)
class JobConfig:
    """A job.

    Args:
        seed: a number.
    """

    seed: int = 0


@pytest.fixture(scope="module")
def dated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dated") / "model"
    shutil.copytree(asset_path("tiny"), folder)
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(DATED + template)
    return folder


def test_a_resumed_job_has_the_day_of_its_first_start(dated, tmp_path):
    def first_line():
        tokenizer = load_tokenizer(dated)
        return tokenizer.decode(tokenizer.chat(MESSAGES)).splitlines()[0].strip(), tokenizer.dates

    today = date.today().strftime("%d %b %Y")
    with open_job(tmp_path / "run", JobConfig()):
        assert first_line() == (f"Today Date: {today}", (today,))
    path = tmp_path / "run" / "inputs.json"
    started = json.loads(path.read_text())
    assert datetime.fromisoformat(started["started"]).date() == date.today()
    path.write_text(json.dumps(started | {"started": "2020-05-04T23:59:58"}))
    with open_job(tmp_path / "run", JobConfig()) as job:
        assert first_line() == ("Today Date: 04 May 2020", ("04 May 2020",))
        job.pin("data", [1])
    assert json.loads(path.read_text())["started"] == "2020-05-04T23:59:58"
    assert first_line()[1] == (today,)  # outside of a job


def test_a_loaded_tokenizer_keeps_its_day(dated):
    clock.pin(datetime(2024, 2, 29, 12))
    tokenizer = load_tokenizer(dated)
    clock.pin(None)
    assert tokenizer.dates == ("29 Feb 2024",)
    assert "29 Feb 2024" in tokenizer.decode(tokenizer.chat(MESSAGES))


@pytest.mark.parametrize("form", ["%d %B %Y", "%Y-%m-%dT%H:%M:%S", "100%% on %A, %-d.%-m.%y", "day %j", "%%d %%%d %",
                                  "%F %T %D %e %k %R %h %C %G %P", "%_d|%0e|%^a|%#B|%Ey|%Od", "%q %- d", ""])
def test_every_format_is_that_of_strftime(dated, tmp_path, form):
    shutil.copytree(dated, tmp_path / "model")
    template = "\n{% set form = '" + form + "' %}{{ strftime_now(form) }}\n{{ messages[0]['content'] }}"
    (tmp_path / "model" / "chat_template.jinja").write_text(template)
    moment = datetime(2024, 2, 9, 8, 7, 6)
    clock.pin(moment)
    tokenizer = load_tokenizer(tmp_path / "model")
    clock.pin(None)
    assert tokenizer.decode(tokenizer.chat(MESSAGES)) == f"\n{moment.strftime(form)}\n{MESSAGES[0]['content']}"
    assert tokenizer.dates == ("2024-02-09",)


def test_the_format_may_be_named(dated, tmp_path):
    shutil.copytree(dated, tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").write_text(
        "{{ strftime_now(format = '%d %b %Y') }}\n{{ messages[0]['content'] }}")
    clock.pin(datetime(2024, 2, 9))
    tokenizer = load_tokenizer(tmp_path / "model")
    clock.pin(None)
    assert tokenizer.decode(tokenizer.chat(MESSAGES)).startswith("09 Feb 2024")
    assert tokenizer.dates == ("09 Feb 2024",)


def test_caches_of_judges_know_the_day(dated):
    identities = []
    for day in (3, 4, 3):
        clock.pin(datetime(2024, 2, day))
        identities.append(LocalJudge(load(dated), "dated").identity)
    clock.pin(None)
    assert identities == [f"dated, with the date 0{day} Feb 2024" for day in (3, 4, 3)]
    assert LocalJudge(load("tiny"), "tiny").identity == "tiny"
