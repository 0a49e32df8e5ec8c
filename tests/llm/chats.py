"""Chats and templates that several tests render."""

from __future__ import annotations

import copy

from llm_attr import LanguageModel
from tests.zoo import tiny_model, tokenizer_of

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_DEFAULT_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind. Be brief.</s>\n{% endif %}" + CHATML
)
STRIPPING = "<s>{% for m in messages %}[{{ m.role }}]\n{{ m.content | trim }}\n{% endfor %}[assistant]\n"
ALTERNATING = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
)
CHAT = [
    {"role": "system", "content": "Answer from the notes. Be brief."},
    {"role": "user", "content": "The mill was built in 1854. Aksel repairs violins."},
    {"role": "assistant", "content": "I see."},
    {"role": "user", "content": "What does Aksel do?"},
]


def with_template(template: str | None, kind: str = "byte_bos") -> LanguageModel:
    tokenizer = copy.deepcopy(tokenizer_of(kind))
    tokenizer.chat_template = template
    return LanguageModel(tiny_model("llama"), tokenizer, "tiny")
