"""The processes of torchrun, which compute one run together: all do the same, each a share of the work.

    torchrun --nproc-per-node 2 -m reckoner sft ...

Rank 0 alone writes the run folder and speaks. What one step needs from all ranks are sums of tensors (`add`)
and lists of JSON (`gather`); what only rank 0 can know, `from_first` hands to the others. Without torchrun
there is one rank, and nothing here does anything. torch is imported when ranks first meet.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from reckoner.errors import InputError, Stopped

if TYPE_CHECKING:
    import torch
    from torch.distributed import DeviceMesh

MEET = timedelta(seconds=60)
"""How long ranks wait for one another at the start."""

BEAT, SILENT = 2.0, 20.0
"""Seconds between two signs of life of a rank, and how many without one end the run."""

PATIENCE = 3.0
"""Seconds in which torchrun ends a rank where rank 0 has ended."""

BUCKET = 2**24
"""Numbers that are summed over ranks at once."""


def rank() -> int:
    """The number of this process under torchrun; 0 alone."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def size() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1


def share_of_cores(cores: int) -> int:
    """How many of the `cores` of its machine this process may use beside the ranks there; at least 1."""
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) if size() > 1 else cores


@cache
def _group() -> Any:
    """torch.distributed, once all ranks have met. Raises `Stopped` where they do not."""
    import torch
    from torch import distributed

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        distributed.init_process_group(backend, timeout=timedelta(hours=6))
        store = distributed.TCPStore(host, port, is_master=False, timeout=MEET)
    except (distributed.DistError, RuntimeError) as error:
        why = str(error).partition("\n")[0]
        raise Stopped(f"rank {rank()} of {size()} does not reach the others ({why})") from error
    over = threading.Event()
    living = threading.Thread(target=_live, args=(store, over), daemon=True)
    living.start()

    def leave() -> None:
        """No thread may be inside torch when the interpreter ends: that aborts the process."""
        over.set()
        living.join()
        distributed.destroy_process_group()

    atexit.register(leave)
    return distributed


def _live(store: Any, over: threading.Event) -> None:
    """Give signs of life. Rank 0 ends the run where another rank gives none: it would wait for ever."""
    heard = dict.fromkeys(range(1, size()), ("", time.monotonic()))
    for beat in itertools.count():
        store.set(f"reckoner/alive/{rank()}", str(beat))
        if over.wait(BEAT):
            return
        for other in heard if rank() == 0 else ():
            key = f"reckoner/alive/{other}"
            now = store.get(key).decode() if store.check([key]) else ""
            if now != heard[other][0]:
                heard[other] = now, time.monotonic()
            elif time.monotonic() - heard[other][1] > SILENT:
                line = (
                    f"reckon: rank {other} of {size()} gave no sign of life for {SILENT:g} s. "
                    "The same command goes on from the last checkpoint\n"
                )
                os.write(2, line.encode())
                os._exit(75)


LOST = ("closed by peer", "reset by peer", "Broken pipe", "Connection refused", "remote process exited")
"""What gloo and NCCL say where another process is gone."""


def loss(error: BaseException) -> str:
    """A line for people where an exchange failed because another rank is gone, FSDP's too; else empty."""
    gone = type(error).__name__ == "DistNetworkError" or any(sign in str(error) for sign in LOST)
    if size() == 1 or not gone:
        return ""
    return f"rank {rank()} of {size()} lost another one. The same command goes on from the last checkpoint"


@contextmanager
def _together() -> Iterator[Any]:
    """torch.distributed for one exchange. Raises `Stopped` where another rank is gone."""
    distributed = _group()
    try:
        yield distributed
    except RuntimeError as error:
        if not (line := loss(error)):
            raise
        raise Stopped(line) from error


def share(items: Sequence[Any]) -> Sequence[Any]:
    """Every `size()`-th of `items`, so that shares of sorted items are alike."""
    return items[rank() :: size()]


def add(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all ranks, in its place."""
    if size() > 1:
        with _together() as group:
            group.all_reduce(tensor)
    return tensor


def add_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum the gradients over all ranks; one that no rank has stays away. The order of sums is fixed."""
    if size() == 1:
        return
    import torch

    trained = [p for p in parameters if p.requires_grad and own_part(p) is p]  # FSDP adds up sharded ones
    if not trained:
        return
    there = add(torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device))
    touched = [p for p, count in zip(trained, there.tolist(), strict=True) if count]
    for parameter in touched:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    while touched:
        count, numbers = 0, 0
        while count < len(touched) and (not count or numbers + touched[count].numel() <= BUCKET):
            numbers, count = numbers + touched[count].numel(), count + 1
        gradients = [p.grad for p in touched[:count] if p.grad is not None]
        flat = add(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))
        del touched[:count]


def gather(value: Any) -> list[Any]:
    """What each rank gives, by rank, on every rank. It travels as JSON, which keeps every bit of a float."""
    if size() == 1:
        return [value]
    import torch

    mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size())]
    with _together() as group:
        group.all_gather(lengths, torch.tensor([len(mine)]))
        longest = max(int(length) for length in lengths)
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(size())]
        group.all_gather(texts, torch.nn.functional.pad(mine, (0, longest - len(mine))))
    return [
        json.loads(bytes(text[: int(length)].tolist())) for text, length in zip(texts, lengths, strict=True)
    ]


def from_first(compute: Callable[[], Any]) -> Any:
    """What `compute` returns on rank 0, as JSON, on every rank. Where it raises there, the others end too."""
    if size() == 1:
        return compute()
    if rank():
        (answer, *_) = gather(None)
        if "error" in answer:
            raise SystemExit(answer["error"])
        return answer["value"]
    try:
        answer = {"value": compute()}
    except (InputError, Stopped) as error:
        gather({"error": 2 if isinstance(error, InputError) else 75})
        raise
    gather(answer)
    return answer["value"]


def copy_from_first(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite the tensors of every rank with those of rank 0."""
    if size() > 1:
        for tensor in tensors:
            with _together() as group:
                group.broadcast(tensor, 0)


def each_from_first(named: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """The names and tensors of rank 0, which lie on the CPU, on every rank: one at a time, to save memory."""
    if size() == 1:
        yield from named
        return
    import torch

    source = iter(named)
    while True:
        name, tensor = (None if rank() else next(source, None)) or ("", torch.empty(0))
        kind = [name, list(tensor.shape), str(tensor.dtype).removeprefix("torch.")]
        name, shape, dtype = gather(kind)[0]
        if not name:
            return
        tensor = torch.empty(shape, dtype=getattr(torch, dtype)) if rank() else tensor
        copy_from_first([tensor])
        yield name, tensor


def mesh(kind: str) -> DeviceMesh:
    """All ranks in a row, with a device of that kind each."""
    from torch.distributed import init_device_mesh

    with _together():
        return init_device_mesh(kind, (size(),))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor that is divided over ranks, on every rank; any other as it is."""
    if own_part(tensor) is tensor:
        return tensor
    with _together():
        full: torch.Tensor = tensor.full_tensor()
    return full


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a tensor that is divided over ranks; any other as it is."""
    part: torch.Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return part


def divided_like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A tensor that all ranks hold, on the device of `like` and divided as it is."""
    moved = tensor.to(like.device)
    if own_part(like) is like:
        return moved
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(moved, like.device_mesh, like.placements, src_data_rank=None)


def require_same(what: dict[str, str]) -> None:
    """Raises `InputError` where a rank has another value of a name than rank 0; the other ranks end."""
    for other, values in enumerate(gather(what)):
        if changed := [name for name in {**what, **values} if what.get(name) != values.get(name)]:
            if rank():
                raise SystemExit(2)
            raise InputError(
                f"rank {other} has another {changed[0]} than rank 0. Give every machine the same code, "
                "files and settings"
            )


@contextmanager
def one_voice() -> Iterator[None]:
    """Let rank 0 alone write to the terminal.

    Another rank says only what ends it. It waits before it does: where rank 0 ended for the same reason,
    torchrun ends the others meanwhile.
    """
    if not rank():
        yield
        return
    kept, nowhere = [os.dup(1), os.dup(2)], os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    wait = PATIENCE
    try:
        yield
        wait = 0.0
    except SystemExit:
        wait = 0.0
        raise
    finally:
        time.sleep(wait)
        for number, stream in enumerate((sys.stdout, sys.stderr), 1):
            stream.flush()
            os.dup2(kept[number - 1], number)
