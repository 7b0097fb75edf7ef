"""A prompt format as a chat template, in the Jinja of transformers: `tokenizer.apply_chat_template(messages)`.

The text is that of `gpt chat` and of /v1/chat/completions for the same turns: each question in the format of training,
its answer, and the end of text. Consecutive messages of the user are one question, and system messages come before the
newest question.
"""

import json

from ..tasks.instruct.data import STYLES
from ..tokenizer import END_OF_TEXT

QUESTION = "\N{REPLACEMENT CHARACTER}"  # stands for the question; no prompt format has it

TEMPLATE = """\
{%- set ns = namespace(system=[], asked=[], open=false, left=0) -%}
{%- for message in messages -%}
{%- if message.role in ["system", "developer"] -%}{%- set ns.system = ns.system + [message.content] -%}
{%- elif message.role == "user" -%}{%- set ns.open = true -%}
{%- elif message.role == "assistant" -%}{%- set ns.open = false -%}{%- set ns.left = ns.left + 1 -%}
{%- else -%}{{- raise_exception("a message is one of system, developer, user or assistant") -}}
{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
{%- if message.role == "user" -%}{%- set ns.asked = ns.asked + [message.content] -%}
{%- elif message.role == "assistant" -%}
{%- if not ns.asked -%}{{- raise_exception("an answer must follow a question") -}}{%- endif -%}
{%- set ns.left = ns.left - 1 -%}
{%- set first = [] if ns.open or ns.left else ns.system -%}
{{- BEFORE + (first + ns.asked) | join("\\n\\n") + AFTER + message.content + END -}}
{%- set ns.asked = [] -%}
{%- endif -%}
{%- endfor -%}
{%- if ns.open -%}
{{- BEFORE + (ns.system + ns.asked) | join("\\n\\n") -}}
{%- if add_generation_prompt -%}{{- AFTER -}}{%- endif -%}
{%- endif -%}
"""


def chat_template(style: str) -> str:
    """The chat template of a prompt format. ValueError for an unknown one."""
    if not isinstance(style, str) or style not in STYLES:
        raise ValueError(f"there is no prompt format {style!r:.80}: choose one of {', '.join(STYLES)}")
    before, _, after = STYLES[style].format({"instruction": QUESTION, "input": "", "output": ""}).partition(QUESTION)
    texts = {"BEFORE": before, "AFTER": after + STYLES[style].response_header, "END": END_OF_TEXT}
    constants = "".join(f"{{%- set {name} = {json.dumps(text)} -%}}\n" for name, text in texts.items())
    return constants + TEMPLATE
