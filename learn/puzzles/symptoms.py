"""Run the healthy file and every puzzle, write learn/puzzles/README.md with what they print, and draw it.

python learn/puzzles/symptoms.py            # a minute on one core
python learn/puzzles/symptoms.py --draw     # only the pictures, from the numbers of the page
"""

from __future__ import annotations

import re
import subprocess
import sys

from faults import FAULTS, LEARN, RUN, planted

HEAD = """# Ten puzzles: why does the reward not rise?

`python learn/puzzles/faults.py N` writes `learn/work/puzzle_NN.py`, a copy of \
[`tinier_zero.py`](../tinier_zero.py) with one fault in it,
and prints how to run it: seconds, on a [toy policy](../toy.py) that begins with bad habits. Find the \
fault, mend it, and ask
`python learn/check.py --puzzles N`. Each fault was in somebody's published trainer. `diff` would find it \
as well, and teach less.
The answers are in [ANSWERS.md](ANSWERS.md). `python learn/puzzles/symptoms.py` wrote this page from real \
runs.

The healthy file, for comparison (`reward`: the step's completions, temperature 1; `dev`: 200 questions, \
greedy). The toy has only 100
questions to train on, and a part of what it gains is learnt by heart: read the reward, and of dev only how \
it begins.
The picture below each puzzle shows its run beside the healthy one with the same arguments.
"""
SYMPTOMS = (
    "The first update of the run, before anything has moved, and already the ratio is not 1.",
    "Here too the ratio is not 1, though each completion alone would be scored right.",
    "Nothing has been trained at step 0. Compare it with step 0 of the healthy file.",
    "The reward looks bearable, and the ratio is not 1. Which token of a completion is it?",
    "Sampled a little colder than usual, which should do no harm.",
    "There is a ceiling. Sort the wrong answers by their gold answer.",
    "The run is content with itself. A colleague who grades the same completions is not.",
    "It begins like the healthy run. Watch `grad_norm`.",
    "Nothing is wrong with the sampler, the scorer or the reward. It just does not learn.",
    "A smaller rate and more steps, with which the healthy file does learn.",
)


PAGE = LEARN / "puzzles" / "README.md"
DRAWN = {
    "reward": "reward",
    "dev": "dev accuracy",
    "log_ratio": "largest |log ratio|",
    "grad_norm": "gradient norm",
}
"""What a picture shows of a run, and the title of its panel."""
HEALTHY, ILL = {"color": "#0072b2", "marker": "o"}, {"color": "#d55e00", "marker": "s", "linestyle": "--"}

Series = dict[str, list[tuple[int, float]]]


def series(block: str) -> Series:
    """The values of every name in the lines of a run, each with its step."""
    found: Series = {}
    for line in block.strip().splitlines():
        (_, step), *values = (part.split() for part in line.split("  "))
        for name, value in values:
            found.setdefault(name, []).append((int(step), float(value)))
    return found


def pairs(page: str) -> list[tuple[Series, Series]]:
    """For each puzzle of the page its run, and the healthy one with the same arguments."""
    head, *sections = page.split("## Puzzle ")
    blocks = [re.findall(r"```\n(.*?)```", part, re.DOTALL) for part in (head, *sections)]
    return [(series(ill), series(healthy[0] if healthy else blocks[0][0])) for ill, *healthy in blocks[1:]]


def draw(page: str) -> None:
    """Write learn/pictures/puzzle_NN.svg: every run beside the healthy one."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "puzzles", "font.family": "sans-serif"}
    )
    from matplotlib import pyplot as plt

    for number, (ill, healthy) in enumerate(pairs(page), 1):
        figure, axes = plt.subplots(1, len(DRAWN), figsize=(10.4, 2.3), layout="constrained")
        for ax, (name, title) in zip(axes, DRAWN.items(), strict=True):
            for run, look, who in ((healthy, HEALTHY, "healthy"), (ill, ILL, f"puzzle {number}")):
                ax.plot(*zip(*run[name], strict=True), ms=3.5, lw=1.6, label=who, **look)
            ax.set(title=title, xlabel="step")
            ax.spines[["top", "right"]].set_visible(False)
            if name == "log_ratio":
                ax.set_yscale("symlog", linthresh=1e-6)
                ax.set_yticks([0, 1e-6, 1e-3, 1, 100], ["0", "1e-6", "1e-3", "1", "100"])
                ax.minorticks_off()
            else:
                ax.set_ylim(bottom=0)
        axes[0].legend(frameon=False, fontsize=8)
        figure.savefig(LEARN / "pictures" / f"puzzle_{number:02d}.svg", metadata={"Date": None})
        plt.close(figure)


def printed(source: str, arguments: str) -> str:
    """What a trainer prints where it knows the dev accuracy, and of step 1, as a block of Markdown."""
    path = LEARN / "work" / "symptom.py"
    path.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, path, *arguments.split()],
        cwd=LEARN.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    path.unlink()
    lines = [
        line.rpartition("  seconds")[0]
        for line in done.stdout.splitlines()
        if "dev" in line or line.startswith("step 1 ")
    ]
    return "```\n" + "\n".join(lines) + "\n```\n"


def picture(number: int) -> str:
    """The line that shows the picture of a puzzle."""
    return f"![Puzzle {number} beside the healthy run](../pictures/puzzle_{number:02d}.svg)\n"


def main() -> None:
    """Write the page, unless only its pictures are asked for, and the pictures."""
    if "--draw" not in sys.argv:
        write_page()
    draw(PAGE.read_text(encoding="utf-8"))


def write_page() -> None:
    """Run every file and write what it prints into the page."""
    healthy = (LEARN / "tinier_zero.py").read_text(encoding="utf-8")
    page = [HEAD, printed(healthy, RUN)]
    for number, (fault, symptom) in enumerate(zip(FAULTS, SYMPTOMS, strict=True), 1):
        page += [f"## Puzzle {number}", symptom, "", printed(planted(fault), fault.arguments)]
        if fault.arguments != RUN:
            page += ["The healthy file with the same arguments:", "", printed(healthy, fault.arguments)]
        page += [picture(number)]
    PAGE.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()
