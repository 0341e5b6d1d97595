"""How fast vadtune is, as ratios to what a user would pick instead, each measured beside it in the same run.

    python benchmarks/speed.py                           all rows: about an hour on two idle cores
    python benchmarks/speed.py --only images,tables      some rows; the others are kept from the JSON file
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
from speed_inference import inference
from speed_search import Task, overhead, whole_search
from speed_training import Size, throughput, training_step
from timing import Row

RESULTS = Path(__file__).with_name("speed.json")
BREAST_CANCER = Task("breast_cancer", 0.2, 40)
DIGITS = Task("mnist", 0.5, 20, level=0.125)

Benchmark = Callable[[], list[Row]]


def benchmarks() -> dict[str, Benchmark]:
    """All of them, by the name that `--only` takes."""
    return {
        "images": lambda: [training_step(Size(60_000, 784, 50, 200, 32), 12, 5, 100)],
        "tables": lambda: [training_step(Size(20_000, 16, 25, 100, 32), 6, 5, 300)],
        "inference": lambda: inference(1000, 4000, 20, 500, 3, 15),
        "throughput": lambda: [throughput(Size(20_480, 784, 64, 512, 2048), 0.6, 7, 2048)],
        "search_optuna": lambda: [whole_search("optuna", BREAST_CANCER, 1.5, 3)],
        "search_ray": lambda: [whole_search("ray", BREAST_CANCER, 8, 3)],
        "digits_optuna": lambda: [whole_search("optuna", DIGITS, 1.5, 3)],
        "digits_ray": lambda: [whole_search("ray", DIGITS, 3, 3)],
        "overhead_40": lambda: [overhead(BREAST_CANCER, 0.1, 3)],
        "overhead_100": lambda: [overhead(Task("breast_cancer", 0.2, 100), 0.1, 3)],
    }


def quick_benchmarks() -> dict[str, Benchmark]:
    """The rows that need no Ray, on little data."""
    return {
        "images": lambda: [training_step(Size(500, 784, 50, 200, 32), 12, 1, 5)],
        "tables": lambda: [training_step(Size(500, 16, 25, 100, 32), 6, 1, 5)],
        "inference": lambda: inference(50, 200, 2, 20, 1, 15),
        "throughput": lambda: [throughput(Size(512, 784, 64, 128, 256), 0.6, 1, 256)],
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


def measure(benchmark: Benchmark) -> dict[str, Any]:
    """One benchmark's rows, and when they were measured."""
    date = datetime.now(UTC).isoformat(timespec="minutes")
    return {"date": date, "rows": [asdict(row) for row in benchmark()]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(benchmarks())
    parser.add_argument("--only", metavar="NAME,…", type=partial(str.split, sep=","), help=f"of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, one turn, and no search")
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
        results[name] = measure(chosen[name])
        args.output.write_text(json.dumps(results, indent=1) + "\n")
    print(table({name: results[name] for name in chosen if name in results}))


if __name__ == "__main__":
    main()
