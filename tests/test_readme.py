"""Both READMEs say the same, and what they name exists."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGLISH, CHINESE = (
    (ROOT / name).read_text(encoding="utf8") for name in ("README.md", "README.zh-CN.md")
)


def sections(text):
    """The level of every heading, and the text below it."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)  # comments look like headings
    parts = re.split(r"^(#+) .*$", text, flags=re.MULTILINE)[1:]
    return list(zip(map(len, parts[::2]), parts[1::2]))


def test_the_headings_correspond():
    assert [level for level, _ in sections(ENGLISH)] == [level for level, _ in sections(CHINESE)]


def test_the_commands_are_the_same():
    blocks = [re.findall(r"```.*?```", text, re.DOTALL) for text in (ENGLISH, CHINESE)]
    assert blocks[0] == blocks[1]
    assert len(blocks[0]) > 3


def test_the_figures_are_the_same_section_by_section():
    """Numbers, options, files, links and pictures, apart from their order."""

    def facts(text):
        text = re.sub(r"README(\.zh-CN)?\.md", "", text)
        targets = re.findall(r"\]\(([^)]*)\)", text)
        code = re.findall(r"`[^`]+`", text)
        numbers = re.findall(r"\d+(?:[.,]\d+)*(?:e-?\d+)?", re.sub(r"\]\([^)]*\)", "", text))
        return sorted(targets), sorted(code), sorted(numbers)

    for (_, ours), (_, theirs) in zip(sections(ENGLISH), sections(CHINESE)):
        assert facts(ours) == facts(theirs)


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]*)\)", ENGLISH + CHINESE):
        if not target.startswith("https://"):
            assert (ROOT / target).exists(), target


def test_every_option_is_in_the_table():
    code = (ROOT / "siren" / "options.py").read_text(encoding="utf8")
    options = set(re.findall(r'^        "(--[a-z_0]+)",$', code, re.MULTILINE)) - {"--help"}
    options |= set(re.findall(r'add_argument\(\s*"(--[a-z_0]+)"', code))
    named = set(re.findall(r"`(--[a-z_0]+)`", ENGLISH))
    assert options - named == set()
