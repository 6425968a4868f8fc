"""Makes a function into a verb: its `--help`, the check of its command line, Hydra around it, and errors for people.

Exit codes: 0 done, 1 the work failed, 2 the command line was wrong, 130 interrupted.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from omegaconf import DictConfig, OmegaConf

from scripts import settings

TRACEBACK = "WORLDMODEL_TRACEBACK"
RESUMABLE = ("train", "imitate", "adapt", "improve")


def verb(name: str) -> Callable[[Callable], Callable[[], None]]:
    """Decorate `job(config, folder, overrides)` as the entry point of `worldmodel <name>`, configured by
    configs/<name>.yaml.

    The job gets the composed config (interpolations still in it: `resolved` is for after the last change), the run
    folder, and the overrides as typed. It runs once, or once per job of a sweep, each in a folder of its own.
    """

    def decorate(job: Callable[[DictConfig, Path, list[str]], None]) -> Callable[[], None]:
        @functools.wraps(job)
        def main() -> None:
            _main(name, job)

        return main

    return decorate


def resolved(config: DictConfig) -> DictConfig:
    """A copy without interpolations, in which an unknown key is an error; names the keys that nobody gave a value."""
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise ValueError(f"give {' and '.join(f'{key}=...' for key in missing)}: the command cannot do without")
    copy = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    OmegaConf.set_struct(copy, True)
    return copy


def _main(name: str, job: Callable) -> None:
    command = f"worldmodel {name}"
    flags, arguments, overrides = _split(command, _arguments(name))
    try:
        if arguments.help:
            from scripts.help import show_verb

            show_verb(settings.catalogue(name, overrides, arguments.config_dir))
            return
        overrides = settings.check(name, overrides, arguments.multirun, arguments.config_dir)
        if arguments.multirun:
            overrides.append(settings.folder_names(overrides))
    except settings.SettingsError as error:
        _fail(command, f"{error}\nall keys: {command} --help", 2)
    except Exception as error:
        _report(command, error, 2)

    typed, run = list(sys.argv), _Run(job, list(sys.argv))
    sys.argv = [typed[0], *flags, *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises; what is said is said here
    try:
        import hydra

        functools.update_wrapper(run_job := functools.partial(run.__call__), job)
        hydra.main(config_path=settings.CONFIGS, config_name=name, version_base="1.3")(run_job)()
    except KeyboardInterrupt:
        _fail(command, run.farewell(name), 130)
    except Exception as error:
        _report(command, error, 1 if run.folder else 2)
    finally:
        sys.argv = typed
        run.tidy()
    if run.error is not None:
        _report(command, run.error, 1)


class _Run:
    """What Hydra calls: the job, with what has to be known when it is over."""

    def __init__(self, job: Callable, typed: list[str]):
        self.job, self.typed = job, typed
        self.folder: Path | None = None
        self.error: Exception | None = None

    def __call__(self, config: DictConfig) -> None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from worldmodel import kernels

        hydra = HydraConfig.get()
        self.folder = _shorter(Path(hydra.runtime.output_dir))
        sys.argv = self.typed  # a launcher of further processes repeats the command as it was typed
        try:
            kernels.choose(config.kernels)
            self.job(config, self.folder, list(hydra.overrides.task))
        except Exception as error:
            if hydra.mode == RunMode.MULTIRUN:  # the sweep has to know, and may run in another process
                raise
            self.error = error  # a single run's error is reported without Hydra's line above it

    def farewell(self, name: str) -> str:
        """What to say after Ctrl-C."""
        if name in RESUMABLE and self.folder is not None and (self.folder / "config.yaml").is_file():
            return f"stopped. To go on: worldmodel {name} resume=true run={self.folder}"
        return "stopped."

    def tidy(self) -> None:
        """Remove the run folder if nothing came of it."""
        if self.folder is not None and self.folder != Path("."):
            try:
                os.removedirs(self.folder)
            except OSError:
                pass  # it holds something


def _shorter(path: Path) -> Path:
    """Relative to the working directory where it lies below it: what one would type."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path


def _arguments(name: str) -> list[str]:
    """What stands behind the verb: `worldmodel train ...` and `python -m scripts.train ...` alike."""
    behind = sys.argv[1:]
    return behind[1:] if behind[:1] == [name] and Path(sys.argv[0]).stem != name else behind


def _split(command: str, arguments: list[str]) -> tuple[list[str], object, list[str]]:
    """Hydra's flags as typed, the same parsed, and the overrides; in any order, which argparse alone does not take."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = lambda message: _fail(command, message, 2)
    parsed, unknown = parser.parse_known_intermixed_args(arguments)
    for flag in unknown:
        word = flag.lstrip("-").replace("-", "_")
        _fail(command, f"no flag {flag}; settings are written key=value, as in {word.split('=')[0]}=...", 2)
    overrides = list(parsed.overrides)
    flags = list(arguments)
    for override in overrides:
        flags.remove(override)
    return flags, parsed, overrides


def _fail(command: str, message: str, code: int) -> NoReturn:
    print(f"{command}: {message}", file=sys.stderr)
    sys.exit(code)


def _report(command: str, error: Exception, code: int) -> NoReturn:
    """End with an error's message alone if it is the user's to mend, and with its traceback if it is ours."""
    while type(error).__module__.startswith("hydra.") and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if os.environ.get(TRACEBACK) == "1" or not _is_expected(error):
        raise error
    hint = "" if isinstance(error, settings.SettingsError) else f"\n({TRACEBACK}=1 shows the traceback)"
    _fail(command, f"{str(error) or type(error).__name__}{hint}", code)


def _is_expected(error: Exception) -> bool:
    """Errors that say what to mend: of values, files, missing packages, and whatever this project raises by its own
    name. Anything else is a bug, and its traceback is wanted."""
    own = ("worldmodel", "policies", "envs", "scripts", "gymnasium", "hydra", "omegaconf")
    ordinary = (ValueError, OSError, ImportError, FloatingPointError)
    return isinstance(error, ordinary) or type(error).__module__.split(".")[0] in own
