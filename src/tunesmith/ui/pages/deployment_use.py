"""How a deployment is used from programs: texts to copy."""

from __future__ import annotations

import json
import shlex
from typing import Any, NamedTuple

from tunesmith.core.prediction import example_of
from tunesmith.recipes.model_about import ModelAbout
from tunesmith.schemas.deployments import DeploymentRead


class Snippet(NamedTuple):
    """One way to use it."""

    title: str
    text: str


def snippets(deployment: DeploymentRead, about: ModelAbout | None, *, with_key: bool) -> list[Snippet]:
    """For what speaks OpenAI's language, or Hugging Face's where the model does not chat; nothing for other targets, which bring
    instructions of their own."""
    if deployment.target != "local":
        return []
    if about is not None:
        return _predictions(deployment, about, with_key=with_key)
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


def _predictions(deployment: DeploymentRead, about: ModelAbout, *, with_key: bool) -> list[Snippet]:
    example = example_of(about.task, about.columns)
    is_text = about.asked == "text"
    given: Any = "A text to try." if is_text else example
    is_media = about.asked in ("image", "audio", "video")
    shown = json.dumps(given) if not is_media else '"<base64>"'
    told = {
        "address": deployment.address, "name": deployment.name, "imports": "import os\n\n" if with_key else "",
        "key": 'os.environ["TUNESMITH_KEY"]' if with_key else '"none"', "call": CALLS.get(about.task, ""),
        "server": deployment.address.rpartition("/models/")[0], "shown": shown.replace("null", "None"),
    }  # fmt: skip
    found = [Snippet("Python, Hugging Face's client", _INFERENCE.format(**told))] if told["call"] else []
    found.append(Snippet("Python, Tunesmith's client", _SDK.format(**told)))
    body = {"inputs": "<base64>" if is_media else given}
    found.append(Snippet("curl", _curl(deployment.address, body, with_key)))
    if not is_media:
        word = given if is_text else json.dumps(given)
        found.append(Snippet("Command line", f"tunesmith predict {deployment.name} {shlex.quote(word)}"))
    return found


def _curl(address: str, body: dict[str, Any], with_key: bool) -> str:
    key = '  -H "Authorization: Bearer $TUNESMITH_KEY" \\\n' if with_key else ""
    return f"curl {address} \\\n{key}  -H 'Content-Type: application/json' \\\n  -d '{json.dumps(body)}'"


CALLS = {
    "text-classification": 'text_classification("A text to try.")',
    "token-classification": 'token_classification("A text to try.")',
    "feature-extraction": 'feature_extraction("A text to try.")',
    "text-ranking": 'sentence_similarity("A query", other_sentences=["A text", "Another one"])',
    "image-classification": 'image_classification("picture.png")',
    "object-detection": 'object_detection("picture.png")',
    "audio-classification": 'audio_classification("sound.wav")',
    "automatic-speech-recognition": 'automatic_speech_recognition("sound.wav")',
    "text-to-image": 'text_to_image("A lighthouse in fog")',
}
"""How Hugging Face's client asks. Of tables it knows columns with their values only."""
_INFERENCE = """{imports}from huggingface_hub import InferenceClient  # pip install huggingface_hub

client = InferenceClient(model="{address}", token={key})
print(client.{call})"""
_SDK = """{imports}from tunesmith.sdk.client import Client

with Client("{server}", token={key}) as client:
    print(client.deployments.predict("{name}", {shown}).outputs)"""
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
