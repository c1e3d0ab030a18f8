"""Checkpoints come back bit for bit, or are found damaged; never anything between."""

import os
import random
import shutil
from pathlib import Path

import pytest
import torch

from reckoner.errors import Stopped
from reckoner.runs import checkpoints

GROUPS = {
    "weights": {"a": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([1.5], dtype=torch.bfloat16)},
    "optimizer": {"exp_avg/a": torch.full((3, 4), 0.1)},
}


NOTHING = {"size": 0, "sha256": ""}


def state(step: int, **dev: int) -> dict:
    """The state of a checkpoint whose dev evaluations solved so many problems at each step: `step_2=5`."""
    lines = [
        {"step": int(name[5:]), "dev_strict": n, "dev_loss": 1.0, "dev_flexible": n, "dev_n": 9}
        for name, n in dev.items()
    ]
    costs = {"samples": 0, "tokens": 0, "supervised_tokens": 0, "flops": 0.0, "seconds": 0.0}
    return {"step": step, **costs, "evaluations": lines, "metrics": NOTHING}


def no_warning(message: str) -> None:
    raise AssertionError(message)


def test_round_trip_is_exact(tmp_path):
    checkpoints.save(tmp_path, 7, GROUPS, state(7))
    found = checkpoints.newest(tmp_path, no_warning)
    assert found.step == 7 and found.state == state(7)
    for group, tensors in GROUPS.items():
        loaded = dict(found.tensors(group))
        assert loaded.keys() == tensors.keys()
        assert all(
            torch.equal(loaded[name], t) and loaded[name].dtype == t.dtype for name, t in tensors.items()
        )


def test_nothing_saved_is_nothing_found(tmp_path):
    assert checkpoints.newest(tmp_path / "absent", no_warning) is None


def damage(victim: Path, draw: random.Random) -> None:
    """Flip a bit of a file, cut it, delete it, put a folder in its place, or add a file beside it."""
    content = bytearray(victim.read_bytes())
    kind = draw.choice(["flip", "flip", "flip", "truncate", "truncate", "delete", "folder", "extra"])
    if kind == "flip":
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        victim.write_bytes(content)
    elif kind == "truncate":
        victim.write_bytes(content[: draw.randrange(len(content))])
    elif kind == "extra":
        (victim.parent / "extra.safetensors").write_bytes(b"x")
    else:
        victim.unlink()
        if kind == "folder":
            victim.mkdir()


def test_a_thousand_flips_truncations_and_deletions_are_found(tmp_path):
    """Each time the checkpoint before is used, with a warning that names the damaged one."""
    kept, draw = tmp_path / "kept", random.Random(0)
    checkpoints.save(kept, 1, GROUPS, state(1))
    newest = checkpoints.save(kept, 2, GROUPS, state(2))
    whole = tmp_path / "whole"
    shutil.copytree(newest, whole)
    for _ in range(1000):
        damage(draw.choice(sorted(newest.iterdir())), draw)
        warnings = []
        found = checkpoints.newest(kept, warnings.append)
        assert found.step == 1 and len(warnings) == 1 and warnings[0].startswith(f"{newest} is damaged (")
        shutil.rmtree(newest)
        shutil.copytree(whole, newest)
    assert checkpoints.newest(kept, no_warning).step == 2


def test_where_all_are_damaged_each_is_named_and_none_is_used(tmp_path):
    for step in (1, 2):
        (checkpoints.save(tmp_path, step, GROUPS, state(step)) / "state.json").write_text("{}")
    warnings = []
    assert checkpoints.newest(tmp_path, warnings.append) is None
    assert ["step-000002" in warnings[0], "step-000001" in warnings[1], len(warnings)] == [True, True, 2]


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path):
    first = checkpoints.save(tmp_path, 1, GROUPS, state(1))
    (first / "weights.safetensors").write_bytes(b"torn")
    assert checkpoints.fault(checkpoints.save(tmp_path, 1, GROUPS, state(1))) == ""


def test_a_killed_save_leaves_the_old_one_and_is_cleared(tmp_path):
    checkpoints.save(tmp_path, 1, GROUPS, state(1))
    torn = tmp_path / ".tmp-step-000002"
    torn.mkdir()
    (torn / "weights.safetensors").write_bytes(b"half")
    assert checkpoints.newest(tmp_path, no_warning).step == 1
    checkpoints.save(tmp_path, 2, GROUPS, state(2))
    assert checkpoints.newest(tmp_path, no_warning).step == 2
    checkpoints.prune(tmp_path, 1, set())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000002"]


def test_prune_keeps_the_newest_and_the_best(tmp_path):
    for step in (1, 2, 3, 4):
        checkpoints.save(tmp_path, step, GROUPS, state(step))
    checkpoints.prune(tmp_path, 2, {1})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000001", "step-000003", "step-000004"]


def test_a_kill_while_pruning_leaves_no_checkpoint_in_part(tmp_path, monkeypatch):
    for step in (1, 2, 3):
        checkpoints.save(tmp_path, step, GROUPS, state(step))

    def killed(folder):
        next(folder.iterdir()).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoints.shutil, "rmtree", killed)
        checkpoints.prune(tmp_path, 1, set())
    assert not any(checkpoints.fault(step) for step in tmp_path.glob("step-*"))
    checkpoints.tidy(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000003"]


def test_full_disk_is_one_line_and_keeps_the_old(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, 1, GROUPS, state(1))
    usage = checkpoints.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(Stopped, match=r"needs 1\.0 MB, 0\.0 MB are free"):
        checkpoints.save(tmp_path, 2, GROUPS, state(2))
    assert checkpoints.newest(tmp_path, no_warning).step == 1


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "checkpoints").write_text("not a folder")
    with pytest.raises(Stopped, match="cannot be written"):
        checkpoints.save(tmp_path / "checkpoints", 1, GROUPS, {})
    assert os.path.isfile(tmp_path / "checkpoints")


def test_a_damaged_best_checkpoint_sends_the_run_back_before_it_with_a_line(tmp_path):
    """Its step is trained again, as are those after it: nothing newer is left that would skip it."""
    solved = {"step_0": 1, "step_2": 5, "step_3": 2}
    for step in range(5):
        so_far = {name: n for name, n in solved.items() if int(name[5:]) < step}
        checkpoints.save(tmp_path, step, GROUPS, state(step, **so_far))
    assert checkpoints.newest(tmp_path, no_warning).step == 4
    (tmp_path / "step-000002" / "weights.safetensors").write_bytes(b"torn")
    warnings = []
    assert checkpoints.newest(tmp_path, warnings.append).step == 1
    assert len(warnings) == 1 and warnings[0].startswith(
        f"{tmp_path}/step-000002, the best so far, is damaged (weights.safetensors has changed)"
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000", "step-000001"]
    with pytest.raises(Stopped, match="The same command trains again from the checkpoint before it"):
        checkpoints.at_step(tmp_path, 2)


def test_where_nothing_stands_before_a_damaged_best_the_run_begins_again(tmp_path):
    checkpoints.save(tmp_path, 3, GROUPS, state(3, step_0=1))
    warnings = []
    assert checkpoints.newest(tmp_path, warnings.append) is None
    assert "step-000000, the best so far, is damaged" in warnings[0] and not list(tmp_path.iterdir())
