"""Mean and standard deviation of numbers that arrive in pieces."""

from __future__ import annotations

import numpy as np


class Moments:
    """Sums in float64 over rows `[n, ...]`, so that pieces can be added in any number and size."""

    def __init__(self):
        self.count = 0
        self._sum: np.ndarray | float = 0.0
        self._squares: np.ndarray | float = 0.0

    def add(self, rows: np.ndarray) -> None:
        """Add rows `[n, ...]`."""
        rows = rows.astype(np.float64)
        self.add_sums(len(rows), rows.sum(axis=0), np.square(rows).sum(axis=0))

    def add_sums(self, count: int, total: np.ndarray | float, squares: np.ndarray | float) -> None:
        """Add `count` rows whose sum and sum of squares are known."""
        self.count += count
        self._sum = self._sum + total
        self._squares = self._squares + squares

    def mean_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation (over all rows, not of a sample) in float64; zeros where nothing was added."""
        count = max(self.count, 1)
        mean = np.asarray(self._sum / count)
        return mean, np.sqrt(np.maximum(self._squares / count - np.square(mean), 0.0))
