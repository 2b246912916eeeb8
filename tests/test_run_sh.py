"""run.sh: which interpreter it takes and what it runs; every program is a stub, nothing is fetched.

A stub interpreter writes its arguments to a log and hands ``-c`` to the real Python.
"""

import os
import shlex
import shutil
import subprocess
import sys

import pytest
from program import ROOT

from siren.cli.options import parse

TASKS = ["inpaint", "fit", "edit", "poisson"]
ALL = "--task all"
INSTALL = "siren/runtime/install.py"
BASH = shutil.which("bash")
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
ENVIRONMENT = "../env/bin/python"  # beside the stubs
STUB = """#!/bin/sh
case "$1 $2" in
-c*) exec "{python}" -c "import sys, sysconfig; {change}; exec(sys.argv[2])" "$@" ;;
--version*) echo Python ;;
"-m venv") mkdir -p "$4/bin"; cp "$0" "$4/bin/python" ;;
*) echo "$@" >>"{log}"; {then} ;;
esac
"""


class Clone:
    """A copy of the script and its requirements, and a PATH that holds nothing but stubs."""

    def __init__(self, folder):
        self.folder = folder
        self.log = folder / "log"
        self.bin = folder / "bin"
        for name in ("run.sh", "requirements.txt", "tests/requirements.txt", INSTALL):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
        self.bin.mkdir()
        for name in ("cp", "mkdir", "cat", "dirname"):
            (self.bin / name).symlink_to(shutil.which(name))
        self.add("g++", "#!/bin/sh\n")

    def add(self, name, text):
        path = self.bin / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def add_python(self, name, change="pass", then="exit 0"):
        """``change`` is what becomes of Python before a program that ``-c`` has given it."""
        text = STUB.format(python=sys.executable, log=self.log, change=change, then=then)
        self.add(name, text)

    def run(self, *arguments, **variables):
        """The result, the arguments of each run of main.py, and each line of an installation."""
        result = subprocess.run(
            [BASH, str(self.folder / "run.sh"), *arguments],
            env={"PATH": str(self.bin), "HOME": str(self.folder), **variables},
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
        )
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        main = f"{self.folder}/main.py "
        ran = [line[len(main) :] for line in lines if line.startswith(main)]
        installed = [line for line in lines if line.startswith(f"{self.folder}/{INSTALL}")]
        return result, ran, installed

    def refuse(self, status, *arguments, **variables):
        """The sentence by which it ends with ``status`` before anything is installed or run."""
        result, ran, installed = self.run(*arguments, **variables)
        assert result.returncode == status
        assert not ran and not installed
        (line,) = result.stderr.splitlines()
        return line


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path / "a clone")


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A clone with an interpreter and everything installed."""
    clone = Clone(tmp_path_factory.mktemp("run") / "a clone")
    clone.add_python("python3")
    assert clone.run("fit")[0].returncode == 0
    return clone


@pytest.fixture(params=["VIRTUAL_ENV", "CONDA_PREFIX"])
def active(request, clone):
    """The variables of an active environment."""
    return {request.param: str(clone.folder / "env"), "CONDA_DEFAULT_ENV": "siren"}


def version(minor):
    """A change that makes it another version."""
    return f"sys.version_info = (3, {minor}, 0)"


# ---- what is run ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "ran"),
    [
        ("", ALL),
        ("--epochs 50 --output_dir '/x y'", f"{ALL} --epochs 50 --output_dir /x y"),
        *((f"{task} --epochs 100", f"--task {task} --epochs 100") for task in TASKS),
        ("--epochs 9 --task fit", f"{ALL} --epochs 9 --task fit"),
        ("tuned --points 9", f"{ALL} --recipe tuned --points 9"),
        # a word and options that agree, or say something else
        ("fit --task fit --task=fit", "--task fit --task fit --task=fit"),
        ("fit --recipe report", "--task fit --recipe report"),
        ("fit --recipe tuned", "--task fit --recipe tuned"),
        ("tuned --recipe tuned", f"{ALL} --recipe tuned --recipe tuned"),
        ("tuned --task fit", f"{ALL} --recipe tuned --task fit"),
        ("fit --task", "--task fit --task"),  # which the program refuses
    ],
)
def test_words_and_options_are_handed_on(ready, arguments, ran):
    assert ready.run(*shlex.split(arguments))[1] == [ran]


def test_a_task_given_as_an_option_is_run_alone():
    assert parse(f"{ALL} --epochs 9 --task fit".split()).task == "fit"


@pytest.mark.parametrize(("word", "task"), [(["edit"], "edit"), ([], "fit")])
def test_compare_runs_both_recipes_and_draws_them(ready, word, task):
    result, ran, _ = ready.run("compare", *word, "--epochs", "9")
    assert result.returncode == 0
    assert ran == [f"--task {task} --epochs 9", f"--task {task} --recipe tuned --epochs 9"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("fit --task poisson", '"fit" and --task poisson contradict'),
        ("poisson --epochs 9 --task=fit", '"poisson" and --task fit contradict'),
        ("edit --task edit --task all", '"edit" and --task all contradict'),
        ("tuned --recipe report", '"tuned" and --recipe report contradict'),
        ("tuned --points 9 --recipe=report", '"tuned" and --recipe report contradict'),
        ("paint", '"paint"'),
        ("compare foo", '"foo"'),
        ("compare --output_dir x", "leave --output_dir out"),
        ("compare fit --recipe=tuned", "leave --recipe=tuned out"),
    ],
)
def test_words_that_mean_nothing_or_two_things_are_refused(ready, arguments, words):
    assert words in ready.refuse(2, *arguments.split())


def test_an_unknown_word_needs_no_interpreter_to_be_refused(clone):
    assert '"paint"' in clone.refuse(2, "paint")


def test_the_exit_status_is_that_of_the_program(clone):
    clone.add_python("python3", then='case "$*" in *main.py*) exit 3 ;; esac')
    assert clone.run()[0].returncode == 3


def test_the_tests_are_checked_for_style_and_run(clone):
    clone.add_python("python3")
    shutil.copy(shutil.which("sh"), clone.bin / "sh")
    result = subprocess.run(
        [BASH, str(clone.folder / "run.sh"), "test", "-k", "name"],
        env={"PATH": str(clone.bin), "CI": "true"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    lines = clone.log.read_text().splitlines()
    assert f"{clone.folder}/{INSTALL} {clone.folder}/tests/requirements.txt" in lines
    assert lines[-2:] == ["-m ruff check .", "-m pytest -k name"]


@pytest.mark.parametrize("word", ["help", "--help", "-h"])
def test_help(clone, word):
    result, ran, _ = clone.run(word)
    assert result.returncode == 0
    assert result.stdout.startswith("usage: ./run.sh")
    assert not ran


# ---- the environment --------------------------------------------------------------------------


def test_requirements_are_installed_once_and_again_after_a_change(clone):
    clone.add_python("python3")
    assert len(clone.run("fit")[2]) == 1
    assert len(clone.run("fit")[2]) == 0
    with open(clone.folder / "requirements.txt", "a") as file:
        file.write("another\n")
    assert len(clone.run("fit")[2]) == 1


def test_a_failed_installation_is_reported_and_tried_again(clone):
    clone.add_python("python3", then='case "$*" in *install*) echo why >&2; exit 1 ;; esac')
    result, ran, _ = clone.run("fit")
    assert result.returncode == 1
    assert result.stderr.endswith("why\n")
    assert not ran
    assert len(clone.run("fit")[2]) == 1


def test_the_active_environment_is_used(clone, active):
    clone.add_python(ENVIRONMENT)
    result, ran, installed = clone.run("fit", **active)
    assert result.returncode == 0, result.stderr
    assert ran == ["--task fit"]
    assert len(installed) == 1
    assert not (clone.folder / ".venv").exists()


def test_the_base_environment_of_conda_is_left_alone(clone):
    clone.add_python("../conda/bin/python", then="exit 9")
    clone.add_python("python3")
    result, _, _ = clone.run(
        "fit", CONDA_PREFIX=str(clone.folder / "conda"), CONDA_DEFAULT_ENV="base"
    )
    assert result.returncode == 0, result.stderr
    assert (clone.folder / ".venv").exists()


DOES_NOT_RUN = "sys.exit('pyenv: command not found')"
WITHOUT_VENV = "sys.modules['ensurepip'] = None"


@pytest.mark.parametrize(
    ("interpreters", "chosen"),
    [
        ({"python3": version(9), "python3.12": version(12), "python3.14": version(14)}, 14),
        ({"python3": version(13), "python3.12": version(12)}, 13),
        ({"python3": version(11)}, 11),
        ({"python3": version(15), "python3.12": DOES_NOT_RUN, "python3.10": version(10)}, 10),
        ({"python3.14": f"{version(14)}; {WITHOUT_VENV}", "python3.11": version(11)}, 11),
    ],
)
def test_the_environment_has_the_newest_python_that_has_all_it_needs(clone, interpreters, chosen):
    for name, change in interpreters.items():
        clone.add_python(name, change)
    result, ran, _ = clone.run("fit")
    assert result.returncode == 0, result.stderr
    assert ran == ["--task fit"]
    assert result.stderr == f"Creating .venv with Python 3.{chosen} ...\n"


FREE_THREADED = "sysconfig.get_config_var = {'Py_GIL_DISABLED': 1}.get"
WITHOUT_HEADERS = "sysconfig.get_path = lambda name: '/'"


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("python3", version(15), "3.9 to 3.14"),
        ("python3", WITHOUT_HEADERS, f"package python{VERSION}-dev"),
        ("python3", WITHOUT_VENV, f"package python{VERSION}-venv"),
        (ENVIRONMENT, f"{version(14)}; {FREE_THREADED}", "not the free-threaded build"),
        (ENVIRONMENT, version(8), "deactivate"),
        (ENVIRONMENT, version(15), "deactivate"),
    ],
)
def test_what_an_interpreter_lacks_is_named(clone, name, change, words):
    clone.add_python(name, change)
    variables = {"VIRTUAL_ENV": str(clone.folder / "env")} if name == ENVIRONMENT else {}
    assert words in clone.refuse(1, "fit", **variables)


@pytest.mark.parametrize(
    "left, words",
    [
        ("nothing", "is gone"),
        ("a folder", "has no Python any more"),
        ("a link to nowhere", "has no Python any more"),
        ("a Python that does not run", "does not run"),
    ],
)
def test_an_active_environment_that_is_gone_is_told_as_that(clone, active, left, words):
    name = next(iter(active))
    python = clone.folder / "env" / "bin" / "python"
    if left != "nothing":
        python.parent.mkdir(parents=True)
    if left == "a link to nowhere":
        python.symlink_to("/nowhere/python3")
    if left == "a Python that does not run":
        clone.add(ENVIRONMENT, "#!/bin/sh\nexit 127\n")
    clone.add_python("python3")
    line = clone.refuse(1, "fit", **active)
    assert f"{clone.folder}/env" in line and words in line and f"unset {name}" in line
    assert "3.9" not in line


def test_an_active_environment_of_this_clone_that_is_gone_is_made_again(clone):
    clone.add_python("python3")
    result, ran, _ = clone.run("fit", VIRTUAL_ENV=str(clone.folder / ".venv"))
    assert result.stderr == f"Creating .venv with Python {VERSION} ...\n"
    assert ran == ["--task fit"]


def test_a_missing_compiler_is_named_before_anything_is_installed(clone):
    clone.add_python("python3")
    (clone.bin / "g++").unlink()
    assert "package g++" in clone.refuse(1, "fit")
    assert not (clone.folder / ".venv").exists()


def test_the_scripts_are_executable():
    assert os.access(ROOT / "run.sh", os.X_OK)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
