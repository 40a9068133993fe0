"""Documents agree with the tables and the tree.

README's settings are those of server/config.def, its tasks those of engine/davi/tasks.def, its commands the
program's. The API description lists every task, parameter and status. Lines of Markdown are not too long, and the
files that documents name exist (markdown.py). Run from the top folder; --write puts the tables into README.md, and
the tasks into the API description.
"""

import json
import pathlib
import re
import sys

import markdown

TASK_FIELDS = 15


def rows(path, macro, fields):
    """The rows of a .def table: names and texts in order, with `fields` fields each."""
    text = re.sub(r"/\*.*?\*/", "", pathlib.Path(path).read_text(), flags=re.S)
    field = r'\s*("(?:[^"\\]|\\.)*"|[^,()"]+)\s*'
    found = re.findall(rf"^{macro}\({','.join([field] * fields)}\)", text, re.M)
    return [[value.strip().strip('"') for value in row] for row in found]


def settings_table():
    lines = ["| setting | default | what |", "|---|---|---|"]
    for name, _, default, _, _, what in rows("server/config.def", "OPTION", 6):
        lines.append(f"| `{name}` | {f'`{default}`' if default else ''} | {what} |")
    return "\n".join(lines) + "\n"


def tasks():
    return rows("engine/davi/tasks.def", "TASK", TASK_FIELDS)


def tasks_table():
    lines = ["| task | what it undoes |", "|---|---|"]
    lines += [f"| `{task[1]}` | {task[-1]} |" for task in tasks()]
    return "\n".join(lines) + "\n"


def with_table(text, name, source, table):
    """`text` with the table between the marks of that name."""
    begin, end = f"<!-- {name}: made from {source} by tests/lint/docs.py --write -->\n", f"<!-- end of {name} -->"
    before, rest = text.split(begin)
    return before + begin + table + end + rest.split(end, 1)[1]


def with_tasks(text):
    """The API description with the names of the tasks in its lists of them."""
    def listed(match):
        return match[1] + ("," + match[2]).join(f'"{task[1]}"' for task in tasks())

    return re.sub(rf'("enum": \[(\s*))"{tasks()[0][1]}"[^\]]*?(?=\s*\])', listed, text)


def main():
    readme = pathlib.Path("README.md")
    text = readme.read_text()
    whole = with_table(text, "settings", "server/config.def", settings_table())
    whole = with_table(whole, "tasks", "engine/davi/tasks.def", tasks_table())
    if "--write" in sys.argv:
        readme.write_text(whole)
        api = pathlib.Path("proto/messages/openapi.json")
        api.write_text(with_tasks(api.read_text()))
        return 0
    markdown.self_check()
    wrong = markdown.complaints(".")
    if whole != text:
        wrong.append("README.md: settings or tasks differ from their tables: run tests/lint/docs.py --write")
    commands = re.findall(r'^\s*\{ "(\w+)", cmd_', pathlib.Path("cli/main.c").read_text(), re.M)
    wrong += [f"README.md: no word of `david {c}`" for c in commands if f"david {c}" not in text]
    api = json.loads(pathlib.Path("proto/messages/openapi.json").read_text())
    restore = api["paths"]["/restore"]["post"]
    for _, code, title, _ in rows("proto/status.def", "STATUS", 4):
        if code != "200" and title not in restore["responses"].get(code, {}).get("description", ""):
            wrong.append(f"proto/messages/openapi.json: /restore does not list {code}: {title}")
    form = restore["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    query = {p["name"]: p["schema"] for p in restore["parameters"]}
    names = [t[1] for t in tasks()]
    for where, listed in ("query", query["task"]["enum"]), ("form", form["task"]["enum"]):
        if listed != names:
            wrong.append(f"proto/messages/openapi.json: the {where}'s tasks are {listed}, the table has {names}")
    if query != {name: form[name] for name in form if name not in ("image", "mask")}:
        wrong.append("proto/messages/openapi.json: the fields of the form are not the parameters of the query")
    wrong += [f"README.md: no word of the parameter {p}" for p in query if p != "task" and f"`{p}`" not in text]
    if not (commands and names):
        wrong.append("the tables could not be read")
    print("\n".join(wrong) or "documents and tables agree")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
