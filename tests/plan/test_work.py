"""Counted work and memory against torch's own counts of a real pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reckoner.config import ModelConfig, PeftConfig
from reckoner.engine import products, states
from reckoner.engine.batches import Example, collate
from reckoner.engine.logprobs import cross_entropy
from reckoner.engine.products import KEPT
from reckoner.models.dimensions import Shape, meta_model, model_config
from reckoner.models.policy import load_policy
from reckoner.plan.machines import Machine, choose_machine, cpu, measure
from reckoner.plan.memory import SLACK, activation_bytes, kernel_bytes, key_bytes, logit_bytes
from reckoner.plan.work import Load, Work, forward, generation, optimizer, training

FULL, LORA, DRY = PeftConfig(), PeftConfig(method="lora", lora_dropout=0.05), PeftConfig(method="lora")
ROWS, LENGTH, COMPLETION = 4, 96, 60


@pytest.fixture(scope="module")
def shape() -> Shape:
    return Shape.of(meta_model(model_config("nano")))


@pytest.fixture
def modules(monkeypatch):
    """Training by the model's own modules, as on a GPU, which is what a plan counts; the packed pass on a CPU keeps less.

    By torch's own products too: its counter does not know those of oneDNN.
    """
    monkeypatch.setattr(states, "_needs_modules", lambda model: True)
    monkeypatch.setattr(products, "_onednn", None)


def real(peft, attention="sdpa"):
    """The embedded model ready to train, a batch for it, and the load that a plan makes of it."""
    policy = load_policy(ModelConfig("nano", device="cpu", attn_implementation=attention), peft, train=True)
    tokens = [tuple(range(10 + i, 10 + i + LENGTH)) for i in range(ROWS)]
    batch = collate(
        [
            Example(str(i), row[: LENGTH - COMPLETION], row[LENGTH - COMPLETION :])
            for i, row in enumerate(tokens)
        ],
        0,
    )
    adapter = policy.parameters_trainable if peft.method == "lora" else 0
    shape = Shape.of(meta_model(model_config("nano")))
    return policy, batch, Load(shape, adapter, peft.lora_dropout > 0)


def test_shape_of_the_embedded_model(shape):
    assert (shape.layers, shape.hidden, shape.heads, shape.queries, shape.keys) == (4, 128, 4, 128, 32)
    assert (shape.parameters, shape.head) == (
        1_082_496,
        1024 * 128,
    ) and shape.block == shape.parameters - shape.head
    assert (shape.projected_in, shape.projected_out) == (
        5 * 128 + 128 + 512,
        128 + 32 + 32 + 128 + 512 + 512 + 128,
    )
    assert shape.kept_keys == 4 * 2 * 32 and not shape.open_scores
    assert Shape.of(meta_model(model_config("google/gemma-2-2b"))).open_scores


@pytest.mark.parametrize("peft", [FULL, LORA], ids=["full", "lora"])
def test_products_are_those_that_torch_counts(peft, modules):
    policy, batch, load = real(peft, attention="eager")
    with FlopCounterMode(display=False) as counter:
        cross_entropy(policy.model, batch)[0].backward()
    counted = training(load, ROWS, LENGTH, COMPLETION)
    # Scores that no kernel skips are twice those of a plan, and the norms' weights, which are in no product, 0.1 % of all.
    scores = 4 * load.shape.queries * load.shape.layers * ROWS * LENGTH * LENGTH
    assert counted.matmul + 3 * scores / 2 == pytest.approx(counter.get_total_flops(), rel=0.03)


@pytest.mark.parametrize("peft", [FULL, LORA, DRY], ids=["full", "lora", "lora without dropout"])
def test_activations_are_those_that_autograd_keeps(peft, modules):
    policy, batch, load = real(peft)
    own = {p.untyped_storage().data_ptr() for p in policy.model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        cross_entropy(policy.model, batch)
    logits = ROWS * COMPLETION * load.shape.vocabulary * 4
    found = sum(storage.nbytes() for storage in kept.values() if storage.nbytes() < logits)
    assert activation_bytes(load, ROWS * LENGTH, LENGTH) / SLACK == pytest.approx(found, rel=0.12)


@pytest.mark.parametrize("peft", [FULL, DRY], ids=["full", "lora without dropout"])
def test_activations_of_the_packed_pass_are_those_that_autograd_keeps(peft):
    policy, batch, load = real(peft)
    kept, filled = {}, ROWS * COMPLETION + -ROWS * COMPLETION % products.ROUND
    tokens = ROWS * LENGTH + products.ROUND - ROWS * LENGTH % products.ROUND

    def pack(tensor):
        if tensor.shape[0] in (1, ROWS, tokens, filled):  # of tokens or of rows, not of weights
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        states.completion_states(policy.model, batch)
    found = sum(storage.nbytes() for storage in kept.values())
    assert activation_bytes(replace(load, packed=True), ROWS * LENGTH, LENGTH) / SLACK == pytest.approx(
        found, rel=0.12
    )
    assert activation_bytes(replace(load, packed=True, looped=True), ROWS * LENGTH, LENGTH) == pytest.approx(
        found, rel=0.12
    )


def test_prepared_products_by_hand():
    """6 products of 10 token counts (64 to 1,280 in steps of 64, every other one), and 7 of 4 row counts (16 to 64), 1 MB each."""
    assert (
        kernel_bytes(20 * 64, 0) == 60_000_000
        and kernel_bytes(0, 64) == 28_000_000
        and kernel_bytes(1280, 64) == 88_000_000
    )
    assert kernel_bytes(12_800, 512) == KEPT * 1_000_000, "no more than are kept"


def test_loops_move_half_of_what_torchs_operations_move_outside_products(shape):
    plain, looped = (
        training(Load(shape, looped=looped), ROWS, LENGTH, COMPLETION, logits=False)
        for looped in (False, True)
    )
    assert looped.moved == plain.moved / 2 and (looped.matmul, looped.issued) == (plain.matmul, plain.issued)


def test_folded_lora_multiplies_as_all_weights_do_and_reads_no_activation_for_it(shape):
    beside, folded, full = (
        training(Load(shape, adapter, folded=f), ROWS, LENGTH, COMPLETION, logits=False)
        for adapter, f in ((1000, False), (1000, True), (0, False))
    )
    assert (folded.matmul, folded.moved) == (
        full.matmul,
        full.moved,
    ) and full.issued < folded.issued < beside.issued
    assert (
        full.matmul - beside.matmul == (2 * shape.block - 6 * 1000) * ROWS * LENGTH
        and beside.moved > full.moved
    )


def test_recomputed_layers_keep_their_input_alone(shape):
    kept, all_kept = (activation_bytes(Load(shape, recompute=on), 1000, 100) for on in (True, False))
    one_layer = all_kept / shape.layers
    assert kept == pytest.approx(one_layer + SLACK * 4 * 1000 * shape.hidden * shape.layers)
    assert training(Load(shape, recompute=True), 10, 100, 60).matmul - training(
        Load(shape), 10, 100, 60
    ).matmul == pytest.approx(2 * shape.block * 1000 + 4 * shape.queries * shape.layers * 1000 * 100 / 2)


def test_a_shared_prompt_is_multiplied_once(shape):
    alone, shared = (training(Load(shape), 64, 120, 80, sharing=n) for n in (1, 8))
    assert (
        alone.matmul - shared.matmul == pytest.approx(6 * shape.block * 64 * 40 * 7 / 8)
        and shared.moved < alone.moved
    )


def test_open_scores_count(shape):
    capped = Shape(**{**vars(shape), "open_scores": True})
    more = activation_bytes(Load(capped), 1000, 100) - activation_bytes(Load(shape), 1000, 100)
    assert more == pytest.approx(SLACK * 4 * 1000 * 5 * shape.heads * 100 * shape.layers, abs=2)


def test_generation_by_hand(shape):
    load = Load(shape)
    found = generation(load, prompts=10, samples=8, prompt=40, drawn=60, rows=80)
    tokens, block, head = 10 * 8 * 60, shape.block, shape.head
    attention = 4 * shape.queries * shape.layers
    prefill = 2 * block * 400 + 2 * head * 10 + attention * 400 * 40 / 2
    assert found.matmul == pytest.approx(prefill + 2 * (block + head) * tokens + attention * tokens * 70)
    # 80 rows, three quarters of them at work, draw 60 tokens each in 80 steps; one row alone still needs a step for each token
    assert found.issued == pytest.approx(shape.layers * 60 + 80 * (shape.layers * 30 + 40))
    assert generation(load, 1, 1, 40, 60, rows=80).issued == pytest.approx(
        shape.layers * 60 + 60 * (shape.layers * 30 + 40)
    )


def test_samples_of_a_prompt_share_its_prefill(shape):
    apart = generation(Load(shape), 80, 1, 40, 60, 80).matmul
    assert apart - generation(Load(shape), 10, 8, 40, 60, 80).matmul == pytest.approx(
        forward(Load(shape), 70, 40, 1).matmul
    )


def test_keys_and_logits_by_hand(shape):
    assert key_bytes(shape, 10, 100, 2) == 1.5 * 10 * 100 * 4 * 2 * 32 * 2
    assert logit_bytes(shape, 100, "cpu") == 3 * 4 * 100 * 1024
    assert logit_bytes(shape, 10**9, "cpu") == 3 * 4 * 2**26


def test_work_adds_up_and_takes_time():
    machine = Machine("toy", "cpu", matmul=100.0, bandwidth=10.0, issue=0.5, memory=0)
    work = Work(200.0, 20.0, 4.0) + Work(100.0, 10.0, 2.0) * 2
    assert work == Work(400.0, 40.0, 8.0)
    assert work.seconds(machine) == 4 + 4 + 4
    assert work.seconds(Machine("toy", "cuda", 100.0, 10.0, 0.5, 0)) == 8
    assert work.seconds(Machine("toy", "cuda", 100.0, 10.0, 2.0, 0)) == 16
    assert optimizer(1000).moved == 44_000


def test_a_measured_machine_has_rates_of_its_own():
    assumed = cpu(1)
    found = measure(assumed, torch.float32)
    assert (found.kind, found.memory) == ("cpu", assumed.memory) and found.name.endswith("measured")
    assert 1e8 < found.matmul < 1e13 and 1e7 < found.bandwidth < 1e12 and 1e-7 < found.issue < 1e-2


def test_which_machine_is_planned_for():
    from reckoner.config import load_config

    config = load_config("", (), ["run.threads=2"])
    assert choose_machine(config, 10, "cpu")[0] == cpu(2)
    assert choose_machine(config, 10, "a100")[0].matmul == pytest.approx(0.65 * 312e12)
    if not torch.cuda.is_available():
        assert choose_machine(config, 10)[0].kind == "cpu"
        assert choose_machine(config, 10**9)[1] == "no GPU here; --on names another"
    config.model.device = "cpu"
    assert choose_machine(config, 10**9)[0].kind == "cpu"


def test_between_nodes_the_link_is_slow():
    machine = Machine("toy", "cuda", 1, 1, 1, 0, link=300e9)
    assert machine.between(8) == 300e9 and machine.between(16) == 40e9
