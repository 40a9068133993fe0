"""The input of clang-tidy: a compile_commands.json in which no line of ours is checked twice.

commands.py BUILD FOLDER: from the top folder. A file that is compiled several times (once per
instruction set, once for the fake device) keeps the command that covers most of its lines,
and those of the others that cover lines which no kept one does. Prints the files, each
followed by a zero byte.
"""

import json
import pathlib
import re
import shlex
import subprocess
import sys

TOP = pathlib.Path.cwd()
OURS = re.compile(re.escape(str(TOP)) + r"/(proto|engine|server|cli)/.*\.[ch]$")
MARK = re.compile(r'# (\d+) "([^"]*)"')


def lines_seen(entry):
    """The lines of ours that are left after the preprocessor."""
    words = shlex.split(entry["command"])
    out = words.index("-o")
    words = [w for i, w in enumerate(words) if i not in (out, out + 1) and w not in ("-c", "-MD")] + ["-E"]
    text = subprocess.run(words, cwd=entry["directory"], capture_output=True, text=True, check=True).stdout
    seen, file, line = set(), None, 0
    for row in text.splitlines():
        if mark := MARK.match(row):
            line, file = int(mark[1]), mark[2] if OURS.match(mark[2]) else None
            continue
        if file and row.strip():
            seen.add((file, line))
        line += 1
    return seen


def needed(entries):
    if len(entries) == 1:
        return entries
    seen = {id(e): lines_seen(e) for e in entries}
    kept, covered = [], set()
    for e in sorted(entries, key=lambda e: ("/tests/" in e["command"].split(" -o ")[1], -len(seen[id(e)]))):
        if not seen[id(e)] <= covered:
            kept.append(e)
            covered |= seen[id(e)]
    return kept


def main():
    build, folder = map(pathlib.Path, sys.argv[1:])
    by_file = {}
    for e in json.loads((build / "compile_commands.json").read_text()):
        if OURS.match(e["file"]):
            by_file.setdefault(e["file"], []).append(e)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compile_commands.json").write_text(json.dumps([e for es in by_file.values() for e in needed(es)], indent=1))
    print("".join(f + "\0" for f in sorted(by_file)), end="")


main()
