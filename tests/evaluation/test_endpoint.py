"""A server of ours that fails in every way a server can, asked by the real command line."""

import json
import re
import threading
import time
from dataclasses import replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reckoner.cli import main
from reckoner.config import build_config
from reckoner.errors import InputError, Stopped
from reckoner.evaluation import endpoint
from reckoner.evaluation import server as server_module
from reckoner.evaluation.session import load_problems, opened_test
from reckoner.runs.records import Completion, read_records

N = 12


@pytest.fixture(scope="module")
def golds():
    config = build_config([({"data": {"max_test_samples": N}}, {})])
    return {problem.question: problem.gold for problem in load_problems(config, "test")}


class Server(ThreadingHTTPServer):
    """Answers rightly, but first fails as `faults` say: one list of faults for each question in turn."""

    daemon_threads = True

    def __init__(self, golds, faults=(), always=""):
        super().__init__(("127.0.0.1", 0), Handler)
        self.golds, self.faults, self.always = golds, list(faults), always
        self.asked, self.headers, self.times, self.busy, self.most = [], [], [], 0, 0
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.asked.append((self.path, body))
            server.headers.append(dict(self.headers))
            server.times.append(time.monotonic())
            fault = server.always or (server.faults.pop(0) if server.faults else "")
            server.busy += 1
            server.most = max(server.most, server.busy)
        time.sleep(0.02)
        try:
            self.answer(body, fault)
        finally:
            with server.lock:
                server.busy -= 1

    def answer(self, body, fault):
        text = body["messages"][-1]["content"] if "messages" in body else body["prompt"]
        gold = next(gold for question, gold in self.server.golds.items() if question in text)
        words = f"It is {gold}.\n#### {gold}"
        message = {"message": {"role": "assistant", "content": words}}
        choice = message if "messages" in body else {"text": words}
        usage = {"prompt_tokens": 100, "completion_tokens": 10}
        whole = json.dumps({"choices": [{**choice, "finish_reason": "stop"}], "usage": usage}).encode()
        if fault in ("429", "500", "503", "401", "404", "400", "302"):
            extra = {"Retry-After": "3"} if fault == "429" else {}
            extra |= {"Location": "http://127.0.0.1:9/"} if fault == "302" else {}
            self.reply(int(fault), f"no: {self.headers.get('Authorization')}".encode(), extra)
        elif fault == "cut":
            self.reply(200, whole[:40], {"Content-Length": str(len(whole))})
        elif fault == "slow":
            time.sleep(3)
            self.reply(200, whole)
        elif fault == "gone":
            self.connection.close()
        elif fault in ("drip", "drip in the head"):
            head = b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\nX: "
            self.drip(head if fault == "drip in the head" else head + b"y\r\n\r\n")
        elif fault == "echo":
            key = self.headers.get("Authorization").removeprefix("Bearer ").replace("/", "\\/")
            self.reply(200, whole.replace(b"It is", f"Your key is {key}, it is".encode()))
        elif fault == "silent":
            self.reply(200, whole.replace(json.dumps(words).encode(), b"null"))
        elif fault == "parts":
            parts = json.dumps([{"type": "text", "text": words}]).encode()
            self.reply(200, whole.replace(json.dumps(words).encode(), parts))
        elif fault == "usage":
            self.reply(200, whole.replace(b"100", b"true").replace(b": 10}", b": -5}"))
        else:
            wrong = {"html": b"<html>", "list": b"[]", "empty": b'{"choices": []}'}
            wrong["text"] = b'{"choices": ["x"]}'
            wrong["number"] = b'{"choices": [{"message": {"content": 7}}]}'
            wrong["mapping"], wrong["count"] = b'{"choices": {"a": 1}}', b'{"choices": 5}'
            wrong["deep"] = b"[" * 200_000
            wrong["finish"] = b'{"choices": [{"message": {"content": 7}, "finish_reason": [1]}]}'
            self.reply(200, wrong.get(fault, whole))

    def drip(self, start):
        try:
            self.wfile.write(start)
            for _ in range(100):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)
        except OSError:
            pass  # the client gave up waiting
        self.close_connection = True

    def reply(self, code, content, extra=None):
        try:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(content)), **(extra or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            pass  # the client gave up waiting
        self.close_connection = True


@pytest.fixture
def serve(golds):
    servers = []

    def start(*faults, always=""):
        server = Server(golds, faults, always)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def settings(server, folder, **more):
    named = {"url": server.url, "concurrency": 4, **more}
    layer = {"endpoint": named, "data": {"max_test_samples": N}, "eval": {"split": "test"}}
    layer |= {"run": {"output_dir": str(folder)}, "model": {"model_name_or_path": "m"}}
    return build_config([(layer, {})])


def test_every_answer_comes_in_whatever_fails_on_the_way(serve, tmp_path):
    faults = ("429", "500", "503", "cut", "slow", "gone", "html", "list", "empty", "text", "number")
    faults += ("mapping", "count", "deep", "finish")
    server, pauses = serve(*faults), []
    _, entry = endpoint.evaluate_endpoint(settings(server, tmp_path / "run", timeout=2), sleep=pauses.append)
    assert (entry["n"], entry["strict"], len(server.asked)) == (N, N, N + len(faults))
    assert len(pauses) == len(faults) and max(pauses) >= 3  # as Retry-After asked
    assert min(pauses) >= 0.5 and server.most > 1
    held = list(read_records(tmp_path / "run" / entry["predictions"], Completion))
    assert len({one.problem_id for one in held}) == N and {one.token_count for one in held} == {10}


def test_pauses_double_up_to_a_minute_and_then_the_command_can_go_on(serve, tmp_path):
    server, pauses = serve(), []
    failing = settings(server, tmp_path / "run", concurrency=1, max_retries=8)
    server.faults = ["", "", "", *["500"] * 9]
    with pytest.raises(Stopped, match="HTTP 500, 9 times for problem .*the same command goes on"):
        endpoint.evaluate_endpoint(failing, sleep=pauses.append)
    for pause, full in zip(pauses, [1, 2, 4, 8, 16, 32, 60, 60], strict=True):
        assert full / 2 <= pause <= full
    before = len(server.asked)
    _, entry = endpoint.evaluate_endpoint(settings(server, tmp_path / "run"), sleep=pauses.append)
    assert len(server.asked) - before == N - 3 and entry["strict"] == N
    assert entry["usage"] == {"prompt_tokens": 100 * N, "completion_tokens": 10 * N}


@pytest.mark.parametrize("fault", ["400", "401", "404", "302"])
def test_what_no_other_try_would_mend_ends_the_command_and_never_shows_the_key(
    serve, tmp_path, monkeypatch, fault
):
    monkeypatch.setenv("MY_SERVER", "secret-of-the-server")
    server = serve(always=fault)
    with pytest.raises(InputError, match=f"refuses with HTTP {fault}: no: Bearer [*]{{3}}") as refused:
        endpoint.evaluate_endpoint(settings(server, tmp_path / "run", key_env="MY_SERVER", concurrency=1))
    assert len(server.asked) == 1 and "secret-of" not in str(refused.value)


def test_the_key_is_sent_and_stands_in_no_file(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SERVER", "secret-of-the-server")
    server = serve()
    endpoint.evaluate_endpoint(settings(server, tmp_path / "run", key_env="MY_SERVER"))
    assert {sent["Authorization"] for sent in server.headers} == {"Bearer secret-of-the-server"}
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert len(files) > 5 and not any(b"secret-of" in path.read_bytes() for path in files)
    monkeypatch.delenv("MY_SERVER")
    with pytest.raises(InputError, match="key_env=MY_SERVER: no such variable"):
        endpoint.evaluate_endpoint(settings(server, tmp_path / "run", key_env="MY_SERVER"))


def test_a_key_that_the_server_repeats_is_masked(serve, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SERVER", "secret/of the server")
    server = serve(always="echo")
    _, entry = endpoint.evaluate_endpoint(settings(server, tmp_path / "run", key_env="MY_SERVER"))
    held = read_records(tmp_path / "run" / entry["predictions"], Completion)
    assert entry["strict"] == N and all("Your key is ***, it is" in one.text for one in held)
    monkeypatch.setenv("MY_SERVER", "is")  # the word of a server that wants none
    _, entry = endpoint.evaluate_endpoint(settings(serve(), tmp_path / "word", key_env="MY_SERVER"))
    held = read_records(tmp_path / "word" / entry["predictions"], Completion)
    assert all(one.text.startswith("It is ") for one in held)


@pytest.mark.parametrize("fault", ["drip", "drip in the head"])
def test_the_time_limit_is_that_of_a_whole_answer(serve, tmp_path, fault):
    config = settings(serve(always=fault), tmp_path / "run", timeout=0.4, max_retries=1, concurrency=1)
    start = time.monotonic()
    with pytest.raises(Stopped, match="TimeoutError: timed out.*, 2 times for"):
        endpoint.evaluate_endpoint(config, sleep=lambda _: None)
    assert 0.8 <= time.monotonic() - start < 4  # a whole answer would take 5 seconds


def test_no_text_parts_of_text_and_odd_counts_of_tokens(serve, tmp_path):
    server = serve("silent", "parts", "usage")
    _, entry = endpoint.evaluate_endpoint(settings(server, tmp_path / "run", concurrency=1))
    held = list(read_records(tmp_path / "run" / entry["predictions"], Completion))
    assert (len(server.asked), entry["strict"], held[0].text, held[2].token_count) == (N, N - 1, "", 0)
    assert held[1].text.startswith("It is ")
    assert entry["usage"] == {"prompt_tokens": 100 * (N - 1), "completion_tokens": 10 * (N - 1)}


def test_a_start_without_an_answer_is_no_opening_of_test(serve, tmp_path):
    from reckoner.runs.ledger import read_ledger

    server, lines = serve(always="401"), []
    config = settings(server, tmp_path / "run")
    ledger = read_ledger(opened_test(config))
    before = len(ledger.openings)
    for _ in range(2):
        with pytest.raises(InputError, match="HTTP 401"):
            endpoint.evaluate_endpoint(config)
    assert len(read_ledger(opened_test(config)).openings) == before
    server.always, server.faults = "", ["", "", "401"]
    with pytest.raises(InputError, match="HTTP 401"):
        endpoint.evaluate_endpoint(settings(server, tmp_path / "run", concurrency=1))
    _, entry = endpoint.evaluate_endpoint(config, lambda *step: lines.append(step))
    assert len(read_ledger(opened_test(config)).openings) == before + 1 and entry["reads"] == 1


def test_a_redirect_says_where_it_leads(serve, tmp_path):
    with pytest.raises(InputError, match=r"HTTP 302: .*it leads to http://127.0.0.1:9/. Set endpoint.url to"):
        endpoint.evaluate_endpoint(settings(serve(always="302"), tmp_path / "run"))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("3", 3),
        ("2.5", 2.5),
        ("99999", 600),
        ("Fri, 31 Dec 2100 23:59:59 GMT", 600),
        ("Fri, 31 Dec 2100 23:59:59 -0000", 600),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("soon", 0),
        ("nan", 0),
        ("-3", 0),
    ],
)
def test_when_a_server_asks_to_come_again(text, seconds):
    headers = Message()
    headers["Retry-After"] = text
    assert server_module._retry_after(headers) == seconds


def test_what_is_asked(serve, tmp_path):
    server = serve()
    config = settings(server, tmp_path / "run", extra={"max_tokens": None, "reasoning_effort": "low"})
    config.prompt.instruction, config.prompt.shots = "Think.", 1
    endpoint.evaluate_endpoint(config)
    path, body = server.asked[0]
    assert path == "/v1/chat/completions" and body["model"] == "m" and body["temperature"] == 0
    assert [turn["role"] for turn in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][0]["content"].startswith("Think.\n\n")
    assert body["reasoning_effort"] == "low" and not {"max_tokens", "seed", "stop"} & body.keys()
    config = settings(server, tmp_path / "plain")
    config.prompt.chat_template, config.eval.temperature, config.eval.num_samples = "off", 0.5, 2
    _, entry = endpoint.evaluate_endpoint(config)
    path, body = server.asked[-1]
    assert path == "/v1/completions" and body["prompt"].endswith("\nAnswer:")
    assert "\nQuestion:" in body["stop"]
    assert entry["n"] == 2 * N and entry["decoding"] == "temperature 0.5"
    assert len({one["seed"] for _, one in server.asked[-2 * N :]}) == 2


def test_requests_are_paced_and_priced(serve, tmp_path):
    server, notes = serve(), []
    config = settings(server, tmp_path / "run", requests_per_minute=1200, price_prompt=3, price_completion=15)
    _, entry = endpoint.evaluate_endpoint(config, lambda *step: notes.append(step))
    assert server.times[-1] - server.times[0] >= 0.9 * (N - 1) * 60 / 1200
    assert entry["cost"] == pytest.approx(N * (100 * 3 + 10 * 15) / 1e6)
    assert notes[-1] == ("test", N, N, "cost 0.01")


def test_another_prompt_server_or_limit_is_another_evaluation(serve, tmp_path):
    server = serve()
    endpoint.evaluate_endpoint(settings(server, tmp_path / "run"))
    config = settings(server, tmp_path / "run")
    config.eval.max_new_tokens = 7
    with pytest.raises(InputError, match="max_new_tokens=1024, this command has 7"):
        endpoint.evaluate_endpoint(config)
    with pytest.raises(InputError, match="was made with endpoint=http"):
        endpoint.evaluate_endpoint(settings(serve(), tmp_path / "run"))


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("calculator", True, "eval.calculator forces tokens, which needs a model that runs here"),
        ("refine", "Check it.", "eval.refine asks a second time, which needs a model that runs here"),
        ("select", "weighted", "eval.select=weighted needs log-probs, .* Set eval.select=majority"),
        ("select", "best", "eval.select=best needs log-probs"),
    ],
)
def test_a_server_is_not_asked_for_what_it_does_not_give(serve, tmp_path, name, value, message):
    server = serve()
    config = settings(server, tmp_path / "run")
    config.eval = replace(config.eval, temperature=1.0, num_samples=2, **{name: value})
    with pytest.raises(InputError, match=message):
        endpoint.evaluate_endpoint(config)
    assert not server.asked


def test_the_answers_of_a_server_are_voted_on(serve, tmp_path):
    config = settings(serve(), tmp_path / "run")
    config.eval = replace(config.eval, temperature=1.0, num_samples=3, select="majority")
    folder, entry = endpoint.evaluate_endpoint(config)
    held = list(read_records(folder / entry["predictions"], Completion))
    assert [one.sample for one in held] == [0] * N == [0] * len({one.problem_id for one in held})
    assert (entry["n"], entry["strict"], entry["tokens"]) == (N, N, 3 * N * 10)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "file:///etc/passwd", "http://", "http://x/v1?key=7"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(InputError, match="is no address. Write http://HOST:PORT/v1"):
        endpoint.evaluate_endpoint(build_config([({"endpoint": {"url": url}}, {})]))


def test_the_command_line(serve, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    server = serve()
    words = ["eval", "some/model", "--endpoint", server.url, "eval.split=test"]
    assert main([*words, f"data.max_test_samples={N}", "data.source=nano"]) == 0
    said = capsys.readouterr()
    assert re.search(rf"strict +{N}/{N} +100.0 %", said.out)
    assert "runs/eval-some-model/predictions" in said.out
    summary = json.loads((tmp_path / "runs/eval-some-model/summary.json").read_text())
    assert summary["evaluations"][0]["endpoint"] == f"{server.url}/chat/completions"
    assert main(["compare", "runs/eval-some-model"]) == 0
    assert main(["eval", "m", "--endpoint", "http://user:password@host/v1"]) == 2
    assert "looks like a secret" in capsys.readouterr().err
