"""The noise floor: the same weights on the same problems, computed otherwise.

Greedy answers should not depend on batch size, order, engine or dtype; rounding may tip a token. The share of
problems whose strict verdict flips is the size of difference that two runs show though nothing was learnt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reckoner.config import Config, PeftConfig
from reckoner.evaluation.evaluate import make_prompt
from reckoner.evaluation.limits import solution_lengths, token_limit
from reckoner.evaluation.sample import answers, greedy
from reckoner.evaluation.session import load_problems
from reckoner.models.policy import Policy, load_policy
from reckoner.runs.documents import Noise
from reckoner.runs.folder import Progress, Run, silent
from reckoner.runs.integrity import require_finished
from reckoner.runs.records import Problem, write_json


def measure_noise(config: Config, on_progress: Progress = silent) -> Noise:
    """Evaluate a finished run on dev in each way of `_ways`, and store `noise.json` in it.

    Raises `InputError` where the model names no finished run.
    """
    folder = Path(config.model.model_name_or_path)
    require_finished(folder)
    config.run.output_dir = str(folder)
    with Run.open(config, attach=True) as run:
        policy = load_policy(config.model, PeftConfig(), train=False)
        problems = load_problems(config, "dev")
        prompt = make_prompt(config, policy)
        limit = token_limit(config, solution_lengths(policy, prompt, load_problems(config, "train")))

        def verdicts(way: Config, policy: Policy, asked: Sequence[Problem]) -> dict[str, tuple[bool, str]]:
            drawn = answers(policy, prompt, asked, greedy(policy, prompt, limit), way.eval)
            return {one.problem.id: (one.grade.strict, one.completion.text) for one in drawn}

        usual = verdicts(config, policy, problems)
        ways: dict[str, Any] = {}
        for number, (name, way, asked) in enumerate(_ways(config, policy, problems), 1):
            on_progress("noise", number, 4, name)
            same_dtype = way.model.dtype == config.model.dtype
            other = policy if same_dtype else load_policy(way.model, PeftConfig(), train=False)
            found = verdicts(way, other, asked)
            ways[name] = {
                "flips": sum(found[key][0] != usual[key][0] for key in usual),
                "texts": sum(found[key][1] != usual[key][1] for key in usual),
                "net": sum(found[key][0] - usual[key][0] for key in usual),
            }
        noise: Noise = {"split": "dev", "n": len(problems), "ways": ways}
        write_json(run.folder / "noise.json", noise)
        run.conclude(run.summary, ["noise.json"])
    return noise


def _ways(
    config: Config, policy: Policy, problems: Sequence[Problem]
) -> Iterator[tuple[str, Config, Sequence[Problem]]]:
    """Another batch size, the reverse order, the other engine and the other dtype."""
    size = max(1, min(config.eval.batch_size, len(problems)) // 3)
    yield f"batches of {size}", replace(config, eval=replace(config.eval, batch_size=size)), problems
    yield "reverse order", config, problems[::-1]
    engine = "native" if config.eval.engine == "transformers" else "transformers"
    yield f"engine {engine}", replace(config, eval=replace(config.eval, engine=engine)), problems
    dtype = "bfloat16" if "32" in str(policy.dtype) else "float32"
    yield f"dtype {dtype}", replace(config, model=replace(config.model, dtype=dtype)), problems
