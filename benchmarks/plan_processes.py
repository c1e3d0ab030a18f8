"""Two processes of torchrun against one: what `reckon plan --gpus 2` says on a CPU, and what they do.

    python -m benchmarks.plan_processes      half a million parameters, or --sizes 0.5M 1M; minutes for each

Random Gemmas take the same steps of SFT by two processes, a core each, and by the first of them alone, in
turn, so that what else the machine does meets both; of all laps the median counts. Seconds are CPU seconds:
the wall time of a machine that is not shared, on which a process that waits takes none. The plan gets the
rate of one process and the lengths that were drawn. Compared are its ratio of a step by two to a step by one,
the bytes that are summed in an update, and the peak memory of each process. `link` is measured on its own.
Everything is stored in results/plan_processes.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, median
from typing import Any

from benchmarks.plan_accuracy import BATCH, SIZES, WORKS, case_config, flops, make_model, network_of

CASES = ("full", "lora")
STEPS, LAPS = 4, 5
FILLING = 200
"""Steps before memory is read: a process then has met most of the shapes that products are prepared for."""
PROBE = 2**20
"""Numbers of one sum by which `link` is measured."""
RESULTS = Path(__file__).parent / "results" / "plan_processes.json"


def run_case(size: str, case: str) -> dict[str, Any]:
    """Measure one case in this process of torchrun, and predict it; the same on both ranks."""
    import torch

    from reckoner import ranks
    from reckoner.algorithms import sft
    from reckoner.engine.distributed import Share
    from reckoner.engine.optim import apply_step, make_optimizer
    from reckoner.evaluation.evaluate import encode, load_problems, make_prompt
    from reckoner.machine import peak_memory_bytes
    from reckoner.models.policy import load_policy
    from reckoner.training.schedule import Schedule

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        make_model(size, folder)
        config = case_config(case, folder)
        policy = load_policy(config.model, config.peft, train=True)
        examples = encode(policy, make_prompt(config, policy), load_problems(config, "train"))
        optimizer = make_optimizer(policy.model.named_parameters())
        schedule = Schedule.of(config, len(examples), rollouts=False)
        batches = [sft.step_examples(examples, schedule, 0, step) for step in range(1, FILLING + 1)]
        share, summed = Share(ranks.rank(), ranks.size()), [0]

        def lap(own: Share) -> tuple[float, float]:
            """CPU seconds of a step: its gradient and update, and the sum over ranks."""
            computing = exchanging = 0.0
            for batch in batches:
                began = time.process_time()
                sft.accumulate_gradient(policy, batch, BATCH, share=own)
                before = time.process_time()
                summed[0] = sum(p.grad.nbytes for p in policy.model.parameters() if p.grad is not None)
                ranks.add_gradients(policy.model.parameters())
                after = time.process_time()
                apply_step(optimizer, policy.model.parameters(), 1e-4, 1.0)
                computing += before - began + time.process_time() - after
                exchanging += after - before
            return computing / len(batches), exchanging / len(batches)

        def alone() -> float:
            """A lap of rank 0 without the other, which waits."""
            kept = os.environ.pop("TORCHELASTIC_RUN_ID")
            seconds = lap(Share())[0] if not share.index else 0.0
            os.environ["TORCHELASTIC_RUN_ID"] = kept
            return float(ranks.gather(seconds)[0])

        def together() -> list[float]:
            return [max(values) for values in zip(*ranks.gather(lap(share)), strict=True)]

        together()
        peak, link = max(ranks.gather(peak_memory_bytes())), bandwidth()
        del batches[STEPS:]
        alone()
        both, ones = [], []
        for _ in range(LAPS):
            both.append(together())
            ones.append(alone())
        lengths = (mean(map(len, sum(batches, []))), mean(len(e.completion_ids) for b in batches for e in b))
        found = {
            "one": median(ones),
            "compute": median(two[0] for two in both),
            "exchange": median(two[1] for two in both),
            "ratio": median(sum(two) / one for two, one in zip(both, ones, strict=True)),
            "summed_bytes": summed[0],
            "peak_bytes": peak,
            "link": link,
        }
        return {**found, "predicted": predict(config, size, case, found, lengths)}


def bandwidth() -> float:
    """GB/s that each of two processes sends in a sum, of CPU seconds."""
    import torch

    from reckoner import ranks

    numbers, seconds = torch.ones(PROBE), []
    for _ in range(LAPS + 1):
        began = time.process_time()
        ranks.add(numbers)
        seconds.append(max(ranks.gather(time.process_time() - began)))
    return round(numbers.nbytes / median(seconds[1:]) / 1e9, 3)  # a ring of two sends half, twice


def predict(
    config: Any, size: str, case: str, found: dict[str, Any], lengths: tuple[float, float]
) -> dict[str, float]:
    """What a plan for two processes says, from the rate of one."""
    from reckoner.devices import Device
    from reckoner.plan import plan

    network, parameters = network_of(size, case)
    rate = flops(network, case, dict(zip(("length", "completion"), lengths, strict=True))) / found["one"]
    rates = {work: [(parameters, rate)] for work in WORKS.values()}
    core = Device("one core", "cpu", 2**34, rates, 1e9 * found["link"], cores=1)
    one, two = (plan(config, samples=BATCH, lengths=lengths, measured=core, gpus=n) for n in (1, 2))
    return {
        "ratio": two.seconds / one.seconds,
        "compute": two.phases["update"],
        "exchange": two.phases["exchange"],
        "summed_bytes": two.memory.gradients,
        "peak_bytes": two.memory.total,
    }


def main() -> None:
    """Measure every case, print predicted over measured, and store it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", default=["0.5M"], choices=SIZES)
    parser.add_argument("--one", nargs=2, metavar=("SIZE", "CASE"), help="measure one case under torchrun")
    options = parser.parse_args()
    if options.one:
        line = json.dumps(run_case(*options.one))
        if os.environ["RANK"] == "0":
            print(line)
        return
    import torch

    cases: dict[str, Any] = {}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    for name in (f"{size} {case}" for size in options.sizes for case in CASES):
        command = [*torchrun, "-m", "benchmarks.plan_processes", "--one", *name.split()]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        found = cases[name] = json.loads(done.stdout)
        shares = {key: value / found[key] for key, value in found["predicted"].items()}
        print(name, *(f"{key} {value:.2f}" for key, value in shares.items()), sep="   ", flush=True)
        stored = {
            "command": "python -m benchmarks.plan_processes",
            "torch": torch.__version__,
            "link": round(median(found["link"] for found in cases.values()), 2),
            "cases": cases,
        }
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    main()
