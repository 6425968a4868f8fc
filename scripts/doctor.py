"""worldmodel doctor: what works on this machine, what does not, and the command that mends it."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

TIMEOUT_S = 25  # of one check; all run side by side, so the whole ends within 30 seconds
RUN_GB = 1.5  # a default run writes about 1 GB
DISK_GB = 5  # longer ones and videos want room
GL_PACKAGES = {
    "egl": "apt-get install -y libegl1 libegl-mesa0 libgl1 libgl1-mesa-dri",
    "osmesa": "apt-get install -y libosmesa6",
    "glfw": "start from a desktop with a display",
    "cgl": "start from a desktop with a display",
}
INSTALL = "pip install -e ."


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Attributes:
        name: what was looked at.
        state: `ok`, `problem` (something required fails), `note` (works, and could work better), `absent` (optional).
        text: what was found.
        mend: the command or setting that mends it; empty if there is nothing to mend.
    """

    name: str
    state: str
    text: str
    mend: str = ""


def in_subprocess(code: str, environment: dict[str, str] | None = None) -> dict:
    """Run Python code that prints one line of JSON last, in a process of its own, and return that JSON.

    Raises:
        RuntimeError: it crashed, took too long or said nothing; the message has its last words.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **(environment or {})},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"no answer within {TIMEOUT_S} s") from None
    if done.returncode < 0:
        raise RuntimeError(f"crashed with signal {-done.returncode}")
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise RuntimeError(next(iter(done.stderr.strip().splitlines()[::-1]), f"exit code {done.returncode}"))
    return json.loads(lines[-1])


def check_python() -> Finding:
    return Finding("python", "ok", f"{platform.python_version()}, {platform.system()} {platform.machine()}")


def check_torch() -> Finding:
    code = """
import json, torch
cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
torch.ones(8, 8) @ torch.ones(8, 8)
print(json.dumps([torch.__version__, cuda, bf16]))
"""
    version, devices, bf16 = in_subprocess(code)
    speed = "bfloat16 native on this CPU" if bf16 else "float32 on this CPU: slower than with native bfloat16"
    return Finding("torch", "ok", f"{version}, {', '.join(devices) if devices else 'CPU only'}, {speed}")


def check_triton() -> Finding:
    if platform.system() != "Linux":
        return Finding("triton", "absent", "not made for this system; every kernel has a torch path")
    try:
        return Finding("triton", "ok", in_subprocess("import json, triton; print(json.dumps(triton.__version__))"))
    except RuntimeError as error:
        return Finding("triton", "note", f"{error}; torch's own operations are used", "pip install triton")


def check_compiler() -> Finding:
    code = (
        "import json, os, sysconfig; from torch._inductor.cpp_builder import get_cpp_compiler; "
        "header = os.path.join(sysconfig.get_path('include'), 'Python.h'); "
        "assert os.path.exists(header), header + ' is missing'; print(json.dumps(get_cpp_compiler()))"
    )
    try:
        return Finding("compiler", "ok", f"{in_subprocess(code)}, for torch.compile")
    except RuntimeError as error:
        return Finding(
            "compiler", "note", f"{error}; planning takes twice as long", "apt-get install -y g++ python3-dev"
        )


def check_threads() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wanted = os.environ.get("OMP_NUM_THREADS")
    if wanted is None:
        return Finding("threads", "ok", f"{cores} cores, all for torch")
    if not wanted.isdigit() or int(wanted) != cores:
        return Finding("threads", "note", f"{cores} cores, and OMP_NUM_THREADS={wanted}", "unset OMP_NUM_THREADS")
    return Finding("threads", "ok", f"{cores} cores, OMP_NUM_THREADS={wanted}")


def render_one_frame(backend: str) -> str:
    """Draw a red ball with one GL backend in a process of its own; return the name of what drew it.

    Raises:
        RuntimeError: the backend does not work; its last words.
    """
    code = """
import json, mujoco
ball = '<mujoco><worldbody><light pos="0 0 3"/><geom size=".5" rgba="1 0 0 1"/></worldbody></mujoco>'
model = mujoco.MjModel.from_xml_string(ball)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data)
    red = renderer.render()[..., 0].max()
    assert red > 50, "the picture is black"
    from OpenGL import GL
    print(json.dumps(GL.glGetString(GL.GL_RENDERER).decode()))
"""
    return in_subprocess(code, {"MUJOCO_GL": backend})


def check_rendering() -> Finding:
    """The backend that the envs would use, and the others only where it fails."""
    configured = in_subprocess(
        "import json, os, envs; print(json.dumps(os.environ.get('MUJOCO_GL', '')))"  # envs chooses where nobody has
    ) or ("cgl" if platform.system() == "Darwin" else "glfw")
    if configured not in GL_PACKAGES:
        return Finding(
            "rendering", "problem", f"MUJOCO_GL={configured} is no backend", "unset MUJOCO_GL, or set it to egl"
        )
    try:
        return Finding("rendering", "ok", f"MUJOCO_GL={configured}: {render_one_frame(configured)}")
    except RuntimeError as error:
        reason = str(error)
    for other in GL_PACKAGES:
        try:
            if other != configured and render_one_frame(other):
                mend = f"export MUJOCO_GL={other} (that works here), or {GL_PACKAGES[configured]}"
                return Finding("rendering", "problem", f"MUJOCO_GL={configured} fails: {reason}", mend)
        except RuntimeError:
            continue
    mend = GL_PACKAGES[configured]
    if configured == "glfw":
        mend += f"; without one {GL_PACKAGES['egl']} and export MUJOCO_GL=egl"
    return Finding("rendering", "problem", f"MUJOCO_GL={configured} fails: {reason}", mend)


def check_ffmpeg() -> Finding:
    code = """
import json, subprocess, imageio_ffmpeg
program = imageio_ffmpeg.get_ffmpeg_exe()
encoders = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True).stdout
print(json.dumps([imageio_ffmpeg.get_ffmpeg_version(), "libx264" in encoders]))
"""
    try:
        version, x264 = in_subprocess(code)
    except RuntimeError as error:
        return Finding("ffmpeg", "problem", str(error), "pip install --force-reinstall imageio-ffmpeg")
    if not x264:
        return Finding("ffmpeg", "problem", f"{version} has no x264", "unset IMAGEIO_FFMPEG_EXE")
    return Finding("ffmpeg", "ok", f"{version} with x264")


def check_wandb() -> Finding:
    version = _version("wandb")
    if version is None:
        return Finding("wandb", "problem", "not installed", INSTALL)
    key = "WANDB_API_KEY" in os.environ or os.path.exists(os.path.expanduser("~/.netrc"))
    login = "logged in, it seems" if key else "offline; logging.wandb=online wants `wandb login`"
    return Finding("wandb", "ok", f"{version}, {login}")


def check_disk() -> Finding:
    free = shutil.disk_usage(os.getcwd()).free / 1e9
    if free < DISK_GB:
        state = "problem" if free < RUN_GB else "note"
        return Finding(
            "disk", state, f"{free:.1f} GB free here", f"free {DISK_GB} GB, or run=<folder on a larger disk>"
        )
    return Finding("disk", "ok", f"{free:.0f} GB free here")


def check_dependencies() -> Finding:
    """Every package that pyproject.toml asks for, in a version it asks for."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement

    try:
        needed = [Requirement(text) for text in requires("worldmodel") or []]
    except PackageNotFoundError:
        return Finding("dependencies", "note", "worldmodel is not installed; it runs from its own folder only", INSTALL)
    found, wrong = [], []
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = _version(requirement.name)
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} {version or 'missing'} (needs {requirement.specifier})")
        found.append(f"{requirement.name} {version}")
    if wrong:
        return Finding("dependencies", "problem", ", ".join(wrong), INSTALL)
    return Finding("dependencies", "ok", ", ".join(found))


def check_dm_control() -> Finding:
    return _extra("dm_control", "dmc/<domain>-<task>", 'pip install -e ".[dmc]"')


def check_metaworld() -> Finding:
    return _extra("metaworld", "metaworld/<task>-v3", 'pip install -e ".[metaworld]"')


def check_open_clip() -> Finding:
    return _extra("open_clip_torch", "vision_language.name=open_clip:<model>/<tag>", 'pip install -e ".[open_clip]"')


def check_pygame() -> Finding:
    return _extra("pygame", "pictures of Acrobot-v1 and its kind", "pip install pygame")


def _extra(package: str, brings: str, command: str) -> Finding:
    version = _version(package)
    if version is None:
        return Finding(package, "absent", f"optional; it brings {brings}", command)
    return Finding(package, "ok", version)


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


CHECKS: dict[str, Callable[[], Finding]] = {
    "python": check_python,
    "dependencies": check_dependencies,
    "torch": check_torch,
    "triton": check_triton,
    "compiler": check_compiler,
    "threads": check_threads,
    "rendering": check_rendering,
    "ffmpeg": check_ffmpeg,
    "wandb": check_wandb,
    "disk": check_disk,
    "dm_control": check_dm_control,
    "metaworld": check_metaworld,
    "open_clip": check_open_clip,
    "pygame": check_pygame,
}


def examine(checks: dict[str, Callable[[], Finding]]) -> list[Finding]:
    """Run all checks side by side. A check that fails in itself is a problem with its name, never the end."""

    def guarded(item: tuple[str, Callable[[], Finding]]) -> Finding:
        try:
            return item[1]()
        except Exception as error:
            return Finding(item[0], "problem", str(error) or type(error).__name__, INSTALL)

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(guarded, checks.items()))


def show(findings: list[Finding]) -> None:
    """Print the table."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from scripts.help import console

    colors = {"ok": "green", "problem": "bold red", "note": "yellow", "absent": "dim"}
    table = Table(box=box.SIMPLE, pad_edge=False)
    for title in ("", "", "found", "what mends it"):
        table.add_column(title, overflow="fold")
    for finding in findings:
        state = Text("PROBLEM" if finding.state == "problem" else finding.state, colors[finding.state])
        table.add_row(finding.name, state, Text(finding.text), Text(finding.mend))
    console().print(table)


def main() -> None:
    """Print what works; exit code 1 if something required does not, 2 for arguments it does not know."""
    arguments = [word for word in sys.argv[1:] if word != "doctor"]
    if arguments in (["--help"], ["-h"]):
        print(f"{__doc__} It takes no keys.")
        return
    if arguments:
        print(f"worldmodel doctor takes no keys, and got {' '.join(arguments)}", file=sys.stderr)
        sys.exit(2)
    findings = examine(CHECKS)
    show(findings)
    problems = [finding.name for finding in findings if finding.state == "problem"]
    if problems:
        print(f"problems: {', '.join(problems)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
