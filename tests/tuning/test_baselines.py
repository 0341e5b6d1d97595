import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from tests.patience import PATIENCE_S
from vadtune.data.metrics import rmse
from vadtune.data.splits import DataConfig, Holdout, Splits, split
from vadtune.data.tables import Column, Table
from vadtune.errors import ConfigError
from vadtune.tuning.baseline_methods import (
    INPUT,
    METHODS,
    READY,
    Baseline,
    IterativePca,
    Mean,
    Seen,
    Subspace,
    fit_complete,
    fit_subspaces,
)
from vadtune.tuning.baselines import BASELINES, RunningBaselines, run_baselines

pytestmark = pytest.mark.filterwarnings("ignore:.*Early stopping criterion not reached")

METHOD_PARAMETERS = [pytest.param(method, id=method.name) for method in METHODS]


def low_rank_table(n_rows: int, n_features: int, rank: int, noise_std: float = 0.05) -> Table:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n_rows, rank)) @ rng.normal(size=(rank, n_features))
    values += noise_std * rng.normal(size=values.shape)
    columns = tuple(Column(f"x{i}", "numeric", "float64") for i in range(n_features))
    return Table("low_rank", "made", values, columns)


def splits_of(table: Table) -> Splits:
    return split(table, DataConfig(dataset=table.name, missing_rate=0.3))


def seen(splits: Splits) -> Seen:
    validation = splits.validation
    return Seen(splits.train.rows.x, validation.rows.x, validation.truth, splits.test.rows.x, splits.final_rows.x)


def wait_until_ready(running: RunningBaselines, name: str) -> None:
    wait_for(lambda: (running._path / f"{name}{READY}").exists())


def wait_for(happens) -> None:
    until = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture(scope="module")
def splits() -> Splits:
    return splits_of(low_rank_table(300, 12, rank=3))


@pytest.mark.parametrize("method", METHOD_PARAMETERS)
def test_every_cell_is_filled_whatever_is_missing(method: Baseline, splits: Splits):
    known = seen(splits)
    train, test = known.train.copy(), known.test.copy()
    test[0] = np.nan  # a row that nothing is known of
    train[:, 4] = np.nan  # a column that was never observed
    train[:, 5] = 7.0  # a column that never varies
    x_hat = method.impute(dataclasses.replace(known, train=train, test=test, final=train))
    assert x_hat.shape == test.shape
    assert np.isfinite(x_hat).all()


@pytest.mark.parametrize("method", METHOD_PARAMETERS)
def test_a_table_of_one_column_is_imputed_by_its_mean(method: Baseline):
    train = np.array([[1.0], [2.0], [6.0], [np.nan]], np.float32)
    hole = np.full((1, 1), np.nan, np.float32)
    x_hat = method.impute(Seen(train, hole, np.ones((1, 1), np.float32), hole, train))
    np.testing.assert_allclose(x_hat, [[3.0]], rtol=1e-5)


@pytest.mark.parametrize("method", METHOD_PARAMETERS)
def test_more_columns_than_rows_are_imputed(method: Baseline):
    splits = splits_of(low_rank_table(30, 50, rank=2))
    assert rmse(method.impute(seen(splits)), splits.test.truth) < 2


def test_iterative_pca_finds_a_table_of_low_rank_again(splits: Splits):
    error = rmse(IterativePca().impute(seen(splits)), splits.test.truth)
    assert error < 0.06  # the noise itself is 0.03 after scaling
    assert error < 0.1 * rmse(Mean().impute(seen(splits)), splits.test.truth)


def test_a_subspace_imputes_the_exact_posterior_mean():
    rng = np.random.default_rng(1)
    loadings, mean, noise_var = rng.normal(size=(6, 2)), rng.normal(size=6), 0.3
    x = rng.normal(size=(5, 6))
    x[rng.random(x.shape) < 0.4] = np.nan
    expected = np.empty_like(x)
    for i, row in enumerate(x):  # the Gaussian conditional, row by row
        o = ~np.isnan(row)
        covariance = loadings @ loadings.T + noise_var * np.eye(6)
        z = loadings[o].T @ np.linalg.solve(covariance[np.ix_(o, o)], (row - mean)[o])
        expected[i] = mean + loadings @ z
    np.testing.assert_allclose(Subspace(mean, loadings, noise_var).impute(x), expected, atol=1e-10)


@pytest.mark.parametrize("shape", [(200, 8), (8, 20)], ids=["tall", "wide"])
def test_a_complete_table_gives_probabilistic_pca_in_closed_form(shape: tuple[int, int]):
    x = np.random.default_rng(2).normal(size=shape) * np.linspace(1, 3, shape[1])
    subspace, _ = fit_complete(x, 3, 1.0)
    variances, axes = np.linalg.eigh(np.cov(x.T, bias=True))  # Tipping and Bishop (1999), equations 7 and 8
    noise_var = variances[:-3].mean()
    assert subspace.noise_var == pytest.approx(noise_var)
    np.testing.assert_allclose(
        subspace.loadings @ subspace.loadings.T,
        axes[:, -3:] @ np.diag(variances[-3:] - noise_var) @ axes[:, -3:].T,
        atol=1e-9,
    )


def test_the_right_rank_is_best_on_validation():
    known = seen(splits_of(low_rank_table(60, 12, rank=3)))  # so few rows that a rank too high fits their noise
    errors = [rmse(s.impute(known.validation), known.validation_truth) for s in fit_subspaces(known.train, (1, 3, 11))]
    assert min(errors) == errors[1]


def test_results_come_from_the_same_methods_in_their_own_processes(splits: Splits):
    results = run_baselines(splits, 60)
    assert tuple(results) == BASELINES
    for method in METHODS:
        result = results[method.name]
        assert result.failure is None
        assert result.seconds > 0
        np.testing.assert_allclose(result.x_hat, method.impute(seen(splits)), atol=1e-4)


def test_test_truth_is_never_seen(splits: Splits, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    secret = np.float32(123456.0)
    rigged = dataclasses.replace(splits, test=Holdout(splits.test.rows, np.full_like(splits.test.truth, secret)))
    with RunningBaselines(rigged, 60, ["mean"]) as running:
        (file,) = tmp_path.glob(f"*/{INPUT}")
        with np.load(file) as arrays:
            assert not any((values == secret).any() for values in arrays.values())
        assert running.results()["mean"].x_hat is not None
    assert not list(tmp_path.iterdir())


def test_a_table_too_wide_for_a_baseline_says_so_at_once():
    result = run_baselines(splits_of(low_rank_table(20, 65, rank=2)), 60, ["iterative"])["iterative"]
    assert result.x_hat is None
    assert result.failure == "needs at most 64 columns"


def test_a_time_limit_ends_a_baseline(splits: Splits):
    results = run_baselines(splits, 0.1, ["knn", "iterative"])  # too short to import scikit-learn
    assert [result.failure for result in results.values()] == ["did not finish in 0.1 s"] * 2
    assert [result.seconds for result in results.values()] == [0.1] * 2


def test_a_baseline_ends_itself_when_nobody_asks_for_it(splits: Splits, tmp_path):
    known = seen(splits)
    np.savez(tmp_path / INPUT, **{field.name: getattr(known, field.name) for field in dataclasses.fields(known)})
    command = [sys.executable, "-m", "vadtune.tuning.baseline_methods", "knn", str(tmp_path), "0.1"]
    assert subprocess.run(command, timeout=PATIENCE_S, check=False).returncode == -signal.SIGPROF


def test_what_is_paused_rests_and_goes_on(splits: Splits):
    with RunningBaselines(splits, 60, ["knn"]) as running:
        wait_until_ready(running, "knn")
        (child,) = (c for c in psutil.Process().children() if "vadtune.tuning.baseline_methods" in c.cmdline())
        with running.paused():
            wait_for(lambda: child.status() == psutil.STATUS_STOPPED)
            used = child.cpu_times().user
            time.sleep(0.3)
            assert child.cpu_times().user == used
        assert running.results()["knn"].x_hat is not None


def test_a_paused_baseline_dies_with_a_killed_search():
    program = """
import sys, time
from tests.tuning.test_baselines import low_rank_table, splits_of, wait_until_ready
from vadtune.tuning.baselines import RunningBaselines

running = RunningBaselines(splits_of(low_rank_table(200, 40, rank=3)), 60, ["iterative"])
wait_until_ready(running, "iterative")
with running.paused():
    print(running._processes["iterative"].pid, flush=True)
    time.sleep(60)
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(Path.cwd())}) as search:
        assert search.stdout is not None
        baseline = psutil.Process(int(search.stdout.readline()))
        search.kill()
    wait_for(lambda: not baseline.is_running() or baseline.status() == psutil.STATUS_ZOMBIE)


def test_leaving_ends_what_still_runs(splits: Splits):
    with RunningBaselines(splits, 60, ["knn", "iterative"]):
        # This process may have other children: a browser or Ray of earlier tests.
        children = [c for c in psutil.Process().children() if "vadtune.tuning.baseline_methods" in c.cmdline()]
        assert len(children) == 2
        assert {child.environ()["OMP_NUM_THREADS"] for child in children} == {"1"}
    assert not any(child.is_running() for child in children)


def test_a_crash_is_told_by_its_last_words(splits: Splits):
    broken = dataclasses.replace(splits, test=Holdout(type(splits.test.rows)(np.ones((2, 3))), splits.test.truth))
    result = run_baselines(broken, 60, ["knn"])["knn"]
    assert result.x_hat is None
    assert result.failure is not None
    assert "features" in result.failure


def test_wrong_requests_are_refused_before_anything_starts(splits: Splits):
    with pytest.raises(ConfigError, match="Did you mean knn"):
        run_baselines(splits, 60, ["kn"])
    with pytest.raises(ConfigError, match="above 0"):
        run_baselines(splits, 0)


def test_the_processes_import_neither_torch_nor_ray_nor_pydantic():
    code = "import sys, vadtune.tuning.baseline_methods; print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "optuna", "pandas", "pydantic", "sklearn", "scipy"} & set(modules)
