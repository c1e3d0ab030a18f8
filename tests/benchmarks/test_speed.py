"""The speed benchmarks: ratios and shares by hand, and the GPU script with tiny dimensions in a bare
environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from benchmarks import figures, measure

ROOT = Path(__file__).parents[2]

STORED = {
    "ceiling": {
        "sft, gate and up": {"float32": 200.0},
        "sft, down": {"float32": 150.0},
        "decoding, down": {"float32": 100.0},
    },
    "sft": {
        "flops_per_token": 5e6,
        "arms": {
            "ours": {"rate": 16000.0, "unit": "tokens/s"},
            "original recipe": {"rate": 4000.0, "unit": "tokens/s"},
            "trl defaults": {"rate": 5000.0, "unit": "tokens/s"},
            "trl fp32 packed": {"rate": 8000.0, "unit": "tokens/s"},
        },
    },
    "start-up": {"machine": {}, "reckon grade": {"seconds": 0.31}},
}


def test_each_line_takes_the_fastest_rival_and_its_own_ceiling():
    """16,000 tokens/s of 5 MFLOP are 80 of 200 GFLOP/s."""
    found = {line.goal.title: line for line in figures.lines(STORED)}
    assert {title: line.ratio for title, line in found.items()} == {
        "SFT, original recipe": 4.0,
        "SFT, TRL at its best": 2.0,
        "SFT, TRL at its defaults": 3.2,
    }
    assert found["SFT, TRL at its best"].rival == "trl fp32 packed"
    assert [line.share for line in found.values()] == [0.4] * 3


def test_the_table_shows_ratios_goals_and_start_up():
    rows = figures.table(STORED).splitlines()
    assert rows[2] == "| SFT, original recipe | 16,000 | 4,000 | tokens/s | 4.00x | 2.5x | 4x | 40% |"
    assert rows[-1] == "| start-up, reckon grade | 0.31 |  | s |  | 0.5 s | 0.25 s |  |"


def test_arms_run_in_turn_and_medians_are_of_measured_laps():
    order, laps = [], iter([9.0, 9.0, 1.0, 2.0, 4.0, 8.0, 2.0, 4.0])

    def arm(name: str) -> measure.Arm:
        return lambda: (order.append(name), measure.Lap(8.0, next(laps)))[1]

    found = measure.alternate({"a": arm("a"), "b": arm("b")}, repeat=3, unit="x/s")
    assert order == ["a", "b"] * 4
    assert (
        found["a"]["rates"] == [8.0, 2.0, 4.0] and found["a"]["rate"] == 4.0 and found["b"]["seconds"] == 4.0
    )


def test_an_arm_apart_runs_in_one_other_process():
    arm = measure.apart(partial, os.getpid)
    assert arm() == arm() != os.getpid()


def test_a_part_measured_again_replaces_only_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "RESULTS", tmp_path)
    measure.merge("x", {"a": 1, "b": 2})
    assert measure.merge("x", {"b": 3}) == {"a": 1, "b": 3}


@pytest.mark.slow
def test_the_gpu_script_needs_nothing_that_a_bare_environment_lacks():
    code = (
        "import sys, warnings\n"
        "warnings.simplefilter('ignore', FutureWarning)\n"
        "sys.modules.update(dict.fromkeys(['trl', 'datasets', 'omegaconf', 'typer', 'vllm', 'rich', "
        "'matplotlib']))\n"
        "from benchmarks.gpu import main\n"
        "found = main(['--tiny', '--repeat', '1'])\n"
        "print(sorted(found), all(found[name]['rate'] > 0 for name in ('rollouts', 'ppo', 'grpo')), "
        "sorted(found['sft']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.splitlines()[-1]
        == "['ceiling', 'grpo', 'lean', 'lora', 'ppo', 'rollouts', 'sft'] True ['256', '512', 'machine']"
    )
