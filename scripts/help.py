"""Draws `worldmodel --help` and `worldmodel <verb> --help`, from the modules' and the YAML files' own words."""

from __future__ import annotations

import ast
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripts.documented import Key
from scripts.settings import Catalogue


def verbs() -> dict[str, str]:
    """Each verb and what it is for: the modules here whose first line is `worldmodel <verb>: <what>`."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        words = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
        head, _, what = " ".join(words.split()).partition(": ")
        if head == f"worldmodel {path.stem}":
            found[path.stem] = what
    order = ["train", "evaluate", "record", "collect", "imagine", "imitate", "adapt", "improve"]
    return {
        name: found[name] for name in sorted(found, key=lambda name: (name not in order, [*order, name].index(name)))
    }


def console() -> Console:
    """Of the terminal's width; wide enough for a line of help where there is none."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=120)


def show_overview() -> None:
    """`worldmodel --help`."""
    out = console()
    out.print("[bold]worldmodel[/]: train world models, plan and act in them.\n")
    out.print("  worldmodel <verb> \\[key=value ...]\n")
    out.print(_table((Text(name, "bold"), Text(what)) for name, what in verbs().items()))
    out.print("\n  worldmodel <verb> --help tells a verb's keys.  Each is also python -m scripts.<verb>.")


def show_verb(known: Catalogue) -> None:
    """`worldmodel <verb> --help`: usage, examples, groups and keys, as the given group choices make them."""
    out = console()
    name = f"worldmodel {known.verb}"
    out.print(Text.assemble((name, "bold"), ": ", known.document.description.removeprefix(f"{name}: ")))
    out.print(Text(f"\n  {name} [key=value ...] [group=choice ...]       -m key=a,b runs it once for each"))
    if known.document.examples:
        out.print(Text("\nExamples", "bold"))
        for example in known.document.examples:
            out.print(Text(f"  {example}"), soft_wrap=True)
    out.print(Text("\nGroups: one file of configs/ each", "bold"))
    out.print(_table((Text(group), _choices(options, known.chosen[group])) for group, options in known.groups.items()))
    for title, keys in _sections(known).items():
        out.print(Text(f"\n{title}", "bold"))
        out.print(_table((Text(key.name), Text(key.typed_default, "cyan"), Text(key.comment)) for key in keys))
    out.print(
        f"\n{name} --cfg job prints the whole config.  Also: --multirun, --config-dir <your configs>, --hydra-help."
    )


def _sections(known: Catalogue) -> dict[str, list[Key]]:
    """The keys by the part of the config they stand in; the verb's own first."""
    sections: dict[str, list[Key]] = {"Keys": []}
    for key in known.leaves():
        if "." not in key.name:
            sections["Keys"].append(key)
            continue
        top = key.name.split(".")[0]
        choice = f": {top}={known.chosen[top]}" if top in known.chosen else ""
        comment = known.keys[top].comment if top in known.keys else ""
        sections.setdefault(f"{top}{choice}" + (f"  {comment}" if comment else ""), []).append(key)
    return {title: keys for title, keys in sections.items() if keys}


def _choices(options: list[str], chosen: str) -> Text:
    parts = [(option, "bold cyan" if option == chosen else "") for option in options]
    return Text(" | ").join(Text(*part) for part in parts) + Text(f"   ({chosen})" if chosen else "", "dim")


def _table(rows) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(width=0)
    for index, row in enumerate(rows := list(rows)):
        if index == 0:
            for column in range(len(row)):
                table.add_column(
                    overflow="fold", no_wrap=column == 0, max_width=44 if column == 1 and len(row) > 2 else None
                )
        table.add_row("", *row)
    return table
