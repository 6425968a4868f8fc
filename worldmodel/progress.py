"""Shows how far a run is, how fast it goes and what is left: bars in a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY_S = 10.0  # between two lines of the same phase in a log
RATE_WINDOW_S = 30.0  # the rate is that of the last half minute: it follows a change, and does not flicker


class Bar:
    """One phase: `advance` counts, `note` says what is worth seeing beside the bar. Made by `Progress.phase`."""

    def __init__(self, name: str, total: float, unit: str, start: float, clock: Callable[[], float], shown: Callable):
        self.name, self.total, self.unit, self.start = name, total, unit, start
        self.done, self.text = start, ""
        self._clock, self._shown = clock, shown
        self.began = clock()
        self._samples: deque[tuple[float, float]] = deque([(self.began, start)])

    def advance(self, count: float = 1) -> None:
        """Count `count` more units."""
        self.done += count
        now = self._clock()
        if now - self._samples[-1][0] >= 0.5:
            self._samples.append((now, self.done))
            while len(self._samples) > 2 and now - self._samples[1][0] > RATE_WINDOW_S:
                self._samples.popleft()
        self._shown(self)

    def note(self, text: str) -> None:
        """Replace the text beside the bar, such as `loss .012  reward R2 .9`."""
        self.text = text
        self._shown(self)

    @property
    def elapsed(self) -> float:
        """Seconds since the phase began."""
        return self._clock() - self.began

    @property
    def rate(self) -> float | None:
        """Units a second over the last half minute; None before the first unit."""
        since, done = self._samples[0]
        seconds = self._clock() - since
        return (self.done - done) / seconds if self.done > done and seconds > 0 else None

    @property
    def left(self) -> float | None:
        """Seconds to the end of this phase; None while the rate is unknown."""
        return max(0.0, self.total - self.done) / self.rate if self.rate else None

    def describe(self) -> str:
        """Rate, time so far and time left, as text."""
        parts = [_rate(self.rate, self.unit), _clock_time(self.elapsed)]
        if self.left is not None:
            parts.append(f"{_clock_time(self.left)} left")
        return "  ".join(part for part in parts if part)


class Progress:
    """All bars of a process.

    Args:
        console: a rich console; the process's own by default. One that is not a terminal gets plain lines instead of
            bars, at most one every ten seconds and phase.
        quiet: show nothing (tests, and every process but the first).
        plan: seconds that each outermost phase is expected to take, by name and in order: with it the time left of the
            whole run is shown, corrected by how long the finished phases really took. A phase may run several times.
        clock: seconds, monotonic; passed in by tests.
    """

    def __init__(
        self,
        console: Console | None = None,
        quiet: bool = False,
        plan: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        from rich.console import Console

        self.console = console or Console(quiet=quiet)
        if console is None and not self.console.is_terminal:
            self.console = Console(quiet=quiet, width=120)  # a file has no width of its own; 80 would fold paths
        self.quiet, self.plan = quiet, dict(plan or {})
        self._clock, self._bars, self._live, self._last_line = clock, [], None, {}
        self._spent: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, total: float, unit: str = "steps", start: float = 0) -> Iterator[Bar]:
        """Show a bar while the block runs. Phases may nest; an outermost one leaves a line behind when it ends.

        Args:
            total: units of the whole phase.
            start: units done before (a resumed phase); they do not count towards the rate.
        """
        bar = Bar(name, total, unit, start, self._clock, self._show)
        self._bars.append(bar)
        self._open()
        whole = False
        try:
            yield bar
            whole = True
        finally:
            self._bars.remove(bar)
            if not self._bars:
                self._spent[name] = self._spent.get(name, 0.0) + bar.elapsed
                self._close()
                self.line(self._summary(bar, whole))
            elif self._live is not None:
                self._live.update(self._picture())

    def line(self, text: str) -> None:
        """Print a line above the bars; it stays."""
        if not self.quiet:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @property
    def left(self) -> float | None:
        """Seconds to the end of the planned run: the running phase at its measured rate, the others as planned,
        corrected by how long the finished ones took. None without a plan."""
        if not self.plan:
            return None
        running = self._bars[0] if self._bars else None
        known = [name for name in self._spent if name in self.plan and not (running and running.name == name)]
        planned = sum(self.plan[name] for name in known)
        correction = sum(self._spent[name] for name in known) / planned if planned else 1.0
        names = list(self.plan)
        reached = max((names.index(name) for name in self._spent if name in self.plan), default=-1)
        seconds = 0.0
        if running is not None and running.name in self.plan:
            reached = names.index(running.name)
            expected = max(0.0, self.plan[running.name] * correction - running.elapsed)
            seconds = expected if running.left is None else running.left
        return seconds + correction * sum(self.plan[name] for name in names[reached + 1 :])

    def _open(self) -> None:
        if self.quiet or not self.console.is_terminal:
            return
        if self._live is None:
            from rich.live import Live

            self._live = Live(console=self.console, get_renderable=self._picture, refresh_per_second=4, transient=True)
            self._live.start()

    def _close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        self._last_line.clear()

    def _show(self, bar: Bar) -> None:
        """A log gets a line when the last one of this phase is old enough; a terminal draws itself."""
        if self.quiet or self.console.is_terminal:
            return
        now = self._clock()
        if now - self._last_line.setdefault(bar.name, bar.began) >= LINE_EVERY_S:
            self._last_line[bar.name] = now
            share = f"{_count(bar.done)}/{_count(bar.total)} {bar.unit}"
            overall = f"{_clock_time(self.left)} left in all" if self.left is not None else ""
            self.line("  ".join(part for part in (bar.name, share, bar.describe(), bar.text, overall) if part))

    def _picture(self):
        """The bars as a rich table: name, bar, count, rate and times, note."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 1))
        for bar in self._bars:
            table.add_row(
                Text(bar.name, style="bold"),
                ProgressBar(total=max(bar.total, 1e-9), completed=min(bar.done, bar.total), width=24),
                Text(f"{_count(bar.done)}/{_count(bar.total)}"),
                Text(bar.describe(), style="cyan"),
                Text(bar.text, style="dim", no_wrap=True, overflow="ellipsis"),
            )
        if self.left is None:
            return table
        from rich.console import Group

        return Group(table, Text(f"whole run: {_clock_time(self.left)} left", style="dim"))

    def _summary(self, bar: Bar, whole: bool) -> str:
        """The line that an outermost phase leaves behind."""
        done, seconds = bar.done - bar.start, bar.elapsed
        rate = _rate(done / seconds if seconds > 0 and done else None, bar.unit)
        state = "" if whole else "stopped"
        parts = (bar.name, state, f"{_count(bar.done)} {bar.unit}", _clock_time(seconds), rate, bar.text)
        return "  ".join(part for part in parts if part)


def _rate(rate: float | None, unit: str) -> str:
    """`13.2 updates/s`, or seconds per unit where less than one a second."""
    if rate is None:
        return ""
    if rate >= 1:
        return f"{rate:,.0f} {unit}/s" if rate >= 100 else f"{rate:.1f} {unit}/s"
    return f"{1 / rate:.1f} s a {unit.removesuffix('s')}"


def _clock_time(seconds: float) -> str:
    """`1:07` or `2:03:04`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


def _count(value: float) -> str:
    return f"{value:,.0f}"
