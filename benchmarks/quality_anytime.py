"""How soon a search finds well, by searches of several lengths; how far its choice can be trusted, by one long one."""

import json
import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from quality_ranks import KEYS, Result
from scipy.stats import spearmanr

BUDGETS = (10, 30, 60)
Trial = dict[str, Any]


def anytime(
    dataset: str, mechanism: str, n_trials: int, call: Callable[[list[str], float], str], limit_s: float
) -> Any:
    """Search once, export every complete trial, and read each one's scores.

    What would have been chosen after fewer trials is the best on validation among those with lower numbers. A search
    that ended there had stopped nobody else: which trials are stopped depends on those before them.
    """
    kind, _, rate = mechanism.partition(":")
    with tempfile.TemporaryDirectory(prefix="vadtune-anytime-") as runs:
        words = ["-m", "vadtune.search", dataset, "--mechanism", kind, "--missing-rate", rate, "--runs", runs]
        words += ["--trials", str(n_trials), "--top", str(n_trials), "--ensemble", "1", "--name", "long"]
        words += ["--json"]
        seconds = json.loads(call(words, limit_s))["seconds"]
        found = read_trials(Path(runs) / "long")
    about = {"dataset": Path(dataset).name.partition(".")[0], "mechanism": kind, "missing_rate": float(rate)}
    return about | {"trials": n_trials, "seconds": seconds} | summarise(found, (*BUDGETS, n_trials))


def budgets_table(results: Sequence[Result]) -> str:
    """What searches of fewer trials find, as they come, against those of the most: means over the cases of all."""
    most = max(result["trials"] for result in results)
    by_case: dict[tuple[Any, ...], dict[int, Result]] = {}
    for result in results:
        by_case.setdefault(tuple(result[key] for key in (*KEYS, "method")), {})[result["trials"]] = result
    budgets = sorted({result["trials"] for result in results})
    whole = [found for found in by_case.values() if all("test" in found.get(budget, {}) for budget in budgets)]
    titles = ["trials", f"unseen rows, against {most}", "worst case", "fitted rows", "worst case", "seconds"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for budget in budgets:
        cells = [str(budget)]
        for part in ("test", "train"):
            ratios = [found[budget][part]["rmse"] / found[most][part]["rmse"] - 1 for found in whole]
            mean = math.expm1(statistics.fmean(map(math.log1p, ratios))) if ratios else math.nan
            cells += [f"{mean:+.1%}", f"{max(ratios, default=math.nan):+.1%}"]
        cells.append(f"{statistics.median(found[budget]['seconds'] for found in whole):.0f}" if whole else "–")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"{len(whole)} cases were searched with every number of trials."])


def read_trials(run: Path) -> list[Trial]:
    """Number, validation RMSE and test RMSE of every exported trial."""
    metrics = [json.loads(path.read_text()) for path in [run / "best/metrics.json", *run.glob("top/*/metrics.json")]]
    return [{key: each[key] for key in ("trial", "validation_rmse", "test_rmse")} for each in metrics]


def summarise(trials: list[Trial], budgets: tuple[int, ...]) -> dict[str, Any]:
    """Test RMSE of what each budget chooses, the best there was, and Spearman's correlation of the two errors."""
    chosen = {}
    for budget in sorted({budget for budget in budgets if budget <= max(budgets[-1], 1)}):
        within = [trial for trial in trials if trial["trial"] < budget]
        best = min(within, key=lambda trial: (trial["validation_rmse"], trial["trial"]), default=None)
        chosen[str(budget)] = None if best is None else best["test_rmse"]
    pairs = [[trial[key] for trial in trials] for key in ("validation_rmse", "test_rmse")]
    correlation = float(spearmanr(*pairs).statistic) if len(trials) > 2 else None
    lowest = min((trial["test_rmse"] for trial in trials), default=None)
    return {"chosen_test_rmse": chosen, "lowest_test_rmse": lowest, "rank_correlation": correlation, "complete": trials}
