"""Documents in step with the tables: README's settings are server/config.def's, its commands and tasks are the program's, the
API description lists every status. Run from the top folder; --write puts the settings into README.md."""

import json
import pathlib
import re
import sys

BEGIN = "<!-- settings: made from server/config.def by tests/lint/docs.py --write -->\n"
END = "<!-- end of settings -->"


def rows(path, macro, fields):
    """The rows of a .def table: names and texts in order, as many as `fields`."""
    text = re.sub(r"/\*.*?\*/", "", pathlib.Path(path).read_text(), flags=re.S)
    field = r'\s*("(?:[^"\\]|\\.)*"|[^,()"]+)\s*'
    found = re.findall(rf"^{macro}\({','.join([field] * fields)}\)", text, re.M)
    return [[value.strip().strip('"') for value in row] for row in found]


def settings_table():
    lines = ["| setting | default | what |", "|---|---|---|"]
    for name, _, default, _, _, what in rows("server/config.def", "OPTION", 6):
        lines.append(f"| `{name}` | {f'`{default}`' if default else ''} | {what} |")
    return "\n".join(lines) + "\n"


def main():
    readme = pathlib.Path("README.md")
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END, 1)[1]
    whole = before + BEGIN + settings_table() + END + after
    if "--write" in sys.argv:
        readme.write_text(whole)
        return 0
    wrong = []
    if whole != text:
        wrong.append("README.md: the settings differ from server/config.def: run tests/lint/docs.py --write")
    commands = re.findall(r'^\s*\{ "(\w+)", cmd_', pathlib.Path("cli/main.c").read_text(), re.M)
    wrong += [f"README.md: no word of `david {c}`" for c in commands if f"david {c}" not in text]
    wrong += [f"README.md: no word of the task {t[1]}" for t in rows("engine/davi/tasks.def", "TASK", 14) if f"`{t[1]}`" not in text]
    api = json.loads(pathlib.Path("proto/openapi.yaml").read_text())
    restore = api["paths"]["/restore"]["post"]
    unused = {"200", "401", "403"}
    for name, code, title in rows("proto/status.def", "STATUS", 3):
        if code not in unused and title not in restore["responses"].get(code, {}).get("description", ""):
            wrong.append(f"proto/openapi.yaml: /restore does not list {code}: {title}")
    tasks = {t[1] for t in rows("engine/davi/tasks.def", "TASK", 14)}
    listed = next(p["schema"]["enum"] for p in restore["parameters"] if p["name"] == "task")
    if not tasks <= set(listed):
        wrong.append(f"proto/openapi.yaml: tasks {listed}, the table has {sorted(tasks)}")
    if not (commands and tasks):
        wrong.append("the tables could not be read")
    print("\n".join(wrong) or "documents and tables agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
