"""What a chat template makes of conversations, and where in its text the answers stand.

Templates write turns in their own ways: some move the system text, write the last turn unlike earlier ones, or leave out
old thoughts. So nothing is found by comparing beginnings. Contents are marked (`markers.py`), and an answer reaches from
where the text after the question stops being what the template writes when it awaits an answer, to its end mark.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tunesmith.core.errors import BadData
from tunesmith.dataprep.conversion import Example
from tunesmith.recipes.blocks.markers import THOUGHT, Marked, Rendered, has_thought, mark, read_marks
from tunesmith.recipes.blocks.talks import Note, Talk, other_ways, written
from tunesmith.recipes.blocks.templates import Conversation, Part, Renderer
from tunesmith.recipes.blocks.tokenizer import opening
from tunesmith.recipes.blocks.tool_text import as_text, with_tools

LEAST_SHARED = 3
"""Characters from which on a heading is recognized by its end."""
OPENS_THOUGHT = re.compile(r"<think>\s*\Z")
NO_TOOLS = "The model's chat template has no place for functions and their calls."
NO_TOOLS_HINT = "Set tool_calls: ready to give it a ready part that has, or tool_calls: text to write them as text into the messages."


class Lesson(NamedTuple):
    """A text as the model reads it, and what of it is learned."""

    text: str
    spans: list[tuple[int, int]]
    """Characters, from and to."""
    notes: frozenset[Note] = frozenset()


class Options(NamedTuple):
    """What a job decides about conversations; the fields are those of `SftParams`."""

    train_on: str = "completions"
    system_prompt: str | None = None
    tool_calls: str = "text"
    rewritten_turns: str = "split"


class Shown(NamedTuple):
    """One conversation as the template writes it."""

    talk: Talk
    marked: Marked
    whole: Rendered
    awaited: dict[int, str]
    """For each learned message: what the template writes after what is before it when it awaits an answer."""


class Answer(NamedTuple):
    """Where one answer stands."""

    begin: int
    end: int
    has_end_mark: bool


class Chat:
    """The chat template of one tokenizer, for learning. Asks it once what its end marks are."""

    def __init__(self, tokenizer: Any, template: Renderer, options: Options) -> None:
        self._tokenizer, self._template, self._options = tokenizer, template, options
        tokens = tokenizer.added_tokens_decoder.values()
        self._special = {token.content for token in tokens if token.special} | set(tokenizer.all_special_tokens)
        self._awaited: dict[tuple[str, bool, bool], str] = {}
        self._has_tools: bool | None = None
        self.ends, self._last_tail, self._header = self._ask_for_ends()

    @property
    def end_marks(self) -> list[str]:
        """Tokens that a model learns to end an answer with, as text."""
        return list(dict.fromkeys(self.ends if self._marks_last else [*self.ends, self._tokenizer.eos_token]))

    @property
    def _marks_last(self) -> bool:
        return self._first_special(self._last_tail) is not None

    def _ask_for_ends(self) -> tuple[tuple[str, ...], str, str]:
        """`(end marks, what follows the last answer, what follows a question when an answer is awaited)`."""
        pair = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        marked = mark([*pair, *pair]).messages
        asked = [Conversation(marked, [Part(4, prompt=False)]), Conversation(marked, [Part(1, prompt=True)])]
        whole, question = self._template.render_all(asked)
        ends, tail, header = [], "", ""
        if not isinstance(whole, BadData):
            shown = read_marks(whole[0])
            last, first = shown.region(3, 1), shown.region(1, 1)
            tail = shown.text[last.end :] if last else ""
            middle = shown.text[first.end : shown.after(first.end, 1)] if first else ""
            ends = [found[0] for part in (tail, middle) if (found := self._first_special(part))]
        if not isinstance(question, BadData):
            shown = read_marks(question[0])
            header = shown.text[shown.end :]
        return tuple(dict.fromkeys(ends)), tail.rstrip(), header

    def _first_special(self, text: str) -> tuple[str, int] | None:
        """`(token, where it ends)`"""
        found = [(place, token) for token in self._special if (place := text.find(token)) >= 0]
        if not found:
            return None
        place = min(place for place, _ in found)
        token = max((token for at, token in found if at == place), key=len)
        return token, place + len(token)

    def has_tools(self) -> bool:
        """Whether the template writes functions and calls."""
        if self._has_tools is None:
            tool = {"type": "function", "function": {"name": "zq_probe", "description": "d", "parameters": {
                "type": "object", "properties": {"x": {"type": "string", "description": "d"}}, "required": ["x"]}}}  # fmt: skip
            call = {
                "id": "call00001",
                "type": "function",
                "function": {"name": "zq_probe", "arguments": {"x": "zq_value"}},
            }
            asks = {"role": "user", "content": "a"}
            calls = {"role": "assistant", "content": "", "tool_calls": [call]}
            as_text_too = {**calls, "tool_calls": [written(call)]}
            found = self._template.render_all([
                Conversation([asks], [Part(1, prompt=True)], [tool]),
                *(Conversation([asks, each], [Part(2, prompt=False)], [tool]) for each in (calls, as_text_too)),
            ])  # fmt: skip
            told, *called = ["" if isinstance(text, BadData) else text[0] for text in found]
            self._has_tools = "zq_probe" in told and any("zq_value" in text for text in called)
        return self._has_tools

    # -- rows → lessons ---------------------------------------------------------------------------------------------

    def lessons(self, examples: Sequence[Example | BadData]) -> list[list[Lesson] | BadData]:
        """For each row its lessons, one or more; or why nothing can be learned from it."""
        made: list[Any] = [self._begin(example) for example in examples]
        places = [place for place, found in enumerate(made) if isinstance(found, Talk)]
        for place, shown in zip(places, self._show([made[place] for place in places]), strict=True):
            made[place] = shown
        apart = {place: self._apart(made[place]) for place in places if isinstance(made[place], Shown)}
        pairs = [(place, talk) for place, talks in apart.items() for talk in talks]
        taught: dict[int, list[Lesson]] = {}
        for (place, _), shown in zip(pairs, self._show([talk for _, talk in pairs]), strict=True):
            taught.setdefault(place, []).append(self._one_turn(shown))
        for place in apart:
            made[place] = self._taught(made[place], taught.get(place, []))
        return made

    def _begin(self, example: Example | BadData) -> Talk | list[Lesson] | BadData:
        if isinstance(example, BadData):
            return example
        if example.text is not None:
            return [self._plain_text(example.text)]
        messages, learned, tools = list(example.messages), list(example.learned), example.tools
        if self._options.system_prompt and messages[0]["role"] != "system":
            messages, learned = (
                [{"role": "system", "content": self._options.system_prompt}, *messages],
                [False, *learned],
            )
        if (tools or any("tool_calls" in m or m["role"] == "tool" for m in messages)) and not self.has_tools():
            if self._options.tool_calls == "template":
                return BadData(NO_TOOLS, hint=NO_TOOLS_HINT)
            messages, origins = as_text(messages, tools)
            learned, tools = [learned[origin] for origin in origins], []
        cleaned = [self._without_marks(message) for message in messages]
        notes: set[Note] = {"doubled_marks"} if cleaned != messages else set()
        return Talk(cleaned, learned, tools, frozenset(notes))

    def _plain_text(self, text: str) -> Lesson:
        begin, end = opening(self._tokenizer), self._tokenizer.eos_token
        doubled = (begin and text.startswith(begin)) or text.rstrip().endswith(end)
        text = text if begin and text.startswith(begin) else begin + text
        text = text.rstrip() if text.rstrip().endswith(end) else text + end
        return Lesson(text, [(0, len(text))], frozenset({"doubled_marks"} if doubled else ()))

    def _without_marks(self, message: dict[str, Any]) -> dict[str, Any]:
        """Without the tokens that the template writes itself: some files carry them in their texts."""
        content, first = message["content"], self._tokenizer.bos_token
        if first and content.lstrip().startswith(first):
            content = content.lstrip().removeprefix(first)
        if message["role"] == "assistant":
            for end in (*self.ends, self._tokenizer.eos_token):
                if content.rstrip().endswith(end):
                    content = content.rstrip().removesuffix(end)
        return message if content == message["content"] else {**message, "content": content}

    # -- what the template writes -----------------------------------------------------------------------------------

    def _show(self, talks: list[Talk], *, is_retry: bool = False) -> list[Shown | BadData]:
        """Each as the template writes it; one that it refuses is tried in other ways of saying the same."""
        marked = [mark(talk.messages) for talk in talks]
        asked: list[Conversation] = []
        for talk, marks in zip(talks, marked, strict=True):
            whole = [Part(len(talk.messages), prompt=False)]
            asked += [Conversation(talk.messages, whole, talk.tools), Conversation(marks.messages, whole, talk.tools)]
        wanted = self._unknown(talks)
        asked += [Conversation(marked[n].messages, [Part(i, prompt=True)], talks[n].tools) for n, i in wanted.values()]
        found = self._template.render_all(asked)
        for key, text in zip(wanted, found[2 * len(talks) :], strict=True):
            if not isinstance(text, BadData) and (shown := read_marks(text[0])).end:
                self._awaited[key] = shown.text[shown.end :]
        return [
            self._shown(talk, marks, found[2 * n], found[2 * n + 1], is_retry=is_retry)
            for n, (talk, marks) in enumerate(zip(talks, marked, strict=True))
        ]

    def _unknown(self, talks: list[Talk]) -> dict[tuple[str, bool, bool], tuple[int, int]]:
        """Kinds of places where an answer is awaited that have not been seen yet, each with `(talk, message)`."""
        wanted: dict[tuple[str, bool, bool], tuple[int, int]] = {}
        for number, talk in enumerate(talks):
            for place in _learned(talk):
                key = _kind(talk, place)
                if place and key not in self._awaited:
                    wanted.setdefault(key, (number, place))
        return wanted

    def _shown(
        self, talk: Talk, marked: Marked, plain: list[str] | BadData, marks: list[str] | BadData, *, is_retry: bool
    ) -> Shown | BadData:
        if isinstance(plain, BadData):
            others = [] if is_retry else other_ways(talk)
            tried = (self._show([other], is_retry=True)[0] for other in others)
            return next((shown for shown in tried if not isinstance(shown, BadData)), plain)
        whole = read_marks("" if isinstance(marks, BadData) else marks[0])
        if whole.text != plain[0]:  # the template looks into what others say: their contents stay as they are
            marked = mark(talk.messages, lambda number: talk.learned[number])
            again = Conversation(marked.messages, [Part(len(talk.messages), prompt=False)], talk.tools)
            found = self._template.render_all([again])[0]
            whole = read_marks("" if isinstance(found, BadData) else found[0])
        if whole.text != plain[0]:
            return BadData("The model's chat template does not show where the answer stands; use train_on: all.")
        awaited = {
            place: self._awaited.get(_kind(talk, place), self._header) if place else self._header
            for place in _learned(talk)
        }
        return Shown(talk, marked, whole, awaited)

    # -- where the answers stand ------------------------------------------------------------------------------------

    def _answer(self, shown: Shown, number: int) -> Answer | None:
        """None when the text does not show the whole of what was said."""
        region = shown.whole.region(number, len(shown.marked.parts[number]))
        if region is None or not region.is_whole:
            return None
        return self._around(shown, number, region.begin, region.end)

    def _around(self, shown: Shown, number: int, content_begin: int, content_end: int) -> Answer:
        text = shown.whole.text
        before = shown.whole.before(content_begin, number)
        begin = before + heading_length(text[before:content_begin], shown.awaited[number], is_first=before == 0)
        tail = text[content_end : shown.whole.after(content_end, number)]
        length, has_mark = self._end_of(tail)
        return Answer(begin, content_end + length, has_mark)

    def _end_of(self, tail: str) -> tuple[int, bool]:
        """`(characters of what follows an answer that belong to it, whether they hold an end mark)`."""
        places = [place + len(end) for end in self.ends if (place := tail.find(end)) >= 0]
        if places:
            return min(places), True
        if found := self._first_special(tail):
            return found[1], True
        return len(tail[: num_shared(tail, self._last_tail)].rstrip()), False

    def _apart(self, shown: Shown) -> list[Talk]:
        """A conversation of its own for each learned turn that the whole text does not show, up to that turn."""
        talk = shown.talk
        if self._options.train_on == "all":
            return []
        lost = [place for place in _learned(talk) if self._answer(shown, place) is None]
        if self._options.rewritten_turns != "split":
            lost = [place for place in lost if place == len(talk.messages) - 1]
        return [
            Talk(talk.messages[: place + 1], [n == place for n in range(place + 1)], talk.tools, talk.notes)
            for place in lost
        ]

    def _one_turn(self, shown: Shown | BadData) -> Lesson:
        """The last turn of the conversation, alone; a lesson without spans when it cannot be shown."""
        if isinstance(shown, BadData):
            return Lesson("", [], frozenset({"lost_turns"}))
        place = len(shown.talk.messages) - 1
        answer = self._answer(shown, place)
        if answer is not None:
            return self._lesson(shown, [answer], {"rewritten_turns"})
        return self._with_thought(shown, place) or Lesson(shown.whole.text, [], frozenset({"lost_turns"}))

    def _with_thought(self, shown: Shown, place: int) -> Lesson | None:
        """The turn with the thought that the template cuts off it, where the template opens a thought for the answer."""
        message, parts = shown.talk.messages[place], shown.marked.parts[place]
        region = shown.whole.region(place, len(parts))
        if region is None or region.lost != {0} or not has_thought(message):
            return None
        try:
            prompt = self._template.render(shown.talk.messages[:place], prompt=True, tools=shown.talk.tools)
        except BadData:
            return None
        if not OPENS_THOUGHT.search(prompt):
            return None
        cut = THOUGHT.match(message["content"])
        said = (
            f"{cut[2]}{cut[3]}{cut[4]}" if cut else f"{message['reasoning_content']}\n</think>\n\n{message['content']}"
        )
        answer = self._around(shown, place, region.begin, region.end)
        tail = shown.whole.text[region.end : answer.end] or self._tokenizer.eos_token
        text = prompt + (said.lstrip("\n") if prompt.endswith("\n") else said).rstrip() + tail
        return Lesson(text, [(len(prompt), len(text))], shown.talk.notes | {"rewritten_turns"})

    def _taught(self, shown: Shown, apart: list[Lesson]) -> list[Lesson] | BadData:
        """All lessons of one row: turns that stand alone, then the whole conversation."""
        found = {place: self._answer(shown, place) for place in _learned(shown.talk)}
        answers = [answer for answer in found.values() if answer is not None]
        notes: set[Note] = {note for lesson in apart for note in lesson.notes if not lesson.spans}
        if len(apart) + len(answers) < len(found) and self._options.train_on != "all":
            notes.add("lost_turns")
        if self._loses_text(shown):
            notes.add("lost_text")
        lessons = [lesson for lesson in apart if lesson.spans]
        if answers or self._options.train_on == "all":
            lessons.append(self._lesson(shown, answers, notes))
        elif lessons:
            lessons[-1] = lessons[-1]._replace(notes=lessons[-1].notes | notes)
        if not lessons:
            return BadData(
                "The model's chat template does not write what the assistant says.",
                hint="Set train_on: all, or use a model with another template.",
            )
        return lessons

    def _loses_text(self, shown: Shown) -> bool:
        """Whether something that is said to the model is not in the text."""
        return any(
            shown.whole.region(number, len(parts)) is None
            for number, parts in enumerate(shown.marked.parts)
            if parts and shown.talk.messages[number]["role"] != "assistant"
        )

    def _lesson(self, shown: Shown, answers: list[Answer], notes: set[Note]) -> Lesson:
        text, spans = shown.whole.text, [(answer.begin, answer.end) for answer in answers]
        if any(not answer.has_end_mark for answer in answers) or not (answers or self._marks_last):
            notes = {*notes, "no_end_mark"}
        last = answers[-1] if answers and shown.talk.learned[-1] else None
        if last and not last.has_end_mark and not text[last.end :].strip():
            text = text[: last.end] + self._tokenizer.eos_token
            spans[-1] = (last.begin, len(text))
        if self._options.train_on == "all":
            spans = [(0, len(text))]
        return Lesson(text, spans, shown.talk.notes | notes)


def heading_length(frame: str, awaited: str, *, is_first: bool) -> int:
    """How much of `frame`, the text before an answer, is written by the template when it awaits the answer.

    `awaited` is what it writes then. Before an answer that nothing precedes the frame may begin with anything.
    """
    shared = 0 if is_first else num_shared(frame, awaited)
    if shared == len(awaited) and not is_first:
        return shared
    for length in range(len(awaited), max(LEAST_SHARED, shared + 1) - 1, -1):
        if (place := frame.rfind(awaited[-length:])) >= 0:
            return place + length
    return len(frame) if is_first else shared


def num_shared(a: str, b: str) -> int:
    """With how many characters both begin."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _learned(talk: Talk) -> list[int]:
    return [number for number, is_learned in enumerate(talk.learned) if is_learned]


def _kind(talk: Talk, place: int) -> tuple[str, bool, bool]:
    """What the text that awaits an answer depends on."""
    before = talk.messages[place - 1]
    return before["role"], bool(before.get("tool_calls")), bool(talk.tools)


def learned_end_ids(tokenizer: Any) -> list[int]:
    """Numbers of the end marks that the chat template writes, or of the end-of-text token that stands for a missing one."""
    with Renderer(tokenizer) as template:
        marks = Chat(tokenizer, template, Options()).end_marks
    return [int(number) for mark in marks if isinstance(number := tokenizer.convert_tokens_to_ids(mark), int)]


def give_tools(tokenizer: Any) -> None:
    """Put a ready part before the chat template that writes functions and calls, unless it has a place for them itself."""
    with Renderer(tokenizer) as template:
        if isinstance(tokenizer.chat_template, str) and not Chat(tokenizer, template, Options()).has_tools():
            tokenizer.chat_template = with_tools(tokenizer.chat_template)
