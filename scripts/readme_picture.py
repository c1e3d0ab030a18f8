"""Draw the README's picture from the stored study of three seeds: `python scripts/readme_picture.py`.

The best prompt stands by the better of its two gradings, as in every comparison of a report.
"""

from __future__ import annotations

import json
from pathlib import Path

from reckoner.analysis.canvas import Dot, Picture, dots, drawing, marks, standalone
from reckoner.analysis.wording import percent

ROOT = Path(__file__).parent.parent
STORED = ROOT / "benchmarks" / "results" / "study-nano-seeds.json"
PICTURE = ROOT / "docs" / "figures" / "study-nano-seeds-accuracy.svg"
TRAINED = {
    "full-main": "full SFT",
    "lora-main": "LoRA SFT",
    "ppo": "PPO after full SFT",
    "grpo": "GRPO after full SFT",
}


def picture() -> Picture:
    """The best prompt and the four methods that the README compares, the most accurate first."""
    stored = json.loads(STORED.read_text())
    arms = {arm["name"]: arm for arm in stored["comparison"]["arms"]}
    best = stored["baseline"]
    looks = dict(zip((best, *TRAINED), marks([False, *(True for _ in TRAINED)]), strict=True))
    shown = [
        Dot(title, looks[name], arm["accuracy"], (arm["low"], arm["high"]), arm["flexible"])
        for name, title in {best: "best of four prompts", **TRAINED}.items()
        for arm in (arms[name],)
    ]
    shown.sort(key=lambda dot: -max(dot.value, dot.hollow or 0))
    better = {
        pair["a"]
        for pair in stored["comparison"]["pairs"]
        if pair["verdict"] == "better" and pair["b"] == best
    }
    count = sum(name in better for name in TRAINED)
    prompt, n = arms[best]["flexible"], stored["comparison"]["n"]
    title = (
        f"{count} of {len(TRAINED)} trained methods do better than the best prompt ({percent(prompt)}) "
        f"on {n:,} problems"
    )
    seeds = len(arms["grpo"]["seeds"])
    note = f"Filled: strict, 95 % intervals over problems and {seeds} seeds. Hollow: the format forgiven."
    with drawing():
        return dots("accuracy", title, shown, "test problems solved (%)", note, prompt)


if __name__ == "__main__":
    PICTURE.write_text(standalone(picture()), encoding="utf-8")
