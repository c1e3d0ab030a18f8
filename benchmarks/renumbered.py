"""Problems with other numbers, drawn for reading: are question, solution and gold right?

    python -m benchmarks.renumbered --gsm8k FOLDER --seed 7            # prints 60 drawn rows
    python -m benchmarks.renumbered --gsm8k FOLDER --seed 7 --wrong 0 --inherited 2 --reader NAME

FOLDER holds GSM8K's files. The second command stores what a reader of those rows found: how many are wrong by
their new numbers, how many are wrong as their parent is, and what was left out for which reason. Torch is not
needed. Writes benchmarks/results/renumbered.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from datetime import date
from pathlib import Path

from reckoner.analysis.augment import augment
from reckoner.analysis.intervals import wilson
from reckoner.tasks import gsm8k

RESULT = Path(__file__).parent / "results" / "renumbered.json"


def _earlier() -> list[dict[str, object]]:
    """What was found before, by other rules: seed, rows, wrong ones. The stored reading becomes the last."""
    if not RESULT.is_file():
        return []
    last = json.loads(RESULT.read_text())
    names = ("seed", "read", "sha256 of the rows read", "wrong by the new numbers", "wrong as the parent is")
    return [*last["earlier"], {name: last[name] for name in names}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--gsm8k", required=True, metavar="FOLDER")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("-n", type=int, default=60, help="rows to draw")
    parser.add_argument("--wrong", type=int, help="rows that a reader found wrong by their new numbers")
    parser.add_argument("--inherited", type=int, default=0, help="rows that are wrong as their parent is")
    parser.add_argument("--reader", default="", help="who read them: one name")
    options = parser.parse_args()
    parents = gsm8k.load("train", source="gsm8k", path=options.gsm8k)
    made, left_out = augment(parents, ["renumber"], 1, options.seed, set())
    drawn = random.Random(options.seed).sample(made, options.n)
    if options.wrong is None:
        for number, one in enumerate(drawn, 1):
            print(f"== {number}. {one.id}\n{one.question}\n{one.solution}\n")
        return
    low, high = wilson(options.wrong, options.n)
    text = "".join(f"{one.question}\n{one.solution}\n" for one in drawn)
    found = {
        "date": date.today().isoformat(),
        "seed": options.seed,
        "parents": len(parents),
        "renumbered": len(made),
        "left out": dict(left_out.most_common()),
        "rule": "each drawn row is read once: question, solution and gold; no second reader",
        "reader": options.reader,
        "read": options.n,
        "sha256 of the rows read": hashlib.sha256(text.encode()).hexdigest(),
        "wrong by the new numbers": options.wrong,
        "wilson 95 %": [round(low, 4), round(high, 4)],
        "wrong as the parent is": options.inherited,
        "earlier": _earlier(),
    }
    RESULT.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
