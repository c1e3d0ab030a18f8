"""A GGUF file as a folder of safetensors: dequantised once, by transformers, into this user's cache.

Format: GGML's own, https://github.com/ggml-org/ggml. The weights are kept in float32: a weight of 4
or 8 bits is an integer times a 16-bit scale, which bfloat16 would round. The folder is named by the file's
sha256, and it counts only as long as its files are those of its manifest, which is written last.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from functools import cache
from importlib import metadata
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from reckoner.errors import InputError
from reckoner.machine import bounded, say_once, user_cache
from reckoner.models.foreign import Foreign, limit_numbers, quiet
from reckoner.runs.integrity import MANIFEST, fault, manifest, sha256
from reckoner.runs.records import write_json
from reckoner.runs.safe_paths import publish, regular_file, writing

T = TypeVar("T")

VERSION = 1
"""Of the folders in the cache: raised when other code makes another folder of the same file."""

SECONDS, MEMORY = 120.0, 4 * 2**30
"""What reading the metadata may take. The largest vocabularies, of 300,000 tokens, take a tenth of both."""

ROPE_DIVISORS = "rope_freqs.weight"
"""The tensor of RoPE's divisors, which is how llama.cpp keeps the RoPE scaling of Llama 3."""

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 8192}
"""What Llama 3.1, 3.2 and 3.3 share of that scaling; its factor is the largest divisor."""

DIGITS_APART = {"smollm", "starcoder", "refact", "command-r", "codeshell"}
"""`tokenizer.ggml.pre` of tokenizers that split off each digit, and then words as GPT-2 does."""

AS_GPT2 = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling"}
"""Those that split words as GPT-2 does, and nothing more."""

_ALONE = "model.gguf"
_INSTEAD = "Take the folder of safetensors that it was made from"


def converted(path: Path) -> tuple[Path, str]:
    """The folder that holds the model of a GGUF file, and the file's sha256.

    The folder is made, after its size was said, unless it is in the cache already. Raises `InputError` for a
    file that is damaged or that transformers does not read whole, and for a cache that cannot take it.
    """
    status = path.stat()
    return _converted(path.resolve(), status.st_size, status.st_mtime_ns)


@cache
def _converted(path: Path, size: int, changed: int) -> tuple[Path, str]:
    """As `converted`, so that file and folder are hashed once a process."""
    digest = sha256(path)
    home, reason = user_cache("gguf")
    if reason:
        raise InputError(f"{home}: {reason}. Set XDG_CACHE_HOME to a folder of your own")
    folder, temporary = home / f"{digest}-{VERSION}", home / f".tmp-{digest}"
    with _locked(home / f".lock-{digest}"):
        if folder.is_dir() and not (why := fault(folder)):
            return folder, digest
        header = Header(path)
        room, free = 4 * header.weights, shutil.disk_usage(home).free
        what = f"{path.name} is dequantised once, into {room / 1e6:,.1f} MB of float32 in {folder}"
        if room > free:
            raise InputError(
                f"{what}, where {free / 1e6:,.1f} MB are free. Set XDG_CACHE_HOME to another disk"
            )
        say_once(f"{what} again ({why})" if folder.is_dir() else what)
        shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
        try:
            with writing(home):
                temporary.mkdir()
                _write(header, temporary)
                write_json(temporary / MANIFEST, manifest(temporary))
                publish(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder, digest


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock `path`, after waiting for the process that has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def read_config(path: Path) -> Any:
    """The configuration of a GGUF file's model, without its weights; raises `InputError` as `converted`."""
    from transformers import AutoConfig

    header = Header(path)
    with header.alone() as folder:
        config = AutoConfig.from_pretrained(folder, gguf_file=_ALONE, local_files_only=True)
    _scale_rope(header, config)
    return config


def _write(header: Header, folder: Path) -> None:
    """Write model and tokenizer as transformers does; raises `InputError` unless it has read all weights."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with header.alone() as alone:
        network, report = AutoModelForCausalLM.from_pretrained(
            alone,
            gguf_file=_ALONE,
            local_files_only=True,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
        tokenizer = AutoTokenizer.from_pretrained(alone, gguf_file=_ALONE, local_files_only=True)
    wrong = [f"{len(report[kind])} {kind.replace('_', ' ')}" for kind in report if report[kind]]
    made = sum(p.numel() for p in network.parameters())
    if wrong or made != header.weights:
        raise header.unread(", ".join(wrong) or f"it takes {made:,} of {header.weights:,} weights")
    _scale_rope(header, network.config)
    if header.entry("tokenizer.ggml.pre", str) in DIGITS_APART:
        from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

        split = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(split)
    with quiet(), Foreign(f"{folder}: cannot be written"):
        network.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _scale_rope(header: Header, config: Any) -> None:
    """Put Llama 3's RoPE scaling into `config`, where transformers has none; `InputError` for another one."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {one.get("rope_type", "default") for one in (rope, *rope.values()) if isinstance(one, dict)}
    scaling = header.entry(f"{header.architecture}.rope.scaling.type", str)
    lost = scaling not in (None, "none") and kinds <= {"default"}
    if ROPE_DIVISORS in header.tensors:
        divisors = torch.tensor(header.tensors[ROPE_DIVISORS].data)
        if divisors.dtype != torch.float32 or divisors.ndim != 1 or "rope_theta" not in rope:
            raise header.unread("its RoPE is scaled")
        rope |= LLAMA3 | {"factor": divisors.max().item()}
        plain = rope["rope_theta"] ** -(torch.arange(len(divisors)) / len(divisors))
        scaled = ROPE_INIT_FUNCTIONS["llama3"](config, None)[0]
        lost = scaled.shape != plain.shape or not torch.allclose(plain / divisors, scaled, rtol=1e-4)
    if lost:
        raise header.unread("its RoPE is scaled")


class Header:
    """What stands before the weights of a GGUF file, checked.

    Raises `InputError` for a file that is no GGUF, is cut short or damaged, or is one part of a model; for
    weights that cannot be dequantised; and for a tokenizer that does not fit or splits text in unknown ways.
    """

    def __init__(self, path: Path) -> None:
        try:
            from gguf import GGUFReader
        except ImportError as error:
            remedy = "pip install 'reckonlab[gguf]'"
            raise InputError(f"{path}: GGUF files need the package gguf: {remedy}") from error
        self.path, self.damaged = path.resolve(), f"{path} is no whole GGUF file: fetch it again"
        with regular_file(path) as file:
            if file.read(4) != b"GGUF":
                raise InputError(f"{self.damaged} (it does not begin with GGUF)")
        try:
            with Foreign(self.damaged), bounded(SECONDS, MEMORY + path.stat().st_size):
                self.reader = GGUFReader(path)
        except MemoryError as error:
            raise InputError(f"{self.damaged} (its metadata has no end)") from error
        self.tensors = {one.name: one for one in self.reader.tensors}
        if sum(one.n_bytes for one in self.reader.tensors) > path.stat().st_size:
            raise InputError(f"{self.damaged} (its tensors overlap)")
        self.architecture = self.entry("general.architecture", str) or ""
        self._check()

    def entry(self, key: str, kind: type[T]) -> T | None:
        """An entry of the metadata, None where there is none; `InputError` where it is of another `kind`."""
        field = self.reader.get_field(key)
        if field is None:
            return None
        with Foreign(self.damaged):
            value = field.contents()
        if type(value) is not kind:
            wrong = f"{key} is {type(value).__name__}, where it must be {kind.__name__}"
            raise InputError(f"{self.damaged} ({wrong})")
        return value

    @property
    def weights(self) -> int:
        """How many weights there are; RoPE's divisors are none."""
        return sum(one.n_elements for one in self.reader.tensors if one.name != ROPE_DIVISORS)

    def unread(self, why: str) -> InputError:
        """The error for a file of which transformers would make another model."""
        return InputError(f"{self._reader_fails} ({why}). {_INSTEAD}")

    @property
    def _reader_fails(self) -> str:
        return f"{self.path}: transformers {metadata.version('transformers')} does not read this GGUF file"

    @contextmanager
    def alone(self) -> Iterator[str]:
        """A folder that holds nothing but the file, since what lies beside it may be of another model."""
        with (
            TemporaryDirectory() as folder,
            quiet(),
            redirect_stderr(StringIO()),
            Foreign(self._reader_fails),
        ):
            os.symlink(self.path, Path(folder, _ALONE))
            with limit_numbers(4 * self.weights):
                yield folder

    def _check(self) -> None:
        from gguf.quants import dequantize

        if (self.entry("split.count", int) or 1) > 1:
            raise InputError(f"{self.path} is a part of a model. Join the parts: llama-gguf-split --merge")
        if (layers := self.entry(f"{self.architecture}.block_count", int) or 0) > len(self.tensors):
            raise self.unread(f"{layers:,} layers in {len(self.tensors)} tensors")
        for one in {one.tensor_type: one for one in self.reader.tensors}.values():
            with Foreign(self.damaged):
                try:
                    dequantize(one.data.reshape(-1, one.data.shape[-1])[:1], one.tensor_type)
                except NotImplementedError as error:
                    raise self.unread(f"its weights are {one.tensor_type.name}") from error
        tokens = len(self.entry("tokenizer.ggml.tokens", list) or ())
        embedding = self.tensors.get("token_embd.weight")
        if not tokens or embedding is None or not len(embedding.shape):
            raise self.unread("it has no embeddings" if tokens else "it has no tokenizer")
        if tokens > embedding.shape[-1]:
            what = f"{tokens:,} tokens and the model {embedding.shape[-1]:,} embeddings"
            raise self.unread(f"its tokenizer has {what}, so that it is another model's")
        rule, known = self.entry("tokenizer.ggml.pre", str), AS_GPT2 | DIGITS_APART
        with suppress(ImportError):  # an older transformers knows none
            from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

            known = known | set(GGUF_PRE_TOKENIZER_SPLITS)
        if self.entry("tokenizer.ggml.model", str) == "gpt2" and rule not in known:
            raise self.unread(f"how its tokenizer splits text, {rule!r}, is unknown")
