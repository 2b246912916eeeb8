"""The READMEs say the same in both languages, and what they name exists."""

import re
from pathlib import Path

import pytest

from siren.cli.options import BY_NAME

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (".", "siren", "siren/engine", "siren/runtime", "benchmarks", "data", "findings")
README = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf8")
    for folder in FOLDERS
    for name in ("README*.md", "NOTES.md")
    for path in sorted((ROOT / folder).glob(name))
}
ENGLISH, CHINESE, PACKAGE = (
    README[name] for name in ("README.md", "README.zh-CN.md", "siren/README.md")
)
FENCED = re.compile(r"```.*?```", re.DOTALL)
OPTION = re.compile(r"`(--[a-z_0]+)`")


def sections(text):
    """The level of every heading, and the text below it."""
    text = FENCED.sub("", text)  # comments look like headings
    parts = re.split(r"^(#+) .*$", text, flags=re.MULTILINE)[1:]
    return list(zip(map(len, parts[::2]), parts[1::2]))


def anchors(text):
    """What a link to a heading of ``text`` may have after its #."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def options():
    """The options of main.py, except --help."""
    return {f"--{name}" for name in BY_NAME}


def test_there_are_all():
    assert {f"{folder}/README.md".removeprefix("./") for folder in FOLDERS} <= README.keys()


def test_a_newcomer_reads_1000_words_at_most():
    assert len(ENGLISH.split()) <= 1000


def test_the_benchmarks_take_250_lines_at_most():
    """What was tried, and why, belongs in NOTES.md beside them."""
    assert len(README["benchmarks/README.md"].splitlines()) <= 250


def test_the_headings_correspond():
    assert [level for level, _ in sections(ENGLISH)] == [level for level, _ in sections(CHINESE)]


def test_the_commands_are_the_same():
    blocks = [FENCED.findall(text) for text in (ENGLISH, CHINESE)]
    assert blocks[0] == blocks[1]
    assert len(blocks[0]) == 3


def test_the_figures_are_the_same_section_by_section():
    """Numbers, options, files, links and pictures, apart from their order."""

    def facts(text):
        text = re.sub(r"\]\(README(\.zh-CN)?\.md\)", "", text)
        targets = re.findall(r"\]\(([^)]*)\)", text)
        code = re.findall(r"`[^`]+`", text)
        numbers = re.findall(r"\d+(?:[.,]\d+)*(?:e-?\d+)?", re.sub(r"\]\([^)]*\)", "", text))
        return sorted(targets), sorted(code), sorted(numbers)

    for (_, ours), (_, theirs) in zip(sections(ENGLISH), sections(CHINESE)):
        assert facts(ours) == facts(theirs)


@pytest.mark.parametrize("name", README)
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\(([^)]*)\)", FENCED.sub("", README[name])):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        path = (ROOT / name).parent / path if path else ROOT / name
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf8")), target


def test_every_option_is_in_the_table():
    rows = "\n".join(re.findall(r"^\| `--.*$", PACKAGE, re.MULTILINE))
    assert options() - set(OPTION.findall(rows)) == set()


@pytest.mark.parametrize("name", ("README.md", "README.zh-CN.md", "siren/README.md"))
def test_only_options_that_exist_are_explained(name):
    table = re.findall(r"^\| (`--[^|]*)\|", README[name], re.MULTILINE)
    named = set(OPTION.findall("\n".join(table)))
    assert named and named <= options()


def test_every_module_is_in_the_plan_of_the_house():
    (plan,) = (block for block in FENCED.findall(PACKAGE) if "\nsiren/\n" in block)
    modules = {path.name for path in (ROOT / "siren").glob("*.py")} - {"__init__.py"}
    modules |= {f"{path.parent.name}/" for path in (ROOT / "siren").glob("*/__init__.py")}
    named = set(re.findall(r"\w+\.py\b|^  \w+/", plan, re.MULTILINE))
    assert modules == {name.strip() for name in named} - {"main.py", "reference.py", "fused.py"}


def test_each_question_takes_four_files_at_most():
    """The answers to "Where to look" are numbered lists of links."""
    text = PACKAGE[PACKAGE.index("## Where to look") :]
    text = text[: text.index("\n## ", 1)]
    questions = re.split(r"^\*\*.*\?\*\*$", text, flags=re.MULTILINE)[1:]
    assert len(questions) == 4
    for answer in questions:
        links = re.findall(r"^(\d)\. \[[^]]+\]\(", answer, re.MULTILINE)
        assert links and len(links) <= 4
