"""Rows as many tools write them, and what is to be learned from each: `(name, columns as stored, answers)`.

`answers` are the stretches that the model learns, without end marks. `None` means that the row is refused.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class Case(NamedTuple):
    """One row, the shape that it must be recognized as, what is read and what is learned."""

    name: str
    row: dict[str, Any]
    shape: str
    learned: list[str] | None
    read: list[str] = []
    """Texts that stand in the prompt."""
    absent: list[str] = []
    """Texts that must not be there at all."""


def user(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def says(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def system(text: Any, role: str = "system") -> dict[str, Any]:
    return {"role": role, "content": text}


def human(text: str, by: str = "human") -> dict[str, Any]:
    return {"from": by, "value": text}


def talk(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


def sharegpt(*turns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"conversations": list(turns), **more}


def text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


CASES = [
    # OpenAI
    Case("plain chat", talk(user("Q"), says("A")), "messages", ["A"], ["Q"]),
    Case("two answers", talk(system("S"), user("Q"), says("A"), user("R"), says("B")), "messages", ["A", "B"], ["S", "Q", "R"]),
    Case("weight 0", talk(user("2?"), says("WRONG", weight=0), user("No"), says("2", weight=1)), "messages", ["2"], ["WRONG"]),
    Case("weight as text", talk(user("2?"), says("WRONG", weight="0"), user("No"), says("2")), "messages", ["2"], ["WRONG"]),
    Case("weight of a half", talk(user("2?"), says("2", weight=0.5)), "messages", None),
    Case("parts", talk(user([text_part("Hello "), text_part("you")]), says([text_part("Hi")])), "messages", ["Hi"], ["Hello you"], ["type"]),
    Case("parts of text in", talk(user([{"type": "input_text", "text": "Q"}]), says([{"type": "output_text", "text": "A"}])), "messages", ["A"], ["Q"]),
    Case("an image", talk(user([text_part("What?"), {"type": "image_url", "image_url": {"url": "x"}}]), says("A")), "messages", None),
    Case("developer", talk(system("Be terse.", "developer"), user("Q"), says("A")), "messages", ["A"], ["Be terse."], ["developer"]),
    Case("null answer", talk(user("a"), says(None), user("again"), says("b")), "messages", ["b"], ["again"]),
    Case("blank answer", talk(user("a"), says("  "), user("again"), says("b")), "messages", ["b"]),
    Case("only null answers", talk(user("a"), says(None)), "messages", None),
    Case("ends with the user", talk(user("Q"), says("A"), user("thanks")), "messages", ["A"], ["thanks"]),
    Case("system only", talk(system("S")), "messages", None),
    Case("two users in a row", talk(user("Q"), user("R"), says("A")), "messages", ["A"], ["Q", "R"]),
    Case("name", talk(user("Q", name="ann"), says("A", name="bob")), "messages", ["A"], ["Q"], ["None"]),
    Case("metadata", talk(user("Q"), says("A"), metadata={"secret": 1}), "messages", ["A"], [], ["secret"]),
    Case("system column", talk(user("Q"), says("A"), system="Be kind."), "messages", ["A"], ["Be kind."]),
    Case("refusal", talk(user("Q"), {"role": "assistant", "content": None, "refusal": "No."}), "messages", ["No."]),
    Case("leading lines", talk(user("Write code"), says("x\n\nprint(1)")), "messages", ["x\n\nprint(1)"]),
    Case("unknown speaker", talk(user("Q"), {"role": "wizard", "content": "A"}), "messages", None),
    # ShareGPT
    Case("sharegpt", sharegpt(human("Q"), human("A", "gpt")), "conversations", ["A"], ["Q"]),
    Case("odd spellings", sharegpt(human("Q", " Human "), human("A", "GPT")), "conversations", ["A"], ["Q"]),
    Case("sharegpt system", sharegpt(human("Q"), human("A", "gpt"), system="S"), "conversations", ["A"], ["S", "Q"]),
    Case("chat key", {"chat": [user("Q"), says("A")]}, "messages", ["A"]),
    Case("as JSON text", {"messages": json.dumps([user("Q"), says("A")])}, "messages", ["A"]),
    # Alpaca
    Case("alpaca", {"instruction": "I", "input": "more", "output": "O"}, "alpaca", ["O"], ["I\n\nmore"]),
    Case("alpaca system and history", {"system": "Pirate.", "instruction": "Say", "input": "", "output": "Arr", "history": [["Hi", "Ahoy"]]},
         "alpaca", ["Arr"], ["Pirate.", "Hi", "Ahoy", "Say"]),
    Case("instruction, response", {"instruction": "I", "response": "O"}, "alpaca", ["O"], ["I"]),
    # TRL
    Case("prompt, completion", {"prompt": "Q", "completion": "A"}, "prompt_completion", ["A"], ["Q"]),
    Case("conversational", {"prompt": [system("S"), user("Q")], "completion": [says("A")]}, "prompt_completion", ["A"], ["S", "Q"], ["role"]),
    Case("answers in the prompt", {"prompt": [user("Q"), says("old"), user("R")], "completion": [says("A")]}, "prompt_completion", ["A"], ["old"]),
    Case("preference", {"prompt": "Q", "chosen": "good", "rejected": "bad"}, "preference", ["good"], ["Q"], ["bad"]),
    Case("preference lists", {"prompt": [user("Q")], "chosen": [says("good")], "rejected": [says("bad")]}, "preference", ["good"], ["Q"], ["bad"]),
    Case("implicit prompt", {"chosen": [user("Q"), says("good")], "rejected": [user("Q"), says("bad")]}, "preference", ["good"], ["Q"], ["bad"]),
    Case("shared beginning", {"chosen": [user("Q"), says("old"), user("R"), says("good")], "rejected": [user("Q"), says("old"), user("R"), says("bad")]},
         "preference", ["good"], ["old"], ["bad"]),
    Case("kto", {"prompt": "Q", "completion": "A", "label": True}, "kto", ["A"], ["Q"]),
    Case("kto as text", {"prompt": "Q", "completion": "A", "label": "true"}, "kto", ["A"], ["Q"]),
    Case("kto conversational", {"prompt": [user("Q")], "completion": [says("A")], "label": True}, "kto", ["A"], ["Q"]),
    # Questions and answers
    Case("question, answer", {"question": "Q", "answer": "A"}, "question_answer", ["A"], ["Q"]),
    Case("with context", {"context": "Open at 9.", "question": "When?", "answer": "At 9."}, "question_answer", ["At 9."], ["Open at 9.\n\nWhen?"]),
    Case("SQuAD", {"id": "1", "title": "T", "context": "C", "question": "Q", "answers": {"text": ["a1", "a2"], "answer_start": [1, 2]}},
         "question_answer", ["a1"], ["C\n\nQ"], ["answer_start"]),
    Case("SQuAD without answer", {"context": "C", "question": "Q", "answers": {"text": [], "answer_start": []}}, "question_answer", None),
    Case("list of answers", {"question": "Q", "answer": ["H", "hydrogen"]}, "question_answer", None),
    Case("an object", {"question": "q", "answer": {"n": 0, "ä": [1]}}, "question_answer", ['{"n": 0, "ä": [1]}'], ["q"]),
    Case("true", {"question": "even?", "answer": True}, "question_answer", ["true"], [], ["True"]),
    Case("1.0", {"question": "half of 2?", "answer": 1.0}, "question_answer", ["1.0"]),
    Case("20 digits", {"question": "id?", "answer": 100000000000000000001}, "question_answer", ["100000000000000000001"]),
    Case("leading zeros", {"question": "code?", "answer": "00712"}, "question_answer", ["00712"]),
    Case("decimal comma", {"question": "price?", "answer": "88,50"}, "question_answer", ["88,50"]),
    Case("system, question, response", {"system": "Pirate", "question": "q", "response": "a"}, "question_answer", ["a"], ["Pirate"]),
    Case("prompt, response", {"prompt": "Q", "response": "A"}, "prompt_completion", ["A"], ["Q"]),
    Case("user, assistant", {"user": "Q", "assistant": "A"}, "question_answer", ["A"], ["Q"]),
    Case("lines", {"input": ["one", "two"], "output": "A"}, "input_output", ["A"], ["one\ntwo"]),
    Case("German", {"Frage": "Q", "Antwort": "A"}, "question_answer", ["A"], ["Q"]),
    Case("German, longer", {"Nr": 1, "Kundenfrage": "Q", "Antwort des Supports": "A"}, "question_answer", ["A"], ["Q"]),
    Case("French", {"Question": "Q", "Réponse": "A"}, "question_answer", ["A"], ["Q"]),
    Case("Spanish", {"pregunta": "Q", "respuesta": "A"}, "question_answer", ["A"], ["Q"]),
    Case("Portuguese", {"pergunta": "Q", "resposta": "A"}, "question_answer", ["A"], ["Q"]),
    Case("Chinese", {"问题": "Q", "答案": "A"}, "question_answer", ["A"], ["Q"]),
    Case("Japanese", {"質問": "Q", "回答": "A"}, "question_answer", ["A"], ["Q"]),
]  # fmt: skip

WEATHER = {"name": "weather", "arguments": {"city": "Rome"}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}  # fmt: skip
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
TOOL_ROWS = {
    "tool_calls": talk(user("W?"), {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
                       says("Sunny."), tools=[TOOL]),
    "ends in a call": talk(user("W?"), {"role": "assistant", "tool_calls": [CALL]}, tools=[]),
    "legacy": talk(user("W?"), {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city": "Rome"}'}},
                   {"role": "function", "name": "weather", "content": "sunny"}, says("Sunny."), functions=[TOOL["function"]]),
    "sharegpt": sharegpt(human("W?"), human(json.dumps(WEATHER), "function_call"), human("sunny", "observation"), human("Sunny.", "gpt"),
                         tools=json.dumps([TOOL["function"]])),
}  # fmt: skip
"""All say the same: a call, its answer, and an answer."""
