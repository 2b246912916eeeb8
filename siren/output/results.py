"""The results of a training: its scores, and all files of its folder."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from siren import runtime
from siren.files import Change, Lock
from siren.images import encode_png
from siren.metrics import psnr, ssim
from siren.npz import NETWORK, encode_network
from siren.output import remove_leftovers
from siren.output.history import draw_history
from siren.output.panel import draw_result
from siren.output.report import HISTORY, METRICS, encode_history, encode_json
from siren.pictures import Picture
from siren.solvers import Degenerate
from siren.text import decibels, similarity
from siren.training.evaluation import predict_derivatives, predict_image

SMALL = 1 << 20  # pixels of a picture whose files are encoded at the same time


@dataclass(frozen=True)
class Score:
    """PSNR in dB and SSIM; None where one is not defined, or could not be computed."""

    psnr: float | None = None
    ssim: float | None = None

    def __str__(self) -> str:
        return f"PSNR {decibels(self.psnr)}, SSIM {similarity(self.ssim)}"


@dataclass
class Saved:
    """What was saved.

    score      of the network
    baselines  scores of classical methods, by name
    notes      sentences: which of these did something else than their name says, or failed
    problems   errors while pictures were made; these pictures are missing
    """

    score: Score = Score()
    baselines: dict[str, Score] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problems: list[Exception] = field(default_factory=list)

    def attempt(self, make: Callable, *arguments: Any) -> Any:
        """``make(*arguments)``; after an error None, so that the network is saved all the same."""
        try:
            return make(*arguments)
        except Exception as error:
            self.problems.append(error)
            return None


@dataclass(frozen=True)
class Results:
    """The files of a training, whose ``network`` has the parameters of the best epoch.

    facts   "options" and "inputs" of metrics.json
    bits    8 or 16, the depth of pictures
    result  a ``training.progress.Training``
    """

    facts: dict
    bits: int
    task: Any
    network: Any
    result: Any

    def write_unscored(self, change: Change, lock: Lock) -> None:
        """Write into ``change`` what there is before the result is scored and drawn.

        If scoring ends the process, this is what there is: a run that counts as interrupted. Raises
        OSError if a file cannot be written.
        """
        self._write_network(change)
        self._write_metrics(change, lock, Saved(), "interrupted")

    def write(self, change: Change, lock: Lock, engine, preview) -> Saved:
        """Score the network's picture and write all files into ``change``.

        ``preview`` is a ``siren.output.preview.Preview`` or None. The network comes first; a
        picture that cannot be made is left out. Raises OSError if a file cannot be written.
        """
        self._write_network(change)
        saved = self._write_pictures(change, engine, preview)
        self._write_metrics(change, lock, saved, self.result.ended)
        return saved

    def _write_network(self, change: Change) -> None:
        shape = self.task.reference.shape[:2]
        change.write(NETWORK, encode_network(self.network, shape, self.bits))
        change.write(HISTORY, encode_history(self.result.history))

    def _write_metrics(self, change: Change, lock: Lock, saved: Saved, ended: str) -> None:
        """Write metrics.json, which lists the other files of ``change``, and remove leftovers."""
        history, best = self.result.history, self.result.best
        height, width = self.task.reference.shape[:2]
        metrics = {
            **self.facts,
            "height": height,
            "width": width,
            "points": len(self.task.points),
            "ended": ended,
            "epochs": history[-1].epoch,
            "best_epoch": best.epoch,
            "best_by": "loss" if best.validation is None else "validation loss",
            "validation": best.validation,
            "loss": best.loss,
            **dataclasses.asdict(saved.score),
            "baselines": {
                name: dataclasses.asdict(score) for name, score in saved.baselines.items()
            },
            "notes": saved.notes,
            "scored": self.task.scored_as,
            "seconds": history[-1].seconds,
            "seconds_first_epoch": history[0].seconds,
            "runtime": runtime.describe(),
            "files": dict(change.digests),
        }
        change.write(METRICS, encode_json(metrics))
        remove_leftovers(change, lock)

    def _write_pictures(self, change: Change, engine, preview) -> Saved:
        """Score, make the baselines, and draw."""
        task, shape, saved = self.task, self.task.reference.shape[:2], Saved()
        with _Files(change, saved, at_once=shape[0] * shape[1] <= SMALL) as files:
            files.make("reference.png", encode_png, task.reference, self.bits)
            output = saved.attempt(lambda: task.restore(predict_image(self.network, engine, shape)))
            if output is not None:
                files.make("output.png", encode_png, output, self.bits)
                saved.score = saved.attempt(_score, task, output) or Score()
                baselines = saved.attempt(_make_baselines, task, saved)
                if baselines is not None:
                    files.make("panel.png", _panel, task, output, saved, baselines)
                del baselines  # before the derivatives, which take memory too
                if preview is not None:
                    files.make("training.gif", preview.animation, output)
                    files.make("preview.png", encode_png, output)
            derivatives = partial(predict_derivatives, self.network, engine, shape)
            pictures = saved.attempt(task.pictures, derivatives) or []
            for name, make in zip(task.declared.files, pictures):
                files.make(name, lambda make=make: encode_png(make(), self.bits))
            files.make("history.png", draw_history, self.result.history)
        return saved


class _Files(ThreadPoolExecutor):
    """Writes files into ``change`` whose contents threads make, all ``at_once`` or one by one.

    Encoding is most of the time that results take; one by one takes the least memory. A content
    that is None is left out, and so is one that fails: ``saved`` has the problem.
    """

    def __init__(self, change: Change, saved: Saved, at_once: bool):
        super().__init__()
        self.change, self.saved, self.at_once = change, saved, at_once
        self.making = {}

    def make(self, name: str, make: Callable, *arguments: Any) -> None:
        """Have ``make(*arguments)`` make the content of the file called ``name``."""
        self.making[name] = self.submit(make, *arguments)
        if not self.at_once:
            self._write()

    def _write(self) -> None:
        for name, content in self.making.items():
            content = self.saved.attempt(content.result)
            if content is not None:
                self.change.write(name, content)
        self.making = {}

    def __exit__(self, kind, *rest):
        if kind is None:
            self._write()
        return super().__exit__(kind, *rest)


def _score(task, image: np.ndarray) -> Score:
    return Score(
        psnr(image, task.reference, mask=task.scored), ssim(image, task.reference, mask=task.scored)
    )


def _make_baselines(task, saved: Saved) -> dict[str, np.ndarray]:
    """Pictures of the classical methods that work, by name; scores and notes go to ``saved``."""
    pictures = {}
    for name, make in task.baselines():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", Degenerate)
            try:
                pictures[name] = make()
                saved.baselines[name] = _score(task, pictures[name])
            except Exception as error:  # of a library; a training is worth more than a comparison
                pictures.pop(name, None)
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                saved.notes.append(f"{name} is left out, since it failed ({reason[:100]})")
        saved.notes += [str(warning.message) for warning in caught]
    return pictures


def _panel(task, output: np.ndarray, saved: Saved, pictures: dict[str, np.ndarray]) -> bytes:
    """The content of panel.png, with the best of ``pictures``, those of classical methods."""
    others = [
        Picture(f"classical, {name.replace('_', '-')}: {decibels(score.psnr)}", pictures[name])
        for name, score in sorted(saved.baselines.items(), key=lambda item: item[1].psnr)
        if pictures[name] is not task.reference  # the task's own pictures include it
    ]
    caption = f"output: {saved.score}{scored_pixels_note(task)}"
    return encode_png(draw_result(task, output, caption, others[-1:]))


def scored_pixels_note(task) -> str:
    """Says which pixels are scored; "" for all."""
    return "" if task.scored is None else " on the pixels not given"
