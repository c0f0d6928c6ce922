"""How a deployment is used from programs: texts to copy."""

from __future__ import annotations

import json
from typing import NamedTuple

from tunesmith.schemas.deployments import DeploymentRead


class Snippet(NamedTuple):
    """One way to use it."""

    title: str
    language: str
    text: str


def snippets(deployment: DeploymentRead) -> list[Snippet]:
    """For what speaks OpenAI's language; nothing for other targets, which bring instructions of their own."""
    if deployment.target != "local":
        return []
    address, name = deployment.address, deployment.name
    body = json.dumps({"model": name, "messages": [{"role": "user", "content": "Hello!"}]})
    server = address.removesuffix("/v1")
    return [
        Snippet("Python", "python", _PYTHON.format(address=address, name=name)),
        Snippet("JavaScript", "javascript", _JAVASCRIPT.format(address=address, name=name)),
        Snippet("curl", "sh", f"curl {address}/chat/completions \\\n  -H 'Authorization: Bearer '\"$TUNESMITH_KEY\" \\\n"
                f"  -H 'Content-Type: application/json' \\\n  -d '{body}'"),
        Snippet("Short", "sh", f"curl {server}/generate -H 'Authorization: Bearer '\"$TUNESMITH_KEY\" \\\n"
                f"  -H 'Content-Type: application/json' \\\n  -d '{json.dumps({'model': name, 'prompt': 'Hello!'})}'"),
        Snippet("LangChain", "python", _LANGCHAIN.format(address=address, name=name)),
    ]  # fmt: skip


_PYTHON = """import os

from openai import OpenAI  # pip install openai

client = OpenAI(base_url="{address}", api_key=os.environ.get("TUNESMITH_KEY", "none"))
answer = client.chat.completions.create(
    model="{name}",
    messages=[{{"role": "user", "content": "Hello!"}}],
    stream=True,
)
for chunk in answer:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)"""
_JAVASCRIPT = """import OpenAI from "openai"; // npm install openai

const client = new OpenAI({{ baseURL: "{address}", apiKey: process.env.TUNESMITH_KEY ?? "none" }});
const answer = await client.chat.completions.create({{
  model: "{name}",
  messages: [{{ role: "user", content: "Hello!" }}],
}});
console.log(answer.choices[0].message.content);"""
_LANGCHAIN = """import os

from langchain_openai import ChatOpenAI  # pip install langchain-openai

model = ChatOpenAI(base_url="{address}", api_key=os.environ.get("TUNESMITH_KEY", "none"), model="{name}")
print(model.invoke("Hello!").content)"""
