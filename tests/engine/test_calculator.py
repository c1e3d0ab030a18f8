"""The calculator forces results behind a `=`, in both engines alike, and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from reckoner.config import ModelConfig, PeftConfig
from reckoner.engine.calculator import Calculator
from reckoner.engine.generate import Sampling, generate
from reckoner.models.policy import load_policy
from reckoner.tasks.arithmetic import annotation_result


@pytest.mark.parametrize(
    "text, result",
    [
        ("She has <<48/2=", "24>>"),
        ("<<$1,200*0.5=", "600>>"),
        ("<<3-5=", "-2>>"),
        ("<<1/8=", "0.125>>"),
        ("<<1/3=", ""),
        ("<<1e30*1e30*1e30=", "1" + 90 * "0" + ">>"),
        ("<<1e30*1e30*1e30*1e30=", ""),
        ("<<1/0=", ""),
        ("<<x+1=", ""),
        ("48/2=", ""),
        ("<<48/2=24>>24", ""),
        ("<<2+2=4=", ""),
        ("<<2+2", ""),
    ],
)
def test_what_follows_an_open_annotation(text, result):
    assert annotation_result(text) == result


@pytest.fixture(scope="module")
def policy(tiny_model):
    return load_policy(ModelConfig(str(tiny_model)), PeftConfig(), train=False)


def test_rows_are_forced_one_token_at_a_time(policy):
    """The first row has drawn `=` behind 48/2; the second draws what it likes."""
    tokenizer = policy.tokenizer
    calculator = Calculator(annotation_result, tokenizer, policy.decode, torch.device("cpu"))
    before = torch.tensor([tokenizer.encode("<<48/2", add_special_tokens=False)] * 2)
    (sign,) = tokenizer.encode("=", add_special_tokens=False)
    names, other = [(0, 0), (0, 1)], (sign + 1) % 50
    drawn = torch.tensor([sign, other]), torch.tensor([-1.0, -2.0])
    tokens, logprobs = calculator.force(names, before, *drawn)
    assert tokens.tolist() == [sign, other] and logprobs.tolist() == [-1, -2]
    written = ""
    while calculator.waiting:
        before = torch.cat([before, tokens[:, None]], 1)
        tokens, logprobs = calculator.force(
            names, before, torch.full((2,), other), torch.tensor([-3.0, -4.0])
        )
        assert logprobs.tolist() == [0.0, -4.0] and tokens[1] == other
        written += policy.decode([int(tokens[0])])
    assert written == "24>>"


def test_both_engines_force_the_same_and_draw_the_rest_alike(policy):
    """A random model; behind each token that ends with `=`, 7>> is forced."""
    sampling = Sampling(40, temperature=1.5, num_samples=24, seed=3)
    prompts = [policy.encode_prompt("1 + 1"), policy.encode_prompt("What is 3 times 4 pens?")]

    def sevens(text: str) -> str:
        return "7>>" if text.endswith("=") else ""

    samples = {
        engine: [
            s for group in generate(policy, prompts, sampling, 16, engine, None, None, sevens) for s in group
        ]
        for engine in ("native", "transformers")
    }
    assert [s.ids for s in samples["native"]] == [s.ids for s in samples["transformers"]]
    forced = tuple(policy.tokenizer.encode("7>>", add_special_tokens=False))
    behind = [
        (sample.ids[at : at + len(forced)], sample.logprobs[at : at + len(forced)])
        for sample in samples["native"]
        for at in range(2, len(sample.ids))
        if policy.decode(sample.ids[at - 1 : at]).endswith("=")
    ]
    assert behind and all(ids == forced[: len(ids)] and not any(logprobs) for ids, logprobs in behind)
    plain = generate(policy, prompts, sampling, 16, "native")
    without = [
        (i, s) for i, s in enumerate(s for group in plain for s in group) if "=" not in policy.decode(s.ids)
    ]
    assert without and all(samples["native"][i].ids == s.ids for i, s in without)
