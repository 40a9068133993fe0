"""Arrows point down only: which room may include what. Run from the top folder; the first argument may name another.

Two tables say it all. INSIDE: a room, and the rooms (or single files) of ours that it may include beside itself; the
longest matching room counts. OUTSIDE: a foreign header, and the rooms that may see it. Both are tried on made-up
includes first, so that a broken rule is noticed.
"""

import pathlib
import re
import sys

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
    # davi/ and train/ hold the bodies of what the engine's face declares.
    "engine/davi/": ["engine/nets/", "engine/graph/", "engine/engine.h", "proto/"],
    "engine/train/": ["engine/davi/", "engine/nets/", "engine/graph/", "engine/engine.h", "engine/internal.h", "proto/"],
    # engine/*.c choose the back end.
    "engine/": ["engine/davi/", "engine/nets/", "engine/cpu/", "engine/graph/", "proto/"],
    "server/": ["engine/engine.h", "proto/"],
    "cli/": ["server/", "engine/engine.h", "engine/train/train.h", "proto/"],
}

OUTSIDE = [
    (r"microhttpd\.h", ["server/http.c"]),
    (r"(oneapi/)?dnnl.*|oneapi/.*", []),
    (r"cu(da|dnn|blas|rand|fft|solver|sparse).*|nv(ml|rtc|tx).*|nccl.*", ["engine/cuda/"]),
    (r"mpi.*\.h", ["engine/mpi/"]),
    (r"(png|pngconf|jpeglib|jerror|jmorecfg|zip|zlib)\.h|(webp|libexif|openssl)/.*", ["proto/"]),
    (r"jansson\.h", ["proto/", "server/"]),
    (r"sqlite3\.h", ["server/"]),
]

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def room_of(path):
    return max((room for room in INSIDE if path.startswith(room)), key=len, default=None)


def objection(path, kind, target):
    """Why the file `path` may not include `target`, or None. kind: '"' ours, '<' foreign."""
    room = room_of(path)
    if kind == "<":
        for pattern, allowed in OUTSIDE:
            if re.fullmatch(pattern, target) and not any(path.startswith(a) for a in allowed):
                return f"only {', '.join(allowed)} may include <{target}>"
        return None
    if "/" not in target or target.startswith("."):
        return f'write "{target}" from the top folder'
    seen = room_of(target)
    if seen is None:
        return f'"{target}" is in no room'
    if seen == room or any(target.startswith(a) for a in INSIDE[room]):
        return None
    return f"{room} may not include {target}"


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
    ("server/restore.c", "<", "png.h", False),
    ("server/http.c", "<", "microhttpd.h", True),
    ("server/routes.c", "<", "microhttpd.h", False),
    ("server/restore.c", '"', "engine/engine.h", True),
    ("server/restore.c", '"', "engine/graph/graph.h", False),
    ("server/restore.c", '"', "cli/cli.h", False),
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


def main():
    top = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    for path, kind, target, good in SELF_CHECK:
        why = objection(path, kind, target)
        assert (why is None) == good, f"the table says of {path} including {target}: {why}"
    found, files = [], 0
    for suffix in ("*.c", "*.h", "*.cu", "*.cuh"):
        for room in ("proto", "engine", "server", "cli"):
            for file in sorted((top / room).rglob(suffix)):
                files += 1
                path = file.relative_to(top).as_posix()
                for number, line in enumerate(file.read_text().splitlines(), 1):
                    match = INCLUDE.match(line)
                    why = match and objection(path, match[1], match[2])
                    if why:
                        found.append(f"{path}:{number}: {why}")
    print("\n".join(found) or f"{files} files keep to their layers")
    if not files:
        print("no sources: not the top folder?")
    return 1 if found or not files else 0


if __name__ == "__main__":
    sys.exit(main())
