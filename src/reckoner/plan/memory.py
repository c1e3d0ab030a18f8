"""Peak bytes of a run by part. The peak is in the update or in generation, whichever needs more."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from reckoner.engine.logprobs import CHUNK_ELEMENTS
from reckoner.engine.native import FILL
from reckoner.engine.products import KEPT, ROUND
from reckoner.models.dimensions import Shape
from reckoner.plan.work import Load

LIBRARIES = {"cpu": 610_000_000, "cuda": 1_000_000_000}
"""What the process holds before any model: Python, torch, transformers, Numba, data and tokenizer; the context of a GPU."""
PREPARED = 1_000_000
"""Bytes that oneDNN keeps of a product that it has prepared, one for each shape (fitted)."""
SLACK = 1.2
"""Allocated over counted activations: temporaries of the backward pass, which compiled loops hardly make, and holes of the allocator (measured)."""
WAVES = 1.5
"""Rows of keys and values that are allocated for each row at work, while a wave of rows ends and the next begins."""


@dataclass(frozen=True)
class Memory:
    """Peak bytes on one device. Gradients, cast weights, activations and logits live in the update; packed weights and keys in generation."""

    libraries: int = 0
    kernels: int = 0  # products that oneDNN has prepared
    weights: int = 0
    adapter: int = 0
    optimizer: int = 0
    reference: int = 0
    critic: int = 0  # its weights, gradients and moments
    gradients: int = 0
    autocast: int = 0  # cast weights, or packed ones with their gradients
    activations: int = 0
    logits: int = 0
    packed: int = 0  # the generator's copy of the weights
    keys: int = 0  # and its keys and values

    @property
    def lasting(self) -> int:
        return (
            self.libraries
            + self.kernels
            + self.weights
            + self.adapter
            + self.optimizer
            + self.reference
            + self.critic
        )

    @property
    def total(self) -> int:
        """The peak: what lasts, and the larger of the two phases."""
        return self.lasting + max(
            self.gradients + self.autocast + self.activations + self.logits, self.packed + self.keys
        )

    def to_dict(self) -> dict[str, int]:
        return {**asdict(self), "total": self.total}


def activation_bytes(load: Load, tokens: float, length: float) -> int:
    """What autograd keeps of `tokens` in sequences of `length`, at the peak of the backward pass.

    A layer keeps the inputs of its norms and products, the heads, and four tensors as wide as the MLP. Of a frozen product
    it keeps no input, but LoRA keeps one: after its dropout each projection has its own, and its mask. A model that
    soft-caps its attention keeps the scores themselves, five times. The packed pass keeps of a norm what it divided and what
    came of it, the heads as attention saw them, what attention gave, and gate and up.
    """
    shape = load.shape
    if load.packed:
        numbers = 4 * shape.hidden + 3 * shape.queries + 2 * shape.keys + 2 * shape.intermediate
    elif load.adapter:
        inputs = (
            2 * shape.projected_in if load.dropout else 2 * shape.hidden + shape.queries + shape.intermediate
        )
        numbers = 2 * shape.hidden + 4 * shape.queries + 3 * shape.intermediate + inputs
    else:
        numbers = 6 * shape.hidden + 5 * shape.queries + 4 * shape.intermediate
    if shape.open_scores:
        numbers += 5 * shape.heads * length
    kept = numbers + shape.hidden * shape.layers if load.recompute else numbers * shape.layers
    return round((1 if load.looped else SLACK) * load.itemsize * tokens * kept)


def kernel_bytes(tokens: float, rows: float) -> int:
    """What oneDNN keeps after some hundred steps, of `KEPT` shapes at most.

    Six products of each number of tokens that a pass has, half of those up to `tokens`, and seven of each number of `rows` that decode.
    """
    return round(PREPARED * min(KEPT, 6 * tokens / 2 / ROUND + 7 * rows / FILL))


def logit_bytes(shape: Shape, supervised: float, kind: str) -> int:
    """Logits, their log-softmax and its gradient, of as many rows as are computed at once."""
    return round(3 * 4 * min(CHUNK_ELEMENTS[kind], supervised * shape.vocabulary))


def key_bytes(shape: Shape, rows: float, length: float, itemsize: int) -> int:
    """Keys and values of `rows` completions with room for `length` tokens each."""
    return round(WAVES * rows * length * shape.kept_keys * itemsize)
