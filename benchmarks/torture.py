"""Kill runs at any moment, start them again, and prove that each ends as the run that nobody touched.

    python -m benchmarks.torture                                    kills at random, then inside saves
    python -m benchmarks.torture --kills 500 --points 0 --only ppo  more of one kind, added to what is stored
    python -m benchmarks.torture --kills 1 --points 3 --only study  the short form that the tests run
    python -m benchmarks.torture --only attacks                     what may have been done to a run

Kinds are SFT, SFT that is extended, LoRA, PPO, GRPO, an evaluation, a study of five arms and the same study
with two arms at once, each on a random Gemma of 60,000 weights and the embedded problems, one thread a run.
This process imports everything once; each attempt is a fork of it, so that a kill and the restart cost a
second rather than an import of torch. A fork has its own memory and files and dies as any process does. Two
arms at once are two processes more, which import for themselves: the kill is of the study, they have to end
by themselves, and they are not followed into their saves.

Random kills come at a uniform moment of the run, as often as a restarted run lives long enough. Kills inside
saves come from a switch that ends the process before or after the n-th call that changes what is on disk for
good (fsync, rename, delete, new folder, cut): all of these calls of a run are points, `--points` takes as
many of them, evenly spread.

Attacks change what a run or model holds, then give the command that would use it. It has to refuse by name,
exit code 2.

Equal means: the same sha256 of every file of the run folder, subfolders of a study included, but for what a
clock, the machine or the ledger of test says (keys that begin with `seconds`, `peak_memory_bytes`, `seal`,
`reads`, environment.json, and manifests, which are verified instead), locks, and checkpoints older than the
newest.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from benchmarks.small_gemma import small_gemma
from safetensors.torch import load_file, save_file

from reckoner import cli
from reckoner.algorithms import ALGORITHMS
from reckoner.config import Config, build_config
from reckoner.evaluation import evaluate
from reckoner.machine import environment
from reckoner.models.sources import INDEX
from reckoner.runs import checkpoints
from reckoner.runs import folder as runs
from reckoner.study import arms
from reckoner.study import run as study
from reckoner.tasks import gsm8k

RESULT = Path(__file__).parent / "results" / "torture.json"
COMMITTING = (
    (os, "fsync"),
    (os, "replace"),
    (os, "mkdir"),
    (os, "unlink"),
    (os, "rmdir"),
    (os, "ftruncate"),
    (os, "truncate"),
)
"""Calls after which the disk holds something else than before, whatever happens to the process."""

WEIGHTS = Path("model", "model.safetensors")
SIDE_BY_SIDE = "study, two arms at once"
UNEQUAL = (".lock", "environment.json", "MANIFEST.json")
"""Files that say what the machine was, or hash files that hold times."""


@dataclass
class Score:
    """What one kind of run went through. `different` names the first file of each run that ended
    otherwise."""

    seconds: float
    kills: int = 0
    compared: int = 0
    points: int = 0
    of_points: int = 0
    different: tuple[str, ...] = ()


def settings(model: Path, out: Path, **sections: dict[str, Any]) -> Config:
    """A run of a second or less. Completions cut by their length cost reward, so that random text has
    something to learn."""
    base = {
        "model": {"model_name_or_path": str(model)},
        "data": {"dev_size": 8, "max_train_samples": 32, "max_test_samples": 12},
        "prompt": {"chat_template": "off"},
        "train": {
            "learning_rate": 1e-3,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "eval_steps": 2,
        },
        "eval": {"dev_samples": 2, "batch_size": 4},
        "rollout": {
            "num_prompts": 2,
            "num_generations": 4,
            "max_steps": 4,
            "patience": 0,
            "kl_samples": 8,
            "missing_eos_penalty": 1.0,
        },
        "run": {"output_dir": str(out), "save_steps": 1, "threads": 1},  # OpenMP's do not survive a fork
    }
    return build_config([(base, {}), (sections, {})])


def kinds(model: Path, out: Path) -> dict[str, Callable[[], object]]:
    """What each kind of run does, from the start or from wherever it was killed."""
    lora = {"method": "lora", "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.1}
    study_arms = {
        "prompt": {},
        "full": {"method": "sft"},
        "lora": {"method": "sft", "set": {"peft": lora}},
        "ppo": {"method": "ppo", "init": "full", "set": {"rollout": {"max_steps": 2}}},
        "lora-grpo": {"method": "grpo", "init": "full", "set": {"rollout": {"max_steps": 2}, "peft": lora}},
    }

    def trains(method: str, **sections: dict[str, Any]) -> Callable[[], object]:
        return lambda: ALGORITHMS[method].train(settings(model, out, **sections), lambda *_: None)

    def whole_study(jobs: int) -> None:
        config = settings(model, out, study={"arms": study_arms, "jobs": jobs})
        planned = arms.plan_study(config)
        study.run_study(config, planned, planned, "reckon study")

    def extended() -> None:
        short, long = (settings(model, out, train={"num_train_epochs": epochs}) for epochs in (1, 2))
        saved = out / "config.yaml"
        if not saved.is_file() or "num_train_epochs: 2" not in saved.read_text():
            ALGORITHMS["sft"].train(short, lambda *_: None)
        runs.extend(long)
        ALGORITHMS["sft"].train(long, lambda *_: None)

    return {
        "sft": trains("sft"),
        "sft, extended": extended,
        "lora": trains("sft", peft=lora),
        "ppo": trains("ppo"),
        "grpo": trains("grpo", rollout={"num_mini_batches": 1}),
        "evaluation": lambda: evaluate.evaluate_model(
            settings(model, out, eval={"split": "test", "temperature": 1.0, "num_samples": 2})
        ),
        "study": lambda: whole_study(1),
        SIDE_BY_SIDE: lambda: whole_study(2),
    }


def start(work: Callable[[], object]) -> int:
    """Run `work` in a fork of this process and return its id; the fork ends with code 0, or 1 and its
    traceback."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    try:
        work()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)


def finish(child: int) -> bool:
    """Wait for a fork: True where it got to its end, False where it was killed."""
    return reached_end(os.waitpid(child, 0)[1])


def reached_end(status: int) -> bool:
    """Whether a fork with this status was not killed. One that failed ends this process too."""
    if os.waitstatus_to_exitcode(status) == 1:
        raise SystemExit("a run failed, see its traceback above")
    return status == 0


def killed_after(work: Callable[[], object], seconds: float) -> bool:
    """Start `work` and kill it after so many seconds; False where it had finished by then."""
    child, deadline = start(work), time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return not reached_end(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return not finish(child)


def switch(work: Callable[[], object], at: int, count_file: Path | None = None) -> Callable[[], object]:
    """`work` with a switch: the process dies before committing call `at // 2`, or after it where `at` is odd.
    -1: only counts."""

    def switched() -> object:
        calls = 0

        def watch(call: Callable[..., Any]) -> Callable[..., Any]:
            def watched(*arguments: Any, **options: Any) -> Any:
                nonlocal calls
                if at == 2 * calls:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = call(*arguments, **options)
                if at == 2 * calls + 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                calls += 1
                return result

            return watched

        for module, name in COMMITTING:
            setattr(module, name, watch(getattr(module, name)))
        result = work()
        if count_file:
            count_file.write_text(str(calls))
        return result

    return switched


def digest(folder: Path) -> dict[str, str]:
    """sha256 of every file of a run or study by its path, without what a clock or the machine says."""
    old = {path for parent in folder.rglob("checkpoints") for path in sorted(parent.glob("step-*"))[:-1]}
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in UNEQUAL and not old & set(path.parents):
            found[str(path.relative_to(folder))] = hashlib.sha256(_timeless(path)).hexdigest()
    return found


def _timeless(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix not in (".json", ".jsonl"):
        return content
    values = (
        [json.loads(line) for line in content.splitlines()]
        if path.suffix == ".jsonl"
        else json.loads(content)
    )
    return json.dumps(_drop_times(values)).encode()


def _drop_times(value: Any) -> Any:
    """A value without seconds and memory, and without a checkpoint's hash of metrics, which hold seconds."""
    if isinstance(value, list):
        return [_drop_times(item) for item in value]
    if isinstance(value, dict):
        return {
            key: _drop_times(item)
            for key, item in value.items()
            if not key.startswith("seconds") and key not in ("peak_memory_bytes", "metrics", "seal", "reads")
        }
    return value


def difference(expected: dict[str, str], folder: Path) -> str:
    """The first file that differs from what the undisturbed run left, or a checkpoint that does not verify;
    '' for none."""
    found = digest(folder)
    for path in sorted(expected.keys() | found.keys()):
        if expected.get(path) != found.get(path):
            return (
                f"{path}{'' if path in expected else ' is left over'}{'' if path in found else ' is missing'}"
            )
    faults = [
        f"{step}: {why}"
        for step in folder.rglob("step-*")
        if step.is_dir() and (why := checkpoints.fault(step))
    ]
    return faults[0] if faults else ""


def torture(work: Callable[[], object], folder: Path, kills: int, points: int, draw: random.Random) -> Score:
    """Kill one kind of run `kills` times at random and at `points` committing calls; every run is finished
    and compared."""
    expected, seconds = undisturbed(work, folder)
    score, different = Score(seconds), []
    while score.kills < kills:
        shutil.rmtree(folder, ignore_errors=True)
        while score.kills < kills and killed_after(work, draw.uniform(0, score.seconds)):
            score.kills += 1
        different += compare(work, expected, folder)
        score.compared += 1
    score.of_points = committing_calls(work, folder) if points else 0
    for at in spread(score.of_points, points):
        shutil.rmtree(folder, ignore_errors=True)
        if finish(start(switch(work, at))):
            raise SystemExit(f"the switch at point {at} did not end the run")
        score.points += 1
        different += [f"point {at}: {what}" for what in compare(work, expected, folder)]
    score.different = tuple(different)
    return score


def undisturbed(work: Callable[[], object], folder: Path) -> tuple[dict[str, str], float]:
    """What the run leaves when nobody touches it, in this process and in a fork, and the seconds of the fork.

    The first leaves this process, and so every fork, with all that a run imports and compiles.
    """
    shutil.rmtree(folder, ignore_errors=True)
    work()
    expected = digest(folder)
    gc.collect()
    gc.freeze()
    shutil.rmtree(folder)
    began = time.monotonic()
    finish(start(work))
    seconds = round(time.monotonic() - began, 2)
    if what := difference(expected, folder):
        raise SystemExit(f"two undisturbed runs differ: {what}")
    return expected, seconds


def compare(work: Callable[[], object], expected: dict[str, str], folder: Path) -> list[str]:
    """Finish the run and name what differs."""
    finish(start(work))
    what = difference(expected, folder)
    return [what] if what else []


def committing_calls(work: Callable[[], object], folder: Path) -> int:
    """How many points a run has at which a switch can end it."""
    shutil.rmtree(folder, ignore_errors=True)
    count = folder.parent / "calls"
    finish(start(switch(work, -1, count)))
    return 2 * int(count.read_text())


def spread(total: int, wanted: int) -> list[int]:
    """`wanted` different numbers below `total`, evenly spaced; all of them where there are no more."""
    return sorted({round(i * (total - 1) / max(1, wanted - 1)) for i in range(min(total, wanted))})


def rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change each object of a JSONL file."""
    lines = [json.dumps(change(json.loads(line))) for line in path.read_text().splitlines()]
    path.write_text("".join(f"{line}\n" for line in lines))


def flip(path: Path) -> None:
    """Flip the last bit of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def forge_dev(run: Path) -> None:
    """A line that makes the model of step 0 the best on dev."""
    rewrite(run / "metrics.jsonl", lambda line: line | ({"dev_strict": 1.0} if line.get("step") == 0 else {}))


def answer_with_gold(run: Path) -> None:
    """Every stored answer becomes right."""
    golds = {}
    for line in (run / "problems" / "dev.jsonl").read_text().splitlines():
        golds[json.loads(line)["id"]] = json.loads(line)["gold"]
    (answers,) = (run / "predictions").glob("dev-*.jsonl")
    rewrite(answers, lambda line: line | {"text": f" #### {golds[line['problem_id']]}"})


def forge_summary(run: Path) -> None:
    """One more right answer on dev."""
    path = run / "summary.json"
    summary = json.loads(path.read_text())
    summary["evaluations"][0]["strict"] += 1
    path.write_text(json.dumps(summary, indent=1) + "\n")


def escape(model: Path) -> None:
    """The index of a model, all of whose weights are there, names a file outside its folder for one."""
    whole = model / "model.safetensors"
    tensors = load_file(whole)
    moved = "model.embed_tokens.weight"
    index = dict.fromkeys(tensors, "part.safetensors") | {moved: "../outside.safetensors"}
    save_file({moved: tensors.pop(moved)}, model.parent / "outside.safetensors", {"format": "pt"})
    save_file(tensors, model / "part.safetensors", {"format": "pt"})
    whole.unlink()
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


EVAL, RESUME = "eval {run}", "sft --config {config}"
PREDICT = "predict {run} --input {asked} --output {out}"
ATTACKS: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "answers rewritten to the gold": ("finished", answer_with_gold, EVAL, "/run/predictions/dev-"),
    "a figure of the summary forged": (
        "finished",
        forge_summary,
        EVAL + " eval.split=test",
        "/run/summary.json",
    ),
    "a weight flipped, then evaluated": (
        "finished",
        lambda run: flip(run / WEIGHTS),
        EVAL + " eval.split=test",
        f"/run/{WEIGHTS}",
    ),
    "a weight flipped, then asked": (
        "finished",
        lambda run: flip(run / WEIGHTS),
        PREDICT,
        f"/run/{WEIGHTS}",
    ),
    "settings emptied": (
        "finished",
        lambda run: (run / "config.yaml").write_text(""),
        EVAL,
        "/run/config.yaml",
    ),
    "a line of dev forged": ("unfinished", forge_dev, RESUME, "/run/metrics.jsonl"),
    "metrics emptied": (
        "unfinished",
        lambda run: (run / "metrics.jsonl").write_text(""),
        RESUME,
        "/run/metrics.jsonl",
    ),
    "pinned inputs emptied": (
        "unfinished",
        lambda run: (run / "inputs.json").write_text("{}"),
        RESUME,
        "/run: the data file",
    ),
    "an index that leaves the folder": ("model", escape, PREDICT, f"/run/{INDEX}"),
}
"""What was done, to a copy of which folder, the command that must refuse, and what it must name."""


def command(words: Sequence[str], said: Path) -> tuple[int, str]:
    """Exit code and last line of a command in a fork; code 1 where it ends with a traceback."""

    def work() -> None:
        for number, target in ((1, os.devnull), (2, said)):
            os.dup2(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os._exit(cli.main(words))

    code = os.waitstatus_to_exitcode(os.waitpid(start(work), 0)[1])
    return code, (said.read_text().strip().splitlines() or [""])[-1]


def attack(model: Path, place: Path) -> dict[str, dict[str, Any]]:
    """How the command of each attack ends: its exit code and line."""
    run, config, asked = place / "run", place / "config.yaml", place / "asked.jsonl"
    config.write_text(settings(model, run).to_yaml())
    asked.write_text('{"question": "How many are 2 and 3?"}\n')
    work = kinds(model, run)["sft"]
    calls = committing_calls(work, run)
    command(["eval", str(run)], place / "said")
    run.rename(place / "finished")
    finish(start(switch(work, calls // 2)))
    run.rename(place / "unfinished")
    shutil.copytree(model, place / "model")
    found = {}
    for name, (victim, change, words, named) in ATTACKS.items():
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(place / victim, run)
        change(run)
        places = {"run": run, "config": config, "asked": asked, "out": place / "out.jsonl"}
        code, line = command(words.format(**places).split(), place / "said")
        line = line.replace(str(place), "")[:300]
        found[name] = {"refused": code == 2 and named in line, "code": code, "line": line}
        print(f"{name}: exit {code}: {found[name]['line']}", flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Torture the kinds asked for, print a line each and add them to the result file; 1 where a run ended
    differently."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="random SIGKILLs for each kind")
    parser.add_argument(
        "--points", type=int, default=40, help="kills before or after a committing call, for each kind"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="KIND")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    before = json.loads(options.out.read_text()) if options.out.is_file() else {}
    stored, attacks = before.get("kinds", {}), before.get("attacks", {})
    with tempfile.TemporaryDirectory() as place:
        model, folder = small_gemma(Path(place) / "tiny", seed=0, eos=3), Path(place) / "run"
        gsm8k.load("train", **asdict(settings(model, folder).data))  # made once, here, for all forks
        for kind, work in kinds(model, folder).items():
            if options.only and kind not in options.only:
                continue
            before = Score(**stored[kind]) if kind in stored else Score(0.0)
            points = 0 if kind == SIDE_BY_SIDE else options.points
            score = torture(
                work, folder, options.kills, points, random.Random(f"{kind} after {before.kills} kills")
            )
            told = "; ".join(score.different) or "all equal"
            print(
                f"{kind}: {score.kills} random kills in {score.compared} runs, {score.points} kills "
                f"inside saves: {told}",
                flush=True,
            )
            stored[kind] = asdict(together(before, score))
            store(options.out, stored, attacks)
        if not options.only or "attacks" in options.only:
            (Path(place) / "attacks").mkdir()
            attacks = attack(model, Path(place) / "attacks")
            store(options.out, stored, attacks)
    equal = not any(score["different"] for score in stored.values())
    return int(not equal or not all(one["refused"] for one in attacks.values()))


def store(out: Path, kinds: dict[str, Any], attacks: dict[str, Any]) -> None:
    """Write what is known so far."""
    result = {"command": "make torture", "environment": environment(), "kinds": kinds, "attacks": attacks}
    out.write_text(json.dumps(result, indent=1) + "\n")


def together(before: Score, score: Score) -> Score:
    """Random kills add up, since each sitting draws others; the points are the same each time."""
    points = score if score.points else before
    return Score(
        score.seconds,
        before.kills + score.kills,
        before.compared + score.compared,
        points.points,
        points.of_points,
        (*before.different, *score.different),
    )


if __name__ == "__main__":
    sys.exit(main())
