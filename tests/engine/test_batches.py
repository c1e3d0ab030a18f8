from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reckoner.engine import batches
from reckoner.engine.batches import Example, collate, epoch_batches, forward_passes, micro_batches

from .conftest import build

LONG = Example("long", (5, 6, 7), (8, 9))
SHORT = Example("short", (5,), (9, 8, 1))


def test_right_padding_by_hand():
    batch = collate([LONG, SHORT], pad_id=0, device="cpu")
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9], [5, 9, 8, 1, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]
    assert batch.rows.tolist() == [0, 0, 1, 1, 1]
    assert batch.cols.tolist() == [2, 3, 0, 1, 2]
    assert batch.targets.tolist() == [8, 9, 9, 8, 1]
    assert batch.lengths.tolist() == [2, 3]


def test_left_padding_by_hand():
    batch = collate([LONG, SHORT], pad_id=0, device="cpu", side="left")
    assert batch.input_ids.tolist() == [[5, 6, 7, 8, 9], [0, 5, 9, 8, 1]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 3, 4], [0, 0, 1, 2, 3]]
    assert batch.cols.tolist() == [2, 3, 1, 2, 3]
    assert batch.targets.tolist() == [8, 9, 9, 8, 1]


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_with_eos_changes_only_the_padding(side):
    plain, with_eos = (collate([LONG, SHORT], pad, "cpu", side) for pad in (0, 1))
    for name in ("attention_mask", "position_ids", "rows", "cols", "targets", "lengths"):
        assert torch.equal(getattr(plain, name), getattr(with_eos, name)), name


def test_empty_completion_has_no_targets_and_empty_prompt_is_refused():
    batch = collate([Example("a", (4, 4), ()), LONG], 0, "cpu")
    assert batch.rows.tolist() == [1, 1] and batch.lengths.tolist() == [0, 2]
    with pytest.raises(ValueError, match="empty prompt"):
        collate([Example("a", (), (4, 4))], 0, "cpu")


ids = st.lists(st.integers(0, 9), min_size=1, max_size=12).map(tuple)


@given(
    st.lists(st.tuples(ids, ids), min_size=1, max_size=8),
    st.sampled_from(["left", "right"]),
    st.integers(0, 9),
)
def test_every_sequence_survives_a_round_trip(pairs, side, pad):
    batch = collate([Example("x", prompt, completion) for prompt, completion in pairs], pad, "cpu", side)
    kept = [
        row[mask.bool()].tolist() for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
    ]
    assert kept == [[*prompt, *completion] for prompt, completion in pairs]
    assert batch.targets.tolist() == [token for _, completion in pairs for token in completion]
    assert torch.equal(batch.input_ids[batch.rows, batch.cols + 1], batch.targets)


@given(st.lists(st.integers(1, 200), max_size=90), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3))
def test_an_epoch_visits_every_index_once_in_full_batches(lengths, size, seed, epoch):
    batches = epoch_batches(lengths, size, seed, epoch, pool=4)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert (
        sorted(len(batch) % size for batch in batches)[:-1] == [0] * (len(batches) - 1)
        if batches
        else not lengths
    )
    assert batches == epoch_batches(lengths, size, seed, epoch, pool=4)


def test_epochs_and_seeds_differ_and_batches_pad_little():
    lengths = [20 + (i * 7919) % 180 for i in range(2000)]
    first, second, other = (
        epoch_batches(lengths, 16, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))
    )
    assert first != second and first != other
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in first)
    assert padded < 1.04 * sum(lengths)
    means = [sum(lengths[i] for i in batch) / len(batch) for batch in first]
    assert means != sorted(means)


def test_the_order_of_an_epoch_is_fixed_forever():
    assert epoch_batches([3, 1, 2, 5, 4], 2, seed=0, epoch=0) == [[1, 2], [0, 4], [3]]


def test_micro_batches_hold_the_token_budget():
    lengths = [10, 50, 30, 49, 300]
    assert micro_batches(range(5), lengths, 100) == [[4], [1, 3], [2, 0]]
    assert micro_batches([2, 0], lengths, 60) == [[2, 0]]
    assert micro_batches([], lengths, 60) == []


def test_passes_of_a_cpu_hold_no_more_than_its_memory(monkeypatch, family_models):
    model = family_models["llama"]
    monkeypatch.setattr(
        batches, "CPU_PASS_STATES", 10 * 48 * 3 * 2
    )  # twice 10 tokens of 48 numbers in 3 layers
    examples = [Example(str(n), (1,), (2,) * (n - 1)) for n in (4, 6, 1, 9, 12, 3, 3, 3, 3)]
    sizes = [[len(example) for example in part] for part in forward_passes(examples, 5, model, 2)]
    assert sizes == [[4, 6], [1, 9], [12], [3, 3, 3], [3]]
    elsewhere = build("llama").to("meta")
    assert [len(part) for part in forward_passes(examples, 5, elsewhere)] == [5, 4]
