"""Config: later layers win, every fault is named with its place, text stays text."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reckoner.cli.options import read_config
from reckoner.config import NO_IDENTITY, Config, build_config, load_config, preset_names, read_layer
from reckoner.config.schema import ModelConfig
from reckoner.errors import InputError
from reckoner.runs.documents import SEARCHED
from reckoner.runs.folder import differences
from reckoner.study.arms import PAID, plan_study


def load(*overrides: str, preset: str = "") -> Config:
    return load_config(preset, [], overrides)


@pytest.mark.parametrize(
    "text, value", [("2e-5", 2e-5), ("1e-4", 1e-4), ("3.e-5", 3e-5), (".001", 1e-3), ("1", 1.0)]
)
def test_numbers_as_people_write_them(text, value, tmp_path):
    assert load(f"train.learning_rate={text}").train.learning_rate == value
    file = tmp_path / "c.yaml"
    file.write_text(f"train:\n  learning_rate: {text}\n")
    assert load_config("", [file]).train.learning_rate == value


def test_later_layers_win(tmp_path):
    one, two = tmp_path / "1.yaml", tmp_path / "2.yaml"
    one.write_text("train: {learning_rate: 1e-3, warmup_ratio: 0.1}\nrun: {seed: 3}")
    two.write_text("train: {learning_rate: 2e-3}")
    config = load_config("", [one, two], ["run.seed=5"])
    assert (config.train.learning_rate, config.train.warmup_ratio, config.run.seed) == (2e-3, 0.1, 5)


FAULTS = [
    (
        ["train.learning_rat=1"],
        "train.learning_rat is not a setting (did you mean train.learning_rate?)    on the command line",
    ),
    (
        ["learning_rate=1"],
        "learning_rate is not a setting (did you mean train.learning_rate?)    on the command line",
    ),
    (["tarin.learning_rate=1"], "tarin is not a setting (did you mean train?)"),
    (["train=3"], "train is a section: write train.KEY=value"),
    (
        ["train.learning_rate=abc"],
        "train.learning_rate=abc is not a number    on the command line",
    ),
    (["train.learning_rate=null"], "train.learning_rate=None is not a number"),
    (
        ["train.per_device_train_batch_size=1.5"],
        "train.per_device_train_batch_size=1.5 is not a whole number",
    ),
    (["train.per_device_train_batch_size=0"], "train.per_device_train_batch_size=0 must be at least 1"),
    (["train.min_lr_rate=1.5"], "train.min_lr_rate=1.5 must be between 0 and 1"),
    (["train.learning_rate=nan"], "train.learning_rate"),
    (
        ["model.dtype=float23"],
        "model.dtype=float23 is not one of auto, float32, bfloat16 (did you mean float32?)",
    ),
    (["model.access_token=abc"], "model.access_token is not a setting"),
    (["train.learning_rate"], "train.learning_rate: expected section.key=value"),
    (["=3"], "=3: expected section.key=value"),
    (["train.max_length='a"], "train.max_length:1: not YAML"),
    (["study.arms.x.metod=sft"], "study.arms.x.metod is not a setting (did you mean study.arms.x.method?)"),
    (["study.arms.x.set.train.learning_rat=3"], "train.learning_rat is not a setting"),
    (
        ["peft.lora_target_modules=q_proj"],
        "peft.lora_target_modules=q_proj is not a list of texts, as [a, b]    on the command line",
    ),
    (["train.drop_long=maybe"], "train.drop_long=maybe is not true or false"),
    (["train.drop_long=1"], "train.drop_long=1 is not true or false"),
    (["train.max_length=010"], "train.max_length=010 is not a whole number"),
    (["train.max_length=1:30"], "train.max_length=1:30 is not a whole number"),
    (["train.max_length=0x10"], "train.max_length=0x10 is not a whole number"),
    (["train.max_length=1_000"], "train.max_length=1_000 is not a whole number"),
    (["train.max_length='30'"], "train.max_length=30 is not a whole number"),
    (["train.max_length=true"], "train.max_length=True is not a whole number"),
    (["train.weight_decay=007.5"], "train.weight_decay=007.5 is not a number"),
    (["study.cluster=auto"], "study.cluster=auto is not a mapping of names to values"),
    (["study.cluster.num_cpus=.inf"], "study.cluster={'num_cpus': inf} must be finite"),
    (
        ["prompt.chat_template_kwargs=[1]"],
        "prompt.chat_template_kwargs=[1] is not a mapping of names to values",
    ),
    (["peft.lora_alpha=.nan"], "peft.lora_alpha=nan is not a whole number"),
    (["eval.temperature=.nan"], "eval.temperature=nan must be finite"),
    (
        ["train.num_train_epochs=1e308"],
        "train.num_train_epochs=1e+308 must be finite, and at most 4,294,967,295",
    ),
    (["run.seed=" + "9" * 400], "must be finite, and at most 4,294,967,295"),
    (["train.learning_rate=1e-60"], "train.learning_rate=1e-60 must be at least 1e-09"),
    (["train.learning_rate=0"], "train.learning_rate=0.0 must be at least 1e-09"),
    (["data.question_field=answer"], "data.question_field and data.solution_field both hold 'answer'"),
    (
        ["study.arms.x.set.run.output_dir=/tmp"],
        "study.arms.x.set: the study itself decides its preset, arms and folders",
    ),
    (["study.arms.x.set.study.jobs=2"], "study.arms.x.set: the study itself decides"),
    (["study.arms.x.set." * 2000 + "run.seed=1"], "expected section.key=value"),
]


@pytest.mark.parametrize("overrides, message", FAULTS, ids=[case[0][0] for case in FAULTS])
def test_a_fault_is_named(overrides, message):
    with pytest.raises(InputError) as caught:
        load(*overrides)
    assert message in str(caught.value)


@pytest.mark.parametrize("given", [{}, {"temperature": 1.0}, {"num_samples": 8}])
@pytest.mark.parametrize("rule", ["majority", "weighted", "best"])
def test_a_selection_among_samples_that_are_alike_is_refused(given, rule):
    with pytest.raises(InputError, match=f"eval.select={rule} chooses among samples that differ, and this"):
        build_config([({"eval": {"select": rule, **given}}, {})])
    settings = {"select": rule, "temperature": 0.5, "num_samples": 2}
    assert build_config([({"eval": settings}, {})]).eval.select == rule


def test_an_optimizer_without_a_schedule_takes_none():
    with pytest.raises(InputError, match="Set train.lr_scheduler_type=constant"):
        load("train.optim=schedule_free_adamw")
    assert load("train.optim=schedule_free_adamw", "train.lr_scheduler_type=constant")


def test_several_faults_are_all_named():
    with pytest.raises(InputError) as caught:
        load("train.learning_rat=1", "modle.dtype=x", "eval.splt=dev")
    assert len(str(caught.value).splitlines()) == 3


FILES = [
    ("train:\n  learning_rate: 1\n  learning_rate: 2\n", "c.yaml:3"),
    ("train:\n\n  lr: 1\n", "c.yaml:3"),
    ("- a\n", "expected sections"),
    ("train: [1\n", "not YAML"),
    ("a: &x {b: 1}\nc: *x\n", "anchors and aliases are not allowed"),
    ("train: !!python/object:os.system {}\n", "tags are not allowed"),
    ("prompt: {instruction: !!python/name:os.system ''}\n", "tags are not allowed"),
]


@pytest.mark.parametrize("text, message", FILES)
def test_a_bad_file_is_named_with_its_line(tmp_path, text, message):
    file = tmp_path / "c.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_config("", [file])
    assert message in str(caught.value)


def test_missing_file_and_preset():
    with pytest.raises(InputError, match="cannot be read .No such file"):
        load_config("", [Path("/nowhere/at/all.yaml")])
    with pytest.raises(InputError, match=r"nanoo is not a preset \(did you mean nano\?\)"):
        load_config("nanoo")


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("preset=demo", "preset=demo: a preset is chosen as --preset demo"),
        ("--preset=banana", "--preset=banana: a preset is chosen as --preset banana"),
        ("demo", "demo: a preset is chosen as --preset demo"),
        ("small.yaml", "small.yaml: a file of settings is given as --config small.yaml"),
        ("study.arms.x.set.preset=demo", "study.arms.x.set: the study itself decides its preset"),
    ],
)
def test_what_is_no_setting_says_how_it_is_given(typed, message):
    with pytest.raises(InputError) as caught:
        load(typed)
    assert str(caught.value).startswith(message)


def test_a_file_names_no_preset_unless_it_is_the_whole_configuration_of_a_run(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("run: {seed: 1}\npreset: demo\n")
    with pytest.raises(InputError) as caught:
        load_config("", [path])
    assert str(caught.value) == f"a preset is chosen as --preset demo    {path}:2"
    path.write_text(load(preset="demo").to_yaml())
    again = load_config("", [path])
    assert again == load(preset="demo") and again.preset == "demo"


def test_no_interpolation_reads_anything(monkeypatch):
    monkeypatch.setenv("SECRET", "hush")
    text = "${oc.env:SECRET} {0.__class__} {question} ${train.learning_rate}"
    config = load(f"prompt.instruction={text}")
    assert config.prompt.instruction == text
    assert build_config([(config.to_dict(), {})]).prompt.instruction == text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=60))
def test_any_text_survives_saving_and_loading(text):
    config = Config(model=ModelConfig(model_name_or_path=text))
    layer, places = read_layer(config.to_yaml(), "saved")
    assert build_config([(layer, places)]) == config


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_valid_and_round_trips(name):
    config = load_config(name)
    assert config.preset == name
    again = build_config([read_layer(config.to_yaml(), "saved")])
    assert again == config and again.digest() == config.digest()


@pytest.mark.parametrize("name", preset_names())
def test_reinforcement_learning_from_the_untrained_model_has_its_prompt_as_an_arm(name):
    """It is compared with that prompt, and `study.pass_k` draws the start's samples there."""
    arms = plan_study(load_config(name, (), ["run.output_dir=x"])) if load_config(name).study.arms else []
    prompts = [arm.config.prompt for arm in arms if arm.method == "prompt" and arm.name != SEARCHED]
    alone = [arm for arm in arms if arm.method in PAID and not arm.after]
    assert all(arm.config.prompt in prompts for arm in alone)
    assert alone or name not in ("nano", "smollm2", "gemma-2b", "gemma-2-2b")


def test_the_digest_sees_what_decides_the_result_and_nothing_else():
    base = load(preset="nano")
    assert load("run.output_dir=elsewhere", "run.save_steps=9", preset="nano").digest() == base.digest()
    assert load("run.seed=1", preset="nano").digest() != base.digest()


def test_one_list_says_which_settings_are_no_part_of_a_run():
    """It is made of the marks beside the settings; the digest and the comparison with a run folder follow
    it.
    """
    endpoint = ("concurrency", "key_env", "max_retries", "requests_per_minute", "timeout")
    assert {
        "run.output_dir",
        "run.logging_steps",
        "run.report_to",
        "run.save_steps",
        "run.shard",
        "run.save_total_limit",
        "study.cluster",
        "study.engine",
        "study.forgetting",
        "study.jobs",
        "study.pass_k",
        "study.pass_k_problems",
        "study.suites",
        "data.local_files_only",
        "endpoint.price_completion",
        "endpoint.price_prompt",
        *(f"endpoint.{name}" for name in endpoint),
    } == NO_IDENTITY
    types = {key: str(field.type) for key, field in SETTINGS}
    last = {key: field.metadata["choices"][-1] for key, field in SETTINGS if field.metadata["choices"]}
    base = load(preset="nano")
    for key in NO_IDENTITY:
        value = {"bool": "true", "list[str]": "[a]", "str | list[str]": "a", "dict[str, Any]": "{a: 1}"}.get(
            types[key], "77"
        )
        value = last.get(key, value)
        other = load(f"{key}={value}", preset="nano")
        assert other != base and other.digest() == base.digest()
        assert differences(base.to_dict(), other.to_dict()) == []


def test_settings_of_earlier_versions_are_read_under_their_new_names():
    old = {
        "rollout": {"format_weight": 0.25, "num_prompts": 4},
        "study": {"arms": {"a": {"method": "grpo", "set": {"rollout": {"arithmetic_weight": 0.5}}}}},
    }
    config = build_config([(old, {})])
    assert config.rollout.reward_weights == {"format": 0.25} and config.rollout.num_prompts == 4
    assert config.study.arms["a"].set == {"rollout": {"reward_weights": {"arithmetic": 0.5}}}
    assert old["rollout"]["format_weight"] == 0.25
    assert load("rollout.arithmetic_weight=0.5").rollout.reward_weights == {"arithmetic": 0.5}


@pytest.mark.parametrize("value", ["5", "{format: high}", "[format]"])
def test_weights_are_names_with_numbers(value):
    with pytest.raises(InputError, match=r"rollout.reward_weights=.* is not a mapping of names to numbers"):
        load(f"rollout.reward_weights={value}")


def test_a_preset_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "dummy.yaml").write_text("train: {learning_rate: 0.5}\nstudy: {name: dummy}\n")
    monkeypatch.setattr("reckoner.config.load.PRESETS", tmp_path)
    config = read_config("dummy", None, ["run.seed=3"])
    assert (config.preset, config.train.learning_rate, config.run.seed) == ("dummy", 0.5, 3)
    with pytest.raises(InputError, match="dumy is not a preset .did you mean dummy.*Presets: dummy"):
        load_config("dumy")


def test_sections_stay_small_and_explained():
    for section in dataclasses.fields(Config)[1:]:
        fields = dataclasses.fields(section.default_factory)
        assert len(fields) <= 20, section.name
        assert all(field.metadata["doc"] for field in fields), section.name


def test_the_original_instruction_is_word_for_word():
    arms = load(preset="nano").study.arms
    wanted = (
        "You are a helpful math assistant. Please provide a step-by-step derivation and end your answer "
        "with the final "
        "numerical result in the format '#### <number>'."
    )
    assert [arms[n].set["prompt"].get("instruction") for n in list(arms)[:4]] == [None, wanted, None, wanted]


@pytest.mark.parametrize("word", ["on", "off", "auto"])
def test_on_and_off_are_words_not_booleans(word, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"prompt:\n  chat_template: {word}\n")
    assert (
        load_config(files=[file]).prompt.chat_template
        == load_config(overrides=[f"prompt.chat_template={word}"]).prompt.chat_template
        == word
    )


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), ("yes", True), ("off", False)])
def test_booleans(text, value):
    assert load_config(overrides=[f"train.drop_long={text}"]).train.drop_long is value


TYPED = [
    "... end with #### and the number.",
    "#### (.+)",
    "2026_11_29",
    "0755",
    "12:30",
    "a: b",
    "[x",
    "'q'",
    "null",
    "~",
    "",
    " x ",
]


@pytest.mark.parametrize("text", TYPED)
@pytest.mark.parametrize(
    "key", ["prompt.instruction", "study.arms.a.set.prompt.instruction", "study.arms.a.title"]
)
def test_a_text_is_taken_as_typed(text, key):
    found = load(f"{key}={text}").to_dict()
    for part in key.split("."):
        found = found[part]
    assert found == text


@pytest.mark.parametrize("word", ["1", "1e5", "true", "null", "~", "", ".inf", "-3"])
def test_a_text_that_yaml_reads_as_something_else_is_refused_with_its_quotes(word, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(f"run: {{seed: 1}}\nstudy:\n  name: {word}\nprompt:\n  instruction: {word}\n")
    with pytest.raises(InputError) as caught:
        load_config("", [file])
    lines = str(caught.value).splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["study.name", "prompt.instruction"]
    assert f'put it in quotes, as "{word}"' in lines[0] and lines[0].endswith("c.yaml:3")
    file.write_text(f'peft: {{lora_target_modules: [a, "{word}"]}}\nrun: {{output_dir: "{word}"}}')
    config = load_config("", [file])
    assert (config.run.output_dir, config.peft.lora_target_modules) == (word, ["a", word])


@pytest.mark.parametrize(
    "word", ["0755", "12:30", "2026-11-29", "2026_11_29", "0x10", "off", "yes", "1_000", "="]
)
def test_a_text_that_only_old_yaml_misreads_is_the_text(word, tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(f"run: {{output_dir: {word}}}\npeft:\n  lora_target_modules:\n  - {word}\n")
    config = load_config("", [file])
    assert config.run.output_dir == word and config.peft.lora_target_modules == [word]


@pytest.mark.parametrize(
    "written, advised",
    [
        ("end with #### and", "'end with #### and'"),
        ("don't say # it", "'don''t say # it'"),
        ("Think hard. # why not", "'Think hard. # why not'"),
        ("#### (.+)", "'#### (.+)'"),
    ],
)
def test_a_text_that_yaml_would_cut_is_refused_with_its_quotes(written, advised, tmp_path):
    file = tmp_path / "c.yaml"
    text = "run: {{seed: 3}} # a seed\nprompt:\n  # words\n  instruction: {}\n  template: |\n    a #b\n"
    file.write_text(text.format(written))
    with pytest.raises(InputError) as caught:
        load_config("", [file])
    assert f"quotes, as {advised}, or the comment on a line of its own    {file}:4" in str(caught.value)
    file.write_text(text.format(advised))
    found = load_config("", [file]).prompt
    assert (found.instruction, found.template) == (written, "a #b\n")


def test_one_word_and_what_is_no_text_may_have_a_comment(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(
        "model:\n  model_name_or_path: gpt2   # small\n"
        "train: {learning_rate: 1e-3, warmup_ratio: 0.1} #x\n"
        "run:\n  seed: 3 #x\n  report_to: [wandb, mlflow] # two\n"
    )
    config = load_config("", [file])
    assert (config.model.model_name_or_path, config.run.seed) == ("gpt2", 3)
    assert config.run.report_to == ["wandb", "mlflow"]


@pytest.mark.parametrize("key", ["prompt.chat_template_kwargs", "endpoint.extra", "study.cluster"])
def test_old_words_for_true_and_false_are_so_in_a_mapping_of_any_values(key, tmp_path):
    section, name = key.split(".")
    given = "{a: off, b: 'off', c: [No, x], d: {e: on}, f: YES, g: auto}"
    meant = {"a": False, "b": "off", "c": [False, "x"], "d": {"e": True}, "f": True, "g": "auto"}
    file = tmp_path / "c.yaml"
    file.write_text(f"{section}: {{{name}: {given}}}\n")
    for config in (
        load_config("", [file]),
        load(f"{key}={given}"),
        load(f"{key}.a=off", f"{key}={given}"),
        build_config([read_layer(load(f"{key}={given}").to_yaml(), "saved")]),
    ):
        assert getattr(getattr(config, section), name) == meant
    if section != "study":
        arm = load(f"study.arms.x.set.{key}.a=no").study.arms["x"].set
        assert arm == {section: {name: {"a": False}}}


@pytest.mark.parametrize(
    "text, value",
    [("wandb", "wandb"), ("[wandb, 'mlflow']", ["wandb", "mlflow"]), (" [wandb]", ["wandb"])],
)
def test_a_list_may_stand_where_one_text_may(text, value):
    assert load(f"run.report_to={text}").run.report_to == value


@pytest.mark.parametrize("text", ["a #b", "a: b", "null"])
def test_one_text_is_as_typed_where_a_list_may_stand(text):
    with pytest.raises(InputError, match=f"run.report_to={text} is not one of wandb"):
        load(f"run.report_to={text}")


SETTINGS = [
    (f"{section.name}.{f.name}", f)
    for section in dataclasses.fields(Config)[1:]
    for f in dataclasses.fields(section.default_factory)
    if f.name not in ("arms", "suite")  # any text is a fault where it names no set
]
TEXTS = st.one_of(
    st.sampled_from(
        [
            *TYPED,
            "1e5",
            "true",
            "off",
            "010",
            "${x}",
            "\\",
            "é",
            "\n",
            "- a",
            "%x",
            "!x",
            "&x",
            "*x",
            "\u2028",
        ]
    ),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20),
)


def values(f: dataclasses.Field) -> st.SearchStrategy:
    """Any value that the declared type, choices and bounds of a setting allow."""
    low, high = f.metadata["low"], f.metadata["high"]
    if f.metadata["choices"]:
        return st.sampled_from(f.metadata["choices"])
    return {
        "str": TEXTS,
        "bool": st.booleans(),
        "int": st.integers(low or 0, high or 2**32 - 1),
        "float": st.floats(low or 0, high if high is not None else 2**32 - 1),
        "list[str]": st.lists(TEXTS, max_size=3),
        "str | list[str]": st.lists(TEXTS, max_size=3),
        "list[float]": st.just([]),
        "int | list[int]": st.integers(1, 9),
        "dict[str, Any]": st.dictionaries(st.just("enable_thinking"), st.booleans()),
        "dict[str, float]": st.dictionaries(st.sampled_from(["format", "arithmetic"]), st.floats(0, 9)),
    }[f.type]


def typed(value: object) -> str:
    """A value as one types it behind `section.key=`."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_every_setting_survives_command_line_and_file(data):
    """Value -> command line -> configuration -> file -> configuration, of a study's own settings and of an
    arm's.
    """
    drawn = {key: data.draw(values(f), key) for key, f in SETTINGS}
    drawn["data.question_field"] = "Frage: wie viele?"  # else it may be made of the solution
    if drawn["train.optim"] == "schedule_free_adamw":
        drawn["train.lr_scheduler_type"] = "constant"
    if drawn["eval.num_samples"] == 1 or drawn["eval.temperature"] == 0:
        drawn["eval.select"] = "none"
    config = load(*(f"{key}={typed(value)}" for key, value in drawn.items()))
    own = {
        key: value for key, value in drawn.items() if not key.startswith("study.") and key != "run.output_dir"
    }
    arm = load(*(f"study.arms.a.set.{key}={typed(value)}" for key, value in own.items()))
    for key, value in drawn.items():
        section, name = key.split(".")
        assert getattr(getattr(config, section), name) == value, key
        assert key not in own or arm.study.arms["a"].set[section][name] == value, key
    for written in (config, arm):
        assert build_config([read_layer(written.to_yaml(), "saved")]) == written


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ("question_field={question} {answer}", "data.solution_field both hold 'answer'"),
        ("question_field={q.text} solution_field=q", "data.solution_field both hold 'q.text'"),
        ("question_field={q} solution_field=q.text", "data.solution_field both hold 'q'"),
        ("question_field={a} {why} solution_field={why} {b}", "data.solution_field both hold 'why'"),
        ("question_field={question} {target} gold_field=target", "data.gold_field both hold 'target'"),
        ("question_field=target gold_field=target", "data.gold_field both hold 'target'"),
        ("question_field={a} {b} solution_field={a} {b} {answer}", ""),
        ("question_field={body} {question} gold_field=answers", ""),
        ("question_field=answers.question", ""),
        ("question_field=m.user solution_field=m.assistant", ""),
    ],
)
def test_a_question_that_would_show_the_answer_is_refused(settings, shown):
    settings = [f"data.{one}" for one in re.split(r" (?=\w+=)", settings)]
    if not shown:
        load_config("nano", [], settings)
        return
    with pytest.raises(InputError, match=rf"data.question_field and {shown}: the prompt would show"):
        load_config("nano", [], settings)


def test_further_golds_are_not_shown_either():
    with pytest.raises(InputError, match=r"task.more_golds_field both hold 'more'"):
        load_config("nano", [], ["data.question_field={question} {more}", "task.more_golds_field=more"])


def test_a_sign_that_json_writes_as_two_escapes_is_one(tmp_path):
    written = {"prompt": {"instruction": "Rechne 😀 <b>"}, "study": {"arms": {"a": {"title": "🧮"}}}}
    (tmp_path / "settings.json").write_text(json.dumps(written))
    found = load_config("", [tmp_path / "settings.json"], [])
    assert (found.prompt.instruction, found.study.arms["a"].title) == ("Rechne 😀 <b>", "🧮")
