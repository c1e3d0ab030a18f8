"""The critic of PPO: a linear head in fp32 over hidden states, initialised to zero.

With values of zero the first advantages are the rewards themselves. A random head would add noise, from which
the policy would learn (VC-PPO, arXiv 2503.01491).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Critic(nn.Module):
    """V(s) over hidden states of its own `trunk`, a language model that trains too, or of the policy (None).

    The policy's states must be detached, because the critic's gradient would otherwise change the policy.
    """

    def __init__(self, width: int, trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, states: Tensor) -> Tensor:
        """Values [N] of states [N, H], in fp32 whatever the dtype of the states."""
        with torch.autocast(states.device.type, enabled=False):
            return self.head(states.float())[:, 0]
