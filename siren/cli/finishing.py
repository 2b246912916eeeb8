"""After the training: save the results, and report how the run ended."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from siren import signals
from siren.cli.errors import DIVERGED, INTERRUPTED, Outcome, Problem, notify
from siren.cli.folder import save_failure
from siren.cli.options import display_path, json_options
from siren.cli.resuming import interruption
from siren.files import Change, write_bytes
from siren.npz import NETWORK
from siren.output.results import SMALL, Results, Saved, gather_results, scored_pixels_note
from siren.training.checkpoint import Checkpoint
from siren.training.progress import Training

LONG = 30  # seconds; a longer training prints its scores at once, not when the next one is over


@dataclass
class Saving:
    """The files of a run that are still to be written, into the folder that it has locked.

    ``committed`` says that all are there, even if an interruption follows.
    """

    results: Results
    checkpoint: Checkpoint
    committed: bool = False

    @property
    def folder(self) -> Path:
        """Where they are written."""
        return self.checkpoint.folder

    def __call__(self) -> Saved:
        """Write all files. The state is removed once those of a complete run are there.

        If scoring ends the process, there is the network, as of an interrupted run. Raises OSError.
        """
        with Change(self.folder) as unscored:
            self.results.write_unscored(unscored)
            with signals.deferred():
                unscored.commit()
        with Change(self.folder) as change:
            saved = self.results.write(change)
            with signals.deferred():
                change.commit()
                self.committed = True
                if self.results.metrics["ended"] != "interrupted":
                    self.checkpoint.remove()
        return saved

    def detached(self) -> Saving:
        """A copy for a process that has not locked the folder itself, and has no network."""
        return replace(self, results=self.results.detached())


@dataclass
class Ending:
    """The end of a run: its files are being written, or about to be.

    result  of the training
    saving  the files
    write   ``saving``, or a function that waits until another process has called it
    """

    options: argparse.Namespace
    result: Training
    saving: Saving
    write: Callable[[], Saved]

    def __call__(self, subject: str = "") -> Outcome:
        """Wait for the files, and print the scores; with a ``subject``, it begins each line.

        Raises Problem, and the first error met while pictures were made.
        """
        with self.rescuing():
            saved = self.write()
        subject = f"{subject}: " if subject else ""
        self._print_scores(saved, subject)
        if saved.problems:
            raise saved.problems[0]
        score, seconds = saved.score, self.result.history[-1].seconds
        return Outcome(self._status(subject), self.result.ended, score.psnr, score.ssim, seconds)

    @contextlib.contextmanager
    def rescuing(self):
        """Within its context an error keeps the network, and the user learns where."""
        try:
            yield
        except KeyboardInterrupt:
            if self.saving.committed:
                raise Problem("interrupted; all results are written", INTERRUPTED) from None
            how = self._rescue()
            raise Problem(f"interrupted while the results were saved{how}", INTERRUPTED) from None
        except Exception as error:
            how = self._rescue()
            if isinstance(error, OSError):
                raise save_failure(self.options, error, how) from error
            notify(f"the results could not be made{how}")
            raise

    def _rescue(self) -> str:
        """Keep the network, as a state or elsewhere, when its files cannot be written; says how."""
        result, checkpoint = self.result, self.saving.checkpoint
        with signals.deferred():
            if result.ended == "interrupted" and checkpoint.written is not None:
                return f"; the state of epoch {checkpoint.written} is kept, and --resume goes on"
            if result.state is not None:
                with contextlib.suppress(OSError):
                    checkpoint.save(result.state())
                    return "; nothing is lost, --resume writes them when that is possible"
            try:
                folder = Path(tempfile.mkdtemp(prefix="siren-network-"))
                write_bytes(folder / NETWORK, self.saving.results.network)
            except OSError:
                return ""
        return f"; the network is in {folder / NETWORK}"

    def _print_scores(self, saved: Saved, subject: str) -> None:
        best, note = self.result.best, scored_pixels_note(self.saving.results)
        lines = [f"output: {saved.score}{note}; loss {best.loss:.3e} at epoch {best.epoch}"]
        lines += [f"{name}: {score}" for name, score in saved.baselines.items()]
        lines += [*saved.notes, f"written to {display_path(self.options.output_dir)}"]
        print("\n".join(subject + line for line in lines), flush=True)

    def _status(self, subject: str) -> int:
        """The exit status; a training that did not finish is reported."""
        result = self.result
        if result.ended == "diverged":
            notify(
                f"{subject}warning: the loss was not finite after {result.history[-1].epoch + 1} "
                f"epochs; the network of epoch {result.best.epoch} is saved; try a smaller --lr"
            )
            return DIVERGED
        if result.ended == "interrupted":
            how = "; --resume goes on" if self.saving.checkpoint.written is not None else ""
            notify(f"interrupted; the network of epoch {result.best.epoch} is saved{how}")
            return INTERRUPTED
        return 0


def finish(session, task, network, result: Training) -> Outcome | Ending:
    """Save the ``result`` of a training of ``session`` and print its scores.

    If other pictures follow soon, an ``Ending`` is returned instead, which prints them later, and
    the session's ``finisher`` writes the files. Raises Problem, and the first error met while
    pictures were made.
    """
    options, finisher = session.settings, session.finisher
    if finisher is not None:
        finisher.wait()  # for the picture before
    if result.best is None and result.ended == "interrupted":
        raise interruption(session.checkpoint)
    if result.best is None:
        raise Problem(
            "the loss is not finite from the start; try a smaller --omega_0"
            + " or --prior_weight" * (options.prior != "none")
        )
    facts = {"options": json_options(options), "inputs": session.fingerprint}
    results = gather_results(
        facts, session.bits, task, network, session.engine, result, session.preview
    )
    saving = Saving(results, session.checkpoint)
    ending = Ending(options, result, saving, write=saving)
    seconds = result.history[-1].seconds - result.history[0].seconds  # without compilation
    is_quick = results.pixels <= SMALL and seconds < LONG
    if finisher is not None and is_quick and not session.stop():
        with ending.rescuing():
            ending.write = finisher.begin(saving)
    return ending() if ending.write is saving else ending
