"""Includes point down only: which layer may include what, and that no circle of modules is left.
Run from the top folder; the first argument may name another.

INSIDE: a layer (a folder, or the files whose paths begin so), and what of ours it may include
beside itself; the longest matching layer counts. OUTSIDE: a foreign header, and who may include it
(how their paths begin). A module is a source file and its header. A module depends on another one
whose header it includes, also through headers that have no source file. FACES and PART_OF name what
the circles do not count. Every rule is checked on made-up includes first, so that a broken rule is
noticed.
"""

import pathlib
import re
import sys

SERVER_BASE = [*(f"server/{name}." for name in ("clock", "config", "log", "memory", "metrics", "reservation", "throughput")), "proto/"]

INSIDE = {
    "proto/": [],
    "proto/images/": ["proto/error.h"],
    "proto/models/": ["proto/error.h", "proto/atomic_file.h", "proto/utf8.h"],
    "proto/messages/": ["proto/error.h", "proto/utf8.h", "proto/models/"],
    "engine/graph/": ["proto/"],
    "engine/nets/": ["engine/graph/", "proto/"],
    "engine/cpu/": ["engine/graph/", "proto/"],
    "engine/cuda/": ["engine/graph/", "proto/"],
    "engine/mpi/": ["engine/graph/", "proto/"],
    # davi/ and train/ hold the bodies of what engine.h declares.
    "engine/davi/": ["engine/nets/", "engine/graph/", "engine/engine.h", "proto/"],
    "engine/train/": ["engine/davi/", "engine/nets/", "engine/graph/", "engine/engine.h", "engine/internal.h", "proto/"],
    # engine/*.c choose the back end.
    "engine/": ["engine/davi/", "engine/nets/", "engine/cpu/", "engine/graph/", "proto/"],
    # From below: values and counters; state; models and batchers; HTTP; restoring; then serve,
    # routes and scrape, which may include all of server/.
    **{f"server/{name}.": ["proto/"] for name in ("clock", "limits", "log", "memory", "metrics", "notify", "throughput", "queue")},
    "server/config.": ["server/limits.", "proto/"],
    "server/reservation.": ["server/memory.", "proto/"],
    "server/server.": SERVER_BASE,
    "server/models.": [*SERVER_BASE, "engine/engine.h"],
    "server/batcher.": [*SERVER_BASE, "server/models.", "server/queue.", "engine/engine.h"],
    "server/service.": [*SERVER_BASE, "server/server.", "server/models."],
    "server/http/": [*SERVER_BASE, "server/server."],
    "server/restore/": [*SERVER_BASE, "server/server.", "server/service.", "server/models.", "server/queue.", "server/http/http.h",
                        "server/http/route.h", "server/http/reply.h", "engine/engine.h"],
    "server/": ["server/", "engine/engine.h", "proto/"],
    "cli/": ["server/", "engine/engine.h", "engine/train/train.h", "proto/"],
}

OUTSIDE = [
    (r"microhttpd\.h", [r"server/http/\w+\.c$"]),
    (r"(oneapi/)?dnnl.*|oneapi/.*", []),
    (r"cu(da|dnn|blas|rand|fft|solver|sparse).*|nv(ml|rtc|tx).*|nccl.*", ["engine/cuda/"]),
    (r"mpi.*\.h", ["engine/mpi/"]),
    (r"(png|pngconf|jpeglib|jerror|jmorecfg|zip|zlib)\.h|(webp|libexif|openssl)/.*", ["proto/"]),
    (r"jansson\.h", ["proto/", "server/"]),
    (r"sqlite3\.h", ["server/"]),
]

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')

# Headers whose bodies are in several modules: not part of the module of that name.
FACES = {"engine/engine.h"}
# A module that is a part of another one, by the names of their files: they may include each other.
PART_OF = {"formats": "codec", "pickle_machine": "unpickle", "unet_arch": "model_info", "restoration_device": "restoration"}


def layer_of(path):
    return max((layer for layer in INSIDE if path.startswith(layer)), key=len, default=None)


def objection(path, kind, target):
    """Why the file `path` may not include `target`, or None. kind: '"' ours, '<' foreign."""
    layer = layer_of(path)
    if kind == "<":
        for pattern, allowed in OUTSIDE:
            if re.fullmatch(pattern, target) and not any(re.match(a, path) for a in allowed):
                return f"only {', '.join(allowed)} may include <{target}>"
        return None
    if "/" not in target or target.startswith("."):
        return f'write "{target}" from the top folder'
    seen = layer_of(target)
    if seen is None:
        return f'"{target}" is in no layer'
    if seen == layer or any(target.startswith(a) for a in INSIDE[layer]):
        return None
    return f"{layer} may not include {target}"


def module_of(path):
    """The module of a file: its path without the suffix; a part has the name of its whole."""
    stem = re.sub(r"\.\w+$", "", path)
    folder, _, name = stem.rpartition("/")
    return f"{folder}/{PART_OF.get(name, name)}"


def dependencies(includes):
    """Module -> the modules that it includes. includes: file -> the files of ours that it includes."""
    sources = {module_of(path) for path in includes if not re.search(r"\.(h|cuh)$", path)}

    def through(path, seen):
        found = set()
        for target in includes.get(path, ()):
            if target in seen:
                continue
            seen.add(target)
            is_module = module_of(target) in sources and target not in FACES
            found |= {module_of(target)} if is_module else through(target, seen)
        return found

    graph = {}
    for path in includes:
        if module_of(path) in sources and path not in FACES:
            graph.setdefault(module_of(path), set()).update(through(path, set()))
    return {module: targets - {module} for module, targets in graph.items()}


def circles(includes):
    """Circles of modules, each as the list of its members, the first one again at its end."""
    graph, done, found = dependencies(includes), set(), []

    def follow(module, trail):
        if module in trail:
            found.append([*trail[trail.index(module):], module])
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                follow(target, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        follow(module, [])
    return found


SELF_CHECK = [
    ("proto/images/png.c", '"', "proto/images/image.h", True),
    ("proto/images/png.c", '"', "engine/engine.h", False),
    ("proto/images/png.c", '"', "image.h", False),
    ("proto/images/png.c", '"', "../proto/images/image.h", False),
    ("proto/images/png.c", "<", "png.h", True),
    ("proto/images/png.c", '"', "proto/models/dtype.h", False),
    ("proto/models/digest.c", '"', "proto/error.h", True),
    ("proto/messages/messages.h", '"', "proto/models/model_info.h", True),
    ("proto/error.c", '"', "proto/messages/query.h", False),
    ("server/restore/decode.c", "<", "png.h", False),
    ("server/http/http.c", "<", "microhttpd.h", True),
    ("server/http/internal.h", "<", "microhttpd.h", False),
    ("server/routes.c", "<", "microhttpd.h", False),
    ("server/restore/decode.c", "<", "microhttpd.h", False),
    ("server/restore/decode.c", '"', "engine/engine.h", True),
    ("server/restore/decode.c", '"', "engine/graph/graph.h", False),
    ("server/restore/decode.c", '"', "cli/cli.h", False),
    ("server/restore/decode.c", '"', "server/http/http.h", True),
    ("server/restore/decode.c", '"', "server/http/internal.h", False),
    ("server/http/http.c", '"', "server/restore/restore.h", False),
    ("server/http/http.c", '"', "server/queue.h", False),
    ("server/http/http.c", '"', "server/batcher.h", False),
    ("server/http/http.c", '"', "server/models.h", False),
    ("server/http/http.c", '"', "server/service.h", False),
    ("server/http/http.c", '"', "server/routes.h", False),
    ("server/http/http.c", '"', "engine/engine.h", False),
    ("server/http/http.c", '"', "server/server.h", True),
    ("server/server.c", '"', "server/http/http.h", False),
    ("server/server.c", '"', "server/queue.h", False),
    ("server/queue.c", '"', "server/server.h", False),
    ("server/batcher.c", '"', "server/http/http.h", False),
    ("server/routes.c", '"', "server/restore/restore.h", True),
    ("server/serve.c", '"', "server/http/http.h", True),
    ("engine/cpu/conv.c", '"', "engine/cuda/cuda.h", False),
    ("engine/cpu/vectors.c", '"', "engine/davi/sampler.h", False),
    ("engine/cpu/conv.c", "<", "oneapi/dnnl/dnnl.h", False),
    ("engine/graph/graph.c", '"', "engine/nets/unet.h", False),
    ("engine/nets/unet.c", '"', "engine/graph/graph.h", True),
    ("engine/davi/sampler.c", '"', "engine/cpu/cpu.h", False),
    ("engine/engine.c", '"', "engine/cpu/cpu.h", True),
    ("engine/engine.c", "<", "cuda_runtime.h", False),
    ("engine/mpi/plugin.c", "<", "mpi.h", True),
    ("engine/train/run.c", "<", "mpi.h", False),
    ("engine/engine.c", "<", "jansson.h", False),
    ("engine/train/trainer.c", '"', "engine/internal.h", True),
    ("engine/train/trainer.c", '"', "engine/cpu/internal.h", False),
    ("cli/serve.c", '"', "server/serve.h", True),
    ("cli/bench.c", '"', "engine/cpu/cpu.h", False),
    ("cli/bench.c", "<", "stdio.h", True),
]

# Files and what they include; the modules of the circle, or none.
CIRCLE_CHECK = [
    ({"s/a.c": ["s/a.h", "s/b.h"], "s/b.c": ["s/b.h"], "s/a.h": [], "s/b.h": []}, None),
    ({"s/a.c": ["s/a.h", "s/b.h"], "s/b.c": ["s/b.h", "s/a.h"], "s/a.h": [], "s/b.h": []}, ["s/a", "s/b", "s/a"]),
    ({"s/a.c": ["s/a.h"], "s/b.c": ["s/a.h"], "s/a.h": ["s/b.h"], "s/b.h": []}, ["s/a", "s/b", "s/a"]),
    # Through a header without a source, and one that only the files of a folder share.
    ({"s/a.c": ["s/i.h"], "s/i.h": ["s/b.h"], "s/b.c": ["s/a.h"], "s/a.h": [], "s/b.h": []}, ["s/a", "s/b", "s/a"]),
    ({"s/a.c": ["s/internal.h"], "s/b.c": ["s/internal.h"], "s/internal.h": ["s/a.h"], "s/a.h": []}, None),
    ({"s/a.c": ["s/b.h"], "s/b.c": ["s/c.h"], "s/c.c": ["s/a.h"], "s/a.h": [], "s/b.h": [], "s/c.h": []},
     ["s/a", "s/b", "s/c", "s/a"]),
    # A circle that the first module only leads to, and a face.
    ({"s/a.c": ["s/b.h"], "s/b.c": ["s/c.h"], "s/c.c": ["s/b.h"], "s/b.h": [], "s/c.h": []}, ["s/b", "s/c", "s/b"]),
    ({"engine/engine.c": ["s/a.h"], "s/a.c": ["engine/engine.h"], "s/a.h": [], "engine/engine.h": []}, None),
]


def main():
    top = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for path, kind, target, good in SELF_CHECK:
        why = objection(path, kind, target)
        assert (why is None) == good, f"the table says of {path} including {target}: {why}"
    for includes, circle in CIRCLE_CHECK:
        assert circles(includes) == ([circle] if circle else []), f"{includes} has {circles(includes)}"
    found, includes = [], {}
    for suffix in ("*.c", "*.h", "*.cu", "*.cuh", "*.cpp"):
        for folder in ("proto", "engine", "server", "cli"):
            for file in sorted((top / folder).rglob(suffix)):
                path = file.relative_to(top).as_posix()
                includes[path] = []
                for number, line in enumerate(file.read_text().splitlines(), 1):
                    match = INCLUDE.match(line)
                    if not match:
                        continue
                    if match[1] == '"':
                        includes[path].append(match[2])
                    why = objection(path, match[1], match[2])
                    if why:
                        found.append(f"{path}:{number}: {why}")
    found += [f"a circle of includes: {' -> '.join(circle)}" for circle in circles(includes)]
    print("\n".join(found) or f"{len(includes)} files keep to their layers")
    if not includes:
        print("no sources: not the top folder?")
    return 1 if found or not includes else 0


if __name__ == "__main__":
    sys.exit(main())
