"""Several processes of torchrun compute one run: the numbers of one process, one writer, no endless wait."""

import atexit
import json
import math
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import traceback
import warnings
from importlib import import_module
from shutil import copytree
from tempfile import TemporaryFile

import pytest
from safetensors.torch import load_file, save_file

from reckoner import ranks
from reckoner.cli import main

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"]
TORCHRUN += ["--rdzv-endpoint", "localhost:0"]


def start(*command):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*command):
    with start(*command) as process:
        try:
            out, errors = process.communicate(timeout=900)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun ends its ranks then
            raise
    return process.returncode, out, errors


def two_ranks(path, *words):
    """As `run(*TORCHRUN, path, *words)`, in two forks of this process, which has imported everything."""
    import_module("reckoner.study.execute")
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    with TemporaryFile() as out, TemporaryFile() as errors:
        code = _ended([_fork_rank(rank, port, (out, errors), path, words) for rank in range(2)])
        written = [os.pread(file.fileno(), 2**20, 0).decode() for file in (out, errors)]
    return code, *written


def _ended(ranks):
    """The exit code of all; the fault of one ends the others, as under torchrun."""
    codes = {}
    while going := set(ranks) - codes.keys():
        for pid in going:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
        if any(codes.values()) and len(codes) < len(ranks):
            time.sleep(3)
            for pid in set(ranks) - codes.keys():
                os.kill(pid, signal.SIGTERM)
        time.sleep(0.02)
    return max(map(abs, codes.values()))


def _fork_rank(rank, port, files, path, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads hold no lock of ours
        pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        for number, file in enumerate(files, start=1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
        warnings.resetwarnings()
        sys.modules["torch"].set_num_threads(1)
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in group.items()})
        os.environ.update(MASTER_ADDR="localhost", TORCHELASTIC_RUN_ID="forks")
        sys.argv = [str(path), *map(str, words)]
        atexit._clear()
        exec(compile(path.read_text(), str(path), "exec"), {"__name__": "__main__"})
        atexit._run_exitfuncs()
        code = 0
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def script(tmp_path, text):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(text))
    return path


def write_sums(path, who, count):
    """Problems with short solutions, so that completions are short too."""
    pairs = ((7 * i % 40 + 2, 11 * i % 50 + 3) for i in range(count))
    rows = [
        {
            "question": f"{who} has {a} eggs and buys {b}. How many?",
            "answer": f"<<{a}+{b}={a + b}>>\n#### {a + b}",
        }
        for a, b in pairs
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_teacher(folder, model):
    """Another model of the same vocabulary."""
    copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: 1.1 * tensor for name, tensor in weights.items()}, folder / "model.safetensors")


def assert_alike(one, two, tolerance):
    assert len(one) == len(two)
    for left, right in zip(one, two, strict=True):
        assert left.keys() == right.keys()
        varying = {"preferred"} | {name for name in left if name.startswith("seconds")}
        for name in left.keys() - varying:  # the margins that `preferred` counts are 0 but for rounding
            if isinstance(left[name], float):
                assert math.isclose(left[name], right[name], rel_tol=tolerance, abs_tol=tolerance), name
            else:
                assert left[name] == right[name], name


EVERYTHING = """
import importlib, sys
from pathlib import Path
from reckoner import ranks
from reckoner.config import load_config
from reckoner.errors import Stopped
from reckoner.evaluation.evaluate import evaluate_model
from reckoner.runs.folder import silent
from reckoner.tasks.rewards import Reward

def by_text(answer, weights):
    total = float(sum(map(ord, answer.text)) % 2)
    return Reward(total, {"correct": total})

def stopped_at(phase, done):
    def stop(*now):
        if now[:2] == (phase, done):
            raise Stopped("here")
    return stop

def attempt(work, stop):
    try:
        work(stop)
    except Stopped:
        pass

ALIKE = ["run.save_steps=2", "run.threads=1", "data.dev_size=8", "eval.max_new_tokens=24"]
ALIKE += ["prompt.chat_template=off", "train.per_device_train_batch_size=16"]
ALIKE += ["train.gradient_accumulation_steps=1", "train.learning_rate=1e-5"]

def everything(root, model, data, handed, teacher):
    def config(*settings):
        return load_config("", [], [*ALIKE, f"data.path={data}", *settings])

    def train(method, folder, *settings, **options):
        run = importlib.import_module(f"reckoner.algorithms.{method}").train
        run(config(f"run.output_dir={folder}", *settings), **options)

    def sft(folder, on_progress=silent):
        how = [f"model.model_name_or_path={model}", "train.num_train_epochs=2"]
        train("sft", folder, *how, on_progress=on_progress)

    sft(root / "sft")
    start = [f"model.model_name_or_path={root / 'sft'}"]
    evaluate_model(config(*start, "eval.split=test"))
    short = ["rollout.num_prompts=8", "rollout.num_generations=4", "rollout.max_steps=2"]
    short += ["rollout.max_completion_length=24", "rollout.patience=0", "train.eval_steps=2"]
    # of many likely tokens the last bits of a probability draw one; where it is colder there are few
    short += ["rollout.temperature=0.5"]
    for method in ("grpo", "ppo", "dpo", "rejection"):
        train(method, root / method, *start, *short, reward_fn=by_text)
    train("distill", root / "distill", *start, *short, f"distill.teacher={teacher}")

    def vote(on_progress=silent):
        how = ["eval.num_samples=3", "eval.temperature=1", "eval.select=majority", "eval.batch_size=3"]
        asked = config(*start, *how, "data.max_test_samples=8", "eval.split=test")
        evaluate_model(asked, on_progress)

    def easy(on_progress=silent):
        order = ["rollout.order=easy_first", "rollout.pass_rate_samples=2", "data.max_train_samples=16"]
        order += ["rollout.max_steps=4"]
        train("grpo", root / "easy", *start, *short, *order, reward_fn=by_text, on_progress=on_progress)

    if ranks.size() == 2:
        attempt(vote, stopped_at("test", 18))
        attempt(easy, stopped_at("train", 3))
    vote()
    easy()
    if ranks.size() == 2:
        for name in ("again", "handed"):
            attempt(lambda stop: sft(root / name, stop), stopped_at("train", 3))
        sft(root / "again")
    else:
        sft(handed)
"""


@pytest.fixture(scope="module")
def folders(tiny_model, tmp_path_factory):
    """The same runs by two ranks and by this process, which also continues one that two ranks began."""
    root = tmp_path_factory.mktemp("ranks")
    one, two, data = root / "one", root / "two", root / "data"
    data.mkdir()
    for name, count in (("train", 104), ("test", 24)):
        write_sums(data / f"{name}.jsonl", name, count)
    path = script(root, f"{EVERYTHING}\neverything(*map(Path, sys.argv[1:]))\nprint('all well')\n")
    write_teacher(root / "teacher", tiny_model)
    code, out, errors = two_ranks(path, two, tiny_model, data, two / "handed", root / "teacher")
    assert code == 0, errors
    assert out.count("all well") == 2
    functions = {}
    exec(EVERYTHING, functions)
    functions["everything"](one, tiny_model, data, two / "handed", root / "teacher")
    return one, two


@pytest.mark.parametrize("method", ["sft", "grpo", "ppo", "dpo", "rejection", "distill"])
def test_two_ranks_learn_what_one_process_learns(folders, method):
    one, two = (lines_of(folder / method / "metrics.jsonl") for folder in folders)
    assert sum(line.get("grad_norm", 0) > 0 for line in one) == (12 if method == "sft" else 2)
    assert_alike(one, two, 1e-5 if method == "sft" else 1e-4)


@pytest.mark.parametrize("name", ["again", "handed"])
def test_a_run_that_two_ranks_began_goes_on_with_two_or_with_one(folders, name):
    one, two = folders
    assert_alike(lines_of(one / "sft" / "metrics.jsonl"), lines_of(two / name / "metrics.jsonl"), 1e-5)


def test_votes_and_a_map_of_pass_rates_that_two_ranks_began_are_those_of_one_process(folders):
    """The second rank reads what only the first one kept."""
    votes = [lines_of(f / "sft" / "predictions" / "test-0shot-t1-n3-majority.jsonl") for f in folders]
    assert [line["text"] for line in votes[0]] == [line["text"] for line in votes[1]] and len(votes[0]) == 8
    maps = [json.loads((f / "easy" / "pass_rates.json").read_text()) for f in folders]
    assert all(maps[0][key] == maps[1][key] for key in ("passes", "prompt_tokens", "tokens"))
    assert_alike(*(lines_of(folder / "easy" / "metrics.jsonl") for folder in folders), 1e-4)


@pytest.mark.parametrize("path", ["sft/predictions/test-0shot.jsonl", "grpo/rollouts/step-000001.jsonl"])
def test_two_ranks_write_the_completions_of_one(folders, path):
    one, two = ([line["text"] for line in lines_of(folder / path)] for folder in folders)
    assert one == two and len(one) >= 24


def test_sums_lists_and_copies_are_those_of_all_ranks(tmp_path):
    path = script(
        tmp_path,
        """
        import torch
        from reckoner import ranks
        rank = ranks.rank()
        assert ranks.size() == 2 and list(ranks.share([0, 1, 2])) == [[0, 2], [1]][rank]
        assert ranks.gather([rank, 0.1 + 0.2]) == [[0, 0.1 + 0.2], [1, 0.1 + 0.2]]
        assert ranks.add(torch.tensor([1.0 + rank])).item() == 3
        assert ranks.from_first(lambda: {"rank": rank}) == {"rank": 0}
        weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
        weights[0].grad = torch.tensor([1.0, 2.0]) * (1 + rank)
        if rank:
            weights[1].grad = torch.tensor([5.0, 7.0])
        ranks.BUCKET = 3
        ranks.add_gradients(weights)
        assert weights[0].grad.tolist() == [3, 6] and weights[1].grad.tolist() == [5, 7]
        assert weights[2].grad is None
        tensor = torch.full((2,), float(rank))
        ranks.copy_from_first([tensor])
        assert tensor.tolist() == [0, 0]
        from reckoner.engine.optim import NonFinite, apply_step, check_weights
        from reckoner.errors import InputError
        from reckoner.models.policy import fingerprint
        try:
            apply_step(torch.optim.SGD(weights), weights, 0.1, loss=float("inf") if rank else 1.0)
        except NonFinite as error:
            assert str(error).startswith("the loss is inf: the step was not applied") and not weights[0].any()
        part = torch.nn.Linear(1, 1, bias=False)  # only the part of rank 1 gets a gradient
        torch.nn.init.ones_(part.weight).grad = torch.full((1, 1), float(rank))
        optimizer = torch.optim.AdamW(part.parameters(), lr=0.0)
        optimizer.step()
        try:
            check_weights(part, optimizer, fingerprint(part), 3, 1e-9)
        except InputError as error:
            assert str(error).startswith("weight has not changed after step 3")
            print("all well")
        """,
    )
    code, out, errors = run(*TORCHRUN, path)
    assert code == 0, errors
    assert out.count("all well") == 2


def test_a_rank_with_other_files_ends_all_of_them_with_one_line(tiny_model, tmp_path):
    write_sums(tmp_path / "train.jsonl", "Ann", 40)
    where = [f"data.path={tmp_path / 'train.jsonl'}", f"run.output_dir={tmp_path / 'run'}"]
    path = script(
        tmp_path,
        """
        import sys
        from reckoner import cli, ranks
        from reckoner.runs import folder
        folder.code_digest = lambda: f"code {ranks.rank()}"
        sys.exit(cli.main(sys.argv[1:]))
        """,
    )
    began = time.monotonic()
    where += [f"model.model_name_or_path={tiny_model}", "prompt.chat_template=off", "data.dev_size=8"]
    code, out, errors = two_ranks(path, "sft", *where)
    assert code != 0 and time.monotonic() - began < 120
    lines = [line for line in errors.splitlines() if line.startswith("reckon:")]
    assert lines == [
        "reckon: rank 1 has another code than rank 0. Give every machine the same code, files and settings"
    ]
    assert not (tmp_path / "run").exists()


def test_a_rank_that_hangs_ends_the_run_with_one_line(tmp_path):
    path = script(
        tmp_path,
        """
        import time
        from reckoner import ranks
        ranks.BEAT, ranks.SILENT = 1e6 if ranks.rank() else 0.2, 2.0  # rank 1 gives one sign of life
        ranks.gather(0)
        if ranks.rank():
            time.sleep(1e6)
        ranks.gather(1)
        """,
    )
    began = time.monotonic()
    code, _, errors = run(*TORCHRUN, path)
    assert code != 0 and time.monotonic() - began < 120
    assert "reckon: rank 1 of 2 gave no sign of life for 2 s" in errors


def test_a_rank_that_is_killed_ends_the_others_with_one_line(tmp_path):
    path = script(
        tmp_path,
        """
        import os, signal, sys
        import torch
        from reckoner import ranks
        from reckoner.errors import Stopped
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which torchrun may come first
        ranks.gather(0)
        if ranks.rank():
            os.kill(os.getpid(), signal.SIGKILL)
        for exchange in (lambda: ranks.add(torch.ones(2)), lambda: ranks.from_first(dict)):
            try:
                exchange()
            except Stopped as error:
                print(error, flush=True)
        """,
    )
    code, out, errors = run(*TORCHRUN, path)
    line = "rank 0 of 2 lost another one. The same command goes on from the last checkpoint"
    assert code != 0 and out.splitlines() == [line, line], errors


def test_a_rank_takes_its_share_of_the_cores_and_searches_no_rates(monkeypatch, capsys):
    assert ranks.share_of_cores(8) == 8
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("WORLD_SIZE", "4"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert (ranks.share_of_cores(8), ranks.share_of_cores(1)) == (4, 1)
    assert main(["tune", "--preset", "smoke"]) == 2
    line = "reckon: reckon tune starts its own processes: give it without torchrun\n"
    assert capsys.readouterr().err == line


def test_a_study_is_not_for_torchrun(tmp_path):
    code, _, errors = run(*TORCHRUN, "-m", "reckoner", "study", "--preset", "smoke")
    assert code != 0
    lines = [line for line in errors.splitlines() if line.startswith("reckon:")]
    assert lines == ["reckon: reckon study starts its own processes: give it without torchrun"]
