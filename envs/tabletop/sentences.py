"""Makes sentences of phrasings."""

from __future__ import annotations

from envs.tabletop.vocabulary import Reference

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")


def fill(template: str, subjects: tuple[Reference, ...], value: str | int | None = None) -> str:
    """The template as a sentence; a number is spelt."""
    definite = [reference.definite() for reference in subjects]
    indefinite = {f"a{index}": reference.indefinite() for index, reference in enumerate(subjects)}
    return template.format(*definite, value=_NUMBERS[value] if isinstance(value, int) else value, **indefinite)
