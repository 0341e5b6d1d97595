"""The quality benchmark: it runs, its arithmetic is right, and its opponents impute."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from vadtune.data.metrics import rmse
from vadtune.tuning.baseline_methods import Seen

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import opponents  # noqa: E402
import quality_anytime  # noqa: E402
import quality_ranks  # noqa: E402

NAN = float("nan")


def result(dataset, method, error):
    entry = {"dataset": dataset, "mechanism": "mcar", "missing_rate": 0.2, "seed": 0, "method": method}
    return entry | ({"failure": "slow"} if error is None else {"test": {"rmse": error}, "train": {"rmse": error}})


RESULTS = [
    *(result("wine", method, error) for method, error in {"mean": 1.0, "knn": 0.8, "vad": 0.4}.items()),
    *(result("diabetes", method, error) for method, error in {"mean": 1.0, "knn": None, "vad": 1.1}.items()),
]


def test_quick_runs_three_methods_and_goes_on_where_it_was(tmp_path):
    output = tmp_path / "quality.json"
    command = [sys.executable, str(BENCHMARKS / "quality.py"), "--quick", "-o", str(output)]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(output.read_text())["results"]
    assert [entry["method"] for entry in found] == ["mean", "iterative_pca", "iterative"]
    assert all(entry["test"]["rmse"] > 0 and entry["train"]["wasserstein"] > 0 for entry in found)
    again = subprocess.run([*command, "--show"], capture_output=True, text=True, check=True)
    assert again.stdout == first.stdout
    assert json.loads(output.read_text())["results"] == found


def test_scores_count_hidden_cells_only():
    truth = np.array([[1.0, NAN], [3.0, 2.0]])
    x_hat = np.array([[2.0, 99.0], [3.0, 0.0]])
    found = quality_ranks.score(x_hat, truth, np.array([2.0, 4.0]))
    expected = {"rmse": np.sqrt(5 / 3), "rmse_minmax": np.sqrt((0.25 + 0.25) / 3), "mae": 1.0, "wasserstein": 1.25}
    assert found == pytest.approx(expected)


def test_coverage_is_the_share_of_hidden_cells_between_the_ends():
    truth = np.array([[1.0, NAN, 5.0, 2.0]])
    assert quality_ranks.coverage(np.zeros((1, 4)), np.full((1, 4), 2.0), truth) == pytest.approx(2 / 3)


def test_ranks_share_places_and_failures_come_last():
    board = quality_ranks.board(RESULTS)
    assert board.methods == ["knn", "mean", "vad"]
    # diabetes: mean 1, vad 2, knn 3; wine: vad 1, knn 2, mean 3.
    assert_allclose(board.ranked().average_ranks(), [2.5, 2.0, 1.5])


def test_ratios_are_to_the_best_opponent_that_finished():
    assert_allclose(quality_ranks.board(RESULTS).ratios(), [[NAN, 1.0, 1.1], [1.0, 1.25, 0.5]])


def test_cases_that_a_method_was_not_run_on_are_not_ranked():
    board = quality_ranks.board([*RESULTS, result("energy", "mean", 0.1)]).ranked()
    assert [case[0] for case in board.cases] == ["diabetes", "wine"]


@pytest.mark.parametrize(("n_methods", "q"), [(2, 1.960), (5, 2.728), (10, 3.164)])
def test_critical_differences_are_those_of_the_published_table(n_methods, q):
    expected = q * np.sqrt(n_methods * (n_methods + 1) / (6 * 14))
    assert quality_ranks.critical_difference(n_methods, 14) == pytest.approx(expected, rel=1e-3)


def test_the_table_shows_what_failed_and_what_is_best():
    text = quality_ranks.markdown(RESULTS)
    assert "| wine, MCAR 20%, seed 0 | 0.8000 | 1.0000 | **0.4000** |" in text
    assert "| diabetes, MCAR 20%, seed 0 | failed | **1.0000** | 1.1000 |" in text
    assert "vad 1.50, mean 2.00, knn 2.50" in text


def test_a_budget_chooses_by_validation_among_its_own_trials():
    trials = [{"trial": n, "validation_rmse": v, "test_rmse": t} for n, v, t in [(3, 0.5, 0.6), (12, 0.4, 0.5)]]
    found = quality_anytime.summarise([*trials, {"trial": 40, "validation_rmse": 0.3, "test_rmse": 0.7}], (10, 30, 60))
    assert found["chosen_test_rmse"] == {"10": 0.6, "30": 0.5, "60": 0.7}
    assert found["rank_correlation"] == pytest.approx(-0.5)


def searched(dataset, n_trials, error, seconds=9.0):
    return result(dataset, "vad", error) | {"trials": n_trials, "seconds": seconds}


def test_searches_of_fewer_trials_are_set_against_those_of_the_most_case_by_case():
    some = [searched("wine", 10, 0.8, 5.0), searched("wine", 300, 0.4), searched("energy", 10, 0.2, 7.0)]
    text = quality_anytime.budgets_table([*some, searched("energy", 300, 0.2), searched("yacht", 10, 0.1)])
    # The geometric mean of 2 and 1; the yacht was searched by 10 trials alone.
    assert "| 10 | +41.4% | +100.0% | +41.4% | +100.0% | 6 |" in text
    assert "| 300 | +0.0% | +0.0% | +0.0% | +0.0% | 9 |" in text
    assert "2 cases" in text


def test_intervals_of_few_draws_hold_another_draw_as_often_as_they_say():
    draws = np.random.default_rng(0).normal(size=(opponents.N_DRAWS + 1, 200, 100)).astype(np.float32)
    low, high = opponents.middle_80(draws[1:])
    assert quality_ranks.coverage(low, high, draws[0]) == pytest.approx(0.8, abs=0.01)


def low_rank_table():
    rng = np.random.default_rng(0)
    complete = (rng.normal(size=(500, 2)) @ rng.normal(size=(2, 6))).astype(np.float32)
    complete /= complete.std(axis=0)
    hidden = rng.random(complete.shape) < 0.2
    seen, truth = np.where(hidden, np.float32(NAN), complete), np.where(hidden, complete, np.float32(NAN))
    return Seen(seen[:400], seen[400:440], truth[400:440], seen, seen[:400]), truth


@pytest.mark.filterwarnings("ignore")  # those of scikit-learn and miceforest, which are not ours to mend
@pytest.mark.parametrize("name", [name for name in opponents.FILLERS if name != "mean"])
def test_imputers_fill_every_cell_and_beat_the_mean_on_a_low_rank_table(name):
    if name == "mice_lightgbm":
        pytest.importorskip("miceforest")
    import torch

    torch.manual_seed(0)
    seen, truth = low_rank_table()
    quick = {"miwae": {"n_epochs": 20}, "gain": {"n_steps": 400}, "mice_lightgbm": {"n_tables": 1, "n_rounds": 2}}
    found = opponents.FILLERS[name](seen, **quick.get(name, {}))
    assert found.x_hat.shape == seen.test.shape
    assert np.isfinite(found.x_hat).all()
    mean = opponents.FILLERS["mean"](seen).x_hat
    assert rmse(found.x_hat, truth) < 0.9 * rmse(mean, truth)
