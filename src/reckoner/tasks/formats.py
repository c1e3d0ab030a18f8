"""Rows of a file or a Hub table, read strictly: one faulty row stops everything and is named."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import zip_longest
from typing import Any

from reckoner.config.schema import FIELD_SLOT
from reckoner.errors import InputError
from reckoner.machine import TOGETHER, OverLimit, bounded
from reckoner.nano import question_hash
from reckoner.runs.records import Problem
from reckoner.tasks.answers import choice, span
from reckoner.tasks.answers.grading import gold_text, kind_for, kind_of
from reckoner.tasks.answers.marking import MARKER
from reckoner.tasks.answers.number import extract_gold, gold_number, western_digits
from reckoner.tasks.decimals import GoldStyle, with_points
from reckoner.tasks.gold_patterns import NAMED, plain_number
from reckoner.tasks.tables import Rows, pick

_SURROGATE = re.compile("[\ud800-\udfff]")
_OPTION_LABEL = re.compile(r"\s*+\(?([A-Za-z](?=\s?[).:])|[1-9](?=\s?\)|\.\s))\s?[).:]\s*+")
_OPTIONS = re.compile(r"(?:^|,)\s*+([a-j])\s?\)\s?")


@dataclass(frozen=True)
class RowFormat:
    """How a row is read; the names are those of section `data`."""

    question_field: str = "question"
    solution_field: str = "answer"
    gold_field: str = ""
    more_golds_field: str = ""
    gold_pattern: str = ""
    answer_kind: str = "number"
    choices_field: str = ""
    id_field: str = "id"
    category_field: str = "category"
    template_field: str = ""
    repeated: str = "refuse"
    decimal: str = "auto"


@dataclass(frozen=True)
class Options:
    """The texts of the options of a question, and their labels in the data."""

    texts: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def letter_of(self, gold: Any) -> str:
        """Our letter for a gold that is a label, an index from 0, or the text of an option."""
        text = str(gold).strip()
        at = [i for i, own in enumerate(self.labels) if text.casefold() == own.casefold()]
        if not at and isinstance(gold, int) and 0 <= gold < len(self.texts):
            return choice.LETTERS[gold]
        at = at or [i for i, own in enumerate(self.texts) if text == own]
        return choice.LETTERS[at[0]] if len(at) == 1 else text


NO_OPTIONS = Options()


def read_rows(
    rows: Rows, form: RowFormat, where: str, *, split: str, variant: str, source: str
) -> dict[str, Problem]:
    """The problems by the name of their row, in order.

    A problem's id is the row's own `id_field`, or made from the split and the question, so that it does not
    depend on the variant or on the order. A question may have several solutions in train, and with
    `repeated=keep` stand twice in test; ids then end in `-2`, `-3`, ... A gold of `gold_field`, or of
    `gold_pattern` (its last match counts), is added as the line `#### GOLD` to a solution without a marker:
    a model must learn to write it, and a gold solution must be graded correct. Options are shown under their
    question. With `decimal=comma`, points and commas between digits change places in every text. Raises
    `InputError` with one line for each kind of fault, naming `where`, the first row and where else.
    """
    pattern, faults = _compiled(form.gold_pattern), _Faults()
    found: dict[str, Problem] = {}
    solutions: dict[str, dict[str, Problem]] = defaultdict(dict)
    places: dict[str, str] = {}
    style = GoldStyle()
    for place, row in rows:
        if isinstance(row, InputError):
            faults.add(place, _Fault("line", str(row)))
            continue
        question, options = "", NO_OPTIONS
        with faults.at(place):
            question, options = _question(row, form)
        with faults.at(place):
            gold, solution = _gold(row, form, pattern, options)
            style.add(gold)
            kind = kind_for(gold, form.answer_kind)
            _check_gold(gold, kind, options.texts)
        if place in faults.places:
            continue
        key = question_hash(question)
        known = solutions[key]
        name = _label(row, form.id_field) or f"{split}-{key[:12]}"
        name += f"-{len(known) + 1}" if known else ""
        facts: dict[str, Any] = {
            "category": _label(row, form.category_field),
            "template": _label(row, form.template_field),
            "unseen": row.get("unseen") is True,
        }
        facts |= {"kind": kind, "choices": options.texts, "steps": _lines_before_marker(solution)}
        problem = Problem(name, question, solution, gold, variant, source, **facts)
        with faults.at(place):
            _check_repeated(problem, known, places, split, form.repeated)
            known[solution if split == "train" else name] = found[place] = problem
            places[name] = place
    doubt = style.doubt("data.decimal=")
    if form.decimal == "auto" and form.answer_kind == "number" and doubt:
        faults.messages["style"] = doubt
    if lines := list(faults.lines(where)):
        raise InputError("\n".join(lines))
    if not found:
        raise InputError(f"{where}: holds no problems")
    return found


def refuse_stops(problems: Iterable[Problem], stops: Sequence[str], what: str = "training solutions") -> None:
    """Refuse solutions that hold one of `stops`: generation would end there, before the answer.

    `what` they are is said. Raises `InputError`.
    """
    cut = [(problem, stop) for problem in problems for stop in stops if stop in problem.solution]
    if cut:
        (problem, stop), count = cut[0], len({problem.id for problem, _ in cut})
        line = problem.solution.partition(stop)[2].partition("\n")[0]
        raise InputError(
            f"{count:,} {what} hold a string at which generation stops, so that their answers "
            "would be cut "
            f"(problem {problem.id}: {(stop.strip() + line)[:80]!r}). Write these lines in another way; "
            "those that begin with Question:, Q: or Problem: are fine with prompt.chat_template=on"
        )


def _question(row: Mapping[str, Any], form: RowFormat) -> tuple[str, Options]:
    """The question, with its options below it where there are any."""
    question = _text(row, form, "question_field")
    if not form.choices_field:
        return question, NO_OPTIONS
    options = _options(row, form)
    return "\n".join([question.rstrip(), *map("({}) {}".format, choice.LETTERS, options.texts)]), options


def _lines_before_marker(solution: str) -> int:
    return sum(bool(line.strip()) for line in solution.rpartition(MARKER)[0].split("\n"))


def _check_repeated(
    problem: Problem, known: Mapping[str, Problem], places: Mapping[str, str], split: str, repeated: str
) -> None:
    """Refuse a question that was there before, unless it is another solution in train with the same gold."""
    if problem.id in places:
        raise _Fault("id twice", f"the same id {problem.id!r} as {places[problem.id]}. Ids must differ")
    if not known or (split == "test" and repeated == "keep"):
        return
    first = next(iter(known.values()))
    if split != "train" or problem.solution in known:
        where = places[known.get(problem.solution, first).id]
        raise _Fault("question twice", f"the same question as {where}. Keep one")
    if gold_key(problem) != gold_key(first):
        raise _Fault(
            "two golds", f"the same question as {places[first.id]} with gold {problem.gold}, not {first.gold}"
        )


def gold_key(problem: Problem) -> Fraction | str:
    """What must be equal in two golds of one question."""
    return gold_number(problem.gold) if problem.kind == "number" else problem.gold


def _gold(
    row: Mapping[str, Any],
    form: RowFormat,
    pattern: re.Pattern[str] | None,
    options: Options,
) -> tuple[str, str]:
    """The gold, and the solution with its marker line."""
    solution = _text(row, form, "solution_field") if form.solution_field else ""
    if form.gold_field:
        gold = _own_gold(row, form, options)
        if pattern is not None:
            gold = _matched(pattern, gold, form, f'field "{form.gold_field}"')
    elif pattern is not None:
        gold = _matched(pattern, solution, form, "the solution")
    elif MARKER in solution:
        return extract_gold(solution), solution
    else:
        raise _Fault(
            "no marker",
            f"no {MARKER} before the gold. Mark it so, or say where it stands with data.gold_field or "
            "data.gold_pattern",
        )
    shown = gold_text(gold, form.answer_kind)
    return gold, solution if MARKER in solution else f"{solution.rstrip()}\n{MARKER} {shown}".lstrip("\n")


def _own_gold(row: Mapping[str, Any], form: RowFormat, options: Options) -> str:
    """The gold of a field of its own, in the form of its kind."""
    value = _value(row, form, "gold_field")
    if form.answer_kind == "span":
        more = _value(row, form, "more_golds_field") if form.more_golds_field else None
        try:
            return span.encode_gold(value, more)
        except InputError as error:
            raise _Fault(f"no span {error}", f'field "{form.gold_field}": {error}') from error
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if form.answer_kind == "choice":
        return options.letter_of(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if number:
        return str(value)
    text = _text(row, form, "gold_field").strip()
    return western_digits(text) if form.answer_kind.startswith("number") else text


def _matched(pattern: re.Pattern[str], text: str, form: RowFormat, where: str) -> str:
    """What `pattern` finds: all of it where answers may be sets, else the last match."""
    try:
        with bounded(together=TOGETHER):
            matches = list(pattern.finditer(text))
    except OverLimit as error:
        raise InputError(f"data.gold_pattern={pattern.pattern}: {error}") from error
    found = [(match[1] or "").strip() for match in matches] or [""]
    gold = "; ".join(filter(None, found)) if form.answer_kind.endswith("span") else found[-1]
    if not gold:
        named = form.gold_pattern in NAMED and f" ({form.gold_pattern}): {text[-80:]!r}"
        raise _Fault("no match", f"data.gold_pattern finds no gold in {where}{named or ''}")
    return plain_number(gold) if form.gold_pattern in NAMED else gold


def _check_gold(gold: str, kind: str, choices: Sequence[str]) -> None:
    try:
        kind_of(kind).check(gold, choices)
    except InputError as error:
        raise _Fault("outside its kind", str(error)) from error


def _options(row: Mapping[str, Any], form: RowFormat) -> Options:
    """The options of a row: a list of texts or of `{label, text}`, two lists under `label` and `text`, one
    text as `a ) 38 , b ) 27`, or the fields of a template as `{A}{B}{C}`. A label in front of a text is taken
    off where all have one, in order from A or 1: those of `1.5` and `2 : 3` are parts of numbers."""
    value: Any
    if "{" in form.choices_field:
        names = FIELD_SLOT.findall(form.choices_field)
        value = [_value(row, replace(form, choices_field=name), "choices_field") for name in names]
    else:
        value = _value(row, form, "choices_field")
    if isinstance(value, str):
        _, *parts = _OPTIONS.split(value)
        value = {"label": parts[::2], "text": [text.strip(" ,") for text in parts[1::2]]}
    if isinstance(value, Mapping) and all(isinstance(value.get(key), list) for key in ("label", "text")):
        pairs = zip_longest(value["label"], value["text"])
        value = [{"label": label, "text": text} for label, text in pairs]
    if not isinstance(value, list) or not 2 <= len(value) <= len(choice.LETTERS):
        raise _Fault("no options", f'field "{form.choices_field}" holds no list of two to 26 options')
    if any(None in (one.get("label"), one.get("text")) for one in value if isinstance(one, Mapping)):
        raise _Fault("half an option", f'field "{form.choices_field}" holds an option without label or text')
    texts = [str(one["text"] if isinstance(one, Mapping) else one).strip() for one in value]
    found = [match for match in map(_OPTION_LABEL.match, texts) if match]
    before = "".join(match[1].upper() for match in found)
    if len(before) == len(texts) and (choice.LETTERS.startswith(before) or "123456789".startswith(before)):
        texts = [text[match.end() :] for text, match in zip(texts, found, strict=True)]
    else:
        before = choice.LETTERS
    labels = [str(one["label"]) for one in value if isinstance(one, Mapping)] or list(before)
    return Options(tuple(texts), tuple(labels[: len(texts)]))


def _label(row: Mapping[str, Any], field: str) -> str:
    """A field that need not be there, or a template of fields: texts or numbers."""
    if "{" in field:
        parts = {name: _label(row, name) for name in FIELD_SLOT.findall(field)}
        return FIELD_SLOT.sub(lambda slot: parts[slot[1]], field) if all(parts.values()) else ""
    try:
        value = pick(row, field) if field else ""
    except KeyError:
        return ""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""


def _value(row: Mapping[str, Any], form: RowFormat, setting: str) -> Any:
    """The value at the path that a setting names."""
    name = getattr(form, setting)
    try:
        return pick(row, name)
    except KeyError:
        known = (form.question_field, form.solution_field, form.gold_field)
        others = [k for k, v in row.items() if isinstance(v, str) and k not in known]
        guess = others[0] if len(others) == 1 else "NAME"
        raise _Fault(
            f"no {name}",
            f'no field "{name}" (fields: {", ".join(map(str, row)) or "none"}). '
            f"Name it with data.{setting}={guess}",
        ) from None
    except InputError as error:
        raise _Fault(f"turns {name}", f'field "{name}": {error}') from error


def _text(row: Mapping[str, Any], form: RowFormat, setting: str) -> str:
    """A field that must hold text, and text that UTF-8 can write; or a template of fields, which may be
    empty one by one."""
    name = getattr(form, setting)
    if "{" in name:

        def part(slot: re.Match[str]) -> str:
            value = _value(row, replace(form, **{setting: slot[1]}), setting)
            return "" if value is None else str(value)

        value: Any = FIELD_SLOT.sub(part, name).strip()
    else:
        value = _value(row, form, setting)
    if not isinstance(value, str):
        what = type(value).__name__
        raise _Fault(f"no text {name} {what}", f'field "{name}" holds {what}, not text')
    if not value.strip():
        raise _Fault(f"empty {name}", f'field "{name}" is empty')
    if _SURROGATE.search(value):
        raise _Fault(
            f"surrogate {name}", f'field "{name}" holds half of a surrogate pair, which no tokenizer reads'
        )
    return with_points(value, form.decimal)


def _compiled(text: str) -> re.Pattern[str] | None:
    if not text or text in NAMED:
        return NAMED.get(text)
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"data.gold_pattern={text} is not a regular expression ({error})") from error
    if not pattern.groups:
        raise InputError(
            f"data.gold_pattern={text} has no group: put the gold in parentheses, as in 'answer is (.+)'. "
            f"Patterns with a name are {', '.join(NAMED)}"
        )
    return pattern


class _Fault(InputError):
    """What is wrong with one row; faults of one kind are told together."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class _Faults:
    """Faulty rows by kind of fault, with the message of the first."""

    rows: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    messages: dict[str, str] = field(default_factory=dict)
    places: set[str] = field(default_factory=set)

    def add(self, place: str, fault: _Fault) -> None:
        self.rows[fault.kind].append(place)
        self.messages.setdefault(fault.kind, str(fault))
        self.places.add(place)

    @contextmanager
    def at(self, place: str) -> Iterator[None]:
        """Add what is refused inside, and go on."""
        try:
            yield
        except _Fault as fault:
            self.add(place, fault)

    def lines(self, where: str) -> Iterator[str]:
        if "style" in self.messages:
            yield f"{where}: {self.messages['style']}"
        for kind, (first, *others) in self.rows.items():
            more = f" and {len(others) - 5:,} more" if len(others) > 5 else ""
            also = f"; also {', '.join(others[:5])}{more}" if others else ""
            yield f"{where} {first}: {self.messages[kind]}{also}"
