"""Every kernel builds for every architecture; those that every batch runs keep their numbers in
registers; those that must give the host's bytes have no fused multiply-add.

builds.py NVCC LOGS [ARCHITECTURE...]: from the top folder. Reads the messages of ptxas (-v)
that the build keeps in LOGS; where there are none, runs nvcc. Needs no GPU.
"""

import functools
import pathlib
import re
import subprocess
import sys

ARCHITECTURES = ["80", "89", "90", "100", "120"]
# Kernels of every batch: no spills, no stack.
HOT = ["norm_whole", "norm_partial", "norm_apply", "upsample", "downsample", "permute", "copy", "narrow_in", "narrow_out", "attention",
       "normals", "sampler_in", "sampler_join", "sampler_out", "linear", "blend", "accumulate", "find_bad", "round_levels"]
# Kernels with dynamic shared memory, up to DYNAMIC_SHARED_BYTES of device.cuh: with their own it must fit sm_89 and sm_120.
DYNAMIC = ["norm_whole", "attention"]
BLOCK_BYTES, DYNAMIC_BYTES = 99 * 1024, 88 * 1024
# The host's arithmetic, to the byte. Allowed exceptions: the logarithm and cosine of double, which consist of such operations.
EXACT = {"measurement": r"fma\.rn\.f32|mad\.rn\.f32", "operators": r"fma\.rn\.f|mad\.rn\.f", "samples": r"fma\.rn\.f|mad\.rn\.f"}

ENTRY = re.compile(r"Compiling entry function '([^']+)' for 'sm_(\w+)'")
FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


@functools.cache
def name_of(entry):
    """`norm_apply<__half>` from a mangled or demangled entry."""
    plain = subprocess.run(["c++filt", entry], capture_output=True, text=True, check=True).stdout.strip()
    plain = plain.replace("(anonymous namespace)::", "")
    return re.sub(r"^(?:void )?([\w:]+(?:<[^()]*>)?).*", r"\1", plain)


def compiled(nvcc, source, architectures):
    """The messages of ptxas for one file."""
    codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    run = subprocess.run([nvcc, "-std=c++17", "-O3", "--threads", "2", "-Xptxas", "-v", "-I.", *codes, "-c", str(source), "-o", "/dev/null"],
                         capture_output=True, text=True, check=False)
    if run.returncode:
        sys.exit(f"{source}: {run.stderr}")
    return run.stderr


def kernels_of(text):
    """(kernel, architecture, registers, stack, spills, shared memory) from the messages of
    ptxas."""
    rows, entry = [], None
    for line in text.splitlines():
        if m := ENTRY.search(line):
            entry, frame = m.groups(), (0, 0, 0)
        elif m := FRAME.search(line):
            frame = tuple(map(int, m.groups()))
        elif (m := USED.search(line)) and entry:
            rows.append((name_of(entry[0]), entry[1], int(m[1]), frame[0], frame[1] + frame[2], int(SHARED.search(line)[1]) if SHARED.search(line) else 0))
            entry = None
    return rows


def built(nvcc, logs, source, architectures):
    log = pathlib.Path(logs, source.stem + ".o.ptxas")
    rows = kernels_of(log.read_text()) if log.exists() else []
    return rows if {row[1] for row in rows} >= set(architectures) else kernels_of(compiled(nvcc, source, architectures))


def fused(nvcc, source, pattern):
    """Fused operations in the assembly of one file."""
    ptx = subprocess.run([nvcc, "-std=c++17", "-O3", "-I.", "-arch=compute_80", "-ptx", str(source), "-o", "-"],
                         capture_output=True, text=True, check=True).stdout
    if ".entry" not in ptx:
        sys.exit(f"{source}: no kernel in its assembly")
    return re.findall(pattern, ptx)


def main():
    nvcc, logs, architectures = sys.argv[1], sys.argv[2], sys.argv[3:] or ARCHITECTURES
    wrong, seen = [], {}
    for source in sorted(pathlib.Path("engine/cuda/kernels").glob("*.cu")):
        rows = built(nvcc, logs, source, architectures)
        for kernel, architecture, registers, stack, spills, shared in rows:
            seen.setdefault((source.stem, kernel), {})[architecture] = (registers, stack, spills)
            if kernel.split("<")[0] in HOT and (stack or spills):
                wrong.append(f"{kernel} on sm_{architecture}: {spills} bytes spilled, {stack} of stack")
            if kernel.split("<")[0] in DYNAMIC and shared + DYNAMIC_BYTES > BLOCK_BYTES:
                wrong.append(f"{kernel} on sm_{architecture}: {shared} bytes of shared memory leave less than {DYNAMIC_BYTES}")
    print(f"{'kernel':<44}" + "".join(f"{'sm_' + a:>8}" for a in architectures) + "   registers, +bytes spilled")
    for (stem, kernel), by in sorted(seen.items()):
        cells = "".join(f"{str(by[a][0]) + (f'+{by[a][2]}' if by[a][2] else '') if a in by else 'none':>8}" for a in architectures)
        print(f"{stem + ': ' + kernel:<44}{cells}")
        wrong += [f"{kernel} was not compiled for sm_{a}" for a in architectures if a not in by]
    names = {kernel.split("<")[0] for _, kernel in seen}
    wrong += [f"there is no kernel {name}" for name in HOT + DYNAMIC if name not in names]
    users = sum(s.read_text().count("DYNAMIC_SHARED(") for s in pathlib.Path("engine/cuda/kernels").glob("*.cu"))
    if users != len(DYNAMIC) or f"DYNAMIC_SHARED_BYTES = {DYNAMIC_BYTES // 1024} * 1024" not in pathlib.Path("engine/cuda/kernels/device.cuh").read_text():
        wrong.append(f"DYNAMIC here is not what the kernels have: {users} of them")
    for stem, pattern in EXACT.items():
        if found := fused(nvcc, f"engine/cuda/kernels/{stem}.cu", pattern):
            wrong.append(f"{stem}.cu has {len(found)} fused multiply-adds ({found[0]}): its bytes would not be the host's")
    print("\n".join(wrong) or f"{len(seen)} kernels on {len(architectures)} architectures: none of the hot ones spills")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
