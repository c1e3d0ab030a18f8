"""Questions in other words, by a server of ours and by the embedded model, through the real command line."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from reckoner.cli import main
from reckoner.evaluation.paraphrase import REQUEST, reworded
from reckoner.runs.records import Problem
from reckoner.tasks import gsm8k

N = 6
SETTINGS = [f"data.max_train_samples={N}", "data.dev_size=5", "data.max_test_samples=2"]
SOURCE = {"max_train_samples": N, "dev_size": 5, "max_test_samples": 2}


def problem(question: str) -> Problem:
    return Problem("p", question, "3+4=<<3+4=7>>7\n#### 7", "7", "main", "t")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("Together with 4 caps, what is the count of the things that Ann owns besides 3 pens?", ""),
        (
            "Together with 5 caps, what is the count of the things that Ann owns besides 3 pens?",
            "other numbers",
        ),
        ("Ann owns 3 pens, and 4 caps, and 4 more. How many things?", "other numbers"),
        ("Ann has 3 pens and 4 caps. How many\nthings?", "other numbers or lines"),
        ("ann has 3 pens, and 4 caps: how many things has she in all today!", "nearly its parent"),
        ("How many things has she in all today? Ann has 3 pens and 4 caps.", "nearly its parent"),
    ],
)
def test_a_paraphrase_has_the_same_numbers_in_other_words(text, reason):
    parent = problem("Ann has 3 pens and 4 caps. How many things has she in all today?")
    made, left_out = reworded([parent], {"p": f" {text}\n"})
    if reason:
        assert not made and reason in next(iter(left_out))
    else:
        assert not left_out and (made[0].id, made[0].question) == ("p~paraphrase-1", text)
        assert (made[0].solution, made[0].gold) == (parent.solution, "7")


class Rewriter(ThreadingHTTPServer):
    """Rewords by putting the sentences in reverse; solves the first half of all problems rightly."""

    daemon_threads = True

    def __init__(self, problems):
        super().__init__(("127.0.0.1", 0), Handler)
        self.problems, self.asked, self.limit = problems, [], 10**6
        self.lock = threading.Lock()

    @staticmethod
    def reword(question):
        return "Here is what is known. " + " ".join(question.split()[::-1])


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][-1]["content"]
        with server.lock:
            server.asked.append((body["model"], REQUEST in text))
            full = len(server.asked) > server.limit
        if REQUEST in text:
            question = next(one.question for one in server.problems if one.question in text)
            words = server.reword(question)
        else:
            at = next(n for n, one in enumerate(server.problems) if server.reword(one.question) in text)
            words = f"#### {server.problems[at].gold if at < N // 2 else 999999}"
        content = json.dumps({"choices": [{"message": {"content": words}, "finish_reason": "stop"}]}).encode()
        self.send_response(400 if full else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server():
    one = Rewriter(gsm8k.load("train", **SOURCE))
    threading.Thread(target=one.serve_forever, daemon=True).start()
    yield one
    one.shutdown()
    one.server_close()


def test_a_server_rewords_and_another_model_solves_and_a_stopped_command_goes_on(server, tmp_path, capsys):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    words = ["data", "augment", str(tmp_path / "out"), "--kind", "paraphrase", "--model", "writer"]
    words += ["--endpoint", url, "--solver", "judge", "--json", *SETTINGS, "endpoint.concurrency=1"]
    server.limit = 4
    assert main(words) == 2 and "refuses with HTTP 400" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    server.limit, server.asked = 10**6, []
    assert main(words) == 0
    assert server.asked == [("writer", True)] * (N - 4) + [("judge", False)] * N
    shown = json.loads(capsys.readouterr().out)
    assert shown["paraphrase"] == N // 2
    assert shown["left out"] == {"a paraphrase that the solver does not solve": N - N // 2}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    train = gsm8k.load("train", path=str(tmp_path / "out"), dev_size=5)
    made = {one.id: one for one in train if "~" in one.id}
    assert set(made) == {f"{one.id}~paraphrase-1" for one in server.problems[: N // 2]}
    for parent in server.problems[: N // 2]:
        one = made[f"{parent.id}~paraphrase-1"]
        assert (one.question, one.gold) == (server.reword(parent.question), parent.gold)
    rows = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert {row["parent"] for row in rows if "parent" in row} == {one.id for one in server.problems[: N // 2]}


def test_the_embedded_model_rewords_nothing_rightly_and_that_is_said(tmp_path, capsys):
    """It only solves: its wordings are solutions, whose numbers are others."""
    words = ["data", "augment", str(tmp_path / "out"), "--kind", "paraphrase", "--model", "nano"]
    words += [*SETTINGS, "eval.max_new_tokens=8"]
    assert main(words) == 2
    assert "nothing can be made of 6 train problems by paraphrase" in capsys.readouterr().err
    assert (tmp_path / ".out.reworded.jsonl").read_text().count("\n") == N
