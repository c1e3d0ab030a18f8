"""`reckon eval --endpoint` against a real server: messages, plain text, and a command that is killed.

    python -m llama_cpp.server --model MODEL.gguf --model_alias smollm2 --port 8077   # or any other
    python -m benchmarks.endpoint --url http://127.0.0.1:8077/v1 --model smollm2 --gsm8k FOLDER --server TEXT

FOLDER holds GSM8K's files; TEXT says what answers, with its version. The requests pass through a counter of
ours, which sees how many were sent, how many at once, and whether a stored answer was asked for again. Torch
is not needed. Writes benchmarks/results/endpoint.json.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any
from urllib.request import Request, urlopen

from reckoner.machine import environment

RESULT = Path(__file__).parent / "results" / "endpoint.json"
PRICES = ("endpoint.price_prompt=0.4", "endpoint.price_completion=1.6")
"""Of a million tokens; they are made up, and show that cost is counted."""
WAIT = 600.0
"""Seconds for one answer."""


class Counter(ThreadingHTTPServer):
    """Passes requests on to `url` and counts them."""

    daemon_threads = True

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.url, self.sent, self.busy, self.most, self.lock = url.rstrip("/"), 0, 0, 0, Lock()
        Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed takes no answer."""


class _Passing(BaseHTTPRequestHandler):
    server: Counter

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = Request(self.server.url + self.path, body, {"Content-Type": "application/json"})
        with self.server.lock:
            self.server.sent += 1
            self.server.busy += 1
            self.server.most = max(self.server.most, self.server.busy)
        try:
            with urlopen(asked, timeout=WAIT) as answer:
                content = answer.read()
        finally:
            with self.server.lock:
                self.server.busy -= 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing: progress is the command's."""


def ask(options: argparse.Namespace, folder: Path, more: list[str], kill_at: int = 0) -> dict[str, Any]:
    """One evaluation, first killed when `kill_at` answers are stored; what it reports, and its requests."""
    counter = Counter(options.url)
    command = [sys.executable, "-m", "reckoner", "eval", options.model, "--json"]
    command += ["--endpoint", f"http://127.0.0.1:{counter.server_port}", f"run.output_dir={folder}"]
    command += ["data.source=gsm8k", f"data.path={options.gsm8k}", f"data.max_test_samples={options.n}"]
    command += ["eval.split=test", f"eval.max_new_tokens={options.tokens}", "prompt.shots=1"]
    command += [f"endpoint.timeout={WAIT}", f"endpoint.concurrency={options.concurrency}", *PRICES, *more]
    started, kept = time.perf_counter(), 0
    if kill_at:
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while kept < kill_at and first.poll() is None:
            time.sleep(0.05)
            kept = len(texts(folder))
        first.kill()
        first.wait()
        kept = len(texts(folder))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = json.loads((folder / "summary.json").read_text())["evaluations"][0]
    names = ("n", "strict", "flexible", "truncated", "no_answer", "usage", "cost")
    counts = {"requests": counter.sent, "most at once": counter.most, "kept at the kill": kept}
    seconds = {"seconds": round(time.perf_counter() - started, 1)}
    return {name: found[name] for name in names} | counts | seconds


def texts(folder: Path) -> dict[str, str]:
    """The stored completions by problem; a line that is not whole yet is none."""
    lines = [
        line for file in folder.glob("predictions/*.jsonl") for line in file.read_text().split("\n")[:-1]
    ]
    return {row["problem_id"]: row["text"] for row in map(json.loads, lines)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", required=True, help="its name at the server")
    parser.add_argument("--gsm8k", required=True, metavar="FOLDER")
    parser.add_argument(
        "--server", required=True, metavar="TEXT", help="what answers: program, version, model"
    )
    parser.add_argument("-n", type=int, default=8, help="test problems")
    parser.add_argument("--tokens", type=int, default=160, help="most tokens of an answer")
    parser.add_argument("--concurrency", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as room:
        whole, killed, plain = (Path(room) / name for name in ("whole", "killed", "plain"))
        parts = {
            "messages": ask(options, whole, []),
            "messages, killed and begun again": ask(options, killed, [], kill_at=max(1, options.n // 3)),
            "plain text": ask(options, plain, ["prompt.chat_template=off"]),
        }
        once, again = texts(whole), texts(killed)
        same = sum(once[name] == again[name] for name in once)
    asked = {"problems": options.n, "most tokens": options.tokens, "concurrency": options.concurrency}
    found = {"date": date.today().isoformat(), "server": options.server, **asked, **parts}
    found |= {"texts that are the same after the kill": same, "environment": environment()}
    RESULT.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
