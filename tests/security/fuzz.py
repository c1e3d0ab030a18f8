"""Seeded damage to documents: what a test gives to whatever reads them, which must take it or refuse it in
one line.

`python tests/security/fuzz.py 10000` damages the documents of a model folder and of an adapter that often.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reckoner.errors import InputError

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    2**31,
    2**63,
    10**30,
    0.5,
    1e308,
    float("nan"),
    float("-inf"),
    "",
    "x",
    "x" * 2000,
    "../x",
    "/dev/zero",
    "\ud800",
    "\0",
    "{{",
    "<eos>",
    [],
    [1],
    ["x"],
    [[]],
    [None],
    {},
    {"x": 1},
    {"x": {"x": []}},
)
"""Put where a document holds something else."""


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON document."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        here = waiting.pop()
        if isinstance(here, dict | list):
            pairs = list(here.items() if isinstance(here, dict) else enumerate(here))
            found += [(here, key) for key, _ in pairs]
            waiting += [inner for _, inner in pairs]
    return found


def damaged(content: bytes, draw: random.Random) -> bytes:
    """`content` with one to three entries changed, moved or lost where it is JSON, or with its bytes
    damaged."""
    kind = draw.random()
    if kind < 0.1:
        at = draw.randrange(len(content) + 1)
        return draw.choice(
            [
                content[:at],
                content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :],
                b"[" * 5000,
                b"null",
                b"[]",
                b'"x"',
                b"",
            ]
        )
    try:
        document = json.loads(content)
    except ValueError:
        at, length = draw.randrange(len(content) + 1), draw.randrange(40)
        return (
            content[:at]
            + draw.choice([b"", b"{{", b"}}", b"{% for", b"\xff", b"\0"])
            + content[at + length :]
        )
    for _ in range(draw.randint(1, 3)):
        if not (found := places(document)):
            break
        # entries high up are few, and decide most
        holder, key = draw.choice(found[: len(document)] if draw.random() < 0.5 else found)
        match draw.randrange(4):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[str(draw.choice(("x", "auto_map", "", key + "_", key.upper())))] = holder.pop(key)
            case 2:
                other, name = draw.choice(found)
                if name in other if isinstance(other, dict) else name < len(other):
                    holder[key] = json.loads(json.dumps(other[name]))
            case _:
                holder[key] = draw.choice(VALUES)
    return json.dumps(document).encode()


def fuzz(
    path: Path,
    use: Callable[[], object],
    count: int,
    seed: int = 0,
    raises: tuple[type[Exception], ...] = (InputError,),
) -> Counter[str]:
    """Damage the file at `path` `count` times, each time from its own content, and call `use`.

    Returns how often it was taken or refused. Anything that `use` raises but `raises`, or in more than one
    line, is an AssertionError with the damage that did it.
    """
    content, draw, ends = path.read_bytes(), random.Random(f"{seed} {path.name}"), Counter[str]()
    for _ in range(count):
        path.write_bytes(broken := damaged(content, draw))
        try:
            use()
            ends["taken"] += 1
        except raises as error:
            assert len(str(error).splitlines()) == 1, f"{path.name}: not one line: {error}"
            ends["refused"] += 1
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            keep = Path(tempfile.gettempdir()) / f"fuzz-{path.name}"
            keep.write_bytes(broken)
            raise AssertionError(
                f"{path.name}: {type(error).__name__}: {error}; the file is {keep}"
            ) from error
        finally:
            path.write_bytes(content)
    return ends


def answer(folder: Path) -> None:
    """Load a model folder and write six tokens, in a chat and out of one."""
    from reckoner.config import ModelConfig, PeftConfig
    from reckoner.engine.generate import Sampling, generate
    from reckoner.models.policy import load_policy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        policy = load_policy(ModelConfig(str(folder), device="cpu"), PeftConfig(), train=False)
        prompts: list[Any] = ["Question: 1 + 1?\nAnswer:"]
        if policy.tokenizer.chat_template:
            prompts.append([{"role": "user", "content": "1 + 1?"}])
        samples = generate(
            policy,
            [policy.encode_prompt(p) for p in prompts],
            Sampling(6, stop_ids=policy.stop_ids),
            2,
            "auto",
        )
        for (sample,) in samples:
            policy.decode(sample.ids)


def model_documents(base: Path) -> list[Path]:
    """The documents of the model in `base`, and of an adapter over it that is made beside it."""
    from reckoner.config import ModelConfig, PeftConfig
    from reckoner.models.policy import load_policy

    adapter = base.parent / "adapter"
    load_policy(ModelConfig(str(base)), PeftConfig(method="lora", lora_r=2), train=True).save(adapter)
    found = sorted(path for path in base.iterdir() if path.suffix in {".json", ".jinja"})
    return [*found, adapter / "adapter_config.json", adapter / "base.json"]


def main(count: int) -> None:
    """Damage each document of a tiny model and an adapter over it until `count` have been tried."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from conftest import make_tiny_model

    with tempfile.TemporaryDirectory() as place:
        todo = model_documents(make_tiny_model(Path(place) / "model"))
        for path in todo:
            ends = fuzz(path, lambda path=path: answer(path.parent), -(-count // len(todo)), seed=1)
            print(f"{path.parent.name}/{path.name}: {dict(ends)}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
