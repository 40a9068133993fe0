"""Things that must not be in the tree: paths that other machines do not have, unfinished marks,
files that are too long or large.
"""

import pathlib
import re
import sys

TEXT = {".c", ".h", ".def", ".cu", ".cuh", ".py", ".sh", ".md", ".yml", ".yaml", ".json", ".txt", ".cmake", ".service"}
CODE = {".c", ".h", ".cu", ".cuh", ".py", ".sh"}
MAX_LINES = 600
MAX_BYTES = 6_000_000
LARGE = re.compile(r"models/[^/]+\.safetensors")  # the size of weights is not limited

# Spelled in pieces, so that this file passes its own test.
FORBIDDEN = [
    ("a path of some other machine", re.compile(r"(?<![\w.])/(?:" + "wo" + r"rk|ro" + r"ot|ho" + r"me)/")),
    ("a path outside the tree", re.compile(r"\.\./sha" + r"red|(?<![\w/-])sha" + r"red/")),
    ("an unfinished mark", re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b|not impl" + "emented")),
    ("a conflict marker", re.compile(r"^(?:<{7}|>{7}) ")),
]

SELF_CHECK = [
    ("see /wo" + "rk/main", True),
    ("cp ../sha" + "red/x .", True),
    ("/* TO" + "DO: later */", True),
    ("share/david/models, /usr/lib/work, workers, shared by threads", False),
    ("https://example.org/home/", False),
]


def complaint(line):
    return next((what for what, pattern in FORBIDDEN if pattern.search(line)), None)


def main():
    top = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for line, bad in SELF_CHECK:
        assert (complaint(line) is not None) == bad, line
    found, files = [], 0
    for file in sorted(top.rglob("*")):
        path = file.relative_to(top).as_posix()
        if re.match(r"\.git/|build[^/]*/", path) or "__pycache__" in path or not file.is_file() or file.is_symlink():
            continue
        files += 1
        if file.stat().st_size > MAX_BYTES and not LARGE.fullmatch(path):
            found.append(f"{path}: {file.stat().st_size} bytes, more than {MAX_BYTES}")
        if file.suffix not in TEXT and file.name not in {"Dockerfile", "run", "LICENSE"}:
            continue
        lines = file.read_text(errors="replace").splitlines()
        if file.suffix in CODE and len(lines) > MAX_LINES:
            found.append(f"{path}: {len(lines)} lines, more than {MAX_LINES}: often two subjects")
        for number, line in enumerate(lines, 1):
            if what := complaint(line):
                found.append(f"{path}:{number}: {what}: {line.strip()[:90]}")
    print("\n".join(found) or f"{files} files are as they should be")
    return 1 if found or files < 50 else 0


if __name__ == "__main__":
    sys.exit(main())
