"""Plots every term of a training run over its steps, from the JSON lines of `david train
--json`.

  python3 curves.py RUN.jsonl OUT.png [--by N]      needs Debian's python3-matplotlib

A point is the mean of N steps (a hundredth of the run).
"""
import argparse
import json

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

NOT_TERMS = {"step", "steps"}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("run")
    p.add_argument("out")
    p.add_argument("--by", type=int)
    args = p.parse_args()
    with open(args.run) as f:
        lines = [line for line in map(json.loads, f) if "step" in line]
    names = [n for n in lines[-1] if n not in NOT_TERMS and isinstance(lines[-1][n], (int, float))]
    by = args.by or max(1, len(lines) // 100)
    across = min(4, len(names))
    down = -(-len(names) // across)
    figure, axes = plt.subplots(down, across, figsize=(3.2 * across, 2.2 * down), squeeze=False, layout="constrained")
    for axis, name in zip(axes.flat, names):
        points = [(part[-1]["step"], [line[name] for line in part if isinstance(line.get(name), (int, float))])
                  for part in (lines[at:at + by] for at in range(0, len(lines), by))]
        points = [(x, sum(v) / len(v)) for x, v in points if v]
        axis.plot([x for x, _ in points], [y for _, y in points], linewidth=1)
        if all(y > 0 for _, y in points):
            axis.set_yscale("log")
        axis.set_title(name, fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in list(axes.flat)[len(names):]:
        axis.axis("off")
    figure.savefig(args.out, dpi=80)


if __name__ == "__main__":
    main()
