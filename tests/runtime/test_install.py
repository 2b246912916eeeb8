"""What run.sh installs, and what it leaves alone: by pip, from small packages made here."""

import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from siren.runtime import install

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "siren/runtime/install.py"
ALL = {"numpy": "2.5", "scipy": "1.18", "pillow": "13", "tqdm": "4", "astunparse": "1"}
ALL["jittor"] = "1.3.11.0"
FAILING = "raise ImportError('built for another NumPy')"
MODULES = {
    "numpy": ["numpy/__init__.py", "numpy/linalg.py"],
    "scipy": ["scipy/__init__.py", "scipy/linalg.py"],
    "pillow": ["PIL/__init__.py", "PIL/Image.py"],
    "tqdm": ["tqdm.py"],
}


def make_wheel(folder, name, version, requires=(), content=""):
    """A package whose modules do nothing but ``content``."""
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += "".join(f"Requires-Dist: {each}\n" for each in requires)
    files = dict.fromkeys(MODULES.get(name, [f"{name}.py"]), content)
    files[f"{info}/METADATA"] = metadata
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    files[f"{info}/RECORD"] = "".join(f"{each},,\n" for each in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """An environment with pip alone."""
    folder = tmp_path_factory.mktemp("template") / "env"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    return folder


class Machine:
    """A clone, an environment, and all packages that can be had."""

    def __init__(self, folder, template, name):
        self.clone, self.wheels = folder / "clone", folder / "wheels"
        (self.clone / SCRIPT).parent.mkdir(parents=True)
        shutil.copy(ROOT / SCRIPT, self.clone / SCRIPT)
        shutil.copy(ROOT / "requirements.txt", self.clone)
        self.environment = self.clone / name
        shutil.copytree(template, self.environment, symlinks=True)
        self.wheels.mkdir()
        for version in ("1.21", "1.26", "2.5"):
            make_wheel(self.wheels, "numpy", version)
        make_wheel(self.wheels, "scipy", "1.9", ["numpy>=1.22,<2"])
        make_wheel(self.wheels, "scipy", "1.18", ["numpy>=2"])
        for name, version in {"pillow": "13", "tqdm": "4", "astunparse": "1"}.items():
            make_wheel(self.wheels, name, version)
        make_wheel(self.wheels, "pillow", "9")
        make_wheel(self.wheels, "jittor", "1.3.11.0", ["numpy<2.0", "tqdm", "pillow"])

    def run(self, *command, path="/nowhere"):
        return subprocess.run(
            [self.environment / "bin" / "python", *command],
            env={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PATH": str(path)},
            capture_output=True,
            text=True,
        )

    def has(self, *requirements):
        """Let the environment have these packages, as its user has installed them."""
        done = self.run("-m", "pip", "install", "-q", "--no-deps", *requirements)
        assert done.returncode == 0, done.stderr

    def install(self, **options):
        """Run the script; returns its status and what it says."""
        done = self.run(self.clone / SCRIPT, self.clone / "requirements.txt", **options)
        return done.returncode, done.stderr

    def versions(self):
        """What is installed now, but for pip and its company of old Debians."""
        lines = self.run("-m", "pip", "list", "--format=freeze").stdout.split()
        found = dict(line.split("==") for line in lines)
        return {name: found[name] for name in found if name in ALL}


@pytest.fixture
def machine(tmp_path, template):
    return Machine(tmp_path, template, "env")


def test_an_empty_environment_gets_all_and_the_newest_numpy(machine):
    status, said = machine.install()
    assert status == 0, said
    assert machine.versions() == ALL
    assert len(said.splitlines()) == 2  # what is being installed, twice, and no warning of pip
    assert machine.install() == (0, "")


def test_what_the_user_has_keeps_its_version(machine):
    machine.has("numpy==1.26", "tqdm")
    status, said = machine.install()
    assert status == 0, said
    assert machine.versions() == {**ALL, "numpy": "1.26", "scipy": "1.9"}
    assert "tqdm" not in said and "numpy>" not in said


def test_what_does_not_go_with_what_the_user_has_is_not_installed(machine):
    machine.has("numpy==1.26")
    (machine.wheels / "scipy-1.9-py3-none-any.whl").unlink()
    status, said = machine.install()
    assert status == 1
    assert "without other versions of what is there" in said.splitlines()[-1]
    assert machine.versions() == {"numpy": "1.26"}


def test_a_package_that_is_too_old_is_replaced_by_the_users_own_command(machine):
    machine.has("pillow==9", "numpy==1.26")
    status, said = machine.install()
    (line,) = said.splitlines()
    assert status == 1 and "has pillow 9, but pillow>=10.1 is needed" in line
    assert machine.versions() == {"pillow": "9", "numpy": "1.26"}
    _, command = line.split("to replace it: ")
    assert machine.run(*shlex.split(command)[1:]).returncode == 0
    assert machine.install()[0] == 0
    assert machine.versions() == {**ALL, "numpy": "1.26", "scipy": "1.9"}


def test_in_its_own_environment_the_program_replaces_it_itself(tmp_path, template):
    machine = Machine(tmp_path, template, ".venv")
    machine.has("pillow==9", "numpy==1.21")
    status, said = machine.install()
    assert status == 0, said
    assert machine.versions() == ALL


def test_a_newer_jittor_is_left_to_its_user(machine):
    make_wheel(machine.wheels, "jittor", "1.3.12.0")
    machine.has("jittor==1.3.12.0")
    assert machine.install()[0] == 0
    assert machine.versions() == {**ALL, "jittor": "1.3.12.0"}


def test_a_package_that_does_not_work_is_named_with_the_reason(machine):
    make_wheel(machine.wheels, "scipy", "1.10", content=FAILING)
    machine.has("scipy==1.10")
    status, said = machine.install()
    assert status == 1
    line = said.splitlines()[-1]
    assert "scipy 1.10 does not work" in line and "built for another NumPy" in line
    assert machine.versions()["scipy"] == "1.10"
    _, command = line.split("to replace it: ")
    assert machine.run(*shlex.split(command)[1:]).returncode == 0
    assert machine.install() == (0, "")


def without_pip(machine):
    for folder in (machine.environment / "lib").glob("python*/site-packages/pip*"):
        shutil.rmtree(folder)


def test_an_environment_without_pip_is_served_by_uv(machine, tmp_path):
    without_pip(machine)
    log = tmp_path / "log"
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(f'#!/bin/sh\necho "$@" >>{log}\nexit 1\n')
    uv.chmod(0o755)
    status, said = machine.install(path=uv.parent)
    assert status == 1 and "failed" in said
    python = machine.environment / "bin" / "python"
    assert log.read_text().startswith(f"pip install --python {python} -q -c ")


def test_an_environment_without_any_installer_is_named(machine):
    without_pip(machine)
    status, said = machine.install()
    assert status == 1
    (line,) = said.splitlines()
    assert "has no pip" in line and "-m ensurepip adds pip" in line


def test_there_is_nothing_to_do_without_pip_where_all_is_there(machine):
    machine.has(*(f"{name}=={version}" for name, version in ALL.items()))
    without_pip(machine)
    assert machine.install() == (0, "")


@pytest.mark.parametrize(
    "line, expected",
    [
        ("numpy>=1.22", ("numpy>=1.22", "numpy", (1, 22))),
        ("  Some_Thing==1.3.11.0  # why", ("Some_Thing==1.3.11.0", "Some_Thing", (1, 3, 11, 0))),
        ("tqdm", ("tqdm", "tqdm", ())),
    ],
)
def test_a_line_of_requirements(line, expected):
    assert install.parse(line) == install.Requirement(*expected)


def test_comments_are_no_requirements():
    assert install.parse("# numpy") is None and install.parse("") is None


def test_requirements_txt_says_how_to_install_jittor():
    text = (ROOT / "requirements.txt").read_text()
    assert f"pip install --no-deps {install.JITTOR}\n" in text
    assert all(f"\n{name}" in text for name in install.PACKAGES.values())


def test_a_program_without_packages_says_which_is_missing_and_how_to_get_it(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    done = subprocess.run(
        [tmp_path / "bin" / "python", ROOT / "main.py"], capture_output=True, text=True
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "numpy is missing" in line and "pip install -r requirements.txt" in line
