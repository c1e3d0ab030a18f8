"""A training run continues bit for bit, keeps the best, changes what trains and nothing else."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from reckoner.algorithms import sft
from reckoner.config import Config, PeftConfig
from reckoner.engine.batches import Example
from reckoner.engine.optim import NonFinite
from reckoner.errors import InputError
from reckoner.models.policy import load_policy
from reckoner.training import loop as training
from reckoner.training.schedule import Schedule


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def at(config: Config, folder: Path, **train) -> Config:
    return replace(
        config, run=replace(config.run, output_dir=str(folder)), train=replace(config.train, **train)
    )


def lora(config: Config) -> Config:
    return replace(config, peft=PeftConfig(method="lora", lora_r=4, lora_alpha=8, lora_dropout=0.1))


def schedule_free(config: Config) -> Config:
    train = replace(config.train, optim="schedule_free_adamw", lr_scheduler_type="constant")
    return replace(config, train=train)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "model").glob("*.safetensors")
    return load_file(file)


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.parametrize("adapt", [lambda c: c, lora, schedule_free], ids=["full", "lora", "schedule-free"])
@pytest.mark.parametrize("phase, step", [("train", 1), ("train", 4), ("dev", 1), ("train", 6)])
def test_a_killed_run_continues_bit_for_bit(tiny_config, tmp_path, adapt, phase, step):
    config = adapt(replace(tiny_config, run=replace(tiny_config.run, save_steps=2)))
    whole, cut = at(config, tmp_path / "whole", eval_steps=3), at(config, tmp_path / "cut", eval_steps=3)
    sft.train(whole)
    seen = 0

    def kill(name: str, done: int, total: int, note: str) -> None:
        nonlocal seen
        seen += name == phase
        if seen >= step and name == phase:
            raise Killed

    with pytest.raises(Killed):
        sft.train(cut, kill)
    sft.train(cut)
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "cut")


def test_a_schedule_free_run_saves_its_averaged_weights(tiny_config, tmp_path):
    """In each checkpoint too, beside the weights that the next step goes on from."""
    config = schedule_free(
        replace(tiny_config, run=replace(tiny_config.run, save_steps=5, save_total_limit=9))
    )
    best = sft.train(at(config, tmp_path))["training"]["best_step"]
    for step in (5, 6):
        folder = tmp_path / "checkpoints" / f"step-{step:06d}"
        saved, state = (load_file(folder / f"{name}.safetensors") for name in ("policy", "policy-optimizer"))
        for name, weight in saved.items():
            point, offset = state[f"{name}/point"], state[f"{name}/offset"]
            torch.testing.assert_close(weight, point - 0.1 * offset)
        assert any(not torch.equal(weight, state[f"{name}/point"]) for name, weight in saved.items())
    kept = load_file(tmp_path / "checkpoints" / f"step-{best:06d}" / "policy.safetensors")
    assert best == 6 and all(torch.equal(kept[name], weight) for name, weight in weights(tmp_path).items())


def test_training_learns_and_says_so(tiny_config, tmp_path):
    summary = sft.train(at(tiny_config, tmp_path / "r", num_train_epochs=4.0, learning_rate=3e-3))
    done = summary["training"]
    assert done["dev_loss_final"] < done["dev_loss_first"] - 0.3
    assert done["steps"] == 4 * 6 and done["epochs"] == 4.0 and done["samples"] == 4 * 48
    lines = metrics(tmp_path / "r")
    assert lines[0]["step"] == 0 and "dev_loss" in lines[0]
    train_lines = [line for line in lines if "loss" in line]
    assert [line["step"] for line in train_lines] == list(range(1, 25))
    assert done["supervised_tokens"] == train_lines[-1]["supervised_tokens"]
    assert done["loss_final"] == pytest.approx(sum(line["loss"] for line in train_lines[-2:]) / 2)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux alone")
@pytest.mark.parametrize(
    "adapt",
    [
        lambda c: c,
        lambda c: replace(c, peft=PeftConfig(method="lora", lora_r=4, lora_alpha=8, lora_dropout=0.0)),
    ],
    ids=["full", "lora"],
)
def test_a_process_for_each_thread_trains_the_same_model(tiny_config, tmp_path, adapt):
    """Each step's loss, gradient and token accuracy with three processes are those with one; so are the
    weights, but for rounding that Adam enlarges.
    """
    found, before = [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        folder = tmp_path / str(threads)
        sft.train(at(adapt(tiny_config), folder))
        found.append((weights(folder), [line for line in metrics(folder) if "loss" in line]))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    (alone, one), (shared, three) = found
    assert len(one) == len(three) == 6
    for left, right in zip(one, three, strict=True):
        assert {key: left[key] for key in ("loss", "grad_norm", "token_accuracy")} == pytest.approx(
            {key: right[key] for key in ("loss", "grad_norm", "token_accuracy")}, rel=1e-3
        )
    size = torch.stack([weight.norm() for weight in alone.values()]).norm()
    assert all((shared[name] - weight).norm() <= 1e-4 * size for name, weight in alone.items())


def test_a_finished_run_is_not_trained_again(tiny_config, tmp_path):
    config = at(tiny_config, tmp_path / "r")
    first = sft.train(config)
    before = {
        p: p.stat().st_mtime_ns for p in (tmp_path / "r").rglob("*") if p.is_file() and p.name != ".lock"
    }
    assert sft.train(config) == first
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_the_model_loads_with_plain_transformers(tiny_config, tmp_path):
    config = at(tiny_config, tmp_path / "r")
    sft.train(config)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "r" / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "r" / "model")
    ours = load_policy(
        replace(config.model, model_name_or_path=str(tmp_path / "r")), PeftConfig(), train=False
    )
    ids = torch.tensor([tokenizer("<bos>Question: 2+2?")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, ours.model(ids).logits)


def test_lora_trains_the_adapter_alone(tiny_config, tmp_path):
    config = at(lora(tiny_config), tmp_path / "r")
    base = load_policy(config.model, PeftConfig(), train=False).model.state_dict()
    sft.train(config)
    saved = weights(tmp_path / "r")
    assert all("lora_" in name for name in saved)
    assert sum(bool(t.any()) for name, t in saved.items() if "lora_B" in name) == sum(
        "lora_B" in name for name in saved
    )
    after = load_policy(config.model, PeftConfig(), train=False).model.state_dict()
    assert all(torch.equal(base[name], after[name]) for name in base)


def test_a_problem_longer_than_the_context_is_refused(tiny_config, tiny_model, tmp_path):
    short = tmp_path / "short"
    short.mkdir()
    for file in tiny_model.iterdir():
        (short / file.name).write_bytes(file.read_bytes())
    settings = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 100}))
    config = at(
        replace(tiny_config, model=replace(tiny_config.model, model_name_or_path=str(short))), tmp_path / "r"
    )
    with pytest.raises(
        InputError, match=r"the longest problem has \d+ tokens and .* reads 100. Set train.max_length=100"
    ):
        sft.train(config)


def test_the_best_step_wins_not_the_last():
    position = training.TrainState(step=9)
    for step, strict, loss in [(0, 1, 3.0), (3, 5, 2.0), (6, 5, 1.5), (9, 4, 1.0)]:
        position.evaluations.append({"step": step, "dev_strict": strict, "dev_loss": loss})
    assert position.best_step == 6 and position.stale() == 1 and position.evaluated


def test_early_stopping_keeps_the_best(tiny_config, tmp_path):
    # A learning rate that destroys: dev exact match stays 0, so dev loss decides, and the start remains the
    # best.
    config = at(
        tiny_config,
        tmp_path / "r",
        learning_rate=1.0,
        max_grad_norm=0.0,
        eval_steps=1,
        early_stopping_patience=2,
        warmup_ratio=0.0,
    )
    done = sft.train(config)["training"]
    assert (done["steps"], done["best_step"]) == (2, 0) and done["dev_loss_final"] == done["dev_loss_first"]
    start = load_policy(config.model, PeftConfig(), train=False).model.state_dict()
    assert all(torch.equal(start[name], tensor) for name, tensor in weights(tmp_path / "r").items())


def test_gradients_do_not_depend_on_accumulation(tiny_config):
    policy = load_policy(tiny_config.model, PeftConfig(), train=True)
    draw = torch.Generator().manual_seed(0)
    examples = [
        Example(
            str(i),
            tuple(torch.randint(5, 300, (7 + i,), generator=draw).tolist()),
            tuple(torch.randint(5, 300, (3 + 2 * i,), generator=draw).tolist()),
        )
        for i in range(7)
    ]

    def gradient(micro: int) -> torch.Tensor:
        policy.model.zero_grad()
        loss, _ = sft.accumulate_gradient(policy, examples, micro)
        return torch.cat([p.grad.flatten() for p in policy.model.parameters()]), loss

    whole, loss = gradient(7)
    for micro in (1, 2, 3, 4):
        part, part_loss = gradient(micro)
        assert torch.allclose(whole, part, atol=1e-6) and part_loss == pytest.approx(loss, rel=1e-6)


def test_every_problem_once_an_epoch_in_an_order_of_seed_and_step():
    examples = [Example(str(i), (1,) * (i % 5 + 1), (2,)) for i in range(23)]
    schedule = Schedule(4, 1, 1, 1, steps=12, per_epoch=6, eval_every=6, save_every=0, draws=False)
    epochs = [
        [e.id for s in range(1 + 6 * e, 7 + 6 * e) for e in sft.step_examples(examples, schedule, 0, s)]
        for e in (0, 1)
    ]
    assert sorted(epochs[0], key=int) == sorted(epochs[1], key=int) == [str(i) for i in range(23)]
    assert epochs[0] != epochs[1]
    assert (
        sft.step_examples(examples, schedule, 0, 3)
        == sft.step_examples(examples, schedule, 0, 3)
        != sft.step_examples(examples, schedule, 1, 3)
    )


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(tiny_config, tmp_path):
    config = at(tiny_config, tmp_path / "r", learning_rate=1e30, max_grad_norm=0.0, warmup_ratio=0.0)
    with pytest.raises(NonFinite):
        sft.train(config)
    assert not (tmp_path / "r" / "model").exists() and not (tmp_path / "r" / "summary.json").exists()


def test_a_problem_over_max_length_is_refused_or_listed(tiny_config, tmp_path):
    with pytest.raises(
        InputError, match=r"are longer than max_length=60 \(longest \d+\) and would lose their answer"
    ):
        sft.train(at(tiny_config, tmp_path / "a", max_length=60))
    sft.train(at(tiny_config, tmp_path / "b", max_length=110, drop_long=True))
    data = json.loads((tmp_path / "b" / "data.json").read_text())
    assert (
        data["dropped"]
        and data["sizes"]["train"] == 48 - len(data["dropped"])
        and data["lengths"]["max"] <= 110
    )


def test_no_dev_problems_are_named_before_training(tiny_config):
    for size in (0, 0.00001):
        tiny_config.data.dev_size = size
        with pytest.raises(InputError, match=r"data.dev_size=\S+ leaves no dev problems"):
            sft.train(tiny_config)
