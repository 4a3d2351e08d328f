"""Messages for a user's mistake: what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, valid: Iterable[str], prefix: str = "") -> str:
    """The nearest valid words as a sentence to append to an error message.

    Args:
        word: What the user wrote.
        valid: What would have been understood.
        prefix: What stands before each in the sentence.

    Returns:
        ` Did you mean "...", "..."?`, or an empty string when nothing is near.
    """
    lowered = {candidate.lower(): candidate for candidate in valid}
    near = difflib.get_close_matches(word.lower(), lowered, n=3, cutoff=0.6)
    if not near:
        return ""
    return " Did you mean " + ", ".join(f'"{prefix}{lowered[candidate]}"' for candidate in near) + "?"


def check_choice(name: str, value: str, valid: Iterable[str]) -> None:
    """Raise ValueError unless `value` is one of `valid`; the message names both."""
    valid = tuple(valid)
    if value not in valid:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(valid)}.{did_you_mean(str(value), valid)}")
