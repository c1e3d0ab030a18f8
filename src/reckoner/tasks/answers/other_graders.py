"""Other tools' graders, reproduced verdict for verdict, to compare with numbers they published.

Never used as ours.

Each function takes a completion and the gold string and says whether that tool counts the completion as
right. They score bare text: the stop strings that some of these tools give to generation are not applied.

Sources: openai/grade-school-math@3101c7d `dataset.py`; EleutherAI/lm-evaluation-harness@4e7e0d4 `gsm8k.yaml`;
volcengine/verl@b178a3c `reward_score/gsm8k.py`; anshulsawant/llms-11-667@fa0601a `hw12/.../utils.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_MARKED = re.compile(r"#### (-?[0-9.,]+)")
_LM_EVAL_NUMBER = re.compile(r"(-?[$0-9.,]{2,})|(-?[0-9]+)")
_LM_EVAL_IGNORED = re.compile(r",|\$")
_VERL_NUMBER = re.compile(r"-?[0-9.,]+")
_STUDY_MARKED = re.compile(r"####\s*([\d.,]+)")
_STUDY_NUMBER = re.compile(r"[\d.]+")
_FLOAT = re.compile(r"\d+\.?\d*|\.\d+")
_VERL_TAIL, _STUDY_TOLERANCE = 300, 1e-6


def official(completion: str, gold: str) -> bool:
    """OpenAI's `is_correct`: the first `#### N` with exactly one space, commas removed, equal as text."""
    match, wanted = _MARKED.search(completion), _MARKED.search(f"#### {gold}")
    return bool(match and wanted and match[1].replace(",", "") == wanted[1].replace(",", ""))


def _lm_eval_text(number: str) -> str:
    """lm-eval's exact_match: `regexes_to_ignore` removes commas, `$` and one final dot; `ignore_case`."""
    return re.sub(r"\.$", "", _LM_EVAL_IGNORED.sub("", number)).lower()


def lm_eval_strict(completion: str, gold: str) -> bool:
    """lm-eval `strict-match`: as the official one, without currency and one final dot on both sides."""
    match = _MARKED.search(completion)
    return match is not None and _lm_eval_text(match[1]) == _lm_eval_text(gold)


def lm_eval_flexible(completion: str, gold: str) -> bool:
    """lm-eval `flexible-extract`: the last run of two or more of `$0-9.,`, or else the last integer."""
    found = _LM_EVAL_NUMBER.findall(completion)
    return bool(found) and _lm_eval_text((found[-1][0] or found[-1][1]).strip()) == _lm_eval_text(gold)


def verl_strict(completion: str, gold: str) -> bool:
    """verl's default reward: the last `#### N` in the last 300 characters, without commas, equal as text."""
    found = _MARKED.findall(completion[-_VERL_TAIL:])
    return bool(found) and found[-1].replace(",", "") == gold.replace(",", "")


def verl_flexible(completion: str, gold: str) -> bool:
    """verl's `flexible`: the last run of digits, dots and commas in the last 300 characters."""
    found = _VERL_NUMBER.findall(completion[-_VERL_TAIL:])
    number = next((run for run in reversed(found) if run != "."), None)
    return number is not None and number == gold.replace(",", "")


def original_study(completion: str, gold: str) -> bool:
    """The original study: the first unsigned number after `####`, else the last run of digits and dots.

    Compared as floats within 1e-6, so "-5" is 5, and a sentence-final dot is taken for the number and counts
    as wrong.
    """
    match = _STUDY_MARKED.search(completion)
    runs = [match[1].replace(",", "")] if match else _STUDY_NUMBER.findall(completion)
    wanted = re.fullmatch(rf"-?(?:{_FLOAT.pattern})", gold.replace(",", ""))
    if not runs or wanted is None or _FLOAT.fullmatch(runs[-1]) is None:
        return False
    return abs(float(runs[-1]) - float(wanted[0])) < _STUDY_TOLERANCE


GRADERS: dict[str, Callable[[str, str], bool]] = {
    "official": official,
    "lm-eval-strict": lm_eval_strict,
    "lm-eval-flexible": lm_eval_flexible,
    "verl-strict": verl_strict,
    "verl-flexible": verl_flexible,
    "original-study": original_study,
}
"""By the name that `reckon grade --grader` takes."""
