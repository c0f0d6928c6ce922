"""What a validator found wrong, in words for people: pydantic's own sentences never reach a page, a terminal or the API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PARSING = {
    "int_parsing": "a whole number", "int_type": "a whole number", "int_from_float": "a whole number",
    "float_parsing": "a number", "float_type": "a number", "decimal_parsing": "a number",
    "bool_parsing": "true or false", "bool_type": "true or false",
    "string_type": "text", "list_type": "a list", "tuple_type": "a list", "set_type": "a list", "frozen_set_type": "a list",
    "dict_type": "an object of names and values", "model_type": "an object of names and values",
    "model_attributes_type": "an object of names and values", "dataclass_type": "an object of names and values",
    "datetime_parsing": "a date and time, such as 2026-01-31T14:05:00Z", "datetime_from_date_parsing": "a date and time, such as 2026-01-31T14:05:00Z",
    "datetime_type": "a date and time, such as 2026-01-31T14:05:00Z", "date_parsing": "a date, such as 2026-01-31",
    "timezone_aware": "a date and time with its time zone, such as 2026-01-31T14:05:00Z",
    "url_parsing": "a URL, such as https://example.org", "url_type": "a URL, such as https://example.org", "url_scheme": "a URL that begins with {expected_schemes}",
    "uuid_parsing": "a UUID", "finite_number": "a finite number", "bytes_type": "text", "none_required": "left out",
    "literal_error": "{expected}", "enum": "{expected}", "greater_than": "more than {gt}", "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}", "less_than_equal": "at most {le}", "multiple_of": "a multiple of {multiple_of}",
}  # fmt: skip
"""Type of a problem → what the value must be; braces are filled from the problem's context."""
WHOLE = {
    "missing": "is missing",
    "extra_forbidden": "is not a known field",
    "json_invalid": "is not valid JSON: {error}",
    "json_type": "is not valid JSON",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} items, and has {actual_length}",
    "too_long": "must have at most {max_length} items, and has {actual_length}",
    "string_pattern_mismatch": "has characters or a form that are not allowed here",
    "string_unicode": "is not valid Unicode text",
    "int_parsing_size": "is too large a number",
    "url_too_long": "is too long",
    "recursion_loop": "is nested in itself",
}
"""Type of a problem → the whole predicate."""


def message_of(problem: Mapping[str, Any]) -> str:
    """`must be at least 1` of one of pydantic's `ValidationError.errors()`; sentences of our own validators stay as they are."""
    kind, context = problem["type"], {key: _shown(value) for key, value in (problem.get("ctx") or {}).items()}
    if kind in ("value_error", "assertion_error"):
        return str(problem["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    try:
        if kind in PARSING:
            wanted = PARSING[kind].format(**context)
            return f"must be {'one of ' if kind in ('literal_error', 'enum') and ' or ' in wanted else ''}{wanted}"
        if kind in WHOLE:
            return (
                WHOLE[kind]
                .format(**context)
                .replace("at least 1 characters", "at least 1 character")
                .replace("1 items", "1 item")
            )
    except KeyError:  # a context of another version
        pass
    return str(problem["msg"]).replace("Input should", "must").replace("String should", "must")


def _shown(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
