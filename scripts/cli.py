"""The `worldmodel` command: finds the verb and hands over to it."""

from __future__ import annotations

import os
import sys
from importlib import import_module


def main() -> None:
    """`worldmodel <verb> ...`; without a verb, the list of verbs. An unknown verb ends with exit code 2."""
    from scripts.help import show_overview, verbs

    sys.path.append(os.getcwd())  # so that env.id=my_module:MyEnv-v0 finds a module that lies here

    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        show_overview()
    elif name in ("--version", "-V"):
        from importlib.metadata import version

        print(f"worldmodel {version('worldmodel')}")
    elif name in verbs():
        import_module(f"scripts.{name}").main()
    else:
        from scripts.documented import nearest

        near = nearest(name, list(verbs()), count=1)
        meant = f"did you mean {near[0]}? " if near else ""
        print(f"worldmodel: no verb '{name}'. {meant}There are {', '.join(verbs())}.", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
