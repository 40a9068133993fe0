"""The measurements of run.sh as tables: report.py FOLDER. Reads its results/*.jsonl and state/*,
writes to stdout.
"""

import json
import pathlib
import sys

GOALS = {("ffhq256", 32): "≥ 900 images/s", ("ffhq256", 1): "≤ 3 ms", ("imagenet256", 32): "≥ 150 images/s"}


def read(folder):
    rows = []
    for file in sorted((folder / "results").glob("*.jsonl")):
        for line in file.read_text().splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:  # the last line of an interrupted step
                continue
    return rows


def of(rows, what, **keys):
    return [r for r in rows if r.get("what") == what and all(r.get(k) == v for k, v in keys.items())]


def number(v, form):
    return "–" if v is None else format(v, form)


def ratio(a, b):
    return None if not a or not b else a / b


def peaks(rows):
    out = []
    for r in of(rows, "peak"):
        out.append(f"{r['card']}: a {r['side']}³ product in bf16 {r['tflops']:.1f} TFLOP/s, a copy {r['tbytes']:.3f} TB/s.")
    for r in of(rows, "torch_peak"):
        out.append(f"The product in torch {r['torch']}: {r['tflops']:.1f} TFLOP/s.")
    return out


def networks(rows):
    best = max([r["tflops"] for r in of(rows, "peak") + of(rows, "torch_peak")], default=None)
    head = ["network", "batch", "ms", "images/s", "TFLOP/s", "of peak", "floor ms", "/ convolutions", "eager ms", "/ david", "compiled ms",
            "/ david", "eager f16 ms", "compiled f16 ms", "u8 to u8 ms", "memory GiB", "goal"]
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in of(rows, "network"):
        arch, batch, ms = r["arch"], r["batch"], r["ms"]
        key = {"arch": arch, "batch": batch}

        def torch_ms(way, dtype, key=key):
            return next((t["ms"] for t in of(rows, "torch", way=way, dtype=dtype, **key)), None)

        count = next(iter(r2 for r2 in rows if "floor_us" in r2 and r2.get("arch") == arch and r2.get("batch") == batch), None)
        ops = next(iter(of(rows, "ops", **key)), None)
        restored = next(iter(of(rows, "restore", **key)), None)
        tflops = count and count["gflop"] / ms
        memory = r.get("memory_used_bytes")
        out.append("| " + " | ".join([
            f"{arch} {r['dtype']}", str(batch), f"{ms:.3f}", f"{r['images_per_second']:.1f}", number(tflops, ".1f"),
            number(ratio(tflops, best), ".0%"), number(count and count["floor_us"] / 1000, ".3f"),
            number(ratio(ms, ops and ops["convolutions_ms"]), ".2f"),
            number(torch_ms("eager", "bf16"), ".3f"), number(ratio(torch_ms("eager", "bf16"), ms), ".2f"),
            number(torch_ms("compile", "bf16"), ".3f"), number(ratio(torch_ms("compile", "bf16"), ms), ".2f"),
            number(torch_ms("eager", "f16"), ".3f"), number(torch_ms("compile", "f16"), ".3f"),
            number(restored and restored["ms"], ".3f"), number(memory and memory / 2**30, ".2f"), GOALS.get((arch, batch), "")]) + " |")
    return out if len(out) > 2 else []


def ops(rows):
    out = []
    for total in of(rows, "ops"):
        key = {"arch": total["arch"], "batch": total["batch"]}
        by_op = {}
        for r in of(rows, "op", **key):
            by = by_op.setdefault(r["op"].lower(), [0, 0.0, 0.0, 0.0])
            for i, v in enumerate((r["count"], r["us"], r["gflop"], r["mb"])):
                by[i] += v
        out.append(f"| {total['arch']} | {total['batch']} | " + "; ".join(
            f"{op} {n}: {us / 1000:.3f} ms, {gflop / us * 1e3 if us else 0:.1f} TFLOP/s, {mb / us if us else 0:.2f} TB/s"
            for op, (n, us, gflop, mb) in sorted(by_op.items(), key=lambda kv: -kv[1][1])) + " |")
    return ["| network | batch | ops, each alone |", "|---|---|---|", *out] if out else []


def steps(folder):
    out = ["| step | result | s |", "|---|---|---|"]
    for file in sorted((folder / "state").glob("*.step"), key=lambda f: f.stat().st_mtime):
        result, seconds = file.read_text().split()
        out.append(f"| {file.stem} | {result} | {seconds} |")
    return out


def main():
    folder = pathlib.Path(sys.argv[1])
    rows = read(folder)
    same = [f"One result, {r['dtype']}, up to {r['batch']}: within a size {'the same bytes' if r['within'] == 0 else 'BROKEN'}, "
            f"across sizes at most {r['across']} of 255, on the device and by the host {'the same bytes' if r['pools'] == 0 else 'BROKEN'}." for r in of(rows, "one_result")]
    for part in (steps(folder), same, peaks(rows), ops(rows), networks(rows)):
        if part:
            print("\n".join(part) + "\n")


if __name__ == "__main__":
    main()
