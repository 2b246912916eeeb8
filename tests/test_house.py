"""The rules of the house: imports go down only, functions fit on a screen."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# From the roof to the ground. A module may import what is below its own floor, or on it.
FLOORS = [
    {"main"},
    {"cli"},
    {"output"},
    {"tasks", "training"},
    {"engine"},
    {"", "images", "runtime"},  # the modules directly under siren/, pictures, starting Jittor
]
LONGEST_FUNCTION = 60  # lines
LONGEST_MAIN = 180


def modules():
    """The source files by the dotted names that they are imported by."""
    found = {"main": ROOT / "main.py"}
    for path in sorted((ROOT / "siren").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def floor(module):
    """The number of the floor that a module lives on, from the roof."""
    parts = module.split(".")
    if parts == ["siren"]:
        return None  # the front door: its names are looked up when they are used
    name = parts[0] if parts[0] == "main" else (parts[1] if is_package(parts) else "")
    return next(number for number, names in enumerate(FLOORS) if name in names)


def is_package(parts):
    return (ROOT / "siren" / parts[1]).is_dir()


def imports(module):
    """Modules of the program that ``module`` imports, anywhere in it, and the line."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} line {node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in names]
        else:
            continue
        for name in names:
            if name in MODULES:
                yield name, node.lineno


def test_there_is_a_floor_for_every_module():
    assert len(MODULES) > 50
    assert {floor(module) for module in MODULES} == {None, *range(len(FLOORS))}


@pytest.mark.parametrize("module", [name for name in MODULES if name != "siren"])
def test_imports_go_down_only(module):
    for name, line in imports(module):
        assert name != "siren", f"{module} line {line} imports the front door"
        assert floor(name) >= floor(module), f"{module} line {line} imports {name}, which is above"


def test_no_imports_in_a_circle():
    graph = {module: {name for name, _ in imports(module)} for module in MODULES}
    while graph:
        leaves = [module for module, names in graph.items() if not names & graph.keys() - {module}]
        assert leaves, f"these import each other: {sorted(graph)}"
        for module in leaves:
            del graph[module]


def test_functions_fit_on_a_screen():
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= LONGEST_FUNCTION, f"{module}.{node.name} has {lines} lines"


def test_main_is_the_method_section():
    assert len((ROOT / "main.py").read_text(encoding="utf8").splitlines()) < LONGEST_MAIN
