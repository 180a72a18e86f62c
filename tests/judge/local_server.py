"""A real HTTP server in this process that answers, and fails, as OpenAI-compatible ones do."""

import json
import math
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from jaxllm.config import SamplingConfig
from jaxllm.judge import ServerJudge

GREEDY = SamplingConfig(temperature=0.0, max_tokens=5)


class Server(ThreadingHTTPServer):
    """Answers a prompt with itself in capitals; `faults` are the replies to the next requests instead."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.requests, self.under_way, self.most, self.limit = [], [], 0, 0, "max_tokens"
        self.of_text: dict = {}  # text -> fault of all its requests
        self.unsupported, self.kind, self.most_choices = [], "parameter", 9
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
            message = f"Unsupported {self.server.kind}: '{named}' is not supported."
            return self.send(400, {"error": {"message": message}})
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


def judge(server, **options):
    return ServerJudge("some-model", server.url, **{"retries": 3, "seconds": 5.0} | options)
