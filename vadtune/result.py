"""The result of a search for the person at the terminal."""

import shlex
from pathlib import Path

from vadtune import cli
from vadtune.settings import Nested


def sentences(document: Nested, folder: Path, unit: str) -> str:
    """The result for a person."""
    best, trials = document["best"], document["trials"]
    counts = ", ".join(f"{n} {state}" for state, n in trials.items() if n or state == "complete")
    key = "test_error" if unit == "mixed" else "test_rmse"
    alone = best.get("alone", best)
    rows = [(f"trial {best['trial']}", alone[key], _parts(alone))]
    if "ensemble" in best:
        n_trials = len(best["ensemble"])
        name = f"{n_trials} trials" if n_trials > 1 else f"trial {best['trial']} again"
        rows.append((name, best[key], _averaged(best)))
    for name, scores in document["baselines"].items():
        rows.append((name, scores.get(key), scores.get("failure") or _parts(scores)))
    ranked = sorted(rows, key=lambda row: (row[1] is None, row[1]))
    relative = Path(best["artifact"])
    lines = [
        f"Best of {sum(trials.values())} trials ({counts}) in {cli.clock(document['seconds'])}: trial {best['trial']}",
        "",
        f"{cli.title(cli.MEASURES[unit])} over {document['scored_cells']:,} hidden cells of the test rows, "
        f"{cli.UNITS[unit]}:",
        *(f"  {name:<16}{'–' if value is None else f'{value:.4f}'}  {note}".rstrip() for name, value, note in ranked),
        "",
        f"settings: {', '.join(f'{path}={_short(value)}' for path, value in best['params'].items())}",
        f"report:   {folder / 'report.html'}",
        f"model:    {relative}{' (refitted on all rows; the score is of the one before)' if best['refitted'] else ''}",
        f"use it:   python -m vadtune.impute {shlex.quote(str(relative))} TABLE -o FILLED",
    ]
    return "\n".join(cli.printable(line) for line in lines)


def _averaged(best: Nested) -> str:
    """What the average is of."""
    again = "fitted again with the validation rows" if best["further_fits"] else ""
    members = f"averaged: {', '.join(best['ensemble'])}" if len(best["ensemble"]) > 1 else ""
    return "; ".join(part for part in (members, again) if part)


def _parts(scores: Nested) -> str:
    """The parts of the mean error of a table with codes."""
    names = {"test_nrmse": "numbers", "test_error_rate": "categories"}
    return ", ".join(f"{name} {scores[key]:.4f}" for key, name in names.items() if scores.get(key) is not None)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
