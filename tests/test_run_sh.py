"""run.sh: which interpreter it takes and what it runs; every program is a stub, nothing is fetched.

A stub interpreter writes its arguments to a log and hands ``-c`` to the real Python.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from siren.cli.options import parse

ROOT = Path(__file__).parent.parent
TASKS = ["inpaint", "fit", "edit", "poisson"]
ALL = "--task all"
INSTALL = "siren/runtime/install.py"
BASH = shutil.which("bash")
STUB = """#!/bin/sh
case "$1 $2" in
-c*) exec "{python}" "$@" ;;
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

    def add_python(self, name, then="exit 0", python=sys.executable):
        self.add(name, STUB.format(python=python, log=self.log, then=then))

    def run(self, *arguments, **variables):
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


@pytest.fixture
def clone(tmp_path):
    return Clone(tmp_path / "clone")


@pytest.fixture
def ready(clone):
    """A clone with an interpreter and everything installed."""
    clone.add_python("python3")
    assert clone.run("fit")[0].returncode == 0
    return clone


def fake_version(minor, also="pass"):
    """A Python that pretends to be of another version: it changes what -c programs see."""
    change = f"import sys, sysconfig; sys.version_info = (3, {minor}, 0); {also}"
    return f'{sys.executable}" -c "{change}; exec(sys.argv[2])'


# ---- what is run ------------------------------------------------------------------------------


def test_no_argument_runs_all_tasks(ready):
    assert ready.run()[1] == [ALL]


def test_options_are_handed_on(ready):
    _, ran, _ = ready.run("--epochs", "50", "--output_dir", "/x y")
    assert ran == [f"{ALL} --epochs 50 --output_dir /x y"]


@pytest.mark.parametrize("task", TASKS)
def test_one_task_with_options(ready, task):
    _, ran, _ = ready.run(task, "--epochs", "100")
    assert ran == [f"--task {task} --epochs 100"]


def test_a_task_given_as_an_option_is_run_alone(ready):
    assert ready.run("--epochs", "9", "--task", "fit")[1] == [f"{ALL} --epochs 9 --task fit"]
    assert parse(f"{ALL} --epochs 9 --task fit".split()).task == "fit"


def test_tuned_is_a_recipe_of_all_tasks(ready):
    assert ready.run("tuned", "--points", "9")[1] == [f"{ALL} --recipe tuned --points 9"]


@pytest.mark.parametrize(
    "arguments, option",
    [
        ("fit --task poisson", "--task poisson"),
        ("poisson --epochs 9 --task=fit", "--task fit"),
        ("edit --task edit --task all", "--task all"),
        ("tuned --recipe report", "--recipe report"),
        ("tuned --points 9 --recipe=report", "--recipe report"),
    ],
)
def test_a_word_that_an_option_contradicts_is_refused(ready, arguments, option):
    result, ran, _ = ready.run(*arguments.split())
    assert result.returncode == 2 and not ran
    (line,) = result.stderr.splitlines()
    assert f'"{arguments.split()[0]}" and {option} contradict' in line


@pytest.mark.parametrize(
    "arguments, given",
    [
        ("fit --task fit --task=fit", "--task fit --task fit --task=fit"),
        ("fit --recipe report", "--task fit --recipe report"),
        ("fit --recipe tuned", "--task fit --recipe tuned"),
        ("tuned --recipe tuned", f"{ALL} --recipe tuned --recipe tuned"),
        ("tuned --task fit", f"{ALL} --recipe tuned --task fit"),
        ("fit --task", "--task fit --task"),  # which the program refuses
    ],
)
def test_what_agrees_or_says_something_else_is_handed_on(ready, arguments, given):
    assert ready.run(*arguments.split())[1] == [given]


def test_compare_runs_both_recipes_and_draws_them(ready):
    result, ran, _ = ready.run("compare", "edit", "--epochs", "9")
    assert result.returncode == 0
    assert ran == ["--task edit --epochs 9", "--task edit --recipe tuned --epochs 9"]
    _, ran, _ = ready.run("compare", "--epochs", "9")
    assert ran[0] == "--task fit --epochs 9"


@pytest.mark.parametrize("arguments", [["foo"], ["--output_dir", "x"], ["fit", "--recipe=tuned"]])
def test_compare_refuses_in_one_sentence(ready, arguments):
    result, ran, _ = ready.run("compare", *arguments)
    assert result.returncode == 2 and not ran
    (line,) = result.stderr.splitlines()
    assert arguments[-1] in line or arguments[0] in line


def test_the_exit_status_is_that_of_the_program(clone):
    clone.add_python("python3", then='case "$*" in *main.py*) exit 3 ;; esac')
    assert clone.run()[0].returncode == 3


def test_the_tests_are_checked_for_style_and_run(ready):
    shutil.copy(shutil.which("sh"), ready.bin / "sh")
    result = subprocess.run(
        [BASH, str(ready.folder / "run.sh"), "test", "-k", "name"],
        env={"PATH": str(ready.bin), "CI": "true"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    lines = ready.log.read_text().splitlines()
    assert f"{ready.folder}/{INSTALL} {ready.folder}/tests/requirements.txt" in lines
    assert lines[-2:] == ["-m ruff check .", "-m pytest -k name"]


@pytest.mark.parametrize("word", ["help", "--help", "-h"])
def test_help(clone, word):
    result, ran, _ = clone.run(word)
    assert result.returncode == 0
    assert result.stdout.startswith("usage: ./run.sh")
    assert not ran


def test_an_unknown_word_is_refused_in_one_sentence(clone):
    result, ran, _ = clone.run("paint")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert '"paint"' in result.stderr
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


@pytest.mark.parametrize(
    "variables", [{"VIRTUAL_ENV": "env"}, {"CONDA_PREFIX": "env", "CONDA_DEFAULT_ENV": "siren"}]
)
def test_the_active_environment_is_used(clone, variables):
    clone.add_python("../env/bin/python")
    variables = {**variables, next(iter(variables)): str(clone.folder / "env")}
    result, ran, installed = clone.run("fit", **variables)
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


def test_an_interpreter_that_does_not_run_or_does_not_suit_is_passed_over(clone):
    clone.add("python3.12", "#!/bin/sh\necho 'pyenv: command not found' >&2\nexit 127\n")
    clone.add_python("python3", python=fake_version(15))
    clone.add_python("python3.10", python=fake_version(10))
    result, ran, _ = clone.run("fit")
    assert result.returncode == 0, result.stderr
    assert ran == ["--task fit"]
    assert result.stderr == "Creating .venv with Python 3.10 ...\n"


@pytest.mark.parametrize(
    "versions, chosen",
    [
        ({"python3": 9, "python3.12": 12, "python3.14": 14}, 14),
        ({"python3": 13, "python3.12": 12}, 13),
        ({"python3": 11}, 11),
    ],
)
def test_the_environment_has_the_newest_python_that_fits(clone, versions, chosen):
    for name, minor in versions.items():
        clone.add_python(name, python=fake_version(minor))
    result, _, _ = clone.run("fit")
    assert result.stderr == f"Creating .venv with Python 3.{chosen} ...\n"


def test_a_python_that_has_all_it_needs_is_preferred_to_a_newer_one(clone):
    clone.add_python("python3.14", python=fake_version(14, "sys.modules['ensurepip'] = None"))
    clone.add_python("python3.11", python=fake_version(11))
    result, _, _ = clone.run("fit")
    assert result.stderr == "Creating .venv with Python 3.11 ...\n"


def test_no_suitable_interpreter_is_one_sentence(clone):
    clone.add_python("python3", python=fake_version(15))
    result, _, _ = clone.run("fit")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "3.9 to 3.14" in result.stderr


def test_a_free_threaded_python_is_refused(clone):
    free = "sysconfig.get_config_var = {'Py_GIL_DISABLED': 1}.get"
    clone.add_python("../env/bin/python", python=fake_version(14, free))
    result, ran, installed = clone.run("fit", VIRTUAL_ENV=str(clone.folder / "env"))
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "not the free-threaded build" in result.stderr
    assert not ran and not installed


@pytest.mark.parametrize("minor", [8, 15])
def test_an_active_environment_of_another_version_is_refused(clone, minor):
    clone.add_python("../env/bin/python", python=fake_version(minor))
    result, ran, installed = clone.run("fit", VIRTUAL_ENV=str(clone.folder / "env"))
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "deactivate" in result.stderr
    assert not ran and not installed


@pytest.mark.parametrize(
    "variables", [{"VIRTUAL_ENV": "env"}, {"CONDA_PREFIX": "env", "CONDA_DEFAULT_ENV": "siren"}]
)
@pytest.mark.parametrize(
    "left, words",
    [
        ("nothing", "is gone"),
        ("a folder", "has no Python any more"),
        ("a link to nowhere", "has no Python any more"),
        ("a Python that does not run", "does not run"),
    ],
)
def test_an_active_environment_that_is_gone_is_told_as_that(clone, variables, left, words):
    name = next(iter(variables))
    python = clone.folder / "env" / "bin" / "python"
    if left != "nothing":
        python.parent.mkdir(parents=True)
    if left == "a link to nowhere":
        python.symlink_to("/nowhere/python3")
    if left == "a Python that does not run":
        clone.add("../env/bin/python", "#!/bin/sh\nexit 127\n")
    clone.add_python("python3")
    result, ran, installed = clone.run("fit", **{**variables, name: str(clone.folder / "env")})
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"{clone.folder}/env" in line and words in line and f"unset {name}" in line
    assert "3.9" not in line
    assert not ran and not installed


def test_an_active_environment_of_this_clone_that_is_gone_is_made_again(ready):
    shutil.rmtree(ready.folder / ".venv")
    result, ran, _ = ready.run("fit", VIRTUAL_ENV=str(ready.folder / ".venv"))
    assert result.stderr == f"Creating .venv with Python {sys.version_info.major}." + (
        f"{sys.version_info.minor} ...\n"
    )
    assert ran == ["--task fit"]


def test_a_missing_compiler_is_named_before_anything_is_installed(clone):
    clone.add_python("python3")
    (clone.bin / "g++").unlink()
    result, _, installed = clone.run("fit")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "package g++" in result.stderr
    assert not installed
    assert not (clone.folder / ".venv").exists()


def test_missing_headers_are_named(clone):
    hide = "import sys, sysconfig; sysconfig.get_path = lambda name: '/'; exec(sys.argv[2])"
    clone.add_python("python3", python=f'{sys.executable}" -c "{hide}')
    result, _, installed = clone.run("fit")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"package python{version}-dev" in result.stderr
    assert not installed


def test_a_python_without_venv_is_named(clone):
    hide = "import sys; sys.modules['ensurepip'] = None; exec(sys.argv[2])"
    clone.add_python("python3", python=f'{sys.executable}" -c "{hide}')
    result, _, installed = clone.run("fit")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "-venv" in result.stderr
    assert not installed


def test_the_script_runs_from_a_path_with_spaces(tmp_path):
    clone = Clone(tmp_path / "a clone")
    clone.add_python("python3")
    result, ran, _ = clone.run("fit")
    assert result.returncode == 0, result.stderr
    assert ran == ["--task fit"]


def test_the_scripts_are_executable():
    assert os.access(ROOT / "run.sh", os.X_OK)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
