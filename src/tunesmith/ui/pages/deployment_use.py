"""How a deployment is used from programs: texts to copy."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tunesmith.schemas.deployments import DeploymentRead


class Snippet(NamedTuple):
    """One way to use it."""

    title: str
    text: str


def snippets(deployment: DeploymentRead, *, with_key: bool) -> list[Snippet]:
    """For what speaks OpenAI's language; nothing for other targets, which bring instructions of their own."""
    if deployment.target != "local":
        return []
    address, name = deployment.address, deployment.name
    key = 'os.environ["TUNESMITH_KEY"]' if with_key else '"none"'
    told = {"address": address, "name": name, "key": key, "imports": "import os\n\n" if with_key else ""}
    script_key = "process.env.TUNESMITH_KEY" if with_key else '"none"'
    chat = {"model": name, "messages": [{"role": "user", "content": "Hello!"}]}
    generate = {"model": name, "prompt": "Hello!"}
    return [
        Snippet("Python", _PYTHON.format(**told)),
        Snippet("JavaScript", _JAVASCRIPT.format(**told | {"key": script_key})),
        Snippet("curl", _curl(f"{address}/chat/completions", chat, with_key)),
        Snippet("The short way", _curl(f"{address.removesuffix('/v1')}/generate", generate, with_key)),
        Snippet("LangChain", _LANGCHAIN.format(**told)),
    ]


def _curl(address: str, body: dict[str, Any], with_key: bool) -> str:
    key = '  -H "Authorization: Bearer $TUNESMITH_KEY" \\\n' if with_key else ""
    return f"curl {address} \\\n{key}  -H 'Content-Type: application/json' \\\n  -d '{json.dumps(body)}'"


_PYTHON = """{imports}from openai import OpenAI  # pip install openai

client = OpenAI(base_url="{address}", api_key={key})
answer = client.chat.completions.create(
    model="{name}",
    messages=[{{"role": "user", "content": "Hello!"}}],
    stream=True,
)
for chunk in answer:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)"""
_JAVASCRIPT = """import OpenAI from "openai"; // npm install openai

const client = new OpenAI({{ baseURL: "{address}", apiKey: {key} }});
const answer = await client.chat.completions.create({{
  model: "{name}",
  messages: [{{ role: "user", content: "Hello!" }}],
}});
console.log(answer.choices[0].message.content);"""
_LANGCHAIN = """{imports}from langchain_openai import ChatOpenAI  # pip install langchain-openai

model = ChatOpenAI(
    base_url="{address}", api_key={key}, model="{name}"
)
print(model.invoke("Hello!").content)"""
