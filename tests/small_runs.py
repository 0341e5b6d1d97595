"""Small models and a run folder, as train and search would leave them, for the tests of the commands."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pandas as pd
from optuna.trial import TrialState

from vadtune.data.problem import Problem, load_problem
from vadtune.data.splits import DataConfig
from vadtune.models.config import VADConfig, VAEConfig
from vadtune.settings import Nested, flatten, parse
from vadtune.training.artifact import Artifact, save_artifact
from vadtune.training.config import TrainConfig, TrialConfig
from vadtune.training.run import TrialRun
from vadtune.tuning.conclude import artifact_of, score_artifact
from vadtune.tuning.record import write_json
from vadtune.tuning.samplers import draw_seed
from vadtune.tuning.schedulers import report_epochs
from vadtune.tuning.space import make_space
from vadtune.tuning.study import open_study

MAX_EPOCHS = 3
DATA = {"dataset": "wine", "missing_rate": 0.2}
SETTINGS: Nested = {
    "model": {"kind": "vad", "latent_dim": 4, "decoder": {"hidden_dim": 16, "n_layers": 1}},
    "train": {"n_epochs": MAX_EPOCHS, "batch_size": 64},
    "infer": {"n_steps": 20},
}
SPACE = SETTINGS | {"model": SETTINGS["model"] | {"latent_dim": {"low": 2, "high": 8}}}
FAST = [f"--set={path}={value}" for path, value in flatten(SETTINGS).items()]


@cache
def wine() -> Problem:
    return load_problem(parse(DataConfig, DATA, "test"), Path("data"))


def train_small(problem: Problem, folder: Path, settings: Nested = SETTINGS) -> Path:
    """Train for a few epochs and write the artifact."""
    config: TrialConfig = parse(TrialConfig, settings, "test")
    run = fitted(config, problem)
    artifact = artifact_of(config, run.best_model(), problem, {"validation_rmse": run.finish()})
    return save_artifact(score_artifact(artifact, problem).artifact, folder)


def fitted(config: TrialConfig, problem: Problem) -> TrialRun:
    run = TrialRun(config, problem.splits.train.rows, problem.splits.validation)
    for epoch in report_epochs((1, 2), config.train.n_epochs):
        run.advance(epoch)
    return run


def trained(problem: Problem, model: VADConfig | VAEConfig) -> Artifact:
    """A model that has learned its table, in 120 epochs."""
    train = TrainConfig(n_epochs=120, batch_size=64, learning_rate=5e-3, latent_learning_rate=0.1, schedule="one_cycle")
    config = TrialConfig(model=model, train=train)
    run = TrialRun(config, problem.splits.train.rows, problem.splits.validation)
    run.advance(120)
    run.finish()
    return artifact_of(config, run.best_model().eval(), problem, {})


def make_run(folder: Path) -> Path:
    """A run folder of two complete trials, of latent_dim 2 and 6, and one that failed."""
    folder.mkdir(parents=True)
    problem, space = wine(), make_space(SPACE, TrialConfig, "test")
    about = problem.describe()
    counts = {key: about[key] for key in ("n_train", "n_validation", "n_test")}
    search = {"seed": 0, "max_epochs": MAX_EPOCHS, "rungs": [1, 2], "cpus_per_trial": 1.0, "storage": None}
    settings = {"format_version": 1, "dataset": about, "data": problem.config.model_dump(mode="json") | counts}
    write_json(folder / "settings.json", settings | {"model": "vad", "space": space.to_dict(), "search": search})
    study = open_study(folder / "study.log")
    for latent_dim in (2, 6, 8):
        study.enqueue_trial({"model.latent_dim": latent_dim})
        trial = study.ask()
        config = space.config(space.suggest(trial)) | {"seed": draw_seed(0, trial.number)}
        if latent_dim == 8:
            trial.set_user_attr("failure", "memory")
            study.tell(trial, state=TrialState.FAIL)
            continue
        run = fitted(parse(TrialConfig, config, "test"), problem)
        checkpoint = f"ray/{trial.number}"
        (folder / checkpoint).mkdir(parents=True)
        run.save(folder / checkpoint)
        trial.set_user_attr("checkpoint", checkpoint)
        trial.set_user_attr("best_epoch", run.best_epoch)
        trial.set_user_attr("epochs", MAX_EPOCHS)
        trial.set_user_attr("train_s", run.train_s)
        study.tell(trial, run.finish())
    return folder


def modules_after(code: str) -> set[str]:
    """Which of torch, ray, optuna and sklearn a fresh process has imported after some code."""
    watched = "print(*({'torch', 'ray', 'optuna', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\n{watched}"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def assert_filled(after: pd.DataFrame, before: pd.DataFrame) -> None:
    """No cell is missing, and those that were known are what they were."""
    assert not after.isna().any().any()
    for name in before:
        known = before[name].notna().to_numpy()
        assert after[name][known].tolist() == before[name][known].tolist()
