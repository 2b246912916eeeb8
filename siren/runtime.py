"""Makes ``import jittor`` (1.3.11) succeed on the machine at hand, and picks the device.

Jittor takes its settings from environment variables while it is imported. Left alone it downloads
libraries, takes any ``nvcc`` for a working GPU, and crashes where one of them is missing.
:func:`prepare` sets these variables so that nothing is downloaded and only what works is used;
``import siren`` calls it. :func:`start` goes on to check the machine, imports Jittor and switches
the device on. A variable that the user has set wins over ours.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import functools
import hashlib
import importlib.machinery
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path

_DEFAULTS = {
    "use_mkl": "0",  # oneDNN, cuTT, CUTLASS and NCCL would be downloaded
    "use_cutt": "0",
    "use_cutlass": "0",
    "use_nccl": "0",
    "conv_opt": "1",  # asks for cuBLAS and cuRAND only; a missing cuDNN would be fatal
    "FIX_TORCH_ERROR": "0",  # would import PyTorch wherever it is installed, which takes seconds
    "gdb_path": "",  # would ask gdb for its version at every start
    # Jittor names its cache after the git branch that surrounds the environment (a .venv inside a
    # clone has one) and so would compile everything anew after every switch of branches. A name
    # of our own also keeps apart programs that use Jittor with other compiler settings.
    "cache_name": "siren",
}
# prepare() keeps here, as JSON, {variable: [value before, value set]}: a second call and a child
# process can then tell its settings from the user's.
_RECORD = "SIREN_RUNTIME_SETTINGS"


class RuntimeProblem(RuntimeError):
    """Jittor, or the device asked for, cannot be used; the message is a sentence for the user."""


@dataclass(frozen=True)
class Environment:
    """What a result was computed with: versions, device, and number of CPU threads."""

    python: str
    numpy: str
    jittor: str
    device: str
    device_name: str
    threads: int


@dataclass(frozen=True)
class _Cuda:
    """A CUDA toolkit and GPU that work together, or (``nvcc`` empty) why there are none.

    Nothing found at all, which is no surprise to anybody, has no reason either.
    """

    nvcc: str = ""
    version: int = 0  # as in CUDART_VERSION: 12020 is 12.2
    capability: int = 0  # the highest of all GPUs: 90 is sm_90
    reason: str = ""
    gpus: int = 0


def prepare(device: str = "auto", verbose: bool = False) -> None:
    """Set the environment variables that Jittor reads when it is imported.

    May be called again, with another device, until Jittor is imported; then it does nothing.

    Args:
        device: ``"cpu"`` leaves CUDA out; ``"auto"`` and ``"cuda"`` use it where it works.
        verbose: let Jittor log to the console.
    """
    if "jittor" in sys.modules:
        return
    user = _user_environment()
    settings = dict(_DEFAULTS)
    if "log_v" not in user:  # who asks for a level of detail wants to see it
        settings["log_silent"] = "0" if verbose else "1"
    if "OMPI_COMM_WORLD_SIZE" not in user:
        settings["use_mpi"] = "0"
    elif process_count() > 1:
        settings["OMP_NUM_THREADS"] = str(_threads_of_a_process(user))

    cuda = _find_cuda() if device != "cpu" else _Cuda()
    settings["nvcc_path"] = cuda.nvcc  # empty: a CPU build
    include = ""
    with contextlib.suppress(OSError, RuntimeError):  # no home to write to: Jittor will say so
        if process_count() > 1 and cuda.nvcc:
            settings.update(_share_gpus(user, cuda))
        settings["python_config_path"] = str(_write_python_config())
        if cuda.version >= 13000:
            include = f'-I"{_write_corrected_header().parent}"'
            # Jittor ends the process when compiler flags change, so these get their own cache.
            settings["cache_name"] = "siren_cuda13"

    settings = {name: value for name, value in settings.items() if name not in user}
    if include:
        settings["cc_flags"] = f"{user.get('cc_flags', '')} {include}".strip()
        # Jittor names the original's folder before these flags where it compiles its parts for
        # cuBLAS and others. g++ and nvcc search a folder that is in this variable after all others.
        folders = [str(_original_header().parent), user.get("CPLUS_INCLUDE_PATH", "")]
        settings["CPLUS_INCLUDE_PATH"] = os.pathsep.join(filter(None, folders))
    for name in _record():
        os.environ.pop(name, None)
    os.environ.update(user)
    os.environ.update(settings)
    os.environ[_RECORD] = json.dumps({name: [user.get(name), settings[name]] for name in settings})


def start(device: str = "auto", verbose: bool = False) -> str:
    """Import Jittor, compiling its core first where that is still to be done, and pick the device.

    Also gives signals back to Python, so that Ctrl-C raises KeyboardInterrupt again.

    Args:
        device: ``"auto"`` is the GPU if it works, else the CPU.
        verbose: let Jittor log to the console, and print the traceback of a failed import.

    Returns:
        ``"cpu"`` or ``"cuda"``.

    Raises:
        RuntimeProblem: something is missing or unfit, or ``device="cuda"`` cannot be had.
        ValueError: there is no such device.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, not {device!r}")
    if "jittor" not in sys.modules:
        prepare(device, verbose)
        _check_python()
        _check_numpy()
        _check_compiler()
        _check_mpi()
        reason = _find_cuda().reason if device != "cpu" else ""
        if reason and device == "cuda":
            raise RuntimeProblem(f"The device cuda cannot be used: {reason}.")
        if reason and "nvcc_path" not in _user_environment():
            _say(f"Using the CPU: {reason}.")
        if _core_is_missing(verbose):
            _announce_first_compilation()
        _import_jittor(verbose)

    import jittor as jt

    if threading.current_thread() is threading.main_thread():
        _give_signals_back()

    # Jittor passes these two to a shell without quotes.
    jt.flags.python_path = _shell_safe(jt.flags.python_path, sys.prefix)
    jt.flags.jittor_path = _shell_safe(jt.flags.jittor_path, os.path.dirname(jt.flags.jittor_path))

    use_cuda = device != "cpu" and bool(jt.has_cuda)
    if device == "cuda" and not use_cuda:
        raise RuntimeProblem(
            "The device cuda cannot be used: Jittor has been imported without it in this process."
        )
    if use_cuda and not (jt.compile_extern.cublas and jt.compile_extern.curand):
        # While its log is silent, Jittor carries on without them, and fails in the first product.
        raise RuntimeProblem(
            "The GPU cannot be used: Jittor cannot build its parts for cuBLAS and cuRAND "
            "(--verbose shows why, --device cpu does without)."
        )
    try:
        jt.flags.use_cuda = int(use_cuda)
    except RuntimeError as error:
        raise RuntimeProblem(f"The GPU cannot be used: {_last_line(error)}.") from error
    if use_cuda:
        jt.flags.nvcc_flags = _for_capability(jt.flags.nvcc_flags)
        if process_count() > 1 and process_number() == 0 and not jt.compile_extern.use_nccl:
            _say(
                "Sums over processes go through the host: there is no NCCL (nccl.h and "
                "libnccl.so), or there are fewer GPUs than processes."
            )
    return "cuda" if use_cuda else "cpu"


def process_count() -> int:
    """How many processes mpirun has started; 1 without it."""
    return int(_user_environment().get("OMPI_COMM_WORLD_SIZE", 1))


def process_number() -> int:
    """Which of them this one is, from 0."""
    return int(_user_environment().get("OMPI_COMM_WORLD_RANK", 0))


def describe() -> Environment:
    """Versions, device and number of threads, for the record; call it after :func:`start`."""
    import jittor as jt
    import numpy as np

    device = "cuda" if jt.flags.use_cuda else "cpu"
    return Environment(
        python=platform.python_version(),
        numpy=np.__version__,
        jittor=jt.__version__,
        device=device,
        device_name=_gpu_name() if device == "cuda" else _cpu_name(),
        threads=_thread_count(),
    )


# ---- the variables ----------------------------------------------------------------------------


def _record() -> dict[str, list]:
    return json.loads(os.environ.get(_RECORD, "{}"))


def _setting(name: str) -> str:
    return os.environ.get(name, "")


def _user_environment() -> dict[str, str]:
    """Return the environment as it would be without prepare()."""
    user = dict(os.environ)
    user.pop(_RECORD, None)
    for name, (before, ours) in _record().items():
        if user.get(name) == ours:
            del user[name]
            if before is not None:
                user[name] = before
    return user


def _cache_folder() -> Path:
    return Path.home() / ".cache" / "siren-jittor"


def _write_once(path: Path, text: str, mode: int = 0o644) -> Path:
    """Write a file of the cache unless it is there, whole at any moment (processes may race)."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf8") as file:
            file.write(text)
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    return path


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _threads_of_a_process(user: dict[str, str]) -> int:
    """Threads for one of several processes: the processors it is bound to, or an equal part."""
    processes = int(user.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1))
    return max(1, min(len(os.sched_getaffinity(0)), (os.cpu_count() or 1) // processes))


def _share_gpus(user: dict[str, str], cuda: _Cuda) -> dict[str, str]:
    """Settings of one of several processes: its GPU, and NCCL if each has one to itself.

    Jittor would download NCCL where it is not told of one. Without it, sums go through the host.
    """
    settings = {}
    if cuda.gpus > 1:
        settings["device_id"] = str(int(user.get("OMPI_COMM_WORLD_LOCAL_RANK", 0)) % cuda.gpus)
    if int(user.get("OMPI_COMM_WORLD_LOCAL_SIZE", 1)) <= cuda.gpus:
        folders = _find_nccl(cuda.nvcc)
        if "nccl_include_path" in user and "nccl_lib_path" in user:
            folders = user["nccl_include_path"], user["nccl_lib_path"]
        if folders:
            settings["use_nccl"] = "1"
            settings["nccl_include_path"], settings["nccl_lib_path"] = folders
    return settings


def _find_nccl(nvcc: str) -> tuple[str, str] | None:
    """Folders of nccl.h and libnccl.so: of the toolkit, the system, or a Python package."""
    root, libraries = _toolkit_folders(nvcc)
    places = [
        (root / "include", libraries),
        (Path("/usr/include"), Path(f"/usr/lib/{platform.machine()}-linux-gnu")),
        (Path("/usr/include"), Path("/usr/lib64")),
    ]
    with contextlib.suppress(ImportError):  # there is nothing called nvidia
        package = importlib.util.find_spec("nvidia.nccl")
        for folder in (package and package.submodule_search_locations) or []:
            places.append((Path(folder, "include"), Path(folder, "lib")))
    for include, folder in places:
        if not (include / "nccl.h").is_file():
            continue
        if (folder / "libnccl.so").is_file():
            return str(include), str(folder)
        if (folder / "libnccl.so.2").is_file():  # under the name of a package, not Jittor's
            named = _cache_folder() / f"nccl-{_digest(str(folder))}"
            named.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                (named / "libnccl.so").symlink_to(folder / "libnccl.so.2")
            return str(include), str(named)
    return None


# ---- the machine: interpreter, NumPy, compiler ------------------------------------------------


def _check_mpi() -> None:
    user = _user_environment()
    if "OMPI_COMM_WORLD_SIZE" not in user:
        return
    if user.get("use_mpi", "1") != "1":
        raise RuntimeProblem(
            "The variable use_mpi switches MPI off, but mpirun has started this program; unset it."
        )
    if not shutil.which(user.get("mpicc_path") or "mpicc"):
        raise RuntimeProblem(
            "mpicc is missing, with which Jittor compiles its part for several processes; install "
            "the packages openmpi-bin and libopenmpi-dev (Debian, Ubuntu), or do without mpirun."
        )


def _check_python() -> None:
    if not (3, 9) <= sys.version_info[:2] <= (3, 12):
        version = ".".join(map(str, sys.version_info[:2]))
        raise RuntimeProblem(
            f"Jittor 1.3.11 needs Python 3.9 to 3.12, and this is Python {version}."
        )


def _check_numpy() -> None:
    try:
        import numpy as np
    except ImportError as error:
        raise RuntimeProblem('NumPy is missing; pip install "numpy<2" provides it.') from error
    if int(np.__version__.split(".")[0]) >= 2:
        # Jittor is written for NumPy 1's array layout and reads garbage, without a word, from 2.
        raise RuntimeProblem(
            f"Jittor computes wrong values with NumPy {np.__version__}; "
            'pip install "numpy<2" repairs this.'
        )
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # known from now on; Jittor's kernels switch off the subnormals it lists


def _check_compiler() -> None:
    user = _user_environment()
    compiler = user.get("cc_path") or ("clang++" if sys.platform == "darwin" else "g++")
    if not shutil.which(compiler):
        if "cc_path" in user:
            raise RuntimeProblem(f"cc_path is set to {compiler!r}, which is not a program.")
        raise RuntimeProblem(
            f"The C++ compiler {compiler} is missing, with which Jittor compiles its kernels; "
            "install the package g++ (Debian, Ubuntu) or gcc-c++ (Fedora)."
        )
    if "python_config_path" not in user and not any(
        Path(folder, "Python.h").exists() for folder in _python_include_folders()
    ):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise RuntimeProblem(
            f"The C headers of Python {version} (Python.h) are missing; "
            f"install the package python{version}-dev (Debian, Ubuntu) or python3-devel (Fedora)."
        )


def _python_include_folders() -> list[str]:
    return sorted({sysconfig.get_path("include"), sysconfig.get_path("platinclude")})


def _write_python_config() -> Path:
    """Write a stand-in for ``python3.X-config`` that describes exactly this interpreter.

    Jittor looks for that script beside the interpreter and in /usr, which misses it in a virtual
    environment of a pyenv or conda Python, or finds that of another Python.
    """
    includes = " ".join(f'-I"{folder}"' for folder in _python_include_folders())
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    script = (
        "#!/bin/sh\n"
        "# Written by siren/runtime.py: the two answers that Jittor wants of python3-config.\n"
        'case "$1" in\n'
        f"--includes) echo {shlex.quote(includes)} ;;\n"
        f"--extension-suffix) echo {shlex.quote(suffix)} ;;\n"
        "*) exit 1 ;;\n"
        "esac\n"
    )
    return _write_once(_cache_folder() / f"python-config-{_digest(script)}", script, mode=0o755)


# ---- CUDA -------------------------------------------------------------------------------------


def _find_cuda() -> _Cuda:
    user = _user_environment()
    names = ("nvcc_path", "cc_path", "PATH", "CUDA_HOME", "CUDA_PATH", "CUDA_VISIBLE_DEVICES")
    return _probe_cuda(*(user.get(name) for name in names))


@functools.cache
def _probe_cuda(nvcc_path, cc_path, path, cuda_home, cuda_path, visible_devices) -> _Cuda:
    """Look for a toolkit with libraries and a GPU that it can use (``visible_devices``: a key)."""
    if nvcc_path == "":
        return _Cuda(reason="the variable nvcc_path is set to nothing")
    roots = [cuda_home, cuda_path, "/usr/local/cuda", "/opt/cuda", *_jittor_toolkits()]
    found = [shutil.which("nvcc", path=path)]
    found += [shutil.which(os.path.join(root, "bin", "nvcc")) for root in roots if root]
    found = [nvcc for nvcc in ([nvcc_path] if nvcc_path else found) if nvcc]
    driver = _load_driver()
    if not found:
        return _Cuda(reason="there is an NVIDIA driver but no CUDA toolkit" if driver else "")
    if not driver:
        return _Cuda(reason=f"there is a CUDA compiler ({found[0]}) but no NVIDIA driver")

    missing = {nvcc: _missing_from_toolkit(nvcc) for nvcc in found}
    complete = [nvcc for nvcc in found if not missing[nvcc]]
    if not complete:
        return _Cuda(reason=f"the CUDA toolkit of {found[0]} lacks {missing[found[0]]}")
    nvcc = complete[0]
    version = _toolkit_version(nvcc)

    status, count, driver_version = driver.cuInit(0), ctypes.c_int(), ctypes.c_int()
    if status or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return _Cuda(reason=f"the NVIDIA driver offers no GPU (its status is {status})")
    driver.cuDriverGetVersion(ctypes.byref(driver_version))
    if driver_version.value // 1000 < version // 1000:
        return _Cuda(
            reason=f"the NVIDIA driver supports CUDA {_dotted(driver_version.value)} at most, "
            f"older than the toolkit's {_dotted(version)}"
        )
    capabilities = [_capability(driver, index) for index in range(count.value)]
    if version >= 13000 and min(capabilities) < 75:
        return _Cuda(reason=f"CUDA {_dotted(version)} no longer supports a GPU of this machine")
    problem = _why_nvcc_fails(nvcc, cc_path or "g++")
    if problem:
        return _Cuda(reason=problem)
    return _Cuda(nvcc, version, max(capabilities), "", count.value)


def _jittor_toolkits() -> list[str]:
    """Folders of the toolkits that ``python -m jittor_utils.install_cuda`` has installed."""
    home = os.environ.get("JITTOR_HOME") or os.path.expanduser("~")
    return sorted(map(str, Path(home, ".cache", "jittor", "jtcuda").glob("cuda*_linux")))


def _missing_from_toolkit(nvcc: str) -> str:
    """Name the first thing that Jittor would look for around ``nvcc`` in vain, or return ""."""
    root, libraries = _toolkit_folders(nvcc)
    target = root / "targets" / f"{platform.machine()}-linux"
    if not (libraries / "libcudart.so").exists():
        return f"{libraries / 'libcudart.so'}"
    if not _toolkit_version(nvcc):
        return f"{root / 'include' / 'cuda_runtime_api.h'}"
    for name in ("cublas", "curand"):
        headers = [root / "include", target / "include", Path("/usr/include")]
        folders = [
            root / "bin",
            libraries,
            target / "lib",
            Path(f"/usr/lib/{platform.machine()}-linux-gnu"),
            Path("/usr/lib"),
        ]
        if not any((folder / f"{name}.h").is_file() for folder in headers):
            return f"{name}.h"
        if not any((folder / f"lib{name}.so").is_file() for folder in folders):
            return f"lib{name}.so"
    return ""


def _toolkit_folders(nvcc: str) -> tuple[Path, Path]:
    """Return the root and the library folder that Jittor derives from the path of nvcc."""
    root = Path(os.path.realpath(nvcc)).parent.parent
    packaged = nvcc == "/usr/bin/nvcc"  # the distribution's; Jittor knows this one folder only
    return root, Path("/usr/lib/x86_64-linux-gnu") if packaged else root / "lib64"


def _toolkit_version(nvcc: str) -> int:
    """Return CUDART_VERSION from the toolkit's header (13000 is 13.0), or 0."""
    for folder in (_toolkit_folders(nvcc)[0] / "include", Path("/usr/include")):
        with contextlib.suppress(OSError):
            text = (folder / "cuda_runtime_api.h").read_text(encoding="utf8", errors="replace")
            match = re.search(r"#define\s+CUDART_VERSION\s+(\d+)", text)
            if match:
                return int(match[1])
    return 0


def _dotted(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _load_driver() -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


def _capability(driver: ctypes.CDLL, index: int) -> int:
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
    driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
    return major.value * 10 + minor.value


def _for_capability(flags: str) -> str:
    """The flags of nvcc for the GPU that is there; Jittor knows those for sm_90 at most."""
    cuda = _find_cuda()
    if cuda.capability > 90:  # with PTX beside the machine code newer GPUs can run it
        return flags.replace("-code=sm_90 ", "-code=sm_90,compute_90 ")
    if "=compute_90 " in flags and cuda.version >= 12000:  # with instructions that only Hopper has
        return flags.replace("=compute_90 ", "=compute_90a ").replace(
            "-code=sm_90 ", "-code=sm_90a -DSIREN_HOPPER "
        )
    return flags


def _why_nvcc_fails(nvcc: str, compiler: str) -> str:
    """Compile next to nothing, once: a g++ too new for nvcc shows here, and not after minutes."""
    programs = [os.path.realpath(shutil.which(program) or program) for program in (nvcc, compiler)]
    stamp = str([(name, os.path.getmtime(name)) for name in programs if os.path.exists(name)])
    worked = _cache_folder() / f"nvcc-{_digest(stamp)}-works"
    if worked.exists():
        return ""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "trial.cu")
        source.write_text("#include <cuda_runtime.h>\n#include <vector>\n", encoding="utf8")
        command = [nvcc, "-c", "-std=c++14", "-ccbin", compiler, str(source)]
        trial = subprocess.run(
            [*command, "-o", str(source.with_suffix(".o"))], capture_output=True, text=True
        )
    if trial.returncode:
        lines = (trial.stderr + trial.stdout).strip().splitlines()
        errors = [line for line in lines if "error" in line] or lines or ["no message"]
        return f"{nvcc} does not work with the compiler {compiler} ({errors[0].strip()})"
    with contextlib.suppress(OSError):
        _write_once(worked, stamp)
    return ""


def corrected_helper_header(text: str) -> str:
    """Return Jittor's ``helper_cuda.h`` without the fields that CUDA 13 has removed.

    ``cudaDeviceProp`` lost ``clockRate`` and ``computeMode``; ``cudaDeviceGetAttribute`` has had
    both since CUDA 5. The device asked for is the one whose properties were read last.
    """
    attribute = {"clockRate": "cudaDevAttrClockRate", "computeMode": "cudaDevAttrComputeMode"}
    pattern = re.compile(
        r"cudaGetDeviceProperties\(&deviceProp,\s*(?P<device>\w+)\)"
        r"|deviceProp\.(?P<field>clockRate|computeMode)\b"
    )
    matches = list(pattern.finditer(text))
    if not any(match["field"] for match in matches):
        return text
    pieces, end, device = [], 0, "0"
    for match in matches:
        device = match["device"] or device
        pieces.append(text[end : match.start()])
        pieces.append(
            f"sirenDeviceAttribute({attribute[match['field']]}, {device})"
            if match["field"]
            else match[0]
        )
        end = match.end()
    text = "".join([*pieces, text[end:]])
    function = (
        "inline int sirenDeviceAttribute(cudaDeviceAttr attribute, int device) {\n"
        "  int value = 0;\n"
        "  cudaDeviceGetAttribute(&value, attribute, device);\n"
        "  return value;\n"
        "}\n\n"
    )
    user = text.rindex("\ninline ", 0, text.index("sirenDeviceAttribute(")) + 1
    return text[:user] + function + text[user:]


def _original_header() -> Path:
    package = importlib.util.find_spec("jittor")
    if package is None:
        raise FileNotFoundError("jittor")
    return Path(package.submodule_search_locations[0], "extern", "cuda", "inc", "helper_cuda.h")


def _write_corrected_header() -> Path:
    """Write the corrected ``helper_cuda.h``; the installed package stays as it is."""
    header = corrected_helper_header(_original_header().read_text(encoding="utf8"))
    return _write_once(_cache_folder() / f"include-{_digest(header)}" / "helper_cuda.h", header)


# ---- the import -------------------------------------------------------------------------------


def _core_is_missing(verbose: bool) -> bool:
    """Whether Jittor has yet to compile its core for this machine, Python and compiler."""
    with _problems_in_one_line(verbose):
        import jittor_utils
    pattern = "cu*/jittor_core*.so" if _setting("nvcc_path") else "jittor_core*.so"
    return not any(Path(jittor_utils.cache_path).glob(pattern))


def _announce_first_compilation() -> None:
    from jittor_utils import lock

    expected = "a few minutes" if _setting("nvcc_path") else "about two minutes"
    # Jittor holds this lock while it compiles; a second process waits for it inside the import.
    with open(lock.lock_path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            _say(
                f"Another process is compiling Jittor's core, {expected} in all; "
                "waiting until it is done ..."
            )
            return
    _say(f"Jittor compiles its core once on this machine: {expected} ...")


def _import_jittor(verbose: bool) -> None:
    with _problems_in_one_line(verbose):
        import jittor  # noqa: F401


def _give_signals_back() -> None:
    """Undo what Jittor does to signals, so that Ctrl-C is a KeyboardInterrupt and a clean exit."""
    import jittor_utils

    # Its handlers end the process at once, on Ctrl-C and when any child process is killed. Python
    # still knows what it had before (None: nothing of its own).
    for number in (signal.SIGINT, signal.SIGCHLD):
        if signal.getsignal(number) is not None:
            signal.signal(number, signal.getsignal(number))
    # Its compile workers idle until the process exits. Ctrl-C in a terminal reaches them too, and
    # one that dies holds a lock that the exit then waits for, for ever. It starts new ones on need.
    if jittor_utils.pool_size:
        atexit.unregister(jittor_utils.pool_cleanup)
        jittor_utils.pool_cleanup()
        jittor_utils.pool_size = 0


@contextlib.contextmanager
def _problems_in_one_line(verbose: bool):
    """Turn whatever an import of Jittor raises into a RuntimeProblem."""
    try:
        yield
    except SystemExit as error:  # Jittor has compiled a part of itself that is already loaded
        raise RuntimeProblem(
            "Jittor has been rebuilt for changed compiler settings; run the same command again."
        ) from error
    except Exception as error:
        if verbose:
            traceback.print_exc()
        if isinstance(error, ModuleNotFoundError) and error.name in ("jittor", "jittor_utils"):
            raise RuntimeProblem(
                "Jittor is missing; pip install -r requirements.txt provides it."
            ) from error
        raise RuntimeProblem(f"Jittor cannot be imported: {_last_line(error)}") from error


def _shell_safe(path: str, folder: str) -> str:
    """Return ``path``, by a link to the ``folder`` that it lies in if a shell would split it."""
    if shlex.quote(path) == path or not path.startswith(folder + os.sep):
        return path
    cache = _cache_folder()
    if shlex.quote(str(cache)) != str(cache):
        cache = Path(tempfile.gettempdir(), f"siren-jittor-{os.getuid()}")
    link = cache / f"link-{_digest(folder)}"
    if not link.is_symlink():
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):  # another process has just made it
            link.symlink_to(folder)
    return str(link) + path[len(folder) :]


def _last_line(error: BaseException) -> str:
    """Return the last line of an error's message that says something, with the error's type."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # Jittor colours its messages
    lines = [line.strip() for line in text.splitlines() if re.search(r"\w", line)]
    line = lines[-1] if lines else "no message"
    if len(line) > 300:
        line = line[:300] + " ..."
    return f"{type(error).__name__}: {line}"


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


# ---- describing the machine -------------------------------------------------------------------


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        text = Path("/proc/cpuinfo").read_text(encoding="utf8", errors="replace")
        match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        if match:
            return match[1].strip()
    return platform.processor() or platform.machine()


def _gpu_name() -> str:
    driver = _load_driver()
    if driver is None:
        return "unknown"
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    driver.cuInit(0)
    driver.cuDeviceGet(ctypes.byref(device), 0)
    driver.cuDeviceGetName(name, len(name), device)
    return name.value.decode(errors="replace")


def _thread_count() -> int:
    try:
        return ctypes.CDLL("libgomp.so.1").omp_get_max_threads()  # what Jittor's kernels use
    except OSError:
        return os.cpu_count() or 1
