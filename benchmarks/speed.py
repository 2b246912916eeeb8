#!/usr/bin/env python3
"""Times one training step of this program against plain Jittor, PyTorch and JAX, on CPU or GPU.

Every engine works in a process of its own. They take turns, a second at a time and only one of them
at once, so that a noisy machine is noisy for all. All start from the same weights, and their losses
are compared: the time of a wrong computation is worth nothing. Engines that are not installed are
left out.

This process talks to its workers (``speed.py --worker ENGINE``) in lines of JSON:

    {"prepare": CASE, "file": NPZ, "threads": N}  ->  {"losses": [...], "version": "..."}
    {"run": SECONDS}                              ->  {"steps": [seconds of each step], ...}
    {"picture": SIDE}                             ->  {"memory": bytes}       (ours only)

An answer may also be {"error": "..."}; the end of input ends the worker.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
HIDDEN = 4  # layers of sines
OMEGA = 30.0
LEARNING_RATE = 1e-4
LOSSES = ("fit", "gradient", "laplacian")  # the position is the order of the derivative
WARM_UP = 2  # steps that are not timed: kernels are compiled and memory is claimed in them
TURN = 1.0  # seconds; a slower step makes a longer turn
ENOUGH = 60.0  # seconds; an engine that has used them on a case sits out the remaining rounds
AGREE = 1e-4, 1e-3  # relative difference of the first loss, and of the one after an update

# At 256x256 gray on two cores with AVX-512: how many times faster than each peer, and how much of
# the machine's peak. With AVX2 only, for everybody, less is asked.
TARGETS = {
    "fit": {"pytorch": 5.0, "jax": 4.5, "peak": 0.80},
    "gradient": {"pytorch": 5.0, "jax": 4.5, "peak": 0.75},
    "laplacian": {"pytorch": 12.0, "jax": 4.5, "peak": 0.70},
}
TARGETS_AVX2 = {"fit": {"pytorch": 2.5}}
# On an H100, than the fastest peer in TF32, whose products have the 11 bits of our default.
TARGETS_CUDA = {"fit": 4.0, "gradient": 4.0, "laplacian": 8.0}
BLOCK = 20  # steps on a GPU between two looks at the clock, for which its queue must run dry
AGREE_CUDA = 1e-2, 1e-2  # as AGREE, for 11 bits

# How the engines are held to AVX2, and the compiler flag that does it for us and for peak.cc.
AVX2_FLAG = "-mno-avx512f"
AVX2_VARIABLES = {
    "cc_flags": AVX2_FLAG,
    "cache_name": "siren_avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
}


@dataclass(frozen=True)
class Case:
    """One training step: a loss on all pixels of a square picture, or on some random ones."""

    loss: str
    side: int
    channels: int = 1
    points: int = 0  # 0: all pixels
    width: int = 256

    @property
    def widths(self) -> list[int]:
        """Units of every layer, inputs and outputs included."""
        return [2, *[self.width] * HIDDEN, self.channels]

    @property
    def name(self) -> str:
        """What the tables call it."""
        color = {1: "gray", 3: "color"}[self.channels]
        some = f"{self.points} points of " if self.points else ""
        wide = f", {self.width} wide" if self.width != 256 else ""
        return f"{self.loss}, {some}{self.side}x{self.side} {color}{wide}"

    @property
    def order(self) -> int:
        """The highest derivative in the loss."""
        return LOSSES.index(self.loss)

    @property
    def count(self) -> int:
        """Points in a step."""
        return self.points or self.side**2

    @property
    def spacing(self) -> float:
        """Distance of neighboring pixels: the unit of length of the derivatives."""
        return 2 / (self.side - 1)

    @property
    def flops(self) -> float:
        """Matrix work: a forward pass and twice that backward, for each stream (1, 3 or 4)."""
        weights = sum(a * b for a, b in zip(self.widths, self.widths[1:]))
        return 6.0 * self.count * weights * (1, 3, 4)[self.order]


# ---- the engines --------------------------------------------------------------------------------
# Each takes (case, weights and biases, coordinates, target, device, threads) and returns step and
# version. A call of step() does one training step, Adam included, and returns the loss before it,
# which need not be known yet; float() of it is its value. step.wait() waits for all steps.


def fused(
    case,
    parameters,
    coordinates,
    target,
    device,
    threads,
    engine="fused",
    operator="forward",
    precision=None,
):
    """This program, as ``siren/training/loop.py`` does it."""
    sys.path.insert(0, str(HERE.parent))
    from siren import runtime

    runtime.start(device)
    import jittor as jt

    from siren import losses, operators
    from siren.cli.machine import automatic_precision
    from siren.engine import get_engine
    from siren.network import Siren
    from siren.samples import Batch
    from siren.training.optimizer import Adam

    module = get_engine(engine, precision or automatic_precision(device))
    if engine == "fused" and module is get_engine("reference"):
        raise RuntimeError("the fused engine does not work here")
    network = Siren(case.channels, hidden_features=case.width)
    network.load_layers(zip(parameters[::2], parameters[1::2]))
    variables = [network.flat]
    optimizer = Adam(variables, LEARNING_RATE)
    batch = Batch(*(jt.array(a).stop_grad() for a in (coordinates, target)))
    through = operators.make_operator(operator, (case.side, case.side))

    def step():
        if case.order == 0:
            loss = losses.pixel_mse(network, batch, module)
        else:
            mse = losses.gradient_mse if case.order == 1 else losses.laplacian_mse
            loss = mse(network, batch, module, through, losses.OperatorNorm())
        gradients = jt.grad(loss, variables)
        jt.sync([loss, *gradients])
        optimizer.step(gradients)
        jt.sync(variables)
        return loss

    def picture(side):
        from siren.training.evaluation import predict_image

        predict_image(network, module, (side, side))

    step.wait = lambda: jt.sync_all(True)
    step.picture = picture
    return step, f"Jittor {jt.__version__}"


def fused_fp32(*problem):
    """This program with 22 bits instead of 11 on a GPU, 24 instead of 16 on a CPU with AMX."""
    return fused(*problem, precision="fp32")


def jittor_forward(*problem):
    """Plain Jittor operations, derivatives in forward mode."""
    return fused(*problem, engine="reference")


def jittor_autograd(*problem):
    """Plain Jittor operations, derivatives by nested ``jt.grad``."""
    return fused(*problem, engine="reference", operator="autograd")


def pytorch(case, parameters, coordinates, target, device, threads, tf32=False, compiled=False):
    """PyTorch eager, derivatives by nested ``torch.autograd.grad`` as in the SIREN paper's code."""
    import torch

    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    variables = [torch.from_numpy(p).to(device).requires_grad_() for p in parameters]
    coordinates = torch.from_numpy(coordinates).to(device)
    target = torch.from_numpy(target).to(device)
    coordinates.requires_grad_(case.order > 0)
    optimizer = torch.optim.Adam(variables, LEARNING_RATE, fused=True)
    h = case.spacing

    def network(x):
        for i in range(0, len(variables) - 2, 2):
            x = torch.sin(OMEGA * torch.nn.functional.linear(x, *variables[i : i + 2]))
        return torch.nn.functional.linear(x, *variables[-2:])

    def gradient(column):
        return torch.autograd.grad(column.sum(), coordinates, create_graph=True)[0]

    def predict():
        values = network(coordinates)
        if case.order == 0:
            return values[:, None]
        gradients = [gradient(channel) * h for channel in values.unbind(1)]
        if case.order == 1:
            return torch.stack(gradients, dim=2)
        laplacians = [gradient(g[:, 0])[:, 0] * h + gradient(g[:, 1])[:, 1] * h for g in gradients]
        return torch.stack(laplacians, dim=1)[:, None]

    def compute():
        return (predict() - target).square().mean()

    if compiled:
        compute = torch.compile(compute)

    def step():
        optimizer.zero_grad()
        loss = compute()
        loss.backward(inputs=variables)
        optimizer.step()
        return loss.detach()

    step.wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    if device == "cuda":
        return step, f"PyTorch {torch.__version__} on {torch.cuda.get_device_name()}"
    capability = torch.backends.cpu.get_cpu_capability()
    return step, f"PyTorch {torch.__version__} ({capability})"


def pytorch_tf32(*problem):
    """PyTorch eager with TF32 products."""
    return pytorch(*problem, tf32=True)


def pytorch_compiled(*problem):
    """``torch.compile`` with TF32 products."""
    return pytorch(*problem, tf32=True, compiled=True)


def jax_jit(case, parameters, coordinates, target, device, threads):
    """JAX, one jitted function with donated buffers; folx's forward Laplacian. TF32 on a GPU."""
    import jax
    import jax.numpy as jnp

    version = f"JAX {jax.__version__}"
    if case.order == 2:
        import folx

        version += f", folx {folx.__version__}"
    jax.config.update(
        "jax_default_matmul_precision", "highest" if device == "cpu" else "tensorfloat32"
    )
    h = case.spacing
    # Reverse mode costs one pass an output, forward mode one an input; for one output reverse wins.
    jacobian = jax.jacrev if case.channels == 1 else jax.jacfwd

    def predict(variables, x):
        def network(x):
            for weight, bias in zip(variables[:-2:2], variables[1:-2:2]):
                x = jnp.sin(OMEGA * (x @ weight.T + bias))
            return x @ variables[-2].T + variables[-1]

        if case.order == 0:
            return network(x)[:, None]
        if case.order == 1:
            return jax.vmap(jacobian(network))(x).swapaxes(1, 2) * h
        return jax.vmap(folx.forward_laplacian(network))(x).laplacian[:, None] * h**2

    def update(state, x, target):
        variables, means, squares, count = state
        loss, gradients = jax.value_and_grad(
            lambda variables: jnp.square(predict(variables, x) - target).mean()
        )(variables)
        count += 1
        means = [0.9 * m + 0.1 * g for m, g in zip(means, gradients)]
        squares = [0.999 * s + 0.001 * g * g for s, g in zip(squares, gradients)]
        rate, correction = LEARNING_RATE / (1 - 0.9**count), jnp.sqrt(1 - 0.999**count)
        variables = [
            v - rate * m / (jnp.sqrt(s) / correction + 1e-8)
            for v, m, s in zip(variables, means, squares)
        ]
        return loss, (variables, means, squares, count)

    zeros = [np.zeros_like(p) for p in parameters]
    state = jax.device_put((parameters, zeros, zeros, np.float32(0)), may_alias=False)
    x, target = jax.device_put((coordinates, target))
    compiled = jax.jit(update, donate_argnums=0).lower(state, x, target).compile()

    def step():
        nonlocal state
        loss, state = compiled(state, x, target)
        return loss

    step.wait = lambda: jax.block_until_ready(state)
    return step, version


ENGINES = {
    "ours": fused,
    "ours-fp32": fused_fp32,
    "jittor": jittor_forward,
    "jittor-autograd": jittor_autograd,
    "pytorch": pytorch,
    "jax": jax_jit,
}
ENGINES_CUDA = {
    "ours": fused,
    "ours-fp32": fused_fp32,
    "jittor": jittor_forward,
    "pytorch": pytorch,
    "pytorch-tf32": pytorch_tf32,
    "pytorch-compile": pytorch_compiled,
    "jax": jax_jit,
}
PEERS = ("pytorch", "pytorch-tf32", "pytorch-compile", "jax")
PEERS_TF32 = ("pytorch-tf32", "pytorch-compile", "jax")


# ---- the worker's side --------------------------------------------------------------------------


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    # Not getrusage(): a child's figure begins with the size of the process that started it.
    status = Path("/proc/self/status").read_text(encoding="utf8")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def work(engine: str) -> None:
    """Answer requests on stdin until it ends; whatever libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf8")
    os.dup2(2, 1)
    with contextlib.suppress(OSError):  # where memory runs out, the system is to end us first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf8")
    step, busy_until = None, 0.0
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"idle_cpu": time.process_time() - busy_until if busy_until else 0.0}
        try:
            if "prepare" in request:
                with np.load(request["file"]) as arrays:
                    parameters = [arrays[f"p{i}"] for i in range(2 * (HIDDEN + 1))]
                    data = arrays["coordinates"], arrays["target"]
                case, device = Case(**request["prepare"]), request["device"]
                start = (ENGINES if device == "cpu" else ENGINES_CUDA)[engine]
                step, version = start(case, parameters, *data, device, request["threads"])
                del parameters, data
                answer.update(version=version, losses=[float(step()) for _ in range(WARM_UP)])
                at_once = 1 if device == "cpu" else BLOCK
            elif "picture" in request:
                step.picture(request["picture"])
            else:
                answer["steps"], end = [], time.perf_counter() + request["run"]
                while not answer["steps"] or time.perf_counter() < end:
                    start = time.perf_counter()
                    for _ in range(at_once):
                        step()
                    step.wait()
                    answer["steps"].append((time.perf_counter() - start) / at_once)
            answer["memory"] = peak_memory()
        except Exception as error:
            message = (str(error).strip().splitlines() or ["no message"])[0]
            answer = {"error": f"{type(error).__name__}: {message[:200]}"}
        busy_until = time.process_time()
        print(json.dumps(answer), file=answers, flush=True)


# ---- the side that asks -------------------------------------------------------------------------


@dataclass
class Result:
    """What one engine has shown on one case; seconds, bytes and GFLOP/s."""

    engine: str
    case: Case
    rounds: list[list[float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    version: str = ""
    memory: int = 0
    memory_of_steps: int = 0
    peaks: list[float] = field(default_factory=list)
    quiet: bool = True
    idle_cpu: float = 0.0
    error: str = ""

    @property
    def step(self) -> float:
        """Median time of a step."""
        return statistics.median(s for steps in self.rounds for s in steps)

    @property
    def peak(self) -> float:
        """The machine's multiply-add peak meanwhile, in GFLOP/s."""
        return statistics.median(self.peaks)

    @property
    def speed(self) -> float:
        """GFLOP/s."""
        return self.case.flops / self.step / 1e9

    @property
    def usable(self) -> bool:
        """Whether it was measured to the end."""
        return bool(self.rounds) and not self.error


class Worker:
    """A process that runs one engine on one case."""

    def __init__(self, engine: str, case: Case, options):
        self.result = Result(engine, case)
        self.log = tempfile.TemporaryFile("w+", encoding="utf8")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", engine],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env=environment(options),
            text=True,
        )

    def ask(self, **request) -> None:
        """Send a request and note the answer in ``result``; nothing more after an error."""
        if self.result.error:
            return
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        except (OSError, json.JSONDecodeError):
            status = self.process.wait()
            self.log.seek(0)
            last = (self.log.read().strip().splitlines() or [""])[-1]
            died = "killed, perhaps for want of memory" if status == -9 else f"status {status}"
            answer = {"error": f"it ended ({died}) {last}".strip()}
        for name in ("losses", "version", "memory", "error"):
            if name in answer:
                setattr(self.result, name, answer[name])
        if "steps" in answer:
            self.result.rounds.append(answer["steps"])
        self.result.idle_cpu += answer.get("idle_cpu", 0.0)

    def close(self) -> None:
        """End the process."""
        if self.process:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process.stdout.close()
        self.log.close()


def build_peak(options, folder: Path) -> list[str]:
    """Compile ``peak.cc``; returns the command that measures the machine's multiply-add peak."""
    program = str(folder / "peak")
    flags = ["-O3", "-march=native", "-pthread"] + [AVX2_FLAG] * options.avx2
    compiler = os.environ.get("CXX", "g++")
    subprocess.run([compiler, *flags, str(HERE / "peak.cc"), "-o", program], check=True)
    return [program, str(options.threads), str(TURN / 2)]


def environment(options) -> dict[str, str]:
    """Variables of the workers: threads, a GPU only if wanted, and AVX2 if only that is wanted."""
    if options.device == "cuda":
        return {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # or it takes all memory
    variables = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        variables[name] = str(options.threads)
    return {**variables, **(AVX2_VARIABLES if options.avx2 else {})}


def write_problem(case: Case, file: Path) -> None:
    """Weights as SIREN draws them, coordinates, and a target of the size of what they predict."""
    random = np.random.default_rng(0)
    arrays = {}
    for i, (inputs, outputs) in enumerate(zip(case.widths, case.widths[1:])):
        bound = np.sqrt(6 / inputs) / OMEGA if i else 1 / inputs
        arrays[f"p{2 * i}"] = random.uniform(-bound, bound, (outputs, inputs))
        arrays[f"p{2 * i + 1}"] = random.uniform(-1, 1, outputs) / np.sqrt(inputs)
    if case.points:
        arrays["coordinates"] = random.uniform(-1, 1, (case.points, 2))
    else:
        axis = np.linspace(-1, 1, case.side, dtype=np.float32)
        arrays["coordinates"] = np.stack(np.meshgrid(axis, axis, indexing="ij"), 2).reshape(-1, 2)
    components = 2 if case.loss == "gradient" else 1
    target = random.standard_normal((case.count, components, case.channels), np.float32)
    arrays["target"] = 0.01 * target
    np.savez(file, **{name: a.astype(np.float32) for name, a in arrays.items()})


def measure(entries, options, picture: bool = False) -> list[Result]:
    """Time the ``entries``, pairs (engine, case), in turns; ``peak.cc`` takes its turns with them.

    ``picture`` lets each evaluate its network on the pixel grid at the end, for the peak memory.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        on_cpu = options.device == "cpu"
        peak = build_peak(options, folder) if on_cpu else []
        peaks, shares, workers = [], [], []
        for engine, case in entries:
            say(f"{case.name}: {engine} prepares")
            file = folder / "problem.npz"
            write_problem(case, file)
            workers.append(Worker(engine, case, options))
            stack.callback(workers[-1].close)
            workers[-1].ask(
                prepare=asdict(case),
                file=str(file),
                device=options.device,
                threads=options.threads,
            )
        for number in range(options.rounds):
            for worker in workers:
                if sum(map(sum, worker.result.rounds)) < ENOUGH:
                    say(f"{worker.result.case.name}: round {number + 1}, {worker.result.engine}")
                    worker.ask(run=TURN)
            if on_cpu:
                answer = subprocess.run(peak, capture_output=True, text=True, check=True)
                gflops, share = map(float, answer.stdout.split())
                peaks.append(gflops)
                shares.append(share)
        for worker in workers:
            worker.result.peaks = peaks
            if on_cpu:
                worker.result.quiet = min(shares) > 0.95 and max(peaks) < 1.1 * min(peaks)
            if picture:
                worker.result.memory_of_steps = worker.result.memory
                worker.ask(picture=worker.result.case.side)
        results = [worker.result for worker in workers]
    say("")
    for result in results:
        if result.error:
            print(f"\n{result.case.name}, {result.engine}: {result.error}")
    if not results[0].quiet:
        print(
            "\nBeware: others use this machine. Its peak varied from "
            f"{min(peaks):.0f} to {max(peaks):.0f} GFLOP/s, on {min(shares):.0%} of its processors."
        )
    for result in results:
        busy = sum(sum(map(sum, other.rounds)) for other in results if other is not result)
        if on_cpu and result.idle_cpu > 0.02 * busy + 0.1:
            print(
                f"\nBeware: {result.engine} used {result.idle_cpu:.1f} s of CPU time while others "
                "were measured."
            )
    return results


# ---- tables -------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Show on a terminal what is going on."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def table(header: list[str], rows: list[list[str]]) -> str:
    """An aligned Markdown table; all columns but the first are flush right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    rule = ["-" * widths[0]] + ["-" * (width - 1) + ":" for width in widths[1:]]
    lines = [
        [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        for row in (header, rule, *rows)
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def disagreement(result: Result, ours: Result) -> str:
    """Why the losses of an engine are not ours, or nothing."""
    agree = AGREE if ours.peaks else AGREE_CUDA
    for i, (a, b) in enumerate(zip(result.losses, ours.losses)):
        if not abs(a - b) <= agree[i] * abs(b):
            return f"loss of step {i + 1} is {a:.7g}, ours is {b:.7g}"
    return ""


def show_case(results: list[Result]) -> bool:
    """Print the table of a case; False if an engine failed or computes something else than we."""
    ours = next((r for r in results if r.engine == "ours" and r.usable), None)
    rows, notes, right = [], [], True
    for r in results:
        wrong = disagreement(r, ours) if ours and r.usable else ""
        right = right and not wrong and (r.usable or r.engine in PEERS)
        if wrong:
            notes.append(f"{r.engine}: {wrong}")
        if not r.usable:
            rows.append([r.engine] + ["-"] * 7)
            continue
        rows.append(
            [
                r.engine,
                f"{1e3 * r.step:.1f}" if r.peaks else f"{1e3 * r.step:.3f}",
                f"{r.step / ours.step:.2f}" if ours else "-",
                f"{r.speed:.1f}",
                f"{r.speed / r.peak:.1%}" if r.peaks else "-",
                f"{r.memory / 1e6:.0f}" if r.peaks else "-",
                str(sum(map(len, r.rounds))),
                f"{r.losses[0]:.6e}",
            ]
        )
    header = ["engine", "ms/step", "x ours", "GFLOP/s", "of peak", "peak MB", "steps", "first loss"]
    peak = f" (machine's peak {results[0].peak:.0f} GFLOP/s)" if results[0].peaks else ""
    print(f"\n**{results[0].case.name}**{peak}\n")
    print(table(header, rows))
    print("".join(f"\n{note}\n" for note in notes), end="", flush=True)
    return right


def verdict(what: str, wanted: str, measured: str, met: bool, quiet: bool = True) -> list[str]:
    """One row of the table of targets; without a quiet machine it is no more than a hint."""
    return [what, wanted, measured, ("met" if met else "missed") + ("" if quiet else "?")]


def speed_verdicts(results: list[Result], avx2: bool) -> list[list[str]]:
    """Compare the steps at 256x256 gray with the targets."""
    measured = {(r.case, r.engine): r for r in results if r.usable}
    rows = []
    for loss, targets in (TARGETS_AVX2 if avx2 else TARGETS).items():
        ours = measured.get((Case(loss, 256), "ours"))
        for what, least in targets.items() if ours else ():
            peer = measured.get((Case(loss, 256), what))
            if what == "peak":
                share = ours.speed / ours.peak
                row = f"{loss}, share of peak", f">= {least:.0%}", f"{share:.1%}", share >= least
                rows.append(verdict(*row, ours.quiet))
            elif peer:
                ratio = peer.step / ours.step
                row = f"{loss}, faster than {what}", f">= {least:g}x", f"{ratio:.2f}x"
                rows.append(verdict(*row, ratio >= least, ours.quiet))
    return rows


def cuda_verdicts(results: list[Result]) -> list[list[str]]:
    """Compare the steps at 256x256 gray with the fastest peer in TF32."""
    measured = {(r.case, r.engine): r for r in results if r.usable}
    rows = []
    for loss, least in TARGETS_CUDA.items():
        ours = measured.get((Case(loss, 256), "ours"))
        peers = [
            measured[key] for name in PEERS_TF32 if (key := (Case(loss, 256), name)) in measured
        ]
        if ours and peers:
            peer = min(peers, key=lambda r: r.step)
            ratio = peer.step / ours.step
            row = f"{loss}, faster than {peer.engine}", f">= {least:g}x", f"{ratio:.2f}x"
            rows.append(verdict(*row, ratio >= least))
    return rows


def memory(options) -> tuple[list[Result], list[list[str]]]:
    """Peak memory of a fit at 2048x2048 and at 256x256; returns the results and the verdict."""
    cases = [Case("fit", side, width=options.width) for side in (256, 2048)]
    options = argparse.Namespace(**{**vars(options), "rounds": 1})
    results = measure([("ours", case) for case in cases], options, picture=True)
    if not all(r.usable for r in results):
        return results, []
    data = [4 * case.count * (2 + 1 + 1) for case in cases]  # coordinates, target, output; float32
    rows = [
        [r.case.name, *(f"{n / 1e6:.0f}" for n in (r.memory_of_steps, r.memory, size))]
        for r, size in zip(results, data)
    ]
    print("\n**Peak memory in MB**\n")
    print(table(["ours", "training", "and evaluation", "its data"], rows), flush=True)
    small, large = results
    rows = []
    for what, name in (("training", "memory_of_steps"), ("training and evaluation", "memory")):
        extra = (getattr(large, name) - getattr(small, name) - data[1]) / 1e6
        title = f"memory of {what}, 2048x2048 less 256x256 less data"
        rows.append(verdict(title, "<= 200 MB", f"{extra:.0f} MB", extra <= 200))
    return results, rows


def scaling(options) -> tuple[list[Result], list[list[str]]]:
    """Time per point from 128x128 to 2048x2048; returns the results and the verdict."""
    results = measure(
        [("ours", Case("fit", 128 << i, width=options.width)) for i in range(5)], options
    )
    if not all(r.usable for r in results):
        return results, []
    per_point = [r.step / r.case.count for r in results]
    rows = [
        [r.case.name, f"{1e3 * r.step:.1f}", f"{1e9 * t:.1f}", f"{r.speed / r.peak:.1%}"]
        for r, t in zip(results, per_point)
    ]
    print("\n**Time per point**\n")
    print(table(["ours", "ms/step", "ns/point", "of peak"], rows), flush=True)
    spread = max(per_point) / min(per_point) - 1
    row = "time per point, 128x128 to 2048x2048", "within 10%", f"{spread:.1%}", spread <= 0.1
    return results, [verdict(*row, results[0].quiet)]


# ---- the command line ---------------------------------------------------------------------------


def cases(options) -> list[Case]:
    """The cases that the options select."""
    side = options.side
    sizes = [(side, 1)] if options.quick else [(side, 1), (side, 3), (2 * side, 1)]
    width = options.width
    found = [Case(loss, side, channels, 0, width) for side, channels in sizes for loss in LOSSES]
    if not options.quick:
        found.append(Case("fit", side, points=5000, width=width))
    return [case for case in found if options.only in case.name]


def engines(case: Case, options) -> list[str]:
    """The engines that are measured on a case: plain Jittor only where it is bearable."""
    left_out = set()
    if not options.all and (case.channels > 1 or case.side > options.side):
        left_out = {"jittor", "jittor-autograd"}
    elif case.order == 0 or (case.order == 2 and not options.all):  # 0: nothing to differentiate
        left_out = {"jittor-autograd"}
    if case.order > 0:
        left_out.add("pytorch-compile")  # which knows no second derivatives
    return [name for name in options.engines.split(",") if name not in left_out]


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description="Time one training step (loss, gradient, Adam) of a SIREN of "
        "2-256-256-256-256-C units (--width) by this program's fused engine and by its peers, in "
        "turns and on the same threads or the same GPU."
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all this may use")
    parser.add_argument("--rounds", type=int, default=7, metavar="N", help="default: 7")
    parser.add_argument("--quick", action="store_true", help="only 256x256 gray")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases named so, as in fit")
    parser.add_argument(
        "--engines",
        metavar="LIST",
        help=f"comma-separated, of {','.join(ENGINES)} (default: all but ours-fp32); "
        f"cuda: {','.join(ENGINES_CUDA)}",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="plain Jittor on every case, and its Laplacian by autograd: minutes a step",
    )
    parser.add_argument("--avx2", action="store_true", help="hold every engine to AVX2")
    parser.add_argument("--memory", action="store_true", help="instead: peak memory of a large fit")
    parser.add_argument("--scaling", action="store_true", help="instead: time per point by size")
    parser.add_argument(
        "--side", type=int, default=256, metavar="N", help="a trial at another size than 256"
    )
    parser.add_argument(
        "--width", type=int, default=256, metavar="N", help="units of a hidden layer, not 256"
    )
    parser.add_argument("--json", metavar="FILE", help="write every single time there")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    known = ENGINES if options.device == "cpu" else ENGINES_CUDA
    usual = [name for name in known if name != "ours-fp32" or options.device == "cuda"]
    options.engines = options.engines or ",".join(usual)
    unknown = set(options.engines.split(",")) - set(known)
    if unknown:
        parser.error(f"unknown engines: {', '.join(sorted(unknown))}")
    return options


def main() -> int:
    """Measure what the options ask for; 0 if nothing failed and all losses agree."""
    options = parse()
    if options.worker:
        work(options.worker)
        return 0
    processors = sorted(os.sched_getaffinity(0))
    options.threads = min(options.threads or len(processors), len(processors))
    os.sched_setaffinity(0, processors[: options.threads])  # JAX counts these; workers inherit them

    text = Path("/proc/cpuinfo").read_text(encoding="utf8")
    cpu = next((x.split(":")[1].strip() for x in text.splitlines() if "model name" in x), "?")
    machine = f"{cpu}, {options.threads} threads" + (", AVX2 only" if options.avx2 else "")
    print(f"{machine}; Python {platform.python_version()}; medians of {options.rounds} rounds")
    right, results, rows = True, [], []
    if not (options.memory or options.scaling):
        for case in cases(options):
            entries = [(engine, case) for engine in engines(case, options)]
            if entries:
                results += (found := measure(entries, options))
                right = show_case(found) and right
        on_cpu = options.device == "cpu"
        rows += speed_verdicts(results, options.avx2) if on_cpu else cuda_verdicts(results)
    for wanted, measurement in ((options.memory, memory), (options.scaling, scaling)):
        if wanted:
            found, verdicts = measurement(options)
            right = right and bool(verdicts)
            results += found
            rows += verdicts
    if rows:
        print("\n**Targets**\n")
        print(table(["target", "wanted", "measured", "verdict"], rows))
    versions = sorted({result.version for result in results if result.version})
    print(f"\n{'; '.join(versions)}")
    if options.json:
        record = {
            "machine": machine,
            "options": vars(options),
            "targets": rows,
            "results": [asdict(result) for result in results],
        }
        Path(options.json).write_text(json.dumps(record, indent=1), encoding="utf8")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
