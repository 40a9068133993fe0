"""Checks of the Markdown files, for docs.py: the length of lines, and the files that documents name.

Lines of prose have at most 110 columns; tables, code blocks, comments, images and lines that cannot be broken are
exempt. A name in backquotes that looks like a file of this tree must be one, in the documents of NAMES_FILES. The
target of a link must exist, in every document. docs.py calls self_check() first, so that a broken rule is noticed.
"""

import pathlib
import re
import unicodedata

COLUMNS = 110
NAMES_FILES = ["ARCHITECTURE.md", "CONTRIBUTING.md"]
JOURNAL = {"tests/bench/RECIPE.md"}  # notes of a training run in progress: the length of lines is not checked

SPAN = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
PATH = re.compile(r"[\w.*-]+(?:/[\w.*-]+)*/?")
FILE = re.compile(r"[\w*-]+\.(?:c|h|def|cu|cuh|py|sh|cmake|md)")
PLACEHOLDER = re.compile(r"\bNAME\b")  # engine/davi/operators/NAME.c


def columns(line):
    return sum(not unicodedata.combining(c) for c in line)


def long_lines(text):
    """The numbers of the lines of prose that are too long."""
    found, is_code = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            is_code = not is_code
        exempt = is_code or line.startswith(("|", "    ", "<!--", "![")) or " " not in line.strip()
        if columns(line) > COLUMNS and not exempt:
            found.append(number)
    return found


def prose_of(text):
    """`text` without its code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


def named_files(text, tops):
    """The names in backquotes that mean a file or folder of the tree; tops: the names in its top folder."""
    for span in SPAN.findall(prose_of(text)):
        for name in span.split(", "):
            if PLACEHOLDER.search(name) or not PATH.fullmatch(name):
                continue
            if ("/" in name and name.split("/")[0] in tops) or FILE.fullmatch(name):
                yield name


def exists(top, name):
    """With `*` any match counts; a file without a folder may be in any folder of the tree."""
    return any(top.glob(name)) or ("/" not in name and any(
        True for folder in ("proto", "engine", "server", "cli", "tests") for _ in (top / folder).rglob(name)))


def complaints(top):
    top = pathlib.Path(top)
    tops = {p.name for p in top.iterdir() if p.name != "build"}
    found = []
    for file in sorted(top.rglob("*.md")):
        path = file.relative_to(top).as_posix()
        if re.match(r"\.git/|build[^/]*/", path):
            continue
        text = file.read_text()
        if path not in JOURNAL:
            found += [f"{path}:{n}: more than {COLUMNS} columns" for n in long_lines(text)]
        found += [f"{path}: there is no {link}" for link in LINK.findall(prose_of(text))
                  if "://" not in link and not (file.parent / link).exists()]
    for path in NAMES_FILES:
        names = dict.fromkeys(named_files((top / path).read_text(), tops))
        found += [f"{path}: there is no {name}" for name in names if not exists(top, name)]
    return found


def self_check():
    long = "word " * 23
    assert long_lines(long) == [1] and long_lines("| " + long) == []
    assert long_lines("```\n" + long + "\n```\n" + long) == [4]
    assert long_lines("x\u0302" * COLUMNS + " y") == [1] and long_lines("x\u0302" * (COLUMNS - 2) + " y") == []
    text = ("`engine/a.c`, `a.h` and `tests/b/`; `proto/*.def`, `GET /path`, `x.y`, `/livez`, `images/s`\n"
            "```\n`engine/code.c`\n```\n`engine/NAME.c` `README.md` `engine/c.c, engine/d.c`")
    assert list(named_files(text, {"engine", "tests", "proto"})) == [
        "engine/a.c", "a.h", "tests/b/", "proto/*.def", "README.md", "engine/c.c", "engine/d.c"]
    assert LINK.findall("[a](b/c.md#part) ![d](e.png) [f](https://g/h)") == ["b/c.md", "e.png", "https://g/h"]
    here = pathlib.Path(__file__).parent
    assert exists(here, "docs.py") and exists(here, "*.py") and not exists(here, "none.py")
