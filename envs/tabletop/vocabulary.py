"""The words of the tabletop: colours, shapes, sizes, which of them are held out together, and names of objects."""

from __future__ import annotations

from typing import NamedTuple

COLOURS = {  # name: rgb, well apart under the tabletop's light
    "red": (0.88, 0.10, 0.12),
    "green": (0.10, 0.66, 0.20),
    "blue": (0.12, 0.28, 0.95),
    "yellow": (0.98, 0.90, 0.15),
    "purple": (0.50, 0.12, 0.72),
    "orange": (1.00, 0.50, 0.05),
    "cyan": (0.15, 0.85, 0.90),
    "pink": (1.00, 0.62, 0.78),
}
SHAPES = ("cube", "ball", "cylinder", "plate", "cross")
SIZES = {"small": 1.0, "large": 1.35}  # factor of a shape's dimensions

# One shape per colour, a fifth of all; every shape is held out in one colour at least and seen in six at least.
HELD_OUT_COMBINATIONS = frozenset(
    {
        ("red", "plate"),
        ("green", "ball"),
        ("blue", "cylinder"),
        ("yellow", "cube"),
        ("purple", "cross"),
        ("orange", "plate"),
        ("cyan", "ball"),
        ("pink", "cube"),
    }
)
SPLITS = ("train", "held_out_combinations", "held_out_phrasings", "held_out_layouts")
PHRASINGS = ("seen", "held_out")


class Reference(NamedTuple):
    """What a sentence calls an object: any of colour, shape and size may be left open (None)."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None

    def words(self) -> str:
        """`small red cube`; an open shape is an `object`."""
        return " ".join(word for word in (self.size, self.colour, self.shape or "object") if word)

    def definite(self) -> str:
        return f"the {self.words()}"

    def indefinite(self) -> str:
        words = self.words()
        return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"

    def may_be(self, other: Reference) -> bool:
        """Both may mean the same object."""
        return all(a is None or b is None or a == b for a, b in zip(self, other))

    def means(self, thing) -> bool:
        """`thing` has the colour, the shape and the size that are said."""
        colour, shape, size = self
        return (
            (colour is None or thing.colour == colour)
            and (shape is None or thing.shape == shape)
            and (size is None or thing.size == size)
        )


def check_choice(name: str, value: str, choices) -> None:
    """Raise ValueError where `value` is none of `choices`."""
    if value not in choices:
        raise ValueError(f"{name}={value!r} is not one of {', '.join(choices)}")
