from __future__ import annotations

from types import SimpleNamespace

import pytest
from transformers import AutoTokenizer

from reckoner.errors import InputError
from reckoner.training import rollout_log as transcripts
from reckoner.training.rollout_log import (
    Transcript,
    kept_steps,
    read_transcripts,
    save_rollouts,
    shades,
    token_texts,
)


@pytest.fixture(scope="module")
def tokenizer():
    from reckoner.models.sources import verified_embedded

    return AutoTokenizer.from_pretrained(verified_embedded())


def episode(text, ids):
    completion = SimpleNamespace(sample=0, text=text, finish="stop", logprob=-1.23456)
    return SimpleNamespace(
        problem=SimpleNamespace(id="p1"),
        completion=completion,
        reward=1 / 3,
        grade=SimpleNamespace(verdict="correct"),
        example=SimpleNamespace(completion_ids=ids),
    )


def test_what_is_kept_is_read(tmp_path):
    save_rollouts(
        tmp_path, 7, [episode("a\u2028b", (5, 6, 1)), episode("", ())], [[0.12345, -1.0, 2.0], [0.5]]
    )
    assert kept_steps(tmp_path) == [7]
    one, two = read_transcripts(tmp_path, 7)
    assert one == Transcript(
        "p1", 0, "a\u2028b", 0.333333, "correct", "stop", -1.235, (5, 6, 1), (0.123, -1.0, 2.0)
    )
    assert (two.text, two.token_ids, two.advantages) == ("", (), (0.5,))


def test_a_link_among_the_rollouts_is_refused(tmp_path):
    save_rollouts(tmp_path, 7, [episode("a", (5,))], [[0.5]])
    (tmp_path / "rollouts" / "step-000008.jsonl").symlink_to(tmp_path / "rollouts" / "step-000007.jsonl")
    with pytest.raises(InputError, match="step-000008.jsonl is a link to"):
        read_transcripts(tmp_path, 8)


def test_missing_steps_and_foreign_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no rollouts here; give the folder of a ppo or grpo run"):
        kept_steps(tmp_path)
    save_rollouts(tmp_path, 3, [], [])
    with pytest.raises(InputError, match="no rollouts of step 9; there are steps 3 to 3"):
        read_transcripts(tmp_path, 9)
    (tmp_path / "rollouts" / "step-000004.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(InputError, match="step-000004.jsonl line 1: Transcript has no field a"):
        read_transcripts(tmp_path, 4)


@pytest.mark.parametrize(
    "text", [" 48/2 = <<48/2=24>>24 clips.\n#### 72", "", "caf\u00e9 \u2028 \U0001f600!", "  two  spaces "]
)
def test_pieces_join_to_the_text(tokenizer, text):
    ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    texts = token_texts(tokenizer, ids)
    assert len(texts) == len(ids) and "".join(texts) == text
    assert texts[-1] == "", "the stop token has no text"


def test_each_token_has_its_advantage_or_all_share_one(tmp_path, tokenizer):
    (tmp_path / "config.yaml").write_text("model: {model_name_or_path: nano, revision: ''}\n")
    ids = tokenizer(" 3+4=7", add_special_tokens=False)["input_ids"]
    each = Transcript(
        "p", 0, " 3+4=7", 1.0, "correct", "stop", -1.0, ids, [float(i) for i in range(len(ids))]
    )
    whole = Transcript("p", 1, " 3+4=7", 1.0, "correct", "stop", -1.0, ids, [0.5])
    by_token, at_once = transcripts.shades(tmp_path, [each, whole])
    assert [value for _, value in by_token] == list(each.advantages) and "".join(
        text for text, _ in by_token
    ) == each.text
    assert at_once == [(" 3+4=7", 0.5)]
    assert list(shades(tmp_path, [])) == []
