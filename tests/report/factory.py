"""Run folders as a search leaves them: small, deterministic, made without a search."""

import json
import math
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import BaseJournalBackend, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from scipy.ndimage import gaussian_filter, zoom
from sklearn.datasets import load_breast_cancer, load_digits

HOSTILE = "</script><img src=x onerror=alert(1)>"
RUNGS = (3, 9, 27)
MAX_EPOCHS = 45
BEGIN = datetime(2026, 3, 14, 9, 30)
SPACE: dict[str, BaseDistribution] = {
    "model.latent_dim": IntDistribution(8, 128, log=True),
    "model.hidden_dim": CategoricalDistribution((128, 256, 512)),
    "model.posterior": CategoricalDistribution(("free", "fixed", "point")),
    "model.log_var": FloatDistribution(-12.0, 0.0),
    "model.kl_weight": FloatDistribution(0.01, 1.0, log=True),
    "train.lr": FloatDistribution(1e-4, 1e-2, log=True),
    "train.latent_lr": FloatDistribution(1e-2, 0.3, log=True),
    "train.batch_size": CategoricalDistribution((64, 128, 256)),
}


class LinesBackend(BaseJournalBackend):
    """A journal in memory, written as one file at the end: no fsync a line."""

    def __init__(self) -> None:
        self.logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        yield from self.logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.logs.extend(logs)

    def write(self, path: Path) -> None:
        path.write_text("".join(json.dumps(log, separators=(",", ":")) + "\n" for log in self.logs), encoding="utf-8")


def make_image_run(folder: Path, **options: Any) -> Path:
    """A finished VAD search on digits, as `make_run` with a gallery."""
    return make_run(folder, images=True, **options)


def make_table_run(folder: Path, **options: Any) -> Path:
    """A finished search on the breast cancer table."""
    return make_run(folder, images=False, **options)


def make_run(
    folder: Path,
    *,
    images: bool = True,
    n_trials: int = 60,
    seed: int = 0,
    model: str = "vad",
    finished: bool = True,
    hostile: bool = False,
    shift: float = 0.0,
    max_epochs: int = MAX_EPOCHS,
) -> Path:
    """Write a run folder of the contract.

    Args:
        folder: `runs/<name>`, made here.
        images: Digits of 24 x 24 pixels, or the breast cancer table.
        n_trials: Of which some 60% are pruned, one is FAIL, two are WAITING.
        seed: Of everything.
        model: Its name in the settings.
        finished: Whether summary.json and evaluation.npz are written.
        hostile: Whether the dataset, a column, a category and a param are called HOSTILE.
        shift: Added to all scores, to make runs that differ.
        max_epochs: Of a trial.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    settings = _settings(folder.name, images, n_trials, model, hostile, seed, max_epochs)
    _write_json(folder / "settings.json", settings)
    trials = make_trials(rng, n_trials, hostile=hostile, shift=shift, max_epochs=max_epochs)
    if not finished:
        trials[-3:] = [_as_running(trial) for trial in trials[-3:]]
    write_study(folder / "study.log", folder.name, trials)
    if finished:
        _write_json(folder / "summary.json", _summary(folder.name, settings, trials, images))
        np.savez_compressed(folder / "evaluation.npz", **_evaluation(images, hostile, 1 + 8 * shift))
    return folder


def make_trials(
    rng: np.random.Generator, n_trials: int, *, hostile: bool = False, shift: float = 0.0, max_epochs: int = MAX_EPOCHS
) -> list[FrozenTrial]:
    """Trials whose floor depends on `train.lr` most, then `model.latent_dim`; ASHA with factor 3 prunes."""
    space = dict(SPACE)
    if hostile:
        space[f"model.{HOSTILE}"] = CategoricalDistribution((HOSTILE, "plain"))
    rung_scores: dict[int, list[float]] = {rung: [] for rung in RUNGS}
    free = [0.0, 0.0]
    return [_trial(rng, number, n_trials, space, rung_scores, free, shift, max_epochs) for number in range(n_trials)]


def write_study(path: Path, name: str, trials: list[FrozenTrial]) -> None:
    """Write trials as Optuna's journal file."""
    backend = LinesBackend()
    storage = JournalStorage(backend)
    study_id = storage.create_new_study([StudyDirection.MINIMIZE], name)
    for trial in trials:
        storage.create_new_trial(study_id, template_trial=trial)
    backend.write(path)


def floor_of(params: dict[str, Any]) -> float:
    """The best RMSE that params can reach: lowest at lr 3e-3 and 48 latents, worse for `point`."""
    lr = math.log10(params["train.lr"] / 3e-3)
    latent = math.log2(params["model.latent_dim"] / 48)
    posterior = {"free": 0.0, "fixed": 0.002, "point": 0.008}[params["model.posterior"]]
    return 0.116 + 0.022 * lr**2 + 0.0022 * latent**2 + posterior


def _trial(
    rng: np.random.Generator,
    number: int,
    n_trials: int,
    space: dict[str, BaseDistribution],
    rung_scores: dict[int, list[float]],
    free: list[float],
    shift: float,
    max_epochs: int,
) -> FrozenTrial:
    params = _sample(rng, space, eagerness=number / n_trials)
    floor, speed = floor_of(params) + 0.002 * rng.random() + shift, 5 + 3 * rng.random()
    worker = int(np.argmin(free))
    start = free[worker]
    reports: dict[int, float] = {}
    state, stopped_by = TrialState.COMPLETE, None
    if number == n_trials - 2 or number == n_trials - 1:
        state = TrialState.WAITING
    diverges = number == 7
    for epoch in range(1, max_epochs + 1):
        reports[epoch] = floor + 0.16 * math.exp(-epoch / speed) + 0.0008 * rng.standard_normal()
        if diverges and epoch == 4:
            state = TrialState.FAIL
            break
        if epoch in rung_scores:
            rung_scores[epoch].append(reports[epoch])
            if state == TrialState.COMPLETE and not diverges and reports[epoch] > np.quantile(rung_scores[epoch], 0.5):
                state, stopped_by = TrialState.PRUNED, f"rung {epoch}"
                break
        if state == TrialState.WAITING and epoch == 5:
            break
    seconds = 0.25 * len(reports) * params["model.hidden_dim"] / 256 + 0.3
    free[worker] = start + seconds + 0.05 + (0.8 if rng.random() < 0.08 else 0)
    best_epoch = min(reports, key=reports.__getitem__)
    attrs = {
        "ray_trial_id": f"{number:08x}",
        "host": "node-a",
        "worker": f"node-a:{4200 + worker}",
        "epochs": len(reports),
        "best_epoch": best_epoch,
        "train_s": seconds * 0.8,
        "infer_s": seconds * 0.15,
        "stopped_by": stopped_by,
        "failure": "imputation_rmse is nan after epoch 4" if diverges else None,
        "checkpoint": None,
    }
    finished = state.is_finished()
    return FrozenTrial(
        number=number,
        state=state,
        value=reports[best_epoch] + 0.001 if state == TrialState.COMPLETE else None,
        datetime_start=BEGIN + timedelta(seconds=start) if state != TrialState.WAITING else None,
        datetime_complete=BEGIN + timedelta(seconds=start + seconds) if finished else None,
        params=params,
        distributions={name: space[name] for name in params},
        user_attrs=attrs,
        system_attrs={},
        intermediate_values=reports,
        trial_id=number,
    )


def _sample(rng: np.random.Generator, space: dict[str, BaseDistribution], eagerness: float) -> dict[str, Any]:
    """Random params that draw nearer to good ones, as a sampler's do."""
    params: dict[str, Any] = {}
    for name, distribution in space.items():
        if isinstance(distribution, CategoricalDistribution):
            params[name] = distribution.choices[int(rng.integers(len(distribution.choices)))]
        else:
            params[name] = _between(rng, distribution, eagerness if name in ("train.lr", "model.latent_dim") else 0.0)
    if params["model.posterior"] != "fixed":
        del params["model.log_var"]
    return params


def _between(rng: np.random.Generator, distribution: BaseDistribution, eagerness: float) -> float | int:
    low, high = distribution.low, distribution.high  # type: ignore[attr-defined]
    good = {(8, 128): 48, (1e-4, 1e-2): 3e-3}.get((low, high), low)
    share = float(rng.random())
    if distribution.log:  # type: ignore[attr-defined]
        target = math.log(good / low) / math.log(high / low)
        share = share * (1 - 0.7 * eagerness) + 0.7 * eagerness * target
        value = low * (high / low) ** share
    else:
        value = low + share * (high - low)
    return round(value) if isinstance(distribution, IntDistribution) else float(value)


def _as_running(trial: FrozenTrial) -> FrozenTrial:
    trial.state, trial.datetime_complete, trial.values = TrialState.RUNNING, None, None
    trial.datetime_start = trial.datetime_start or BEGIN
    return trial


def _settings(
    name: str, images: bool, n_trials: int, model: str, hostile: bool, seed: int, max_epochs: int
) -> dict[str, Any]:
    columns = [{"name": column, "kind": "numeric"} for column in load_breast_cancer().feature_names]
    if hostile:
        columns[0]["name"] = HOSTILE
    dataset = {
        "name": HOSTILE if hostile else "digits24" if images else "breast_cancer",
        "source": "scikit-learn",
        "sha256": ("5f2c" if images else "a81d") * 16,
        "n_rows": 1797 if images else 569,
        "n_features": 576 if images else 30,
        "unit": "pixel" if images else "sd",
        "image_shape": [24, 24] if images else None,
        "columns": [] if images else columns,
    }
    rate = 0.5 if images else 0.2
    ranges = {path: _range(distribution) for path, distribution in SPACE.items()}
    return {
        "format_version": 1,
        "command": f"python -m vadtune.search {dataset['name']} --model {model} --missing-rate {rate} --name {name}",
        "created": BEGIN.isoformat(),
        "versions": {"vadtune": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "ray": "2.60.0", "optuna": "5.0.0"},
        "dataset": dataset,
        "data": {
            "dataset": dataset["name"],
            "mechanism": {"kind": "mcar"},
            "missing_rate": rate,
            "test_missing_rate": None,
            "validation_share": 0.1,
            "test_share": 0.1,
            "max_rows": None,
            "seed": 0,
            "n_train": 1437 if images else 455,
            "n_validation": 180 if images else 57,
            "n_test": 180 if images else 57,
        },
        "model": model,
        "space": {
            "model": {k[6:]: v for k, v in ranges.items() if k.startswith("model.")},
            "train": {"epochs": max_epochs},
        },
        "search": {
            "sampler": "tpe",
            "scheduler": "asha",
            "trials": n_trials,
            "max_epochs": max_epochs,
            "time_budget_s": None,
            "concurrent": 2,
            "cpus_per_trial": 1,
            "gpus_per_trial": 0,
            "seed": seed,
            "rungs": list(RUNGS),
        },
        "hardware": {"cpus": 2, "gpus": 0, "memory_gb": 24.0, "platform": "Linux x86_64", "host": "node-a"},
    }


def _range(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return {"low": distribution.low, "high": distribution.high, "log": distribution.log}  # type: ignore[attr-defined]


def _summary(name: str, settings: dict[str, Any], trials: list[FrozenTrial], images: bool) -> dict[str, Any]:
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    best = min(complete, key=lambda trial: trial.value or math.inf)
    states = [trial.state for trial in trials]
    rmse = (best.value or 0) + 0.0006
    scale = 1.0 if images else 2.9
    baselines = {"mean": 0.2604, "knn": 0.1702, "iterative_pca": 0.1351}
    shown = {
        key: {"test_rmse": value * scale, "test_rmse_minmax": value * 0.4, "seconds": 0.4 + i}
        for i, (key, value) in enumerate(baselines.items())
    }
    return {
        "run": name,
        "dataset": {key: settings["dataset"][key] for key in ("name", "sha256", "n_rows", "n_features")},
        "trials": {
            "complete": len(complete),
            "pruned": states.count(TrialState.PRUNED),
            "failed": states.count(TrialState.FAIL),
            "waiting": states.count(TrialState.WAITING),
        },
        "best": {
            "trial": best.number,
            "params": best.params,
            "validation_rmse": best.value,
            "test_rmse": rmse * scale,
            "test_rmse_minmax": rmse * 0.42,
            "test_mae": rmse * scale * 0.62,
            "observed_rmse": rmse * scale * 0.8,
            "all_rmse": rmse * scale * 0.9,
            "artifact": "best",
        },
        "baselines": shown | {"iterative": {"failure": "did not finish in 30 s"}},
        "seconds": 171.4,
        "seconds_by_phase": {"start": 9.2, "search": 141.0, "test": 6.1, "baselines": 12.9, "report": 2.2},
    }


def _evaluation(images: bool, hostile: bool, worse: float) -> dict[str, Any]:
    rng = np.random.default_rng(7)  # the same hidden cells in every run
    grid = np.arange(1, 10) / 10
    common = {
        "rate_grid": grid,
        "rate_rmse": (0.085 + 0.06 * grid**2 + 0.09 * grid**6) * worse,
        "rate_baseline_mean": 0.2604 + 0.0005 * grid,
        "mechanism_names": np.array(["mcar", "mar", "mnar", HOSTILE if hostile else "block"]),
        "mechanism_rmse": np.array([0.117, 0.121, 0.139, 0.168]) * worse,
    }
    return common | (_image_groups(rng, worse) if images else _table_groups(rng, worse))


def _image_groups(rng: np.random.Generator, worse: float) -> dict[str, Any]:
    digits = load_digits()
    chosen = [int(np.flatnonzero(digits.target == label)[3]) for label in range(8)]
    truth = np.stack([np.clip(zoom(digits.images[i] / 16, 3, order=1), 0, 1) for i in chosen]).reshape(8, -1)
    rates = np.array([0.3, 0.5, 0.8])
    blurred = np.stack([gaussian_filter(image.reshape(24, 24), 1.2).ravel() for image in truth])
    hidden = rng.random((3, *truth.shape)) < rates[:, None, None]
    mean = (1 - 0.6 * rates[:, None, None]) * truth + 0.6 * rates[:, None, None] * blurred
    std = 0.05 + 0.5 * rates[:, None, None] * blurred * (1 - blurred)
    z = rng.standard_normal((600, 2)) * 0.35 + _circle(digits.target[:600])
    pixels = rng.random(576) * 0.02 + 0.14 * gaussian_filter(truth.mean(0).reshape(24, 24), 1).ravel()
    cell = rng.integers(0, hidden[1].sum(), 2000)
    return {
        "cell_column": np.nonzero(hidden[1])[1][cell],
        "cell_truth": truth[hidden[1]][cell],
        "cell_imputed": np.clip(mean[1][hidden[1]][cell] + 0.08 * worse * rng.standard_normal(2000), 0, 1),
        "gallery_rates": rates,
        "gallery_truth": truth.astype(np.float32),
        "gallery_input": np.where(hidden, np.nan, truth).astype(np.float32),
        "gallery_mean": mean.astype(np.float32),
        "gallery_std": std.astype(np.float32),
        "column_rmse": pixels,
        "column_mae": pixels * 0.6,
        "latent_2d": z,
        "latent_label": digits.target[:600],
        "latent_error": 0.08 + 0.05 * rng.random(600) + 0.03 * np.abs(z).sum(1) / 3,
    }


def _table_groups(rng: np.random.Generator, worse: float) -> dict[str, Any]:
    data = load_breast_cancer()
    x, n_columns = data.data, data.data.shape[1]
    column = np.repeat(np.arange(n_columns), 50)
    truth = np.concatenate([rng.choice(x[:, j], 50) for j in range(n_columns)])
    scale = x.std(0)[column] * (0.15 + 0.5 * column / n_columns)
    imputed = truth + worse * scale * rng.standard_normal(truth.shape)
    rmse = np.sqrt([np.mean((imputed - truth)[column == j] ** 2) for j in range(n_columns)])
    score = (x - x.mean(0)) / x.std(0)
    return {
        "cell_column": column,
        "cell_truth": truth,
        "cell_imputed": imputed,
        "column_observed_sample": x[rng.choice(len(x), 200, replace=False)],
        "column_rmse": rmse,
        "column_mae": rmse * 0.7,
        "latent_2d": np.stack([score[:, :10].mean(1), score[:, 10:20].mean(1)], axis=1),
        "latent_label": data.target,
        "latent_error": 0.2 + 0.3 * rng.random(len(x)),
    }


def _circle(labels: np.ndarray) -> np.ndarray:
    angle = labels * 2 * np.pi / 10
    return np.stack([2.2 * np.cos(angle), 2.2 * np.sin(angle)], axis=1)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1), encoding="utf-8")
