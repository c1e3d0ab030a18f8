"""A study is a list of arms with dependencies: ordered, refused in words, resumable."""

import json
from pathlib import Path

import pytest

from reckoner.analysis.findings import find
from reckoner.analysis.study_records import read_study
from reckoner.cli import main
from reckoner.config import Config, build_config, load_config
from reckoner.errors import InputError, Stopped
from reckoner.evaluation.evaluate import load_problems, make_prompt
from reckoner.evaluation.limits import solution_lengths, token_limit
from reckoner.models.policy import load_encoder
from reckoner.study import arms as plans
from reckoner.study import run as study


def config_of(arms: dict, folder: Path = Path("runs/x"), **study_keys) -> Config:
    return build_config([({"study": {"arms": arms, **study_keys}, "run": {"output_dir": str(folder)}}, {})])


def run(config: Config, *only: str) -> Path:
    arms = plans.plan_study(config)
    return study.run_study(config, arms, plans.choose(arms, only), "reckon study")


def order(arms: dict, only: tuple[str, ...] = ()) -> list[str]:
    return [arm.name for arm in plans.choose(plans.plan_study(config_of(arms)), only)]


def test_what_an_arm_starts_from_stands_before_it():
    arms = {"c": {"method": "sft", "init": "b"}, "a": {}, "b": {"method": "sft"}}
    assert order(arms) == ["b", "c", "a"]
    assert order(arms, ("c",)) == ["b", "c"]


def test_a_circle_is_named():
    with pytest.raises(InputError, match="start from one another in a circle: a -> b -> a"):
        order({"a": {"init": "b"}, "b": {"init": "a"}})


@pytest.mark.parametrize(
    "arms, only, message",
    [
        ({}, (), "the study has no arms"),
        ({"full-main": {}}, ("ful-main",), r"--arm: there is no arm ful-main \(did you mean full-main\?\)"),
        ({"a": {"init": "nothing"}}, (), r"study.arms.a.init: there is no arm nothing \(arms: a\)"),
        ({"../a": {}}, (), "is not a name for a run"),
    ],
)
def test_bad_arms(arms, only, message):
    with pytest.raises(InputError, match=message):
        order(arms, only)


def test_an_arm_has_its_own_settings_and_folder(tmp_path):
    arms = {
        "a": {"method": "sft", "set": {"train": {"learning_rate": 2e-3}}},
        "b": {"method": "sft", "init": "a"},
    }
    a, b = plans.plan_study(config_of(arms, tmp_path / "s"))
    assert (
        a.config.train.learning_rate == 2e-3 and b.config.train.learning_rate == Config().train.learning_rate
    )
    assert a.config.run.output_dir == str(tmp_path / "s" / "a")
    assert b.config.model.model_name_or_path == str(tmp_path / "s" / "a")
    assert a.config.study.arms == {}


def test_a_setting_that_arms_replace_is_refused_on_the_command_line():
    config = load_config("nano")
    with pytest.raises(
        InputError,
        match=r"train.learning_rate is set by the arms themselves \(full-main, "
        ".*study.arms.full-main.set.train.learning_rate=",
    ):
        plans.shadowed(config, ["train.learning_rate=1e-3"])
    plans.shadowed(config, ["train.num_train_epochs=2", "study.arms.full-main.set.train.learning_rate=1e-4"])


def test_the_family_of_comparisons_is_declared():
    pairs = plans.declared_pairs(config := load_config("nano"), plans.plan_study(config))
    trained = [name for name, arm in config.study.arms.items() if arm.method != "prompt"]
    assert [pair for pair in pairs if "best-prompt" in pair] == [[name, "best-prompt"] for name in trained]
    for siblings in (
        ["full-socratic", "full-main"],
        ["lora-main", "full-main"],
        ["lora-socratic", "full-socratic"],
        ["lora-socratic", "lora-main"],
    ):
        assert siblings in pairs
    assert ["lora-socratic", "full-main"] not in pairs
    asked = config_of({"a": {"method": "sft"}, "voted": {"init": "a"}, "prompt": {}})
    assert plans.declared_pairs(asked, plans.plan_study(asked)) == [["a", "best-prompt"], ["voted", "a"]]


def test_declared_pairs_are_checked():
    config = config_of({"a": {}, "b": {}}, pairs=["a:c"])
    with pytest.raises(InputError, match="study.pairs: there is no arm c"):
        plans.declared_pairs(config, plans.plan_study(config))


def test_a_whole_study_runs_and_repeats_nothing(tiny_config, tmp_path):
    base = tiny_config.to_dict()
    base["run"]["output_dir"] = str(tmp_path / "s")
    base["study"] = {
        "arms": {
            "prompt": {},
            "first": {"method": "sft"},
            "second": {"method": "sft", "init": "first"},
            "lost": {"method": "sft", "set": {"data": {"path": str(tmp_path / "nowhere")}}},
            "after-lost": {"method": "sft", "init": "lost"},
        }
    }
    config = build_config([(base, {})])
    folder = run(config)
    record = json.loads((folder / "study.json").read_text())
    states = {arm["name"]: (arm["state"], arm["reason"]) for arm in record["arms"]}
    assert [states[name][0] for name in ("prompt", "first", "second")] == ["done"] * 3
    assert states["lost"][0] == "refused" and "no such file or folder" in states["lost"][1]
    assert states["after-lost"] == ("refused", "it starts from lost, which was refused")
    splits = {
        name: [e["split"] for e in json.loads((folder / name / "summary.json").read_text())["evaluations"]]
        for name in ("prompt", "first")
    }
    assert splits == {"prompt": ["dev", "test"], "first": ["test"]}
    limits = {
        e["max_new_tokens"]
        for name in ("prompt", "first", "second")
        for e in json.loads((folder / name / "summary.json").read_text())["evaluations"]
    }
    assert len(limits) == 1
    noted = json.loads((folder / "limits.json").read_text())
    assert noted == {"prompt": limits.pop()}, "every arm has the limit of the prompt"
    before = {
        p: p.stat().st_mtime_ns
        for name in ("prompt", "first", "second")
        for p in (folder / name).rglob("*.jsonl")
    }
    run(config, "first")
    assert before == {p: p.stat().st_mtime_ns for p in before}
    again = json.loads((folder / "study.json").read_text())["arms"]
    assert [arm["state"] for arm in again] == ["done"] * 3 + ["waiting"] * 2


def test_a_study_with_an_arm_missing_ends_with_2_and_names_it_after_its_report(tiny_config, tmp_path, capsys):
    base = tiny_config.to_dict()
    base["run"]["output_dir"] = str(tmp_path / "s")
    lost = {"method": "sft", "set": {"data": {"path": str(tmp_path / "nowhere")}}}
    base["study"] = {"arms": {"prompt": {}, "lost": lost, "after": {"method": "sft", "init": "lost"}}}
    del base["preset"]
    (tmp_path / "c.yaml").write_text(json.dumps(base))
    assert main(["study", "--config", str(tmp_path / "c.yaml")]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("reckon: ")]
    assert len(said) == 2 and "arm lost was refused: " in said[0] and "no such file or folder" in said[0]
    assert said[1] == "reckon: arm after was refused: it starts from lost, which was refused"
    assert (tmp_path / "s" / "report.html").is_file()
    assert main(["study", "--config", str(tmp_path / "c.yaml"), "--arm", "prompt"]) == 0


def test_how_a_study_ends_follows_its_arms():
    arms = plans.plan_study(config_of({"a": {}, "b": {"method": "sft"}, "c": {"method": "sft"}}))
    for arm in arms:
        arm.state = "done"
    assert study.shortfall(arms) is None
    arms[1].state, arms[1].reason = "failed", "the loss is nan"
    ended = study.shortfall(arms)
    assert isinstance(ended, Stopped) and str(ended) == "arm b failed: the loss is nan"
    arms[2].state, arms[2].reason = "refused", "no data"
    ended = study.shortfall(arms)
    assert isinstance(ended, InputError) and str(ended).splitlines()[1] == "arm c was refused: no data"


def test_another_study_in_the_same_folder_is_refused(tmp_path):
    one = config_of({"a": {"method": "sft"}}, tmp_path / "s")
    two = config_of({"a": {"method": "prompt"}}, tmp_path / "s")
    study.Run.open(one).close()
    with pytest.raises(InputError, match="was started with study.arms.a.method=sft, this command has prompt"):
        study.Run.open(two)


def test_a_study_in_which_nothing_can_run_is_bad_input(tmp_path):
    config = config_of({"a": {"method": "sft"}}, tmp_path / "s")
    config.data.path = str(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no arm of the study could run. a: .*no such file or folder"):
        run(config)


def test_all_arms_have_the_limit_of_the_longest_prompt(tiny_config, tmp_path, monkeypatch):
    asked = []

    def dev_limit(folder, name, policy, prompt, dev, start, settings, on_progress) -> int:
        asked.append((folder.name, name, prompt.name, len(dev)))
        return {"short": start, "long": start + 7}[name]

    monkeypatch.setattr("reckoner.study.run.dev_limit", dev_limit)
    base = tiny_config.to_dict()
    base["run"]["output_dir"] = str(tmp_path / "s")
    base["study"] = {
        "arms": {
            "short": {},
            "long": {"set": {"prompt": {"shots": 1}}},
            "broken": {"set": {"prompt": {"template": "<bos>{question}:"}}},
            "trained": {"method": "sft"},
            "asked": {"init": "trained"},
        }
    }
    folder = run(build_config([(base, {})]), "trained")
    assert asked == [("s", "short", "0shot", 8), ("s", "long", "1shot", 8)]
    encoder = load_encoder(tiny_config.model)
    lengths = solution_lengths(
        encoder, make_prompt(tiny_config, encoder), load_problems(tiny_config, "train")
    )
    (test,) = json.loads((folder / "trained" / "summary.json").read_text())["evaluations"]
    assert test["max_new_tokens"] == token_limit(tiny_config, lengths) + 7


def test_a_limit_that_cuts_right_answers_is_refused_for_a_study_without_loading_weights(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("reckoner.models.policy._load_weights", None)
    config = config_of({"a": {}}, tmp_path / "s")
    config.eval.max_new_tokens, config.data.max_train_samples = 8, 20
    with pytest.raises(
        InputError, match="eval.max_new_tokens=8 cuts right answers: 20 of 20 train solutions"
    ):
        run(config)


def test_an_arm_that_trains_has_a_run_for_each_seed_and_a_prompt_one(tmp_path):
    arms = {"asked": {}, "a": {"method": "sft"}, "b": {"method": "sft", "init": "a"}}
    runs = plans.plan_study(config_of(arms, tmp_path / "s", seeds=[4, 7]))
    assert [run.label for run in runs] == ["asked", "a/seed-4", "a/seed-7", "b/seed-4", "b/seed-7"]
    assert [run.config.run.seed for run in runs] == [4, 4, 7, 4, 7]
    assert runs[4].config.model.model_name_or_path == str(tmp_path / "s" / "a" / "seed-7")
    assert runs[4].needs == ("a/seed-7",)
    assert [run.label for run in plans.choose(runs, ["a"])] == ["a/seed-4", "a/seed-7"]
    counted = plans.plan_study(config_of(arms, tmp_path / "s", seeds=3))
    assert [run.seed for run in counted] == [0, 0, 1, 2, 0, 1, 2]


def test_one_seed_has_the_layout_of_a_study_without_seeds(tmp_path):
    (one,) = plans.plan_study(config_of({"a": {"method": "sft"}}, tmp_path / "s", seeds=[9]))
    assert (one.label, one.config.run.seed) == ("a", 9)


@pytest.mark.parametrize(
    "seeds, message",
    [
        ([0, 1, 0], r"study.seeds=\[0, 1, 0\]: seed 0 is there twice"),
        ([], r"study.seeds=\[\]: give a number of runs, as 3, or seeds"),
        (0, "study.seeds=0: give a number of runs"),
        ([-1, 2], "give a number of runs"),
        ("three", "study.seeds=three is not a whole number, or a list of them"),
        ([0.5], r"study.seeds=\[0.5\] is not a whole number"),
    ],
)
def test_bad_seeds(seeds, message):
    with pytest.raises(InputError, match=message):
        plans.plan_study(config_of({"a": {"method": "sft"}}, seeds=seeds))


def test_seeds_run_side_by_side_and_a_lost_one_takes_only_its_own_along(tiny_config, tmp_path, monkeypatch):
    base = tiny_config.to_dict()
    base["run"]["output_dir"] = str(tmp_path / "s")
    base["study"] = {
        "seeds": [1, 2],
        "arms": {"prompt": {}, "first": {"method": "sft"}, "second": {"method": "sft", "init": "first"}},
    }
    config = build_config([(base, {})])
    ran, run_arm = [], study.run_arm

    def failing(arm, on_progress):
        ran.append(arm.label)
        if arm.label == "first/seed-2":
            arm.state, arm.reason = "failed", "the loss is nan"
        else:
            run_arm(arm, on_progress)

    monkeypatch.setattr("reckoner.study.execute.run_arm", failing)
    folder = run(config)
    assert ran == ["prompt", "first/seed-1", "first/seed-2", "second/seed-1"]
    record = {arm["name"]: arm for arm in json.loads((folder / "study.json").read_text())["arms"]}
    assert record["first"]["state"] == record["second"]["state"] == "done"
    assert record["first"]["reason"] == "seed 2 failed: the loss is nan"
    assert [one["state"] for one in record["second"]["runs"]] == ["done", "refused"]
    assert json.loads((folder / "second" / "seed-1" / "summary.json").read_text())["seed"] == 1
    found = find(read_study(folder))
    assert {result.arm.name: result.seeds for result in found.results} == {
        "prompt": 1,
        "first": 1,
        "second": 1,
    }
    monkeypatch.setattr("reckoner.study.execute.run_arm", run_arm)
    run(config)
    assert {result.arm.name: result.seeds for result in find(read_study(folder)).results} == {
        "prompt": 1,
        "first": 2,
        "second": 2,
    }


RL = {
    "sft": {"method": "sft", "set": {"train": {"learning_rate": 3e-4}}},
    "grpo": {
        "method": "grpo",
        "init": "sft",
        "title": "GRPO",
        "set": {"rollout": {"max_steps": 5, "num_generations": 4}, "prompt": {"shots": 1}},
    },
}


def test_controls_start_where_reinforcement_learning_starts_and_spend_what_it_spends(tmp_path):
    runs = plans.plan_study(config_of(RL, tmp_path / "s", controls=True, seeds=[1, 2]))
    controls = {run.name: run for run in runs if run.control_of and run.seed == 2}
    assert [name.removeprefix("grpo-") for name in controls] == [
        "more-sft",
        "rejection",
        "coin",
        "format",
        "majority",
    ]
    assert {run.after for run in controls.values()} == {"sft"}
    start = str(tmp_path / "s" / "sft" / "seed-2")
    assert {run.config.model.model_name_or_path for run in controls.values()} == {start}
    more, own, coin = (controls[f"grpo-{name}"] for name in ("more-sft", "rejection", "coin"))
    assert (more.method, more.needs) == ("sft", ("sft/seed-2", "grpo/seed-2"))
    assert (own.method, own.needs) == ("rejection", ("sft/seed-2", "grpo/seed-2"))
    assert more.config.train.learning_rate == own.config.train.learning_rate == 3e-4
    assert own.config.rollout.max_steps == 40, "the budget ends it"
    assert (coin.method, coin.needs, coin.config.rollout.reward) == ("grpo", ("sft/seed-2",), "coin")
    assert coin.config.rollout.max_steps == 5
    assert {run.config.prompt.shots for run in controls.values()} == {1}
    assert [run.name for run in plans.choose(runs, ["grpo-rejection"]) if run.seed == 1] == [
        "sft",
        "grpo",
        "grpo-rejection",
    ]
    pairs = plans.declared_pairs(config_of(RL), runs)
    assert ["grpo", "sft"] in pairs and not any("grpo-coin" in pair for pair in pairs)


def test_more_sft_is_shown_no_solution_that_the_start_was_not(tmp_path):
    """In the embedded study reinforcement learning asks all questions, and 1,500 solutions are known."""
    config = load_config("nano", (), ["study.controls=true", f"run.output_dir={tmp_path}"])
    by_name = {run.name: run.config.data.max_train_samples for run in plans.plan_study(config)}
    assert (by_name["full-main"], by_name["grpo"], by_name["grpo-rejection"]) == (1500, 0, 0)
    assert {count for name, count in by_name.items() if name.endswith("more-sft")} == {1500}


def test_the_controls_that_learn_from_solutions_may_have_rates_of_their_own():
    arms = {"sft": RL["sft"], "grpo": {**RL["grpo"], "control_rates": {"more-sft": 3e-5}}}
    rates = {
        run.name: run.config.train.learning_rate for run in plans.plan_study(config_of(arms, controls=True))
    }
    assert rates["grpo-more-sft"] == 3e-5 and rates["grpo-rejection"] == rates["sft"] != 3e-5
    arms["grpo"]["control_rates"] = {"coin": 3e-5}
    with pytest.raises(InputError, match="grpo.control_rates: coin is no control with a rate of its own"):
        plans.plan_study(config_of(arms, controls=True))


def test_a_vote_needs_a_group_and_an_arm_without_its_controls_stays_as_it_is():
    arms = {**RL, "grpo": {**RL["grpo"], "method": "ppo", "set": {"rollout": {"num_generations": 1}}}}
    names = [run.name for run in plans.plan_study(config_of(arms, controls=True))]
    assert "grpo-coin" in names and "grpo-majority" not in names
    assert len(plans.plan_study(config_of(RL))) == 2


@pytest.mark.parametrize(
    "arms, message",
    [
        (
            {"a": {"method": "sft"}},
            r"study.controls=true, but no arm is reinforcement learning \(dpo, grpo, ppo\)",
        ),
        (
            {"a": {"method": "sft"}, "b": {"method": "sft", "control_of": "a"}},
            "that arm is no reinforcement learning .sft.. Name an arm whose method is one of dpo, grpo, ppo",
        ),
        ({**RL, "b": {"method": "sft", "control_of": "gro"}}, "study.arms.b.control_of: there is no arm gro"),
    ],
)
def test_a_control_needs_reinforcement_learning(arms, message):
    with pytest.raises(InputError, match=message):
        plans.plan_study(config_of(arms, controls="b" not in arms))


def test_a_control_gets_the_operations_that_were_measured(tmp_path):
    runs = plans.plan_study(config_of(RL, tmp_path / "s", controls=True))
    more = next(run for run in runs if run.name == "grpo-more-sft")
    assert study._measured(runs, more) == 0
    folder = tmp_path / "s" / "grpo"
    folder.mkdir(parents=True)
    training = dict.fromkeys(
        ("steps", "samples", "tokens", "supervised_tokens", "peak_memory_bytes", "parameters"), 1
    )
    training |= {"seconds": 1.0, "trainable_parameters": 1, "learning_rate": 1e-3, "flops": 2.5e12}
    (folder / "summary.json").write_text(json.dumps({"evaluations": [], "training": training}))
    assert study._measured(runs, more) == 2.5


SAMPLED = {
    "asked": {},
    "sft": {"method": "sft"},
    "grpo": {"method": "grpo", "init": "sft"},
    "zero": {"method": "grpo"},
}


def sampling_study(rl_config, folder, **study_keys) -> Config:
    base = rl_config.to_dict()
    base["rollout"]["max_steps"] = 1
    base["run"]["output_dir"] = str(folder)
    return build_config([({**base, "study": {"arms": SAMPLED, **study_keys}}, {})])


def entries(folder: Path, arm: str) -> dict:
    held = json.loads((folder / arm / "summary.json").read_text())["evaluations"]
    return {entry["split"]: (entry["n"], entry["samples"], entry["decoding"]) for entry in held}


def test_start_and_end_of_reinforcement_learning_draw_samples_even_of_a_finished_study(rl_config, tmp_path):
    folder = run(sampling_study(rl_config, tmp_path / "s"))
    weights = (folder / "grpo" / "model" / "model.safetensors").read_bytes()
    again = sampling_study(rl_config, tmp_path / "s", pass_k=3, pass_k_problems=5)
    assert run(again) == folder
    record = json.loads((folder / "study.json").read_text())
    assert (record["pass_k"], record["samples"]) == (3, "samples-5x3")
    for arm in SAMPLED:
        assert entries(folder, arm)["samples-5x3"] == (15, 3, "temperature 1"), "15 completions"
        assert entries(folder, arm)["test"][1:] == (1, "greedy"), "test was asked once, before"
    assert (folder / "grpo" / "model" / "model.safetensors").read_bytes() == weights
    lines = (folder / "grpo" / "problems" / "samples-5x3.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [
        problem.id for problem in load_problems(again, "dev")
    ][-5:]
    held = {path: path.stat().st_mtime_ns for path in folder.rglob("predictions/*.jsonl")}
    run(again, "sft")
    assert held == {path: path.stat().st_mtime_ns for path in folder.rglob("predictions/*.jsonl")}
    found = find(read_study(folder)).reaches
    assert [(one.start.name, one.end.name, one.n, one.samples) for one in found] == [
        ("sft", "grpo", 5, 3),
        ("asked", "zero", 5, 3),
    ]


@pytest.mark.parametrize(
    "arms, k, message",
    [
        ({"sft": {"method": "sft"}}, 32, "pass_k=32, but no arm is reinforcement learning"),
        (SAMPLED, 1, "pass_k=1, but one sample has no pass@k. Leave it out, or give 32"),
        (
            {**SAMPLED, "asked": {"set": {"prompt": {"shots": 2}}}},
            4,
            "zero starts from the untrained model, and no prompting arm has its prompt",
        ),
    ],
)
def test_samples_that_compare_nothing_are_refused(arms, k, message):
    with pytest.raises(InputError, match=message):
        plans.plan_study(config_of(arms, pass_k=k))


def test_only_start_and_end_of_reinforcement_learning_draw_samples():
    arms = {**SAMPLED, "other": {"method": "sft"}, "shown": {"set": {"prompt": {"shots": 2}}}}
    runs = plans.plan_study(config_of(arms, pass_k=4, controls=True, seeds=[3, 4]))
    drawing = {run.label for run in runs if run.config.study.pass_k}
    assert drawing == {"asked", *(f"{arm}/seed-{seed}" for arm in ("sft", "grpo", "zero") for seed in (3, 4))}


def test_the_searched_prompt_draws_no_samples_since_it_is_not_found_yet():
    """It stands first, with the prompt of `zero` until the search ends."""
    runs = plans.plan_study(config_of(SAMPLED, pass_k=4, prompt_search=3))
    assert runs[0].config.prompt == runs[-1].config.prompt and runs[0].name == "searched-prompt"
    assert [run.name for run in runs if run.config.study.pass_k] == ["asked", "sft", "grpo", "zero"]


def test_reinforcement_learning_from_the_untrained_model_is_compared_with_its_prompt():
    config = config_of(SAMPLED, prompt_search=3, controls=True)
    pairs = plans.declared_pairs(config, plans.plan_study(config))
    assert pairs == [
        *(["sft", "best-prompt"], ["grpo", "best-prompt"], ["zero", "best-prompt"]),
        *(["grpo", "sft"], ["zero", "asked"], ["zero", "sft"], ["zero", "grpo"]),
    ]
    other = config_of({"asked": {"set": {"prompt": {"shots": 2}}}, "zero": SAMPLED["zero"]})
    assert plans.declared_pairs(other, plans.plan_study(other)) == [["zero", "best-prompt"]]


def test_only_reinforcement_learning_is_recorded_as_rewarded():
    """Rejection sampling draws and grades, but no reward weighs what it learns from."""
    runs = plans.plan_study(config_of({**RL, "own": {"method": "rejection", "init": "sft"}}))
    rewarded = {record["name"]: record["rewarded"] for record in plans.arm_records(runs)}
    assert rewarded == {"sft": False, "grpo": True, "own": False}
