"""Verbs that use a model: eval, predict, chat, merge."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from reckoner.cli.options import AsJson, Files, Preset, Settings, config_of, read_config, use_threads
from reckoner.errors import InputError

verbs = typer.Typer()

Model = Annotated[
    str,
    Argument(metavar="RUN", help="a run, a model folder, a GGUF file, a Hub id, 'nano' or 'smollm2-135m'"),
]


@verbs.command("eval")
def evaluate(
    model: Model,
    settings: Settings = None,
    endpoint: Annotated[
        str, Option(metavar="URL", help="ask the model of this name at an OpenAI-compatible server")
    ] = "",
    preset: Preset = "",
    files: Files = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate a model on dev, or with eval.split=test on test; resumable, and stored beside the run."""
    from reckoner import console
    from reckoner.analysis.intervals import wilson
    from reckoner.analysis.tables import cut_note
    from reckoner.analysis.wording import percent, span

    if endpoint:
        from reckoner.evaluation.endpoint import evaluate_endpoint

        config = read_config(preset, files, [*(settings or []), f"endpoint.url={endpoint}"], model)
        config.model.model_name_or_path = model
    else:
        from reckoner.evaluation.evaluate import evaluate_model

        config = config_of(model, settings, preset, files)
        use_threads(config, "eval")
    with console.progress() as shown:
        show = shown.callback(Path(config.model.model_name_or_path).name)
        folder, entry = evaluate_endpoint(config, show) if endpoint else evaluate_model(config, show)
    names, n = ("strict", "flexible", "no_answer", "truncated", "multi_marker"), entry["n"]
    counts = [(name, entry[name]) for name in names]
    cut = f" ({note})" if (note := cut_note(entry["truncated"] / n)) else ""
    rows = [
        [name, f"{k}/{n}", percent(k / n) + cut * (name in names[:2]), span(*wilson(k, n))]
        for name, k in counts
    ]
    headers = [f"{entry['split']}, {entry['prompt']}", "k/n", "share", "95 % interval"]
    stored = [
        f"completions: {folder / entry['predictions']}",
        f"{entry['tokens']:,} tokens, {entry['decoding']}",
    ]
    if "fixed" in entry:
        stored.append(f"the second pass fixed {entry['fixed']} answers and broke {entry['broken']}")
    console.show(entry, as_json, [(headers, rows)], stored)


@verbs.command()
def noise(model: Model, settings: Settings = None, as_json: AsJson = False) -> None:
    """Measure how many verdicts flip when the same weights are computed otherwise; compare then shows it."""
    from reckoner import console
    from reckoner.analysis.intervals import wilson
    from reckoner.analysis.wording import percent, span
    from reckoner.evaluation.noise import measure_noise

    config = config_of(model, settings, "", None)
    use_threads(config, "eval")
    with console.progress() as shown:
        found = measure_noise(config, shown.callback(Path(model).name))
    n = found["n"]
    rows = [
        [name, f"{way['flips']}/{n}", percent(way["flips"] / n), span(*wilson(way["flips"], n)), way["texts"]]
        for name, way in found["ways"].items()
    ]
    headers = [f"same weights, {found['split']}", "flips", "share", "95 % interval", "texts that differ"]
    console.show(found, as_json, [(headers, rows)])


@verbs.command()
def predict(
    model: Model,
    settings: Settings = None,
    source: Annotated[str, Option("--input", metavar="FILE", help="JSONL of questions; '-' is stdin")] = "-",
    output: Annotated[str, Option(metavar="FILE", help="JSONL to write; '-' is stdout")] = "-",
    question_field: Annotated[str, Option(help="field that holds the question")] = "question",
    output_field: Annotated[str, Option(help="field to put the completion in")] = "completion",
    preset: Preset = "",
    files: Files = None,
) -> None:
    """Answer questions: JSONL in, the same lines with a completion out, in the same order."""
    from reckoner import console
    from reckoner.evaluation.predict import predict_file
    from reckoner.runs.safe_paths import check_output

    if output != "-":
        check_output(Path(output))
    config = config_of(model, settings, preset, files)
    use_threads(config, "predict")
    with console.progress() as shown:
        count = predict_file(config, source, output, question_field, output_field, shown.callback("predict"))
    print(f"{count} questions answered", file=sys.stderr)


@verbs.command()
def chat(model: Model, settings: Settings = None, preset: Preset = "", files: Files = None) -> None:
    """Ask one question a line and read the answer, as the run was trained to be asked."""
    from reckoner import console
    from reckoner.evaluation.predict import Answerer

    config = config_of(model, settings, preset, files)
    use_threads(config, "chat")
    answerer = Answerer(config)
    print(
        answerer.policy.note,
        answerer.backend,
        f"prompt {answerer.prompt.name}; an empty line or Ctrl-D ends",
        sep="\n",
        file=sys.stderr,
    )
    while True:
        try:
            question = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        except UnicodeDecodeError as error:
            raise InputError(
                f"the question is not UTF-8 text ({error.reason}). Type it again as UTF-8"
            ) from error
        if not question.strip():
            return
        print(console.escape(answerer.answer([question])[0]["completion"].strip()))


@verbs.command()
def merge(
    model: Annotated[Path, Argument(metavar="RUN", help="a run or folder that holds a LoRA adapter")],
    output: Annotated[Path, Argument(metavar="FOLDER", help="where the merged model goes")],
    dtype: Annotated[
        str, Option(help="of the weights: auto (that of the base), float32, bfloat16, float16")
    ] = "auto",
) -> None:
    """Fold an adapter into its base, after checking that both give the same logits and the same text."""
    from reckoner.models.merge import merge as merge_adapter

    if dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise InputError(f"--dtype {dtype}: choose auto, float32, bfloat16 or float16")
    print(merge_adapter(model, output, dtype))


@verbs.command()
def export(
    tool: Annotated[str, Argument(metavar="lm-eval", help="the tool to write for")],
    model: Model,
    settings: Settings = None,
    output: Annotated[Path, Option(metavar="FOLDER", help="new folder; default: lm-eval-NAME")] = Path(),
    more: Annotated[list[str] | None, Option("--set", hidden=True)] = None,
) -> None:
    """Write a run's evaluation as a task of lm-evaluation-harness, with its prompts and our grader."""
    from reckoner.console import escape
    from reckoner.evaluation.lm_eval_task import export_task
    from reckoner.runs.safe_paths import as_name

    if tool != "lm-eval":
        raise InputError(f"{tool}: nothing is exported for this tool. Write reckon export lm-eval RUN")
    config = config_of(model, [*(settings or []), *(more or [])], "", None)
    folder = output if output.name else Path(f"lm-eval-{as_name(Path(model).name)}")
    name = export_task(config, folder)
    command = f"lm_eval --model hf --model_args pretrained=MODEL --tasks {name} --include_path {folder}"
    print(escape(f"{command} --log_samples --output_path OUT", newlines=False))
