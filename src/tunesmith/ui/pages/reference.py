"""Every operation of the API, to read and to copy: drawn from the server's own description (OpenAPI)."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from tunesmith.ui.render import page

router = APIRouter(include_in_schema=False)

MAX_DEPTH = 3
"""How deep the fields of a body are told; below that only their kind."""
METHODS = ("get", "post", "put", "patch", "delete")
Schema = dict[str, Any]


class Value(NamedTuple):
    """A parameter, or a field of a body; `name` is a dotted path."""

    name: str
    kind: str
    required: bool
    about: str
    default: str
    place: str


class Operation(NamedTuple):
    id: str
    method: str
    path: str
    title: str
    about: str
    needs: str
    """As in docs/permissions.md."""
    values: list[Value]
    answers: list[tuple[str, str]]
    """(status, what comes)"""
    curl: str


class Reference:
    """Reads an OpenAPI document."""

    def __init__(self, document: Schema, server: str) -> None:
        self.document, self.server = document, server

    def groups(self) -> dict[str, list[Operation]]:
        """Operations by their first tag, in the order of the document."""
        found: dict[str, list[Operation]] = {}
        for path, methods in self.document["paths"].items():
            for method in METHODS:
                if method in methods:
                    found.setdefault(methods[method]["tags"][0], []).append(
                        self.operation(method, path, methods[method])
                    )
        return found

    def operation(self, method: str, path: str, told: Schema) -> Operation:
        parameters = told.get("parameters", [])
        bodies: Schema = told.get("requestBody", {}).get("content", {})
        kind = next(iter(bodies), "")
        schema = self.resolve(bodies[kind].get("schema", {}) if kind else {})
        values = [self.value(p["name"], p["schema"], p.get("required", False), p["in"], p) for p in parameters]
        answers = []
        for status, answer in told["responses"].items():
            contents: list[Schema] = list(answer.get("content", {}).values())
            content = contents[0].get("schema") if contents else None
            answers.append((status, self.kind(content) if content else answer["description"]))
        return Operation(
            told["operationId"], method.upper(), path, told.get("summary", ""), told.get("description", ""),
            told["x-needs"], [*values, *self.fields(schema)], answers, self.curl(method, path, parameters, kind, schema),
        )  # fmt: skip

    def resolve(self, schema: Schema) -> Schema:
        """What a reference points to; what may be null without its null."""
        if "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            return {**self.document["components"]["schemas"][name], **{k: v for k, v in schema.items() if k != "$ref"}}
        rest = [part for part in schema.get("anyOf", []) if part.get("type") != "null"]
        if len(rest) == 1:
            return {**{k: v for k, v in schema.items() if k != "anyOf"}, **self.resolve(rest[0])}
        return schema

    def fields(self, schema: Schema, prefix: str = "", depth: int = 1) -> Iterator[Value]:
        """The fields of a body, those of objects within it after them."""
        required = schema.get("required", [])
        for name, told in schema.get("properties", {}).items():
            yield self.value(prefix + name, told, name in required, "body", told)
            inner = self.resolve(told)
            each = self.resolve(inner.get("items", {}))
            if depth < MAX_DEPTH:
                yield from self.fields(inner, f"{prefix}{name}.", depth + 1)
                yield from self.fields(each, f"{prefix}{name}[].", depth + 1)

    def value(self, name: str, schema: Schema, required: bool, place: str, told: Schema) -> Value:
        about = told.get("description") or self.resolve(schema).get("description", "")
        default = schema.get("default")
        return Value(name, self.kind(schema), required, about, "" if default is None else json.dumps(default), place)

    def kind(self, schema: Schema) -> str:
        """`integer`, `list of string`, `"a" or "b"`, the name of an object."""
        if "$ref" in schema and "properties" in self.resolve(schema):
            return str(schema["$ref"].rpartition("/")[2])
        if "anyOf" in schema:
            return " or ".join(dict.fromkeys(self.kind(part) for part in schema["anyOf"]))
        schema = self.resolve(schema)
        if "enum" in schema:
            return " or ".join(json.dumps(choice) for choice in schema["enum"])
        if "const" in schema:
            return json.dumps(schema["const"])
        if schema.get("type") == "array":
            return f"list of {self.kind(schema.get('items', {}))}"
        return str(schema.get("format") or schema.get("type") or "anything")

    def curl(self, method: str, path: str, parameters: list[Schema], kind: str, body: Schema) -> str:
        """A line for a terminal, with made-up values for what is required."""
        query = []
        for parameter in parameters:
            sample = self.sample(parameter["schema"], parameter["name"])
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", str(sample))
            elif parameter["in"] == "query" and parameter.get("required"):
                query.append(f"{parameter['name']}={sample}")
        parts = ["curl"] if method == "get" else ["curl", "-X", method.upper()]
        if path.endswith("/stream"):
            parts.append("-N")
        if kind == "multipart/form-data":
            parts += ["-F", "file=@rows.jsonl"]
        elif kind == "application/json":
            parts += ["-H", "Content-Type: application/json", "-d", json.dumps(self.sample(body))]
        elif kind:
            parts += ["--data-binary", "@rows.jsonl"]
        return shlex.join([*parts, self.server + path + (f"?{'&'.join(query)}" if query else "")])

    def sample(self, schema: Schema, name: str = "") -> Any:
        """A value that fits; of an object what is required, or has an example."""
        schema = self.resolve(schema)
        for key in ("default", "const"):
            if schema.get(key) is not None:
                return schema[key]
        if schema.get("examples") or schema.get("enum"):
            return (schema.get("examples") or schema["enum"])[0]
        if schema.get("type") == "object":
            wanted = schema.get("required", [])
            fields = schema.get("properties", {}).items()
            return {k: self.sample(v, k) for k, v in fields if k in wanted or v.get("examples")}
        if schema.get("type") == "array":
            return [self.sample(schema.get("items", {}), name)]
        return {"integer": 1, "number": 1.0, "boolean": True}.get(schema.get("type", ""), name.upper() or "TEXT")


@router.get("/docs")
def docs(request: Request) -> HTMLResponse:
    """Every operation of the API, to read and to copy."""
    server = f"{request.scope['scheme']}://{request.headers['host']}"
    groups = Reference(request.app.openapi(), server).groups()
    return page(request, "docs.html", title="API", section="docs", groups=groups, server=server)
