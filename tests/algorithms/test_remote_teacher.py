"""A teacher behind a server says of each token what the same model says here."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer

from reckoner.algorithms import distill
from reckoner.errors import InputError, Stopped
from reckoner.training.remote_teacher import RemoteTeacher
from reckoner.training.rollouts import score

from .invariants import Code, Scene

RECKONER = Code("reckoner")


class Server(ThreadingHTTPServer):
    """A model behind the completion API, with `echo` and `logprobs`; `fault` is what it does instead."""

    daemon_threads = True

    def __init__(self, folder, fault=""):
        super().__init__(("127.0.0.1", 0), Handler)
        self.model, self.fault = AutoModelForCausalLM.from_pretrained(folder), fault
        self.tokenizer, self.asked = AutoTokenizer.from_pretrained(folder), []


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    @torch.no_grad()
    def do_POST(self):
        server, body = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append((self.path, body))
        ids = torch.tensor(body["prompt"])
        scores = server.model(ids[None]).logits[0].log_softmax(-1)
        values = scores[:-1].gather(1, ids[1:, None])[:, 0].tolist()
        said = {"tokens": [server.tokenizer.decode(one) for one in ids], "token_logprobs": [None, *values]}
        said = {name: [*of, of[-1]] for name, of in said.items()}  # and the token that it drew
        if server.fault == "other words":
            said["tokens"] = ["x" for _ in said["tokens"]]
        choices = [{"text": "x", "logprobs": None if server.fault == "no echo" else said}]
        whole = json.dumps({"choices": choices}).encode()
        busy = server.fault == "busy" and len(server.asked) > 1
        self.send_response(503 if busy else 200)
        self.send_header("Content-Length", str(len(whole)))
        self.end_headers()
        self.wfile.write(whole)


@pytest.fixture
def serve(tiny):
    servers = []

    def start(fault=""):
        server = Server(tiny, fault)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server, f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def remote(config, url):
    config.endpoint.url, config.endpoint.max_retries, config.distill.teacher = url, 0, "the-model"
    return config


def test_it_says_of_each_token_what_the_model_says_here(serve, tiny):
    server, url = serve()
    scene, other = Scene(RECKONER, tiny), Scene(RECKONER, tiny).policy
    rollout = scene.draw()
    teacher = RemoteTeacher(remote(scene.config, url))
    teacher.check_vocabulary(scene.policy)
    judged = teacher.logprobs(scene.policy, rollout, 1000)
    here = score(scene.policy, other.model, rollout, range(len(rollout.episodes)), 1.0, 1000)
    assert_close(judged, here, atol=1e-5, rtol=0)
    assert (judged[~rollout.mask] == 0).all() and (judged[rollout.mask] < 0).all()
    path, body = server.asked[-1]
    assert path == "/v1/completions" and (body["echo"], body["logprobs"], body["model"]) == (
        True,
        1,
        "the-model",
    )


def test_a_run_learns_from_it_as_from_a_teacher_here(serve, rl_config, teacher_folder, tmp_path):
    (server, url), found = serve(), []
    server.model = AutoModelForCausalLM.from_pretrained(teacher_folder)
    server.tokenizer = AutoTokenizer.from_pretrained(teacher_folder)
    rl_config.rollout.max_steps, rl_config.distill.teacher = 2, str(teacher_folder)
    for name in ("here", "remote"):
        rl_config.run.output_dir = str(tmp_path / name)
        distill.train(remote(rl_config, url) if name == "remote" else rl_config)
        lines = map(json.loads, (tmp_path / name / "metrics.jsonl").read_text().splitlines())
        found.append([line["kl_teacher"] for line in lines if "kl_teacher" in line])
    assert len(found[0]) == 2 and found[0] == pytest.approx(found[1], rel=1e-3) and found[0][0] > 0.01


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("other words", r"the-model has another vocabulary than .*: it reads the tokens of 'Tom has"),
        ("no echo", r"gives no log-probs of a prompt \(echo, logprobs\); vLLM and SGLang do"),
    ],
)
def test_a_server_that_cannot_judge_is_refused(serve, tiny, fault, message):
    scene = Scene(RECKONER, tiny)
    teacher = RemoteTeacher(remote(scene.config, serve(fault)[1]))
    with pytest.raises(InputError, match=message):
        teacher.check_vocabulary(scene.policy)


def test_a_server_that_fails_on_the_way_stops_the_run_so_that_it_can_go_on(serve, tiny):
    scene = Scene(RECKONER, tiny)
    teacher = RemoteTeacher(remote(scene.config, serve("busy")[1]))
    teacher.check_vocabulary(scene.policy)
    with pytest.raises(Stopped, match=r"HTTP 503, 1 times for a text of the policy.*goes on"):
        teacher.logprobs(scene.policy, scene.draw(), 1000)


def test_settings_that_cannot_work_are_refused(serve, tiny):
    config = Scene(RECKONER, tiny).config
    remote(config, "http://127.0.0.1:9/v1").rollout.temperature = 0.7
    with pytest.raises(InputError, match=r"temperature=0.7: a server gives log-probs at temperature 1"):
        RemoteTeacher(config)
    config.distill.teacher = ""
    with pytest.raises(InputError, match="name the model as the server of endpoint.url does"):
        RemoteTeacher(config)
