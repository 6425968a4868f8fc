"""Chunks of actions become actions: open loop for some steps, averaged over chunks, or predicted while others run."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass, field

import numpy as np
import torch

from policies.policy import Observation
from policies.vla.agent import VLAAgent
from worldmodel.interface import Interface

REMEMBERED = 50  # predictions whose latencies tell how early the next one has to begin


@dataclass
class _Row:
    """One row's episode: its control step, and the chunks that say what to do at it, the oldest first."""

    episode: int = 0
    step: int = 0
    chunks: list[tuple[int, np.ndarray]] = field(
        default_factory=list
    )  # the step of the observation, and actions [H, A]

    @property
    def begun(self) -> int:
        """The step of the observation that the newest chunk was predicted from."""
        return self.chunks[-1][0]


class ChunkPolicy:
    """Acts with a vision-language-action model.

    Synchronously, a row's next chunk is predicted when `n_action_steps` of the last one are done; everything follows from
    the seed and the number of rows.

    **Temporal ensembling** (ACT, Zhao et al. 2023, section 4.2): an action is the average of what all chunks say of its
    step, weighted by exp(-m i), i = 0 for the oldest. With n_action_steps=1 it is ACT's; with more, fewer chunks meet.

    **Asynchronously** (as in SmolVLA, Shukor et al. 2025, section 3.3), a thread predicts the next chunk from the newest
    observation while the last one runs. It begins as many control steps before the last one is used up as its latency,
    measured over the last predictions, makes necessary, and its first actions, for the steps that have gone by, are
    skipped. `act` waits for it at most `wait` of a control step, and goes on with the rest of the old chunk if it is not
    there (with its last action, after its end). A prediction that takes less than that wait begins when it is needed, and
    gives the actions of synchronous execution. An episode's first chunk is predicted in `reset`.

    Args:
        agent: the trained policy.
        interface: of the env; the agent's own when None.
        seed: of what the head draws.
        instruction: for every row; None takes each row's from its observations, or where these say nothing what the
            demonstrations were said to show.
        n_action_steps: of a chunk that are executed before the next one; None is half of it.
        ensemble: m of temporal ensembling; None executes the newest chunk alone.
        asynchronous: predict in a thread.
        wait: the longest that `act` waits for a prediction, as a share of a control step; asynchronous only.
        real_time: `act` returns no sooner than one control step after it last did, for a simulator that waits for nobody.

    Raises:
        ValueError: an option out of its range, or no such agent.
    """

    def __init__(
        self,
        *,
        agent: VLAAgent,
        interface: Interface | None = None,
        seed: int = 0,
        instruction: str | None = None,
        n_action_steps: int | None = None,
        ensemble: float | None = None,
        asynchronous: bool = False,
        wait: float = 0.5,
        real_time: bool = False,
    ):
        if not isinstance(agent, VLAAgent):
            raise ValueError(  # noqa: TRY004  of the user's settings, as with every policy
                "this policy acts with a checkpoint of worldmodel imitate: give checkpoint=<its folder>"
            )
        self.agent, self.interface, self.instruction = agent, interface or agent.interface, instruction
        self.chunk = agent.model.config.chunk
        self.n_action_steps = max(1, self.chunk // 2) if n_action_steps is None else n_action_steps
        if not 1 <= self.n_action_steps <= self.chunk:
            raise ValueError(f"n_action_steps={n_action_steps}: this policy's chunks have {self.chunk} actions")
        if not 0.0 <= wait <= 1.0:
            raise ValueError(f"wait={wait} is a share of a control step, from 0 to 1")
        if ensemble is not None and not math.isfinite(ensemble):
            raise ValueError(f"ensemble={ensemble} must be a number, such as 0.01")
        self.ensemble, self.asynchronous, self.real_time = ensemble, asynchronous, real_time
        self.control_step = 1.0 / self.interface.fps  # seconds
        self.wait = wait * self.control_step
        self.generator = torch.Generator(agent.model.device).manual_seed(seed)
        self.rows: list[_Row] = []
        self.latencies: list[float] = []  # seconds of each prediction
        self.waits: list[float] = []  # seconds that `act` waited for a thread
        self.late = 0  # control steps at which a chunk was due and not there
        self._worker: ThreadPoolExecutor | None = None
        self._running: tuple[Future, list[tuple[int, int, int]]] | None = None  # and its rows: number, episode, step
        self._returned = -math.inf

    def reset(self, observation: Observation, mask: np.ndarray | None = None) -> None:
        """Forget the chunks of the rows in `mask` (all when None); asynchronously, predict their first."""
        count = len(next(iter(observation.values())))
        if len(self.rows) != count:
            self.rows, mask = [_Row() for _ in range(count)], None
        chosen = range(count) if mask is None else np.flatnonzero(mask).tolist()
        for row in chosen:
            self.rows[row] = _Row(self.rows[row].episode + 1)
        if self.asynchronous and chosen:
            self._finish(None)
            self._predict_now(observation, list(chosen))

    def act(self, observation: Observation) -> np.ndarray:
        """Actions float32 `[B, A]`; one-hot rows for discrete envs."""
        count = len(next(iter(observation.values())))
        if len(self.rows) != count:
            raise ValueError(
                f"{count} observations for {len(self.rows)} rows: call policy.reset(observation) before the first act() "
                "and whenever the number of envs changes"
            )
        if self.asynchronous:
            self._think_ahead(observation)
        else:
            due = self._due(0)
            if due:
                self._predict_now(observation, due)
        actions = np.stack([self._action(row) for row in self.rows]).astype(np.float32)
        for row in self.rows:
            row.step += 1
        if self.interface.discrete:
            actions = np.eye(actions.shape[1], dtype=np.float32)[actions.argmax(1)]
        if self.real_time:
            time.sleep(max(0.0, self._returned + self.control_step - time.perf_counter()))
            self._returned = time.perf_counter()
        return actions

    def report(self) -> dict[str, float | int | None]:
        """What predictions cost so far: `predictions`, their median and 95th percentile of `latency_ms`, the longest wait
        of `act` for a thread, `late` control steps, which went on with an old chunk, and the `control_step_ms`."""
        latency = np.quantile(self.latencies, [0.5, 0.95]) * 1e3 if self.latencies else [None, None]
        return {
            "predictions": len(self.latencies),
            "latency_ms": latency[0] if latency[0] is None else float(latency[0]),
            "latency_ms_95": latency[1] if latency[1] is None else float(latency[1]),
            "longest_wait_ms": max(self.waits, default=0.0) * 1e3,
            "late": self.late,
            "control_step_ms": self.control_step * 1e3,
        }

    def close(self) -> None:
        """End the thread."""
        self._finish(None)
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None

    # Which rows need a chunk, and what the chunks say

    def _due(self, lead: int) -> list[int]:
        """Rows whose chunk will be used up in `lead` control steps."""
        return [
            number
            for number, row in enumerate(self.rows)
            if not row.chunks or row.step + lead - row.begun >= self.n_action_steps
        ]

    def _action(self, row: _Row) -> np.ndarray:
        """What to do at a row's step, `[A]`."""
        said = [actions[row.step - begun] for begun, actions in row.chunks if row.step - begun < self.chunk]
        if not said:  # the chunk is over and the next one late
            return row.chunks[-1][1][-1]
        if self.ensemble is None:
            return said[-1]
        weights = np.exp(-self.ensemble * np.arange(len(said)))
        return (np.stack(said) * (weights / weights.sum())[:, None]).sum(0)

    def _keep(self, number: int, begun: int, actions: np.ndarray) -> None:
        """Take in a chunk, and drop those that say nothing any more."""
        row = self.rows[number]
        kept = [] if self.ensemble is None else [old for old in row.chunks if row.step - old[0] < self.chunk]
        row.chunks = [*kept, (begun, actions)]

    # Predictions

    def _predict(self, observation: Observation, sentences: Sequence[str]) -> np.ndarray:
        began = time.perf_counter()
        chunk = self.agent.predict(observation, list(sentences), self.generator)
        self.latencies.append(time.perf_counter() - began)
        return chunk

    def _asked(self, observation: Observation, rows: list[int]) -> tuple[Observation, list[str]]:
        """The rows' observations, copied, and what is asked of each."""
        kept = {
            key: np.array(observation[key][rows])
            for key in self.agent.interface.observation_keys()
            if key in observation
        }
        return kept, self._sentences(observation, rows)

    def _sentences(self, observation: Observation, rows: list[int]) -> list[str]:
        """What is asked of each of the rows."""
        default = self.agent.config.get("instruction")
        if self.instruction:
            return [self.instruction] * len(rows)
        if "instruction" in observation:
            return [str(observation["instruction"][row]) for row in rows]
        if default:
            return [default] * len(rows)
        raise ValueError(
            "the observations have no instruction: give env.instruction=<a sentence>, or policy.instruction"
        )

    def _predict_now(self, observation: Observation, rows: list[int]) -> None:
        for number, actions in zip(rows, self._predict(*self._asked(observation, rows)), strict=True):
            self._keep(number, self.rows[number].step, actions)

    def _think_ahead(self, observation: Observation) -> None:
        """Take in what the thread has done, begin what will be needed, wait a little for what is needed now."""
        began = time.perf_counter()
        self._finish(0.0)
        new = [number for number, row in enumerate(self.rows) if not row.chunks]
        if new:  # rows that were never reset
            self._finish(None)
            self._predict_now(observation, new)
        if self._running is None:
            rows = self._due(self._lead())
            if rows:
                self._begin(observation, rows)
        if self._running is not None and self._due(0):
            self._finish(max(0.0, self.wait - (time.perf_counter() - began)))
            self.waits.append(time.perf_counter() - began)
            self.late += bool(self._due(0))

    def _lead(self) -> int:
        """Control steps before a chunk is used up at which the next one has to begin."""
        latency = float(np.quantile(self.latencies[-REMEMBERED:], 0.9)) if self.latencies else 0.0
        return max(0, math.ceil((latency - self.wait) / self.control_step))

    def _begin(self, observation: Observation, rows: list[int]) -> None:
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="chunks")
        place = [(number, self.rows[number].episode, self.rows[number].step) for number in rows]
        self._running = self._worker.submit(self._predict, *self._asked(observation, rows)), place

    def _finish(self, timeout: float | None) -> None:
        """Take in the running prediction if it is done within `timeout` seconds (however long it takes when None); what
        belongs to an episode that has ended is dropped."""
        if self._running is None:
            return
        future, place = self._running
        try:
            chunks = future.result(timeout)
        except NotYet:
            return
        self._running = None
        for (number, episode, begun), actions in zip(place, chunks, strict=True):
            if number < len(self.rows) and self.rows[number].episode == episode:
                self._keep(number, begun, actions)
