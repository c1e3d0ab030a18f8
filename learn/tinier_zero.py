"""Tinier Zero: reinforcement learning of a language model in one file, from the question to the update.

    python learn/tinier_zero.py --method grpo        # or ppo: a few minutes on two cores

A question x and the tokens so far are a state, the next token y_t is an action, y is an episode. Each step:

    rollout     y ~ pi_old(y | x), G completions for each of P questions, with log pi_old of every token
    reward      r = 1 where the number after the last `####` is right, else 0
    advantage   GRPO  A = r - mean(r of the question's completions)                    (Shao 2024, Liu 2025)
                PPO   A_t = delta_t + gamma lam A_t+1,  delta_t = r_t + gamma V_t+1 - V_t   (Schulman 2015)
    loss        - min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A),  rho = pi_theta(y_t) / pi_old(y_t)
    update      AdamW, a few steps on the same rollout; then back to the rollout

B = P G completions; T tokens in the longest; N tokens in all, stop tokens too; V words; H the width."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

HERE = Path(__file__).parent
EMBEDDED, TOY = HERE.parent / "src" / "reckoner" / "models" / "nano", HERE / "toy"  # a copy of learn has TOY
Problems = list[dict[str, str]]  # of question, solution and gold
Tensors, Line = dict[str, Tensor], dict[str, float]


@dataclasses.dataclass
class Settings:
    """What the command line sets, as `--steps 20`."""

    method: str = "grpo"  # or ppo
    init: str = ""  # a model folder to go on from; empty: the embedded base, taught the form of an answer
    problems: str = ""  # JSONL of question and answer, as `reckon data make` writes; empty: `stories`
    steps: int = 40
    sft_steps: int = 50
    prompts: int = 32  # P
    generations: int = 8  # G
    updates: int = 2  # optimizer steps on one rollout
    limit: int = 80  # tokens of a completion at most
    temperature: float = 1.0  # of sampling, and so of scoring
    learning_rate: float = 2e-4
    critic_learning_rate: float = 1e-3
    epsilon: float = 0.2
    epsilon_high: float = 0.28
    cliprange_value: float = 0.5
    gamma: float = 1.0
    lam: float = 1.0
    kl_coef: float = 0.0  # beta: in the reward for PPO, in the loss for GRPO
    seed: int = 0


EVENTS = (  # someone has things, gets some, loses some; a sentence may not matter
    ("{name} finds {some} more.", "+"),
    ("{name} loses {some} of them.", "-"),
    ("{name} buys {few} bags of {some} {thing}.", "*+"),
    ("{name} gives {some} to each of {few} friends.", "*-"),
    ("A bag costs {some} dollars.", ""),
)


def stories(count: int, seed: int) -> Problems:
    draw, told = random.Random(seed), []
    for _ in range(count):
        name, thing, have = (
            draw.choice(("Ann", "Tom", "Mia", "Ben")),
            draw.choice(("apples", "pens", "books")),
            draw.randint(75, 99),
        )
        said, lines = [f"{name} has {have} {thing}."], []
        for sentence, signs in draw.sample(EVENTS, draw.randint(2, 3)):
            few, some = draw.randint(2, 5), draw.randint(3, 12)
            said.append(sentence.format(name=name, thing=thing, few=few, some=some))
            change = few * some if "*" in signs else some
            lines += [f"{few}*{some}={change}"] * ("*" in signs)
            if signs:
                lines.append(f"{have}{signs[-1]}{change}={(have := have + int(signs[-1] + '1') * change)}")
        question = f"{' '.join(said)} How many {thing} does {name} have now?"
        told.append(
            {"question": question, "solution": "\n".join([*lines, f"#### {have}"]), "gold": str(have)}
        )
    return told


def read(path: str) -> Problems:
    """GSM8K and `reckon data make` call the solution `answer`; its gold stands behind the last `####`."""
    with open(path, encoding="utf-8") as file:
        rows = [{"solution": row.get("answer", ""), **row} for row in map(json.loads, file)]
    return [{"gold": row["solution"].rpartition("####")[2].strip(), **row} for row in rows]


class Gemma:
    """pi_theta. Its folder is one of transformers: weights `w` by their names there, configuration `c`."""

    def __init__(self, folder: Path) -> None:
        self.c = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.w = {
            name: w.float().requires_grad_() for name, w in load_file(folder / "model.safetensors").items()
        }
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.eos = self.c["eos_token_id"]

    def encode(self, question: str, solution: str) -> tuple[list[int], list[int]]:
        """The space begins the answer and does not end the prompt: tokenizers fuse it with the next word."""
        prompt, answer = (
            self.tokenizer.encode(each, add_special_tokens=False).ids
            for each in (f"Question: {question}\nAnswer:", f" {solution}")
        )
        return [self.c["bos_token_id"], *prompt], [*answer, self.eos]

    def norm(self, x: Tensor, name: str) -> Tensor:
        return (
            x
            * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.c["rms_norm_eps"])
            * (1 + self.w[f"model.{name}.weight"])
        )

    def states(self, ids: Tensor, positions: Tensor, mask: Tensor, past: dict[int, list[Tensor]]) -> Tensor:
        """Hidden states [B, W, H] of ids [B, W]; `past`: keys and values of each layer, growing."""
        size, w = self.c["head_dim"], self.w
        angles = positions[:, None, :, None] * self.c["rope_parameters"]["rope_theta"] ** -(
            torch.arange(0, size, 2) / size
        )
        x = F.embedding(ids, w["model.embed_tokens.weight"]) * self.c["hidden_size"] ** 0.5
        for i in range(self.c["num_hidden_layers"]):
            at = f"model.layers.{i}"
            h = self.norm(x, f"layers.{i}.input_layernorm")
            q, k, v = (
                F.linear(h, w[f"{at}.self_attn.{n}_proj.weight"]).unflatten(-1, (-1, size)).transpose(1, 2)
                for n in "qkv"
            )
            kept = [rotate(k, angles), v]
            past[i] = [torch.cat(pair, 2) for pair in zip(past[i], kept, strict=True)] if i in past else kept
            mixed = F.scaled_dot_product_attention(
                rotate(q, angles), *past[i], attn_mask=mask, enable_gqa=True
            )
            x = x + F.linear(mixed.transpose(1, 2).flatten(2), w[f"{at}.self_attn.o_proj.weight"])
            h = self.norm(x, f"layers.{i}.post_attention_layernorm")
            gate, up = (F.linear(h, w[f"{at}.mlp.{n}_proj.weight"]) for n in ("gate", "up"))
            x = x + F.linear(F.gelu(gate, approximate="tanh") * up, w[f"{at}.mlp.down_proj.weight"])
        return self.norm(x, "norm")

    def log_softmax(self, states: Tensor, temperature: float) -> Tensor:
        """log pi [..., V] of the token after each state [..., H]; the output layer is the embedding."""
        return F.log_softmax(F.linear(states, self.w["model.embed_tokens.weight"]) / temperature, -1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions (Su 2021): each pair of coordinates is turned by its angle."""
    turned = torch.complex(*x.chunk(2, -1)) * torch.polar(torch.ones(()), angles)
    return torch.cat([turned.real, turned.imag], -1)


# ------------------------------------------------------------------------------------------- the rollout
class Batch(NamedTuple):
    """B sequences as [padding | prompt | completion | padding]: all completions begin at column `start`."""

    ids: Tensor  # [B, W]
    real: Tensor  # [B, W] bool, what is no padding: known from lengths, not from the value of a token
    start: int

    @classmethod
    def of(cls, prompts: Sequence[list[int]], completions: Sequence[list[int]]) -> Batch:
        start, longest = max(map(len, prompts)), max(map(len, completions))
        pairs = [(start - len(p), p + c, longest - len(c)) for p, c in zip(prompts, completions, strict=True)]
        ids = [[0] * before + sequence + [0] * after for before, sequence, after in pairs]
        real = [
            [False] * before + [True] * len(sequence) + [False] * after for before, sequence, after in pairs
        ]
        return cls(torch.tensor(ids), torch.tensor(real), start)

    @property
    def actions(self) -> Tensor:
        """Which places [B, T] hold a token of a completion. The stop token is an action like any other."""
        return self.real[:, self.start :]

    def states(self, model: Gemma, past: dict[int, list[Tensor]]) -> Tensor:
        """Hidden states [B, W, H]: positions count real tokens; none sees padding or a later one."""
        diagonal = torch.eye(self.ids.shape[1]).bool()
        mask = torch.ones_like(diagonal).tril() & self.real[:, None, :] | diagonal
        return model.states(self.ids, (self.real.cumsum(-1) - 1).clamp(min=0), mask[:, None], past)

    def before_actions(self, model: Gemma) -> Tensor:
        """The states [N, H] from which the actions were drawn: each one column left of its action."""
        return self.states(model, {})[:, self.start - 1 : -1][self.actions]

    def spread(self, values: Tensor) -> Tensor:
        """[B, T]: `values` [N] at the actions, 0 elsewhere."""
        return torch.zeros(self.actions.shape).masked_scatter(self.actions, values)

    def logprobs(self, model: Gemma, temperature: float) -> Tensor:
        """log pi(y_t | x, y_<t) [B, T], 0 outside the actions."""
        chosen = self.ids[:, self.start :][self.actions]
        return self.spread(
            model.log_softmax(self.before_actions(model), temperature).gather(-1, chosen[:, None])[:, 0]
        )


@torch.no_grad()
def generate(
    model: Gemma, prompts: list[list[int]], generations: int, temperature: float, limit: int
) -> tuple[Batch, Tensor]:
    """`generations` completions for each prompt and log pi [B, T] of its tokens; temperature 0: greedy."""
    asked, past, start = Batch.of(prompts, [[]] * len(prompts)), {}, max(map(len, prompts))
    state = asked.states(model, past)[:, -1].repeat_interleave(generations, 0)  # each prompt is read once
    past = {i: [kept.repeat_interleave(generations, 0) for kept in layer] for i, layer in past.items()}
    ids, real = (
        F.pad(each.repeat_interleave(generations, 0), (0, limit)) for each in (asked.ids, asked.real)
    )
    logprobs, alive = torch.zeros(len(ids), limit), torch.arange(len(ids))
    for t in range(limit):
        scores = model.log_softmax(state, temperature or 1.0)
        drawn = torch.multinomial(scores.exp(), 1) if temperature else scores.argmax(-1, keepdim=True)
        ids[alive, start + t], real[alive, start + t], logprobs[alive, t] = (
            drawn[:, 0],
            True,
            scores.gather(-1, drawn)[:, 0],
        )
        going = drawn[:, 0] != model.eos
        if t + 1 == limit or not going.any():
            break
        alive, drawn, past = (
            alive[going],
            drawn[going],
            {i: [kept[going] for kept in layer] for i, layer in past.items()},
        )
        state = model.states(
            drawn, real[alive].sum(-1, keepdim=True) - 1, real[alive][:, None, None, : start + t + 1], past
        )[:, 0]
    return Batch(ids[:, : start + t + 1], real[:, : start + t + 1], start), logprobs[:, : t + 1]


# ------------------------------------------------------------------------ the reward and the advantages
def reward(text: str, gold: str) -> float:
    """1 where the number after the last `####` is the right one. Nothing is paid for the form alone."""
    marked = text.rpartition("####")[2].split() if "####" in text else []
    return float(bool(marked) and marked[0].replace(",", "") == gold.replace(",", ""))


def group_advantages(rewards: Tensor) -> Tensor:
    """GRPO: A_i = r_i - mean(r) [P, G]. Where all of a group earn the same: 0, nothing is learnt."""
    equal = rewards.amax(-1, keepdim=True) == rewards.amin(-1, keepdim=True)
    return (rewards - rewards.mean(-1, keepdim=True)).masked_fill(equal, 0.0)


def token_rewards(rewards: Tensor, actions: Tensor) -> Tensor:
    """PPO: r_t [B, T]; what a completion earns [B] comes with its last token."""
    return rewards[:, None] * (actions & ~F.pad(actions[:, 1:], (0, 1)))


def gae(rewards: Tensor, values: Tensor, actions: Tensor, gamma: float, lam: float) -> Tensor:
    """PPO: A_t = delta_t + gamma lam A_t+1 with delta_t = r_t + gamma V_t+1 - V_t, from the last token."""
    advantages, later, value = torch.zeros_like(rewards), 0.0, 0.0
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * value - values[:, t]
        advantages[:, t] = later = (delta + gamma * lam * later) * actions[:, t]
        value = values[:, t] * actions[:, t]
    return advantages


def whiten(advantages: Tensor, actions: Tensor) -> Tensor:
    """PPO: mean 0 and variance 1 over the N actions of the rollout."""
    each = advantages[actions]
    return (advantages - each.mean()) / each.std(correction=0).clamp(min=1e-8) * actions


# -------------------------------------------------------------------------------------------- the losses
def policy_loss(
    logprobs: Tensor, old: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float
) -> Tensor:
    """- min(rho A, clip(rho, 1 - epsilon, 1 + epsilon_high) A) of each token: no pay beyond the clip."""
    rho = (logprobs - old).exp()
    return -torch.minimum(rho * advantages, rho.clamp(1 - epsilon, 1 + epsilon_high) * advantages)


def value_loss(values: Tensor, old: Tensor, returns: Tensor, cliprange: float) -> Tensor:
    """1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2) of each token."""
    clipped = old + (values - old).clamp(-cliprange, cliprange)
    return torch.maximum((values - returns) ** 2, (clipped - returns) ** 2) / 2


def kl_estimate(logprobs: Tensor, reference: Tensor, estimator: str) -> Tensor:
    """KL(pi_theta || pi_ref) from one token (Schulman 2020): k1 unbiased, k2 of low variance, k3 both."""
    d = reference - logprobs
    return {"k1": -d, "k2": d**2 / 2, "k3": d.exp() - 1 - d}[estimator]


# -------------------------------------------------------------------------------------------- the update
def critic_of(policy: Gemma) -> Gemma:
    """PPO's V(s): a copy of the policy under a linear head, which begins at zero."""
    critic = copy.deepcopy(policy)
    critic.w |= {
        "head": torch.zeros(1, policy.c["hidden_size"], requires_grad=True),
        "bias": torch.zeros(1, requires_grad=True),
    }
    return critic


def values_of(critic: Gemma, batch: Batch) -> Tensor:
    return batch.spread(F.linear(batch.before_actions(critic), critic.w["head"], critic.w["bias"])[:, 0])


def apply(optimizer: torch.optim.Optimizer) -> float:
    """Clip the gradient to length 1, step, clear; returns its length before the clip."""
    norm = torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return norm.item()


def sft(policy: Gemma, problems: Problems, steps: int, rate: float) -> None:
    """Supervised fine-tuning: - 1/N sum log pi(solution | question), 32 problems a step."""
    optimizer = torch.optim.AdamW(policy.w.values(), rate, (0.9, 0.95), weight_decay=0.0)
    for step in range(steps):
        part = [problems[(32 * step + i) % len(problems)] for i in range(32)]
        batch = Batch.of(*zip(*(policy.encode(p["question"], p["solution"]) for p in part), strict=True))
        (-batch.logprobs(policy, 1.0).sum() / batch.actions.sum()).backward()
        apply(optimizer)


def attempt(
    s: Settings, policy: Gemma, problems: Problems, generations: int, temperature: float
) -> tuple[Batch, Tensor, Tensor]:
    """Completions of the problems, their log pi [B, T] and their rewards [B]."""
    batch, logprobs = generate(
        policy, [policy.encode(p["question"], "")[0] for p in problems], generations, temperature, s.limit
    )
    texts = policy.tokenizer.decode_batch(batch.ids[:, batch.start :].tolist())
    return (
        batch,
        logprobs,
        torch.tensor([reward(text, problems[i // generations]["gold"]) for i, text in enumerate(texts)]),
    )


@torch.no_grad()
def roll(
    s: Settings, policy: Gemma, critic: Gemma | None, reference: Gemma, problems: Problems
) -> tuple[Batch, Tensors, Line]:
    """Rollout, reward, advantage of one step: completions, facts of their tokens [B, T], what is printed."""
    batch, old, rewards = attempt(s, policy, problems, s.generations, s.temperature)
    pi_ref = batch.logprobs(reference, s.temperature) if s.kl_coef else old
    values = values_of(critic, batch) if critic else torch.zeros_like(old)
    if critic:
        paid = token_rewards(rewards, batch.actions) - s.kl_coef * kl_estimate(old, pi_ref, "k1")
        raw = gae(paid, values, batch.actions, s.gamma, s.lam)
        advantages = whiten(raw, batch.actions) * (rewards.amin() < rewards.amax())
    else:
        raw = advantages = group_advantages(rewards.view(-1, s.generations)).view(-1, 1) * batch.actions
    line = {
        "reward": rewards.mean().item(),
        "ended": (batch.ids[:, batch.start :] == policy.eos).any(-1).float().mean().item(),
    }
    return (
        batch,
        {
            "old": old,
            "advantages": advantages,
            "reference": pi_ref,
            "values": values,
            "returns": raw + values,
        },
        line,
    )


def update(
    s: Settings,
    policy: Gemma,
    critic: Gemma | None,
    optimizers: list[torch.optim.Optimizer],
    rollout: Batch,
    known: Tensors,
) -> Line:
    """`s.updates` optimizer steps on one rollout. A loss is a sum over tokens, divided once."""
    line = {"log_ratio": 0.0, "grad_norm": 0.0}
    taught = known["advantages"].any(-1).nonzero()[:, 0]
    for rows in taught[torch.randperm(len(taught))].chunk(s.updates) if len(taught) else ():
        divisor = rollout.actions[rows].sum() if critic else s.prompts * s.generations * s.limit / s.updates
        for part in rows.split(64):
            batch = Batch(rollout.ids[part], rollout.real[part], rollout.start)
            now = {name: tensor[part] for name, tensor in known.items()}
            logprobs = batch.logprobs(policy, s.temperature)
            losses = policy_loss(logprobs, now["old"], now["advantages"], s.epsilon, s.epsilon_high)
            if critic:
                losses = losses + value_loss(
                    values_of(critic, batch), now["values"], now["returns"], s.cliprange_value
                )
            else:
                losses = losses + s.kl_coef * kl_estimate(logprobs, now["reference"], "k3")
            ((losses * batch.actions).sum() / divisor).backward()
            line["log_ratio"] = (
                line["log_ratio"] or (logprobs - now["old"]).abs().max().item()
            )  # before the policy has moved
        line["grad_norm"] = [apply(optimizer) for optimizer in optimizers][0]
    return line


def train(s: Settings) -> Iterator[Line]:
    """The whole run; yields what is known of each step. Step 0 is before reinforcement learning."""
    began = time.perf_counter()
    torch.manual_seed(s.seed)
    alone = not (s.init or EMBEDDED.is_dir())
    policy = Gemma(TOY if alone else Path(s.init or EMBEDDED))
    path = s.problems or (str(TOY / "problems.jsonl") if alone else "")
    problems = read(path) if path else stories(6000, s.seed)
    held = min(200, 2 * len(problems) // 3)
    dev, problems = problems[:held], problems[held:]
    sft(policy, problems, 0 if s.init else s.sft_steps, 2e-3)
    critic, reference = critic_of(policy) if s.method == "ppo" else None, copy.deepcopy(policy)
    rates = [(policy, s.learning_rate), (critic, s.critic_learning_rate)]
    optimizers = [
        torch.optim.AdamW(model.w.values(), rate, (0.9, 0.95), weight_decay=0.0)
        for model, rate in rates
        if model
    ]
    for step in range(s.steps + 1):
        line = {"step": step}
        if step > 0:
            asked = [
                problems[(s.prompts * step + i) % len(problems)] for i in range(s.prompts)
            ]  # others at each step
            rollout, known, seen = roll(s, policy, critic, reference, asked)
            line |= seen | update(s, policy, critic, optimizers, rollout, known)
        if step % 5 == 0 or step == s.steps:
            line["dev"] = attempt(s, policy, dev, 1, 0.0)[2].mean().item()
        yield line | {"seconds": time.perf_counter() - began}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for field in dataclasses.fields(Settings):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    for line in train(Settings(**vars(parser.parse_args()))):
        print("  ".join(f"{name} {value:.3g}" for name, value in line.items()), flush=True)
