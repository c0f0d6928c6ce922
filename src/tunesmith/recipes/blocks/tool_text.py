"""Functions and their calls as text, for chat templates that have no place for them: in the form that Hermes 2 made usual.

`as_text` rewrites one conversation. `with_tools` does the same to a template, so that what is asked of the tuned model
later comes out as it was trained.
"""

from __future__ import annotations

import json
from typing import Any

HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
PRELUDE = (
    "{%- set ready = namespace(messages=[], tools='', is_told=false) -%}"
    "{%- if tools -%}{%- set ready.tools = @HEAD@ -%}"
    "{%- for tool in tools -%}{%- set ready.tools = ready.tools + '\n' + (tool | tojson) -%}{%- endfor -%}"
    "{%- set ready.tools = ready.tools + @TAIL@ -%}{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- set said = namespace(role=message['role'], content=message['content'] or '') -%}"
    "{%- if message['role'] == 'tool' -%}"
    "{%- set said.role = 'user' -%}"
    "{%- set said.content = '<tool_response>\n' + said.content + '\n</tool_response>' -%}"
    "{%- elif message['tool_calls'] -%}"
    "{%- for call in message['tool_calls'] -%}{%- set called = call['function'] or call -%}"
    "{%- if said.content -%}{%- set said.content = said.content + '\n' -%}{%- endif -%}"
    "{%- set said.content = said.content + '<tool_call>\n{\"name\": ' + (called['name'] | tojson) + "
    "', \"arguments\": ' + (called['arguments'] if called['arguments'] is string else (called['arguments'] | tojson)) + "
    "'}\n</tool_call>' -%}{%- endfor -%}"
    "{%- endif -%}"
    "{%- if ready.tools and not ready.is_told and said.role in ['system', 'user'] -%}"
    "{%- set ready.is_told = true -%}"
    "{%- if said.role == 'system' -%}{%- set said.content = said.content + '\n\n' + ready.tools -%}"
    "{%- else -%}{%- set said.content = ready.tools + '\n\n' + said.content -%}{%- endif -%}{%- endif -%}"
    "{%- if ready.messages and message['role'] == 'tool' and ready.messages[-1]['of_tool'] -%}"
    "{%- set said.content = ready.messages[-1]['content'] + '\n' + said.content -%}"
    "{%- set ready.messages = ready.messages[:-1] -%}{%- endif -%}"
    "{%- set ready.messages = ready.messages + [{'role': said.role, 'content': said.content, "
    "'of_tool': message['role'] == 'tool'}] -%}"
    "{%- endfor -%}{%- set messages = ready.messages %}"
).replace("@HEAD@", json.dumps(HEAD)).replace("@TAIL@", json.dumps(TAIL))  # fmt: skip


def with_tools(template: str) -> str:
    """The template with a part before it that writes functions and calls as text."""
    return PRELUDE + template


def as_text(messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
    """`(the conversation with plain messages only, for each of them the number of the first message that it comes from)`."""
    made: list[dict[str, Any]] = []
    origins: list[int] = []
    told = f"{HEAD}{''.join(chr(10) + json.dumps(tool, ensure_ascii=False) for tool in tools)}{TAIL}" if tools else ""
    for number, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role == "tool":
            role, content = "user", f"<tool_response>\n{content}\n</tool_response>"
        for call in message.get("tool_calls", ()):
            content += ("\n" if content else "") + _call_text(call["function"])
        if told and role in ("system", "user"):
            content = f"{content}\n\n{told}" if role == "system" else f"{told}\n\n{content}"
            told = ""
        if message["role"] == "tool" and origins and messages[origins[-1]]["role"] == "tool":
            made[-1]["content"] += "\n" + content
            continue
        thought = {"reasoning_content": message["reasoning_content"]} if message.get("reasoning_content") else {}
        made.append({"role": role, "content": content, **thought})
        origins.append(number)
    return made, origins


def _call_text(function: dict[str, Any]) -> str:
    arguments = function["arguments"]
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(function["name"], ensure_ascii=False)}, "arguments": {written}}}\n</tool_call>'
