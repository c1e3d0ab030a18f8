"""The structure of the JSON documents of a run folder, which `records.read_json` checks.

A key that stands here with its type is one that some code reads. Others are left alone, so that a newer
version may add some. Where a key is not required, a reader has its own word for a document without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict


class Entry(TypedDict):
    """What is known of the bytes of one file, or of the first `size` bytes of one that still grows.

    `before` is the sha256 of the summary.json that a manifest's one replaces.
    """

    size: int
    sha256: str
    before: NotRequired[str]


Manifest = dict[str, Entry]
"""MANIFEST.json: relative path -> its entry."""


class Capsule(TypedDict):
    """capsule.json: the run and study folders of an archive, and the entry of each of its files."""

    folders: list[str]
    files: Manifest


Inputs = dict[str, str]
"""inputs.json: name in messages -> sha256."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One pass of one prompt over one split.

    Counts are of completions; `tokens` are all that were drawn for them, of `samples` a problem. `fixed` and
    `broken` are answers that a second pass made right and wrong, None without one. `reads` is how often this
    evaluation opened test, by the ledger.
    """

    split: str
    prompt: str
    prompt_hash: str
    n: int
    strict: int
    flexible: int
    no_answer: int
    truncated: int
    multi_marker: int
    tokens: int
    seconds: float
    decoding: str
    max_new_tokens: int
    predictions: str
    grades: str
    problems: str
    grader: str = ""
    reads: int = 1
    samples: int = 1
    fixed: int | None = None
    broken: int | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """What training took and gave.

    Losses are nats a supervised token; `loss_final` is a mean over the last steps.
    """

    steps: int
    samples: int
    tokens: int
    supervised_tokens: int
    seconds: float
    peak_memory_bytes: int
    parameters: int
    trainable_parameters: int
    learning_rate: float
    flops: float | None = None
    loss_first: float | None = None
    loss_final: float | None = None
    dev_loss_first: float | None = None
    dev_loss_final: float | None = None
    best_step: int | None = None


class Summary(TypedDict):
    """summary.json: what a finished run did.

    One that trained nothing says only what was evaluated, and is a prompt.
    """

    evaluations: list[Evaluation]
    training: NotRequired[Training | None]
    status: NotRequired[str]
    name: NotRequired[str | None]
    method: NotRequired[str | None]
    peft: NotRequired[str | None]
    variant: NotRequired[str | None]
    init: NotRequired[str | None]
    seed: NotRequired[int | None]
    grader: NotRequired[str | None]


class StudyRun(TypedDict):
    """One run of an arm of a study: waiting, done, or for a reason refused or failed."""

    seed: int
    folder: str
    state: str
    reason: NotRequired[str | None]


class StudyArm(TypedDict):
    """One arm of a study: `after` is the arm it starts from, `control_of` the one whose budget it has."""

    name: str
    method: str
    folder: str
    state: str
    rewarded: NotRequired[bool]
    title: NotRequired[str | None]
    reason: NotRequired[str | None]
    after: NotRequired[list[str] | None]
    control_of: NotRequired[str | None]
    runs: NotRequired[list[StudyRun]]


def runs_of(arm: StudyArm) -> list[StudyRun]:
    """The runs of an arm, one a seed; a study.json from before there were seeds names the folder alone."""
    return arm.get("runs") or [{"seed": 0, "folder": arm["folder"], "state": arm["state"]}]


class StudyRecord(TypedDict):
    """study.json: the arms of a study and how far each of them is."""

    name: str
    preset: str
    seed: int
    model: str
    arms: list[StudyArm]
    pairs: list[tuple[str, str]]
    command: NotRequired[str | None]
    price_per_hour: NotRequired[float]
    pass_k: NotRequired[int]
    samples: NotRequired[str]


SEARCHED = "searched-prompt"
"""The prompting arm whose prompt `study.prompt_search` finds on dev."""


class PromptSearch(TypedDict):
    """prompt_search.json: the prompts that a study tried on dev."""

    prompts: int
    completions: int


class DeclaredSuites(TypedDict):
    """suites.json: the further sets that a study declared, by the names of their evaluations."""

    suites: list[str]
    forgetting: list[str]


class Environment(TypedDict):
    """environment.json: what a run ran on. `code` is the hash of the package."""

    versions: dict[str, str]
    commit: NotRequired[str]
    code: NotRequired[str]
    backend: NotRequired[str]


class DataFacts(TypedDict):
    """data.json: what a run learnt from."""

    files: NotRequired[list[dict[str, Any]]]
    sizes: NotRequired[dict[str, int]]
    lengths: NotRequired[dict[str, int]]


class ShownPrompt(TypedDict):
    """prompt.json: the prompt as the model saw it."""

    name: str
    hash: str
    rendered: str
    token_ids: list[int]


class Searched(TypedDict):
    """What the search of one arm found: its best rate, dev share and trial, and every trial.

    `settings` is the digest of the arm's settings without its rate.
    """

    settings: str
    learning_rate: float
    dev: float
    best: str
    tried: list[dict[str, Any]]


class Trial(TypedDict):
    """One trial of a search: its rate, the share of dev that it solved at each evaluation, and what counts.

    `pruned`: it ended early.
    """

    number: int
    learning_rate: float
    dev: float
    pruned: bool
    scores: list[float]


class Search(TypedDict):
    """tune/ARM/search.json of a study: the trials of an arm that have ended; `settings` as in `Searched`."""

    settings: str
    trials: list[Trial]


class TuneRecord(TypedDict):
    """tune/record.json of a study; `digest` is the sha256 of the rest."""

    seed: int
    span: float
    arms: dict[str, Searched]
    digest: str


class Way(TypedDict):
    """One other way to compute the same answers: verdicts and texts that differ, and right answers more."""

    flips: int
    texts: int
    net: int


class Noise(TypedDict):
    """noise.json: what `reckon noise` measured on n problems, by way."""

    split: str
    n: int
    ways: dict[str, Way]


Limits = dict[str, int]
"""limits.json: arm of a study, or hashes of prompt and weights -> tokens that it needs untrained on dev."""


class Seal(TypedDict):
    """The id of an opening of test in the ledger of the problems with this sha256."""

    id: str
    test: str


class Sidecar(TypedDict):
    """What stands beside predictions: settings, the bytes written so far, and of test the opening.

    `maker` are the versions and the code that generated them.
    """

    settings: dict[str, Any]
    seconds: float
    size: int
    sha256: str
    seal: NotRequired[Seal | None]
    usage: NotRequired[dict[str, int]]
    maker: NotRequired[Environment]


class DevLine(TypedDict):
    """A dev evaluation in metrics.jsonl and in a checkpoint: what decides which step is kept."""

    step: int
    dev_loss: float
    dev_strict: int
    dev_flexible: int
    dev_n: int


class State(TypedDict):
    """state.json of a checkpoint: the position of the run, its cost, and what metrics.jsonl held."""

    step: int
    samples: int
    tokens: int
    supervised_tokens: int
    flops: float
    seconds: float
    evaluations: list[DevLine]
    metrics: Entry
