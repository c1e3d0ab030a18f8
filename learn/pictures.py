"""The pictures of the course, each from a small computation: `python learn/pictures.py`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import torch
from tinier_zero import EMBEDDED, Gemma, gae, kl_estimate, policy_loss, token_rewards

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
BLUE, RED, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#888888"


def clipping(axes: list[Axes]) -> None:
    """The loss of one token against the ratio, for A = 1 and A = -1."""
    rho = torch.linspace(0.4, 1.8, 300)
    for ax, advantage, colour in zip(axes, (1.0, -1.0), (BLUE, RED), strict=True):
        advantages = torch.full_like(rho, advantage)
        ax.plot(rho, -rho * advantage, ":", color=GREY, label="without the clip")
        ax.plot(
            rho,
            policy_loss(rho.log(), torch.zeros_like(rho), advantages, 0.2, 0.28),
            color=colour,
            lw=2.2,
            label="PPO and GRPO",
        )
        ax.axvspan(0.8, 1.28, color="black", alpha=0.06)
        ax.axvline(1, color=GREY, lw=0.8)
        ax.set(
            xlabel="rho = pi_theta / pi_old",
            ylabel="loss",
            title=f"A = {advantage:+.0f}: "
            f"{'likelier pays up to 1.28' if advantage > 0 else 'rarer pays down to 0.8'}",
        )
        ax.legend(frameon=False)


def estimators(axes: list[Axes]) -> None:
    """Mean and spread of k1, k2, k3 from tokens drawn from p, against the true KL(p, q), q ever further from
    p."""
    torch.manual_seed(0)
    logits, direction = torch.randn(2, 50)
    log_p = logits.log_softmax(-1)
    drawn = torch.multinomial(log_p.exp(), 20_000, replacement=True)
    true, found = [], {name: [] for name in ("k1", "k2", "k3")}
    for distance in torch.linspace(0.05, 1.6, 14):
        log_q = (logits + distance * direction).log_softmax(-1)
        true.append((log_p.exp() * (log_p - log_q)).sum().item())
        for name, values in found.items():
            estimate = kl_estimate(log_p[drawn], log_q[drawn], name)
            values.append((estimate.mean().item(), estimate.std().item()))
    for (name, values), colour in zip(found.items(), (BLUE, RED, GREEN), strict=True):
        mean, spread = np.array(values).T
        axes[0].plot(true, mean, "o-", color=colour, ms=3.5, label=name)
        axes[1].plot(true, spread, "o-", color=colour, ms=3.5, label=name)
    axes[0].plot(true, true, ":", color=GREY, label="true")
    axes[0].set(
        xlabel="true KL, nats",
        ylabel="mean of 20,000 estimates",
        title="k1 and k3 are right on average, k2 is not",
    )
    axes[1].set(
        xlabel="true KL, nats",
        ylabel="standard deviation of one",
        title="k1 is the noisiest while the KL is small",
    )
    for ax in axes:
        ax.legend(frameon=False)


def groups(axes: list[Axes]) -> None:
    """The share of groups with both right and wrong completions, and the spread of the advantage."""
    generator, p = np.random.default_rng(0), np.linspace(0.02, 0.98, 25)
    for size, colour in ((2, GREY), (4, BLUE), (8, RED), (16, GREEN)):
        draws = generator.random((2000, size))
        mixed = [np.mean((draws < q).any(1) & (draws >= q).any(1)) for q in p]
        axes[0].plot(p, 1 - p**size - (1 - p) ** size, color=colour, label=f"G = {size}")
        axes[0].plot(p, mixed, "o", color=colour, ms=2.5)
    axes[0].set(
        xlabel="share of right completions p",
        ylabel="groups that teach",
        title="Questions that are too easy or too hard teach nothing",
    )
    axes[0].legend(frameon=False)
    axes[1].plot(p, (1 - p), color=BLUE, label="A of a right one: 1 - p")
    axes[1].plot(p, -p, color=RED, label="A of a wrong one: -p")
    axes[1].set(xlabel="share of right completions p", ylabel="advantage", title="A rare success counts most")
    axes[1].legend(frameon=False)


def discounting(axes: list[Axes]) -> None:
    """What of a reward of 1 after 130 tokens reaches each token, where the critic knows nothing; and a critic
    that does."""
    actions = torch.ones(1, 130).bool()
    paid, nothing = token_rewards(torch.ones(1), actions), torch.zeros(1, 130)
    for (gamma, lam), colour in zip(
        ((1.0, 1.0), (0.99, 1.0), (1.0, 0.95), (0.99, 0.95)), (GREEN, BLUE, GREY, RED), strict=True
    ):
        axes[0].plot(
            gae(paid, nothing, actions, gamma, lam)[0], color=colour, label=f"gamma {gamma:g}, lam {lam:g}"
        )
    axes[0].set(
        xlabel="token", ylabel="advantage", title="A silent critic: 0.99 x 0.95 leaves 3e-4 at the start"
    )
    knows = torch.cat([torch.full((60,), 0.3), torch.full((70,), 0.9)])[None]
    for lam, colour in ((1.0, GREEN), (0.95, BLUE), (0.0, RED)):
        axes[1].plot(gae(paid, knows, actions, 1.0, lam)[0], color=colour, label=f"lam {lam:g}")
    axes[1].set(
        xlabel="token",
        ylabel="advantage",
        title="A critic that sees the turn at token 60: lam = 0 pays it alone",
    )
    axes[0].legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.93))
    axes[1].legend(frameon=False)


def precision(axes: list[Axes]) -> None:
    """Which share of the embedded weights one Adam step of size lr moves, with fp32 masters and in bf16
    alone."""
    weights = torch.cat([w.detach().flatten() for w in Gemma(EMBEDDED).w.values() if w.ndim > 1])
    rates = torch.logspace(-7, -2, 26)
    for kind, colour in ((torch.float32, GREEN), (torch.bfloat16, RED)):
        start = weights.to(kind)
        moved = [((start.float() + rate).to(kind) != start).float().mean().item() for rate in rates]
        axes[0].semilogx(rates, moved, color=colour, label=str(kind).removeprefix("torch."))
    axes[0].set(
        xlabel="size of a step",
        ylabel="weights that change",
        title="bf16 weights without fp32 masters stand still at RL's rates",
    )
    axes[0].axvline(5e-7, color=GREY, ls=":")
    axes[0].annotate("the original\nstudy's PPO", (6e-7, 0.3), color=GREY)
    axes[0].legend(frameon=False)
    sizes = np.array([100, 256, 500, 1319, 5000])
    for accuracy, colour in ((0.3, BLUE), (0.6, RED)):
        axes[1].semilogx(
            sizes,
            196 * np.sqrt(accuracy * (1 - accuracy) / sizes),
            "o-",
            color=colour,
            label=f"accuracy {accuracy:.0%}",
        )
    axes[1].set(
        xlabel="test problems n",
        ylabel="95 % interval, +- points",
        title="100 problems cannot tell 31 % from 28 %",
        xticks=sizes,
        xticklabels=sizes,
    )
    axes[1].minorticks_off()
    axes[1].legend(frameon=False)


PICTURES: dict[str, Callable[[list[Axes]], None]] = {
    f.__name__: f for f in (clipping, estimators, groups, discounting, precision)
}


def main() -> None:
    plt.rcParams.update(
        {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9.5}
    )
    for name, draw in PICTURES.items():
        figure, axes = plt.subplots(1, 2, figsize=(9.6, 3.4), layout="constrained")
        draw(list(axes))
        figure.savefig(HERE / "pictures" / f"{name}.png", dpi=110, metadata={"Software": None})
        plt.close(figure)


if __name__ == "__main__":
    main()
