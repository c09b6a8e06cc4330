"""Chat templates of model families, written from their public specifications, and small tokenizers.

Each tokenizer has the control tokens of its family and is trained on a few sentences, so that it
joins characters as real ones do.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

TEXT = """
System: Be brief.\n\nUser: What is the capital of France?\n\nAssistant: Paris.
The answer is that the sky is blue, and the sea is too.\n\n\n### Instruction:\n### Response:\n
USER: Hello there! ASSISTANT: Hello. How are you today? I am fine, thank you. : : = == \t {"a": 1}
Today Date: 29 Nov 2026. Cutting Knowledge Date: December 2023. user model assistant tool system
"""
ALPHABET = "".join(map(chr, range(32, 127))) + "\n\tÄÖÜäöüßéè–…“”•"

WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Parts of a text that no token spans, as in recent byte-level tokenizers."""

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set system = none %}{% set turns = messages %}"
    "{% endif %}{% for m in turns %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate between user and assistant') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' }}"
    "{% if loop.first and system is not none %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}"
    "{{ m.content.strip() + ' [/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content.strip() + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}"
    "{% endfor %}"
)
LLAMA_3 = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
    "{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content | trim %}"
    "{%- set turns = messages[1:] %}{%- else %}{%- set system = '' %}{%- set turns = messages %}"
    "{%- endif %}{{- bos_token + '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{{- 'Cutting Knowledge Date: December 2023\nToday Date: ' + date_string + '\n\n' }}"
    "{{- system + '<|eot_id|>' }}{%- for m in turns %}"
    "{%- set role = 'ipython' if m.role == 'tool' else m.role %}"
    "{{- '<|start_header_id|>' + role + '<|end_header_id|>\n\n' }}"
    "{%- if m.role == 'tool' %}{{- m.content | tojson }}{%- else %}{{- m.content | trim }}{%- endif %}"
    "{{- '<|eot_id|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
MISTRAL = (
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}"
    "{%- set turns = messages[1:] %}{%- else %}{%- set turns = messages %}{%- endif %}"
    "{{- bos_token }}{%- for m in turns %}{%- if m.role == 'user' %}"
    "{%- if loop.last and system is defined %}{{- '[INST] ' + system + '\n\n' + m.content + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + m.content + '[/INST]' }}{%- endif %}"
    "{%- elif m.role == 'assistant' %}{{- ' ' + m.content | trim + eos_token }}"
    "{%- elif m.role == 'tool' %}{{- '[TOOL_RESULTS] ' + m.content + '[/TOOL_RESULTS]' }}"
    "{%- else %}{{- raise_exception('Only user, assistant and tool roles are supported') }}"
    "{%- endif %}{%- endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\n' + m.content + eos_token }}"
    "{% elif m.role == 'system' %}{{ '<|system|>\n' + m.content + eos_token }}"
    "{% elif m.role == 'assistant' %}{{ '<|assistant|>\n' + m.content + eos_token }}{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}\n{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI_3 = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ '<|system|>\n' + m.content + '<|end|>\n' }}"
    "{% elif m.role == 'user' %}{{ '<|user|>\n' + m.content + '<|end|>\n' }}"
    "{% elif m.role == 'assistant' %}{{ '<|assistant|>\n' + m.content + '<|end|>\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}"
    "{% else %}{{ eos_token }}{% endif %}"
)
QWEN_25 = (
    "{%- if messages[0].role != 'system' %}"
    "{{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n' }}{%- endif %}{%- for m in messages %}{%- if m.role == 'tool' %}"
    "{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}"
    "{{- '\n<tool_response>\n' + m.content + '\n</tool_response>' }}"
    "{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
QWEN_3 = (
    "{%- set ns = namespace(last=0) %}{%- for m in messages %}"
    "{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
    "{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{%- set content = m.content %}{%- set thought = '' %}{%- if '</think>' in content %}"
    "{%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{%- if loop.index0 > ns.last and (loop.last or thought) %}"
    "{{- '<|im_start|>assistant\n<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}"
    "{%- else %}{{- '<|im_start|>assistant\n' + content }}{%- endif %}{{- '<|im_end|>\n' }}"
    "{%- elif m.role == 'tool' %}"
    "{{- '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
    "{%- else %}{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{%- endif %}"
)
DEEPSEEK = (
    "{%- set ns = namespace(system='') %}{%- for m in messages %}{%- if m.role == 'system' %}"
    "{%- set ns.system = ns.system + m.content %}{%- endif %}{%- endfor %}"
    "{{- bos_token + ns.system }}{%- for m in messages %}"
    "{%- if m.role == 'user' %}{{- '<｜User｜>' + m.content }}"
    "{%- elif m.role == 'assistant' %}{{- '<｜Assistant｜>' + m.content + '<｜end▁of▁sentence｜>' }}"
    "{%- endif %}{%- endfor %}{%- if add_generation_prompt %}{{- '<｜Assistant｜>' }}{%- endif %}"
)
DEEPSEEK_R1 = DEEPSEEK.replace(
    "{{- '<｜Assistant｜>' }}{%- endif %}", "{{- '<｜Assistant｜><think>\n' }}{%- endif %}"
).replace("'<｜Assistant｜>' + m.content", "'<｜Assistant｜>' + m.content.split('</think>')[-1]")
COMMAND_R = (
    "{{ bos_token }}{% for m in messages %}{{ '<|START_OF_TURN_TOKEN|>' }}"
    "{% if m.role == 'system' %}{{ '<|SYSTEM_TOKEN|>' }}{% elif m.role == 'user' %}{{ '<|USER_TOKEN|>' }}"
    "{% elif m.role == 'assistant' %}{{ '<|CHATBOT_TOKEN|>' }}"
    "{% else %}{{ raise_exception('Tools need the template tool_use') }}{% endif %}"
    "{{ m.content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"
)
VICUNA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ messages[0].content + ' ' }}"
    "{% else %}{{ 'A chat between a curious user and an artificial intelligence assistant. ' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% elif m.role == 'assistant' %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ALPACA = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}"
    "{% else %}{{ 'Below is an instruction. Write a response.\n\n' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n\n' }}"
    "{% elif m.role == 'assistant' %}{{ '### Response:\n' + m.content + '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
)
SMOLLM = CHATML.replace(
    "{% for m in messages %}",
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n' }}{% endif %}",
    1,
)
GRANITE = (
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}"
    "{%- set turns = messages[1:] %}{%- else %}"
    "{%- set system = 'Knowledge Cutoff Date: April 2024. Today: ' + strftime_now('%B %d, %Y') + '.' %}"
    "{%- set turns = messages %}{%- endif %}"
    "{{- '<|start_of_role|>system<|end_of_role|>' + system + '<|end_of_text|>\n' }}"
    "{%- for m in turns %}{{- '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content }}"
    "{{- '<|end_of_text|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}{%- endif %}"
)
GEMMA_3 = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}"
    "{% set first = messages[0].content + '\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}{% for m in turns %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% set role = 'model' if m.role == 'assistant' else m.role %}"
    "{{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}"
    "{{ m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
MISTRAL_V7 = (
    "{{- bos_token }}{%- for m in messages %}{%- if m.role == 'system' %}"
    "{{- '[SYSTEM_PROMPT]' + m.content + '[/SYSTEM_PROMPT]' }}{%- elif m.role == 'user' %}"
    "{{- '[INST]' + m.content + '[/INST]' }}{%- elif m.role == 'assistant' %}"
    "{{- m.content + eos_token }}{%- elif m.role == 'tool' %}"
    "{{- '[TOOL_RESULTS]' + m.content + '[/TOOL_RESULTS]' }}{%- endif %}{%- endfor %}"
)
PHI_4 = (
    "{% for m in messages %}{% if m.role in ('system', 'user', 'assistant') %}"
    "{{ '<|im_start|>' + m.role + '<|im_sep|>' + m.content + '<|im_end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_sep|>' }}{% endif %}"
)
OLMO_2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
    "{{ '<|assistant|>\n' + m.content + eos_token + ('' if loop.last else '\n') }}"
    "{% elif m.role in ('system', 'user') %}{{ '<|' + m.role + '|>\n' + m.content + '\n' }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
SMOLLM_3 = (
    "{%- if enable_thinking is not defined %}{%- set enable_thinking = true %}{%- endif %}"
    "{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}"
    "{%- set turns = messages[1:] %}{%- else %}{%- set system = 'You are a helpful AI assistant.' %}"
    "{%- set turns = messages %}{%- endif %}"
    "{{- '<|im_start|>system\n## Metadata\n\nToday Date: ' + strftime_now('%d %B %Y') }}"
    "{{- '\nReasoning Mode: ' + ('/think' if enable_thinking else '/no_think') }}"
    "{{- '\n\n## Custom Instructions\n\n' + system + '<|im_end|>\n' }}"
    "{%- for m in turns %}{%- if m.role == 'assistant' %}{{- '<|im_start|>assistant\n' }}"
    "{%- if not enable_thinking %}{{- '<think>\n\n</think>\n' }}{%- endif %}"
    "{{- m.content.lstrip('\n') + '<|im_end|>\n' }}{%- else %}"
    "{{- '<|im_start|>user\n' + m.content + '<|im_end|>\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}"
    "{%- if not enable_thinking %}{{- '<think>\n\n</think>\n' }}{%- endif %}{%- endif %}"
)
HARMONY = (
    "{{- '<|start|>system<|message|>Current date: ' + strftime_now('%Y-%m-%d') + '<|end|>' }}"
    "{%- for m in messages %}{%- if m.role == 'assistant' %}"
    "{{- '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{%- else %}{{- '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start|>assistant' }}{%- endif %}"
)
"""The template of gpt-oss, whose model writes the channel of its answer itself."""


@dataclass(frozen=True)
class Family:
    """A template with its control tokens and its treatment of chats.

    `refuses` maps roles to words of the reason. `added` are added tokens that are not special.
    """

    name: str
    template: str
    special: tuple[str, ...]
    stop: str
    bos: str | None = None
    eos: str | None = None
    added: tuple[str, ...] = ()
    spaces: bool = False
    prints_date: bool = False
    refuses: dict[str, str] = field(default_factory=dict)

    @property
    def tokenizer(self) -> Any:
        return make_tokenizer(self)


IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
S = ("<unk>", "<s>", "</s>")
LEAVES_OUT = "leaves out the tool message"
FAMILIES = [
    Family("ChatML", CHATML, IM, "<|im_end|>"),
    Family(
        "Llama 2", LLAMA_2, S, "</s>", "<s>", spaces=True, refuses={"tool": "Roles must alternate"}
    ),
    Family(
        "Llama 3.2",
        LLAMA_3,
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|begin_of_text|>",
        prints_date=True,
    ),
    Family(
        "Mistral",
        MISTRAL,
        (*S, "[INST]", "[/INST]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        "</s>",
        "<s>",
        spaces=True,
    ),
    Family("Zephyr", ZEPHYR, S, "</s>", "<s>", spaces=True, refuses={"tool": LEAVES_OUT}),
    Family(
        "Gemma",
        GEMMA,
        ("<pad>", "<eos>", "<bos>", "<unk>"),
        "<end_of_turn>",
        "<bos>",
        "<eos>",
        added=("<start_of_turn>", "<end_of_turn>"),
        spaces=True,
        refuses={"system": "System role not supported", "tool": "must alternate"},
    ),
    Family(
        "Phi-3",
        PHI_3,
        (*S, "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<|end|>",
        "<s>",
        "<|endoftext|>",
        spaces=True,
        refuses={"tool": LEAVES_OUT},
    ),
    Family("Qwen2.5", QWEN_25, IM, "<|im_end|>", added=("<tool_response>", "</tool_response>")),
    Family(
        "Qwen3",
        QWEN_3,
        IM,
        "<|im_end|>",
        added=("<think>", "</think>", "<tool_response>", "</tool_response>"),
    ),
    Family(
        "DeepSeek",
        DEEPSEEK,
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>",
        added=("<｜User｜>", "<｜Assistant｜>"),
        refuses={"tool": LEAVES_OUT},
    ),
    Family(
        "DeepSeek-R1",
        DEEPSEEK_R1,
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        "<｜end▁of▁sentence｜>",
        "<｜begin▁of▁sentence｜>",
        added=("<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
        refuses={"tool": LEAVES_OUT},
    ),
    Family(
        "Command R",
        COMMAND_R,
        (
            "<PAD>", "<BOS_TOKEN>", "<EOS_TOKEN>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>",
            "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>",
        ),
        "<|END_OF_TURN_TOKEN|>",
        "<BOS_TOKEN>",
        refuses={"tool": "Tools need the template tool_use"},
    ),
    Family("Vicuna", VICUNA, S, "</s>", "<s>", spaces=True, refuses={"tool": LEAVES_OUT}),
    Family("Alpaca", ALPACA, S, "</s>", "<s>", spaces=True, refuses={"tool": LEAVES_OUT}),
    Family("SmolLM2", SMOLLM, IM, "<|im_end|>"),
    Family(
        "Granite",
        GRANITE,
        ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
        "<|end_of_text|>",
        prints_date=True,
    ),
    Family(
        "Gemma 3",
        GEMMA_3,
        ("<pad>", "<eos>", "<bos>", "<unk>"),
        "<end_of_turn>",
        "<bos>",
        "<eos>",
        added=("<start_of_turn>", "<end_of_turn>"),
        spaces=True,
        refuses={"tool": "must alternate"},
    ),
    Family(
        "Mistral v7",
        MISTRAL_V7,
        (
            *S, "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_RESULTS]",
            "[/TOOL_RESULTS]",
        ),
        "</s>",
        "<s>",
    ),
    Family(
        "Phi-4", PHI_4, (*IM, "<|im_sep|>"), "<|im_end|>", refuses={"tool": LEAVES_OUT}
    ),
    Family(
        "OLMo 2",
        OLMO_2,
        ("<|pad|>", "<|endoftext|>"),
        "<|endoftext|>",
        "<|endoftext|>",
        refuses={"tool": LEAVES_OUT},
    ),
    Family(
        "SmolLM3",
        SMOLLM_3,
        IM,
        "<|im_end|>",
        added=("<think>", "</think>"),
        prints_date=True,
    ),
]  # fmt: skip


def family(name: str) -> Family:
    return next(family for family in FAMILIES if family.name == name)


def make_tokenizer(family: Family) -> Any:
    """Return a byte-level tokenizer, or one that marks spaces as SentencePiece does."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer.from_str(_trained(family.spaces, family.special))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=family.bos,
        eos_token=family.eos or family.stop,
        pad_token=family.special[0],
        additional_special_tokens=list(family.special),
    )
    fast.add_tokens([AddedToken(token, special=False, normalized=False) for token in family.added])
    fast.chat_template = family.template
    return fast


@cache
def _trained(spaces: bool, special: tuple[str, ...]) -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    inner = Tokenizer(models.BPE(unk_token="<unk>" if spaces else None))
    options: dict[str, Any] = {}
    if spaces:
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Metaspace(prepend_scheme="first"),
                pre_tokenizers.Split(Regex("\n+"), "isolated"),
            ]
        )
        inner.decoder = decoders.Metaspace(prepend_scheme="first")
        special = tuple(dict.fromkeys(("<unk>", *special)))
        options["initial_alphabet"] = [*ALPHABET, "▁"]
    else:
        inner.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORDS), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        inner.decoder = decoders.ByteLevel()
        options["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + 420, special_tokens=list(special), show_progress=False, **options
    )
    inner.train_from_iterator([TEXT, ALPHABET], trainer)
    return inner.to_str()
