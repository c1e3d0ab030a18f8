"""Config: later layers win, every fault is named with its place, text stays text."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reckoner.config import Config, build_config, load_config, preset_names, read_layer
from reckoner.config.sections import ModelConfig
from reckoner.faults import InputError


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
        "train.learning_rate: Value 'abc' of type 'str' could not be converted to Float",
    ),
    (["train.learning_rate=null"], "train.learning_rate: Incompatible value 'None'"),
    (["train.per_device_train_batch_size=1.5"], "could not be converted to Integer"),
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
    (["prompt.instruction='a"], "prompt.instruction:1: not YAML"),
    (["study.arms.x.metod=sft"], "study.arms.x.metod is not a setting (did you mean study.arms.x.method?)"),
    (["study.arms.x.set.train.learning_rat=3"], "train.learning_rat is not a setting"),
    (["peft.lora_target_modules=q_proj"], "peft.lora_target_modules"),
]


@pytest.mark.parametrize("overrides, message", FAULTS, ids=[case[0][0] for case in FAULTS])
def test_a_fault_is_named(overrides, message):
    with pytest.raises(InputError) as caught:
        load(*overrides)
    assert message in str(caught.value)


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


def test_no_interpolation_reads_anything(monkeypatch):
    monkeypatch.setenv("SECRET", "hush")
    text = "${oc.env:SECRET} {0.__class__} {question} ${train.learning_rate}"
    config = load(f"prompt.instruction='{text}'")
    assert config.prompt.instruction == text
    assert build_config([(config.to_dict(), {})]).prompt.instruction == text


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=60).filter(
        lambda text: text != "???"
    )
)
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


def test_the_digest_sees_what_decides_the_result_and_nothing_else():
    base = load(preset="nano")
    assert load("run.output_dir=elsewhere", "run.save_steps=9", preset="nano").digest() == base.digest()
    assert load("run.seed=1", preset="nano").digest() != base.digest()


def test_sections_stay_small_and_explained():
    for section in dataclasses.fields(Config)[1:]:
        fields = dataclasses.fields(section.default_factory)
        assert len(fields) <= 15, section.name
        assert all(field.metadata["doc"] for field in fields), section.name


def test_the_original_instruction_is_word_for_word():
    arms = load(preset="nano").study.arms
    wanted = (
        "You are a helpful math assistant. Please provide a step-by-step derivation and end your answer with the final "
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
