"""Our losses against TRL's on the same tensors: values and gradients of the variants of GRPO, of DPO and IPO.

    python benchmarks/peer_losses.py        # writes results/peer_losses.json

TRL stands in an environment of its own. Its trainers compute the loss from log-probs that are given to them,
in double precision, so that a difference is one of the formula and not of rounding. The log-probs of 6
completions of unequal length are random, far enough from pi_old that every clip is active.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from reckoner.algorithms import dpo, grpo
from reckoner.config import load_config

OUT = Path(__file__).parent / "results" / "peer_losses.json"
LENGTHS, LONGEST = [5, 1, 9, 4, 7, 2], 12
MASK = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
ADVANTAGES = torch.tensor([1.5, -0.5, -0.5, 0.25, -1.0, 0.25], dtype=torch.float64)
CASES = {
    "GRPO": ("grpo", "clip", 0.0),
    "GRPO with a KL": ("grpo", "clip", 0.1),
    "Dr. GRPO": ("dr_grpo", "clip", 0.0),
    "DAPO": ("dapo", "clip", 0.0),
    "GSPO": ("grpo", "gspo", 0.0),
    "CISPO": ("dapo", "cispo", 0.0),
}


class Accelerator:
    """What a trainer asks of accelerate on one process."""

    num_processes, device, sync_gradients = 1, torch.device("cpu"), True

    def gather(self, value: Tensor) -> Tensor:
        return value

    gather_for_metrics = gather

    def reduce(self, value: Tensor, reduction: str) -> Tensor:
        return value


def tensors() -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs of policy (a leaf), pi_old and reference [B, T]."""
    draws = torch.Generator().manual_seed(0)
    policy, old, reference = (
        -3 * torch.rand(MASK.shape, generator=draws, dtype=torch.float64) for _ in range(3)
    )
    return policy.requires_grad_(), 0.7 * policy.detach() + 0.3 * old, reference


def ours_grpo(loss_type: str, objective: str, beta: float) -> tuple[Tensor, Tensor]:
    policy, old, reference = tensors()
    settings = [f"grpo.loss_type={loss_type}", f"grpo.objective={objective}", "grpo.epsilon_high=0.28"]
    config = load_config("", [], settings).grpo
    rows, _ = MASK.nonzero(as_tuple=True)
    losses = grpo.token_losses(policy[MASK], old[MASK], ADVANTAGES[rows], rows, Counter(), config)
    losses = losses + beta * grpo.kl_estimate(policy[MASK], reference[MASK])
    loss = (grpo.token_weights(MASK, loss_type, len(LENGTHS), LONGEST)[MASK].double() * losses).sum()
    return loss, torch.autograd.grad(loss, policy)[0]


def trl_grpo(loss_type: str, objective: str, beta: float) -> tuple[Tensor, Tensor]:
    from trl import GRPOTrainer

    policy, old, reference = tensors()
    entropies = torch.zeros_like(old)
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (policy, entropies, None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="sequence" if objective == "gspo" else "token",
        loss_type="cispo" if objective == "cispo" else loss_type,
        beta=beta,
        epsilon_low=0.2,
        epsilon_high=1.28 if objective == "cispo" else 0.28,  # TRL's CISPO has the cap itself here
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        use_vllm=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=LONGEST,
        accelerator=Accelerator(),
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    ids = torch.zeros(MASK.shape, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1] + 1,
        "completion_ids": ids,
        "completion_mask": MASK.double(),
        "advantages": ADVANTAGES,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": MASK.sum(),
    }
    loss = GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
    return loss, torch.autograd.grad(loss, policy)[0]


def ours_dpo(kind: str, normalized: bool) -> tuple[Tensor, Tensor]:
    policy, _, reference = tensors()
    rows, _ = MASK.nonzero(as_tuple=True)
    pairs = [(i, i + 3) for i in range(3)]
    margins = dpo.pair_margins(policy[MASK], reference[MASK], rows, pairs, normalized)
    loss = dpo.preference_loss(margins, 0.1, kind).mean()
    return loss, torch.autograd.grad(loss, policy)[0]


def trl_dpo(kind: str, normalized: bool) -> tuple[Tensor, Tensor]:
    from trl import DPOTrainer

    policy, _, reference = tensors()
    inner = torch.zeros(len(LENGTHS), 1, dtype=torch.float64)

    def model(scores: Tensor) -> Any:
        outputs = SimpleNamespace(
            log_probs=scores * MASK,
            entropy=torch.zeros_like(scores),
            mean_logits=torch.zeros_like(scores),
            is_top1=torch.zeros_like(MASK),
        )
        return lambda **_: outputs

    trainer = Stub(
        model=SimpleNamespace(training=True),
        accelerator=Accelerator(),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["ipo" if kind == "ipo" else "sigmoid_norm" if normalized else "sigmoid"],
        loss_weights=[1.0],
        beta=0.1,
        use_weighting=False,
        label_smoothing=0.0,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
    )
    total = (reference * MASK).sum(-1)
    inputs = {
        "input_ids": torch.zeros(len(LENGTHS), MASK.shape[1] + 1, dtype=torch.long),
        "attention_mask": torch.cat([inner + 1, MASK], -1).long(),
        "completion_mask": torch.cat([inner, MASK], -1).long(),
        "ref_chosen_logps": total[:3],
        "ref_rejected_logps": total[3:],
    }
    loss = DPOTrainer._compute_loss(trainer, model(policy), inputs, False)
    return loss, torch.autograd.grad(loss, policy)[0]


class Stub(SimpleNamespace):
    """A trainer with the attributes that the loss reads; everything else is off."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return None


def main() -> None:
    import trl

    results = {}
    for name, case in CASES.items():
        results[name] = compare(ours_grpo(*case), trl_grpo(*case))
    for name, kind, normalized in (
        ("DPO", "dpo", False),
        ("DPO, length-normalised", "dpo", True),
        ("IPO, length-normalised", "ipo", True),
    ):
        results[name] = compare(ours_dpo(kind, normalized), trl_dpo(kind, normalized))
    text = json.dumps({"trl": trl.__version__, "torch": torch.__version__, "losses": results}, indent=1)
    OUT.write_text(text + "\n", encoding="ascii")
    print(text)
    worst = max(max(one["loss_difference"], one["gradient_difference"]) for one in results.values())
    raise SystemExit(worst > 1e-6)


def compare(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> dict[str, float]:
    return {
        "loss": ours[0].item(),
        "loss_difference": (ours[0] - theirs[0]).abs().item(),
        "gradient_difference": (ours[1] - theirs[1]).abs().max().item(),
        "gradient_max": ours[1].abs().max().item(),
    }


if __name__ == "__main__":
    main()
