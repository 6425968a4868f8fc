"""Every block of README.md runs, in its order, in one folder that the blocks share.

How blocks are read:

- `bash` and `sh`: each command in turn; `\\` joins lines, `&&` parts commands, `$ ` in front and `# ...` behind are
  dropped.
  A block in which a command ends in `&` is one script instead, which runs to its end and leaves nothing behind; a port
  8765 in it becomes a free one.
- `python`: as one program. `yaml` and `python` whose first line is `# <path>.<suffix>`: written to that path instead,
  for the blocks that follow (an env, a policy, a config of the reader's own).
- `text`, `console`, `json`, `toml`, `mermaid`: output and pictures, not run. No other language, and none without one.

Until one has trained something, everything is started as a reader's shell starts it. After that, a single `worldmodel`
command without a shell's syntax is a fork of a process that has done the imports; all else is still started anew.

A command is run as it stands unless RULES says otherwise; the first rule that matches holds. `outputs/<date>/...` with
placeholders stands for the newest run (of that task).
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from fork_server import Started

from scripts.settings import check

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
SHOWN = {"text", "console", "json", "toml", "mermaid"}
LIMIT_S = 280  # of one command; alone on two cores the longest takes 40
SIZE = "env.image_size=32"  # preset=debug's
FEW = "env.max_episode_steps=20"
SHORT = [FEW, "eval.max_steps=10"]
TINY = [FEW, "training.collect.steps=200", "training.pretrain.updates=3",
        "training.imagine.updates=2", "training.online.rounds=1", "training.online.steps=40",
        "training.validation_episodes=1", "eval.episodes=1", "eval.max_steps=10", "logging.wandb=disabled"]  # fmt: skip

# What a command is replaced by, and why. An action takes the command and the folder it runs in, and gives the command
# to run instead, or None.
RULES = [
    (r"pip install", lambda command, folder: require_extras(command),
     "takes minutes and changes this environment; instead, the extras must be those of pyproject.toml"),
    (r"(python -m )?pytest|bash \.ci/run", lambda command, folder: require_paths(command),
     "these tests are running already; instead, the paths must exist"),
    (r"git clone |cd ", lambda command, folder: None, "the checkout is here"),
    (r"torchrun|ray |sbatch", lambda command, folder: None, "wants more machines than one"),
    (r"xdg-open|open |tensorboard|wandb ", lambda command, folder: None, "wants a screen or an account"),
    (r"worldmodel train .*resume=true", lambda command, folder: command, "goes on with a run that is small already"),
    (r"worldmodel train .*(-m|--multirun)\b", lambda command, folder: require_settings(command),
     "several runs take too long; instead, the settings must be known"),
    (r"worldmodel train",
     lambda command, folder: with_settings(command, "preset=debug", *(SHORT if first(folder) else TINY)),
     "the default takes 20 minutes; the preset runs every line of it, and the later runs are cut down further"),
    (r"worldmodel evaluate .*policy=remote",
     lambda command, folder: with_settings(command, "eval.episodes=2", FEW, SIZE),
     "few steps show that the server answers; pictures of the size that the debug preset trained the served policy on"),
    (r"worldmodel evaluate (?!from=)",
     lambda command, folder: with_settings(command, "eval.episodes=2", FEW),
     "20 episodes of a planner take minutes"),
    (r"worldmodel imagine",
     lambda command, folder: with_settings(command, "updates=3", "compile=false", "eval.episodes=1", "eval.max_steps=10"),
     "1000 updates take minutes, and compiling their steps half of one"),
    (r"worldmodel record", lambda command, folder: with_settings(command, "record.max_steps=20"),
     "a planner's film takes minutes"),
    (r"worldmodel collect",
     lambda command, folder: with_settings(command, "collect.steps=200", FEW, SIZE),
     "minutes prove no more than seconds; pictures of the debug preset's size, so that it can train on them"),
    (r"python -m scripts\.benchmark", lambda command, folder: f"{command} --help",
     "measures for minutes, and on a busy machine the wrong thing"),
]  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text, and the line it begins in."""

    language: str
    text: str
    line: int


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks, in their order."""
    found, fence, start = [], None, 0
    lines = markdown.splitlines()
    for number, line in enumerate(lines):
        mark = re.match(r"\s*(```+|~~~+)\s*([\w+-]*)", line)
        if fence is None and mark:
            fence, language, start = mark[1], mark[2], number
        elif fence is not None and line.strip() == fence:
            indent = len(lines[start]) - len(lines[start].lstrip())
            text = "\n".join(text[indent:] for text in lines[start + 1 : number])
            found.append(Block(language, text, start + 1))
            fence = None
    return found


def commands(block: str) -> list[str]:
    """The single commands of a shell block."""
    joined = re.sub(r"\\\n\s*", " ", block)
    lines = (re.sub(r"(^|\s+)#.*$", "", line.strip().removeprefix("$ ")) for line in joined.splitlines())
    return [part.strip() for line in lines for part in line.split("&&") if part.strip()]


def adapted(command: str, folder: Path) -> str | None:
    """The command to run in its place; None if there is none."""
    for pattern, action, _ in RULES:
        if re.match(pattern, command):
            return action(command, folder)
    return command


def first(folder: Path) -> bool:
    """Whether no block has trained anything yet."""
    return next(folder.glob("outputs/**/checkpoints"), None) is None


def with_settings(command: str, *settings: str) -> str:
    """The command with settings that win over its own."""
    keys = [setting.split("=")[0] for setting in settings]
    words = [word for word in command.split() if word.split("=")[0] not in keys]
    return " ".join([*words, *settings])


def require_settings(command: str) -> None:
    """The command line is one that would start."""
    _, verb, *words = command.split()
    check(verb, [word for word in words if not word.startswith("-")], multirun=True)


def require_extras(command: str) -> None:
    """Every extra that is asked for is one of pyproject.toml's."""
    known = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    for extras in re.findall(r"\[([\w,]+)\]", command):
        assert set(extras.split(",")) <= known, f"{command}: pyproject.toml has the extras {sorted(known)}"


def require_paths(command: str) -> None:
    """Every path given to pytest exists."""
    for word in command.split():
        if word.startswith("tests"):
            assert (ROOT / word.split("::")[0]).exists(), f"{command}: there is no {word}"


def newest_run(folder: Path, task: str) -> str:
    """The run folder of that task, of any where it is a placeholder too, with the newest checkpoints."""
    name = "*" if "<" in task else f"*_{task}"
    runs = sorted(folder.glob(f"outputs/**/{name}/checkpoints"), key=lambda path: path.stat().st_mtime)
    assert runs, f"a block speaks of a run of {task} in outputs/, and no block before it trained one"
    return str(runs[-1].parent.relative_to(folder))


def file_named_by(block: Block) -> str | None:
    """The path in the first line, where the block is a file to write."""
    named = re.match(r"#\s*([\w./-]+\.(?:py|ya?ml))\s*$", block.text.split("\n")[0])
    return named[1] if named and block.language in ("python", "yaml") else None


def run(block: Block, folder: Path) -> None:
    """Run one block as a reader would; a failure shows the command and the end of its output."""
    if block.language in SHOWN:
        return
    if path := file_named_by(block):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(block.text + "\n")
    elif block.language == "python":
        execute([sys.executable, "-c", placed(block.text, folder)], folder, block.text)
    else:
        lines = commands(block.text)
        if any(line.endswith("&") for line in lines):
            texts = [text for line in lines if (text := replaced(line, folder))]
            script = "\n".join(["set -e", "trap 'kill $(jobs -p) 2> /dev/null || true' EXIT", *texts])
            execute(["bash", "-c", script.replace("8765", str(free_port()))], folder, block.text)
            return
        for line in lines:  # one after the other: each speaks of the runs that those before it have left
            if text := replaced(line, folder):
                execute(["bash", "-c", text], folder, line)


def replaced(command: str, folder: Path) -> str | None:
    """What is run for a command now; None for nothing."""
    text = adapted(command, folder)
    return None if text is None else re.sub(r"^worldmodel\b", worldmodel(), placed(text, folder))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def placed(text: str, folder: Path) -> str:
    """Placeholders replaced by the newest run."""
    return re.sub(r"outputs/<date>/<time>_([\w<>]+)", lambda found: newest_run(folder, found[1]), text)


def worldmodel() -> str:
    """The installed command; without one, the module behind it."""
    command = Path(sys.executable).parent / "worldmodel"
    return str(command) if command.exists() else f"{sys.executable} -m scripts.cli"


def execute(arguments: list[str], folder: Path, shown: str) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    modules = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": modules, "WANDB_MODE": "offline"}
    began = time.monotonic()
    if (program := None if first(folder) else of_ours(arguments)) is not None:
        code, out, errors = Started(*program, folder=folder, environment=environment).wait(LIMIT_S)
    else:
        done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True,
                              timeout=LIMIT_S, check=False)  # fmt: skip
        code, out, errors = done.returncode, done.stdout, done.stderr
    print(f"{time.monotonic() - began:.0f} s: {shown}")
    assert code == 0, f"{shown}\n{out[-2000:]}\n{errors[-4000:]}"


def of_ours(arguments: list[str]) -> list[str] | None:
    """What `python` would get for a single `worldmodel` command; None for anything that a shell has more to do with."""
    if arguments[:2] != ["bash", "-c"] or re.search(r"[\n$`|&;<>(){}*?~]", arguments[2]):
        return None
    words, start = shlex.split(arguments[2]), shlex.split(worldmodel())
    return ["-m", "scripts.cli", *words[len(start) :]] if words[: len(start)] == start else None


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("reader")


def of_readme() -> list:
    found = blocks(README.read_text(encoding="utf-8")) if README.exists() else []
    return [pytest.param(block, id=f"line {block.line}") for block in found]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("block", of_readme())
def test_a_block_of_the_readme_runs(block, folder):
    run(block, folder)


def test_the_readme_has_blocks_and_every_one_has_a_known_language():
    found = blocks(README.read_text(encoding="utf-8"))
    assert any(block.language == "bash" for block in found) and any(block.language == "python" for block in found)
    unknown = [f"line {block.line}: {block.language}" for block in found
               if block.language not in SHOWN | {"bash", "sh", "python", "yaml"}]  # fmt: skip
    assert not unknown
    assert not [f"line {b.line}: yaml needs `# <path>`" for b in found if b.language == "yaml" and not file_named_by(b)]


def test_the_command_is_the_module_that_stands_in_for_it():
    assert 'worldmodel = "scripts.cli:main"' in (ROOT / "pyproject.toml").read_text()


SAMPLE = """
Text, and `code`.
```bash
# first
$ pip install -e ".[test]" && echo one > a  # a comment
echo two \\
  >> a
```
1. A list
   ```python
   # mine/settings.yaml
   key: 1
   ```
```python
assert open("a").read() == "one\\ntwo\\n" and open("mine/settings.yaml").read().endswith("key: 1\\n")
```
```text
not run
```
"""


def test_blocks_run_in_order_in_one_folder(tmp_path):
    found = blocks(SAMPLE)
    assert [(block.language, block.line) for block in found] == [
        ("bash", 3),
        ("python", 10),
        ("python", 14),
        ("text", 17),
    ]
    for block in found:
        run(block, tmp_path)


def test_what_a_block_starts_in_the_background_ends_with_it(tmp_path):
    began = time.monotonic()
    run(Block("bash", "sleep 60 &\necho 8765 > port\nkill %1", 1), tmp_path)
    assert 0 < int((tmp_path / "port").read_text()) != 8765
    with pytest.raises(AssertionError, match="exit 3"):
        run(Block("bash", "sleep 60 &\nexit 3", 1), tmp_path)
    assert time.monotonic() - began < 50


def test_a_block_that_fails_is_shown(tmp_path):
    with pytest.raises(AssertionError, match="exit 3"):
        run(Block("bash", "true\nexit 3", 1), tmp_path)


@pytest.mark.parametrize("command, program", [
    ("{worldmodel} imagine text='two words' a=1", ["-m", "scripts.cli", "imagine", "text=two words", "a=1"]),
    ("{worldmodel} doctor > log", None),
    ("{worldmodel} train run=$HOME", None),
    ("echo {worldmodel}", None),
])  # fmt: skip
def test_a_single_command_of_ours_needs_no_shell(command, program):
    assert of_ours(["bash", "-c", command.format(worldmodel=worldmodel())]) == program


def test_an_error_of_a_fork_is_shown(tmp_path):
    (tmp_path / "outputs" / "first" / "checkpoints").mkdir(parents=True)
    with pytest.raises(AssertionError, match="did you mean train"):
        run(Block("bash", "worldmodel trian", 1), tmp_path)


@pytest.mark.parametrize("command, instead", [
    ("worldmodel train", f"worldmodel train preset=debug {' '.join(SHORT)}"),
    ("worldmodel train preset=gpu env.id=Hopper-v5", f"worldmodel train env.id=Hopper-v5 preset=debug {' '.join(SHORT)}"),
    ("worldmodel train -m seed=0,1", None),
    ("worldmodel train resume=true run=outputs/first", "worldmodel train resume=true run=outputs/first"),
    ("worldmodel evaluate from=eval.json", "worldmodel evaluate from=eval.json"),
    ("worldmodel doctor", "worldmodel doctor"),
    ("git clone somewhere", None),
])  # fmt: skip
def test_slow_commands_are_replaced_by_rule(command, instead, tmp_path):
    assert adapted(command, tmp_path) == instead


def test_the_runs_after_the_first_are_cut_down_further(tmp_path):
    (tmp_path / "outputs" / "first" / "checkpoints").mkdir(parents=True)
    words = adapted("worldmodel train eval.episodes=50", tmp_path).split()
    assert words[:3] == ["worldmodel", "train", "preset=debug"] and "eval.episodes=1" in words
    assert check("train", words[2:])


def test_a_sweep_that_is_not_run_has_to_be_right(tmp_path):
    with pytest.raises(ValueError, match="did you mean seed"):
        adapted("worldmodel train -m sed=0,1", tmp_path)


def test_an_install_may_only_ask_for_extras_that_exist():
    require_extras('pip install -e ".[test,dmc]"')
    with pytest.raises(AssertionError, match="extras"):
        require_extras('pip install "worldmodel[moon]"')


def test_placeholders_stand_for_the_newest_run(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "outputs" / name / "checkpoints").mkdir(parents=True)
    os.utime(tmp_path / "outputs" / "b" / "checkpoints", (0, 0))
    assert placed("record checkpoint=outputs/<date>/<time>_<task>/checkpoints/last", tmp_path) == (
        "record checkpoint=outputs/a/checkpoints/last"
    )
    (tmp_path / "outputs" / "2030" / "10_cartpole" / "checkpoints").mkdir(parents=True)
    assert placed("outputs/<date>/<time>_cartpole", tmp_path) == "outputs/2030/10_cartpole"
    with pytest.raises(AssertionError, match="no block before it"):
        placed("outputs/<date>/<time>_walker", tmp_path)
