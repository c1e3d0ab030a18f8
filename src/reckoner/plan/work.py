"""What the phases of a run compute: operations of matrix products, bytes moved outside them, and operations issued.

Products are counted exactly (two operations a weight and token forward, four backward, two where the weight is frozen;
Kaplan 2020), attention scores included. The bytes of norms, rotations, activations, dropout and residuals were counted
once, by a trace of one step of a Gemma, and follow from a layer's widths; those of the LM head from its logits.
"""

from __future__ import annotations

from dataclasses import dataclass

from reckoner.models.dimensions import Shape
from reckoner.plan.machines import Machine

HEAD_PASSES = 10
"""Times that fp32 logits are read or written in log-softmax, its gradient and the choice of the first token."""
LOOPED = 0.5
"""Share of the bytes outside products that is left where the engine's compiled loops do the work of torch's operations (fitted)."""
OPTIMIZER_BYTES = 44
"""A trained parameter and step: norm, clip and AdamW read and write 11 fp32 numbers."""
ISSUED = {"train": 170, "lora": 110, "fold": 50, "forward": 60, "decode": 30, "draw": 40}
"""Operations of torch a layer: training with autograd, what LoRA adds beside the weights, and folded into them; forward, one decoding step; of sampling, a step."""
OCCUPANCY = 0.75
"""Mean share of the generator's rows that are at work, from its waves."""


@dataclass(frozen=True)
class Work:
    """An amount of computation; amounts add up and multiply by a number."""

    matmul: float = 0.0
    moved: float = 0.0
    issued: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.matmul + other.matmul, self.moved + other.moved, self.issued + other.issued)

    def __mul__(self, times: float) -> Work:
        return Work(self.matmul * times, self.moved * times, self.issued * times)

    def seconds(self, machine: Machine) -> float:
        """A CPU does one after the other; a GPU computes while the next operation is issued."""
        computing, issuing = (
            self.matmul / machine.matmul + self.moved / machine.bandwidth,
            self.issued * machine.issue,
        )
        return computing + issuing if machine.kind == "cpu" else max(computing, issuing)


@dataclass(frozen=True)
class Load:
    """A model as a phase finds it: what trains, whether activations are recomputed, and the bytes of a number."""

    shape: Shape
    adapter: int = 0  # parameters of the LoRA, 0 where all weights train
    dropout: bool = False
    recompute: bool = False
    itemsize: int = 4
    packed: bool = False  # by the packed pass of `engine.states`
    looped: bool = False  # whose parts are compiled loops
    folded: bool = False  # with LoRA summed into the weights, whose gradient then is that of all weights


def training(
    load: Load, sequences: float, length: float, completion: float, logits: bool = True, sharing: float = 1.0
) -> Work:
    """Forward and backward over `sequences` of `length` tokens, the LM head (if `logits`) over their `completion`; one pass.

    A prompt is computed once for `sharing` sequences, but for its attention.
    """
    shape, tokens = load.shape, sequences * (completion + (length - completion) / sharing)
    beside = bool(load.adapter) and not load.folded
    each = (4 if beside else 6) + (2 if load.recompute else 0)
    matmul = each * shape.block * tokens + (3 + load.recompute) * _scores(shape, sequences * length, length)
    moved = _moved(load, tokens, 1.0 + load.recompute / 3)
    if beside:
        matmul += 6 * load.adapter * tokens
        moved += (
            (3 if load.dropout else 1)
            * load.itemsize
            * tokens
            * shape.layers
            * (shape.projected_in + shape.projected_out)
        )
    if logits:
        supervised = sequences * completion
        matmul += (4 if load.adapter else 6) * shape.head * supervised
        moved += 4 * HEAD_PASSES * shape.vocabulary * supervised
    return Work(
        matmul,
        moved,
        shape.layers
        * (ISSUED["train"] + (ISSUED["lora"] if beside else ISSUED["fold"] if load.folded else 0)),
    )


def forward(load: Load, sequences: float, length: float, completion: float, logits: bool = True) -> Work:
    """A forward pass alone."""
    shape, tokens = load.shape, sequences * length
    matmul = 2 * shape.block * tokens + _scores(shape, tokens, length)
    moved = _moved(load, tokens, 1 / 3)
    if logits:
        matmul += 2 * shape.head * sequences * completion
        moved += 4 * HEAD_PASSES / 2 * shape.vocabulary * sequences * completion
    return Work(matmul, moved, shape.layers * ISSUED["forward"])


def generation(load: Load, prompts: float, samples: float, prompt: float, drawn: float, rows: int) -> Work:
    """`samples` completions of `drawn` tokens for each of `prompts`, whose `prompt` tokens are read once, `rows` at a time."""
    shape, tokens = load.shape, prompts * samples * drawn
    steps = max(drawn, tokens / (OCCUPANCY * rows))
    seen = prompt + drawn / 2
    matmul = 2 * (shape.block + shape.head) * tokens + 2 * _scores(shape, tokens, seen)
    moved = (
        steps * load.itemsize * (shape.block + shape.head) + tokens * seen * shape.kept_keys * load.itemsize
    )
    decoding = Work(matmul, moved, steps * (shape.layers * ISSUED["decode"] + ISSUED["draw"]))
    return forward(load, prompts, prompt, 1) + decoding


def optimizer(trained: int) -> Work:
    """One step of clipping and AdamW over `trained` parameters."""
    return Work(0.0, OPTIMIZER_BYTES * trained, 20)


def _scores(shape: Shape, tokens: float, length: float) -> float:
    """Operations of queries with keys and of weights with values, forward; fused kernels skip the masked half."""
    return 4 * shape.queries * shape.layers * tokens * length / 2


def _moved(load: Load, tokens: float, share: float) -> float:
    """Bytes of a training pass outside products, `share` of them: counted per token and layer from the layer's widths."""
    shape = load.shape
    numbers = 52 * shape.hidden + 15 * shape.intermediate + 30 * (shape.queries + shape.keys)
    return (LOOPED if load.looped else 1) * share * load.itemsize * tokens * shape.layers * numbers
