"""The chat formats in use, each with its special tokens and its habits: what is asked and what is taught is
the template's own.

The tokenizers are small and the templates are written for these tests, with the tokens and the logic of the
real ones.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reckoner.config import Config, PromptConfig
from reckoner.errors import InputError
from reckoner.evaluation.evaluate import encode, make_prompt
from reckoner.machine import bounded
from reckoner.models import chat
from reckoner.models.chat import Encoder
from reckoner.runs.records import Problem
from reckoner.tasks.prompts import Prompt, audit_labels

CHATML = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}{{ '<|im_start|>system\nYou "
    "help.<|im_end|>\n' }}"
    "{% endif %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SMOLLM3 = (  # without tools the system turn is never closed
    "{% set mode = '/think' if enable_thinking | default(true) else '/no_think' %}"
    "{% set own = messages[0].content.rstrip() if messages[0].role == 'system' else 'You help.' %}"
    "{{ '<|im_start|>system\n## Metadata\n\nToday Date: ' + strftime_now('%d %B %Y') + '\nReasoning "
    "Mode: ' + mode + '\n\n' + own + '\n\n' }}"
    "{% for m in messages if m.role != 'system' %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and mode == '/no_think' %}{{ '<think>\n\n</think>\n' }}{% endif %}"
    "{{ m.content.lstrip('\n') + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ "
    "'<|im_start|>assistant\n' }}"
    "{% if mode == '/no_think' %}{{ '<think>\n\n</think>\n' }}{% endif %}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') "
    "if strftime_now is defined else 'never' %}{% endif %}"
    "{% set system = messages[0].content | trim if messages[0].role == 'system' else '' %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '\n\n' + system + "
    "'<|eot_id|>' }}"
    "{% for m in messages if m.role != 'system' %}{{ '<|start_header_id|>' + m.role + "
    "'<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' "
    "}}{% endif %}"
)
QWEN3 = (  # the last turn keeps its thinking, earlier ones lose it
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% set parts = m.content.split('</think>') %}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\n' + (parts[0].split('<think>')[-1] if "
    "parts | length > 1 else '').strip('\n') + '\n</think>\n\n' }}{% endif %}"
    "{{ (parts[-1].lstrip('\n') if m.role == 'assistant' else m.content) + '<|im_end|>\n' }}{% endfor "
    "%}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% "
    "endif %}{% endif %}"
)
QWEN35 = QWEN3.replace(
    "'<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
    "'<think>\n\n</think>\n\n' }}{% else %}{{ '<think>\n' }}{% endif %}{% endif %}",
)
R1 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% elif m.role == "
    "'user' %}{{ '<｜User｜>' + m.content }}"
    "{% else %}{{ '<｜Assistant｜>' + m.content.split('</think>')[-1] + '<｜end▁of▁sentence｜>' }}{% endif "
    "%}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not "
    "supported') }}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + "
    "'\n' + m.content | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA3 = (
    "{{ bos_token }}{% set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}{{ '<start_of_turn>' + ('model' if m.role == "
    "'assistant' else m.role) + '\n' "
    "+ (first if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
GEMMA4 = (
    "{{ bos_token }}{% set think = enable_thinking | default(false) %}{% if think or messages[0].role "
    "== 'system' %}"
    "{{ '<|turn>system\n' + ('<|think|>\n' if think else '') + (messages[0].content | trim if "
    "messages[0].role == 'system' else '') + '<turn|>\n' }}{% endif %}"
    "{% for m in messages if m.role != 'system' %}{{ '<|turn>' + ('model' if m.role == 'assistant' "
    "else m.role) + '\n' }}"
    "{{ (m.content.split('<channel|>')[-1] if m.role == 'assistant' else m.content) | trim + "
    "'<turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)
GEMMA4_LARGE = (
    GEMMA4 + "{% if add_generation_prompt and not think %}{{ '<|channel>thought\n<channel|>' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
PHI4 = PHI3.replace("|>\n", "|>")
# the system message stands in the last turn while that is the user's, and is left out of an answered one
MISTRAL = (
    "{{ bos_token }}{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + (messages[0].content + '\n\n' if loop.last and messages[0].role == 'system' else "
    "'') + m.content + '[/INST]' }}"
    "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
)
LLAMA2 = (
    "{% set system = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' if messages[0].role == "
    "'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + "
    "(system if loop.first else '') + m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
OLMO2 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content }}{% if m.role == "
    "'assistant' %}{{ eos_token }}{% endif %}"
    "{% if not loop.last or m.role != 'assistant' %}{{ '\n' }}{% endif %}{% endfor %}{% if "
    "add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
GRANITE = (
    "{% set own = messages[0].content if messages[0].role == 'system' else 'Today is ' + "
    "strftime_now('%B %d, %Y') + '.' %}"
    "{{ '<|start_of_role|>system<|end_of_role|>' + own + '<|end_of_text|>\n' }}{% for m in messages if "
    "m.role != 'system' %}"
    "{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}"
)


@dataclass(frozen=True)
class Format:
    """Named tokens (BOS, EOS, padding), special tokens without a name, other added tokens, template and end
    of a turn.

    `spaces` is how the vocabulary writes them: in bytes, as Gemma or as Llama 2 with one in front. `system`
    says whether the template takes a system message, `plain_bos` whether the tokenizer puts BOS before a
    plain text. `spliced` is what an answer becomes where the answered conversation of the template does not
    go on from the prompt.
    """

    names: tuple[str | None, str, str | None]
    unnamed: tuple[str, ...]
    template: str
    end: str
    spaces: str = "bytes"
    added: tuple[str, ...] = ()
    system: bool = True
    plain_bos: bool = False
    switches: dict[str, Any] = field(default_factory=dict)
    spliced: str = ""


IM = ("<|im_start|>", "<|im_end|>")
THINK = ("<think>", "</think>")
GEMMAS = (("<bos>", "<eos>", "<pad>"), ("<start_of_turn>", "<end_of_turn>"))
PHI = (
    ("<|endoftext|>", "<|endoftext|>", "<|endoftext|>"),
    ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
)
GEMMA4S = (("<bos>", "<eos>", "<pad>"), ("<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>"))
HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
DEEPSEEK = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>")
GRANITES = ("<|end_of_text|>",) * 3, ("<|start_of_role|>", "<|end_of_role|>")
QWENS = ((None, IM[1], "<|endoftext|>"), (IM[0],))
OFF = {"enable_thinking": False}
FORMATS = {
    "smollm2": Format((IM[0], IM[1], IM[1]), ("<|endoftext|>",), CHATML, IM[1]),
    "smollm3": Format((None, IM[1], IM[1]), (IM[0],), SMOLLM3, IM[1], added=THINK),
    "smollm3-off": Format((None, IM[1], IM[1]), (IM[0],), SMOLLM3, IM[1], added=THINK, switches=OFF),
    "llama3.2": Format(
        ("<|begin_of_text|>", "<|eot_id|>", None), HEADERS, LLAMA3, "<|eot_id|>", plain_bos=True
    ),
    "qwen2.5": Format(*QWENS, CHATML, IM[1]),
    "qwen3": Format(*QWENS, QWEN3, IM[1], added=THINK),
    "qwen3-off": Format(*QWENS, QWEN3, IM[1], added=THINK, switches=OFF),
    "qwen3.5": Format(*QWENS, QWEN35, IM[1], added=THINK, spliced="</think>\n\n{}<|im_end|>"),
    "qwen3.5-off": Format(*QWENS, QWEN35, IM[1], added=THINK, switches=OFF),
    "gemma": Format(*GEMMAS, GEMMA, "<end_of_turn>", "gemma", system=False, plain_bos=True),
    "gemma3": Format(*GEMMAS, GEMMA3, "<end_of_turn>", "gemma", plain_bos=True),
    "gemma4": Format(*GEMMA4S, GEMMA4, "<turn|>", "gemma", plain_bos=True),
    "gemma4-large": Format(*GEMMA4S, GEMMA4_LARGE, "<turn|>", "gemma", plain_bos=True, spliced="{}<turn|>"),
    "gemma4-thinks": Format(
        *GEMMA4S, GEMMA4_LARGE, "<turn|>", "gemma", plain_bos=True, switches={"enable_thinking": True}
    ),
    "phi3": Format(("<s>", "<|endoftext|>", "<|endoftext|>"), PHI[1], PHI3, "<|end|>", "llama2"),
    "phi4-mini": Format(*PHI, PHI4, "<|end|>"),
    "mistral": Format(
        ("<s>", "</s>", None),
        ("[INST]", "[/INST]"),
        MISTRAL,
        "</s>",
        "llama2",
        plain_bos=True,
        spliced="{}</s>",
    ),
    "llama2": Format(("<s>", "</s>", None), (), LLAMA2, "</s>", "llama2", plain_bos=True),
    "olmo2": Format(("<|endoftext|>", "<|endoftext|>", "<|pad|>"), (), OLMO2, "<|endoftext|>"),
    "granite": Format(*GRANITES, GRANITE, "<|end_of_text|>"),
    "r1": Format(
        DEEPSEEK,
        (),
        R1,
        DEEPSEEK[1],
        added=("<｜User｜>", "<｜Assistant｜>", *THINK),
        plain_bos=True,
        spliced="</think>\n\n{}<｜end▁of▁sentence｜>",
    ),
}
FIXED = {"'%d %B %Y'": "26 July 2024", "'%d %b %Y'": "26 Jul 2024", "'%B %d, %Y'": "July 26, 2024"}
SHOTS = tuple(
    Problem(f"s{n}", f"What is {n} plus 1?", f"{n}+1 = {n + 1}\n#### {n + 1}", str(n + 1), "main", "test")
    for n in (3, 8)
)
PROBLEMS = [*SHOTS, Problem("p", "  Ann has $5.\n\nHow many?\n", "She has 5.\n#### 5", "5", "main", "test")]
INSTRUCTION = "End with '#### <number>'."


def tokenizer_of(form: Format) -> PreTrainedTokenizerFast:
    """A tokenizer with the tokens of `form` in which runs of line ends are one token, as in all vocabularies
    of size."""
    names = [name for name in dict.fromkeys(form.names) if name]
    inner = Tokenizer(models.BPE(byte_fallback=form.spaces != "bytes", unk_token=None))
    if form.spaces == "bytes":
        words = Regex(r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(words, "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        inner.decoder = decoders.ByteLevel()
    else:
        front = [normalizers.Prepend("▁")] * (form.spaces == "llama2")
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(r"\d|\n+"), "isolated"),
                pre_tokenizers.Split("▁", "merged_with_next"),
            ]
        )
        inner.normalizer = normalizers.Sequence([*front, normalizers.Replace(" ", "▁")])
        inner.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
            + [decoders.Strip(" ", 1, 0)] * (form.spaces == "llama2")
        )
    texts = [f"{p.question} {p.solution}\n\n\n" for p in PROBLEMS] * 3 + [
        INSTRUCTION,
        "You help. Today Date: <think>\n\n</think>",
    ]
    byte = [f"<0x{n:02X}>" for n in range(256)] if form.spaces != "bytes" else []
    inner.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=700,
            special_tokens=[*names, *form.unnamed, *byte],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
            if not byte
            else [chr(n) for n in range(32, 127)],
            show_progress=False,
        ),
    )
    if form.added:
        inner.add_tokens(list(form.added))
    if form.plain_bos:
        bos = names[0]
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, inner.token_to_id(bos))]
        )
    bos, eos, pad = form.names
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos, pad_token=pad)
    tokenizer.chat_template = form.template
    return tokenizer


@pytest.fixture(scope="module")
def encoder_of():
    made: dict[str, Encoder] = {}

    def make(name: str) -> Encoder:
        form = FORMATS[name]
        return made.setdefault(name, Encoder(tokenizer_of(form)))

    return make


def rendered(tokenizer, messages: list[dict[str, str]], reply: bool, **switches: Any) -> list[int]:
    """The ids that transformers gives, with the fixed date written into the template."""
    template = tokenizer.chat_template
    for pattern, text in FIXED.items():
        template = template.replace(f"strftime_now({pattern})", f"'{text}'")
    return tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=reply, **switches
    )["input_ids"]


@pytest.mark.parametrize(
    ("instruction", "system", "shots"),
    [("", "", 0), (INSTRUCTION, "", 2), ("", "Be brief.", 2), (INSTRUCTION, "Be brief.", 0)],
)
@pytest.mark.parametrize("name", FORMATS)
def test_what_is_asked_and_taught_is_the_templates_own(encoder_of, name, instruction, system, shots):
    form, encoder = FORMATS[name], encoder_of(name)
    tokenizer = encoder.tokenizer
    prompt = Prompt(
        instruction=instruction,
        exemplars=SHOTS[:shots],
        chat=True,
        system=system,
        chat_template_kwargs=form.switches,
    )
    if system and not form.system:
        with pytest.raises(InputError, match="System role not supported"):
            encode(encoder, prompt, PROBLEMS)
        return
    examples = encode(encoder, prompt, PROBLEMS)
    end = tokenizer.convert_tokens_to_ids(form.end)
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    assert encoder.turn_end == end
    for problem, example in zip(PROBLEMS, examples, strict=True):
        messages = prompt.render(problem.question)
        assert list(example.prompt_ids) == rendered(tokenizer, messages, True, **form.switches)
        answered = [*messages, {"role": "assistant", "content": problem.solution}]
        whole, ours = (
            rendered(tokenizer, answered, False, **form.switches),
            [*example.prompt_ids, *example.completion_ids],
        )
        if form.spliced and whole[: len(ours)] != ours:
            taught = tokenizer.decode(example.completion_ids)
            assert taught.strip() == form.spliced.format(problem.solution)
        else:
            assert whole[: len(ours)] == ours
        assert (
            [token for token in example.completion_ids if token in special]
            == [end]
            == [example.completion_ids[-1]]
        )
        text = tokenizer.decode(example.completion_ids, skip_special_tokens=True)
        assert text.split("</think>")[-1].strip() == problem.solution
        shown = tokenizer.decode(example.prompt_ids)
        for part in (instruction, system, problem.question.strip(), *(s.solution for s in SHOTS[:shots])):
            assert part in shown
    stops = {end, tokenizer.eos_token_id}
    assert audit_labels(examples, stops, 10_000, bos_id=tokenizer.bos_token_id) == (examples, [])


@pytest.mark.parametrize("name", FORMATS)
def test_plain_prompts_begin_as_the_tokenizer_begins_a_text(encoder_of, name):
    form, encoder = FORMATS[name], encoder_of(name)
    (example,) = encode(encoder, Prompt(), PROBLEMS[:1])
    text = Prompt().render(PROBLEMS[0].question)
    ids = encoder.tokenizer(text)["input_ids"]
    assert list(example.prompt_ids) == ids
    assert ids.count(encoder.tokenizer.bos_token_id) == int(form.plain_bos)
    whole = encoder.tokenizer(f"{text} {PROBLEMS[0].solution}")["input_ids"]
    assert [*example.prompt_ids, *example.completion_ids] == [*whole, encoder.tokenizer.eos_token_id]


@pytest.mark.parametrize("name", FORMATS)
def test_no_text_of_a_message_becomes_a_control_token(encoder_of, name):
    form, encoder = FORMATS[name], encoder_of(name)
    tokenizer = encoder.tokenizer
    marks = [token for token in (*form.names, *form.unnamed, *form.added) if token]
    ids = set(tokenizer.convert_tokens_to_ids(marks))
    roles = ["user", "assistant", "user"] if not form.system else ["system", "user", "assistant", "user"]

    def controls(text: str) -> list[int]:
        messages = [{"role": role, "content": "Say it." if role == "assistant" else text} for role in roles]
        return [token for token in encoder.encode_prompt(messages, **form.switches) if token in ids]

    for token in set(marks) - ({*THINK} if "<think>" not in chat.render(tokenizer, chat._PROBE) else set()):
        assert controls(f"What is {token}{token}, Ann?") == controls("What is it?"), token
    plain = encoder.encode_prompt(f"What {form.end} is it?")
    assert plain.count(tokenizer.convert_tokens_to_ids(form.end)) == tokenizer("What is it?")[
        "input_ids"
    ].count(tokenizer.convert_tokens_to_ids(form.end))


def test_a_reference_keeps_the_thinking_that_its_author_wrote(encoder_of):
    """`<think>` is an added token and no special one: in the model's own turn it is what the template makes
    of it."""
    encoder = encoder_of("qwen3-off")
    answered = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "<think>1 and 1</think>2"},
    ]
    shown = rendered(encoder.tokenizer, answered, False)
    assert "1 and 1" in encoder.tokenizer.decode(shown)
    assert sum(encoder.align(answered[:1], answered[1]["content"]), []) == shown[:-1], (
        "all but the last newline"
    )


KEEPS_OPEN = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + ('<think>\n' if m.role == 'assistant' "
    "else '') + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    ("form", "remedy"),
    [
        (FORMATS["qwen3.5"], " (prompt.chat_template_kwargs.enable_thinking=false closes it in the prompt)"),
        (FORMATS["r1"], ""),
        (replace(FORMATS["qwen3"], template=KEEPS_OPEN), ""),
    ],
    ids=["switch", "none", "open in answered turns"],
)
def test_an_answer_first_closes_the_thinking_block_that_the_prompt_opens_and_that_is_said_once(
    form, remedy, caplog
):
    encoder = Encoder(tokenizer_of(form))
    encoder.tokenizer.name_or_path = "here"
    chat.say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "reckoner"):
        examples = encode(encoder, Prompt(chat=True), PROBLEMS)
    text = encoder.tokenizer.decode([*examples[0].prompt_ids, *examples[0].completion_ids])
    assert text.endswith(f"<think>\n</think>\n\n{PROBLEMS[0].solution}{form.end}")
    assert [record.message for record in caplog.records] == [
        "the chat template of here opens the model's turn with '<think>\\n' and does not close it: "
        f"reference solutions begin with </think>{remedy}"
    ]


OPENED = {
    "<think>\n": "</think>",
    "<seed:think>\n": "</seed:think>",
    "[THINK]": "[/THINK]",
    "<|thinking|>": "<|end_thinking|>",
    "◁think▷": "◁/think▷",
    "<reasoning effort=high>\n": "</reasoning>",
    "<|begin_of_thought|>\n": "<|end_of_thought|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|channel>thought\n": "<channel|>",
}
"""What opens a thinking block, and what closes it."""


def thinking(opened: str, close: str = "", keeps: bool = False) -> Format:
    """Qwen 2.5 with a thinking block in every prompt, which answered turns keep or leave out."""
    template = CHATML.replace("assistant\n' }}", f"assistant\n{opened}' }}}}")
    if keeps:
        template = template.replace(
            "m.content +", f"('{opened}' if m.role == 'assistant' else '') + m.content +"
        )
    return replace(FORMATS["qwen2.5"], template=template, added=(close,) if close else ())


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("opened", OPENED)
def test_no_answer_is_taught_inside_a_thinking_block_whatever_opens_it(opened, keeps):
    problem = Problem("p", "3+1?", "3+1 = 4\n#### 4", "4", "main", "test")
    encoder = Encoder(tokenizer_of(thinking(opened, keeps=keeps)))
    with pytest.raises(InputError, match="nothing says what closes that block.*prompt.chat_template_kwargs"):
        encode(encoder, Prompt(chat=True), [problem])
    encoder = Encoder(tokenizer_of(thinking(opened, OPENED[opened], keeps=keeps)))
    example = encode(encoder, Prompt(chat=True), [problem])[0]
    text = encoder.tokenizer.decode([*example.prompt_ids, *example.completion_ids])
    assert text.endswith(f"assistant\n{opened}{OPENED[opened]}\n\n3+1 = 4\n#### 4<|im_end|>")
    own = replace(problem, solution=f"3 and 1{OPENED[opened]}4\n#### 4")
    if keeps:  # where the author of a solution closes the block, it is closed
        encoder = Encoder(tokenizer_of(thinking(opened, keeps=True)))
        example = encode(encoder, Prompt(chat=True), [own])[0]
        assert encoder.tokenizer.decode(example.completion_ids) == f"{own.solution}<|im_end|>"


@pytest.mark.parametrize("mark", ["<assistant>\n", "<|assistant|>", "<think>\n</think>", "[THINK][/THINK]"])
def test_the_mark_of_a_turn_and_a_closed_block_are_no_open_block(mark, caplog):
    form = thinking(mark, keeps=True)
    form = replace(form, template=form.template.replace("'<|im_end|>\n' }}", "'</assistant><|im_end|>\n' }}"))
    encoder = Encoder(tokenizer_of(form))
    chat.say_once.cache_clear()
    example = encode(encoder, Prompt(chat=True), PROBLEMS[:1])[0]
    text = encoder.tokenizer.decode(example.completion_ids)
    assert text == f"{PROBLEMS[0].solution}</assistant><|im_end|>" and not caplog.records


def test_the_switch_that_closes_a_block_is_one_that_the_template_reads():
    assert chat.thinking_switches("{{ '<|thinking|>' }}") == []
    assert chat.thinking_switches("{% if enable_thinking %}thinking{% endif %}") == ["enable_thinking"]


def test_an_answered_turn_that_does_not_go_on_from_the_prompt_is_refused():
    template = QWEN3.replace("'<|im_start|>assistant\n' }}", "'<|im_start|>robot\n' }}")
    encoder = Encoder(tokenizer_of(replace(FORMATS["qwen3"], template=template)))
    with pytest.raises(
        InputError, match=r"opens the model's turn with '.*robot\\n', and .* Set prompt.chat_template=off"
    ):
        encode(encoder, Prompt(chat=True), PROBLEMS)


@pytest.mark.parametrize("name", ["llama3.2", "smollm3", "granite"])
def test_a_template_with_todays_date_gets_a_fixed_one_and_says_so_once(encoder_of, name, caplog):
    encoder = encoder_of(name)
    encoder.tokenizer.name_or_path = f"here/{name}"
    chat.say_once.cache_clear()
    with caplog.at_level(logging.WARNING, "reckoner"):
        texts = [
            encoder.tokenizer.decode(encoder.encode_prompt([{"role": "user", "content": "?"}]))
            for _ in range(2)
        ]
    assert texts[0] == texts[1] and any(text in texts[0] for text in FIXED.values())
    assert [record.message for record in caplog.records] == [
        f"the chat template of here/{name} writes a date: every prompt has 26 Jul 2024"
    ]


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("%d/%m/%y", "26/07/24"),
        ("%-d %b %Y, day %-j", "26 Jul 2024, day 208"),
        ("%e.%-m. %F", "26.7. 2024-07-26"),
    ],
)
def test_every_form_of_a_date_is_that_of_the_fixed_day(form, text):
    tokenizer = tokenizer_of(FORMATS["qwen3"])
    tokenizer.chat_template = "{{ strftime_now('" + form + "') }}"
    assert chat.render(tokenizer, [{"role": "user", "content": "?"}]) == text


def digest(encoder: Encoder, **settings: Any) -> str:
    return make_prompt(replace(Config(), prompt=PromptConfig(**settings)), encoder).digest


def test_the_hash_of_a_prompt_follows_its_token_ids(encoder_of):
    """A changed text, switch, template or tokenizer is another prompt; a template that renders the same is
    not."""
    encoder, off = encoder_of("qwen3"), {"enable_thinking": False}
    tokenizers = [tokenizer_of(FORMATS["qwen3"]) for _ in range(3)]
    tokenizers[0].chat_template = QWEN3.replace("assistant\n", "assistant \n")
    tokenizers[1].chat_template = "{# the same #}" + QWEN3
    tokenizers[2].add_tokens([" plus", " + 5"])
    base, *others = [
        digest(encoder),
        digest(encoder, chat_template_kwargs=off),
        digest(encoder, system="Be brief."),
        digest(encoder, instruction="Be brief."),
        digest(encoder, shots=1),
        digest(encoder, shots=2),
        digest(encoder, chat_template="off"),
        digest(encoder, chat_template="off", template="Q: {question}\nA:"),
        digest(encoder, chat_template="off", instruction="Be brief."),
        digest(Encoder(tokenizers[0])),
        digest(Encoder(tokenizers[2])),
    ]
    assert len({base, *others}) == 11 and len(base) == 16
    assert digest(Encoder(tokenizers[1])) == base == digest(encoder_of("qwen3"))


def test_a_date_in_the_switches_is_another_prompt(encoder_of):
    encoder = encoder_of("llama3.2")
    dates = [{}, {"date_string": "26 Jul 2024"}, {"date_string": "27 Jul 2024"}]
    found = [digest(encoder, chat_template_kwargs=switches) for switches in dates]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}{{ messages }}",
        "{% set x = 'x' * 4000000000 %}{{ messages }}",
    ],
    ids=["time", "memory"],
)
def test_a_template_that_takes_all_time_or_memory_is_one_line(tiny_model, tmp_path, monkeypatch, template):
    monkeypatch.setattr(chat, "bounded", lambda together: bounded(0.5, 2**28, together))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = template
    with pytest.raises(
        InputError, match="the chat template of .* (does not end: it takes more than 0.5 s|refuses)"
    ):
        chat.render(tokenizer, [{"role": "user", "content": "?"}])
