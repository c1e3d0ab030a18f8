"""One dataclass a section.

The text beside a setting is its help; its bounds are checked when a config is built.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from reckoner.algorithms import ALGORITHMS
from reckoner.config.dialect import Dumper

ANSWER_KINDS = ("number", "choice", "span", "number-or-span", "expression")
"""The kinds of answers of `tasks/answers/grading.py`; a test holds both equal."""

ANSWER_FORMATS = ("####", "boxed", "answer-is", "last")
"""How a prompt asks for the answer to be marked; see `tasks/answers/marking.py`."""

OPTIMIZERS = ("adamw", "muon", "adamw_8bit", "schedule_free_adamw")
"""The names registered in `engine/optim.py`, which needs torch, so that a test holds both equal."""

FIELD_SLOT = re.compile(r"\{([^{}]+)\}")
"""A field in a template of fields, as `{body} {question}`."""

ENGINES, ROLLOUT_ENGINES = ("local", "ray", "slurm"), ("own", "process", "vllm")
"""What runs the arms of a study, in `study/runner.py`, and what draws completions, in `engine/serve.py`."""


def setting(
    default: Any,
    doc: str,
    choices: Sequence[str] = (),
    low: float | None = None,
    high: float | None = None,
    identity: bool = True,
) -> Any:
    """A dataclass field with its help text and bounds (inclusive); mutable defaults are copied.

    `identity=False` marks a setting that may change while a run goes on: it decides no result.
    """
    metadata = {"doc": doc, "choices": tuple(choices), "low": low, "high": high, "identity": identity}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class ModelConfig:
    model_name_or_path: str = setting(
        "nano", "'nano' (embedded), 'smollm2-135m', a folder, a run folder, a GGUF file, or a Hub id"
    )
    revision: str = setting("", "Hub revision; pin a commit hash for a study")
    dtype: str = setting(
        "auto",
        "dtype of the computation; a CPU with bfloat16 instructions is twice as fast in bfloat16",
        ["auto", "float32", "bfloat16"],
    )
    train_dtype: str = setting(
        "float32", "full weights in training; bfloat16 needs train.optim=adamw_8bit", ["float32", "bfloat16"]
    )
    device: str = setting("auto", "where to run", ["auto", "cpu", "cuda"])
    attn_implementation: str = setting("sdpa", "attention", ["sdpa", "eager", "flash_attention_2"])
    gradient_checkpointing: bool = setting(False, "recompute activations in backward passes (non-reentrant)")


@dataclass
class PeftConfig:
    method: str = setting("none", "full weights, LoRA, or LoRA over 4-bit weights", ["none", "lora", "qlora"])
    lora_r: int = setting(16, "rank", low=1)
    lora_alpha: int = setting(32, "scale; the update is alpha / r * B A", low=1)
    lora_dropout: float = setting(0.0, "dropout before A; it nearly doubles training time", low=0, high=0.99)
    lora_target_modules: list[str] = setting(
        ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "names of the adapted projections",
    )
    variant: str = setting(
        "lora",
        "rslora scales by alpha / sqrt(r), dora learns the length of each row apart, pissa starts from the "
        "largest singular values of the weights",
        ["lora", "rslora", "dora", "pissa"],
    )
    layers: list[str] = setting([], "numbers of the layers that get adapters; empty: all")
    lora_bias: str = setting("none", "which biases train", ["none", "all", "lora_only"])


@dataclass
class DataConfig:
    source: str = setting("nano", "embedded problems, or data from the Hub", ["nano", "hub", "gsm8k"])
    suite: str = setting(
        "", "a known data set (see `reckon data suites`), or a .yaml file that describes one"
    )
    path: str = setting("", "train file, or folder of files, instead of source; empty: embedded or Hub")
    test_path: str = setting("", "test file, when `path` is a single file or there are only test problems")
    hub_name: str = setting("openai/gsm8k", "data set on the Hub, used when source=hub and path is empty")
    hub_config: str = setting("", "its configuration; empty: the variant, or the only one")
    hub_revision: str = setting("", "its revision; pin a commit hash for a study")
    hub_train_split: str = setting("train", "its split to train on, from which dev is cut; empty: none")
    hub_test_split: str = setting("test", "its split to test on; empty: none")
    local_files_only: bool = setting(
        False,
        "take hub_name from this machine's cache and fetch nothing; on where a run folder names it",
        identity=False,
    )
    variant: str = setting("main", "which solutions to learn", ["main", "socratic"])
    question_field: str = setting(
        "question", "field of the question: a name, a path (a.b), or a template ('{body} {question}')"
    )
    solution_field: str = setting("answer", "field of the solution, likewise; empty: there is none")
    gold_field: str = setting("", "field of the gold answer, where the solution does not hold it")
    gold_pattern: str = setting(
        "", "regular expression whose group 1 is the gold, or number-and-unit, answer-is, boxed; empty: all"
    )
    decimal: str = setting(
        "auto",
        "sign before decimals; comma swaps it with the point; auto: a point, refused where most golds look "
        "like 1.000",
        ["auto", "point", "comma"],
    )
    dev_size: float = setting(500.0, "problems cut from train by hash, or a fraction below 1", low=0)
    nano_omitted_first_steps: float = setting(
        0.0,
        "share of the embedded train solutions that omit their first step, a defect of known size",
        low=0,
        high=0.66,
    )
    max_train_samples: int = setting(0, "use only this many train problems (0: all)", low=0)
    max_test_samples: int = setting(0, "evaluate only this many test problems (0: all)", low=0)


@dataclass
class TaskConfig:
    answer_kind: str = setting("number", "what a right answer is", ANSWER_KINDS)
    choices_field: str = setting("", "field of the options of a multiple-choice question, or '{A}{B}{C}'")
    more_golds_field: str = setting("", "field of further right answers (spans)")
    id_field: str = setting("id", "field of a problem's id, or '{set}-{number}'; else its question's hash")
    category_field: str = setting("category", "field of the kind of problem, where there is one")
    template_field: str = setting("", "field that names the problems made from one original")
    columns: str = setting(
        "", "names of the columns of a CSV or TSV file without a header, as 'question,answer'"
    )
    records: str = setting("", "where the list of records stands in a JSON or XML document, as 'body.items'")
    repeated: str = setting("refuse", "test questions that stand twice", ["refuse", "keep"])


@dataclass
class PromptConfig:
    template: str = setting("Question: {question}\nAnswer:", "plain prompt; must not end in white space")
    instruction: str = setting("", "put before the question (folded into the user turn of a chat)")
    answer_format: str = setting(
        "####",
        "how the answer is marked: #### X, \\boxed{X}, 'The answer is X.', or just last",
        ANSWER_FORMATS,
    )
    shots: int = setting(0, "worked examples before the question", low=0, high=8)
    system: str = setting("", "system message of a chat, where its template knows one")
    chat_template: str = setting("auto", "auto: on where the tokenizer has one", ["auto", "on", "off"])
    chat_template_kwargs: dict[str, Any] = setting({}, "switches of a template, as {enable_thinking: false}")


@dataclass
class TrainConfig:
    learning_rate: float = setting(1e-5, "peak learning rate", low=1e-9)
    num_train_epochs: float = setting(1.0, "passes over the training problems", low=0)
    per_device_train_batch_size: int = setting(8, "sequences in one forward pass", low=1)
    gradient_accumulation_steps: int = setting(2, "forward passes in one optimizer step", low=1)
    max_tflops: float = setting(
        0.0,
        "10^12 floating-point operations to spend: decides the epochs of sft, ends other methods (0: none)",
        low=0,
    )
    max_length: int = setting(1024, "longest prompt + solution in tokens; longer is refused, not cut", low=2)
    drop_long: bool = setting(False, "leave out (and list) problems over max_length instead of refusing")
    optim: str = setting("adamw", "optimizer", OPTIMIZERS)
    adam_beta2: float = setting(0.999, "second-moment decay", low=0, high=0.999999)
    weight_decay: float = setting(0.0, "decoupled weight decay, matrices only", low=0)
    max_grad_norm: float = setting(1.0, "clip the gradient norm to this (0: never)", low=0)
    lr_scheduler_type: str = setting(
        "cosine_with_min_lr", "schedule", ["cosine_with_min_lr", "linear", "constant"]
    )
    min_lr_rate: float = setting(0.1, "floor of cosine_with_min_lr, as a share of the peak", low=0, high=1)
    warmup_ratio: float = setting(0.03, "share of the steps spent warming up", low=0, high=1)
    eval_steps: int = setting(0, "dev loss and dev exact match every N steps (0: once an epoch)", low=0)
    early_stopping_patience: int = setting(0, "stop after N evaluations without gain (0: never)", low=0)


@dataclass
class RolloutConfig:
    num_prompts: int = setting(64, "new prompts in each step (in rejection: in each round)", low=1)
    num_generations: int = setting(8, "completions a prompt; in grpo they are the group", low=1)
    max_steps: int = setting(100, "steps: generate, reward, update (in rejection: rounds)", low=1)
    num_mini_batches: int = setting(2, "optimizer updates in one pass over a step's completions", low=1)
    num_iterations: int = setting(1, "passes over a step's completions", low=1)
    temperature: float = setting(1.0, "of sampling and scoring alike; no top-k and no top-p", low=0.01)
    max_completion_length: int = setting(0, "longest completion (0: that of the evaluation)", low=0)
    reward: str = setting(
        "correct",
        "what is paid: correct; coin, format or majority (controls); or package.module:function, a reward of "
        "your own",
    )
    reward_timeout: float = setting(10.0, "seconds that one call of a reward of your own may take", low=0.001)
    reward_weights: dict[str, float] = setting(
        {"format": 0.0, "arithmetic": 0.0},
        "weight of each part of the reward beside correctness: format (one marker with a number behind it, "
        "right or wrong), arithmetic (share of right <<...>> annotations), or another of tasks/rewards.py",
    )
    missing_eos_penalty: float = setting(0.0, "taken off rewards of completions cut by their length", low=0)
    overlong_tokens: int = setting(
        0, "last tokens before the length limit over which rewards fall by up to 1 (0: none)", low=0
    )
    mask_truncated_completions: bool = setting(False, "leave completions cut by their length out of the loss")
    pass_rate: list[float] = setting(
        [], "least and most pass rate of the problems that are drawn, as [0.1, 0.9]; empty: all"
    )
    pass_rate_samples: int = setting(8, "completions of each train problem that give its pass rate", low=1)
    pass_rate_map: str = setting("", "run whose pass rates are used; empty: draw them from the start policy")
    order: str = setting(
        "shuffle", "order of the problems: at random, or by pass rate", ["shuffle", "easy_first"]
    )
    kl_samples: int = setting(
        64,
        "completions a step on which the KL to the start is measured, where the loss needs none (0: never)",
        low=0,
    )
    patience: int = setting(5, "stop after N steps in a row that teach nothing (0: never)", low=0)
    engine: str = setting("own", "what draws: this process, one beside it, or vLLM", ROLLOUT_ENGINES)


@dataclass
class VllmConfig:
    gpu_memory_utilization: float = setting(0.4, "share of a GPU's memory that it takes", low=0.01, high=1)
    tensor_parallel_size: int = setting(1, "GPUs over which it divides the model", low=1)
    sleep: bool = setting(False, "it frees its GPU memory while the policy learns")


@dataclass
class PPOConfig:
    gamma: float = setting(1.0, "discount of later rewards", low=0, high=1)
    lam: float = setting(1.0, "lambda of GAE; 1: reward-to-go minus value, 0: one-step error", low=0, high=1)
    epsilon: float = setting(0.2, "the ratio is clipped at 1 - epsilon", low=0, high=1)
    epsilon_high: float = setting(0.2, "and at 1 + epsilon_high", low=0)
    whiten_advantages: bool = setting(True, "mean 0 and variance 1 over the tokens of a step")
    critic: str = setting(
        "trunk", "its own copy of the policy, or a head on the policy's detached features", ["trunk", "head"]
    )
    critic_learning_rate: float = setting(1e-5, "its peak learning rate, about ten times the policy's", low=0)
    cliprange_value: float = setting(
        0.5, "values move at most this far from the old ones before the loss is clipped (0: never)", low=0
    )
    value_warmup_steps: int = setting(0, "first steps, in which only the critic learns", low=0)
    kl_coef: float = setting(0.0, "weight of the KL to the policy it starts from", low=0)
    kl_in: str = setting("reward", "where the KL is charged", ["reward", "loss"])
    kl_estimator: str = setting("k1", "Schulman's estimator of the KL", ["k1", "k2", "k3"])
    entropy_coef: float = setting(0.0, "weight of the entropy bonus", low=0)


@dataclass
class GRPOConfig:
    advantage: str = setting(
        "mean",
        "r - mean of the group, that over the group's std, r - mean of the others, or over the std of all",
        ["mean", "std", "rloo", "reinforce++", "reinforce++_baseline"],
    )
    objective: str = setting(
        "clip",
        "clipped ratio of each token, of each completion, or a clipped weight without gradient",
        ["clip", "gspo", "cispo"],
    )
    loss_type: str = setting(
        "dr_grpo",
        "sum over a constant, mean of sequence means, or mean over tokens",
        ["dr_grpo", "grpo", "dapo"],
    )
    epsilon: float = setting(0.2, "the ratio is clipped at 1 - epsilon", low=0, high=1)
    epsilon_high: float = setting(0.28, "and at 1 + epsilon_high (clip-higher)", low=0)
    max_refills: int = setting(0, "times a step draws new prompts for groups of equal rewards", low=0)
    kl_coef: float = setting(0.0, "weight of the KL to the policy it starts from, in the loss", low=0)
    kl_estimator: str = setting("k3", "Schulman's estimator of the KL", ["k1", "k2", "k3"])


@dataclass
class RejectionConfig:
    min_reward: float = setting(1.0, "least reward of a completion that is learned")
    check_steps: bool = setting(True, "leave out completions with a calculation that is wrong")
    max_per_problem: int = setting(
        4, "most completions of one problem that are learned in a round, each with other calculations", low=1
    )


@dataclass
class DPOConfig:
    loss: str = setting("dpo", "log-sigmoid of the margin, or its squared error", ["dpo", "ipo"])
    beta: float = setting(0.1, "how closely the policy keeps to the one it starts from", low=1e-6)
    length_normalized: bool = setting(False, "take log-probs as means over the tokens of a completion")
    max_pairs: int = setting(4, "most pairs of one prompt in a step", low=1)


@dataclass
class DistillConfig:
    teacher: str = setting(
        "",
        "model that judges each token: a run, a folder or a Hub id of the same vocabulary; with endpoint.url "
        "the name of a server's model",
    )
    revision: str = setting("", "its Hub revision")


@dataclass
class EvalConfig:
    split: str = setting("dev", "which problems; test only on explicit request", ["dev", "test"])
    max_new_tokens: int = setting(
        0, "longest completion (0: 99.5th percentile of train solutions, or what dev needs)", low=0
    )
    batch_size: int = setting(256, "completions generated at once", low=1)
    num_samples: int = setting(1, "completions a problem", low=1)
    temperature: float = setting(0.0, "0 is greedy", low=0)
    top_k: int = setting(0, "sample among the k most likely (0: all)", low=0)
    top_p: float = setting(1.0, "sample within this probability mass", low=0.000001, high=1)
    calculator: bool = setting(
        False, "compute `<<48/2=` exactly and force the result, in evaluations alone, never in training"
    )
    select: str = setting(
        "none",
        "which of several samples counts: each, the answer of most, of most probability, or the likeliest",
        ["none", "majority", "weighted", "best"],
    )
    refine: str = setting(
        "", "what asks the model to check and correct each answer in a second pass; empty: no such pass"
    )
    engine: str = setting("auto", "native KV engine, or transformers", ["auto", "native", "transformers"])
    dev_samples: int = setting(200, "dev problems in each evaluation during training (0: all)", low=0)


@dataclass
class EndpointConfig:
    url: str = setting("", "address of an OpenAI-compatible server, as http://localhost:8000/v1")
    key_env: str = setting("", "environment variable that holds the key; empty: no key", identity=False)
    concurrency: int = setting(8, "requests at once", low=1, high=1024, identity=False)
    requests_per_minute: float = setting(0, "at most this many a minute (0: any)", low=0, identity=False)
    max_retries: int = setting(6, "times a failed request is sent again", low=0, high=100, identity=False)
    timeout: float = setting(300, "seconds that a whole answer may take", low=0.001, identity=False)
    price_prompt: float = setting(0, "price of a million prompt tokens", low=0, identity=False)
    price_completion: float = setting(0, "price of a million completion tokens", low=0, identity=False)
    extra: dict[str, Any] = setting({}, "further fields of each request; null leaves one of ours out")


@dataclass
class RunConfig:
    output_dir: str = setting("", "run folder; empty: runs/ and a name of verb and preset", identity=False)
    seed: int = setting(0, "seed of every random draw", low=0)
    logging_steps: int = setting(1, "write metrics every N steps", low=1, identity=False)
    save_steps: int = setting(100, "checkpoint every N steps (0: only before dev)", low=0, identity=False)
    save_total_limit: int = setting(2, "checkpoints kept besides the best", low=1, identity=False)
    threads: int = setting(0, "CPU threads (0: all cores)", low=0, high=1024)
    shard: bool = setting(False, "divide the weights over torchrun's processes (FSDP2)", identity=False)
    report_to: str | list[str] = setting(
        [], "trackers that are sent the curves", ["wandb", "tensorboard", "mlflow", "trackio"], identity=False
    )


@dataclass
class ArmConfig:
    title: str = setting("", "label in tables and figures; empty: the arm's name")
    method: str = setting("prompt", "what the arm does", ["prompt", *ALGORITHMS])
    init: str = setting("", "arm whose model this one starts from; empty: the base model")
    control_of: str = setting(
        "",
        "arm of reinforcement learning that this one is a control of; sft and rejection spend its operations",
    )
    set: dict[str, Any] = setting({}, "settings of this arm, as a nested mapping of sections")
    control_rates: dict[str, float] = setting(
        {}, "learning rates of its controls more-sft and rejection, by name; not given: that of the first SFT"
    )


@dataclass
class StudyConfig:
    name: str = setting("", "name of the study; empty: the preset's")
    arms: dict[str, ArmConfig] = setting({}, "the arms by name, run in order of dependence")
    discordance: float = setting(
        0.2, "assumed before the run: share of the problems on which two runs disagree", low=0.001, high=1
    )
    seed_std: float = setting(
        0.01, "assumed before the run: standard deviation of an arm's accuracy between seeds", low=0, high=1
    )
    suites: list[str] = setting(
        [], "further sets on whose test every arm is evaluated (see `reckon data suites`)", identity=False
    )
    forgetting: list[str] = setting([], "sets that show what training costs elsewhere", identity=False)
    engine: str = setting(
        "local", "what runs the arms: this machine, or a cluster of Ray or Slurm", ENGINES, identity=False
    )
    cluster: dict[str, Any] = setting(
        {},
        "options of ray.init (address, as auto or local), or of submitit's executor (slurm_partition)",
        identity=False,
    )
    jobs: int = setting(
        1,
        "arms or trials at once, each on cores or a GPU of its own (0: one a core, or one a GPU)",
        low=0,
        identity=False,
    )
    pairs: list[str] = setting(
        [], "comparisons a:b; empty: trained arms with best prompt, start and siblings"
    )
    prompt_search: int = setting(
        0,
        "prompts that the untrained model is tried with on dev, for a baseline at its best (0: no search)",
        low=0,
    )
    pass_k: int = setting(
        0,
        "samples a problem, on part of dev, by start and end of each reinforcement learning: sharpened or "
        "expanded? (0: none; 32 on a laptop, 256 on a GPU)",
        low=0,
        high=4096,
        identity=False,
    )
    pass_k_problems: int = setting(
        100, "problems for study.pass_k, the last ones of dev (0: all)", low=0, identity=False
    )
    price_per_hour: float = setting(0.0, "of this machine, in any currency, for the cost of arms", low=0)
    controls: bool = setting(
        False,
        "for each RL arm, from its start: more SFT and rejection sampling for as many operations, and the "
        "rewards coin, format and majority, the last where a problem has several samples (PPO draws one)",
    )
    seeds: int | list[int] = setting(
        1,
        "runs of each trained arm, with seeds from run.seed on, or a list of seeds; 3 speak of a method",
    )
    tune: int = setting(
        0,
        "trials on dev for the learning rate of each trained arm, before its seeds (0: none)",
        low=0,
        high=1000,
    )


@dataclass
class Config:
    """The whole resolved configuration.

    Sections are plain dataclasses; a layer is a nested mapping of the same shape.
    """

    preset: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    peft: PeftConfig = field(default_factory=PeftConfig)
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    vllm: VllmConfig = field(default_factory=VllmConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    grpo: GRPOConfig = field(default_factory=GRPOConfig)
    rejection: RejectionConfig = field(default_factory=RejectionConfig)
    dpo: DPOConfig = field(default_factory=DPOConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    endpoint: EndpointConfig = field(default_factory=EndpointConfig)
    run: RunConfig = field(default_factory=RunConfig)
    study: StudyConfig = field(default_factory=StudyConfig)

    def problem_source(self) -> dict[str, Any]:
        """Where problems come from and what a row becomes: sections `data` and `task`, by setting."""
        return dataclasses.asdict(self.data) | dataclasses.asdict(self.task)

    def to_dict(self) -> dict[str, Any]:
        """The nested mapping, which `build_config` takes back unchanged."""
        return dataclasses.asdict(self)

    def to_yaml(self) -> str:
        return yaml.dump(self.to_dict(), Dumper=Dumper, sort_keys=False, allow_unicode=False, width=100)

    def digest(self) -> str:
        """sha256 (16 hex digits) of every setting that counts for a run's identity."""
        value = self.to_dict()
        for section, _, name in (key.partition(".") for key in NO_IDENTITY):
            del value[section][name]
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


NO_IDENTITY = frozenset(
    f"{section.name}.{f.name}"
    for section in dataclasses.fields(Config)
    if section.name != "preset"
    for f in dataclasses.fields(section.default_factory)  # type: ignore[arg-type]
    if not f.metadata["identity"]
)
"""Settings that do not count for a run's identity, as section.name."""
