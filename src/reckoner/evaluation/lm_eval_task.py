"""A run's evaluation as a task of lm-evaluation-harness, which its users can run on any model.

The prompts are texts that its tokenizer turns into the ids that the run was asked with, checked one by one.
The harness calls our grader on each completion, so that its `strict` and `flexible` are ours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from reckoner.config import Config
from reckoner.errors import InputError
from reckoner.evaluation.evaluate import make_prompt
from reckoner.evaluation.limits import solution_lengths, token_limit
from reckoner.evaluation.sample import ask
from reckoner.evaluation.session import load_problems
from reckoner.models.policy import load_encoder
from reckoner.runs.records import write_jsonl, write_text
from reckoner.runs.safe_paths import as_name, check_output

GRADING = '''"""Called by lm-evaluation-harness on each completion; needs `pip install reckonlab`."""

from reckoner.tasks.answers.grading import Answer


def process_results(doc, results):
    known = doc["kind"], tuple(doc["choices"]), doc["answer_format"]
    grade = Answer(results[0], doc["gold"], "stop", *known).grade
    return {"strict": grade.strict, "flexible": grade.flexible}
'''


def export_task(config: Config, folder: Path) -> str:
    """Write the task of `config.eval.split` into `folder`, and return its name.

    Raises `InputError` for a folder that is not empty, and for a prompt that no text gives back.
    """
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty. Name a new folder")
    check_output(folder)
    reader = load_encoder(config.model)
    prompt, split = make_prompt(config, reader), config.eval.split
    rows = []
    for problem in load_problems(config, split):
        ids = ask(reader, prompt, problem.question)
        text = reader.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if reader.tokenizer(text, add_special_tokens=False)["input_ids"] != ids:
            raise InputError(f"{problem.id}: no text gives the harness the tokens of this prompt")
        row = {"id": problem.id, "prompt": text, "question": problem.question, "gold": problem.gold}
        row |= {"kind": problem.kind, "choices": problem.choices, "answer_format": prompt.answer_format}
        rows.append(row)
    limit = config.eval.max_new_tokens
    limit = limit or token_limit(config, solution_lengths(reader, prompt, load_problems(config, "train")))
    name = f"reckoner_{as_name(Path(config.model.model_name_or_path).name).replace('-', '_')}_{split}"
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / f"{split}.jsonl", rows)
    write_text(folder / "reckoner_grading.py", GRADING)
    task = _task(name, (folder / f"{split}.jsonl").resolve(), list(prompt.stop_strings), limit)
    text = yaml.safe_dump(task, sort_keys=False, allow_unicode=False)
    text += "process_results: !function reckoner_grading.process_results\n"
    write_text(folder / f"{name}.yaml", text)
    return name


def _task(name: str, rows: Path, stop: list[str], limit: int) -> dict[str, Any]:
    each = {"aggregation": "mean", "higher_is_better": True}
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{gold}}",
        "generation_kwargs": {"until": stop, "do_sample": False, "max_gen_toks": limit},
        "metric_list": [{"metric": reading, **each} for reading in ("strict", "flexible")],
        "num_fewshot": 0,
        "metadata": {"version": 1.0},
    }
