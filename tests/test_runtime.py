"""siren.runtime: each trap of an ``import jittor`` is set up in a process of its own."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from siren import runtime

ROOT = Path(__file__).parent.parent
OURS = ("use_mkl", "conv_opt", "nvcc_path", "log_silent", "cache_name")


def run_python(code, *, remove=(), timeout=600, **variables):
    """Run code in a new interpreter, in the environment as siren.runtime found it."""
    environment = {**runtime._user_environment(), "PYTHONPATH": str(ROOT), **variables}
    for name in remove:
        environment.pop(name, None)
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def environment_after(code, **variables):
    """Return os.environ as a dictionary at the end of code."""
    result = run_python(
        f"{code}\nimport json, os\nprint(json.dumps(dict(os.environ)))", **variables
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def problem_of_start(before="", device="cpu", **variables):
    """Return the sentence of the RuntimeProblem that start() raises; Jittor is never reached."""
    code = f"""
import sys
from siren import runtime
{textwrap.dedent(before)}
try:
    runtime.start({device!r})
except runtime.RuntimeProblem as problem:
    print(problem)
assert "jittor" not in sys.modules
"""
    result = run_python(code, **variables)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 1
    return lines[0]


def fake_program(folder, name, script):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


# ---- variables ------------------------------------------------------------------------------


def test_importing_the_package_prepares_the_environment_without_jittor():
    code = "import sys, siren; assert not {'jittor', 'numpy'} & set(sys.modules)"
    after = environment_after(code, CUDA_VISIBLE_DEVICES="")
    assert after["use_mkl"] == after["use_cutt"] == after["use_cutlass"] == after["use_nccl"] == "0"
    assert after["conv_opt"] == "1"
    assert after["nvcc_path"] == ""
    assert after["use_mpi"] == after["FIX_TORCH_ERROR"] == "0"
    assert after["log_silent"] == "1"


@pytest.mark.parametrize("name", OURS)
def test_a_variable_of_the_user_is_kept(name):
    after = environment_after("import siren", **{name: "/of/the user"})
    assert after[name] == "/of/the user"


def test_a_variable_that_the_program_sets_later_is_kept_too():
    code = """
    import os
    from siren import runtime
    runtime.prepare()
    os.environ["use_mkl"] = "1"
    runtime.prepare("cpu", verbose=True)
    """
    after = environment_after(textwrap.dedent(code))
    assert after["use_mkl"] == "1"
    assert after["log_silent"] == "0"


def test_settings_inherited_from_a_parent_process_are_not_taken_for_the_users():
    parent = environment_after("from siren import runtime; runtime.prepare()")
    child = environment_after("from siren import runtime; runtime.prepare(verbose=True)", **parent)
    assert child["log_silent"] == "0"


def test_mpi_is_left_on_inside_mpi():
    after = environment_after("import siren", OMPI_COMM_WORLD_SIZE="2")
    assert "use_mpi" not in after


def test_a_log_level_of_the_user_is_not_silenced():
    assert "log_silent" not in environment_after("import siren", log_v="1")


# ---- what is missing or unfit ------------------------------------------------------------------


def test_numpy_2_is_refused(tmp_path):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text('__version__ = "2.1.0"')
    sentence = problem_of_start(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert "2.1.0" in sentence
    assert 'pip install "numpy<2"' in sentence


def test_missing_numpy_is_named():
    sentence = problem_of_start(before="sys.modules['numpy'] = None")
    assert "NumPy is missing" in sentence


@pytest.mark.parametrize("version", [(3, 8), (3, 13)])
def test_other_pythons_are_refused(version):
    sentence = problem_of_start(before=f"sys.version_info = {(*version, 0)}")
    assert "3.9 to 3.12" in sentence
    assert ".".join(map(str, version)) in sentence


def test_missing_compiler_names_the_package(tmp_path):
    sentence = problem_of_start(PATH=str(tmp_path), remove=["cc_path"])
    assert "package g++" in sentence


def test_a_compiler_that_the_user_names_must_exist():
    assert "'/no/such/g++'" in problem_of_start(cc_path="/no/such/g++")


def test_missing_python_headers_name_the_package():
    before = """
    import sysconfig
    sysconfig.get_path = lambda name: "/no/such/folder"
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    sentence = problem_of_start(before, remove=["python_config_path"])
    assert f"python{version}-dev" in sentence


def test_missing_jittor_is_named():
    result = run_python(
        """
        import sys
        from siren import runtime
        sys.modules["jittor_utils"] = None
        try:
            runtime.start("cpu")
        except runtime.RuntimeProblem as problem:
            print(problem)
        """
    )
    assert "pip install -r requirements.txt" in result.stdout


def test_a_failing_import_is_one_sentence_and_no_traceback(tmp_path):
    (tmp_path / "jittor_utils.py").write_text(
        'raise OSError("first\\nthe \\x1b[31mreason\\x1b[m\\n")'
    )
    sentence = problem_of_start(PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    assert sentence == "Jittor cannot be imported: OSError: the reason"


def test_unknown_device():
    with pytest.raises(ValueError, match="gpu"):
        runtime.start("gpu")


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
        remove=["nvcc_path"],
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["6.0", "0"]
    assert "Using the CPU: " in result.stderr


def test_cuda_that_cannot_be_had_is_refused_with_the_reason(tmp_path):
    fake_program(tmp_path / "bin", "nvcc", "exit 1")
    sentence = problem_of_start(
        device="cuda",
        PATH=f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        CUDA_VISIBLE_DEVICES="",
        remove=["nvcc_path"],
    )
    assert sentence.startswith("The device cuda cannot be used: there is a CUDA compiler") or (
        "lacks" in sentence or "offers no GPU" in sentence
    )


class FakeDriver:
    """The four functions of libcuda that are asked."""

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
    monkeypatch.setattr(runtime, "_load_driver", lambda: driver)
    monkeypatch.setattr(runtime, "_why_nvcc_fails", lambda nvcc, compiler: "")
    return runtime._probe_cuda.__wrapped__(nvcc_path, None, path, cuda_home, None, None)


def test_a_complete_toolkit_and_a_gpu_are_used(monkeypatch, tmp_path):
    nvcc = fake_toolkit(tmp_path / "cuda")
    found = probe(monkeypatch, FakeDriver(), path=str(tmp_path / "cuda" / "bin"))
    assert found == runtime._Cuda(nvcc, 12020, 90, "", 1)


def test_a_wrapper_without_libraries_gives_way_to_a_complete_toolkit(monkeypatch, tmp_path):
    nvcc = fake_toolkit(tmp_path / "cuda")
    fake_program(tmp_path / "bin", "nvcc", f'exec {nvcc} "$@"')
    found = probe(
        monkeypatch, FakeDriver(), path=str(tmp_path / "bin"), cuda_home=str(tmp_path / "cuda")
    )
    assert found.nvcc == nvcc


@pytest.mark.parametrize(
    "driver, version, reason",
    [
        (None, 12020, "no NVIDIA driver"),
        (FakeDriver(status=100), 12020, "no GPU"),
        (FakeDriver(count=0), 12020, "no GPU"),
        (FakeDriver(version=12020), 13000, "CUDA 12.2 at most, older than the toolkit's 13.0"),
        (FakeDriver(version=13000, capability=61), 13000, "no longer supports a GPU"),
    ],
)
def test_why_a_gpu_is_not_used(monkeypatch, tmp_path, driver, version, reason):
    found = probe(monkeypatch, driver, nvcc_path=fake_toolkit(tmp_path / "cuda", version))
    assert found.nvcc == ""
    assert reason in found.reason


@pytest.mark.parametrize(
    "version, capability, flags, wanted",
    [
        (12040, 80, " -arch=compute_80  -code=sm_80 ", " -arch=compute_80  -code=sm_80 "),
        (11080, 90, " -arch=compute_90  -code=sm_90 ", " -arch=compute_90  -code=sm_90 "),
        (
            13000,
            90,
            " -arch=compute_90  -code=sm_90 ",
            " -arch=compute_90a  -code=sm_90a -DSIREN_HOPPER ",
        ),
        (
            13000,
            90,
            " -arch=compute_80  -code=sm_80  -code=sm_90 ",
            " -arch=compute_80  -code=sm_80  -code=sm_90 ",
        ),
        (
            13000,
            120,
            " -arch=compute_90  -code=sm_90 ",
            " -arch=compute_90  -code=sm_90,compute_90 ",
        ),
    ],
)
def test_flags_fit_the_gpu(monkeypatch, version, capability, flags, wanted):
    monkeypatch.setattr(runtime, "_find_cuda", lambda: runtime._Cuda("nvcc", version, capability))
    assert runtime._for_capability(flags) == wanted


def fake_nccl(root, library):
    for path in ("include/nccl.h", library):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


@pytest.mark.parametrize("library", ["lib64/libnccl.so", "lib64/libnccl.so.2"])
def test_processes_take_a_gpu_each_and_nccl_where_it_is(monkeypatch, tmp_path, library):
    nvcc = fake_toolkit(tmp_path / "cuda")
    fake_nccl(tmp_path / "cuda", library)
    monkeypatch.setattr(runtime, "_cache_folder", lambda: tmp_path / "cache")
    mpi = {"OMPI_COMM_WORLD_LOCAL_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
    for _ in range(2):  # the second time, what the first has made is there
        found = runtime._share_gpus(mpi, runtime._Cuda(nvcc, 13000, 90, "", 2))
        assert found["device_id"] == "1"
        assert found["use_nccl"] == "1"
        assert found["nccl_include_path"] == str(tmp_path / "cuda" / "include")
        library_found = Path(found["nccl_lib_path"], "libnccl.so").resolve()
        assert library_found == tmp_path / "cuda" / library


@pytest.mark.parametrize("gpus, device", [(1, None), (2, "0")])
def test_more_processes_than_gpus_share_them_without_nccl(monkeypatch, tmp_path, gpus, device):
    nvcc = fake_toolkit(tmp_path / "cuda")
    fake_nccl(tmp_path / "cuda", "lib64/libnccl.so")
    mpi = {"OMPI_COMM_WORLD_LOCAL_RANK": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
    found = runtime._share_gpus(mpi, runtime._Cuda(nvcc, 13000, 90, "", gpus))
    assert found == ({"device_id": device} if device else {})


def test_an_nccl_of_the_user_is_taken(tmp_path):
    nvcc = fake_toolkit(tmp_path / "cuda")
    user = {"nccl_include_path": "/one", "nccl_lib_path": "/two"}
    found = runtime._share_gpus(user, runtime._Cuda(nvcc, 13000, 90, "", 1))
    assert (found["use_nccl"], found["nccl_lib_path"]) == ("1", "/two")


def test_a_missing_runtime_library_is_named(monkeypatch, tmp_path):
    nvcc = fake_toolkit(tmp_path / "cuda", without=["lib64/libcudart.so"])
    assert "libcudart.so" in probe(monkeypatch, FakeDriver(), nvcc_path=nvcc).reason


def test_cuda_13_gets_the_corrected_header_and_a_cache_of_its_own(monkeypatch, tmp_path):
    for name in (*OURS, "cc_flags"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(runtime._RECORD, "{}")
    monkeypatch.setenv("cc_flags", "-g")
    monkeypatch.setenv("CPLUS_INCLUDE_PATH", "/mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delitem(sys.modules, "jittor", raising=False)
    monkeypatch.setattr(runtime, "_find_cuda", lambda: runtime._Cuda("/cuda/bin/nvcc", 13000, 90))
    runtime.prepare()
    after = dict(os.environ)
    flags = after["cc_flags"]
    assert flags.startswith('-g -I"')
    assert (Path(flags.split('"')[1]) / "helper_cuda.h").is_file()
    assert after["nvcc_path"] == "/cuda/bin/nvcc"
    assert after["cache_name"] == "siren_cuda13"
    # g++ searches folders of this variable last, even those that Jittor names first
    original, mine = after["CPLUS_INCLUDE_PATH"].split(os.pathsep)
    assert (Path(original) / "helper_cuda.h").is_file()
    assert mine == "/mine"

    runtime.prepare("cpu")
    after = dict(os.environ)
    assert after["cc_flags"] == "-g"
    assert after["CPLUS_INCLUDE_PATH"] == "/mine"
    assert after["nvcc_path"] == ""
    assert after["cache_name"] == "siren"


def test_the_corrected_header_asks_for_attributes_of_the_right_device():
    package = importlib.util.find_spec("jittor").submodule_search_locations[0]
    header = Path(package, "extern", "cuda", "inc", "helper_cuda.h").read_text()
    corrected = runtime.corrected_helper_header(header)
    assert "deviceProp.clockRate" not in corrected
    assert "deviceProp.computeMode" not in corrected
    calls = [line for line in corrected.splitlines() if "sirenDeviceAttribute(cudaDevAttr" in line]
    assert [("devID" in call, "current_device" in call) for call in calls] == [
        (True, False),
        (False, True),
        (False, True),
        (False, True),
    ]
    assert corrected.index("inline int sirenDeviceAttribute(") < corrected.index(calls[0])
    assert runtime.corrected_helper_header(corrected) == corrected


# ---- the import -------------------------------------------------------------------------------


def test_the_first_compilation_is_announced_with_its_length(tmp_path):
    code = """
        import fcntl
        from siren import runtime
        print(runtime._core_is_missing(False))
        runtime._announce_first_compilation()
        from jittor_utils import lock
        with open(lock.lock_path, "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            runtime._announce_first_compilation()
    """
    result = run_python(code, HOME=str(tmp_path), nvcc_path="")
    assert result.stdout.splitlines() == ["True"]
    first, second = result.stderr.splitlines()
    assert first.startswith("Jittor compiles its core once on this machine: about two minutes")
    assert "Another process" in second and "about two minutes" in second


def test_jittor_starts_quietly_and_leaves_ctrl_c_to_python():
    result = run_python(
        """
        import dataclasses, json, os, signal
        import siren
        import jittor
        from siren import runtime
        device = runtime.start("cpu")
        try:
            os.kill(os.getpid(), signal.SIGINT)
            signal.pause()
        except KeyboardInterrupt:
            print(json.dumps([device, dataclasses.asdict(runtime.describe())]))
        """
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    device, description = json.loads(result.stdout)
    assert device == description["device"] == "cpu"
    assert description["jittor"].startswith("1.3.")
    assert description["python"].startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert description["threads"] >= 1
    assert description["device_name"]


def test_ctrl_c_in_a_terminal_reaches_the_whole_group_and_the_exit_does_not_hang():
    result = run_python(
        """
        import os, signal
        os.setpgrp()
        from siren import runtime
        runtime.start("cpu")
        try:
            os.killpg(0, signal.SIGINT)
            signal.pause()
        except KeyboardInterrupt:
            print("interrupted")
        """,
        timeout=120,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "interrupted\n", "")


def test_the_stand_in_for_python_config_describes_this_interpreter(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    script = str(runtime._write_python_config())
    includes = subprocess.run([script, "--includes"], capture_output=True, text=True).stdout
    suffix = subprocess.run([script, "--extension-suffix"], capture_output=True, text=True).stdout
    folders = [part.strip('"') for part in includes.strip().split("-I") if part]
    assert any(Path(folder.strip().strip('"'), "Python.h").is_file() for folder in folders)
    assert suffix.strip().endswith(".so")
