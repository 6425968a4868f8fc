"""The process's one OpenGL context: made on first use, current inside every use, freed at exit."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib.util
import logging
import os
import sys
from pathlib import Path

_log = logging.getLogger(__name__)

_INSTALL = (
    "On Debian or Ubuntu: `apt-get install libegl1 libgl1 libgles2`, or `apt-get install libosmesa6` with "
    "MUJOCO_GL=osmesa; on a desktop MUJOCO_GL=glfw works too. Without any OpenGL: env.observation=state draws nothing."
)


def prepare_gl() -> None:
    """What must happen before mujoco, or anything that makes a GL context, is imported; `import envs` calls it.

    Where the user has not, it chooses a GL backend and one thread for software GL; and it imports triton, if installed.
    """
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        os.environ.setdefault("MUJOCO_GL", "egl")
    # llvmpipe starts a thread per core in every process; at 64x64 pixels one thread is faster.
    os.environ.setdefault("LP_NUM_THREADS", "1")
    # Triton and Mesa's llvmpipe each bring an LLVM, and the two share symbols: triton (or torch._dynamo, which imports
    # it with the first optimizer) loaded after the first GL context crashes the process. Loaded before it, both work.
    if "triton" in sys.modules or importlib.util.find_spec("triton") is None:
        return
    if _software_gl_is_loaded():
        _log.warning(
            "OpenGL was in use before `import envs`: on software GL (Mesa) torch's first optimizer crashes in this "
            "process. Import envs, or triton, before anything that renders (a Gymnasium env's render(), dm_control)."
        )
        return
    import triton  # noqa: F401


def _software_gl_is_loaded() -> bool:
    """Mesa's LLVM is in this process."""
    try:
        loaded = Path("/proc/self/maps").read_text()
    except OSError:  # not Linux: there is no triton either
        return False
    return "libLLVM" in loaded or "libgallium" in loaded


class RenderingUnavailable(RuntimeError):
    """No OpenGL context can be made here; the message names what to install."""


def _backend():
    """The `GLContext` class that MUJOCO_GL asks for now; mujoco keeps the choice in force when it was imported."""
    name = os.environ.get("MUJOCO_GL", "").lower()
    if name == "egl":
        from mujoco.egl import GLContext
    elif name == "osmesa":
        from mujoco.osmesa import GLContext
    elif sys.platform == "darwin" and name != "glfw":
        from mujoco.cgl import GLContext
    else:
        from mujoco.glfw import GLContext
    return GLContext


class ProcessContext:
    """One GL context for all renderers of the process; a GL context belongs to a thread: render from one only."""

    def __init__(self):
        self._context = None
        self._handle = None  # what EGL calls our context; None on other backends
        self._pid = None

    def _create(self) -> None:
        try:
            # Without its finaliser: we free it ourselves, and at exit the display may be gone before that runs.
            owned = type("OwnedContext", (_backend(),), {"__del__": lambda _: None})
            self._context = owned(64, 64)
            atexit.register(self._free_at_exit)  # now, so that it runs before mujoco's own hook ends the display
            self._context.make_current()
            import mujoco  # not above: `import envs` must come before it

            # Some backends fail without a word; mujoco then finds no GL.
            mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), 100).free()
        except Exception as error:  # each backend's own: ImportError, AttributeError, OSError, GLError, FatalError
            name = os.environ.get("MUJOCO_GL", "not set")
            raise RenderingUnavailable(f"no OpenGL for MuJoCo (MUJOCO_GL is {name}): {error!r}. {_INSTALL}") from error
        self._pid = os.getpid()
        self._handle = _egl().eglGetCurrentContext() if _egl() else None

    @contextlib.contextmanager
    def current(self):
        """Ours is the current context inside; a stranger's that was current before is current again after.

        Gymnasium's viewers make their context current once and never again: displaced for good, they would draw into
        ours. (Told from EGL only, the backend of machines without a screen.)"""
        egl = _egl()
        before = egl.eglGetCurrentContext() if egl else None
        display = egl.eglGetCurrentDisplay() if before else None
        if self._pid != os.getpid():  # a context does not survive a fork
            self._create()
        elif before is None or before != self._handle:
            self._context.make_current()
        try:
            yield
        finally:
            if before is not None and before != self._handle:
                egl.eglMakeCurrent(display, None, None, before)

    def free(self) -> None:
        """Free the context; the next use makes another."""
        if self._context is not None and self._pid == os.getpid():
            self._context.free()
        self._context = self._handle = self._pid = None

    def _free_at_exit(self) -> None:
        with contextlib.suppress(Exception):  # dm_control, imported later, may have ended the display
            self.free()


@functools.cache
def _egl():
    """libEGL, or None where the backend is another. By ctypes: PyOpenGL's checks take as long as a small scene."""
    if os.environ.get("MUJOCO_GL", "").lower() != "egl":
        return None
    try:
        library = ctypes.CDLL("libEGL.so.1")
    except OSError:  # making the context says what to install
        return None
    library.eglGetCurrentContext.restype = ctypes.c_void_p
    library.eglGetCurrentDisplay.restype = ctypes.c_void_p
    library.eglMakeCurrent.argtypes = [ctypes.c_void_p] * 4
    return library


process_context = ProcessContext()
