"""How fast vadtune is, as ratios to what a user would pick instead, each measured beside it in the same run.

    python benchmarks/speed.py                           all rows: about an hour on two idle cores
    python benchmarks/speed.py --only images,tables      some rows; the others are kept from the JSON file
    python benchmarks/speed.py --only search_ray --turns 1 --add     one more turn of a long one
    python benchmarks/speed.py --quick                   small sizes and one turn: whether it runs, not how fast

A table in Markdown goes to stdout, every measurement to a JSON file. Sides take turns; the table shows the median of
the turns and, in brackets, the lowest and the highest.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from speed_inference import Sizes, inference
from speed_memory import copies
from speed_search import OUR_TRAINER, RIVALS, Task, overhead, whole_search
from speed_training import Size, throughput, training_step
from timing import Row

from vadtune.training.environment import hardware

RESULTS = Path(__file__).with_name("speed.json")
BREAST_CANCER = Task("breast_cancer", 0.2, 40)
HUNDRED_TRIALS = Task("breast_cancer", 0.2, 100)
DIGITS = Task("mnist", 0.5, 20, level=0.125)
GRID = Task("mnist", 0.5, 216, level=0.125)
FIVE_TURNS = ("images", "tables", "throughput")

SEARCHES = [
    ("search", "optuna", BREAST_CANCER, 1.5),
    ("search", "ray", HUNDRED_TRIALS, 8),
    ("digits", "optuna", DIGITS, 1.5),
    ("digits", "draws", DIGITS, 1.5),
    ("digits", "ray", DIGITS, 3),
]

# Takes the numbers of the turns: searches use them as seeds.
Benchmark = Callable[[range], list[Row]]


def benchmarks() -> dict[str, Benchmark]:
    """All of them, by the name that `--only` takes."""
    return {
        "images": lambda turns: [training_step(Size(60_000, 784, 50, 200, 32), 12, turns, 100)],
        "tables": lambda turns: [training_step(Size(20_000, 16, 25, 100, 32), 6, turns, 300)],
        "inference": lambda turns: inference(Sizes(1000, 4000, 20, 500), 15, turns),
        "throughput": lambda turns: [throughput(Size(20_480, 784, 64, 512, 2048), 0.6, turns, 2048)],
        **{
            f"{name}_{rival}{suffix}": partial(_search, f"{rival}{flag}", task, target)
            for name, rival, task, target in SEARCHES
            for suffix, flag in (("", ""), ("_ours", f" {OUR_TRAINER}"))
            if f"{rival}{flag}" in RIVALS
        },
        "digits_grid": lambda turns: [whole_search("grid", GRID, 30, turns)],
        "copies": lambda turns: [copies(10**9, 1.1, turns)],
        "overhead_40": lambda turns: [overhead(BREAST_CANCER, 0.15, turns)],
        "overhead_100": lambda turns: [overhead(HUNDRED_TRIALS, 0.1, turns)],
    }


def _search(rival: str, task: Task, target: float, turns: range) -> list[Row]:
    return [whole_search(rival, task, target, turns)]


def quick_benchmarks() -> dict[str, Benchmark]:
    """The rows that need no Ray, on little data."""
    return {
        "images": lambda turns: [training_step(Size(500, 784, 50, 200, 32), 12, turns, 5)],
        "tables": lambda turns: [training_step(Size(500, 16, 25, 100, 32), 6, turns, 5)],
        "inference": lambda turns: inference(Sizes(50, 200, 2, 20), 15, turns),
        "throughput": lambda turns: [throughput(Size(512, 784, 64, 128, 256), 0.6, turns, 256)],
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| what | against | target | measured | |", "|---|---|---|---|---|"]
    for result in results.values():
        for row in (Row(**values) for values in result["rows"]):
            target = f"{'<=' if row.at_most else '>='} {row.show(row.target)}"
            spread = f"{row.show(row.median)} ({row.show(min(row.values))} to {row.show(max(row.values))})"
            lines.append(f"| {row.what} | {row.against} | {target} | {spread} | {'met' if row.is_met else 'missed'} |")
    return "\n".join(lines)


def measure(benchmark: Benchmark, turns: range, before: dict[str, Any] | None) -> dict[str, Any]:
    """One benchmark's rows and when they were measured, after the turns of earlier ones."""
    date = datetime.now(UTC).isoformat(timespec="minutes")
    machine = {name: value for name, value in hardware().items() if name in ("cpus", "gpus", "memory_gb")}
    rows = [asdict(row) for row in benchmark(turns)]
    if before is not None:
        rows = [joined(old, new) for old, new in zip(before["rows"], rows, strict=True)]
    return {"date": date, "machine": machine, "rows": rows}


def joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Two measurements of one row: the values of all turns, and of anything else the newer."""
    both = {name: _both(old["details"].get(name), value) for name, value in new["details"].items()}
    return new | {"values": old["values"] + new["values"], "details": both}


def _both(old: Any, new: Any) -> Any:
    return old + new if isinstance(old, list) and isinstance(new, list) else new


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(benchmarks())
    parser.add_argument("--only", metavar="NAME,…", type=partial(str.split, sep=","), help=f"of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, one turn, and no search")
    parser.add_argument("--turns", type=int, help="of each row (default: 5, of inference and searches 3)")
    parser.add_argument("--add", action="store_true", help="add turns to those of the JSON file")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    chosen = quick_benchmarks() if args.quick else benchmarks()
    unknown = set(args.only or ()) - chosen.keys()
    if unknown:
        parser.error(f"--only {','.join(sorted(unknown))}: choose from {', '.join(chosen)}")
    torch.manual_seed(0)
    results = json.loads(args.output.read_text()) if args.output.exists() else {}
    for name in args.only or chosen:
        print(name, file=sys.stderr)
        before = results.get(name) if args.add else None
        first = len(before["rows"][0]["values"]) if before else 0
        n_turns = args.turns or (1 if args.quick else 5 if name in FIVE_TURNS else 3)
        results[name] = measure(chosen[name], range(first, first + n_turns), before)
        args.output.write_text(json.dumps(results, indent=1) + "\n")
    print(table({name: results[name] for name in chosen if name in results}))


if __name__ == "__main__":
    main()
