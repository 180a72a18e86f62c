"""An OpenAI-compatible server as a judge, against a real HTTP server that fails as such servers do."""

import json
import math
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

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
    Usage,
    judge_rows,
    open_judge,
    retry_in_conversation,
)
from jaxllm.judge import server as server_module  # noqa: E402
from jaxllm.judge.server_errors import retry_after  # noqa: E402

GREEDY = SamplingConfig(temperature=0.0, max_tokens=5)


class Server(ThreadingHTTPServer):
    """Answers a prompt with itself in capitals; `faults` are the replies to the next requests instead."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.requests, self.under_way, self.most, self.limit = [], [], 0, 0, "max_tokens"
        self.of_text, self.unsupported, self.most_choices = {}, [], 9  # of_text: text -> fault of all its requests
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


def completion(texts, finish_reason="stop", **message):
    choices = [{"index": i, "finish_reason": finish_reason,
                "message": {"role": "assistant", "content": text, **message}} for i, text in enumerate(texts)]
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices,
            "usage": {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10}}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.requests.append((time.monotonic(), request, self.headers["Authorization"]))
            self.server.under_way += 1
            self.server.most = max(self.server.most, self.server.under_way)
            fault = self.server.faults.pop(0) if self.server.faults else None
            fault = self.server.of_text.get(request["messages"][-1]["content"], fault)
        self.answered = False
        try:
            self.answer(request, fault)
        finally:
            self.end()

    def end(self):
        """Counts the request as answered, before the last byte is sent: the client may send the next at once."""
        with self.server.lock:
            self.server.under_way -= not self.answered
            self.answered = True

    def answer(self, request, fault):
        if isinstance(fault, tuple):
            return self.send(*fault)
        if fault == "refusal":
            return self.send(200, completion([None]))
        if fault == "echo":
            return self.send(400, {"error": {"message": f"you sent {self.headers['Authorization']}"}})
        if fault == "never":
            time.sleep(3)
            return
        if isinstance(fault, int):
            return self.send(fault, {"error": {"message": f"fault {fault}"}}, {"Retry-After": "0.01"})
        if fault == "garbage":
            return self.send(200, {"something": "else"})
        if fault == "not json":
            return self.send(200, "<html>a proxy's page</html>")
        if self.server.limit not in request or fault == "newer":
            return self.send(400, {"error": {"message": "Unsupported parameter: 'max_tokens' is not supported with "
                                             "this model. Use 'max_completion_tokens' instead."}})
        if named := next((name for name in self.server.unsupported if name in request), None):
            return self.send(400, {"error": {"message": f"Unsupported parameter: '{named}' is not supported."}})
        time.sleep(0.02)
        text = request["messages"][-1]["content"]
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text.upper()}}
        if request.get("logprobs"):
            shares = {} if fault == "no tokens" else {" Yes": 0.4, "yes": 0.2, "No": 0.1, "Yellow": 0.1, "Y": 0.05}
            tops = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in shares.items()]
            choice["logprobs"] = {"content": [{"token": "Yes", "logprob": -0.1, "bytes": None, "top_logprobs": tops}]}
        usage = {"prompt_tokens": len(text), "completion_tokens": 2, "total_tokens": len(text) + 2}
        self.send(200, {"id": "1", "object": "chat.completion", "created": 0, "model": request["model"],
                        "usage": None if fault == "no usage" else usage,
                        "choices": [{**choice, "index": i}
                                    for i in range(min(request.get("n", 1), self.server.most_choices))]})

    def send(self, status, body, headers=()):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/html" if isinstance(body, str) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.end()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()


def judge(server, **options):
    return ServerJudge("some-model", server.url, **{"retries": 3, "seconds": 5.0} | options)


def test_answers_come_in_order(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    remote = judge(server)
    seen = []
    prompts = [Prompt(f"text {i}") for i in range(12)] + [Prompt([{"role": "system", "content": "be"},
                                                                  {"role": "user", "content": "me"}])]
    rows = remote.complete(prompts, SamplingConfig(temperature=0.5, n=2, stop=["x"]), seed=3,
                           on_answer=lambda number, answers: seen.append(number))
    assert [row[0].text for row in rows] == [*(f"TEXT {i}" for i in range(12)), "ME"]
    assert sorted(seen) == list(range(13)) and len(rows[0]) == 2
    _, request, key = server.requests[0]
    assert {name: request[name] for name in ("model", "temperature", "n", "seed", "stop", "max_tokens")} == {
        "model": "some-model", "temperature": 0.5, "n": 2, "seed": 3, "stop": ["x"], "max_tokens": 128}
    assert key == "Bearer sk-secret" and "sk-secret" not in remote.identity


def test_the_newer_name_of_the_token_limit(server):
    server.limit = "max_completion_tokens"
    remote = judge(server, retries=0, concurrency=2)
    assert [row[0].text for row in remote.complete([Prompt("a"), Prompt("b"), Prompt("c")], GREEDY)] == ["A", "B", "C"]
    assert remote.choose([Prompt("d")], ["yes", "no"])[0].answer == "yes"
    named = [{"max_tokens", "max_completion_tokens"} & request.keys() for _, request, _ in server.requests]
    assert named[0] == {"max_tokens"} and named[-2:] == [{"max_completion_tokens"}] * 2
    assert sum(name == {"max_tokens"} for name in named) <= 2  # those that were in flight


def test_a_rejected_name_of_the_token_limit_is_dropped(server):
    server.faults = ["newer", 400]
    remote = judge(server, retries=0)
    with pytest.raises(UserError, match="fault 400"):
        remote.complete([Prompt("a")], GREEDY)
    assert remote.complete([Prompt("b")], GREEDY)[0][0].text == "B"
    assert [("max_tokens" in request) for _, request, _ in server.requests] == [True, False, True]


def test_concurrency_and_rate_are_limited(server):
    judge(server, concurrency=3).complete([Prompt(str(i)) for i in range(12)], GREEDY)
    assert server.most <= 3
    remote = judge(server, per_minute=240)
    remote.complete([Prompt("the connection is made")], GREEDY)
    server.requests.clear()
    remote.complete([Prompt(str(i)) for i in range(5)], GREEDY)  # four intervals of 0.25 s
    times = sorted(when for when, *_ in server.requests)
    assert times[-1] - times[0] >= 0.6


def test_requests_that_are_sent_again_keep_the_rate(server, monkeypatch):
    """Six requests, five intervals of 0.2 s; without a rate they would take a fifth of that."""
    monkeypatch.setattr(server_module, "LONGEST_PAUSE_SECONDS", 0.0)
    remote = judge(server, per_minute=300, concurrency=1)
    remote.complete([Prompt("the connection is made")], GREEDY)
    server.requests.clear()
    server.faults = [500, None] * 3
    remote.complete([Prompt(str(i)) for i in range(3)], GREEDY)
    times = sorted(when for when, *_ in server.requests)
    assert len(times) == 6 and times[-1] - times[0] >= 0.6


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


def test_the_key_is_never_shown(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret\n")
    server.faults = ["echo"]
    with pytest.raises(UserError, match=r"you sent Bearer \*\*\*") as raised:
        judge(server, retries=0).complete([Prompt("a")], GREEDY)
    assert "sk-secret" not in str(raised.value)


def test_identity_names_the_server(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert ServerJudge("m").identity == ServerJudge("m", server.url).identity == f"m at {server.url[7:]}"


def test_a_prompt_that_cannot_be_sent(server):
    with pytest.raises(UserError, match="the request cannot be sent"):
        judge(server).complete([Prompt("\ud800")], GREEDY)
    assert not server.requests


@pytest.mark.parametrize("fault", ["no tokens", (200, completion(["Yes"]))])
def test_choices_without_tokens_are_no_choices(server, fault):
    server.faults = [fault] * 9
    with pytest.raises(UserError, match="lists no token probabilities"):
        judge(server, retries=1).choose([Prompt("a")], ["Yes", "No"])
    assert len(server.requests) == 1


def test_choices_are_read_from_the_most_probable_tokens(server):
    """' Yes', 'yes' and 'Y' begin yes and nothing else; 'Yellow' is another word."""
    (choice,) = judge(server).choose([Prompt("a")], ["Yes", "No"])
    assert choice.mass == pytest.approx(0.75)
    assert choice.probabilities == pytest.approx({"Yes": 0.65 / 0.75, "No": 0.1 / 0.75})
    _, request, _ = server.requests[0]
    assert request["max_tokens"] == 1 and request["logprobs"] is True and request["top_logprobs"] == 20
    # 'Y' may begin either of two answers, and counts for none
    (choice,) = judge(server).choose([Prompt("a")], ["Yes", "Yellow"])
    assert choice.probabilities == pytest.approx({"Yes": 0.6 / 0.7, "Yellow": 0.1 / 0.7})


def test_settings_without_a_counterpart(server):
    with pytest.raises(UserError, match="sampling.top_k has no counterpart"):
        judge(server).complete([Prompt("a")], SamplingConfig(top_k=5))


def test_openai_itself_wants_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UserError, match="OPENAI_API_KEY holds no key"):
        ServerJudge("gpt-x")


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


def test_a_server_that_stops_answering_ends_the_call(server, monkeypatch):
    """Eight prompts in a row; those that failed before are requested again by a resumed job, so none is reported."""
    monkeypatch.setattr(server_module, "LONGEST_PAUSE_SECONDS", 0.0)
    server.faults, failed = [None] + [503] * 40, {}
    with pytest.raises(UserError, match=r"(?s)8 prompts in a row have no answer.*\(1 of 20 prompts.*start again"):
        judge(server, concurrency=1, retries=1).complete([Prompt(str(i)) for i in range(20)], GREEDY,
                                                         on_failure=failed.__setitem__)
    assert not failed and 17 <= len(server.requests) <= 19


@pytest.mark.parametrize("fault", [500, 429, "never", "garbage"])
def test_a_prompt_that_fails_again_and_again_is_one_without_an_answer(server, fault, monkeypatch):
    monkeypatch.setattr(server_module, "LONGEST_PAUSE_SECONDS", 0.0)
    server.of_text, failed = {"7": fault}, {}
    rows = judge(server, concurrency=3, retries=1, seconds=1.5 if fault == "never" else 20.0).complete(
        [Prompt(str(i)) for i in range(20)], GREEDY, on_failure=failed.__setitem__)
    assert failed.keys() == {7} and [len(row) for row in rows] == [1] * 7 + [0] + [1] * 12


def test_prompts_that_are_too_long_do_not_end_the_call(server):
    """However many of them follow each other."""
    long = (400, {"error": {"message": "This model's maximum context length is 512 tokens.", "code": 400}})
    server.faults, failed = [None] + [long] * 12, {}
    judge(server, concurrency=1).complete([Prompt(str(i)) for i in range(15)], GREEDY, on_failure=failed.__setitem__)
    assert failed.keys() == set(range(1, 13)) and len(server.requests) == 15


def test_thinking_that_fills_the_token_limit_is_an_empty_answer(server):
    server.faults = [(200, completion([None], "length", reasoning_content="hm"))]
    ((answer,),) = judge(server).complete([Prompt("a")], GREEDY)
    assert (answer.text, answer.finish_reason, answer.usage) == ("", "length", Usage(3, 7))
    assert len(server.requests) == 1


def test_refusals_are_not_requested_again(server):
    """One among several completions is an empty text; the others are used."""
    server.faults = [(200, completion([None], refusal="I cannot")), (200, completion(["b", None, "d"]))]
    remote, failed = judge(server, concurrency=1), {}
    rows = remote.complete([Prompt("a"), Prompt("b")], SamplingConfig(n=3), on_failure=failed.__setitem__)
    assert failed[0].endswith("the model refused: I cannot") and len(server.requests) == 2
    assert [answer.text for answer in rows[1]] == ["b", "", "d"]


def test_completions_that_a_server_leaves_out_are_requested(server):
    server.most_choices = 2
    (answers,) = judge(server).complete([Prompt("a")], SamplingConfig(n=5), seed=3)
    assert [answer.text for answer in answers] == ["A"] * 5 and answers[2].usage == Usage(1, 2)
    requests = [request for _, request, _ in server.requests]
    assert [request.get("n") for request in requests] == [5, 3, None]
    server.requests.clear()
    judge(server).complete([Prompt("a", sample=2)], SamplingConfig(n=2), seed=3)
    assert server.requests[0][1]["seed"] == requests[1]["seed"] != requests[0]["seed"]


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


def test_no_balance_is_not_requested_again(server):
    server.faults = [(429, {"error": {"message": "quota", "code": "insufficient_quota"}})]
    with pytest.raises(UserError, match="check the balance"):
        judge(server).complete([Prompt("a")], GREEDY)
    assert len(server.requests) == 1


def test_neutral_settings_are_left_out_where_the_server_refuses_them(server):
    server.limit, server.unsupported = "max_completion_tokens", ["temperature", "top_p"]
    remote = judge(server, retries=0, concurrency=1)
    assert remote.complete([Prompt("a")], SamplingConfig())[0][0].text == "A" and len(server.requests) == 4
    assert remote.choose([Prompt("a")], ["Yes", "No"])[0].answer == "Yes" and len(server.requests) == 5
    with pytest.raises(UserError, match="Unsupported parameter: 'temperature'"):
        judge(server, retries=0).complete([Prompt("a")], GREEDY)


def test_extra_fields_of_requests(server):
    remote = judge(server, extra={"reasoning_effort": "low", "top_logprobs": 5})
    remote.choose([Prompt("a")], ["Yes", "No"])
    _, request, _ = server.requests[0]
    assert request["reasoning_effort"] == "low" and request["top_logprobs"] == 5 and request["max_tokens"] == 1
    assert remote.identity != judge(server).identity != judge(server, extra={"top_logprobs": 5}).identity


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
    with pytest.raises(UserError, match="check the balance of the account"):
        run()
    assert not (tmp_path / "out" / "rows.jsonl").read_text() and len(server.requests) == 11
    server.of_text = {}
    assert run().rows == 10 and len(server.requests) == 12
    assert isinstance(open_judge(replace(config, cache=None), directory=tmp_path), ServerJudge)


def test_usage_is_that_of_the_request(server):
    """Counted with the first completion, since servers count them together."""
    remote = judge(server)
    (answers,) = remote.complete([Prompt("four")], SamplingConfig(temperature=1.0, n=2))
    assert [answer.usage for answer in answers] == [Usage(4, 2), None]
    assert remote.choose([Prompt("four")], ["Yes", "No"])[0].usage == Usage(4, 2)
    server.faults = ["no usage"]
    assert remote.complete([Prompt("four")], GREEDY)[0][0].usage is None


def test_later_samples_have_another_seed(server):
    judge(server).complete([Prompt("a"), Prompt("a", sample=1)], SamplingConfig(temperature=1.0, seed=3))
    seeds = {request["seed"] for _, request, _ in server.requests}
    assert len(seeds) == 2 and 3 in seeds


def test_the_number_of_pending_requests_is_bounded(server, monkeypatch):
    """The cost of waiting for one request is proportional to those submitted."""
    largest, wait = [], server_module.concurrent.futures.wait
    monkeypatch.setattr(server_module.concurrent.futures, "wait",
                        lambda futures, **options: largest.append(len(futures)) or wait(futures, **options))
    remote = judge(server, concurrency=4)
    prompts = [Prompt(str(i)) for i in range(8000)]
    texts = remote._send(prompts, lambda prompt, stop: prompt.content, None, None, None)
    assert texts == [prompt.content for prompt in prompts]
    assert max(largest) <= 8
