"""Evaluation: what is on disk is what was generated; a killed one continues; other settings are refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from reckoner.config import Config, PeftConfig
from reckoner.engine.generate import generate
from reckoner.errors import InputError
from reckoner.evaluation import evaluate as ev
from reckoner.evaluation.session import EvalSession, evaluation_paths, score
from reckoner.machine import versions
from reckoner.models.policy import load_policy
from reckoner.runs import integrity as manifests
from reckoner.runs.folder import Run
from reckoner.runs.records import Completion, Grade, Problem, dumps, read_records
from reckoner.tasks.answers.grading import grade
from reckoner.tasks.selection import choose
from reckoner.verify import verify


class Killed(BaseException):
    """Stands for a kill: nothing of ours catches it."""


def kill_at(count: int):
    def on_progress(phase: str, done: int, total: int, note: str) -> None:
        if done >= count:
            raise Killed

    return on_progress


@pytest.fixture
def config(tiny_config: Config) -> Config:
    """Batches of two, so that twelve problems are three pieces."""
    return replace(tiny_config, eval=replace(tiny_config.eval, batch_size=2))


def policy_of(config: Config):
    return load_policy(config.model, PeftConfig(), train=False)


def evaluate(config: Config, split: str = "test", **kwargs):
    with Run.open(config) as run:
        return run.folder, ev.evaluate(run, policy_of(config), split, **kwargs)


def test_the_summary_counts_what_the_files_hold(config):
    folder, entry = evaluate(config)
    problems = list(read_records(folder / entry["problems"], Problem))
    completions = list(read_records(folder / entry["predictions"], Completion))
    grades = list(read_records(folder / entry["grades"], Grade))
    assert [p.id for p in problems] == [c.problem_id for c in completions] == [g.problem_id for g in grades]
    assert entry["n"] == len(grades) == config.data.max_test_samples
    assert entry["strict"] == sum(g.strict for g in grades)
    assert entry["truncated"] == sum(g.verdict == "truncated" for g in grades)
    assert entry["tokens"] == sum(c.token_count for c in completions)
    assert all(c.token_count <= entry["max_new_tokens"] for c in completions)
    by_id = {p.id: p for p in problems}
    assert grades == [grade(c, by_id[c.problem_id]) for c in completions]
    assert json.loads((folder / "summary.json").read_text())["evaluations"] == [entry]
    assert entry["reads"] == 1


def test_prompt_json_shows_what_the_model_saw(config):
    folder, entry = evaluate(config)
    saved = json.loads((folder / "prompt.json").read_text())
    policy = policy_of(config)
    assert policy.tokenizer.decode(saved["token_ids"]) == saved["rendered"]
    assert saved["rendered"].count("<bos>") == 1 and saved["rendered"].endswith("\nAnswer:")
    assert saved["hash"] == entry["prompt_hash"]


@pytest.mark.parametrize("at", [1, 5, 11])
def test_a_killed_evaluation_continues_to_the_same_bytes(config, tmp_path, at):
    folder, entry = evaluate(config)
    other = replace(config, run=replace(config.run, output_dir=str(tmp_path / "killed")))
    with pytest.raises(Killed):
        evaluate(other, on_progress=kill_at(at))
    path = tmp_path / "killed" / entry["predictions"]
    with open(path, "a") as file:
        file.write('{"problem_id": "torn')
    again, second = evaluate(other)
    text = (folder / entry["predictions"]).read_text()
    assert path.read_text() == text.replace(f'"run": "{folder.name}"', '"run": "killed"')
    assert {**second, "seconds": 0} == {**entry, "seconds": 0}


def test_a_killed_evaluation_is_not_continued_with_another_template(config, tmp_path):
    base = shutil.copytree(config.model.model_name_or_path, tmp_path / "base")
    config = replace(
        config,
        model=replace(config.model, model_name_or_path=str(base)),
        prompt=replace(config.prompt, chat_template="on"),
    )
    with pytest.raises(Killed):
        evaluate(config, on_progress=kill_at(5))
    template = base / "chat_template.jinja"
    text = template.read_text()
    template.write_text(text.replace("<start_of_turn>model", "<start_of_turn>assistant"))
    with pytest.raises(InputError, match="was made with prompt_hash=.*, this command has"):
        evaluate(config)
    template.write_text("{# other words, the same prompt #}" + text)
    assert evaluate(config)[1]["n"] > 0


@pytest.mark.parametrize("noted", [True, False])
def test_a_killed_evaluation_is_not_continued_with_another_vocabulary(config, tmp_path, noted):
    """A note from before the vocabulary was named there goes on."""
    base = shutil.copytree(config.model.model_name_or_path, tmp_path / "base")
    config = replace(config, model=replace(config.model, model_name_or_path=str(base)))
    with pytest.raises(Killed):
        evaluate(config, on_progress=kill_at(5))
    path = next((Path(config.run.output_dir) / "predictions").glob("*.json"))
    note = json.loads(path.read_text())
    if not noted:
        del note["settings"]["tokenizer"]
        path.write_text(json.dumps(note))
        assert evaluate(config)[1]["n"] > 0
        return
    document = json.loads((base / "tokenizer.json").read_text())
    words = document["model"]["vocab"]
    a, b = list(words)[-2:]
    words[a], words[b] = words[b], words[a]
    (base / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match="was made with tokenizer=.*, this command has"):
        evaluate(config)


MAKERS = {
    "code": ("code_digest", lambda: "other", "was started by other source code of the same version"),
    "versions": (
        "versions",
        lambda names: {**versions(names), "torch": "9"},
        r"was started with torch=2.*, this command has 9. Install that version again",
    ),
}


@pytest.mark.parametrize("name, other, message", MAKERS.values(), ids=MAKERS)
def test_a_killed_evaluation_goes_on_under_the_same_code_and_versions_alone(
    config, monkeypatch, name, other, message
):
    """Beside a finished run as in a folder of its own; what is whole is scored again by any code."""
    folder, dev = evaluate(config, "dev")
    with pytest.raises(Killed):
        evaluate(config, on_progress=kill_at(5))
    path = next((folder / "predictions").glob("test-*.jsonl"))
    begun = path.read_bytes()
    with monkeypatch.context() as changed:
        changed.setattr(f"reckoner.runs.folder.{name}", other)
        with pytest.raises(InputError, match=f"{path} {message}.*, or delete it and {path.stem}.json to"):
            evaluate(config)
        assert path.read_bytes() == begun
        assert evaluate(config, "dev")[1] == dev
    assert evaluate(config)[1]["n"] == config.data.max_test_samples
    assert path.read_bytes().startswith(begun)


def test_a_killed_evaluation_of_its_own_folder_is_refused_as_a_training_run_is(config, monkeypatch):
    with pytest.raises(Killed):
        ev.evaluate_model(config, kill_at(5))
    monkeypatch.setattr("reckoner.runs.folder.code_digest", lambda: "other")
    with pytest.raises(InputError, match="/run was started by other source code of the same version"):
        ev.evaluate_model(config)


def test_a_finished_evaluation_generates_nothing(config):
    _, first = evaluate(config)
    _, second = evaluate(config, on_progress=kill_at(0))
    assert first == second


@pytest.mark.parametrize("finished", [True, False])
def test_changed_predictions_are_refused_not_graded(config, finished):
    """Each text rewritten to the gold would otherwise be a perfect score, and hashed anew as if it had been
    so.
    """
    if finished:
        folder, entry = evaluate(config)
        path = folder / entry["predictions"]
    else:
        with pytest.raises(Killed):
            evaluate(config, on_progress=kill_at(9))
        path = next((Path(config.run.output_dir) / "predictions").glob("*.jsonl"))
    kept, beside = path.read_text(), path.with_suffix(".json")
    lines = [{**json.loads(line), "text": "#### 7"} for line in kept.splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=f"{path}: has changed since"):
        evaluate(config)
    path.write_text(kept[: len(kept) // 2])
    with pytest.raises(InputError, match=f"{path}: has changed since"):
        evaluate(config)
    path.write_text(kept)
    noted = beside.read_text()
    beside.write_text(noted.replace('"sha256": "', '"sha256": "0'))
    with pytest.raises(InputError, match=f"{beside if finished else path}: has changed since"):
        evaluate(config)
    beside.unlink()
    missing = f"{beside}: is missing" if finished else f"{path}: has no {beside.name}"
    with pytest.raises(InputError, match=missing):
        evaluate(config)
    beside.write_text(noted)
    assert evaluate(config)[1]["reads"] == 1
    assert path.read_text().startswith(kept)


def test_new_hashes_beside_changed_predictions_do_not_fit_the_manifest(config):
    """Who rewrites the note beside the predictions too is told by the manifest of the finished run."""
    folder, entry = evaluate(config)
    path = folder / entry["predictions"]
    path.write_text(path.read_text().replace('"stop"', '"length"').replace('"text": "', '"text": "#### 7'))
    note = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**note, **manifests.entry(path)}))
    with pytest.raises(InputError, match=f"{path.with_suffix('.json')}: has changed since the run finished"):
        evaluate(config)


def test_other_batches_go_on_after_the_pieces_that_are_whole(config):
    """With pieces of six the four first of eight completions are no piece; what is kept is hashed again."""
    with pytest.raises(Killed):
        evaluate(config, on_progress=kill_at(9))
    wider = replace(config, eval=replace(config.eval, batch_size=3))
    with Run.open(wider, attach=True) as run:
        entry = ev.evaluate(run, policy_of(wider), "test")
        assert entry["n"] == 12 and entry["reads"] == 1
        note = json.loads((run.folder / entry["predictions"]).with_suffix(".json").read_text())
        assert manifests.entry(run.folder / entry["predictions"]) == {k: note[k] for k in ("size", "sha256")}


def test_sampled_completions_continue_to_the_same_draws(config, tmp_path):
    sampled = replace(config, eval=replace(config.eval, temperature=1.0, num_samples=3))
    folder, entry = evaluate(sampled)
    assert (
        entry["predictions"] == "predictions/test-0shot-t1-n3.jsonl"
        and entry["n"] == 3 * config.data.max_test_samples
    )
    other = replace(sampled, run=replace(config.run, output_dir=str(tmp_path / "killed")))
    with pytest.raises(Killed):
        evaluate(other, on_progress=kill_at(7))
    evaluate(other)
    first, second = (
        list(read_records(f / entry["predictions"], Completion)) for f in (folder, tmp_path / "killed")
    )
    assert [(c.problem_id, c.sample, c.text) for c in first] == [
        (c.problem_id, c.sample, c.text) for c in second
    ]


def test_rules_of_selection_share_the_samples_and_score_one_answer_a_problem(config):
    config.eval = replace(config.eval, temperature=1.0, num_samples=3)
    folder, every = evaluate(config)
    n = config.data.max_test_samples
    by_id = {p.id: p for p in read_records(folder / every["problems"], Problem)}
    samples = list(read_records(folder / every["predictions"], Completion))
    for rule in ("majority", "weighted", "best"):
        config.eval = replace(config.eval, select=rule)
        with Run.open(config, attach=True) as run:
            entry = ev.evaluate(run, policy_of(config), "test", on_progress=kill_at(1))
        groups = [samples[at : at + 3] for at in range(0, 3 * n, 3)]
        wanted = [choose(rule, group, by_id[group[0].problem_id]) for group in groups]
        assert list(read_records(folder / entry["predictions"], Completion)) == wanted
        assert entry["predictions"] == f"predictions/test-0shot-t1-n3-{rule}.jsonl" and entry["n"] == n
        assert entry["tokens"] == every["tokens"] == sum(one.token_count for one in samples)
        assert entry["decoding"] == f"temperature 1, {rule} of 3" and entry["reads"] == 1
    assert verify(folder)[0].faults == ()


@pytest.mark.parametrize("chat", ["off", "on"])
def test_a_second_pass_shows_each_answer_again(config, chat):
    config = replace(config, prompt=replace(config.prompt, chat_template=chat))
    config.eval = replace(config.eval, temperature=1.0, num_samples=2, refine="Check it.")
    folder, entry = evaluate(config)
    first, second = (
        list(read_records(folder / entry["predictions"].replace(old, new), Completion))
        for old, new in (("-refined", ""), ("", ""))
    )
    assert [(c.problem_id, c.sample) for c in first] == [(c.problem_id, c.sample) for c in second]
    assert entry["tokens"] == sum(one.token_count for one in first + second)
    assert entry["decoding"] == "temperature 1, refined" and entry["n"] == 2 * config.data.max_test_samples
    by_id = {p.id: p for p in read_records(folder / entry["problems"], Problem)}
    policy = policy_of(config)
    prompt, draft = ev.make_prompt(config, policy), first[3]
    ids = policy.encode_prompt(prompt.revise(by_id[draft.problem_id].question, draft.text, "Check it."))
    again = replace(ev.sampling_of(config, policy, prompt, entry["max_new_tokens"]), num_samples=1)
    seed = ev.stream_seed(config.run.seed, "refine")
    ((drawn,),) = generate(policy, [ids], replace(again, seed=seed), keys=[3])
    assert second[3].text == policy.decode(drawn.ids)
    assert verify(folder)[0].faults == () and verify(folder)[0].unchecked == ()


def test_a_second_pass_that_was_killed_goes_on_to_the_same_bytes(config, tmp_path):
    config.eval = replace(config.eval, refine="Check it.")
    folder, entry = evaluate(config)
    other = replace(config, run=replace(config.run, output_dir=str(tmp_path / "killed")))

    def kill(phase: str, done: int, total: int, note: str) -> None:
        if phase == "refine" and done >= 7:
            raise Killed

    with pytest.raises(Killed):
        evaluate(other, on_progress=kill)
    again = evaluate(other)[1]
    assert {**again, "seconds": 0} == {**entry, "seconds": 0}
    whole, killed = ((one / entry["predictions"]).read_text() for one in (folder, tmp_path / "killed"))
    assert killed == whole.replace(f'"run": "{folder.name}"', '"run": "killed"')


def test_what_a_second_pass_fixed_and_broke_by_hand(config):
    config.eval = replace(config.eval, refine="Check it.")
    problems = ev.load_problems(config, "test")[:4]
    with Run.open(config) as run:
        prompt = ev.make_prompt(config, policy_of(config))
        paths, passes = evaluation_paths(run, "test", prompt, config.eval)
        sessions = [EvalSession.open(run.folder / path, {}) for path in passes]
        for session, right in zip(sessions, ("1100", "1011"), strict=True):
            for problem, mark in zip(problems, right, strict=True):
                text = f"#### {problem.gold if int(mark) else 'none'}"
                session.append(f"{dumps(Completion(problem.id, 0, '', text, 5, 'stop', 0.0, ''))}\n", 1.5)
        entry = score(run, sessions, problems, paths, prompt, config.eval, 9)
    assert (entry["strict"], entry["fixed"], entry["broken"]) == (3, 2, 1)
    assert (entry["n"], entry["tokens"], entry["seconds"]) == (4, 40, 12.0)


def test_a_calculator_has_a_file_of_its_own_and_training_never_has_one(config):
    with Run.open(config) as run:
        policy = policy_of(config)
        plain = ev.evaluate(run, policy, "dev")
        config.eval.calculator = True
        entry = ev.evaluate(run, policy, "dev")
        prompt = ev.make_prompt(config, policy)
        assert ev.sampling_of(config, policy, prompt, 8).calculator
        assert not ev.greedy(policy, prompt, 8).calculator
        assert [one["predictions"] for one in run.summary["evaluations"]] == [
            plain["predictions"],
            plain["predictions"].replace(".jsonl", "-calculator.jsonl"),
        ]
    assert (plain["decoding"], entry["decoding"]) == ("greedy", "greedy with a calculator")


def test_other_settings_may_not_continue_a_file(config):
    evaluate(config)
    longer = replace(config, eval=replace(config.eval, max_new_tokens=400))
    with pytest.raises(
        InputError, match=r"test-0shot.jsonl was made with sampling.max_new_tokens=\d+, this command has 400"
    ):
        with Run.open(longer, attach=True) as run:
            ev.evaluate(run, policy_of(longer), "test")


def test_a_given_limit_is_kept_and_counted(config):
    _, entry = evaluate(replace(config, eval=replace(config.eval, max_new_tokens=8)))
    assert entry["max_new_tokens"] == 8 and entry["truncated"] > 0


def test_test_is_read_only_by_name(config):
    assert {p.id for p in ev.load_problems(config, "dev")}.isdisjoint(
        p.id for p in ev.load_problems(config, "test")
    )
    assert Config().eval.split == "dev"


def test_chat_needs_a_template(config):
    policy = policy_of(config)
    policy.tokenizer.chat_template = None
    with pytest.raises(InputError, match="has no chat template. Set prompt.chat_template=off"):
        ev.make_prompt(replace(config, prompt=replace(config.prompt, chat_template="on")), policy)


def test_chat_and_plain_differ_in_hash_and_have_one_bos(config):
    policy = policy_of(config)
    hashes = set()
    for mode in ("on", "off"):
        for instruction in ("", "Think."):
            prompt = ev.make_prompt(
                replace(config, prompt=replace(config.prompt, chat_template=mode, instruction=instruction)),
                policy,
            )
            ids = policy.encode_prompt(prompt.render("How many?"))
            assert ids.count(policy.tokenizer.bos_token_id) == 1
            hashes.add(prompt.digest)
    assert len(hashes) == 4
