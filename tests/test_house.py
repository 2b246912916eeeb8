"""The rules of the house: imports and knowledge go down only, functions fit on a screen."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from siren.cli.options import make_parser
from siren.tasks import TASKS

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
LONGEST_MAIN = 120
LONGEST_IN_A_HEADER = 100


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
        if module == "main" and name == "siren":
            continue  # it alone uses the front door, by which it need not wait for Jittor
        assert name != "siren", f"{module} line {line} imports the front door"
        assert floor(name) >= floor(module), f"{module} line {line} imports {name}, which is above"


def test_no_imports_in_a_circle():
    graph = {module: {name for name, _ in imports(module)} for module in MODULES}
    while graph:
        leaves = [module for module, names in graph.items() if not names & graph.keys() - {module}]
        assert leaves, f"these import each other: {sorted(graph)}"
        for module in leaves:
            del graph[module]


def test_the_command_line_does_not_import_jittor():
    """``runtime.start`` does, once it has prepared the machine."""
    first = [name for name in MODULES if name.startswith("siren.cli.")]
    code = f"import sys, main, {', '.join(first)}; sys.exit('jittor' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_functions_fit_on_a_screen():
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = node.end_lineno - node.lineno + 1
                assert lines <= LONGEST_FUNCTION, f"{module}.{node.name} has {lines} lines"


def test_main_is_the_method_section():
    text = (ROOT / "main.py").read_text(encoding="utf8")
    assert len(text.splitlines()) < LONGEST_MAIN
    assert not re.search("rank|lock|stdout", text)
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert not any("signal" in ast.unparse(function) for function in functions)
    for node in (inner for function in functions for inner in ast.walk(function)):
        assert not isinstance(node, (ast.Import, ast.ImportFrom)), f"line {node.lineno}"


def test_no_module_names_main_in_a_string():
    for module in MODULES:
        for text in strings(module):
            assert not re.search(r"\bimport main\b|^main\.(?!py)", text), f"{module}: {text!r}"


# ---- who knows what ---------------------------------------------------------------------------

TASK_NAMES = {*TASKS, "render"}
KNOW_TASKS = {"main", "siren.cli.options", "siren.cli.program", "siren.cli.recipes"}


def strings(module):
    """The strings of a module but its docstrings; an f-string has several."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and id(node) not in docstrings:
            yield node.value


def test_only_the_command_line_speaks_of_its_options():
    options = set(re.findall(r"--\w+", make_parser().format_usage()))
    found = {
        module
        for module in MODULES
        if module != "main" and not module.startswith("siren.cli")
        for text in strings(module)
        if options & set(re.findall(r"--\w+", text)) or text.endswith("--")
    }
    assert not found


def test_only_the_command_line_decides_by_the_name_of_a_task():
    found = {
        module
        for module in MODULES
        if not module.startswith("siren.tasks") and module not in KNOW_TASKS
        if TASK_NAMES & set(strings(module))
    }
    assert not found


# ---- C++ and CUDA ------------------------------------------------------------------------------

HEADERS = sorted(path for end in ("h", "cuh") for path in (ROOT / "siren").rglob(f"*.{end}"))
NO_CODE = re.compile(
    r"""//[^\n]*|/\*.*?\*/|^[ \t]*\#(?:\\\n|[^\n])*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])'""",
    re.DOTALL | re.MULTILINE,
)
BEGINNING = re.compile(r"(?:\s|(?:public|private|protected)\s*:)*")
SCOPE = re.compile(r"\b(?:namespace|class|struct|union|extern)\b[^()]*$")  # before a brace
INITIALIZER = re.compile(r"\s*[,;{)]")  # behind it
NAME = re.compile(r"(operator\s*\W+?|~?\b(?!__)\w+)\s*\(")


def only_code(text):
    """C++ without comments, preprocessor lines and what is in quotes; line breaks stay."""
    return NO_CODE.sub(lambda match: "\n" * match[0].count("\n"), text)


def cpp_functions(text):
    """(name, first line, lines) of each function in C++ code, in classes too; not of lambdas."""
    code = only_code(text)
    scopes, start = [], 0  # whether each open brace is one; where a declaration may begin
    for match in re.finditer(r"[{};]", code):
        place = match.start()
        if match[0] == "{":
            scopes.append(all(scopes) and bool(SCOPE.search(code, start, place)))
            if not scopes[-1]:
                continue
        elif match[0] == "}":
            is_scope = scopes.pop()
            if all(scopes) and not is_scope:
                if INITIALIZER.match(code, place + 1):
                    continue
                first = BEGINNING.match(code, start).end()
                line = code.count("\n", 0, first) + 1
                yield NAME.search(code, first)[1], line, code.count("\n", 0, place) + 2 - line
        if all(scopes):
            start = place + 1
    assert not scopes, "braces do not match"


def test_functions_of_cpp_are_found():
    source = """
    namespace a {
    struct Point {
        int x{0};
        Point() : x{1}, y(2) {}  // { a brace in a comment
    private:
        template <class T> bool operator()(T t) const { if (t) { return "{"; } return x; }
    };
    template <int n>
    __global__ void __launch_bounds__(n, 1)
        kernel(int* x) {
    #define MACRO {
        const auto f = [&] { return 1; };
    }
    }
    """
    assert [(name, lines) for name, _, lines in cpp_functions(source)] == [
        ("Point", 1),
        ("operator()", 1),
        ("kernel", 6),
    ]
    found = {
        str(path.relative_to(ROOT / "siren" / "engine")): [name for name, *_ in functions]
        for path in HEADERS
        if path.is_relative_to(ROOT / "siren" / "engine")
        for functions in [list(cpp_functions(path.read_text(encoding="utf8")))]
    }
    assert sum(map(len, found.values())) > 400
    assert found["cpu/siren.h"][:2] == ["stream_count", "run_tiles"]
    assert "muon_kernel" in found["cuda/muon.h"]
    assert {"product_kernel", "outer_kernel"} <= set(found["cuda/sm80/layers.h"])
    assert {"ChainConsumer", "run", "chain_kernel"} <= set(found["cuda/sm90/chain.h"])


def test_functions_of_kernels_fit_on_two_screens():
    for path in HEADERS:
        for name, line, lines in cpp_functions(path.read_text(encoding="utf8")):
            assert lines <= LONGEST_IN_A_HEADER, f"{path.name}:{line}: {name} has {lines} lines"


def test_no_bare_bool_is_an_argument_of_a_kernel():
    for path in HEADERS:
        code = re.sub(
            r"\b(?:bool|auto) \w+ = (?:true|false)", "", only_code(path.read_text(encoding="utf8"))
        )
        bare = re.search(r"[(<,{]\s*(?:true|false)\s*[)>,}]", code)
        assert not bare, f"{path.name} line {code.count(chr(10), 0, bare.start()) + 1}: {bare[0]}"
