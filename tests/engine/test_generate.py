"""The native engine against transformers' own `generate`, and against itself in other batches and orders."""

from __future__ import annotations

import random
import threading

import pytest
import torch
from peft import LoraConfig, get_peft_model

from reckoner.engine import backend, scheduler
from reckoner.engine.batches import Example, collate
from reckoner.engine.generate import Sampling, generate
from reckoner.engine.logprobs import completion_logprobs
from reckoner.engine.packed import NativeModel
from reckoner.errors import InputError
from reckoner.models.families import FAMILIES, unsupported

from .conftest import CONFIGS, VOCABULARY, build

NATIVE = ["gemma", "gemma2", "gemma3", "llama", "qwen2", "qwen3"]
FAMILY_OF = {"gemma3": "gemma3_text"}


def make_prompts(count, longest=24, seed=0):
    rng = random.Random(seed)
    return [[2] + [rng.randrange(3, VOCABULARY) for _ in range(rng.randrange(longest))] for _ in range(count)]


PROMPTS = make_prompts(32)
STOPS = (1, 20, 21, 22)


def ids_of(results):
    return [[sample.ids for sample in samples] for samples in results]


def reference(model, prompt, count):
    """Greedy tokens of `model.generate`, alone and without padding."""
    out = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=list(STOPS),
        pad_token_id=0,
    )
    return tuple(out[0, len(prompt) :].tolist())


def test_every_family_is_tested():
    assert {FAMILY_OF.get(name, name) for name in NATIVE} == {
        name for name, family in FAMILIES.items() if family.packed
    }
    assert set(NATIVE) | {"granite", "gemma3n", "gemma4"} == set(CONFIGS)


@pytest.mark.parametrize("family", NATIVE)
def test_greedy_tokens_equal_transformers_generate(family_models, policy_of, family):
    model = family_models[family]
    results = generate(policy_of(model), PROMPTS, Sampling(20, stop_ids=STOPS), 16, "native")
    assert ids_of(results) == [[reference(model, prompt, 20)] for prompt in PROMPTS]
    ended = [sample.ids[-1] in STOPS for (sample,) in results]
    assert [sample.finish == "stop" for (sample,) in results] == ended and True in ended and False in ended


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_logprobs_equal_the_scorer(family_models, policy_of, family, temperature):
    model = family_models[family]
    sampling = Sampling(12, temperature=temperature, num_samples=2, seed=5, stop_ids=STOPS)
    results = generate(policy_of(model), PROMPTS[:12], sampling, 7)
    examples = [
        Example("", tuple(prompt), sample.ids)
        for prompt, row in zip(PROMPTS, results, strict=False)
        for sample in row
    ]
    scored = completion_logprobs(model, collate(examples, 0, "cpu"), temperature or 1.0).logprobs
    sampled = torch.tensor([value for row in results for sample in row for value in sample.logprobs])
    assert torch.allclose(sampled, scored, atol=1e-5)


@pytest.mark.parametrize("engine", ["native", "transformers"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_batch_size_order_and_company_change_no_token(family_models, policy_of, engine, temperature):
    policy = policy_of(family_models["gemma"])
    sampling = Sampling(15, temperature=temperature, num_samples=2, seed=1, stop_ids=STOPS)
    expected = ids_of(generate(policy, PROMPTS, sampling, 32, "native"))
    for size in (1, 2, 8, 64):
        assert ids_of(generate(policy, PROMPTS, sampling, size, engine)) == expected
    order = random.Random(3).sample(range(32), 32)
    shuffled = generate(policy, [PROMPTS[i] for i in order], sampling, 8, engine, keys=order)
    assert ids_of(shuffled) == [expected[i] for i in order]
    assert ids_of(generate(policy, [PROMPTS[9]], sampling, engine=engine, keys=[9])) == [expected[9]]


def test_seeds_prompts_and_samples_draw_differently(family_models, policy_of):
    policy = policy_of(family_models["llama"])

    def run(**changes):
        settings = {"max_new_tokens": 12, "temperature": 1.0, "num_samples": 2, **changes}
        return ids_of(generate(policy, [PROMPTS[0], PROMPTS[0]], Sampling(**settings)))

    (a, b), (c, d) = run()
    assert len({a, b, c, d}) == 4 and run() == [[a, b], [c, d]]
    assert run(seed=1) != run() and run(num_samples=1) == [[a], [c]]


@pytest.mark.parametrize("family", ["gemma", "gemma2", "qwen3"])
def test_truncated_sampling_is_the_same_in_both_engines(family_models, policy_of, family):
    policy = policy_of(family_models[family])
    sampling = Sampling(15, temperature=1.2, top_k=20, top_p=0.7, num_samples=3, stop_ids=STOPS)
    native = generate(policy, PROMPTS[:9], sampling, 8, "native")
    assert ids_of(native) == ids_of(generate(policy, PROMPTS[:9], sampling, 8, "transformers"))


def test_first_tokens_follow_the_softmax(family_models, policy_of):
    """2,000 samples after one prompt, one prefill: a chi-square test against the model's own distribution."""
    from scipy.stats import chisquare

    model = family_models["gemma"]
    samples = generate(policy_of(model), [PROMPTS[3]], Sampling(1, temperature=1.0, num_samples=2000), 500)[0]
    with torch.no_grad():
        expected = 2000 * model(torch.tensor([PROMPTS[3]])).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([sample.ids[0] for sample in samples]), minlength=VOCABULARY)
    common = expected >= 5
    observed = [*counts[common].tolist(), int(counts[~common].sum())]
    assert (
        chisquare(observed, [*expected[common].tolist(), 2000 - float(expected[common].sum())]).pvalue > 0.01
    )
    assert all(len(sample.ids) == 1 for sample in samples)


def test_a_long_queue_in_small_decode_batches(family_models, policy_of, monkeypatch):
    """Several decode batches at once, rows moved to where others finished, prefills cut: every token stays
    the same."""
    monkeypatch.setitem(scheduler.PREFILL_TOKENS, "cpu", 40)
    together, moved = [], []
    burst, drop = scheduler.BatchScheduler._decode_chunk, scheduler.DecodeBatch.drop
    monkeypatch.setattr(
        scheduler.BatchScheduler,
        "_decode_chunk",
        lambda self: (together.append(len(self.batches)), burst(self)),
    )
    monkeypatch.setattr(
        scheduler.DecodeBatch, "drop", lambda self, rows: (moved.append(rows), drop(self, rows))
    )
    prompts = make_prompts(60, seed=8)
    for family in ("gemma", "gemma3"):
        policy = policy_of(family_models[family])
        sampling = Sampling(30, temperature=1.0, num_samples=2, stop_ids=STOPS)
        got = generate(policy, prompts, sampling, 16, "native")
        assert ids_of(got) == ids_of(generate(policy, prompts, sampling, 120, "transformers"))
    assert max(together) >= 3 and any(len(rows) > 1 for rows in moved)


def test_passes_meet_few_numbers_of_rows(family_models, policy_of, monkeypatch):
    """100 prompts of 1 to 24 tokens, six to a hundred a prefill, and decoding while their rows end one by
    one."""
    computed, heads, filled = [], NativeModel._heads, NativeModel._filled
    monkeypatch.setattr(
        NativeModel,
        "_heads",
        lambda self, layer, x, rope_cos_sin: (computed.append(len(x)), heads(self, layer, x, rope_cos_sin))[
            1
        ],
    )
    prompts, policy = make_prompts(100, seed=3), policy_of(family_models["llama"])
    budgets = (64, 100, 333, 1000, 2048)

    def draw():
        found = []
        for budget in budgets:
            monkeypatch.setitem(scheduler.PREFILL_TOKENS, "cpu", budget)
            found += ids_of(generate(policy, prompts, Sampling(12, stop_ids=STOPS), 70, "native"))
        return found

    tokens, few = draw(), set(computed)
    assert all(rows < 16 or rows % (16 if rows <= 512 else 64) == 0 for rows in few) and max(few) > 512
    computed.clear()
    monkeypatch.setattr(NativeModel, "_filled", lambda self, x: x)
    assert draw() == tokens and len(set(computed)) > 2 * len(few)
    assert filled(None, torch.ones(17, 2, 3)).tolist() == [
        *torch.ones(17, 2, 3).tolist(),
        *torch.zeros(15, 2, 3).tolist(),
    ]


@pytest.mark.parametrize("family", NATIVE)
def test_a_common_beginning_is_computed_once_and_changes_no_token(
    family_models, policy_of, monkeypatch, family
):
    shots = [2, *([7, 30, 9, 61, 12] * 8)]
    prompts = [shots + prompt[1:] for prompt in PROMPTS if len(prompt) > 1] + [[*shots, 5], [*shots, 6]]
    policy, sampling = (
        policy_of(family_models[family]),
        Sampling(12, temperature=1.0, num_samples=2, stop_ids=STOPS),
    )
    monkeypatch.setattr(scheduler, "MIN_SHARED_PREFIX", 1000)
    expected = generate(policy, prompts, sampling, 8, "native")
    monkeypatch.setattr(scheduler, "MIN_SHARED_PREFIX", 41)
    widths, start = [], scheduler.BatchScheduler._start
    monkeypatch.setattr(
        scheduler.BatchScheduler, "_start", lambda self, n: (widths.append(self.offset), start(self, n))
    )
    got = generate(policy, prompts, sampling, 8, "native")
    assert set(widths) == ({41} if family in ("gemma", "llama", "qwen2", "qwen3") else {0})
    assert ids_of(got) == ids_of(expected)
    for (a, _), (b, _) in zip(got, expected, strict=True):
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


@pytest.mark.parametrize("engine", ["native", "transformers"])
def test_every_completion_is_announced_once_as_it_ends(family_models, policy_of, engine):
    seen = {}
    sampling = Sampling(9, temperature=1.0, num_samples=2, stop_ids=STOPS)

    def note(prompt, sample, result):
        assert (prompt, sample) not in seen
        seen[prompt, sample] = result

    results = generate(policy_of(family_models["gemma"]), PROMPTS, sampling, 8, engine, note)
    assert seen == {(p, s): sample for p, row in enumerate(results) for s, sample in enumerate(row)}
    assert list(seen) != sorted(seen)


@pytest.mark.parametrize("engine", ["native", "transformers"])
def test_stop_strings_end_and_trim_a_completion(family_models, policy_of, engine):
    policy = policy_of(family_models["gemma"])
    free = generate(policy, PROMPTS, Sampling(24, temperature=1.0), engine="native")
    text = policy.decode(free[0][0].ids)
    stop = text[9:12]
    results = generate(
        policy, PROMPTS, Sampling(24, temperature=1.0, stop_strings=(stop, "never")), 8, engine
    )
    assert policy.decode(results[0][0].ids) == text[: text.index(stop)] and results[0][0].finish == "stop"
    for (sample,), (whole,) in zip(results, free, strict=True):
        before, found, _ = policy.decode(whole.ids).partition(stop)
        assert policy.decode(sample.ids) == before and sample.finish == ("stop" if found else "length")
        assert sample.logprobs == pytest.approx(whole.logprobs[: len(sample.ids)], abs=1e-5)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora_is_merged_on_the_fly_and_the_model_left_alone(policy_of):
    model = get_peft_model(
        build("gemma"),
        LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, lora_dropout=0.4),
    )
    model.train()
    model.base_model.model.model.layers[1].mlp.eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    policy, sampling = policy_of(model), Sampling(12, temperature=1.0, stop_ids=STOPS)
    adapted = {
        engine: generate(policy, PROMPTS[:8], sampling, engine=engine)
        for engine in ("native", "transformers")
    }
    assert ids_of(adapted["native"]) == ids_of(adapted["transformers"])
    with model.disable_adapter():
        base = generate(policy, PROMPTS[:8], sampling, engine="native")
    assert ids_of(base) == ids_of(generate(policy_of(build("gemma")), PROMPTS[:8], sampling))
    assert ids_of(base) != ids_of(adapted["native"])
    model.merge_adapter()
    assert ids_of(generate(policy, PROMPTS[:8], sampling, engine="native")) == ids_of(adapted["native"])
    model.unmerge_adapter()
    assert [module.training for module in model.modules()] == modes
    assert all(torch.allclose(value, before[name], atol=1e-6) for name, value in model.state_dict().items())


def test_an_unknown_architecture_falls_back_to_transformers(family_models, policy_of):
    policy = policy_of(family_models["granite"])
    results = generate(policy, PROMPTS[:4], Sampling(8, stop_ids=STOPS))
    assert ids_of(results) == [[reference(policy.model, prompt, 8)] for prompt in PROMPTS[:4]]
    with pytest.raises(InputError, match="unknown architecture granite"):
        generate(policy, PROMPTS[:4], Sampling(8), engine="native")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_unusual_settings_are_refused_not_guessed():
    dynamic = build("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})
    assert unsupported(dynamic) == "unknown rotary embedding"
    bidirectional = build("gemma3")
    bidirectional.config.use_bidirectional_attention = True
    assert unsupported(bidirectional) == "bidirectional attention"
    extra = build("llama")
    extra.model.layers[1].mlp.gate_norm = torch.nn.LayerNorm(4)
    assert unsupported(extra) == "unknown parts in attention or MLP"
    extra = build("llama")
    extra.model.layers[1].third_norm = torch.nn.LayerNorm(4)
    assert unsupported(extra) == "unknown parts in a layer"
    dora = get_peft_model(build("llama"), LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    assert unsupported(dora) == "an adapter that is not plain LoRA"
    assert all(unsupported(build(family)) == "" for family in NATIVE)


def test_linear_rope_scaling_and_biases_are_known(policy_of):
    model = build(
        "llama",
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        attention_bias=True,
    )
    results = generate(policy_of(model), PROMPTS[:8], Sampling(10, stop_ids=STOPS), engine="native")
    assert ids_of(results) == [[reference(model, prompt, 10)] for prompt in PROMPTS[:8]]


def test_the_context_ends_a_completion_and_refuses_a_prompt(family_models, policy_of):
    policy = policy_of(family_models["gemma"])
    full = make_prompts(1, seed=2)[0][:1] * 125
    for engine in ("native", "transformers"):
        long, short = generate(policy, [full, PROMPTS[0]], Sampling(8), engine=engine)
        assert (len(long[0].ids), long[0].finish, len(short[0].ids)) == (3, "length", 8)
    with pytest.raises(InputError, match="prompt 1 has 128 tokens"):
        generate(policy, [[2], [2] * 128], Sampling(8))


def test_edges(family_models, policy_of):
    policy = policy_of(family_models["gemma"])
    assert generate(policy, [], Sampling(8)) == []
    (one,), (two,) = generate(policy, PROMPTS[:2], Sampling(1, stop_ids=STOPS))
    assert len(one.ids) == len(two.ids) == 1
    for bad in (Sampling(0), Sampling(4, num_samples=0), Sampling(4, temperature=-1.0)):
        with pytest.raises(InputError, match="max_new_tokens >= 1"):
            generate(policy, PROMPTS, bad)
    with pytest.raises(InputError, match="prompt 0 has 0 tokens"):
        generate(policy, [[]], Sampling(8))
    with pytest.raises(InputError, match="choose auto"):
        generate(policy, PROMPTS, Sampling(8), engine="vllm")


def test_bfloat16_stays_close_to_float32(family_models, policy_of):
    policy = policy_of(family_models["gemma"])
    exact = generate(policy, PROMPTS, Sampling(1))
    policy.dtype = torch.bfloat16
    rough = generate(policy, PROMPTS, Sampling(1))
    same = [a.ids == b.ids for (a,), (b,) in zip(exact, rough, strict=True)]
    assert sum(same) >= 26
    gaps = [abs(a.logprobs[0] - b.logprobs[0]) for (a,), (b,), s in zip(exact, rough, same, strict=True) if s]
    assert max(gaps) < 0.3


@pytest.mark.parametrize("prefix", [0, 12, 40])
@pytest.mark.parametrize("family", NATIVE)
def test_in_bfloat16_the_sampler_is_the_scorer(family_models, policy_of, family, prefix, monkeypatch):
    """As on a CPU that multiplies it: weights in bfloat16, keys and values too. What differs is rounding."""
    model, policy = family_models[family], policy_of(family_models[family])
    policy.dtype = torch.bfloat16
    prompts = [[2] + [5 + i % 30 for i in range(prefix)] + prompt[1:] + [9] for prompt in PROMPTS[:12]]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # as many as loops are for
    results = generate(policy, prompts, Sampling(12, 1.0, num_samples=2, seed=5, stop_ids=STOPS), 7)
    examples = [
        Example("", tuple(prompt), sample.ids)
        for prompt, row in zip(prompts, results, strict=True)
        for sample in row
    ]
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        scored = completion_logprobs(model, collate(examples, 0, "cpu")).logprobs
    exact = completion_logprobs(model, collate(examples, 0, "cpu")).logprobs
    sampled = torch.tensor([value for row in results for sample in row for value in sample.logprobs])
    for other in (scored, exact):
        assert 0 < (sampled - other).abs().sum() < 0.02 * -other.sum()


def test_a_large_model_is_decoded_by_shares_side_by_side(family_models, policy_of, monkeypatch):
    """On three threads the same tokens as on one, each announced once; an error of any share is the
    caller's."""
    policy, sampling = policy_of(family_models["llama"]), Sampling(12, 1.0, num_samples=3, stop_ids=STOPS)
    alone, threads, seen = generate(policy, PROMPTS[:7], sampling, 8), set(), []

    def done(prompt, sample, result):
        threads.add(threading.get_ident())
        seen.append((prompt, sample))
        assert torch.get_num_threads() == 1

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    monkeypatch.setattr(backend, "SHARED_PARAMETERS", 0)
    assert ids_of(generate(policy, PROMPTS[:7], sampling, 8, on_done=done)) == ids_of(alone)
    assert torch.get_num_threads() == 3 == len(threads)
    assert sorted(seen) == [(prompt, sample) for prompt in range(7) for sample in range(3)]
    assert ids_of(generate(policy, PROMPTS[:1], Sampling(3, stop_ids=STOPS), 8))[0]

    def fails(prompt, sample, result):
        if prompt == 3:
            raise ValueError("prompt 3")

    with pytest.raises(ValueError, match="prompt 3"):
        generate(policy, PROMPTS[:7], sampling, 8, on_done=fails)
    torch.set_num_threads(before)
