"""The four experiments. They share one training loop and differ in what a ``Task`` says."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from siren.pictures import Picture


class Task(Protocol):
    """What the training loop and the report ask of an experiment.

    reference    (height, width, channels) float32 in [-1, 1]: what the result is scored against
    scored       (height, width) bool mask of the pixels that are scored, or None for all
    coordinates  (N, 2) float32: the points trained on
    target       (N, K, channels) float32: K supervised streams at each of them
    held_out     () or (coordinates (M, 2), pixels (M, 1, channels)): given points that are not
                 trained on, to choose the best epoch by
    random       the NumPy generator that the loss draws from, or None
    shown        the pictures of the panel's left side: the inputs and what the network saw
    derivatives  highest order of the network's own derivatives worth a picture: 0, 1 or 2
    """

    reference: np.ndarray
    scored: np.ndarray | None
    coordinates: np.ndarray
    target: np.ndarray
    held_out: tuple[np.ndarray, ...]
    random: np.random.Generator | None
    shown: list[Picture]
    derivatives: int

    def loss(self, network: Any, coordinates: Any, target: Any, engine: Any) -> Any:
        """Loss as a scalar Var; ``coordinates`` and ``target`` are the task's own, as Vars."""
        ...

    def baselines(self) -> list[tuple[str, np.ndarray]]:
        """Pictures that classical methods make of the same data, by name."""
        ...

    def restore(self, output: np.ndarray) -> np.ndarray:
        """Add to the network's picture what the loss cannot carry; same shape."""
        ...


def with_mean_of(output: np.ndarray, reference: np.ndarray, where=None) -> np.ndarray:
    """``output`` moved to the mean of ``reference``, channel by channel; nothing is stretched.

    A gradient or a Laplacian determines a picture up to such a constant. ``where``, a bool mask
    (height, width), says which pixels' mean is meant; None: all.
    """
    where = np.ones(output.shape[:2], bool) if where is None else where
    shift = reference[where].mean(0, dtype=np.float64) - output[where].mean(0, dtype=np.float64)
    return (output + shift).astype(np.float32)
