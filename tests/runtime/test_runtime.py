"""siren.runtime: each trap of an ``import jittor`` is set up in a process of its own."""

import contextlib
import ctypes
import io
import json
import os
import re
import select
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import types
from pathlib import Path

import pytest
from program import wait_for

from siren import runtime
from siren.cli.errors import BAD_INPUT, FAILED, report_error
from siren.runtime import cuda, environment, install, jittor_import, machine, processes
from siren.runtime.environment import RECORD, user_environment
from siren.runtime.messages import Compilation

ROOT = Path(__file__).resolve().parents[2]
ANNOUNCEMENT = "Jittor compiles its core once on this machine: about a minute ...\n"
OURS = ("use_mkl", "conv_opt", "nvcc_path", "log_silent", "cache_name")

FORKS = """
import json, os, sys, tempfile
{before}
for code, variables in json.load(sys.stdin):
    if os.fork() == 0:
        os.environ.clear()
        os.environ.update(variables)
        exec(code)
        sys.exit()
    assert os.wait()[1] == 0, (code, variables)
"""
ENVIRONMENT = "\nprint(json.dumps(dict(os.environ)))"
# Jittor is never reached.
PROBLEM = """
import siren
from siren import runtime
{before}
runtime.prepare()
try:
    runtime.rank(), runtime.world_size()
    runtime.start({device!r})
    problem = None
except runtime.Problem as error:
    problem = error
assert "jittor" not in sys.modules
print(json.dumps([getattr(problem, "status", 0), str(problem)]))
"""


def environment_with(variables):
    """The environment as siren.runtime found it, with ``variables``, without any that is None."""
    found = {**user_environment(), "PYTHONPATH": str(ROOT), **variables}
    return {name: value for name, value in found.items() if value is not None}


def run_python(code, timeout=600, **variables):
    """Run code in a new interpreter, in the environment as siren.runtime found it."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment_with(variables),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def outputs(cases, before=""):
    """What pieces of code print as JSON, each with its variables, in forks after ``before``."""
    cases = [(code, environment_with(variables)) for code, variables in cases]
    result = subprocess.run(
        [sys.executable, "-c", FORKS.format(before=before)],
        env=environment_with({}),
        input=json.dumps(cases),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(found) == len(cases), result.stderr
    return found


def check_problems(cases):
    """In each case (code before, variables, words) start() says these words in one sentence.

    They are looked for in "\\nexit status: sentence\\n", so that words can be all of it.
    """
    programs = [
        (PROBLEM.format(before=before, device="cpu"), {"nvcc_path": None, **variables})
        for before, variables, _ in cases
    ]
    found = outputs(programs, "from siren import runtime")
    for (before, variables, words), (status, sentence) in zip(cases, found):
        assert status and len(sentence.splitlines()) == 1, (before, variables)
        for word in words:
            assert word in f"\n{status}: {sentence}\n", (before, variables)


def fake_program(folder, name, script):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


# ---- variables ------------------------------------------------------------------------------


SETTINGS = [  # (variables, those that ``import siren`` makes of them; None if it sets none)
    (
        {"CUDA_VISIBLE_DEVICES": ""},
        {
            **dict.fromkeys(("use_mkl", "use_cutt", "use_cutlass", "use_nccl", "use_mpi"), "0"),
            "FIX_TORCH_ERROR": "0",
            "conv_opt": "1",
            "nvcc_path": "",
            "log_silent": "1",
        },
    ),
    *[({name: "/of/the user"}, {name: "/of/the user"}) for name in OURS],
    ({"OMPI_COMM_WORLD_SIZE": "2"}, {"use_mpi": None}),
    ({"log_v": "1"}, {"log_silent": None}),
    # Whatever is set, nothing is raised.
    ({"HOME": "/dev/null", "TMPDIR": "/dev/null"}, {}),
    ({"OMP_NUM_THREADS": "x", "PATH": ""}, {}),
]


def test_importing_the_package_prepares_the_environment_without_jittor():
    code = "import siren; assert not {'jittor', 'numpy'} & set(sys.modules)" + ENVIRONMENT
    for (variables, wanted), after in zip(SETTINGS, outputs((code, each) for each, _ in SETTINGS)):
        assert {name: after.get(name) for name in wanted} == wanted, variables


def test_settings_of_the_program_and_of_a_parent_process_are_told_from_the_users():
    later = """
from siren import runtime
runtime.prepare()
os.environ["use_mkl"] = "1"
runtime.prepare("cpu", verbose=True)
"""
    after, parent = outputs([(later + ENVIRONMENT, {}), ("import siren" + ENVIRONMENT, {})])
    assert (after["use_mkl"], after["log_silent"]) == ("1", "0")
    child = "from siren import runtime; runtime.prepare(verbose=True)" + ENVIRONMENT
    assert outputs([(child, parent)])[0]["log_silent"] == "0"


# ---- what is missing or unfit ------------------------------------------------------------------

UNFIT = [  # (code before the start, variables, words of the sentence)
    *(
        (
            f"sys.modules[{module!r}] = None",
            {},
            [f"package {package} is missing", "pip install -r requirements.txt"],
        )
        for module, package in install.PACKAGES.items()
    ),
    ("sys.modules['jittor_utils'] = None", {}, [f"pip install --no-deps {install.JITTOR}"]),
    ("sys.version_info = (3, 8, 0)", {}, ["3.9 to 3.14", "3.8"]),
    ("sys.version_info = (3, 15, 0)", {}, ["3.9 to 3.14", "3.15"]),
    (
        "import sysconfig; sysconfig.get_config_var = {'Py_GIL_DISABLED': 1}.get",
        {},
        ["free-threaded"],
    ),
    (
        "import sysconfig; sysconfig.get_path = lambda name: '/no/such/folder'",
        {"python_config_path": None},
        ["python{}.{}-dev".format(*sys.version_info)],
    ),
    ("", {"PATH": "/nowhere", "cc_path": None}, ["package g++"]),
    ("", {"cc_path": "/no/such/g++"}, ["/no/such/g++ is missing", "cc_path"]),
    # variables that the user may have set
    ("", {"OMPI_COMM_WORLD_SIZE": "abc"}, ["OMPI_COMM_WORLD_SIZE is 'abc'"]),
    ("", {"OMPI_COMM_WORLD_SIZE": "0"}, ["OMPI_COMM_WORLD_SIZE is '0'"]),
    ("", {"OMPI_COMM_WORLD_SIZE": ""}, ["OMPI_COMM_WORLD_SIZE is ''"]),
    ("", {"OMPI_COMM_WORLD_SIZE": "9" * 5000}, ["OMPI_COMM_WORLD_SIZE is '999"]),
    ("", {"OMPI_COMM_WORLD_SIZE": "2"}, ["OMPI_COMM_WORLD_RANK is not"]),
    ("", {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "2"}, ["RANK is '2'"]),
    ("", {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "x"}, ["LOCAL_RANK is 'x'"]),
    ("", {"JITTOR_HOME": "/a b"}, ["JITTOR_HOME is '/a b'"]),
    ("", {"JITTOR_HOME": ""}, ["JITTOR_HOME is ''"]),
    ("", {"JITTOR_HOME": "/proc/nowhere"}, ["/proc/nowhere/.cache/jittor"]),
    ("", {"HOME": "/proc/nowhere"}, ["set the variable HOME"]),
    ("", {"HOME": "/dev/null"}, ["set the variable HOME"]),
]


def test_what_is_missing_or_unfit_is_one_sentence_that_names_it():
    check_problems(UNFIT)


def test_what_fails_is_one_sentence_with_the_reason_and_no_traceback(tmp_path):
    numpy, utils = tmp_path / "numpys" / "numpy.py", tmp_path / "utils" / "jittor_utils.py"
    numpy.parent.mkdir()
    numpy.write_text("raise ImportError('the reason')")
    utils.parent.mkdir()
    utils.write_text('raise OSError("first\\nthe \\x1b[31mreason\\x1b[m\\n")')
    cases = [
        (
            f"sys.path.insert(0, {str(numpy.parent)!r})",
            {},
            ["\n1: NumPy cannot be imported: ImportError: the reason\n"],
        ),
        (
            f"sys.path.insert(0, {str(utils.parent)!r})",
            {},
            ["\n1: Jittor cannot be imported: OSError: the reason\n"],
        ),
    ]
    version = 'case "$*" in *--version*) echo "g++ 12.2.0"; exit 0;; esac'
    for number, (script, words) in enumerate(
        [
            ("echo 'a.cc:1:2: fatal error: disk on fire'", "fatal error: disk on fire"),
            ("echo 'g++: fatal error: Killed signal terminated program cc1plus'", "lack of memory"),
            ("kill -9 $PPID", ""),
        ]
    ):
        compiler = fake_program(tmp_path / f"bin{number}", "g++", f"{version}\n{script}\nexit 1")
        variables = {"HOME": str(tmp_path / f"home{number}"), "cc_path": str(compiler)}
        cases.append(("", variables, ["\n1: Jittor cannot be compiled: ", words]))
    check_problems(cases)


def test_unknown_device():
    with pytest.raises(ValueError, match="gpu"):
        runtime.start("gpu")


def test_parts_that_jittor_cannot_build_are_named_with_the_way_out(capsys):
    without = types.SimpleNamespace(compile_extern=types.SimpleNamespace(cublas=None, curand=None))
    with pytest.raises(runtime.Problem) as caught:
        runtime._switch_device(without, True)
    assert report_error(caught.value).status == FAILED
    said = capsys.readouterr().err
    assert "The GPU cannot be used" in said and "cuBLAS and cuRAND" in said
    assert "verbose shows why" in said and "device cpu does without" in said


# ---- CUDA -------------------------------------------------------------------------------------


def test_an_nvcc_without_libraries_means_cpu_and_jittor_works(tmp_path):
    fake_program(tmp_path / "bin", "nvcc", "echo release 12.2, V12.2.140")
    result = run_python(
        """
        from siren import runtime
        assert runtime.start() == "cpu"
        import jittor as jt
        print(jt.float32([1, 2, 3]).sum().item(), jt.flags.use_cuda)
        """,
        PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        CUDA_VISIBLE_DEVICES="",
        nvcc_path=None,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["6.0", "0"]
    assert "Using the CPU: " in result.stderr


def test_cuda_that_cannot_be_had_is_refused_with_the_reason(tmp_path):
    fake_program(tmp_path / "bin", "nvcc", "exit 1")
    path = f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"
    code = PROBLEM.format(before="", device="cuda")
    variables = {"PATH": path, "CUDA_VISIBLE_DEVICES": "", "nvcc_path": None}
    (_, sentence), *_ = outputs([(code, variables)])
    assert sentence.startswith("The device cuda cannot be used: there is a CUDA compiler") or (
        "lacks" in sentence or "offers no GPU" in sentence
    )


class FakeDriver:
    """The functions of libcuda that are asked."""

    def __init__(self, status=0, count=1, version=12020, capability=90):
        self.status, self.count, self.version, self.capability = status, count, version, capability

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count
        return 0

    def cuDriverGetVersion(self, version):
        version._obj.value = self.version
        return 0

    def cuDeviceGet(self, device, index):
        return 0

    def cuDeviceGetName(self, name, size, device):
        name.value = b"H900"

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: self.capability // 10, 76: self.capability % 10}[attribute]
        return 0


def fake_toolkit(root, version=12020, without=()):
    """Lay out a toolkit's files as Jittor looks for them; return its nvcc."""
    files = ["lib64/libcudart.so", "lib64/libcublas.so", "lib64/libcurand.so"]
    files += ["include/cublas.h", "include/curand.h", "include/cuda_runtime_api.h"]
    for name in files:
        if name not in without:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(f"#define CUDART_VERSION  {version}\n")
    (root / "bin").mkdir()
    return str(fake_program(root / "bin", "nvcc", "exit 0"))


def probe(monkeypatch, driver, nvcc_path=None, path="/nowhere", cuda_home=None):
    monkeypatch.setattr(cuda, "load_driver", lambda: driver)
    monkeypatch.setattr(cuda, "find_nvcc_problem", lambda nvcc, compiler: "")
    return cuda.probe_cuda.__wrapped__(nvcc_path, None, path, cuda_home, None, None)


def test_a_complete_toolkit_and_a_gpu_are_used(monkeypatch, tmp_path):
    nvcc = fake_toolkit(tmp_path / "cuda")
    found = probe(monkeypatch, FakeDriver(), path=str(tmp_path / "cuda" / "bin"))
    assert found == cuda.Cuda(nvcc, 12020, 90, gpus=1, driver=12020, name="H900")


def test_a_wrapper_without_libraries_gives_way_to_a_complete_toolkit(monkeypatch, tmp_path):
    nvcc = fake_toolkit(tmp_path / "cuda")
    fake_program(tmp_path / "bin", "nvcc", f'exec {nvcc} "$@"')
    found = probe(
        monkeypatch, FakeDriver(), path=str(tmp_path / "bin"), cuda_home=str(tmp_path / "cuda")
    )
    assert found.nvcc == nvcc


@pytest.mark.parametrize(
    "driver, version, without, reason",
    [
        (None, 12020, [], "no NVIDIA driver"),
        (FakeDriver(status=100), 12020, [], "no GPU"),
        (FakeDriver(count=0), 12020, [], "no GPU"),
        (FakeDriver(version=12020), 13000, [], "CUDA 12.2 at most, older than the toolkit's 13.0"),
        (FakeDriver(version=13000, capability=61), 13000, [], "no longer supports a GPU"),
        (FakeDriver(), 12020, ["lib64/libcudart.so"], "libcudart.so"),
    ],
)
def test_why_a_gpu_is_not_used(monkeypatch, tmp_path, driver, version, without, reason):
    nvcc = fake_toolkit(tmp_path / "cuda", version, without)
    found = probe(monkeypatch, driver, nvcc_path=nvcc)
    assert found.nvcc == ""
    assert reason in found.reason


@pytest.mark.parametrize(
    "version, capability, flags, wanted",
    [
        (12040, 80, " -arch=compute_80  -code=sm_80 ", None),
        (11080, 90, " -arch=compute_90  -code=sm_90 ", None),
        (13000, 90, " -arch=compute_80  -code=sm_80  -code=sm_90 ", None),
        (
            *(13000, 90, " -arch=compute_90  -code=sm_90 "),
            " -arch=compute_90a  -code=sm_90a -DSIREN_HOPPER ",
        ),
        (
            *(13000, 120, " -arch=compute_90  -code=sm_90 "),
            " -arch=compute_90  -code=sm_90,compute_90 ",
        ),
    ],
)
def test_flags_fit_the_gpu(monkeypatch, version, capability, flags, wanted):
    monkeypatch.setattr(cuda, "find_cuda", lambda: cuda.Cuda("nvcc", version, capability))
    assert cuda.flags_for_capability(flags) == (wanted or flags)


def process_of(monkeypatch, rank, size):
    for name, value in {"SIZE": size, "RANK": rank, "LOCAL_SIZE": size, "LOCAL_RANK": rank}.items():
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", str(value))


def gpu_settings(found):
    found = processes.process_settings(found)
    assert int(found.pop("OMP_NUM_THREADS")) >= 1
    return found


@pytest.mark.parametrize(
    "library, rank, size, gpus, wanted",
    [
        ("lib64/libnccl.so", 1, 2, 2, {"device_id": "1", "use_nccl": "1"}),
        ("lib64/libnccl.so.2", 1, 2, 2, {"device_id": "1", "use_nccl": "1"}),
        ("lib64/libnccl.so", 2, 4, 1, {}),
        ("lib64/libnccl.so", 2, 4, 2, {"device_id": "0"}),
    ],
)
def test_processes_share_the_gpus_or_take_one_each_and_nccl_where_it_is(
    monkeypatch, tmp_path, library, rank, size, gpus, wanted
):
    nvcc = fake_toolkit(tmp_path / "cuda")
    for path in ("include/nccl.h", library):
        (tmp_path / "cuda" / path).touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    process_of(monkeypatch, rank, size)
    for _ in range(2):  # the second time, what the first has made is there
        found = gpu_settings(cuda.Cuda(nvcc, 13000, 90, "", gpus))
        if "use_nccl" in wanted:
            assert found.pop("nccl_include_path") == str(tmp_path / "cuda" / "include")
            library_found = Path(found.pop("nccl_lib_path"), "libnccl.so").resolve()
            assert library_found == tmp_path / "cuda" / library
        assert found == wanted


@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_says_why_there_is_no_gpu(monkeypatch, capsys, rank):
    monkeypatch.setattr(runtime, "find_cuda", lambda: cuda.Cuda(reason="it is broken"))
    monkeypatch.setattr(runtime, "user_environment", dict)
    monkeypatch.setattr(runtime, "rank", lambda: rank)
    runtime._explain_missing_cuda("auto")
    assert capsys.readouterr().err == ("" if rank else "Using the CPU: it is broken.\n")


def test_what_compiles_is_not_bound_as_mpirun_has_bound_the_process():
    """As a thread that was started then; the process itself is bound again afterwards."""
    whole = os.sched_getaffinity(0)
    one = {min(whole)}
    seen = []
    go_on = threading.Event()

    def compile_later():
        go_on.wait()
        seen.append(os.sched_getaffinity(0))

    os.sched_setaffinity(0, one)
    try:
        with processes.all_processors():
            thread = threading.Thread(target=compile_later)
            thread.start()
        assert os.sched_getaffinity(0) == one
        go_on.set()
        thread.join()
    finally:
        go_on.set()
        os.sched_setaffinity(0, whole)
    assert seen[0] >= whole


def test_cuda_13_finds_the_corrected_header_first(monkeypatch, tmp_path):
    for name in (*OURS, "cc_flags"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(RECORD, "{}")
    monkeypatch.setenv("cc_flags", "-g")
    monkeypatch.setenv("CPLUS_INCLUDE_PATH", "/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "jittor", raising=False)
    monkeypatch.setattr(runtime, "find_cuda", lambda: cuda.Cuda("/cuda/bin/nvcc", 13000, 90))
    runtime.prepare()
    after = dict(os.environ)
    flags = after["cc_flags"]
    assert flags.startswith('-g -I"')
    assert (Path(flags.split('"')[1]) / "helper_cuda.h").is_file()
    assert after["nvcc_path"] == "/cuda/bin/nvcc"
    # g++ searches folders of this variable last, even those that Jittor names first
    original, mine = after["CPLUS_INCLUDE_PATH"].split(os.pathsep)
    assert (Path(original) / "helper_cuda.h").is_file()
    assert mine == "/mine"

    runtime.prepare("cpu")
    before, after = after, dict(os.environ)
    # In one cache, Jittor would take a CPU's build for a GPU's.
    assert before["cache_name"] != after["cache_name"]
    assert after["cc_flags"] == flags
    assert after["CPLUS_INCLUDE_PATH"] == "/mine"
    assert after["nvcc_path"] == ""


# ---- the import -------------------------------------------------------------------------------


def test_the_first_compilation_is_announced_with_its_length(tmp_path):
    code = """
        import fcntl
        from siren.runtime import jittor_import
        import jittor_utils
        print(jittor_import._stamp(jittor_utils.cache_path).exists())
        print(jittor_import._prepare_compilation(jittor_utils.cache_path))
        from jittor_utils import lock
        with open(lock.lock_path, "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            print(jittor_import._prepare_compilation(jittor_utils.cache_path))
    """
    result = run_python(code, HOME=str(tmp_path), nvcc_path="")
    exists, first, second = result.stdout.splitlines()
    assert exists == "False"
    assert first.startswith("Jittor compiles its core once on this machine: about a minute")
    assert "Another process" in second and "about a minute" in second


@pytest.mark.parametrize("given", [None, "sm_80"])
@pytest.mark.parametrize("fails", [False, True])
def test_what_jittor_leaves_in_the_environment_is_removed(monkeypatch, tmp_path, given, fails):
    """With a GPU it leaves a variable that decides whether the core is compiled again."""
    leaves = "import os\nos.environ.setdefault('cuda_arch', 'c u 1 3')\n"
    leaves += "class compiler:\n    cc_type = 'clang'\n"
    (tmp_path / "jittor.py").write_text(leaves + "raise ImportError\n" * fails)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "jittor")
    monkeypatch.delitem(sys.modules, "jittor_core")
    monkeypatch.delenv("cuda_arch", raising=False)
    if given:
        monkeypatch.setenv("cuda_arch", given)
    with contextlib.suppress(ImportError):
        jittor_import.load_jittor()
    assert dict(os.environ).get("cuda_arch") == given


@pytest.mark.parametrize("rank", [0, 1])
def test_under_mpirun_one_process_speaks_of_what_a_child_compiles_without_mpi(
    monkeypatch, tmp_path, rank
):
    process_of(monkeypatch, rank, 2)
    announced, programs = [], []

    def child(arguments, verbose, read):
        programs.append(arguments[1].partition("prepare(")[0] + "print(processes.under_mpirun())")
        return types.SimpleNamespace(returncode=0)

    def compilation(announcement, _):
        announced.append(announcement)
        return Compilation("", "files")

    monkeypatch.setattr(jittor_import, "run_interruptibly", child)
    monkeypatch.setattr(jittor_import, "Compilation", compilation)
    monkeypatch.setattr(jittor_import, "_prepare_compilation", lambda _: ANNOUNCEMENT)
    jittor_import._compile_in_child(tmp_path / "stamp", "cpu", False)
    assert set(announced) == ({""} if rank else {ANNOUNCEMENT})
    assert processes.run_interruptibly(["-c", programs[0]]).stdout == "False\n"


def test_jittor_starts_quietly_and_leaves_signals_to_python():
    result = run_python(
        """
        import json, os, signal, subprocess
        os.setpgrp()
        import siren
        from siren import runtime
        device = runtime.start("cpu")
        child = subprocess.Popen(["sleep", "60"])  # a compiler, say, that runs out of memory
        child.kill()
        child.wait()
        try:
            os.killpg(0, signal.SIGINT)  # as a terminal does it; the exit must not hang
            signal.pause()
        except KeyboardInterrupt:
            print(json.dumps([device, runtime.describe()]))
        handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGCHLD)]
        assert handlers == [signal.SIG_DFL] * 2
        caught = [line for line in open("/proc/self/status") if line.startswith("SigCgt")]
        assert not int(caught[0].split()[1], 16) & (1 << signal.SIGCHLD - 1), caught
        """,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, "")
    device, description = json.loads(result.stdout)
    assert device == description["device"] == "cpu"
    assert description["jittor"].startswith("1.3.")
    assert description["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert description["threads"] >= 1
    assert description["device_name"]


@pytest.mark.parametrize(
    "number, module", [("SIGINT", "jittor.pyjt_compiler"), ("SIGTERM", "jittor_core")]
)
def test_a_signal_during_the_import_is_a_keyboard_interrupt_after_it(number, module):
    result = run_python(
        f"""
        import os, signal, sys
        from siren import runtime, signals
        import numpy  # with threads that the signal could reach
        class Interrupting:
            def find_spec(self, name, *_):
                if name == {module!r}:
                    print("sent")
                    os.kill(os.getpid(), signal.{number})
        sys.meta_path.insert(0, Interrupting())
        with signals.raising_interrupt():
            try:
                runtime.start("cpu")
            except KeyboardInterrupt:
                print("interrupted")
        """
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.split() == ["sent", "interrupted"]


def processes_of_home(home, name=""):
    """Numbers of all processes with this HOME, and with ``name`` in their command."""
    numbers = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = f"HOME={home}\0".encode() in (folder / "environ").read_bytes()
            if ours and name.encode() in (folder / "cmdline").read_bytes():
                numbers.append(int(folder.name))
    return numbers


@contextlib.contextmanager
def first_compilation(home):
    """A process that has Jittor's core compiled, and has said so."""
    code = """
        import sys
        from siren import runtime, signals
        with signals.raising_interrupt():
            try:
                runtime.start("cpu")
            except KeyboardInterrupt:
                sys.exit(130)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**user_environment(), "PYTHONPATH": str(ROOT), "HOME": str(home), "nvcc_path": ""},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        try:
            ready, _, _ = select.select([process.stderr], [], [], 60)
            assert ready and b"compiles its core" in process.stderr.readline()
            yield process
        finally:
            process.kill()


def pause_compilers(home):
    """Whoever waits for one that runs now waits for ever."""
    wait_for(lambda: processes_of_home(home, "cc1plus"))
    for compiler in processes_of_home(home, "cc1plus"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(compiler, signal.SIGSTOP)


@pytest.mark.parametrize(
    "number, status",
    [
        ("SIGINT", 130),
        pytest.param("SIGTERM", 130, marks=pytest.mark.soak),
        pytest.param("SIGKILL", -9, marks=pytest.mark.soak),
    ],
)
def test_the_first_compilation_ends_at_once(tmp_path, number, status):
    with first_compilation(tmp_path) as process:
        if number != "SIGKILL":
            pause_compilers(tmp_path)
        assert len(processes_of_home(tmp_path)) > 2
        process.send_signal(getattr(signal, number))
        assert process.wait(timeout=300) == status
        assert process.stderr.read() == b""
    if number == "SIGKILL":  # nobody has told the compiler, which finishes its file
        wait_for(lambda: not processes_of_home(tmp_path, "load_jittor"))
    else:
        assert not processes_of_home(tmp_path)
    assert not list(tmp_path.rglob("jittor_core*.so"))


def test_the_stand_in_for_python_config_describes_this_interpreter(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    script = str(python_config())
    includes = subprocess.run([script, "--includes"], capture_output=True, text=True).stdout
    suffix = subprocess.run([script, "--extension-suffix"], capture_output=True, text=True).stdout
    folders = [part.strip('"') for part in includes.strip().split("-I") if part]
    assert any(Path(folder.strip().strip('"'), "Python.h").is_file() for folder in folders)
    assert suffix.strip().endswith(".so")


# ---- places and links -------------------------------------------------------------------------


def python_config():
    return Path(machine.toolchain_settings()["python_config_path"])


ODD = 'x y\'z "$HOME" é,:'


def planted(folder, kind):
    """What another user may have put where ours is to be."""
    if kind == "a file":
        folder.write_text("")
        return
    real = folder if kind != "a link" else folder.with_name("theirs")
    real.mkdir(mode=0o700)
    (real / f"link-{environment.digest('/a b')}").symlink_to("/of/another/user")
    if kind == "a link":
        folder.symlink_to(real)
    if kind == "writable":
        real.chmod(0o777)
    if kind == "group":
        real.chmod(0o770)


@pytest.mark.parametrize("kind", ["a file", "a link", "writable", "group", "another's"])
def test_a_folder_of_others_is_not_trusted(monkeypatch, tmp_path, kind):
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    folder = shared / f"siren-{os.geteuid()}"
    planted(folder, kind)
    monkeypatch.setattr(environment, "SHARED", str(shared))
    monkeypatch.setenv("HOME", "/proc/nowhere")
    if kind == "another's":  # as it looks to another user
        assert environment.make_private(folder)
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
        assert not environment.make_private(folder)
        return
    with pytest.raises(runtime.Problem, match=str(folder)):
        environment.shell_safe("/a b")


def test_files_and_links_that_were_changed_are_corrected(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    link, script = Path(environment.shell_safe("/a b")), python_config()
    assert link.parent == script.parent == tmp_path / ".cache" / "siren"
    good = script.read_text()
    script.write_text("#!/bin/sh\nexec something")
    link.unlink()
    link.symlink_to("/elsewhere")
    assert python_config().read_text() == good
    assert os.readlink(environment.shell_safe("/a b")) == "/a b"


@pytest.mark.parametrize(
    "name", ["a b", "y'z", 'q"q', "$HOME", "`id`", "é", "a,b", "a:b", "a;b", "*", "(a)", "\udce9"]
)
def test_a_path_that_a_shell_would_change_gets_a_link(monkeypatch, tmp_path, name):
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / name
    folder.mkdir()
    (folder / "file").write_text("content")
    for safe in (
        environment.shell_safe(folder) + "/file",
        environment.shell_safe(folder / "file"),
        environment.shell_safe(folder / "file", str(folder)),
    ):
        assert subprocess.getoutput(f"cat {safe}") == "content"
    assert environment.shell_safe("/usr/include/c++") == "/usr/include/c++"


def test_parents_are_created_for_us_alone(tmp_path):
    before = os.umask(0)
    try:
        environment.create_folder(tmp_path / "home" / ".cache" / "siren")
    finally:
        os.umask(before)
    for folder in ("home", "home/.cache", "home/.cache/siren"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700


def jittors_hash(content):
    """By which Jittor knows sources that it has compiled."""
    value = 0
    for byte in reversed(content):
        value = (value * 257 + (byte if byte < 128 else byte - 256)) % 2**64
    return str(value)


def copy_compiled(cache, copy, names):
    """Let Jittor find in ``copy`` what it has compiled in ``cache``.

    Its commands and the sources that it has written name folders, and are compared; ``names`` are
    those before and after.
    """

    def renamed(text):
        for before, after in names.items():
            text = text.replace(before, after)
        return text

    def link_or_copy(source, target):  # loaded from both folders, a library must be the same
        return (os.link if source.endswith((".so", ".o", ".gch")) else shutil.copy2)(source, target)

    shutil.copytree(cache, copy, dirs_exist_ok=True, copy_function=link_or_copy)
    for header in Path(copy).glob("*/*.h"):  # which ends with the command that has precompiled it
        header.write_text(renamed(header.read_text()))
    hashes = {}
    for source in Path(copy, "gen").glob("*.cc"):
        before = source.read_bytes()
        after = os.fsencode(renamed(os.fsdecode(before)))
        if after != before:
            source.write_bytes(after)
            hashes[jittors_hash(before)] = jittors_hash(after)
    for key in Path(copy).rglob("*.key"):
        text = renamed(key.read_text(errors="surrogateescape"))
        for before, after in hashes.items():
            text = text.replace(f": {before}\n", f": {after}\n")
        key.write_text(text, errors="surrogateescape")


@pytest.fixture
def odd_home():
    """A folder beside Jittor's own, so that files can have names in both."""
    user = Path(environment.home(), ".cache")
    user.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=user, prefix="siren-test-") as folder:
        home = Path(folder, ODD)
        (home / "tmp").mkdir(parents=True)
        yield home


@pytest.mark.soak
def test_jittor_works_in_a_home_of_any_name(odd_home):
    where = """
        import os, siren, jittor_utils
        print(jittor_utils.cache_path, os.environ["cc_flags"].split('"')[1])
    """
    started = run_python("from siren import runtime; runtime.start('cpu')", nvcc_path="")
    assert started.returncode == 0, started.stderr
    cache, headers = run_python(where, nvcc_path="").stdout.split()
    variables = {"HOME": str(odd_home), "TMPDIR": str(odd_home / "tmp"), "nvcc_path": ""}
    copy, new_headers = run_python(where, **variables).stdout.split()
    copy_compiled(cache, copy, {cache: copy, headers: new_headers})
    result = run_python(
        """
        import os
        from siren import runtime
        runtime.start("cpu")
        import jittor as jt
        print(jt.float32([1, 2, 3]).sum().item())
        assert jt.flags.cache_path.startswith(os.environ["HOME"])
        """,
        **variables,
    )
    said = result.stderr.replace(ANNOUNCEMENT, "")  # on a machine that is busy with other things
    assert (result.stdout, said, result.returncode) == ("6.0\n", "", 0)
    assert os.path.samefile(Path(copy).parents[6], odd_home / ".cache" / "jittor")


def test_what_lies_in_an_environment_of_any_name_is_imported_by_a_link(tmp_path):
    folder = tmp_path / ODD.replace(":", "")  # which separates folders in PYTHONPATH
    (folder / "jittor_utils").mkdir(parents=True)
    (folder / "jittor_utils" / "__init__.py").write_text("")
    code = "import siren, jittor_utils; print(jittor_utils.__file__)"
    result = run_python(code, PYTHONPATH=f"{ROOT}{os.pathsep}{folder}", HOME=str(tmp_path))
    found = result.stdout.strip()
    assert environment.is_shell_safe(found)
    assert os.path.realpath(found) == str(folder / "jittor_utils" / "__init__.py")


# ---- what users may have set ------------------------------------------------------------------


@contextlib.contextmanager
def closed_folder(folder):
    """A folder that nobody may enter, in which there is a home."""
    (folder / "home").mkdir(parents=True)
    folder.chmod(0)
    try:
        yield folder
    finally:
        folder.chmod(0o700)


def without_privileges():
    """Before a program starts: root may enter closed folders no more than others."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability)  # PR_CAPBSET_DROP


def main_without_privileges(*arguments, **variables):
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *map(str, arguments)],
        env={**user_environment(), **variables},
        capture_output=True,
        text=True,
        preexec_fn=without_privileges,
    )


@pytest.mark.parametrize("place", ["", "home", "home/new"])
@pytest.mark.parametrize("name", ["HOME", "JITTOR_HOME", "XDG_CACHE_HOME"])
def test_a_folder_that_may_not_be_entered(tmp_path, name, place):
    with closed_folder(tmp_path / "closed") as folder:
        variables = {"HOME": str(tmp_path), name: str(folder / place)}
        helped = main_without_privileges("--help", **variables)
        assert (helped.returncode, helped.stderr) == (0, "")
        if name == "XDG_CACHE_HOME":  # which Jittor does not ask for
            return
        run = main_without_privileges("--epochs", 1, "--output_dir", tmp_path / "o", **variables)
        assert run.returncode == 2
        (line,) = run.stderr.splitlines()
        assert f"{folder / place}/.cache/jittor" in line and f"set the variable {name} to" in line


def test_a_home_that_can_only_be_read(tmp_path):
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    run = main_without_privileges("--output_dir", tmp_path / "o", HOME=str(home))
    assert run.returncode == 2
    assert len(run.stderr.splitlines()) == 1 and str(home) in run.stderr


# What starts several processes, and what it leaves in the environment of one of them
LAUNCHED = [  # (variables, who has started several; None if nobody, or Open MPI)
    ({}, None),
    ({"SLURM_NTASKS": "4", "SLURM_JOB_ID": "7"}, None),  # a shell of salloc
    ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, None),  # a script of sbatch
    ({"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, None),  # srun -n 1
    ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0", "SLURM_PTY_PORT": "9"}, None),  # a shell
    ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "srun"),
    ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, "srun"),
    ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_PTY_PORT": "9"}, "srun"),
    ({"SLURM_STEP_NUM_TASKS": "2", "PMI_SIZE": "2", "PMI_RANK": "0"}, "srun"),  # --mpi=pmi2
    ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, "srun"),
    ({"PMI_SIZE": "2", "PMI_RANK": "0"}, "MPICH"),
    ({"PMI_SIZE": "2", "PMI_RANK": "1", "MPI_LOCALNRANKS": "2"}, "MPICH"),
    ({"PMI_SIZE": "1", "PMI_RANK": "0"}, None),
    ({"MV2_COMM_WORLD_SIZE": "8", "MV2_COMM_WORLD_RANK": "0", "PMI_SIZE": "8"}, "MVAPICH"),
    ({"PMIX_RANK": "1"}, "PMIx"),
    ({"PMIX_RANK": "0"}, None),  # of how many, it does not say
    ({"PMI_SIZE": "two", "SLURM_STEP_NUM_TASKS": "", "SLURM_PROCID": "-1"}, None),
    ({"OMPI_COMM_WORLD_SIZE": "1", "PMIX_RANK": "0"}, None),
    (
        {  # Open MPI's mpirun in a job of Slurm, by whose srun it reaches the other machines
            "OMPI_COMM_WORLD_SIZE": "4",
            "OMPI_COMM_WORLD_RANK": "3",
            "PMIX_RANK": "3",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_PROCID": "1",
        },
        None,
    ),
]


@pytest.fixture
def clean(monkeypatch):
    """Of this environment, nothing that tells how a process was started."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "PMI_", "PMIX_", "MV2_", "OMPI_")):
            monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("variables, who", LAUNCHED)
def test_several_processes_that_are_not_open_mpis_are_refused(clean, variables, who):
    for name, value in variables.items():
        clean.setenv(name, value)
    if who is None:
        processes.check_launcher()
        return
    with pytest.raises(runtime.Problem, match=who) as caught:
        processes.check_launcher()
    assert "Open MPI's mpirun" in str(caught.value) and caught.value.status == BAD_INPUT
    unset = re.search(r"unset (.*) to train alone", str(caught.value))[1]
    for name in unset.split(" and "):
        clean.delenv(name)
    processes.check_launcher()  # what the sentence proposes is enough


def test_a_process_that_has_left_mpirun_is_alone_in_slurm_too(clean):
    process_of(clean, 1, 2)
    for name in ("PMIX_RANK", "SLURM_PROCID"):
        clean.setenv(name, "1")
    clean.setenv("SLURM_STEP_NUM_TASKS", "2")
    clean.setattr(os, "environ", dict(os.environ))  # leave_mpirun changes it for good
    clean.setattr(processes, "_unbind", lambda: None)
    processes.leave_mpirun("cpu")
    assert not processes.under_mpirun()
    processes.check_launcher()


def test_the_program_refuses_them_before_it_reads_or_writes(tmp_path):
    for arguments in ([], ["--task", "render", "--network_path", "/no/such"]):
        run = main_without_privileges(
            *arguments, "--output_dir", tmp_path / "o", PMI_SIZE="2", PMI_RANK="1"
        )
        assert run.returncode == 2
        (line,) = run.stderr.splitlines()
        assert "PMI_SIZE is 2" in line and "mpirun -np" in line
    assert not (tmp_path / "o").exists()


# ---- a child process --------------------------------------------------------------------------


def test_a_child_says_how_it_ended_and_sees_what_we_see(monkeypatch, tmp_path):
    (tmp_path / "numpy.py").write_text("raise SystemExit('the one of the current folder')")
    monkeypatch.chdir(tmp_path)
    code = "import sys, numpy; print(numpy.__name__, sys.argv[1:]); sys.exit(3)"
    child = processes.run_interruptibly(["-c", code, "a b"])
    assert (child.returncode, child.stdout) == (3, "numpy ['a b']\n")
    child = processes.run_interruptibly(["-m", "json.tool", "--help"])
    assert child.returncode == 0 and "json.tool" in child.stdout


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_an_interrupted_child_takes_its_own_children_along(tmp_path, number):
    started = time.monotonic()
    result = run_python(
        f"""
        import os, signal, threading
        from siren import signals
        from siren.runtime import processes
        code = "import subprocess; subprocess.run(['sh', '-c', 'sleep 60; echo'])"
        threading.Timer(1, os.kill, [os.getpid(), signal.{number}]).start()
        with signals.raising_interrupt():
            try:
                processes.run_interruptibly(["-c", code])
            except KeyboardInterrupt:
                print("interrupted")
        """,
        HOME=str(tmp_path),
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "interrupted\n", "")
    assert time.monotonic() - started < 30
    assert not processes_of_home(tmp_path)


def test_without_a_terminal_there_are_lines_from_time_to_time(monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr("siren.runtime.messages.DELAY", 0)
    monkeypatch.setattr("siren.runtime.messages.time.monotonic", lambda: clock[0])
    with Compilation("Compiling ...", "files") as compilation:
        compilation.announce.join()
        for done in range(1, 31):
            compilation.read(f"Compiling jittor_core({done}/31)\n")
            clock[0] += 1
        compilation.read("Compiling nothing\n")
    announcement, *lines = capsys.readouterr().err.splitlines()
    assert announcement == "Compiling ..."
    assert lines == [
        "11 of 31 files compiled",
        "21 of 31 files compiled",
    ]


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("siren.runtime.messages.DELAY", 0)
    monkeypatch.setattr("sys.stderr", terminal)
    with Compilation("Compiling ...", "kernels") as compilation:
        compilation.announce.join()
        compilation.read("Compiling Operators(1/3) used: 2.1s eta: 4s \n")
        compilation.read("Compiling Operators(3/3) used: 6.3s eta: 0s \n")
    assert "kernels" in terminal.getvalue() and "1/3" in terminal.getvalue()


def test_what_is_over_soon_is_not_mentioned(capsys):
    with Compilation("Compiling ...", "kernels") as compilation:
        compilation.read("Compiling Operators(1/3)\n")
    assert capsys.readouterr().err == ""
