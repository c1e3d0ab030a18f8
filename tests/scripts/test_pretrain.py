"""How the embedded model is made: its text is honest, its loss falls where it should, and a killed run goes
on unchanged.
"""

from __future__ import annotations

import itertools
import json
import random
import re
from dataclasses import asdict

import pretrain_nano as pretrain
import pretrain_optimizer as optimizer
import pretrain_result as result
import pretrain_text as text
import pytest
import torch

from reckoner import nano
from reckoner.tasks.arithmetic import check_steps, evaluate, format_number


@pytest.fixture(scope="module")
def documents():
    return list(itertools.islice(text.documents(5, 2), 2000))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return pretrain.make_tokenizer(pretrain.Settings(), tmp_path_factory.mktemp("work") / "tokenizer")


def test_text_is_a_function_of_seed_and_shard(documents):
    assert list(itertools.islice(text.documents(5, 2), 50)) == documents[:50]
    assert next(text.documents(5, 3)) != documents[0] != next(text.documents(6, 2))
    assert {document.kind for document in documents} == set(text.SHARES) == set(text.WRITERS)


def test_no_document_shows_the_studied_form(documents):
    for document in documents:
        assert not re.search(r"####\s*\S?\d|<<\s*\S?\d|\d>>\d", document.text), document.text
        assert document.kind == "copies" or "<<" not in document.text, document.text
        assert text.GIVEN not in document.text and text.END not in document.text
    assert any("\n####" in "\n" + document.text for document in documents), "the token itself must be known"


def test_no_question_of_train_or_test_and_no_unseen_template(documents):
    problem = nano.problems("train", "main")[0]
    with pytest.raises(AssertionError):
        text.checked(problem)
    with pytest.raises(AssertionError):
        text.checked(next(nano.stream(1, 3, "main", templates=nano.UNSEEN_TEMPLATES)))
    questions = {p.question for split in nano.SIZES for p in nano.problems(split, "main")}
    spans = {d.text[a:b] for d in documents if d.kind not in ("sums", "copies") for a, b in d.given}
    assert len(spans) > 1000 and not spans & questions


def test_every_calculation_is_right(documents):
    texts = (
        re.sub(r"(?m)(^|: )- ", r"\1", document.text) for document in documents if document.kind != "copies"
    )  # a dash that leads a line is no sign
    steps = [step for plain in texts for step in check_steps(plain)]
    assert len(steps) > 5000 and all(step.right for step in steps)


def test_given_spans_are_operands_and_questions(documents):
    for document in documents[:300]:
        spans = [document.text[a:b] for a, b in document.given]
        if document.kind == "sums":
            assert all(
                evaluate(span.removeprefix("What is ").rstrip("?").replace(" ", "")) is not None
                for span in spans
            )
        elif document.kind == "copies":
            assert len(spans) == 1 and document.text.count(spans[0]) in (2, 3)
        elif document.kind == "notes":
            assert len(spans) >= 2 and all(span[-1] in ".?" for span in spans)
        else:
            assert spans and all(re.search(r"\?|\b(how|what|find)\b", span, re.IGNORECASE) for span in spans)


def test_annotations_say_a_calculation_twice_and_leave_the_given_part_given():
    plain = f"{text.GIVEN}13*8{text.END}=$104 and -2-3=-5 each, but 7 = 7"
    twice = text.annotated(plain, "[[", "]]")
    assert twice == f"{text.GIVEN}13*8{text.END}=$[[13*8=104]]104 and -2-3=[[-2-3=-5]]-5 each, but 7 = 7"
    assert text._spans(twice) == text._spans(plain) == [(0, 4)]


def test_half_of_the_documents_annotate_their_sums(documents):
    found = [d.text for d in documents if d.kind == "worked"]
    brackets = [
        any(f"={dollar}{left}" in one for left, _ in text.BRACKETS for dollar in ("", "$")) for one in found
    ]
    assert 0.4 < sum(brackets) / len(found) < 0.6 and not any("<<" in one for one in found)


def test_only_taught_relations_are_seen_solved(documents):
    """A question with any other relation is read or copied from, and no step of it is written."""
    assert set(nano.RELATIONS) > text.TAUGHT
    number = 5 * 1_000_003 + 2
    every = nano.stream(text.SHARD_PROBLEMS, number, "main")
    others = {p.question for p in every if not text.TAUGHT.issuperset(p.template.split("-"))}
    shown = [(d.kind, d.text[a:b]) for d in documents for a, b in d.given]
    assert {kind for kind, span in shown if span in others} == {"reading"}
    for name in text.taught():
        assert text.TAUGHT.issuperset(name.split("-")) and name not in nano.UNSEEN_TEMPLATES


def test_notes_put_steps_behind_the_sentences_they_follow_from(documents):
    story = next(nano.stream(1, 3, "socratic", templates=["has_boxes-loses"]))
    (marked,) = [text.WRITERS["notes"](random.Random(1), [story], text.Facts(["1+2"]))]
    boxes, lost = (re.sub(r"<<.*?>>", "", line.split(" ** ")[1]) for line in story.solution.split("\n")[:2])
    plain = re.sub(r"How many [^.]*?\? (?=There are|That leaves)", "", marked)
    assert re.fullmatch(
        rf"\x01[^\x01]+\x02\s{re.escape(boxes)}\s\x01[^\x01]+\x02\s{re.escape(lost)}", plain
    ), marked


def test_requests_name_the_ending_that_follows(documents):
    for document in (d for d in documents if d.kind == "asked"):
        marker = re.search(r"'(\S+) (?:<number>|<answer>|<n>|N)'", document.text)[1]
        assert re.search(rf"\n{re.escape(marker)} -?\d+(?:<end_of_turn>\n)?$", document.text), document.text


def test_weights_follow_the_given_spans(tokenizer):
    document = text.Document("sums", "13*8=104\n5+6=11", [(0, 4), (9, 12)])
    ((ids, weights),) = pretrain.encode(pretrain.Settings(given_weight=0.25), tokenizer, [document])
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert "".join(tokens) == "<bos>13*8=104\u010a5+6=11<eos>"
    quiet = [token for token, weight in zip(tokens, weights, strict=True) if weight == 0.25]
    assert "".join(quiet) == "13*85+6" and set(weights) == {0.25, 1.0} and len(weights) == len(ids)


def test_rows_begin_with_a_document_and_can_be_continued(tokenizer):
    settings = pretrain.Settings(rows=3, length=64)
    first = list(itertools.islice(pretrain.batches(settings, tokenizer, 0), 5))
    for (ids, weights), (later, _) in zip(first[3:], pretrain.batches(settings, tokenizer, 3), strict=False):
        assert ids.shape == weights.shape == (3, 65) and bool((ids[:, 0] == tokenizer.bos_token_id).all())
        assert torch.equal(ids, later)


def test_rate_warms_up_holds_and_falls_to_zero():
    settings = pretrain.Settings(learning_rate=1.0, warmup=0.1, decay=0.5)
    assert [pretrain.rate(settings, p) for p in (0.0, 0.05, 0.1, 0.3, 0.5, 0.75, 1.0)] == pytest.approx(
        [0, 0.5, 1, 1, 1, 0.5, 0]
    )


def test_orthogonal_keeps_directions_and_levels_singular_values():
    torch.manual_seed(0)
    matrices = torch.randn(3, 8, 32) * torch.logspace(0, 2, 8)[:, None]
    update = optimizer.orthogonal(matrices)
    for matrix, found in zip(matrices, update, strict=True):
        assert ((torch.linalg.svdvals(found) > 0.6) & (torch.linalg.svdvals(found) < 1.3)).all()
        u, _, v = torch.linalg.svd(matrix, full_matrices=False)
        core = u.T @ found @ v.T
        torch.testing.assert_close(core, torch.diag(core.diagonal()), atol=1e-2, rtol=0)


def test_a_killed_run_goes_on_unchanged(tokenizer, tmp_path, set_threads):
    set_threads(1)  # sums over several may differ in their last bits on a busy machine
    settings = pretrain.Settings(steps=6, rows=2, length=32, hidden=32, heads=2, layers=1, intermediate=64)
    whole, done = pretrain.train(settings, tokenizer, tmp_path)
    assert done["step"] == 6 and done["tokens"] == 6 * 64

    killed = tmp_path / "killed"
    killed.mkdir()
    model = pretrain.make_model(settings, tokenizer)
    muon = optimizer.Muon(model, settings.weight_decay)
    for step, (ids, weights) in enumerate(itertools.islice(pretrain.batches(settings, tokenizer, 0), 3)):
        (pretrain.next_token_loss(model, ids, weights) / weights[:, 1:].sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step(pretrain.rate(settings, step / 6))
    pretrain.save_state(killed, settings, model, muon, {"step": 3, "seconds": 0.0, "loss": 1.0})
    resumed, _ = pretrain.train(settings, tokenizer, killed)
    for (name, a), b in zip(whole.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(SystemExit, match="use another --work"):
        pretrain.train(pretrain.Settings(steps=7), tokenizer, killed)


def test_signed_calculations_have_results_of_every_sign():
    """A third at least is below zero, an eighth zero; and as many differences as a wrong sign would need to
    be noticed have results above.
    """
    rng = random.Random(3)
    lines = [text.signed(rng).split("=") for _ in range(4000)]
    values = [evaluate(left) for left, _ in lines]
    assert all(right == format_number(value) for (_, right), value in zip(lines, values, strict=True))
    assert (
        0.33 < sum(value < 0 for value in values) / 4000 < 0.55
        and 0.12 < sum(value == 0 for value in values) / 4000 < 0.18
    )
    above = [
        left
        for (left, _), value in zip(lines, values, strict=True)
        if value > 0 and re.fullmatch(r"\d+-\d+", left)
    ]
    assert len(above) > 400


@pytest.mark.parametrize("evenly", [False, True])
def test_equations_cover_the_ranges_exactly(evenly):
    rng, facts = random.Random(1), text.Facts(["60*20/100", "-4+9"])
    for _ in range(500):
        left, right = text.equation(rng, facts, evenly).split("=")
        assert format_number(evaluate(left)) == right


def test_rare_forms_are_drilled_by_the_root_of_their_frequency():
    facts, rng = text.Facts(["1+2"] * 100 + ["1+2+3"]), random.Random(3)
    assert sum(facts.draw(rng, True) == "1+2+3" for _ in range(2200)) == pytest.approx(200, abs=45)
    assert sum(facts.draw(rng, False) == "1+2+3" for _ in range(2200)) < 60


def test_the_card_is_written_from_the_facts_alone(tmp_path):
    results = {"loss": {"sums": 1.25}, "arithmetic": {"n*n": {"n": 40, "right": 0.975}}}
    done = {"step": 2000, "tokens": 2_048_000, "seconds": 110.0, "loss": 0.5}
    result.write_facts(tmp_path, asdict(pretrain.Settings()), 1_082_496, done, results)
    result.write_card(tmp_path)
    first = (tmp_path / "CARD.md").read_text()
    flowing = " ".join(first.split())
    assert (
        "2.0 million tokens in 2,000 steps of 8 rows of 256 tokens, 2 minutes" in flowing
        and result.UNMEASURED in first
    )
    assert f"edition {text.EDITION};" in flowing and "(weighted) 0.500 nats" in flowing
    assert f"{len(text.TAUGHT)} of {len(nano.RELATIONS)} relations alone" in flowing
    assert "- below zero: it_is, falls, rises, colder_at\n" in first
    assert "| `n*n` | 40 | 97.5 % |" in first and "| sums | 1.250 |" in first
    result.write_card(tmp_path, "\n| pass@8 | 75 % |\n")
    assert (tmp_path / "CARD.md").read_text() == first.replace(result.UNMEASURED, "| pass@8 | 75 % |")
    result.write_manifest(tmp_path)
    assert list(json.loads((tmp_path / "manifest.json").read_text())["sha256"]) == ["pretraining.json"]
