"""An OpenAI-compatible server as a judge, against a real HTTP server: requests and answers."""


import pytest

pytest.importorskip("openai", reason="the client is not installed (pip install 'jaxllm[api]')")

from jaxllm.config import SamplingConfig  # noqa: E402
from jaxllm.errors import UserError  # noqa: E402
from jaxllm.judge import Prompt, ServerJudge, Usage  # noqa: E402
from jaxllm.judge import server as server_module  # noqa: E402
from tests.judge.local_server import GREEDY, completion, judge  # noqa: E402


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


def test_thinking_that_fills_the_token_limit_is_an_empty_answer(server):
    server.faults = [(200, completion([None], "length", reasoning_content="hm"))]
    ((answer,),) = judge(server).complete([Prompt("a")], GREEDY)
    assert (answer.text, answer.finish_reason, answer.usage) == ("", "length", Usage(3, 7))
    assert len(server.requests) == 1


def test_completions_that_a_server_leaves_out_are_requested(server):
    server.most_choices = 2
    (answers,) = judge(server).complete([Prompt("a")], SamplingConfig(n=5), seed=3)
    assert [answer.text for answer in answers] == ["A"] * 5 and answers[2].usage == Usage(1, 2)
    requests = [request for _, request, _ in server.requests]
    assert [request.get("n") for request in requests] == [5, 3, None]
    server.requests.clear()
    judge(server).complete([Prompt("a", sample=2)], SamplingConfig(n=2), seed=3)
    assert server.requests[0][1]["seed"] == requests[1]["seed"] != requests[0]["seed"]


def test_neutral_settings_are_left_out_where_the_server_refuses_them(server):
    server.limit, server.unsupported = "max_completion_tokens", ["temperature", "top_p"]
    remote = judge(server, retries=0, concurrency=1)
    assert remote.complete([Prompt("a")], SamplingConfig())[0][0].text == "A" and len(server.requests) == 4
    assert remote.choose([Prompt("a")], ["Yes", "No"])[0].answer == "Yes" and len(server.requests) == 5
    server.kind = "value"
    with pytest.raises(UserError, match="(?s)Unsupported value: 'temperature'.*set sampling.temperature to 1"):
        judge(server, retries=0, concurrency=1).complete([Prompt(str(i)) for i in range(9)], GREEDY)
    assert len(server.requests) <= 9
    server.unsupported = ["reasoning_effort"]
    with pytest.raises(UserError, match="leave reasoning_effort out of judge.extra"):
        judge(server, extra={"reasoning_effort": "low"}).complete([Prompt("a")], GREEDY)


def test_extra_fields_of_requests(server):
    remote = judge(server, extra={"reasoning_effort": "low", "top_logprobs": 5})
    remote.choose([Prompt("a")], ["Yes", "No"])
    _, request, _ = server.requests[0]
    assert request["reasoning_effort"] == "low" and request["top_logprobs"] == 5 and request["max_tokens"] == 1
    assert remote.identity != judge(server).identity != judge(server, extra={"top_logprobs": 5}).identity


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
