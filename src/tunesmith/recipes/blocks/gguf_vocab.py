"""A model folder's tokenizer as llama.cpp wants it: tokens, their kinds, merges or scores, special tokens, chat template.

Read from `tokenizer.json` alone, which holds all of it; nothing of the model's is executed.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from gguf import GGUFWriter, TokenType

from tunesmith.core.errors import NotFound, UnsupportedFormat
from tunesmith.recipes.blocks.endings import ends_in
from tunesmith.recipes.blocks.gguf_limits import check_tokenizer, parts
from tunesmith.recipes.chat_template import template_text
from tunesmith.recipes.model_info import read_json

LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
ENDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SLASHED = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
FRONT = r"[^\r\n\p{L}\p{N}]?"
SPLITS = {
    rf"{ENDS}|{LETTERS}|\p{{N}}|{REST}": "qwen2",
    rf"{ENDS}|{FRONT}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen35",
    rf"{ENDS}|{LETTERS}|\p{{N}}{{1,3}}|{REST}": "llama-bpe",
    rf"{FRONT}{UPPER}*{LOWER}+|{FRONT}{UPPER}+{LOWER}*|\p{{N}}|{SLASHED}": "tekken",
    rf"{FRONT}{UPPER}*{LOWER}+{ENDS}?|{FRONT}{UPPER}+{LOWER}*{ENDS}?|\p{{N}}{{1,3}}|{SLASHED}": "gpt-4o",
}
"""How a byte-level tokenizer cuts text before it merges → what llama.cpp calls that. Each is the expression as it stands in
`tokenizer.json`, with line ends escaped."""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What `ByteLevel` does of itself."""
LOOKS_SPECIAL = re.compile(r"<[|｜].*[|｜]>")
SPACE = "\u2581"
"""How SentencePiece writes a space."""
SPECIAL = ("bos", "eos", "unk", "pad", "sep", "mask")


class Vocab(NamedTuple):
    """All that goes into the file's header."""

    model: str
    """`gpt2` for byte-level BPE, `llama` for SentencePiece."""
    pre: str
    tokens: list[bytes]
    kinds: list[int]
    scores: list[float]
    merges: list[str]
    ids: dict[str, int]
    """`bos`, `eos`, … → number."""
    adds_bos: bool
    adds_eos: bool
    adds_space: bool
    chat_template: str
    notes: list[str]
    """What is not carried over for all text."""

    def write(self, writer: GGUFWriter) -> None:
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        if self.model == "llama":
            writer.add_token_scores(self.scores)
        else:
            writer.add_token_merges(self.merges)
        writer.add_token_types(self.kinds)
        for name, number in self.ids.items():
            getattr(writer, f"add_{name}_token_id")(number)
        writer.add_add_bos_token(self.adds_bos)
        writer.add_add_eos_token(self.adds_eos)
        if self.model == "llama":
            writer.add_add_space_prefix(self.adds_space)
        if self.chat_template:
            writer.add_chat_template(self.chat_template)


def read_vocab(folder: Path, num_rows: int) -> Vocab:
    """The tokenizer of a model folder, filled up to the embedding's `num_rows`.

    Raises `NotFound` without `tokenizer.json`, `UnsupportedFormat` for kinds that llama.cpp would cut differently.
    """
    if not (folder / "tokenizer.json").is_file():
        raise NotFound(
            f"{folder.name} has no tokenizer.json.",
            hint="Save the tokenizer with transformers once; it writes tokenizer.json beside the weights.",
        )
    told = read_json_text(folder / "tokenizer.json")
    config = _optional(folder / "tokenizer_config.json")
    model = told["model"]
    if model.get("type") != "BPE":
        raise UnsupportedFormat(
            f"The tokenizer is of the kind {model.get('type')}, which is not converted here.",
            hint="Install llama.cpp and set LLAMA_CPP_DIR to its folder: its own converter is used then.",
        )
    pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model.get("merges") or ()]
    is_pieces = bool(model.get("byte_fallback"))
    tokens, kinds = _tokens(told, num_rows, is_pieces)
    known = {**model["vocab"], **{token["content"]: token["id"] for token in told.get("added_tokens") or ()}}
    adds_bos, adds_eos = _additions(told, config)
    pre = "default" if is_pieces else _pre(told)
    notes = check_tokenizer(told, config, is_pieces=is_pieces, pre=pre)
    return Vocab(
        model="llama" if is_pieces else "gpt2",
        pre=pre,
        tokens=tokens,
        kinds=kinds,
        scores=_scores(model["vocab"], pairs, num_rows) if is_pieces else [],
        merges=[] if is_pieces else [" ".join(part.replace(" ", "\u0120") for part in pair) for pair in pairs],
        ids=_special_ids(folder, config, known, num_rows),
        adds_bos=adds_bos,
        adds_eos=adds_eos,
        adds_space=_adds_space(told),
        chat_template=template_text(folder),
        notes=notes,
    )


def read_json_text(path: Path) -> dict[str, Any]:
    """`tokenizer.json`, which may be longer than a configuration. Raises `UnsupportedFormat` when it is no tokenizer."""
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("model"), dict):
        raise UnsupportedFormat(f"{path.name} is not a tokenizer.", hint="Download the model again.")
    return found


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _tokens(told: dict[str, Any], num_rows: int, is_pieces: bool) -> tuple[list[bytes], list[int]]:
    """Texts and kinds by number; rows of the embedding that no token has are called `[PAD…]`."""
    tokens = [f"[PAD{number}]".encode() for number in range(num_rows)]
    kinds: list[int] = [TokenType.UNUSED] * num_rows
    unknown = told["model"].get("unk_token")
    for text, number in told["model"]["vocab"].items():
        if number < num_rows:
            tokens[number], kinds[number] = text.encode(), TokenType.NORMAL
            if is_pieces and re.fullmatch("<0x[0-9A-F]{2}>", text):
                kinds[number] = TokenType.BYTE
            elif is_pieces and text == unknown:
                kinds[number] = TokenType.UNKNOWN
    for token in told.get("added_tokens") or ():
        number, text = token["id"], token["content"]
        if number >= num_rows or kinds[number] == TokenType.UNKNOWN:
            continue
        if token.get("special") or LOOKS_SPECIAL.fullmatch(text):
            kinds[number] = TokenType.CONTROL
        else:
            kinds[number] = TokenType.USER_DEFINED
            text = text.replace(SPACE, " ") if is_pieces else text
        tokens[number] = text.encode()
    return tokens, kinds


def _scores(vocab: dict[str, int], pairs: list[tuple[str, ...]], num_rows: int) -> list[float]:
    """llama.cpp joins the neighbours whose union scores highest; so the earliest merge gets the highest score."""
    scores = [-1e6] * num_rows
    for rank, pair in enumerate(pairs):
        number = vocab.get("".join(pair), num_rows)
        if number < num_rows and scores[number] == -1e6:
            scores[number] = -float(rank)
    return scores


def _pre(told: dict[str, Any]) -> str:
    """llama.cpp's name for how text is cut. Raises `UnsupportedFormat` when it has none."""
    steps = parts(told.get("pre_tokenizer"), "pretokenizers")
    kinds = [step.get("type") for step in steps]
    split = next((str(s["pattern"].get("Regex")) for s in steps if s.get("type") == "Split"), None)
    if kinds == ["ByteLevel"]:
        split = GPT2
    if kinds in (["Digits", "ByteLevel"], ["Split", "Digits", "ByteLevel"]) and steps[-1].get("use_regex", True):
        return "smollm" if steps[kinds.index("Digits")].get("individual_digits") else "gpt-2"
    name = SPLITS.get((split or "").replace("\r", "\\r").replace("\n", "\\n"))
    if split == GPT2:
        return "gpt-2"
    if name is None or kinds not in (["Split", "ByteLevel"], ["Split"]):
        raise UnsupportedFormat(
            "The tokenizer cuts text in a way that is not known here, so llama.cpp could read it differently.",
            hint="Install llama.cpp and set LLAMA_CPP_DIR to its folder: its own converter is used then.",
            details=[{"loc": "tokenizer.json", "message": f"{'+'.join(map(str, kinds))}: {(split or '')[:300]}"}],
        )
    return "dbrx" if name == "llama-bpe" and not told["model"].get("ignore_merges") else name


def _additions(told: dict[str, Any], config: dict[str, Any]) -> tuple[bool, bool]:
    """Whether the tokenizer puts a token before, and one after, every text."""
    for step in parts(told.get("post_processor"), "processors"):
        single = step.get("single") if step.get("type") == "TemplateProcessing" else None
        if single:
            return "SpecialToken" in single[0], "SpecialToken" in single[-1]
    return config.get("add_bos_token") is True, config.get("add_eos_token") is True


def _adds_space(told: dict[str, Any]) -> bool:
    steps = parts(told.get("normalizer"), "normalizers")
    if any(step.get("type") == "Prepend" for step in steps):
        return True
    pieces = [s for s in parts(told.get("pre_tokenizer"), "pretokenizers") if s.get("type") == "Metaspace"]
    return any(step.get("prepend_scheme", "always") != "never" for step in pieces)


def _special_ids(folder: Path, config: dict[str, Any], known: dict[str, int], num_rows: int) -> dict[str, int]:
    """Numbers of the special tokens, as the tokenizer has them, else as the model's configuration says."""
    whole = _optional(folder / "config.json")
    also = _optional(folder / "special_tokens_map.json")
    found = {}
    for name in SPECIAL:
        entry = config.get(f"{name}_token") or also.get(f"{name}_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        number = known.get(str(text)) if text else whole.get(f"{name}_token_id")
        if type(number) is int and 0 <= number < num_rows:
            found[name] = number
    others = sorted(ends_in(folder) - set(found.values()))
    if others and others[0] < num_rows:  # llama.cpp stops at this one too
        found["eot"] = others[0]
    return found
