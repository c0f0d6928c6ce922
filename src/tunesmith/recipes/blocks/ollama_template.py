"""A model's chat template in the language of Ollama's templates.

The Jinja template is tried on marked messages to see what it puts before and after each kind; out of that the other is
written, and kept only if it gives the same text for several conversations. Templates come with models, so this runs in a
process of its own (`python -m tunesmith.recipes.blocks.ollama_template`), sandboxed by Jinja and with little time.
"""

from __future__ import annotations

import json
import mmap
import re
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError

from tunesmith.core import confinement
from tunesmith.recipes.blocks.endings import ends_in
from tunesmith.recipes.chat_template import template_text
from tunesmith.recipes.gguf import ARRAY, SCALAR_BYTES, STRING, check_gguf

TIMEOUT_S = 60.0
RENDER_CPU_S = 30
MEMORY_BYTES = 4 * 1024**3
SYSTEM, USER, ANSWER = "\ue000s\ue000", "\ue000u\ue000", "\ue000a\ue000"
"""What stands for a message's text: no template has it."""
MAX_STOP_CHARS = 60

Message = dict[str, str]
REFUSALS = (ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RuntimeError)


class Pieces(NamedTuple):
    """What a chat template puts around messages."""

    unasked: str
    """At the start of a conversation that has no system message."""
    system: tuple[str, str]
    """Before and after a system message."""
    is_inside: bool
    """The system message stands within the first user message."""
    user: tuple[str, str]
    answer: tuple[str, str]
    prompt: str
    """Where the answer begins."""

    def render(self, messages: list[Message]) -> str:
        """What Ollama makes of the written template."""
        system = next((m["content"] for m in messages if m["role"] == "system"), "")
        text = "" if system else self.unasked
        for message in messages:
            if message["role"] == "system":
                text += "" if self.is_inside else self.system[0] + message["content"] + self.system[1]
            elif message["role"] == "user":
                inner = self.system[0] + system + self.system[1] if self.is_inside and system else ""
                system = "" if self.is_inside else system
                text += self.user[0] + inner + message["content"] + self.user[1]
            else:
                text += self.answer[0] + message["content"] + self.answer[1]
        return text + self.prompt

    def written(self) -> str:
        """In Go's template language, as Ollama reads it."""
        before, after = (_quoted(part) for part in self.user)
        inner, outer = "", ""
        if self.is_inside:
            first, last = (_quoted(part) for part in self.system)
            inner = "{{ if $system }}" + first + "{{ $system }}" + last + '{{ $system = "" }}{{ end }}'
        else:
            first, last = (_quoted(part) for part in self.system)
            outer = '{{ if eq .Role "system" }}' + first + "{{ .Content }}" + last + "{{ end }}"
        start = "{{ $system := .System }}" if self.is_inside else ""
        unasked = "{{ if not .System }}" + _quoted(self.unasked) + "{{ end }}" if self.unasked else ""
        user = '{{ if eq .Role "user" }}' + before + inner + "{{ .Content }}" + after + "{{ end }}"
        first, last = (_quoted(part) for part in self.answer)
        answer = '{{ if eq .Role "assistant" }}' + first + "{{ .Content }}" + last + "{{ end }}"
        return start + unasked + "{{ range .Messages }}" + outer + user + answer + "{{ end }}" + _quoted(self.prompt)


class OllamaTemplate(NamedTuple):
    """For Ollama: the template, empty when it could not be derived, and what ends an answer."""

    text: str
    stop: list[str]


def _quoted(text: str) -> str:
    """Text as it is, in a Go template."""
    return text.replace("{{", '{{ "{{" }}')


def derive(jinja: str, bos: str, eos: str, *, adds_bos: bool, is_dated: bool = True) -> OllamaTemplate:
    """Raises what the chat template raises. `adds_bos`: llama.cpp puts `bos` there itself. `is_dated`: the template may ask for
    today's date."""
    render = _renderer(jinja, bos, eos, is_dated=is_dated)

    def plain(*messages: Message, prompt: bool = False) -> str:
        text = render([*messages], prompt)
        return text.removeprefix(bos) if adds_bos and bos else text

    takes_system = _takes_system(plain)
    talks = [_talk(kinds) for kinds in ("u", "uau", "uauau", *(("su", "suau") if takes_system else ()))]
    for pieces in (_pieces(plain, takes_system), _pieces_between(plain, takes_system)):
        if all(pieces.render(talk) == plain(*talk, prompt=True) for talk in talks):
            return OllamaTemplate(pieces.written(), _stops(pieces, eos))
    return OllamaTemplate("", _stops(pieces, eos))


def _stops(pieces: Pieces, eos: str) -> list[str]:
    end = pieces.answer[1].strip()
    ends = [eos] if eos and eos in end else [end, eos]
    return [text for text in dict.fromkeys(ends) if text and len(text) <= MAX_STOP_CHARS]


def _takes_system(plain: Any) -> bool:
    """Whether the template has a place for a system message; many refuse one."""
    try:
        return SYSTEM in plain(*_talk("su"))
    except (*REFUSALS, TemplateError):
        return False


def _pieces(plain: Any, takes_system: bool) -> Pieces:
    """Where there is no place for a system message, it goes before the first question."""
    system, user, answer = _talk("sua")
    alone = plain(user)
    both = plain(system, user) if takes_system else plain({**user, "content": f"{SYSTEM}\n\n{USER}"})
    answered, prompted = plain(user, answer), plain(user, prompt=True)
    again = plain(user, answer, user)
    opening, _, after_user = alone.partition(USER)
    before_answer, _, after_answer = answered.removeprefix(alone).partition(ANSWER)
    before_user = again.removeprefix(answered).partition(USER)[0]
    unasked = opening.removesuffix(before_user)
    before_system, _, rest = both.partition(SYSTEM)
    is_inside = before_system == before_user and not rest.partition(USER)[0].endswith(before_user)
    if is_inside:
        around = ("", rest.partition(USER)[0])
    else:
        around = (before_system, rest.partition(USER)[0].removesuffix(before_user))
    prompt = prompted.removeprefix(alone)
    return Pieces(unasked, around, is_inside, (before_user, after_user), (before_answer, after_answer), prompt)


def _pieces_between(plain: Any, takes_system: bool) -> Pieces:
    """The same for templates that write the last answer in another way: out of a conversation that goes on after it."""
    system, user, answer = _talk("sua")
    opening, _, rest = plain(user, answer, user, prompt=True).partition(USER)
    between, _, rest = rest.partition(ANSWER)
    after_answer, _, ending = rest.partition(USER)
    before_user = _from_a_mark(_shared_start(opening[::-1], after_answer[::-1])[::-1])
    after_user = _shared_start(between, ending)
    unasked = opening.removesuffix(before_user)
    both = plain(system, user, prompt=True) if takes_system else f"{before_user}{SYSTEM}\n\n{USER}"
    before_system, _, rest = both.partition(SYSTEM)
    after_system = rest.partition(USER)[0]
    is_inside = not after_system.endswith(before_user)
    if is_inside:
        around = (before_system.removeprefix(unasked).removeprefix(before_user), after_system)
    else:
        around = (before_system, after_system.removesuffix(before_user))
    answered = (between.removeprefix(after_user), after_answer.removesuffix(before_user))
    return Pieces(
        unasked, around, is_inside, (before_user, after_user), answered, ending.removeprefix(after_user)
    )  # fmt: skip


def _shared_start(one: str, other: str) -> str:
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _from_a_mark(text: str) -> str:
    """From where a mark such as `<|user|>` or `[INST]` can begin; the whole text where none does."""
    found = re.search(r"[<\[#\n]", text)
    return text[found.start() :] if found else text


def _talk(kinds: str) -> list[Message]:
    roles = {"s": ("system", SYSTEM), "u": ("user", USER), "a": ("assistant", ANSWER)}
    return [{"role": roles[kind][0], "content": roles[kind][1]} for kind in kinds]


def _renderer(jinja: str, bos: str, eos: str, *, is_dated: bool) -> Any:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])

    def refuse(message: str) -> None:
        raise ValueError(message)

    def today(form: str) -> str:
        from tunesmith.core.clock import utc_now

        return utc_now().strftime(form)

    environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
    environment.globals |= {"raise_exception": refuse} | ({"strftime_now": today} if is_dated else {})
    template = environment.from_string(jinja)

    def render(messages: list[Message], prompt: bool) -> str:
        return str(template.render(messages=messages, bos_token=bos, eos_token=eos, add_generation_prompt=prompt))

    return render


def template_of(gguf: Path) -> OllamaTemplate:
    """For the chat template inside a GGUF file. Raises `BadData` for a file that cannot be trusted."""
    check_gguf(gguf)
    return _asked(gguf)


def template_in(folder: Path) -> OllamaTemplate:
    """For the chat template of a model's or an adapter's folder: the same for the same files on any day."""
    return _asked(folder)


def _asked(path: Path) -> OllamaTemplate:
    command = confinement.command("tunesmith.recipes.blocks.ollama_template", str(path))
    try:
        result = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, env=confinement.environment())
        told = json.loads(result.stdout.decode(errors="replace").strip().splitlines()[-1])
        return OllamaTemplate(str(told["text"]), [str(stop) for stop in told["stop"]])
    except (subprocess.TimeoutExpired, ValueError, IndexError, KeyError):
        return OllamaTemplate("", [])


def _read(gguf: Path) -> OllamaTemplate:
    with gguf.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        keys = dict(_keys(data))
    tokens = keys.get("tokenizer.ggml.tokens") or []

    def token(key: str) -> str:
        number = keys.get(f"tokenizer.ggml.{key}_token_id")
        return tokens[number].decode(errors="replace") if type(number) is int and number < len(tokens) else ""

    bos, eos = token("bos"), token("eos")
    jinja = keys.get("tokenizer.chat_template") or b""
    try:
        return derive(jinja.decode(errors="replace"), bos, eos, adds_bos=bool(keys.get("tokenizer.ggml.add_bos_token")))
    except (*REFUSALS, TemplateError):
        return OllamaTemplate("", [eos] if eos else [])


def _read_folder(folder: Path) -> OllamaTemplate:
    from tokenizers import Tokenizer

    config = json.loads((folder / "tokenizer_config.json").read_bytes())
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    bos, eos = (_text_of(config.get(f"{name}_token")) for name in ("bos", "eos"))
    adds_bos = config.get("add_bos_token")
    if adds_bos is None:
        adds_bos = bool(bos) and tokenizer.encode("a").tokens[:1] == [bos]
    learned = [tokenizer.id_to_token(number) for number in sorted(ends_in(folder))]
    ends = [text for text in dict.fromkeys((*learned, eos)) if text]
    try:
        found = derive(template_text(folder), bos, eos, adds_bos=adds_bos, is_dated=False)
    except (*REFUSALS, TemplateError):
        return OllamaTemplate("", ends)
    return OllamaTemplate(found.text, list(dict.fromkeys((*found.stop, *ends))))


def _text_of(token: Any) -> str:
    return str(token["content"]) if isinstance(token, dict) else token or ""


def _keys(data: mmap.mmap) -> Iterator[tuple[str, Any]]:
    """Keys and values of a checked GGUF header; of arrays only those of texts."""
    _, _, _, num_keys = struct.unpack_from("<4sIQQ", data, 0)
    at = 24

    def text() -> bytes:
        nonlocal at
        (length,) = struct.unpack_from("<Q", data, at)
        at += 8 + length
        return data[at - length : at]

    def value(kind: int) -> Any:
        nonlocal at
        if kind == STRING:
            return text()
        if kind == ARRAY:
            inner, length = struct.unpack_from("<IQ", data, at)
            at += 12
            if inner in SCALAR_BYTES:
                at += SCALAR_BYTES[inner] * length
                return None
            return [value(inner) for _ in range(length)]
        size = SCALAR_BYTES[kind]
        at += size
        return int.from_bytes(data[at - size : at], "little")

    for _ in range(num_keys):
        name = text().decode(errors="replace")
        (kind,) = struct.unpack_from("<I", data, at)
        at += 4
        yield name, value(kind)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CPU, (RENDER_CPU_S, RENDER_CPU_S))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    given = Path(sys.argv[1])
    sys.stdout.write("\n" + json.dumps((_read_folder if given.is_dir() else _read)(given)._asdict()) + "\n")
