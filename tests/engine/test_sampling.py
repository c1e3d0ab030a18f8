from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from reckoner.engine.sampling import Sampling, Stops, draw, stream_key, uniforms

TRUE_MASK = 2**64 - 1


def splitmix64(key: int, step: int) -> float:
    """The reference algorithm (Steele, Lea and Flood 2014), in Python's integers."""
    z = (key + (step + 1) * 0x9E3779B97F4A7C15) & TRUE_MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & TRUE_MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & TRUE_MASK
    z ^= z >> 31
    return (z >> 12) / 2**52


def at(uniform, rows):
    return torch.full((rows,), uniform, dtype=torch.float64)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 10**6))
def test_uniforms_are_splitmix64(key, step):
    assert float(uniforms(torch.tensor([key]), torch.tensor([step]))[0]) == splitmix64(key, step)


def test_uniforms_are_uniform_and_uncorrelated_over_steps_samples_and_prompts():
    keys = torch.tensor([[stream_key(0, prompt, sample) for sample in range(8)] for prompt in range(64)])
    values = uniforms(keys[..., None], torch.arange(100)).numpy()
    assert values.min() >= 0 and values.max() < 1
    assert stats.kstest(values.ravel(), "uniform").pvalue > 0.01
    for axis in range(3):
        a, b = (np.moveaxis(values, axis, 0)[s].ravel() for s in (slice(None, -1), slice(1, None)))
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 / math.sqrt(a.size)
    assert len(np.unique(keys)) == keys.numel() and stream_key(1, 0, 0) != stream_key(0, 0, 0)


def test_the_draw_inverts_the_cumulative_distribution_by_hand():
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    for uniform, token in (
        (0.0, 0),
        (0.0999, 0),
        (0.1001, 1),
        (0.2999, 1),
        (0.3001, 2),
        (0.6001, 3),
        (1 - 2**-52, 3),
    ):
        tokens, logprobs = draw(logits, at(uniform, 1), Sampling(1, temperature=1.0))
        assert tokens.tolist() == [token]
        assert float(logprobs[0]) == pytest.approx(math.log((token + 1) / 10), abs=1e-6)


@given(st.integers(1, 300), st.integers(0, 2**31), st.floats(0, 1, exclude_max=True))
def test_the_draw_equals_a_plain_cumulative_search(size, seed, uniform):
    logits = torch.randn(3, size, generator=torch.Generator().manual_seed(seed)) * 3
    probabilities = logits.softmax(-1).double()
    edges = probabilities.cumsum(-1)
    tokens, logprobs = draw(logits, at(uniform, 3), Sampling(1, temperature=1.0))
    chosen = edges.gather(-1, tokens[:, None])[:, 0]
    target = uniform * edges[:, -1]
    assert (target < chosen + 1e-6).all()
    assert (target > chosen - probabilities.gather(-1, tokens[:, None])[:, 0] - 1e-6).all()
    assert torch.allclose(logprobs, logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0], atol=1e-5)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.0, 5, 1.0), (1.3, 0, 0.8), (1.0, 6, 0.7)],
)
def test_frequencies_match_the_declared_distribution(temperature, top_k, top_p):
    rows, size = 20_000, 11
    logits = torch.linspace(-2, 1.5, size).roll(4)
    sampling = Sampling(1, temperature=temperature, top_k=top_k, top_p=top_p)
    keys = torch.tensor([stream_key(3, row, 0) for row in range(rows)])
    tokens, logprobs = draw(logits.expand(rows, -1), uniforms(keys, torch.zeros_like(keys)), sampling)

    p = (logits.double() / temperature).softmax(-1).numpy()
    expected, kept = p.copy(), np.argsort(-p)
    expected[kept[top_k or size :]] = 0
    mass = np.cumsum(expected[kept]) / expected.sum()
    expected[kept[np.searchsorted(mass, top_p - 1e-9) + 1 :]] = 0
    expected /= expected.sum()
    counts = np.bincount(tokens.numpy(), minlength=size)
    assert counts[expected == 0].sum() == 0
    assert stats.chisquare(counts[expected > 0], rows * expected[expected > 0]).pvalue > 0.01
    assert np.allclose(logprobs.numpy(), np.log(p)[tokens.numpy()], atol=1e-6), (
        "log-probs are of the whole distribution"
    )


def test_greedy_takes_the_first_maximum_and_reports_its_logprob_at_temperature_1():
    logits = torch.randn(50, 333, generator=torch.Generator().manual_seed(0))
    logits[0, [7, 200, 332]] = 9.0
    tokens, logprobs = draw(logits, at(0.5, 50), Sampling(1))
    assert torch.equal(tokens, logits.argmax(-1)) and tokens[0] == 7
    assert torch.allclose(logprobs, logits.log_softmax(-1).amax(-1), atol=1e-6)


def test_a_token_of_probability_zero_is_never_drawn():
    logits = torch.full((1, 100), -torch.inf)
    logits[0, [3, 64]] = 0.0
    for uniform in (0.0, 0.5, 1 - 2**-52):
        tokens, logprobs = draw(logits, at(uniform, 1), Sampling(1, temperature=1.0))
        assert tokens.tolist()[0] in {3, 64} and float(logprobs[0]) == pytest.approx(math.log(0.5))


def stops(tokenizer, **settings):
    sampling = Sampling(10, **settings)
    return Stops(
        sampling, tokenizer, lambda ids: tokenizer.decode(ids, skip_special_tokens=True), torch.device("cpu")
    )


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def test_a_completion_ends_with_its_stop_token_or_at_its_limit(tokenizer):
    judge = stops(tokenizer, stop_ids=(1, 40))
    assert judge.finished([5, 6, 7], [-1.0, -2.0, -3.0], 4) is None
    sample = judge.finished([5, 40, 7, 1], [-1.0, -2.0, -3.0, -4.0], 4)
    assert (sample.ids, sample.logprobs, sample.finish) == ((5, 40), (-1.0, -2.0), "stop")
    sample = judge.finished([5, 6, 7, 40], [-1.0, -2.0, -3.0, -4.0], 3)
    assert (sample.ids, sample.finish) == ((5, 6, 7), "length")
    assert judge.finished([5, 6, 40], [0.0] * 3, 3).finish == "stop"
    assert judge.may_have_stopped(torch.tensor([[5, 6], [1, 6], [6, 40]])).tolist() == [False, True, True]


def test_a_stop_string_cuts_before_its_first_hit(tokenizer):
    judge = stops(tokenizer, stop_ids=(1,), stop_strings=("\nQ:", "END"))
    ids = ids_of(tokenizer, "it is 3.\nQ: how END") + [1]
    sample = judge.finished(ids, [-0.5] * len(ids), 100)
    assert tokenizer.decode(sample.ids) == "it is 3." and sample.finish == "stop"
    assert len(sample.logprobs) == len(sample.ids) == 8
    assert judge.finished(ids_of(tokenizer, "END of it"), [0.0] * 9, 100).ids == ()
    assert judge.finished(ids_of(tokenizer, "no end: Q"), [0.0] * 9, 100) is None
    colon, letter = ids_of(tokenizer, ":x")
    assert judge.may_have_stopped(torch.tensor([[letter, colon], [letter, letter]])).tolist() == [True, False]


def test_a_stop_string_beyond_the_stop_token_or_limit_does_not_count(tokenizer):
    judge = stops(tokenizer, stop_ids=(1,), stop_strings=("END",))
    ids = [*ids_of(tokenizer, "so"), 1, *ids_of(tokenizer, "END")]
    assert judge.finished(ids, [0.0] * 6, 10).ids == tuple(ids[:3])
    cut = judge.finished(ids_of(tokenizer, "some END"), [0.0] * 8, 7)
    assert len(cut.ids) == 7 and cut.finish == "length"


def test_a_stop_string_that_ends_in_white_space_suspects_every_token(tokenizer):
    assert stops(tokenizer, stop_strings=("Q: ",)).may_have_stopped(torch.tensor([[5], [9]])).all()


def test_pieces_of_bytes_and_holes_and_ids_beyond_the_vocabulary():
    class Pieces:
        def __len__(self):
            return 4

        def convert_ids_to_tokens(self, ids):
            return ["▁Q", "<0x3A>", None, "y"]

    judge = Stops(
        Sampling(9, stop_strings=("Q:",)),
        Pieces(),
        lambda ids: "".join({0: "Q", 1: ":", 3: "y"}.get(i, "") for i in ids),
        torch.device("cpu"),
    )
    assert judge.may_have_stopped(torch.tensor([[0, 1], [0, 3], [2, 900]])).tolist() == [True, False, False]
    assert judge.finished([3, 0, 1, 900], [0.0] * 4, 9).ids == (3,)


def test_rows_that_only_look_like_a_stop_string_are_not_decoded(tokenizer):
    judge = stops(tokenizer, stop_strings=("<end>", "\nQ:"))
    judge.decode = None
    assert judge.finished(ids_of(tokenizer, "<<2+3=5>>5 is it: Q."), [0.0] * 20, 100) is None
