"""What surrounds one training: folder, device, other processes, interruptions, state, results.

Modules that import Jittor are imported in the methods that run after it has started.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import inspect
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from siren import runtime, signals
from siren.cli import inputs, machine, resuming
from siren.cli.errors import INTERRUPTION, Outcome, Problem, report_error
from siren.cli.folder import output_folder
from siren.cli.options import display_path
from siren.output.history import Preview

if TYPE_CHECKING:
    from siren.cli.finisher import Finisher
    from siren.cli.finishing import Ending
    from siren.cli.several import Run


class NothingLeft(Exception):
    """The run finished in an earlier call, with this ``outcome``."""

    def __init__(self, outcome: Outcome):
        self.outcome = outcome


def run(
    train_picture: Callable,
    run: Run,
    stop: signals.Stop,
    finisher: Finisher | None = None,
    later: list[Run] | None = None,
) -> Outcome | None:
    """Set and return the outcome of ``run``: what ``train_picture`` returns for its ``Session``.

    If the run has a subject, which names it among others, an error is reported, and is no reason to
    stop the others; Ctrl-C is. With several processes, each calls it, and rank 0 alone reads and
    writes. With a ``finisher``, the outcome may still be None: ``finisher.wait`` sets it. What the
    runs that come ``later`` need is compiled together with what this one needs, and the list
    emptied.
    """
    program = inspect.getfile(train_picture)
    with _reporting(run, stop), Session(run.options, stop, program, finisher, later) as session:
        outcome = train_picture(session)
        if isinstance(outcome, Outcome):
            run.outcome = outcome
        else:
            folder = session.folder.pop_all()  # locked until all is written
            finisher.pending = partial(_complete, run, outcome, folder, stop)
    return run.outcome


def _complete(run: Run, ending: Ending, folder: contextlib.ExitStack, stop: signals.Stop) -> None:
    with _reporting(run, stop), folder, stop:
        run.outcome = ending(run.subject)


@contextlib.contextmanager
def _reporting(run: Run, stop: signals.Stop):
    """Within its context, what ends the training early becomes the outcome of ``run``."""
    try:
        yield
    except NothingLeft as end:
        run.outcome = end.outcome
    except (Exception, KeyboardInterrupt) as error:
        if not run.subject:
            raise
        run.outcome = report_error(error, run.subject, run.options.verbose)
        stop.requested |= run.outcome == INTERRUPTION


class Session(contextlib.ExitStack):
    """The surroundings of one training, whose steps are methods, in the order of their calls.

    Its context leaves what they have entered: handlers of signals, and the lock on the folder.
    Into the folder are written: ``.lock`` by ``prepare``; ``preview.png`` and ``state.npz`` during
    training (``siren.training.loop``); by ``save`` first the network and metrics without scores,
    then all results (``siren.cli.finishing``), after which the state is removed.

    options  as ``parse`` gives them, for one picture
    stop     ``stop()``: whether Ctrl-C or SIGTERM has asked for an early end
    program  path of main.py, which is called once more for a rehearsal
    later    list of the runs that follow, which have been checked; emptied when they are prepared
    finisher  writes the results while the next picture is trained, or None

    After ``prepare`` there are the ``device``, "cpu" or "cuda", and the ``engine``; after
    ``open_checkpoint`` the ``checkpoint``, and a ``preview`` or None.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        stop: signals.Stop,
        program: str,
        finisher: Finisher | None = None,
        later: list[Run] | None = None,
    ):
        super().__init__()
        self.options, self.stop, self.program = options, stop, program
        self.finisher, self.later = finisher, [] if later is None else later
        self.folder = self.enter_context(contextlib.ExitStack())  # whose lock can outlive the rest
        self.is_rank_0 = runtime.rank() == 0
        self.preview = None

    def read(self) -> inputs.Inputs | None:
        """The pictures that the options name, in rank 0; None in others. Raises Problem."""
        return inputs.read_inputs(self.options) if self.is_rank_0 else None

    def prepare(self, pictures: inputs.Inputs | None, resolve: Callable) -> argparse.Namespace:
        """Lock the folder, start Jittor, check memory, choose an engine, rehearse the runs.

        Returns the settings of the run: the options as ``resolve`` completes them for the pictures,
        in all processes those of rank 0. Raises NothingLeft, Problem.
        """
        settings, finished = copy.copy(self.options), None
        if self.is_rank_0:
            settings = resolve(resuming.keep_choices(self.options), *pictures.extent)
            files = inputs.paths(settings).values()
            self.folder.enter_context(output_folder(settings, files))
            finished = resuming.finished_outcome(settings, pictures)
        if finished:
            folder = display_path(settings.output_dir)
            print(f"nothing is left to resume: the run in {folder} is done")
        if finished and runtime.world_size() == 1:
            raise NothingLeft(finished)
        self.device, settings.precision = machine.start_jittor(settings)
        from siren import distributed

        if distributed.any_true(finished is not None):
            raise NothingLeft(finished or Outcome(0, "finished"))  # rank 0 alone knows how
        settings, device = distributed.broadcast_object((settings, self.device))
        if distributed.any_true(device != self.device):
            raise Problem("the processes do not agree on --device; give one that all of them have")
        if self.is_rank_0:
            shape = pictures.image.shape[:2]
            machine.require_memory(machine.memory_demand(settings, shape, self.device))
            self.fingerprint, self.bits = pictures.fingerprint(), pictures.bits
        workload = machine.workload(settings)
        later = [machine.workload(each.settings) for each in self.later]
        self.engine = machine.load_engine(settings.engine, workload, self.device, later)
        settings.precision = getattr(self.engine, "precision", settings.precision)
        if self.is_rank_0:
            runs = [(settings, self.bits), *((each.settings, each.bits) for each in self.later)]
            machine.rehearse(self.program, runs, self.device, settings.precision)
            self.later.clear()
        self.enter_context(signals.shield_children())
        self.settings = settings
        return settings

    def share(self, make_task: Callable, settings: argparse.Namespace, pictures):
        """The task that ``make_task`` makes in rank 0; in others a copy with their points."""
        from siren.tasks import task

        return task.scatter(make_task(settings, pictures) if self.is_rank_0 else None)

    def open_checkpoint(self, task) -> None:
        """Load the state of an interrupted run with ``--resume``; else begin a new run.

        From now on the first signal lets the current step end, and the results are saved.
        """
        self.checkpoint = resuming.open_checkpoint(self.settings, self.device, task)
        if self.is_rank_0 and self.settings.preview_every:
            self.preview = Preview(self.settings.output_dir, self.settings.preview_every)
        height, width = task.reference.shape[:2]
        subject = display_path(self.settings.input_path)
        precision = getattr(self.engine, "precision", None)
        print(
            f"{self.settings.task}: {subject} at {height} x {width}, {len(task.points)} points, "
            f"{self.settings.hidden_features} units, {self.settings.epochs} epochs, "
            f"device {self.device}{' with AMX' * (precision == 'bf16x2')}",
            flush=True,
        )
        self.enter_context(resuming.handle_interruption(self.checkpoint, self.stop))

    def save(self, task, network, result) -> Outcome | Ending:
        """Save the ``result`` of the training in rank 0, and print its scores.

        If other pictures follow, their training need not wait for that: ``run`` does. Raises
        Problem, and the first error met while pictures were made.
        """
        from siren.cli.finishing import finish

        return finish(self, task, network, result) if self.is_rank_0 else Outcome(0, result.ended)
