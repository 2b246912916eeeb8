"""The results of a training: its scores, and all files of its folder.

What the network has to compute is computed first; the rest can be left to another process.
"""

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
from siren.files import Change
from siren.images import encode_png
from siren.metrics import psnr, ssim
from siren.npz import NETWORK, encode_network
from siren.output import PREVIEW, remove_leftovers
from siren.output.history import Preview, draw_history
from siren.output.panel import draw_result
from siren.output.report import HISTORY, METRICS, encode_history, encode_json
from siren.pictures import Picture
from siren.solvers import Degenerate
from siren.text import decibels, similarity
from siren.training.progress import Epoch

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
    """What the files of a training are made of.

    metrics   metrics.json, but for scores, notes and files
    bits      8 or 16, the depth of pictures
    network   the content of network.npz
    output    function: the network's picture, restored
    pictures  function: what makes the task's own pictures, by name
    preview   a ``siren.output.history.Preview`` or None

    The others are those of a ``training.progress.Training`` and of a ``tasks.task.Task``.
    """

    metrics: dict
    bits: int
    network: bytes
    history: list[Epoch]
    reference: np.ndarray
    scored: np.ndarray | None
    panel_pictures: list[Picture]
    output: Callable[[], np.ndarray]
    baselines: Callable[[], list]
    pictures: Callable[[], dict[str, Callable]]
    preview: Preview | None

    @property
    def pixels(self) -> int:
        """The number of pixels."""
        return self.reference.shape[0] * self.reference.shape[1]

    def detached(self) -> Results:
        """A copy for another process: nothing is left for the network to compute.

        It can be pickled if what the task returns can be.
        """
        return dataclasses.replace(
            self,
            output=partial(np.asarray, self.output()),
            baselines=partial(list, self.baselines()),
            pictures=partial(dict, self.pictures()),
        )

    def write_unscored(self, change: Change) -> None:
        """Write into ``change`` what there is before the result is scored and drawn.

        If scoring ends the process, this is what there is: a run that counts as interrupted. Raises
        OSError if a file cannot be written.
        """
        self._write_network(change)
        _write_metrics(change, {**self.metrics, "ended": "interrupted"})

    def write(self, change: Change) -> Saved:
        """Score the network's picture and write all files into ``change``.

        The network comes first; a picture that cannot be made is left out. Raises OSError if a file
        cannot be written.
        """
        self._write_network(change)
        saved = self._write_pictures(change)
        scores = {name: dataclasses.asdict(score) for name, score in saved.baselines.items()}
        notes = {"baselines": scores, "notes": saved.notes}
        _write_metrics(change, {**self.metrics, **dataclasses.asdict(saved.score), **notes})
        return saved

    def _write_network(self, change: Change) -> None:
        change.write(NETWORK, self.network)
        change.write(HISTORY, encode_history(self.history))

    def _write_pictures(self, change: Change) -> Saved:
        """What fails is left out, and the result has the problem."""
        saved, contents = Saved(), {}

        def make(name: str, draw: Callable, *arguments: Any) -> None:
            contents[name] = pool.submit(draw, *arguments)
            if self.pixels > SMALL:  # one by one, which takes the least memory
                write()

        def write() -> None:
            for name, content in contents.items():
                content = saved.attempt(content.result)
                if content is not None:
                    change.write(name, content)
            contents.clear()

        with ThreadPoolExecutor() as pool:  # encoding is most of the time that results take
            self._draw(make, saved)
            write()
        return saved

    def _draw(self, make: Callable, saved: Saved) -> None:
        """Have ``make(name, draw, *arguments)`` draw each picture; the scores go to ``saved``."""
        make("reference.png", encode_png, self.reference, self.bits)
        output = saved.attempt(self.output)
        if output is not None:
            make("output.png", encode_png, output, self.bits)
            saved.score = saved.attempt(_score, self, output) or Score()
            baselines = saved.attempt(_make_baselines, self, saved)
            if baselines is not None:
                make("panel.png", _panel, self, output, saved, baselines)
            del baselines  # before the derivatives, which take memory too
            if self.preview is not None:
                make("training.gif", self.preview.animation, output)
                make(PREVIEW, encode_png, output)
        for name, draw in (saved.attempt(self.pictures) or {}).items():
            make(name, lambda draw=draw: encode_png(draw(), self.bits))
        make("history.png", draw_history, self.history)


def gather_results(facts: dict, bits: int, task, network, engine, result, preview) -> Results:
    """The results of a training, whose ``network`` has the parameters of the best epoch.

    ``result`` is a ``Training``; ``facts`` are "options" and "inputs" of metrics.json; ``bits`` and
    ``preview`` are as in ``Results``.
    """
    from siren.training.evaluation import predict_derivatives, predict_image  # imports Jittor

    shape = task.reference.shape[:2]
    derivatives = partial(predict_derivatives, network, engine, shape)
    best, history = result.best, result.history
    metrics = {
        **facts,
        "height": shape[0],
        "width": shape[1],
        "points": len(task.points),
        "ended": result.ended,
        "epochs": history[-1].epoch,
        "best_epoch": best.epoch,
        "best_by": "loss" if best.validation is None else "validation loss",
        "validation": best.validation,
        "loss": best.loss,
        "psnr": None,
        "ssim": None,
        "baselines": {},
        "notes": [],
        "scored": task.scored_as,
        "seconds": history[-1].seconds,
        "seconds_first_epoch": history[0].seconds,
        "runtime": runtime.describe(),
    }
    return Results(
        metrics=metrics,
        bits=bits,
        network=encode_network(network, shape, bits),
        history=history,
        reference=task.reference,
        scored=task.scored,
        panel_pictures=task.panel_pictures,
        output=lambda: task.restore(predict_image(network, engine, shape)),
        baselines=task.baselines,
        pictures=lambda: dict(zip(task.declared.files, task.pictures(derivatives))),
        preview=preview,
    )


def _write_metrics(change: Change, metrics: dict) -> None:
    """Write metrics.json, which lists the other files of ``change``, and remove leftovers."""
    change.write(METRICS, encode_json({**metrics, "files": dict(change.digests)}))
    remove_leftovers(change)


def _score(results: Results, image: np.ndarray) -> Score:
    reference, scored = results.reference, results.scored
    return Score(psnr(image, reference, mask=scored), ssim(image, reference, mask=scored))


def _make_baselines(results: Results, saved: Saved) -> dict[str, np.ndarray]:
    """Pictures of the classical methods that work, by name; scores and notes go to ``saved``."""
    pictures = {}
    for name, make in results.baselines():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", Degenerate)
            try:
                pictures[name] = make()
                saved.baselines[name] = _score(results, pictures[name])
            except Exception as error:  # of a library; a training is worth more than a comparison
                pictures.pop(name, None)
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                saved.notes.append(f"{name} is left out, since it failed ({reason[:100]})")
        saved.notes += [str(warning.message) for warning in caught]
    return pictures


def _panel(
    results: Results, output: np.ndarray, saved: Saved, pictures: dict[str, np.ndarray]
) -> bytes:
    """The content of panel.png, with the best of ``pictures``, those of classical methods."""
    others = [
        Picture(f"classical, {name.replace('_', '-')}: {decibels(score.psnr)}", pictures[name])
        for name, score in sorted(saved.baselines.items(), key=lambda item: item[1].psnr)
        if pictures[name] is not results.reference  # the task's own pictures include it
    ]
    caption = f"output: {saved.score}{scored_pixels_note(results)}"
    return encode_png(draw_result(results, output, caption, others[-1:]))


def scored_pixels_note(results: Results) -> str:
    """Says which pixels are scored; "" for all."""
    return "" if results.scored is None else " on the pixels not given"
