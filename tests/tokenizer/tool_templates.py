"""Chat templates in the manner of the families that know tools, much smaller, and tools for them."""

from __future__ import annotations

import json
from typing import Any

from learnsgl.message.types import ToolChoice, ToolsMsg

HERMES = """\
{%- if tools %}<|im_start|>system
{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }} {% endif -%}
Functions: {% for tool in tools %}{{ tool | tojson }} {% endfor %}<|im_end|>
{% elif messages[0]['role'] == 'system' %}<|im_start|>system
{{ messages[0]['content'] }}<|im_end|>
{% endif %}
{%- for message in messages if message['role'] != 'system' %}
{%- if message['role'] == 'tool' %}<|im_start|>user
<tool_response>{{ message['content'] }}</tool_response><|im_end|>
{% else %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}
{%- for call in message['tool_calls'] or [] %}
<tool_call>
{"name": "{{ call['function']['name'] }}", "arguments": {{ call['function']['arguments'] | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

LLAMA = """\
{%- for message in messages %}
{%- if message['tool_calls'] %}
{%- if message['tool_calls'] | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
{%- set call = message['tool_calls'][0]['function'] %}<|im_start|>assistant

{"name": "{{ call['name'] }}", "parameters": {{ call['arguments'] | tojson }}}<|im_end|>
{%- elif message['role'] == 'tool' %}<|im_start|>ipython

{{ message['content'] | tojson }}<|im_end|>
{%- else %}<|im_start|>{{ message['role'] }}

{% if tools and loop.first %}Functions: {% for tool in tools %}{{ tool | tojson }}
{% endfor %}{% endif %}{{ message['content'] }}<|im_end|>
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant

{% endif %}"""

NO_SYSTEM = """\
{%- for message in messages %}
{%- if message['role'] not in ('user', 'assistant') %}{{ raise_exception('roles must alternate') }}{% endif %}
[{{ message['role'] }}] {{ message['content'] }}
{%- endfor %} >"""

UNKNOWN_FORM = """\
{%- if tools %}{{ tools | tojson }}{% endif %}
{%- for message in messages %}[{{ message['role'] }}] {{ message['content'] }}
{%- for call in message['tool_calls'] or [] %} call:{{ call['function']['name'] }}{% endfor %}
{%- endfor %} >"""

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 14}},
            "required": ["city"],
        },
    },
}
CLOCK: dict[str, Any] = {"type": "function", "function": {"name": "get_time", "strict": True}}

CALL: dict[str, Any] = {
    "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo", "days": 2}'},
}  # fmt: skip
PAST: list[dict[str, Any]] = [
    {"role": "user", "content": "How is Oslo?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
]


def asked(*tools: dict[str, Any], choice: str = "auto", only: str | None = None, parallel: bool = True) -> ToolsMsg:
    """The tools of a request; by default both."""
    texts = [json.dumps(tool) for tool in tools or (WEATHER, CLOCK)]
    return ToolsMsg(texts, ToolChoice(choice), only, parallel)
