"""The YAML files as their own documentation: each key's comment, default, choices, type and place.

The convention, for whoever writes a config file:

- Comment lines at the very top describe the file; indented ones that start with `worldmodel` are examples.
- A key's comment stands behind it, and may go on in the next lines with its `#` in the same column. Comment lines right
  above a key without one of its own speak for it too.
- `quality: faithful  # fast (no shadows) | faithful (the default's look) | default`: a comment that begins with
  choices separated by `|`, each with a remark in parentheses or without, admits no other value. A last choice `...`
  admits more. Of a list, it tells the choices of the elements.
- The default tells the type: an int takes ints, a float takes ints and floats, a bool takes true and false, and so on.
  A comment with the word `null` lets the key take null too.
- A key whose default is null takes anything, unless its comment begins with a type: `# int: a deadline in seconds`.
- A key whose default is `{}` is a free dictionary: `env.kwargs.size=3` and `+env.kwargs.size=3` add to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

_CHOICE = r"[\w+-]+(?:[.:/][\w+-]+)*"
_REMARK = r"(?:\s*\([^)]*\))?"
_CHOICES = re.compile(rf"{_CHOICE}{_REMARK}(?:\s*\|\s*(?:{_CHOICE}|\.\.\.){_REMARK})+")
_TYPE = re.compile(r"(int|float|str|bool|list|dict):\s*")
_NAMES = {
    "int": "an integer",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "list": "a list, as in [a,b]",
    "dict": "a dictionary, as in {a:1,b:2}",
}


@dataclass(frozen=True)
class Key:
    """One key of one YAML file.

    Attributes:
        name: dotted name, `env.image_size`.
        default: the plain value in the file; interpolations as their text.
        comment: what the file says behind or above it; empty if nothing.
        place: file and line, `configs/env/default.yaml:4`.
    """

    name: str
    default: Any
    comment: str
    place: str

    @cached_property
    def choices(self) -> list[str]:
        """The values that the comment names, as they are typed; empty where it names none."""
        found = _CHOICES.match(self.comment)
        return [] if found is None else [re.match(rf"{_CHOICE}|\.\.\.", part.strip())[0] for part in _parts(found[0])]

    @property
    def typed_default(self) -> str:
        """The default as one types it."""
        return _typed(self.default)

    @property
    def free(self) -> bool:
        """Whether any key may be added below this one."""
        return self.default == {}

    @property
    def kind(self) -> str | None:
        """Name of the Python type that a value must have; None if it may have any."""
        if declared := _TYPE.match(self.comment):
            return declared[1]
        if self.default is None or _is_reference(self.default):
            return None
        return type(self.default).__name__

    @property
    def nullable(self) -> bool:
        """Whether null is a value."""
        return self.default is None or re.search(r"\bnull\b", self.comment) is not None

    def problem(self, value: Any) -> str | None:
        """Why `value` cannot be this key's, in a few words; None if it can."""
        if (value is None and self.nullable) or _is_reference(value):
            return None
        wrong_type = None if self.kind is None else _wrong_type(value, self.kind)
        if self.choices:
            wrong = [
                item for item in (value if isinstance(value, list) else [value]) if _typed(item) not in self.choices
            ]
            if not wrong or ("..." in self.choices and wrong_type is None):
                return None
            near = nearest(_typed(wrong[0]), self.choices)
            return (f"did you mean {near[0]}? " if near else "") + "it is one of " + " | ".join(self.choices)
        return wrong_type


def _parts(choices: str) -> list[str]:
    """Split at the bars outside of parentheses."""
    return re.split(r"\|(?![^()]*\))", choices)


def _is_reference(value: Any) -> bool:
    """Whether a value is known only when the whole config is: an interpolation, or missing (`???`)."""
    return isinstance(value, str) and ("${" in value or value == "???")


def _typed(value: Any) -> str:
    """A value as one types it on a command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "[" + ",".join(_typed(item) for item in value) + "]" if isinstance(value, list) else str(value)


def _wrong_type(value: Any, kind: str) -> str | None:
    accepted = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list, "dict": dict}.get(kind)
    if accepted is None or (isinstance(value, accepted) and (kind == "bool" or not isinstance(value, bool))):
        return None
    advice = ""
    if kind == "int" and isinstance(value, float) and value.is_integer():
        advice = f": write {int(value)}"
    if kind == "str" and isinstance(value, (int, float)):
        advice = f""": quote it for the shell and for Hydra, '"{_typed(value)}"'"""
    return f"{_NAMES[kind]} is needed{advice}"


def nearest(word: str, known: list[str], count: int = 3) -> list[str]:
    """Up to `count` of the known words that a typing mistake may have meant, best first."""
    from difflib import SequenceMatcher

    def likeness(candidate: str) -> float:
        whole = SequenceMatcher(None, word.lower(), candidate.lower()).ratio()
        last = SequenceMatcher(None, word.rsplit(".", 1)[-1].lower(), candidate.rsplit(".", 1)[-1].lower()).ratio()
        return max(whole, 0.95 * last if "." in candidate else 0.0)

    scored = sorted(((likeness(candidate), candidate) for candidate in known), key=lambda pair: (-pair[0], pair[1]))
    if not scored or scored[0][0] < 0.6:
        return []
    return [candidate for score, candidate in scored if score >= max(0.6, scored[0][0] - 0.1)][:count]


@dataclass(frozen=True)
class Document:
    """One YAML file: what it is for, how it is used, and its keys (nested sections included, parents first)."""

    description: str
    examples: tuple[str, ...]
    keys: dict[str, Key]


def read(path: Path, place: str, package: str = "") -> Document:
    """Read one file; its keys get the prefix `package`. Hydra's own `defaults` and `hydra` are left out."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    end_of_head = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    head = [line[1:].rstrip() for line in lines[:end_of_head] if not line.startswith("# @")]
    examples = tuple(line.strip() for line in head if re.match(r"\s{2,}worldmodel\b", line))
    description = " ".join(line.strip() for line in head if line.strip() not in examples)

    root = yaml.compose(text, Loader=yaml.SafeLoader)
    values = OmegaConf.to_container(OmegaConf.create(text), resolve=False) if root is not None else {}
    keys: dict[str, Key] = {}

    def walk(node: yaml.MappingNode, value: dict, prefix: str) -> None:
        for key_node, value_node in node.value:
            name = key_node.value
            if node is root and name in ("defaults", "hydra"):
                continue
            full = f"{prefix}.{name}" if prefix else name
            nested = isinstance(value_node, yaml.MappingNode) and bool(value_node.value)
            block = isinstance(value_node, yaml.CollectionNode) and not value_node.flow_style
            end = key_node.end_mark if block else value_node.end_mark
            line = key_node.start_mark.line
            comment = _comment(lines, line, end.line, end.column, first=end_of_head)
            keys[full] = Key(full, value[name], comment, f"{place}:{line + 1}")
            if nested:
                walk(value_node, value[name], full)

    if isinstance(root, yaml.MappingNode):
        walk(root, values, package)
    return Document(description, examples, keys)


def _comment(lines: list[str], line: int, end_line: int, end_column: int, first: int) -> str:
    """The comment of the key on `line` whose value ends at (`end_line`, `end_column`); all counted from 0."""
    behind = re.match(r":?\s*#\s?(.*)", lines[end_line][end_column:]) if end_line < len(lines) else None
    if behind:
        column = lines[end_line].index("#", end_column)
        words = [behind[1].strip()]
        for follower in lines[end_line + 1 :]:
            if follower.strip()[:1] != "#" or follower.index("#") != column:
                break
            words.append(follower.strip()[1:].strip())
        return " ".join(words)
    above = []
    indentation = len(lines[line]) - len(lines[line].lstrip())
    for previous in reversed(lines[first:line]):
        if previous.strip()[:1] != "#" or previous.index("#") != indentation:
            break
        above.insert(0, previous.strip()[1:].strip())
    return " ".join(above)
