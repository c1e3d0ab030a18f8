"""What must hold for reinforcement learning to work at all; each line would have caught a fault that really
happened.

A check takes the package to look at by name, so that it can be pointed at a copy with a fault planted in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import itertools
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

GOLDS = ["7", "1,450", "-10", "0.5", "72", "7", "3", "12", "7", "1,000"]


class Code:
    """One copy of the package: `Code("reckoner")("algorithms.grpo").update`."""

    def __init__(self, package: str) -> None:
        self.package = package

    def __call__(self, module: str) -> ModuleType:
        return importlib.import_module(f"{self.package}.{module}")


def problems_of(code: Code, golds: list[str] = GOLDS) -> list[Any]:
    problem = code("runs.records").Problem
    return [
        problem(f"p{i}", f"{'How many? ' * (1 + i % 3)}{i}", f"#### {gold}", gold, "main", "test")
        for i, gold in enumerate(golds)
    ]


def coin(answer: Any, *_: object) -> SimpleNamespace:
    """A reward of 0 or 1 that a random policy earns half of the time."""
    total = float(hashlib.sha256(answer.text.encode()).digest()[0] % 2)
    return SimpleNamespace(total=total, parts={"correct": total})


class Scene:
    """A policy, its sampler and schedule: all that an update needs, without a run folder."""

    def __init__(
        self,
        code: Code,
        model: Path,
        *settings: str,
        reward_fn: Any = coin,
        problems: list[Any] | None = None,
    ) -> None:
        self.code = code
        base = [
            f"model.model_name_or_path={model}",
            "rollout.num_prompts=4",
            "rollout.num_generations=4",
            "rollout.max_completion_length=10",
            "train.max_grad_norm=0",
            "train.per_device_train_batch_size=4",
            "prompt.chat_template=off",
        ]
        self.config = config = code("config").load_config("", [], [*base, *settings])
        torch.manual_seed(0)
        self.policy = code("models.policy").load_policy(config.model, config.peft, train=True)
        self.prompt = code("tasks.prompts").Prompt(exemplars=tuple(problems_of(code)[: config.prompt.shots]))
        self.problems = problems or problems_of(code)
        examples = code("evaluation.evaluate").encode(self.policy, self.prompt, self.problems)
        data = code("training.loop").TrainingData(
            self.prompt, self.problems, examples, examples[:2], self.problems[:2], 10
        )
        self.run = SimpleNamespace(config=config, folder=Path("scene"))
        self.data = data
        self.sampler = code("training.rollouts").Sampler(self.run, self.policy, data, reward_fn)
        self.schedule = code("training.schedule").Schedule.of(config, len(examples), rollouts=True)
        self.schedule.check(len(examples))
        self.max_tokens = 4 * (max(len(example.prompt_ids) for example in examples) + 10)
        self.code("training.rollouts").without_dropout(self.policy.model)

    def draw(self, first: int = 0) -> Any:
        self.episodes = self.sampler.draw(first, self.schedule.prompts, lambda *_: None)
        return self.code("training.rollouts").Rollout.of(self.episodes)

    def training(self, optimizer: Any = None, critic: Any = None, critic_optimizer: Any = None) -> Any:
        """The training run that an update sees; SGD by default, so that the change of the weights is the
        gradient.
        """

        def sgd(module: Any) -> Any:
            return torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.0)

        optimizers = {"policy": (self.policy.model, optimizer or sgd(self.policy.model))}
        if critic is not None:
            optimizers["critic"] = (critic, critic_optimizer or sgd(critic))
        return self.code("training.rl").RolloutTraining(
            self.run,
            self.policy,
            self.data,
            self.schedule,
            optimizers,
            state=None,
            on_progress=lambda *_: None,
            sampler=self.sampler,
            reference=None,
            gate=None,
            guard=None,
            max_tokens=self.max_tokens,
            valuer=critic,
        )

    def update(
        self,
        method: str,
        rollout: Any,
        rate: float = 1e-3,
        optimizer: Any = None,
        reference: Any = None,
        max_tokens: int = 0,
    ) -> Any:
        """One step of `method`."""
        algorithm = self.code(f"algorithms.{method}")
        reference = torch.zeros_like(rollout.logprobs) if reference is None else reference
        self.max_tokens = max_tokens or self.max_tokens
        if method == "grpo":
            batch = algorithm.estimate(rollout, reference, self.config)
            return algorithm.update(self.training(optimizer), rollout, batch, rate, 1)
        training = self.training(optimizer, self.code("models.critic").Critic(32))
        batch = algorithm.estimate(rollout, algorithm.score_values(training, rollout), reference, self.config)
        return algorithm.update(training, rollout, batch, (rate, rate), 1)

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.policy.model.named_parameters()}


METHODS = ("grpo", "ppo")
ADAPTERS = ([], ["peft.method=lora", "peft.lora_dropout=0.5"])


def first_update_is_on_policy(code: Code, model: Path) -> None:
    """1.

    Before the first update the ratio is 1: with prompts of mixed lengths, dropout configured, any
    temperature.
    """
    for method, (adapter, temperature) in itertools.product(
        METHODS, ((ADAPTERS[0], 1.0), (ADAPTERS[1], 0.7))
    ):
        scene = Scene(code, model, f"rollout.temperature={temperature}", *adapter)
        scene.policy.model.train()
        code("training.rollouts").without_dropout(scene.policy.model)
        sums = scene.update(method, scene.draw())
        assert sums["tokens"] > 50
        assert sums["log_ratio_max"] < 1e-3, (method, adapter, temperature, sums["log_ratio_max"])


def sampler_equals_scorer(code: Code, model: Path) -> None:
    """2. The log-probs that generation reports are those of the scorer, at the temperature of sampling."""
    for temperature in (1.0, 0.6, 1.5):
        scene = Scene(code, model, f"rollout.temperature={temperature}")
        rollout = scene.draw()
        score = code("training.rollouts").score
        scored = score(
            scene.policy, scene.policy.model, rollout, range(len(rollout.examples)), temperature, 200
        )
        assert (scored - rollout.logprobs).abs().max() < 1e-4, temperature


def padding_changes_nothing(code: Code, model: Path) -> None:
    """3.

    Log-probs do not depend on padding, on its token (eos included), on its side, on the batch or its order.
    """
    scene = Scene(code, model)
    examples = list(scene.draw().examples)
    assert any(example.completion_ids[-1] == scene.policy.tokenizer.eos_token_id for example in examples)
    collate, logprobs = code("engine.batches").collate, code("engine.logprobs").completion_logprobs
    with torch.no_grad():
        alone = [logprobs(scene.policy.model, collate([example], 0)).logprobs for example in examples]
        for side, pad, order in itertools.product(("right", "left"), (0, 1), (1, -1)):
            batch = collate(examples[::order], pad, side=side)
            assert batch.lengths.tolist() == [len(example.completion_ids) for example in examples[::order]]
            together = logprobs(scene.policy.model, batch).logprobs.split(batch.lengths.tolist())
            for one, other in zip(alone, together[::order], strict=True):
                assert (one - other).abs().max() < 1e-4, (side, pad, order)


def updates_move_the_weights(code: Code, model: Path) -> None:
    """4.

    One update at the original study's rate moves more than half of the weights, also when it computes in
    bf16.
    """
    for method, dtype in itertools.product(METHODS, ("float32", "bfloat16")):
        scene = Scene(code, model, f"model.dtype={dtype}", "eval.engine=transformers")
        optimizer = code("engine.optim").make_optimizer(scene.policy.model.named_parameters())
        before = scene.weights()
        scene.update(method, scene.draw(), 5e-7, optimizer)
        moved = sum(int((before[name] != p).sum()) for name, p in scene.policy.model.named_parameters())
        assert moved > scene.policy.parameters_total / 2, (
            method,
            dtype,
            moved / scene.policy.parameters_total,
        )


def frozen_weights_stay(code: Code, model: Path) -> None:
    """4. With LoRA the base does not change by a bit, and the adapter does."""
    for method in METHODS:
        scene = Scene(code, model, "peft.method=lora")
        before = scene.weights()
        scene.update(method, scene.draw())
        changed = {
            name for name, p in scene.policy.model.named_parameters() if not torch.equal(before[name], p)
        }
        assert changed and all("lora_" in name for name in changed)
        base = [name for name in before if "lora_" not in name]
        assert digest([before[name] for name in base]) == digest([scene.weights()[name] for name in base])


def digest(tensors: list[torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def prompts_are_new(code: Code, model: Path) -> None:
    """5. Successive steps see other prompts, and every train prompt is visited before one repeats."""
    indices = code("training.rollouts").prompt_indices
    for problems, count in ((7473, 64), (10, 4), (5, 5)):
        steps = [indices(problems, 0, step * count, count) for step in range(3 * problems // count)]
        assert problems == count or all(set(a) != set(b) for a, b in itertools.pairwise(steps))
        stream = list(itertools.chain(*steps))
        for start in range(0, len(stream) - problems + 1, problems):
            assert sorted(stream[start : start + problems]) == list(range(problems))
    assert indices(100, 0, 0, 50) != indices(100, 1, 0, 50)


def reward_reaches_the_first_token(code: Code, model: Path) -> None:
    """6. With gamma = lam = 1 the first token of a long completion gets the whole reward."""
    ppo, config = code("algorithms.ppo"), code("config").load_config("", [], ["ppo.whiten_advantages=false"])
    rollout = SimpleNamespace(
        rewards=torch.tensor([1.0, 0.0]), logprobs=torch.zeros(2, 400), mask=torch.ones(2, 400).bool()
    )
    known = ppo.estimate(rollout, torch.zeros(2, 400), torch.zeros(2, 400), config)
    assert known.advantages[0, 0] == 1 and known.advantages[1, 0] == 0


def gold_earns_one_and_nothing_else_does(code: Code, model: Path) -> None:
    """7.

    Each gold solution earns 1, also after a discarded attempt; spam, hedges, copies and silence earn no
    more than a constant.
    """
    scene = Scene(code, model, "prompt.shots=1", reward_fn=code("tasks.rewards").reward)
    policy, problems = scene.policy, scene.problems
    sample, asking = code("engine.sampling").Sample, code("evaluation.sample")

    def episode(problem: Any, tokens: Any) -> Any:
        ids = asking.ask(policy, scene.prompt, problem.question)
        record = asking.record(policy, scene.prompt, problem, 0, tokens)
        group = [asking.Answered(problem, ids, record, tokens)]
        return scene.sampler._episodes(group, scene.sampler._pay(group, 0))[0]

    def earned(texts: list[str]) -> float:
        rows = [policy.encode_example(scene.prompt.render("?"), text)[1] if text else [] for text in texts]
        samples = [sample(tuple(row), (-1.0,) * len(row), "stop") for row in rows]
        return sum(episode(*one).reward for one in zip(problems, samples, strict=True))

    assert earned([scene.prompt.answer(p.solution) for p in problems]) == len(problems)
    assert earned([f" #### 999\nNo. {p.solution}" for p in problems]) == len(problems)
    assert earned([f" {p.solution}\nNo.\n#### 999" for p in problems]) == 0
    assert earned([""] * len(problems)) == 0
    constant = max(GOLDS.count(gold) for gold in GOLDS)
    spam = "".join(f"\n#### {gold}" for gold in GOLDS)
    for text in (
        spam,
        spam.replace("\n", " "),
        "#### 7 or 72 or 3",
        "7 72 3 12",
        "#### 3 x 7",
        "####",
        " #### nan",
    ):
        assert earned([text] * len(problems)) <= constant, text
    assert earned([f" {p.question}" for p in problems]) <= constant


def equal_rewards_give_no_gradient(code: Code, model: Path) -> None:
    """8.

    Where all completions of a group earn the same, the gradient is exactly 0, whatever their log-probs and
    KL.
    """
    for method, kind in (("grpo", "mean"), ("grpo", "std"), ("grpo", "rloo"), ("ppo", "mean")):
        scene = Scene(code, model, f"grpo.advantage={kind}")
        before, rollout = scene.weights(), scene.draw()
        for value in (0.0, 0.1, 1.0):
            equal = dataclasses.replace(rollout, rewards=torch.full_like(rollout.rewards, value))
            scene.update(method, equal, 1.0, reference=rollout.logprobs + torch.randn(rollout.logprobs.shape))
            assert all(torch.equal(before[name], p) for name, p in scene.policy.model.named_parameters()), (
                method,
                kind,
                value,
            )


def prompts_are_the_same_everywhere(code: Code, model: Path) -> None:
    """9.

    SFT, RL and evaluation give the model the same tokens before the answer, and they are a prefix of prompt
    + answer.
    """
    scene = Scene(code, model, "prompt.shots=1")
    policy, seen = scene.policy, []
    data, sample = scene.sampler.data, code("engine.sampling").Sample((5, 1), (-1.0, -1.0), "stop")
    asking, rollouts, evaluation = map(
        code, ("evaluation.sample", "training.rollouts", "evaluation.evaluate")
    )
    generate = asking.generate

    def record(policy: Any, prompts: Any, sampling: Any, *_: Any) -> Any:
        seen.append([tuple(prompt) for prompt in prompts])
        return [[sample] * sampling.num_samples for _ in prompts]

    try:
        asking.generate = record
        scene.draw()
        with tempfile.TemporaryDirectory() as folder:
            run = SimpleNamespace(config=scene.config, folder=Path(folder))
            sitting = evaluation.EvalSession.open(run.folder / "x.jsonl", {})
            sampling = evaluation.greedy(policy, scene.prompt, 10)
            evaluation.complete(
                run, policy, scene.prompt, scene.problems, sampling, sitting, lambda *_: None, "dev"
            )
    finally:
        asking.generate = generate
    order = rollouts.prompt_indices(len(scene.problems), scene.config.run.seed, 0, scene.schedule.prompts)
    drawn, evaluated = seen
    assert drawn == [evaluated[i] for i in order] == [data.examples[i].prompt_ids for i in order]
    for problem, ids in zip(scene.problems, evaluated, strict=True):
        whole = policy.encode_prompt(
            scene.prompt.render(problem.question) + scene.prompt.answer(problem.solution)
        )
        assert tuple(whole[: len(ids)]) == ids and not policy.decode(ids).endswith(" ")


def advantages_are_the_papers(code: Code, model: Path) -> None:
    """10. Hand-worked advantages; `lam` = 1 is reward-to-go minus value, `lam` = 0 the one-step error."""
    group = code("algorithms.grpo").group_advantages
    rewards = torch.tensor([[1.0, 0, 0, 0], [1, 1, 0, 0]])
    assert torch.allclose(group(rewards), torch.tensor([[0.75, -0.25, -0.25, -0.25], [0.5, 0.5, -0.5, -0.5]]))
    assert torch.allclose(group(rewards, "rloo")[0], torch.tensor([1, -1 / 3, -1 / 3, -1 / 3]))
    assert torch.allclose(group(rewards, "std")[0], torch.tensor([1.5, -0.5, -0.5, -0.5]))
    gae = code("algorithms.ppo").gae
    paid, values = torch.tensor([[0.0, 0, 1], [0, 2, 0]]), torch.tensor([[0.5, 0.25, 0.5], [1, 1, 9]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    assert torch.allclose(gae(paid, values, mask, 1, 1), torch.tensor([[0.5, 0.75, 0.5], [1, 1, 0]]))
    assert torch.allclose(gae(paid, values, mask, 1, 0), torch.tensor([[-0.25, 0.25, 0.5], [0, 1, 0]]))
    assert torch.allclose(gae(paid, values, mask, 0.5, 0), torch.tensor([[-0.375, 0, 0.5], [-0.5, 1, 0]]))


def passes_change_no_gradient(code: Code, model: Path) -> None:
    """11.

    Cutting an optimizer step into more forward passes changes neither its loss nor its gradient: for any
    way of weighing tokens, with truncated completions in the loss or out of it."""
    for method, objective, loss_types in (
        ("grpo", "clip", ("dr_grpo", "grpo", "dapo")),
        ("grpo", "gspo", ("grpo",)),
        ("grpo", "cispo", ("dapo",)),
        ("ppo", "clip", ("",)),
    ):
        scene = Scene(code, model, "rollout.num_mini_batches=1", f"grpo.objective={objective}")
        before, rollout = scene.weights(), scene.draw()
        rollout = dataclasses.replace(rollout, truncated=torch.arange(len(rollout.examples)) % 3 == 0)
        for loss_type, masked in itertools.product(loss_types, (False, True)):
            scene.config.grpo.loss_type = loss_type
            scene.config.rollout.mask_truncated_completions = masked
            changes, losses = [], []
            for max_tokens in (10_000, 400, 150, 1):
                sums = scene.update(method, rollout, 1.0, max_tokens=max_tokens)
                losses.append(sums["policy_loss"])
                changes.append(
                    torch.cat([(p - before[name]).flatten() for name, p in scene.weights().items()])
                )
                scene.policy.model.load_state_dict(before, strict=False)
            assert changes[0].norm() > 1e-3
            for change, loss in zip(changes, losses, strict=True):
                assert (changes[0] - change).norm() < 1e-5 * changes[0].norm(), (method, loss_type, masked)
                assert abs(losses[0] - loss) < 1e-6, (method, loss_type, masked)


def clipping_has_four_cases(code: Code, model: Path) -> None:
    """11. The gradient is cut off only where the step already went far enough in the direction it pays."""
    for method in METHODS:
        loss = code(f"algorithms.{method}").policy_loss
        for advantage, ratio, flows in (
            (1, 1.5, False),
            (1, 0.5, True),
            (-1, 1.5, True),
            (-1, 0.5, False),
            (1, 1.0, True),
            (-1, 1.0, True),
        ):
            logprob = torch.tensor([ratio]).log().requires_grad_()
            loss(logprob, torch.zeros(1), torch.tensor([float(advantage)]), 0.2, 0.28).sum().backward()
            assert logprob.grad.item() == (torch.tensor(-advantage * ratio).item() if flows else 0.0), (
                method,
                advantage,
                ratio,
            )
        high = torch.tensor([1.25]).log().requires_grad_()
        loss(high, torch.zeros(1), torch.ones(1), 0.2, 0.28).sum().backward()
        assert high.grad.item() < 0, "epsilon_high lets a likelier token rise to 1.28"


CHECKS = {
    check.__name__: check
    for check in (
        first_update_is_on_policy,
        sampler_equals_scorer,
        padding_changes_nothing,
        updates_move_the_weights,
        frozen_weights_stay,
        prompts_are_new,
        reward_reaches_the_first_token,
        gold_earns_one_and_nothing_else_does,
        equal_rewards_give_no_gradient,
        prompts_are_the_same_everywhere,
        advantages_are_the_papers,
        passes_change_no_gradient,
        clipping_has_four_cases,
    )
}
