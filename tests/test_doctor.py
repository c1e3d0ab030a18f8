"""`reckon doctor MODEL`: what it says of a sound model, and of each fault with its remedy."""

import json
import re
import shutil

import pytest

from reckoner.cli import main
from reckoner.engine import backend

SMALL = ["data.dev_size=4", "data.max_train_samples=20", "run.threads=1"]


@pytest.fixture
def folder(tiny_model, tmp_path):
    """A model folder of its own, for a test to break."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def with_template(folder, template: str) -> str:
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


def test_a_sound_model(tiny_model, capsys):
    assert main(["doctor", str(tiny_model), "eval.max_new_tokens=2", "--json", *SMALL]) == 0
    found = json.loads(capsys.readouterr().out)
    facts = found["facts"]
    assert (facts["family"], facts["layers"], facts["hidden size"], facts["context"]) == (
        "gemma",
        2,
        32,
        1024,
    )
    assert facts["tokens"] == facts["embeddings"] == 1024 and facts["LM head"] == "tied to the embeddings"
    # embedding, 2 layers of q, k, v, o, gate, up, down and two norms, the last norm
    assert facts["parameters"] == 1024 * 32 + 2 * (32 * 32 * 2 + 16 * 32 * 2 + 3 * 32 * 64 + 2 * 32) + 32
    assert facts["stored as"] == "float32" and "packed pass" in facts["backend"]
    says = {one["check"]: one["says"] for one in found["findings"]}
    assert says["BOS"] == "'<bos>' is 2; it opens a plain prompt" and says["pad"] == "'<pad>' is 0"
    assert says["end of an answer"] == "'<eos>' is 1, '<end_of_turn>' is 4; plain ones learn '<eos>'"
    assert says["answers"] == "1 of 3 were cut at 2 tokens; eval.max_new_tokens=N allows more"
    assert found["prompt"].startswith("<bos><start_of_turn>user\n")
    assert found["completion"].endswith("<end_of_turn>")
    assert [one["tokens"] for one in found["answers"]] == [1, 1, 2] and found["tokens_per_second"] > 0
    assert [one["verdict"] for one in found["answers"]] == ["no_answer", "no_answer", "truncated"]
    assert [plan["name"] for plan in found["plans"]] == [
        "eval",
        "sft",
        "sft with LoRA",
        "grpo",
        "grpo with LoRA",
    ]
    assert found["advice"][-1] == f"begin with: reckon eval {tiny_model}; reckon sft --init {tiny_model}"


def test_bfloat16_on_a_cpu_without_it_is_said_before_anything_and_in_the_examination(
    tiny_model, capsys, monkeypatch
):
    monkeypatch.setattr(backend, "has_bfloat16", lambda: False)
    settings = ["model.device=cpu", "eval.max_new_tokens=2", *SMALL]
    assert main(["doctor", str(tiny_model), "model.dtype=bfloat16", "--json", *settings]) == 0
    printed = capsys.readouterr()
    assert f"model.dtype=bfloat16: {backend.NO_BFLOAT16}" in printed.err.splitlines()
    notes = {one["check"]: one["says"] for one in json.loads(printed.out)["findings"]}
    assert notes["precision"] == backend.NO_BFLOAT16
    assert backend.precision_note("auto", 10**9) == ""
    monkeypatch.setattr(backend, "has_bfloat16", lambda: True)
    assert backend.precision_note("bfloat16", 10**9) == backend.precision_note("auto", 10**6) == ""
    assert "takes about half the time" in backend.precision_note("auto", 10**9)


def test_the_embedded_models_template_is_a_note(capsys):
    assert main(["doctor", "nano", "eval.max_new_tokens=2", *SMALL]) == 0
    printed = capsys.readouterr()
    assert printed.err.startswith("preset nano; ")
    assert "switched off; prompt.chat_template=on takes it; a turn ends with '<end_of_turn>'" in printed.out
    assert "it refuses a system message; use prompt.instruction in place of prompt.system" in printed.out
    assert "it refuses several turns" not in printed.out
    assert re.search(r"^prompt +<bos>Question: .*\\nAnswer:$", printed.out, re.MULTILINE)


TURN = "{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "settings", "message"),
    [
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
            [],
            "add {{ eos_token }} there",
        ),
        (
            "{% if messages | length > 2 %}{{ raise_exception('one') }}{% endif %}" + TURN,
            ["prompt.shots=1"],
            "Set prompt.shots=0 or prompt.chat_template=off",
        ),
        ("{{ bos_token }}{{ bos_token }}" + TURN, [], "two BOS tokens at the beginning"),
    ],
    ids=["no end", "one turn", "two BOS"],
)
def test_a_fault_of_the_template_is_printed_with_the_rest_and_ends_with_2(
    folder, capsys, template, settings, message
):
    assert main(["doctor", with_template(folder, template), *settings, *SMALL]) == 2
    printed = capsys.readouterr()
    assert "fault  prompt" in printed.out and "parameters" in printed.out
    (fault,) = [line for line in printed.err.splitlines() if line.startswith("reckon: ")]
    assert message in fault


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (
            "config.json",
            {"max_position_embeddings": 24},
            "reads 24. Lower prompt.shots, or take another model",
        ),
        ("tokenizer_config.json", {"eos_token": None}, "the tokenizer has no eos_token"),
    ],
)
def test_other_faults_are_one_line_with_a_remedy(folder, capsys, file, change, message):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert main(["doctor", str(folder), *SMALL]) == 2
    (fault,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("reckon: ")]
    assert message in fault


def test_a_remedy_for_a_short_context_ends_the_fault(folder, capsys):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_position_embeddings": 150}))
    settings = ["eval.max_new_tokens=2", *SMALL]
    assert main(["doctor", str(folder), *settings]) == 2
    advice = capsys.readouterr().err.partition("reads 150. Set ")[2].split()
    assert advice == ["train.max_length=150", "train.drop_long=true"]
    assert main(["doctor", str(folder), *advice, *settings]) == 0
    assert "fault" not in capsys.readouterr().out
    assert main(["doctor", str(folder), "train.max_length=150", *settings]) == 2
    assert "or train.drop_long=true to leave them out" in capsys.readouterr().err
    assert main(["doctor", str(folder), "train.max_length=20", "train.drop_long=true", *settings]) == 2
    assert "no train problem is as short as train.max_length=20. Raise it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("template", "says"),
    [
        (
            "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('only one turn') }}"
            "{% endif %}{{ m.content }}{% endfor %}{{ eos_token }}",
            "refuses these messages: only one turn (roles user, assistant)",
        ),
        ("{% for m in %}", "refuses these messages: "),
    ],
    ids=["no answered turn", "no valid Jinja"],
)
def test_a_template_that_fails_can_be_switched_off(folder, capsys, template, says):
    """The advice of the fault is enough."""
    name, settings = with_template(folder, template), ["eval.max_new_tokens=2", *SMALL]
    assert main(["doctor", name, *settings]) == 2
    printed = capsys.readouterr()
    assert says in printed.err and "Set prompt.chat_template=off" in printed.err
    assert main(["doctor", name, "prompt.chat_template=off", "--json", *settings]) == 0
    found = json.loads(capsys.readouterr().out)
    said = [one["says"] for one in found["findings"]]
    assert "it fails on an answered question; prompts must be plain" in said
    assert "'<eos>' is 1; plain ones learn '<eos>'" in said


def test_a_tokenizer_with_more_tokens_than_embeddings(folder, capsys):
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text())
    value["added_tokens"].append(
        {**value["added_tokens"][-1], "id": 1024, "content": " plus", "special": False}
    )
    path.write_text(json.dumps(value))
    for verb in ("doctor", "eval"):
        assert main([verb, str(folder), *SMALL, f"run.output_dir={folder.parent}/run"]) == 2
        assert "has a token 1,024 (' plus') and the model 1,024 embeddings" in capsys.readouterr().err
    value["added_tokens"][-1]["special"] = True  # no text becomes it, as Gemma 3's token for images
    path.write_text(json.dumps(value))
    assert main(["doctor", str(folder), "eval.max_new_tokens=2", *SMALL]) == 0
