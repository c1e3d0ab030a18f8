"""Settings of strangers: a safe subset of YAML, nothing twice, nothing unknown, nothing that reads the
environment."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reckoner.config import build_config, load_config
from reckoner.config.secrets import holds_secret

from .conftest import TOKENS

FILES = {
    "python object": 'train:\n  max_length: !!python/object/apply:os.system ["touch ran"]\n',
    "python name": "prompt:\n  instruction: !!python/name:os.system\n",
    "python module": "prompt: !!python/module:os\n",
    "local tag": "prompt:\n  instruction: !evil x\n",
    "binary": "prompt:\n  instruction: !!binary aGk=\n",
    "set": "prompt:\n  instruction: !!set {a}\n",
    "omap": "prompt: !!omap [a: 1]\n",
    "verbatim tag": "prompt:\n  instruction: !<tag:yaml.org,2002:str> x\n",
    "anchor": "a: &x 1\nb: *x\n",
    "merge of an anchor": "a: &x {b: 1}\ntrain: {<<: *x}\n",
    "anchor in itself": "a: &x [*x]\n",
    "billion laughs": "a: &a [x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)),
    "key twice": "run:\n  seed: 1\n  seed: 2\n",
    "section twice": "run: {seed: 1}\nrun: {seed: 2}\n",
    "key twice in an arm": "study: {arms: {a: {set: {run: {seed: 1, seed: 2}}}}}\n",
    "arm twice": "study: {arms: {a: {method: sft}, a: {method: sft}}}\n",
    "unknown key": "train:\n  learning_rat: 1\n",
    "unknown section": "trian: {seed: 1}\n",
    "unknown in an arm": "study: {arms: {a: {metod: sft}}}\n",
    "unknown in the settings of an arm": "study: {arms: {a: {set: {train: {lr: 1}}}}}\n",
    "list": "- a\n",
    "text": "hello\n",
    "number": "3\n",
    "two documents": "run: {seed: 1}\n---\nrun: {seed: 2}\n",
    "tabs": "run:\n\tseed: 1\n",
    "open bracket": "run: [1\n",
    "section a list": "train: [1]\n",
    "section a word": "train: 3\n",
    "section empty": "train:\n",
    "arms a list": "study: {arms: [1]}\n",
    "arm a number": "study: {arms: {a: 3}}\n",
    "settings of an arm a number": "study: {arms: {a: {set: 3}}}\n",
    "key a list": "? [a, b]\n: 1\n",
    "key a mapping": "? {a: 1}\n: 1\n",
    "number as key": "1: 2\n",
    "NUL": "run: {seed: 1}\0\n",
    "NUL escaped": 'data: {path: "a\\0b"}\n',
    "half a surrogate": 'prompt: {instruction: "\\ud800x"}\n',
    "half a surrogate in a list": 'peft: {lora_target_modules: ["\\udfff"]}\n',
    "half a surrogate as a key": 'prompt: {chat_template_kwargs: {a: {"\\ud800": 1}}}\n',
    "control": "run: {seed: \x1b}\n",
    "latin-1": "prompt: {instruction: \xe9}\n".encode("latin-1"),
    "UTF-16 without mark": "run: {seed: 1}\n".encode("utf-16-le"),
    "binary file": b"PK\x03\x04\xff\xfe",
    "deep": "a: " + "[" * 100_000,
    "deep mapping": "a: " + "{b: " * 5_000,
    "huge": "#" * 1_000_001,
    "integer of 5,000 digits": f"run: {{seed: {'9' * 5000}}}\n",
    "date": "train: {max_length: 2020-01-01}\n",
    "no date": "train: {max_length: 2020-99-99}\n",
    "sexagesimal": "train: {max_length: 1:30:00000000000000000000000x}\n",
    "nan": "train: {learning_rate: .nan}\n",
    "infinity": "train: {learning_rate: .inf}\n",
    "minus infinity": "train: {learning_rate: -.inf}\n",
    "negative": "train: {max_length: -1}\n",
    "fraction": "train: {max_length: 1.5}\n",
    "null": "train: {max_length: null}\n",
    "word": "train: {max_length: many}\n",
    "list of it": "train: {max_length: [1]}\n",
    "boolean": "train: {learning_rate: [true]}\n",
    "choice": "model: {device: tpu}\n",
    "interpolated number": "train: {max_length: '${oc.env:HOME}'}\n",
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_bad_file_is_one_line(refused, tmp_path, content):
    (tmp_path / "c.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused("study", "--dry-run", "--preset", "nano", "--config", "c.yaml")
    assert not (tmp_path / "ran").exists()


SETTINGS = [
    "train.max_length",
    "=",
    "=1",
    ".=1",
    "..=1",
    "train.=1",
    "train..max_length=1",
    "train.max_length.x=1",
    "train=1",
    "train.max_length={a: 1, a: 2}",
    "train.max_length=&x [*x]",
    "train.max_length=!!python/object:x {}",
    "train.max_length=[[[[",
    "train.max_length=" + "[" * 100_000,
    "train.max_length=" + "9" * 5_000,
    "train.max_length=",
    "train.max_length=null",
    "train.max_length=\x1b",
    "train.max_length=3 4",
    "train.max_length=2020-99-99",
    "run.seed=x",
    "run.seed=-1",
    "run.threads=1000000",
    "eval.top_p=2",
    "eval.num_samples=0",
    "prompt.shots=9",
    "data.dev_size=nan",
    "data.path=nowhere",
    "data.path='a\\0b'",
    'data.path="a\\0b"',
    "prompt.instruction=caf\udcff",
    'prompt.chat_template_kwargs={a: ["\\ud800"]}',
    "caf\udcff=1",
    "[=1",
    "a[0]=1",
    "train[max_length]=3",
    "model.token=x",
    "hub.token=x",
    "trust_remote_code=true",
    "model.trust_remote_code=true",
    "study.arms.a/b.method=sft",
    "--learning-rate=3",
]


@pytest.mark.parametrize("setting", SETTINGS, ids=[text[:40] for text in SETTINGS])
def test_a_bad_setting_is_one_line(refused, setting):
    refused("study", "--dry-run", "--preset", "nano", setting)


def test_a_file_with_a_byte_order_mark_is_read(reckon, tmp_path):
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfrun:\n  seed: 41\n")
    assert "seed: 41" in reckon("sft", "--dry-run", "--config", "c.yaml").out


@given(st.text(alphabet="\\${}:oc.env'\"SAFE_\n", max_size=40))
def test_no_text_reads_the_environment(text):
    config = build_config(
        [
            (
                {
                    "prompt": {"instruction": text},
                    "study": {"arms": {"a": {"set": {"prompt": {"instruction": text}}}}},
                },
                {},
            )
        ]
    )
    assert config.prompt.instruction == text == config.study.arms["a"].set["prompt"]["instruction"]


@pytest.mark.parametrize("before", range(5))
@pytest.mark.parametrize(
    "inner",
    [
        "oc.env:RECKONER_PROBE",
        "oc.decode:${oc.env:RECKONER_PROBE}",
        "train.learning_rate",
        "oc.create:{a:1}",
        ".template",
        "oc.select:run",
    ],
)
def test_interpolation_stays_text_behind_any_number_of_backslashes(monkeypatch, tmp_path, before, inner):
    monkeypatch.setenv("RECKONER_PROBE", "hush")
    text = "x" + "\\" * before + "${" + inner + "}"
    (tmp_path / "c.yaml").write_text(json.dumps({"prompt": {"instruction": text}}))
    config = load_config(files=[tmp_path / "c.yaml"])
    assert config.prompt.instruction == text and "hush" not in config.to_yaml()
    assert build_config([(config.to_dict(), {})]).prompt.instruction == text


@pytest.mark.parametrize(
    "question", ["{0.__class__}", "{question}", "${oc.env:HOME}", "{{ 7*7 }}", "%(x)s", "{x!r}", "$HOME"]
)
def test_a_question_is_never_a_format(question):
    from reckoner.tasks.prompts import Prompt

    assert Prompt("Question: {question}\nAnswer:", "").render(question) == f"Question: {question}\nAnswer:"


PLACES = [
    "model.model_name_or_path={}",
    "model.revision={}",
    "prompt.instruction=use {} please",
    "data.path=/data/{}/x",
    "study.name={}",
    "peft.lora_target_modules=[a, '{}']",
]


@pytest.mark.parametrize("name", TOKENS)
@pytest.mark.parametrize("place", PLACES)
def test_a_setting_that_holds_a_secret_is_refused_without_repeating_it(
    refused, tmp_path, monkeypatch, name, place
):
    monkeypatch.setenv(name, TOKENS[name])
    line = refused(
        "sft", place.format(TOKENS[name]), "run.output_dir=r", says="holds what looks like a secret"
    )
    assert TOKENS[name] not in line and place.partition("=")[0] in line and not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    "value",
    [value for name, value in TOKENS.items() if name in ("HF_TOKEN", "OPENAI_API_KEY", "GITHUB_TOKEN")],
)
def test_the_shape_of_a_token_is_enough(refused, value):
    assert value not in refused("sft", f"prompt.instruction={value}", says="holds what looks like a secret")
    for verb in (["eval"], ["predict", "--input", "x"], ["chat"]):
        assert value not in refused(*verb, value, says="RUN holds what looks like a secret")
    assert value not in refused("sft", "--init", value, says="--init holds what looks like a secret")
    assert value not in refused("study", "--config", f"{value}/c.yaml", says="--config holds what looks like")
    assert value not in refused("sft", f"model.token={value}", says="model.token is not a setting")
    assert value not in refused("sft", "--token", value)


@pytest.mark.parametrize(
    "text",
    [
        "google/gemma-2b",
        "3101c7d5072418e28b9008a6636bde82a006892c",
        "https://host/x",
        "sk-",
        "hf_",
        "http://h:80/a@b",
        "What is 3+4?",
        "risk-averse-and-careful-people",
    ],
)
def test_innocent_text_is_no_secret(text, monkeypatch):
    monkeypatch.setenv("EMPTY_TOKEN", "")
    monkeypatch.setenv("SHORT_KEY", "gemma")
    assert not holds_secret(text)


def test_bytes_of_an_argument_that_are_no_text_are_told(refused):
    says = r"prompt.instruction='caf\udcff' is no text for a setting"
    refused("eval", "nano", "prompt.instruction=caf\udcff", says=says)
