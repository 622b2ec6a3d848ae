"""Templates in the manner of published ones, against transformers' rendering; and what a template must not do."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from vivace.chat_template import ChatTemplate
from vivace.errors import RequestError
from vivace.template_sandbox import MAX_CHARACTERS

NAMES = {"bos_token": "<bos>", "eos_token": "<eos>"}

CHATML = """\
{%- if messages[0]['role'] != 'system' -%}
    {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' -}}
{%- endif -%}
{% for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' -}}
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""

LLAMA3 = """\
{{- bos_token }}
{%- set ns = namespace(system='') %}
{%- if messages[0].role == 'system' %}
    {%- set ns.system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
<|start_header_id|>system<|end_header_id|>

{% if strftime_now is defined %}Today: {{ strftime_now("%Y") }}
{% endif %}
{%- if tools is not none %}
    {% for tool in tools %}
{{ tool | tojson(indent=4) }}

    {% endfor %}
{% endif %}
{{ ns.system }}<|eot_id|>
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant', 'tool'] %}
        {{- raise_exception('Unknown role: ' ~ message.role) }}
    {%- endif %}
    {%- if 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception("One tool call at a time!") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}{{ '}<|eot_id|>' }}
        {%- continue %}
    {%- endif %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {{- messages[0].content if messages[0].role == 'system' else 'Default.' }}
    {{- "\\n\\n# Tools\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- endif %}
{%- macro show(message, last) -%}
    <|im_start|>{{ message.role }}
    {%- if message.content is string %}
{{ message.content.split('</think>')[-1].lstrip('\\n') }}
    {%- else %}
        {%- for part in message.content %}{% if part is mapping and part.type == 'text' %}
{{ part.text }}{% endif %}{% endfor %}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>\\n' ~ call.function.name ~ (call.function.arguments | tojson) ~ '\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>' }}{{ '' if last else '\\n' }}
{%- endmacro %}
{%- for message in messages[::-1][::-1] %}
    {%- if loop.first and message.role == 'system' and tools %}{% continue %}{% endif %}
    {% generation %}{{- show(message, loop.last and not add_generation_prompt) }}{% endgeneration %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{% endif %}
{%- endif %}
"""

MINI = """\
{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

USER = {"role": "user", "content": "  <b>Grüße</b> & \"你好\" 'x' 🙂\n"}
SYSTEM = {"role": "system", "content": " Be brief. "}
CALL = {
    "role": "assistant",
    "content": "<think>hm</think>\nLet me see.",
    "tool_calls": [{"type": "function", "function": {"name": "find", "arguments": {"b": "<é>", "a": [1, None, True]}}}],
}
PARTS = {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}
TOOLS = [
    {"type": "function", "function": {"name": "find", "description": "Finds <é>.", "parameters": {"z": 1, "a": 2}}}
]

CHATS: list[list[dict[str, Any]]] = [
    [USER],
    [SYSTEM, USER],
    [SYSTEM, USER, CALL, {"role": "tool", "content": "42"}, USER],
]


def render(source: str, messages: Any = (USER,), *, tools: Any = None, add_generation_prompt: bool = True) -> str:
    template = ChatTemplate({"default": source}, NAMES)
    return template.render(list(messages), add_generation_prompt=add_generation_prompt, tools=tools)


def transformers_render(source: str, messages: Any, tools: Any, add_generation_prompt: bool) -> str:
    pytest.importorskip("transformers")
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template(
        [messages], tools=tools, chat_template=source, add_generation_prompt=add_generation_prompt, **NAMES
    )
    return str(rendered[0])


@pytest.mark.parametrize("add_generation_prompt", [False, True])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["plain", "tools"])
@pytest.mark.parametrize("chat", [0, 1, 2])
@pytest.mark.parametrize("source", [CHATML, LLAMA3, QWEN, MINI], ids=["chatml", "llama3", "qwen", "mini"])
def test_templates_render_as_in_transformers(source: str, chat: int, tools: Any, add_generation_prompt: bool) -> None:
    expected = transformers_render(source, CHATS[chat], tools, add_generation_prompt)
    assert render(source, CHATS[chat], tools=tools, add_generation_prompt=add_generation_prompt) == expected
    assert "<b>Grüße</b>" in expected


def test_content_in_parts_renders_as_in_transformers() -> None:
    assert render(QWEN, [PARTS]) == transformers_render(QWEN, [PARTS], None, True)


def test_json_is_not_escaped_for_html() -> None:
    assert render("{{ '<é> & \"' | tojson }}") == '"<é> & \\""'
    assert render("{{ {'b': 1, 'a': 2} | tojson(indent=1, sort_keys=true) }}") == '{\n "a": 2,\n "b": 1\n}'


def test_special_tokens_have_their_names_and_others_are_undefined() -> None:
    assert render("{{ bos_token }}{{ unk_token }}{{ unk_token is defined }}{{ eos_token }}") == "<bos>False<eos>"


def test_the_date_is_todays() -> None:
    before = datetime.now().strftime("%d %b %Y")
    assert render("{{ strftime_now('%d %b %Y') }}") in {before, datetime.now().strftime("%d %b %Y")}


def test_a_template_refuses_messages_in_its_own_words() -> None:
    with pytest.raises(RequestError, match="refused the messages: Unknown role: critic"):
        render(LLAMA3, [{"role": "critic", "content": "x"}])


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[7].content }}",
        "{{ messages[0].content + 3 }}",
        "{{ 1 / 0 }}",
        "{{ messages | tojson(indent={}) }}",
        "{{ [1] | first.x.y }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% include 'other' %}",
    ],
)
def test_whatever_goes_wrong_in_a_template_is_a_request_error(source: str) -> None:
    with pytest.raises(RequestError, match="chat template"):
        render(source)


@pytest.mark.parametrize(
    "source", ["{% for %}", "{{", "{% nonsense %}", "{{ x | nonsense }}", "(" * 3 + "{{ " + "(" * 9]
)
def test_a_broken_template_is_a_request_error(source: str) -> None:
    with pytest.raises(RequestError, match=r"chat template is broken .*use completions"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.append.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'system'}) }}",
        "{{ messages[0].__setitem__('role', 'system') }}",
        "{{ raise_exception.__globals__['json'] }}",
        "{{ range.__closure__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ '{0.__class__}'.format(messages) }}",
    ],
)
def test_a_template_cannot_leave_the_sandbox_or_change_the_messages(source: str) -> None:
    messages = [dict(USER)]
    try:
        text = render(source, messages)
    except RequestError:
        text = ""
    assert text == ""
    assert messages == [USER]


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{{ range(10**18) }}",
        "{{ 'x' * 10**9 }}",
        "{{ 10**9 * 'x' }}",
        "{{ ([0] * 10**9) | length }}",
        "{{ 9 ** (9 ** 9) }}",
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    ],
)
def test_a_template_that_would_never_end_or_fill_the_memory_is_stopped(source: str) -> None:
    with pytest.raises(RequestError, match=r"chat template refused|Shorten the messages"):
        render(source)


def test_a_large_prompt_inside_the_bound_renders() -> None:
    content = "x" * (MAX_CHARACTERS // 2)
    assert render("{{ messages[0].content + '!' }}", [{"role": "user", "content": content}]) == content + "!"


def test_arithmetic_is_not_in_the_way() -> None:
    assert render("{{ 3 * 4 + 2 ** 10 }} {{ 'ab' * 2 + 'c' }} {{ 2.5 * 2 }} {{ [1] + [2] }} {{ 2 ** -1 }}") == (
        "1036 ababc 5.0 [1, 2] 0.5"
    )
    assert render("{% for i in range(3) %}{{ i }}{% if i == 1 %}{% break %}{% endif %}{% endfor %}") == "01"


def test_each_rendering_has_its_own_bound() -> None:
    template = ChatTemplate({"default": "{% for i in range(900000) %}{% break %}{% endfor %}done"}, {})
    for _ in range(3):
        assert template.render([], add_generation_prompt=True, tools=None) == "done"


def test_templates_are_compiled_beforehand_and_a_broken_one_is_refused_when_it_is_used() -> None:
    templates = ChatTemplate({"default": "{{ messages[0] }}", "tool_use": "{% if %}"}, {})
    templates.prepare()
    assert templates.render(["a"], add_generation_prompt=False, tools=None) == "a"
    with pytest.raises(RequestError, match="broken"):
        templates.render(["a"], add_generation_prompt=False, tools=[{}])
