"""Set-ups that teach the wrong thing, or nothing: each is refused before step 1, by problem and reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest

from reckoner.algorithms import sft
from reckoner.config import Config, PeftConfig
from reckoner.engine.batches import collate
from reckoner.errors import InputError
from reckoner.evaluation.evaluate import encode, make_prompt
from reckoner.models.policy import load_policy
from reckoner.runs.records import Problem

Change = Callable[[Config, Path], None]


def settings(section: str, **values: object) -> Change:
    def change(config: Config, folder: Path) -> None:
        setattr(config, section, replace(getattr(config, section), **values))

    return change


def rows(
    question: str = "What is {i} plus 1?", answer: str = "{i}+1={j}\\n#### {j}", only: int = 7
) -> Change:
    """Put this question and answer into row number `only` of the data."""

    def change(config: Config, folder: Path) -> None:
        lines = (folder / "mine.jsonl").read_text().splitlines()
        text = f'{{"question": "{question}", "answer": "{answer}"}}'
        lines[only] = text.replace("{i}", str(only)).replace("{j}", str(only + 1))
        (folder / "mine.jsonl").write_text("\n".join(lines) + "\n")

    return change


def tokenizer(**values: object) -> Change:
    def change(config: Config, folder: Path) -> None:
        path = folder / "base" / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        if "chat_template" in values:
            (folder / "base" / "chat_template.jinja").write_text(str(values["chat_template"]))

    return change


def foreign_tokenizer(config: Config, folder: Path) -> None:
    path = folder / "base" / "tokenizer.json"
    value = json.loads(path.read_text())
    value["added_tokens"].append(
        {**value["added_tokens"][-1], "id": 5000, "content": " plus", "special": False}
    )
    path.write_text(json.dumps(value))


def context_of(size: int) -> Change:
    def change(config: Config, folder: Path) -> None:
        path = folder / "base" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": size}))

    return change


TURNS = (
    "{% for m in messages if m.role != 'system' %}<start_of_turn>{{ m.role }}\n{{ m.content "
    "}}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>assistant\n{% endif %}"
)


REFUSES = "{%% if %s %%}{{ raise_exception('not this') }}{%% endif %%}"


def both(*changes: Change) -> Change:
    def change(config: Config, folder: Path) -> None:
        for each in changes:
            each(config, folder)

    return change


def ends_every_text(config: Config, folder: Path) -> None:
    path = folder / "base" / "tokenizer.json"
    value = json.loads(path.read_text())
    value["post_processor"]["single"].append({"SpecialToken": {"id": "<eos>", "type_id": 0}})
    value["post_processor"]["special_tokens"]["<eos>"] = {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]}
    path.write_text(json.dumps(value))


def chat(template: str) -> Change:
    def change(config: Config, folder: Path) -> None:
        tokenizer(chat_template=template)(config, folder)
        settings("prompt", chat_template="on")(config, folder)

    return change


SETUPS: dict[str, tuple[Change, str]] = {
    "control token in the template": (
        settings("prompt", template="<bos><bos>Question: {question}\nAnswer:"),
        "prompt.template holds <bos>, a control token of .*: leave it out",
    ),
    "double BOS from the chat template": (
        chat("{{ bos_token }}{{ bos_token }}" + TURNS),
        "problem train-.*: two BOS tokens at the beginning",
    ),
    "chat template without the question": (
        chat("{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}<end_of_turn>{% endfor %}"),
        "the chat template of .* does not show the user's text 'What is 7 \\+ 5\\?'. "
        "Set prompt.chat_template=off",
    ),
    "chat template that drops the system message": (
        both(chat(TURNS), settings("prompt", chat_template="on", system="Be brief.")),
        "does not show the system's text 'Be brief.'",
    ),
    "system message without a chat": (
        settings("prompt", system="Be brief."),
        "prompt.system is for chats, and this prompt is plain: set prompt.instruction",
    ),
    "setting of transformers in place of a switch": (
        both(chat(TURNS), settings("prompt", chat_template_kwargs={"chat_template": "x"})),
        "prompt.chat_template_kwargs.chat_template is not a switch of a template",
    ),
    "tokenizer that ends every text": (
        ends_every_text,
        "ends every text with EOS, behind which no answer follows: set add_eos_token to false",
    ),
    "template that ends in a space": (
        settings("prompt", template="Question: {question}\nAnswer: "),
        "ends in white space, which tokenizers fuse with the answer",
    ),
    "template without the question": (
        settings("prompt", template="Answer:"),
        "has no {question}: put it where the question goes",
    ),
    "answers over max_length": (
        settings("train", max_length=24),
        r"\d+ of \d+ problems are longer than max_length=24 .*The first is train-",
    ),
    "every problem left out": (
        settings("train", max_length=4, drop_long=True),
        "no train problem is as short as train.max_length=",
    ),
    "context shorter than a problem": (
        context_of(24),
        "the (long|short)est problem has .* tokens and .* reads 24",
    ),
    "context shorter than every problem": (
        context_of(8),
        "the shortest problem has .* and .* reads 8. Lower",
    ),
    "tokenizer without EOS": (
        tokenizer(eos_token=None),
        "the tokenizer has no eos_token, so that a completion could never end",
    ),
    "tokenizer of another model": (
        foreign_tokenizer,
        r"the tokenizer has a token 1,024 \(' plus'\) and the model 1,024 embeddings: it is another model's",
    ),
    "chat template that refuses": (
        chat("{{ raise_exception('no such role') }}"),
        r"the chat template of .* refuses these messages: no such role \(roles user\). "
        "Set prompt.chat_template=off",
    ),
    "chat template that refuses a second question": (
        both(
            chat(REFUSES % "messages | length > 2" + TURNS), settings("prompt", chat_template="on", shots=1)
        ),
        r"refuses .*: not this \(roles user, assistant, user\). Set prompt.shots=0 or prompt.chat_template",
    ),
    "chat template that refuses a system message": (
        both(
            chat(REFUSES % "messages[0].role == 'system'" + TURNS),
            settings("prompt", chat_template="on", system="Be brief."),
        ),
        r"refuses .*: not this \(roles system, user\). Set prompt.instruction and no prompt.system",
    ),
    "chat template without EOS": (
        chat("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"),
        r"writes neither EOS nor another special token behind an answer.*, or add {{ eos_token }} there",
    ),
    "chat without a template": (
        settings("prompt", chat_template="on"),
        "has no chat template. Set prompt.chat_template=off",
    ),
    "an answer without its number": (rows(answer="who knows"), "mine.jsonl line 8"),
}


@pytest.fixture
def setup(tiny_config: Config, tiny_model: Path, tmp_path: Path) -> Config:
    """Eighty problems in a file and a model folder of its own, for a test to break."""
    shutil.copytree(tiny_model, tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink(missing_ok=True)
    (tmp_path / "mine.jsonl").write_text(
        "".join(
            f'{{"question": "What is {i} plus 1?", "answer": "{i}+1={i + 1}\\n#### {i + 1}"}}\n'
            for i in range(80)
        )
    )
    config = replace(tiny_config, model=replace(tiny_config.model, model_name_or_path=str(tmp_path / "base")))
    (tmp_path / "test.jsonl").write_text('{"question": "What is 1 plus 2?", "answer": "#### 3"}\n')
    return replace(
        config,
        data=replace(
            config.data,
            path=str(tmp_path / "mine.jsonl"),
            test_path=str(tmp_path / "test.jsonl"),
            max_train_samples=0,
        ),
    )


@pytest.mark.parametrize("change, message", SETUPS.values(), ids=SETUPS)
def test_a_broken_set_up_is_refused(setup, tmp_path, change, message):
    change(setup, tmp_path)
    with pytest.raises(InputError, match=message):
        sft.train(setup)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "change", [settings("prompt"), chat("{{ bos_token }}" + TURNS)], ids=["plain", "chat"]
)
def test_no_text_becomes_a_control_token(setup, tmp_path, change):
    """A question, an instruction and a solution that hold the letters of control tokens are spelt; the text
    stays whole.
    """
    change(setup, tmp_path)
    setup.prompt.instruction = "End with <eos>."
    policy = load_policy(setup.model, PeftConfig(), train=False)
    clean = Problem("clean", "What is it?", "It is 2.\n#### 2", "2", "main", "test")
    control = Problem(
        "t", "<bos>What<<eos>eos> is<end_of_turn> it?", "It <eos>is 2.\n#### 2", "2", "main", "test"
    )
    ids = set(policy.tokenizer.all_special_ids)
    prompt = make_prompt(setup, policy)
    seen = []
    for example in encode(policy, prompt, [clean, control]):
        whole = [*example.prompt_ids, *example.completion_ids]
        seen.append([token for token in whole if token in ids])
    assert seen[0] == seen[1], "the template's control tokens and no others"
    text = policy.tokenizer.decode(whole)
    for part in ("End with <eos>.", control.question, control.solution):
        assert part in text


def test_eos_is_learnt_where_it_is_the_padding_too(setup):
    """The mask comes from positions: pad = EOS is no fault, and the EOS at the end of each answer is a
    label.
    """
    policy = load_policy(setup.model, PeftConfig(), train=True)
    policy.tokenizer = deepcopy(policy.tokenizer)
    policy.tokenizer.pad_token = policy.tokenizer.eos_token
    problems = [
        Problem(str(n), "What is it?", "9" * n + f"\n#### {n}", str(n), "main", "test") for n in (1, 4, 9)
    ]
    examples = encode(policy, make_prompt(setup, policy), problems)
    batch = collate(examples, policy.tokenizer.pad_token_id)
    ends = batch.lengths.cumsum(0) - 1
    assert (batch.targets[ends] == policy.tokenizer.eos_token_id).all() and (
        batch.targets == policy.tokenizer.eos_token_id
    ).sum() == 3
