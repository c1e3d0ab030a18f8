"""What many tests share: settings of hypothesis, and a model small enough to train in a second."""

import dataclasses
import gc
import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

# Tensors of tests are tiny: a second thread only waits. Set before torch is imported anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No wall-clock limit: on a busy machine it fails tests that are right.
settings.register_profile("reckoner", deadline=None)
settings.load_profile("reckoner")


def pytest_configure() -> None:
    """Side by side, each worker and what it starts keep to one core: threads of torch that share one wait
    for each other.

    A suite in the background of a shell inherits that interrupts are ignored; what it starts must not.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, so that none is left to one worker at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Runs collect garbage before they measure memory; what the tests imported is not searched."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


def make_tiny_model(folder: Path) -> Path:
    """A model folder in transformers' format: a random Gemma of 60,000 parameters with the embedded
    tokenizer.
    """
    import torch
    from transformers import AutoTokenizer, GemmaConfig, GemmaForCausalLM

    from reckoner.models.sources import verified_embedded

    tokenizer = AutoTokenizer.from_pretrained(verified_embedded())
    torch.manual_seed(0)
    config = GemmaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=1024,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    GemmaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_config(tiny_model, tmp_path):
    """48 embedded problems to learn from, 8 for dev, 12 for test, six steps an epoch, in a fresh run
    folder.
    """
    from reckoner.config import (
        Config,
        DataConfig,
        EvalConfig,
        ModelConfig,
        PromptConfig,
        RunConfig,
        TrainConfig,
    )

    return Config(
        model=ModelConfig(model_name_or_path=str(tiny_model)),
        data=DataConfig(dev_size=8, max_train_samples=48, max_test_samples=12),
        prompt=PromptConfig(chat_template="off"),
        train=TrainConfig(learning_rate=1e-3, per_device_train_batch_size=4, gradient_accumulation_steps=2),
        eval=EvalConfig(dev_samples=4),
        run=RunConfig(output_dir=str(tmp_path / "run"), save_steps=0),
    )


@pytest.fixture
def rl_config(tiny_config):
    """A run of 4 steps of 4 x 4 completions on embedded problems, evaluated every second step, without a
    guard.
    """
    tiny_config.rollout = dataclasses.replace(
        tiny_config.rollout, num_prompts=4, num_generations=4, max_steps=4, patience=0, kl_samples=8
    )
    tiny_config.train.eval_steps = 2
    tiny_config.train.lr_scheduler_type = "constant"
    tiny_config.eval.dev_samples = 2
    return tiny_config
