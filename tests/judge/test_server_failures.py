"""A server that fails, as OpenAI-compatible ones do: what is requested again, and which failures end a job."""

import time
from dataclasses import replace

import pytest

pytest.importorskip("openai", reason="the client is not installed (pip install 'jaxllm[api]')")

from jaxllm.config import SamplingConfig  # noqa: E402
from jaxllm.errors import UserError  # noqa: E402
from jaxllm.job import open_job  # noqa: E402
from jaxllm.judge import (  # noqa: E402
    Answer,
    Cached,
    Completions,
    Invalid,
    JudgeConfig,
    Prompt,
    ServerJudge,
    judge_rows,
    open_judge,
    retry_in_conversation,
)
from jaxllm.judge import server as server_module  # noqa: E402
from jaxllm.judge.server_errors import retry_after  # noqa: E402
from tests.judge.local_server import GREEDY, completion, judge  # noqa: E402


@pytest.mark.parametrize("fault", [429, 500, 503, "garbage", "not json"])
def test_transient_faults_are_retried(server, fault):
    server.faults = [fault, fault]
    assert judge(server, concurrency=1).complete([Prompt("a")], GREEDY)[0][0].text == "A"
    assert len(server.requests) == 3


def test_a_server_that_never_answers(server):
    server.faults = ["never"]
    assert judge(server, seconds=0.5).complete([Prompt("a")], GREEDY)[0][0].text == "A"
    server.faults = ["never"] * 9
    with pytest.raises(UserError, match="does not answer: APITimeoutError"):
        judge(server, seconds=0.2, retries=1).complete([Prompt("a")], GREEDY)


@pytest.mark.parametrize("fault, message", [(500, "does not answer: InternalServerError"),
                                            (401, "refuses: AuthenticationError"),
                                            ("garbage", "answer cannot be used"),
                                            ("not json", "answer cannot be used")])
def test_permanent_faults_are_errors(server, fault, message):
    server.faults = [fault] * 20
    with pytest.raises(UserError, match=message):
        judge(server, retries=1).complete([Prompt("a")], GREEDY)


def test_no_server_at_all(server):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="does not answer: APIConnectionError"):
        ServerJudge("m", url, retries=0, seconds=2.0).complete([Prompt("a")], GREEDY)


def test_answers_before_a_failure_are_cached(server, tmp_path):
    """Six prompts, one at a time; the fourth request and all later ones fail. The next run requests the rest only."""
    server.faults = [None] * 3 + [401] * 9
    cached = Cached(judge(server, concurrency=1), tmp_path / "answers.sqlite")
    prompts = [Prompt(str(i)) for i in range(6)]
    with pytest.raises(UserError):
        cached.complete(prompts, GREEDY)
    server.faults, before = [], len(server.requests)
    assert [row[0].text for row in cached.complete(prompts, GREEDY)] == list("012345")
    assert len(server.requests) - before == 3


@pytest.mark.parametrize("fault, message", [(400, "prompt 3: the server refuses"), ("refusal", "holds no text")])
def test_a_refused_prompt_does_not_stop_the_others(server, tmp_path, fault, message):
    server.faults = [None, None, fault]
    cached = Cached(judge(server, concurrency=1, retries=0), tmp_path / "answers.sqlite")
    prompts = [Prompt(str(i)) for i in range(12)]
    with pytest.raises(UserError, match=message) as raised:
        cached.complete(prompts, GREEDY)
    assert "11 of 12 prompts have an answer" in str(raised.value) and len(server.requests) == 12
    assert len(cached.complete(prompts, GREEDY)) == 12 and len(server.requests) == 13


def test_a_server_that_refuses_everything_gets_few_prompts(server):
    server.faults = [400] * 100
    with pytest.raises(UserError, match="0 of 100 prompts"):
        judge(server, concurrency=2).complete([Prompt(str(i)) for i in range(100)], GREEDY)
    assert len(server.requests) <= 12


def test_requests_that_wait_for_their_turn_are_not_sent_after_an_error(server):
    server.faults = [401]
    with pytest.raises(UserError, match="the server refuses"):
        judge(server, per_minute=60).complete([Prompt(c) for c in "abcdefgh"], GREEDY)
    time.sleep(0.3)  # a thread that was woken would send by now
    assert len(server.requests) == 1


def test_requests_that_wait_for_their_turn_are_not_sent_after_an_error_in_a_callback(server):
    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(server, per_minute=60).complete([Prompt(c) for c in "abcdefgh"], GREEDY, on_answer=fail)
    time.sleep(0.3)
    assert len(server.requests) == 1


def test_an_error_in_a_callback_ends_the_call(server):
    def full(number, answers):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        judge(server, concurrency=2).complete([Prompt(str(i)) for i in range(40)], GREEDY, on_answer=full)
    time.sleep(0.3)
    assert len(server.requests) <= 6


def test_a_prompt_that_cannot_be_sent(server):
    with pytest.raises(UserError, match="the request cannot be sent"):
        judge(server).complete([Prompt("\ud800")], GREEDY)
    assert not server.requests


@pytest.mark.parametrize("fault, reason", [(400, "the server refuses"), ("refusal", "holds no text")])
def test_a_prompt_that_fails_is_reported_and_the_others_answered(server, fault, reason):
    server.faults, failed = [None, fault], {}
    rows = judge(server, concurrency=1, retries=0).complete([Prompt(text) for text in "abc"], GREEDY,
                                                            on_failure=failed.__setitem__)
    assert [[answer.text for answer in row] for row in rows] == [["A"], [], ["C"]] and failed.keys() == {1}
    assert reason in failed[1]
    server.faults = [None, fault]
    choices = judge(server, concurrency=1, retries=0).choose([Prompt(text) for text in "abc"], ["Yes", "No"],
                                                             on_failure=failed.__setitem__)
    assert choices[1] is None and choices[0].answer == choices[2].answer == "Yes"


@pytest.mark.parametrize("faults", [[None, 401], [None, 402], [400] * 9, [None] + [400] * 8])
def test_errors_that_concern_all_prompts_end_the_call_nevertheless(server, faults):
    server.faults, failed = faults, {}
    with pytest.raises(UserError):
        judge(server, concurrency=1, retries=1).complete([Prompt(str(i)) for i in range(20)], GREEDY,
                                                         on_failure=failed.__setitem__)
    assert not failed and len(server.requests) <= 10


@pytest.mark.parametrize("cached", [False, True])
def test_a_server_that_stops_answering_ends_the_call(server, monkeypatch, tmp_path, cached):
    """Eight prompts in a row; those that failed before are requested again by a resumed job, so none is reported."""
    monkeypatch.setattr(server_module, "LONGEST_PAUSE_SECONDS", 0.0)
    server.faults, failed = [None] + [503] * 40, {}
    remote = judge(server, concurrency=1, retries=1)
    own = Cached(remote, tmp_path / "answers.sqlite") if cached else remote
    with pytest.raises(UserError, match=r"(?s)8 prompts in a row have no answer.*\(1 of 20 prompts") as raised:
        own.complete([Prompt(str(i)) for i in range(20)], GREEDY, on_failure=failed.__setitem__)
    assert ("start again" in str(raised.value)) == cached
    assert not failed and 17 <= len(server.requests) <= 19


@pytest.mark.parametrize("fault", [500, 429, "never", "garbage"])
def test_a_prompt_that_fails_again_and_again_is_one_without_an_answer(server, fault, monkeypatch):
    monkeypatch.setattr(server_module, "LONGEST_PAUSE_SECONDS", 0.0)
    server.of_text, failed = {"7": fault}, {}
    rows = judge(server, concurrency=3, retries=1, seconds=1.5 if fault == "never" else 20.0).complete(
        [Prompt(str(i)) for i in range(20)], GREEDY, on_failure=failed.__setitem__)
    assert failed.keys() == {7} and [len(row) for row in rows] == [1] * 7 + [0] + [1] * 12


def test_prompts_that_are_too_long_do_not_end_the_call(server, monkeypatch):
    """However many of them follow each other, and with a key that is part of the message, as of local servers."""
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    long = (400, {"error": {"message": "This model's maximum context length is 512 tokens.", "code": 400}})
    server.faults, failed = [None] + [long] * 12, {}
    judge(server, concurrency=1).complete([Prompt(str(i)) for i in range(15)], GREEDY, on_failure=failed.__setitem__)
    assert failed.keys() == set(range(1, 13)) and len(server.requests) == 15


def test_refusals_are_not_requested_again(server):
    """One among several completions is an empty text; the others are used."""
    server.faults = [(200, completion([None], refusal="I cannot")), (200, completion(["b", None, "d"]))]
    remote, failed = judge(server, concurrency=1), {}
    rows = remote.complete([Prompt("a"), Prompt("b")], SamplingConfig(n=3), on_failure=failed.__setitem__)
    assert failed[0].endswith("the model refused: I cannot") and len(server.requests) == 2
    assert [answer.text for answer in rows[1]] == ["b", "", "d"]


def test_an_error_with_status_200(server):
    busy = (200, {"error": {"message": "Rate limit exceeded: free tier", "code": 502}})
    server.faults = [busy, busy]
    assert judge(server, concurrency=1).complete([Prompt("a")], GREEDY)[0][0].text == "A"
    server.faults = [busy, busy]
    with pytest.raises(UserError, match="is an error: Rate limit exceeded: free tier"):
        judge(server, retries=1).complete([Prompt("a")], GREEDY)
    server.faults = [(200, {"error": {"message": "no such key", "code": 401}})]
    with pytest.raises(UserError, match="no such key"):
        judge(server).complete([Prompt("a")], GREEDY)
    assert len(server.requests) == 6
    server.faults = [(200, {"error": {"message": "no such key", "code": "401"}})]
    with pytest.raises(UserError, match="check the key in OPENAI_API_KEY"):
        judge(server).complete([Prompt("a")], GREEDY)


def test_no_balance_is_not_requested_again(server):
    server.faults = [(429, {"error": {"message": "quota", "code": "insufficient_quota"}})]
    with pytest.raises(UserError, match="check the balance"):
        judge(server).complete([Prompt("a")], GREEDY)
    assert len(server.requests) == 1


def test_a_limited_rate_holds_all_requests(server, monkeypatch):
    monkeypatch.setattr(server_module, "LIMITED_PAUSE_SECONDS", 0.4)
    remote = judge(server, concurrency=4)
    remote.complete([Prompt("the connection is made")], GREEDY)
    server.requests.clear()
    server.faults = [(429, {"error": {"message": "slower"}})]
    assert len(remote.complete([Prompt(str(i)) for i in range(40)], GREEDY)) == 40
    times = sorted(when for when, *_ in server.requests)
    assert len(times) == 41 and max(b - a for a, b in zip(times, times[1:], strict=False)) >= 0.3


@pytest.mark.parametrize(("headers", "seconds"), [
    ({}, 0), ({"retry-after": "7"}, 7), ({"retry-after": "nan"}, 0), ({"retry-after": "900"}, 60),
    ({"retry-after": "-1"}, 0), ({"retry-after-ms": "5000", "retry-after": "9"}, 5), ({"retry-after": "soon"}, 0),
    ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0), ({"retry-after": "Wed, 21 Oct 2099 07:28:00 GMT"}, 60)])
def test_pauses_that_a_server_demands(headers, seconds):
    assert retry_after(headers) == seconds


def test_answers_of_a_stopped_job_are_not_requested_again(server, tmp_path):
    """Row 0 is requested anew, which fails: no line is written, and the answers are in the directory of the job."""
    config = JudgeConfig("openai", model="m", base_url=server.url, retries=0)
    task = Completions(GREEDY, lambda row, answer: Invalid("it is 0") if answer.text == "0" else 1, attempts=2)

    def run():
        with open_job(tmp_path / "out", config) as job:
            return judge_rows(job, open_judge(config, directory=job.directory), range(10),
                              lambda row: Prompt(str(row)), task)

    server.faults = [401] * 10
    with pytest.raises(UserError):
        run()
    assert not (tmp_path / "out").exists()  # nothing was paid for, and the corrected command can use it
    retry, = [message["content"] for message in retry_in_conversation(Prompt(""), Answer(""), "it is 0").messages[2:]]
    server.faults, server.of_text = [], {retry: 402}
    server.requests.clear()
    with pytest.raises(UserError, match=r"check the balance of the account, then start again .*answers\.sqlite"):
        run()
    assert not (tmp_path / "out" / "rows.jsonl").read_text() and len(server.requests) == 11
    server.of_text = {}
    assert run().rows == 10 and len(server.requests) == 12
    assert isinstance(open_judge(replace(config, cache=None), directory=tmp_path), ServerJudge)
