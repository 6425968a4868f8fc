"""`python -m <module> ...` and `python <file> ...` in forks of a process that has done the heavy imports.

A start costs milliseconds instead of seconds. What the process does, prints and ends with is what a new one's would be:
it has its own session, working directory, environment, arguments and `__main__`.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
IMPORTED = (
    "torch", "torch._dynamo", "mujoco", "gymnasium", "hydra", "imageio", "lightning_fabric", "matplotlib.pyplot",
    "safetensors.torch", "wandb", "envs", "policies.pipeline", "scripts.cli", "scripts.evaluate", "scripts.help",
    "scripts.train",
)  # fmt: skip


class Started:
    """A process that runs `python <arguments>` (a module or a file) in `folder`.

    Attributes:
        pid: of it and of its session.
    """

    def __init__(self, *arguments: str, folder: Path = ROOT, environment: dict[str, str] | None = None):
        self._files = tempfile.TemporaryDirectory()
        self._printed = [Path(self._files.name) / name for name in ("out", "errors")]
        for path in self._printed:
            path.touch()
        request = {
            "arguments": arguments,
            "folder": str(folder),
            "environment": dict(os.environ if environment is None else environment),
            "files": [os.devnull, *map(str, self._printed)],
        }
        self._server = _server()
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        self.pid = int(self._server.stdout.readline())

    @property
    def ended(self) -> bool:
        return bool(select.select([self._server.stdout], [], [], 0)[0])

    def wait(self, timeout_s: float = 280) -> tuple[int, str, str]:
        """Exit code (minus the signal's number if one ended it), output and errors.

        Raises:
            TimeoutError: it took longer, and was killed.
        """
        late = not select.select([self._server.stdout], [], [], timeout_s)[0]
        if late:
            os.killpg(self.pid, signal.SIGKILL)
        code = int(self._server.stdout.readline())
        out, errors = (path.read_text() for path in self._printed)
        self._files.cleanup()
        if late:
            raise TimeoutError(f"longer than {timeout_s} s\n{out}\n{errors}")
        return code, out, errors


@functools.cache
def _server() -> subprocess.Popen:
    """Of this process; it ends when its standard input does. One process runs at a time."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "bufsize": 0}
    return subprocess.Popen([sys.executable, __file__], cwd=ROOT, start_new_session=True, **pipes)


def _next() -> list[str]:
    """Give, for each line of input, the id of a fork and then its exit code; return, in the fork, its arguments."""
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            break
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
    else:
        sys.exit()
    request = json.loads(line)
    os.setsid()
    for number, name in enumerate(request["files"]):
        os.dup2(os.open(name, os.O_RDWR), number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    return request["arguments"]


def _run(arguments: list[str]) -> None:
    """What `python` does with a module or a file."""
    if arguments[0] == "-m":
        sys.argv, sys.path[0] = arguments[1:], os.getcwd()
        sys.modules.pop(arguments[1], None)  # it becomes `__main__`, as if nobody had imported it
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    sys.path[:1] = ["", str(ROOT)]
    for module in IMPORTED:
        importlib.import_module(module)
    _run(_next())
