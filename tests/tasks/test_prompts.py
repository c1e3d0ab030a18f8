"""Prompt text to the byte, the boundary of prompt and answer, and what is supervised."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reckoner.errors import InputError
from reckoner.runs.records import Problem
from reckoner.tasks import gsm8k
from reckoner.tasks.prompts import Prompt, audit_labels

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "gsm8k"
SHOT = Problem("t-0", "Two and 3?", "2+3 = <<2+3=5>>5\n#### 5", "5", "main", "gsm8k")
OTHER = Problem("t-1", "What is {question}?", "It is 1.\n#### 1", "1", "main", "gsm8k")
INSTRUCTION = "End with '#### <number>'."


def test_plain_prompts_to_the_byte():
    assert Prompt().render("Why?") == "Question: Why?\nAnswer:"
    assert (
        Prompt(instruction=INSTRUCTION).render("Why?")
        == "End with '#### <number>'.\n\nQuestion: Why?\nAnswer:"
    )
    assert Prompt(exemplars=(SHOT, OTHER), instruction="Think.").render("Why?") == (
        "Think.\n\n"
        "Question: Two and 3?\nAnswer: 2+3 = <<2+3=5>>5\n#### 5\n\n"
        "Question: What is {question}?\nAnswer: It is 1.\n#### 1\n\n"
        "Question: Why?\nAnswer:"
    )
    assert Prompt().answer("2+3 = 5") == " 2+3 = 5"


def test_chat_prompts_have_no_system_role_and_bare_questions():
    chat = Prompt(exemplars=(SHOT,), instruction="Think.", chat=True)
    assert chat.render("Why?") == [
        {"role": "user", "content": "Think.\n\nTwo and 3?"},
        {"role": "assistant", "content": SHOT.solution},
        {"role": "user", "content": "Why?"},
    ]
    assert Prompt(instruction="Think.", chat=True).render("Why?") == [
        {"role": "user", "content": "Think.\n\nWhy?"}
    ]
    assert Prompt(chat=True).answer("2+3 = 5") == "2+3 = 5"


def test_a_second_pass_follows_the_first_answer():
    plain = Prompt(exemplars=(SHOT,), instruction="Think.")
    assert plain.revise("Why?", " As 1+1 = 3\n#### 3", "Check it.") == (
        f"{plain.render('Why?')} As 1+1 = 3\n#### 3\n\nQuestion: Check it.\nAnswer:"
    )
    chat = Prompt(exemplars=(SHOT,), instruction="Think.", chat=True)
    assert chat.revise("Why?", "#### 3", "Check it.") == [
        *chat.render("Why?"),
        {"role": "assistant", "content": "#### 3"},
        {"role": "user", "content": "Check it."},
    ]


@given(st.text())
def test_a_question_is_text_whatever_it_holds(question):
    assert Prompt("{{x}} {question}:").render(question) == "{{x}} " + question + ":"
    assert Prompt(chat=True).render(question)[-1]["content"] == question


def test_a_system_message_stands_before_the_exemplars():
    chat = Prompt(exemplars=(SHOT,), instruction="Think.", chat=True, system="Be brief.")
    roles = [(message["role"], message["content"]) for message in chat.render("Why?")]
    assert roles[:2] == [("system", "Be brief."), ("user", "Think.\n\nTwo and 3?")] and len(roles) == 4


def test_only_a_plain_prompt_ends_at_a_new_question():
    assert "\nQuestion:" in Prompt().stop_strings
    assert not [text for text in Prompt(chat=True).stop_strings if "\n" in text]


def test_names():
    prompts = [
        Prompt(),
        Prompt(exemplars=(SHOT,), instruction="x"),
        Prompt(chat=True),
        Prompt(exemplars=(SHOT, OTHER), chat=True),
    ]
    assert [prompt.name for prompt in prompts] == ["0shot", "1shot-instruction", "chat-0shot", "chat-2shot"]


@pytest.mark.parametrize(
    "template", ["Question: {question}\nAnswer: ", "{question}\n", "{question}\nA:\u00a0"]
)
def test_white_space_at_the_end_is_refused(template):
    with pytest.raises(InputError, match="ends in white space"):
        Prompt(template)


@pytest.mark.parametrize("template", ["Answer:", "{Question}\nAnswer:", "{}"])
def test_a_template_needs_a_place_for_the_question(template):
    with pytest.raises(InputError, match="has no {question}"):
        Prompt(template)


BOS, EOS = 0, 1


@dataclass(frozen=True)
class Ids:
    id: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]


GOOD = Ids("a", (BOS, 5, 6), (7, 8, EOS))


def test_audit_keeps_good_rows():
    assert audit_labels([GOOD, GOOD], [EOS], 6, bos_id=BOS) == ([GOOD, GOOD], [])


def test_audit_knows_tokenizers_whose_bos_is_their_stop_token():
    row = Ids("a", (EOS, 5, 6), (7, 8, EOS))
    assert audit_labels([row], [EOS], 6, bos_id=EOS) == ([row], [])


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (Ids("b", (BOS, 5), ()), "no supervised token"),
        (Ids("b", (BOS, 5), (EOS,)), "no supervised token"),
        (Ids("b", (BOS, 5), (7, 8)), "no stop token"),
        (Ids("b", (BOS, 5), (EOS, 7)), "a stop token inside the answer"),
        (Ids("b", (BOS, 5), (7, EOS, 8, EOS)), "a stop token inside the answer"),
        (Ids("b", (BOS, BOS, 5), (7, EOS)), "two BOS tokens at the beginning"),
    ],
)
def test_audit_refuses_rows_from_which_nothing_or_the_wrong_thing_is_learnt(row, says):
    with pytest.raises(InputError, match=rf"problem b: {says}.*\(1 of 3 rows\)"):
        audit_labels([GOOD, row, GOOD], [EOS, 99], 100, bos_id=BOS)


def test_audit_names_each_kind_of_fault():
    bad = [Ids("b", (5,), ()), Ids("c", (5,), ()), Ids("d", (5,), (7,))]
    with pytest.raises(InputError, match=r"problem b: .*\(2 of 3 rows\)\nproblem d: .*\(1 of 3 rows\)"):
        audit_labels(bad, [EOS], 100)


def test_long_rows_are_refused_with_the_setting_that_holds_them_or_dropped_and_listed():
    rows = [Ids(f"r{n}", (BOS,), (7,) * (n - 2) + (EOS,)) for n in (64, 301, 129, 128)]
    with pytest.raises(InputError) as caught:
        audit_labels(rows, [EOS], 128)
    assert str(caught.value).startswith(
        "2 of 4 problems are longer than max_length=128 (longest 301) and would lose their answer. "
        "Set train.max_length=320"
    )
    assert audit_labels(rows, [EOS], 128, drop=True) == ([rows[0], rows[3]], ["r301", "r129"])


@pytest.mark.parametrize(("chat", "every"), [(False, 1), (True, 5)])
def test_every_real_row_is_learnt_whole_by_the_embedded_model(chat, every):
    """Of 10,111 rows: the boundary holds, each answer ends with the one stop token, and no special token
    hides in a text.
    """
    from reckoner.config import ModelConfig, PeftConfig
    from reckoner.models.policy import load_policy

    if not REAL.is_dir():
        pytest.skip("the GSM8K files are not beside the checkout (shared/data/gsm8k)")
    real = {"source": "gsm8k", "path": str(REAL), "dev_size": 0}
    problems = [
        *gsm8k.load("train", **real),
        *gsm8k.exemplars(**real),
        *gsm8k.load("test", **real),
        *gsm8k.load("test", **real, variant="socratic"),
    ]
    policy, prompt = load_policy(ModelConfig(), PeftConfig(), train=False), Prompt(chat=chat)
    rows = [
        Ids(p.id, *map(tuple, policy.encode_example(prompt.render(p.question), prompt.answer(p.solution))))
        for p in problems[::every]
    ]
    bos = policy.tokenizer.bos_token_id
    assert len(problems) == 10_111 and all(row.prompt_ids[0] == bos for row in rows)
    assert audit_labels(rows, policy.stop_ids, 1024, bos_id=bos) == (rows, [])
