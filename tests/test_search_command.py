"""The command as a person runs it: a process of its own, real Ray, real data."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from tests.patience import PATIENCE_S
from tests.small_runs import make_run
from tests.test_any_table import holed, tips
from vadtune.cli import say
from vadtune.result import sentences
from vadtune.training.artifact import load_artifact
from vadtune.tuning.record import write_json
from vadtune.tuning.study import count_states, open_study, read_study

TINY = ["--max-epochs", "9", "--missing-rate", "0.2", "--set", "model.decoder.hidden_dim=16"]


@pytest.fixture(scope="module")
def run(zygote):
    return lambda folder, *arguments: zygote.run("vadtune.search", *arguments, cwd=folder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuch"], "neither a dataset nor a file"),
        (["wine", "--model", "gan"], "invalid choice: 'gan'"),
        (["wine", "--trails", "3"], "unrecognized arguments: --trails"),
        (["wine", "--set", "model.latent_dims=3"], "Did you mean model.latent_dim?"),
        (["wine", "--set", "train.learning_rate={low=1.0, high=0.1}"], "train.learning_rate"),
        (["wine", "--missing-rate", "1"], "not in [0, 1)"),
        (["wine", "--cpus-per-trial", "4096"], "4096"),
        (["wine", "--gpus-per-trial", "4096", "--device", "cpu"], "--gpus-per-trial"),
        (["wine", "--name", "../out"], "letters, digits"),
        (["wine", "--resume"], "--name"),
        (["wine", "--resume", "--name", "nosuch"], "not a run"),
        (["wine", "--space", "vad_tabels"], "vad_tables"),
        (["wine", "--model", "vae", "--space", "vad_tables"], "--model vad"),
        (["wine", "--time-budget", "soon"], "90s, 30m"),
        (["wine", "--log-to", "tensorboard,mlfow"], "'mlfow' is not one of tensorboard, mlflow, wandb"),
        (["wine", "--runs", "/proc/nowhere"], "cannot be written"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(run, tmp_path, arguments, words):
    done = run(tmp_path, *arguments)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").glob("*/study.log"))


def test_dry_run_prints_the_whole_grid_and_trains_nothing(run, tmp_path):
    done = run(tmp_path, "digits", "--space", "reference_grid", "--sampler", "grid", "--dry-run", "csv")
    frame = pd.read_csv(pd.io.common.StringIO(done.stdout))
    assert len(frame) == 216
    assert set(frame["model.latent_dim"]) == {25, 50, 100}
    assert not any(tmp_path.iterdir())


def test_dry_run_prints_what_a_search_of_such_a_table_would_try(run, tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "large.npz", x=rng.normal(size=(20_000, 2)).astype(np.float32))
    done = run(tmp_path, str(tmp_path / "large.npz"), "--trials", "8", "--dry-run")
    configs = [json.loads(line) for line in done.stdout.splitlines()]
    assert {config["train"]["n_epochs"] for config in configs} == {75}  # of 16,000 rows to train on
    assert not any(config["model"]["levels"] for config in configs)


def test_dry_run_of_a_range_begins_with_the_first_point(run, tmp_path):
    done = run(tmp_path, "wine", "--trials", "3", "--dry-run")
    configs = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(configs) == 3
    assert configs[0]["model"]["latent_dim"] == 24


@pytest.mark.parametrize("is_averaged", [False, True])
def test_a_warm_start_tries_first_what_was_best_in_an_earlier_run(run, tmp_path, is_averaged):
    folder = make_run(tmp_path / "runs" / "may")
    study = read_study(folder / "study.log")
    by_error = sorted(study.get_trials(states=[optuna.trial.TrialState.COMPLETE]), key=lambda trial: trial.value)
    best, other = (trial.params["model.latent_dim"] for trial in by_error)
    if is_averaged:
        write_json(folder / "summary.json", {"best": {"ensemble": {str(by_error[1].number): 1.0}}})
    done = run(tmp_path, "wine", "--set", "model.latent_dim={low=2, high=64}", "--warm-start", "runs/may", "--dry-run")
    tried = [json.loads(line)["model"]["latent_dim"] for line in done.stdout.splitlines()]
    assert tried[:3] == [*([other, best] if is_averaged else [best, other]), 24]


def test_a_warm_start_wants_a_run_of_the_same_model_in_which_a_trial_ended(run, tmp_path):
    assert "not a run" in run(tmp_path, "wine", "--warm-start", "runs/may").stderr
    folder = make_run(tmp_path / "runs" / "may")
    done = run(tmp_path, "wine", "--model", "vae", "--warm-start", "runs/may")
    assert (done.returncode, "one of vaes" in done.stderr) == (2, True)
    (folder / "study.log").unlink()
    open_study(folder / "study.log")
    assert "no trial of it came to its end" in run(tmp_path, "wine", "--warm-start", "runs/may").stderr
    client = run(tmp_path, "wine", "--warm-start", "runs/may", "--address", "ray://127.0.0.1:1")
    assert "Start the search on a machine of the cluster" in client.stderr


@pytest.fixture(scope="module")
def finished(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    done = run(folder, "wine", "--trials", "4", "--name", "first", "--json", *TINY)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout)


@pytest.mark.cluster
def test_a_search_leaves_the_run_folder_that_readme_describes(finished):
    folder, document = finished
    names = {path.name for path in (folder / "runs" / "first").iterdir()}
    assert {"settings.json", "study.log", "trials.csv", "report.html", "summary.json", "evaluation.npz"} <= names
    assert sum(document["trials"].values()) == 4
    assert set(document["baselines"]) == {"mean", "knn", "iterative_pca", "iterative"}
    assert len(pd.read_csv(folder / "runs" / "first" / "trials.csv")) == 4
    with np.load(folder / "runs" / "first" / "evaluation.npz") as arrays:
        assert arrays["rate_rmse"].shape == (9,)


@pytest.mark.cluster
def test_the_winner_is_the_best_complete_trial_and_loads(finished):
    folder, document = finished
    study = read_study(folder / "runs" / "first" / "study.log")
    complete = study.get_trials(states=[optuna.trial.TrialState.COMPLETE])
    best = document["best"]
    alone = best["alone"]["validation"] if "ensemble" in best else best["validation_rmse"]
    assert alone == min(trial.value for trial in complete)
    assert best["validation_rmse"] <= alone
    artifact = load_artifact(Path(document["best"]["artifact"]))
    assert artifact.metrics["test_rmse"] == document["best"]["test_rmse"]


@pytest.mark.cluster
def test_a_finished_run_goes_on_with_more_trials_but_not_as_another_search(run, finished):
    folder, _ = finished
    changed = run(folder, "wine", "--trials", "5", "--name", "first", "--resume", *TINY, "--seed", "1")
    assert changed.returncode == 2
    assert "data.seed: 0 became 1" in changed.stderr
    again = run(folder, "wine", "--trials", "5", "--name", "first", *TINY)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    done = run(folder, "wine", "--trials", "5", "--name", "first", "--resume", "--json", *TINY)
    assert sum(json.loads(done.stdout)["trials"].values()) == 5


@pytest.mark.parametrize("command", ["search", "report", "export", "train"])
def test_a_run_of_a_newer_format_is_refused_by_the_name_of_the_version_that_reads_it_and_stays(
    zygote, tmp_path, command
):
    folder = tmp_path / "runs" / "late"
    folder.mkdir(parents=True)
    settings = {"format_version": 9, "versions": {"vadtune": "3.1.4"}, "space": {"of": ["another", "shape"]}}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "study.log").write_text("what only 3.1.4 understands\n")
    words = {
        "search": ["wine", "--name", "late", "--resume", "--trials", "3"],
        "report": ["runs/late"],
        "export": ["runs/late", "-o", "model"],
        "train": ["--from", "runs/late", "-o", "model"],
    }
    done = zygote.run(f"vadtune.{command}", *words[command], cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "format_version is 9" in done.stderr
    assert "Use vadtune 3.1.4, which wrote it or a later one." in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((folder / "settings.json").read_text()) == settings
    assert (folder / "study.log").read_text() == "what only 3.1.4 understands\n"
    assert {path.name for path in folder.iterdir()} == {"settings.json", "study.log"}


@pytest.mark.cluster
def test_when_every_trial_fails_the_exit_code_is_3_and_the_reason_is_told(run, tmp_path):
    done = run(tmp_path, "wine", "--trials", "2", *TINY, "--set", "train.learning_rate=1e30")
    assert done.returncode == 3, done.stderr
    assert "No trial can be used" in done.stderr
    assert set(pd.read_csv(next(tmp_path.glob("runs/*/trials.csv")))["state"]) == {"FAIL"}


@pytest.mark.cluster
def test_a_table_with_categories_and_holes_is_searched_refitted_and_filled(zygote, run, tmp_path):
    holed(tips()).assign(who=[f"guest {k}" for k in range(244)]).to_csv(tmp_path / "my.csv", index=False)
    (tmp_path / "my.csv.toml").write_text('id = ["who"]\n')
    flags = ["--missing-rate", "0.2", "--mechanism", "pattern", "--ordinal", "size", "--name", "mine", "--json"]
    done = run(tmp_path, "my.csv", *flags, "--trials", "1", *TINY)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    best = document["best"]
    assert best["refitted"]
    assert 0 < best["test_error"] < 1
    assert all(0 < scores["test_error"] < 1 for scores in document["baselines"].values())
    metrics = json.loads((tmp_path / "runs" / "mine" / "best" / "metrics.json").read_text())
    assert (metrics["refitted"], metrics["test_error"]) == (True, best["test_error"])
    report = (tmp_path / "runs" / "mine" / "report.html").read_text()
    assert f"The score rests on {document['scored_cells']:,} cells of 24 test rows" in report
    assert "it cannot know" in report
    zygote.run("vadtune.impute", "runs/mine/best", "my.csv", "-o", "filled.csv", cwd=tmp_path).check_returncode()
    assert not pd.read_csv(tmp_path / "filled.csv").isna().any().any()


@pytest.mark.cluster
def test_ctrl_c_leaves_a_run_that_can_be_read_and_resumed(tmp_path):
    command = [sys.executable, "-m", "vadtune.search", "wine", "--name", "cut", "--missing-rate", "0.2"]
    process = subprocess.Popen([*command, "--trials", "500"], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    table = tmp_path / "runs" / "cut" / "study.log"
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and not (table.exists() and '"best_epoch"' in table.read_text()):
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert "python -m vadtune.search wine --name cut --missing-rate 0.2 --trials 500 --resume" in errors
    states = set(pd.read_csv(tmp_path / "runs" / "cut" / "trials.csv")["state"])
    assert "RUNNING" not in states
    assert {"COMPLETE", "WAITING"} & states
    assert (tmp_path / "runs" / "cut" / "best" / "SHA256SUMS").exists()


def test_an_interrupt_that_comes_while_an_object_dies_is_not_lost():
    code = """
import signal, time
from vadtune import cli
class Dying:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
        time.sleep(0)
def command(arguments):
    Dying()
    time.sleep(60)
    print("lost", flush=True)
cli.run(command)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.cluster
def test_sigterm_twice_at_once_ends_with_the_command_that_resumes_and_a_whole_study(tmp_path):
    command = [sys.executable, "-m", "vadtune.search", "wine", "--name", "cut", "--trials", "500", *TINY]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    study = tmp_path / "runs" / "cut" / "study.log"
    while not study.exists():  # the search has begun, and Ray is still starting
        assert process.poll() is None
        time.sleep(0.05)
    for _ in range(2):
        process.terminate()
        time.sleep(0.2)
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "--name cut --trials 500" in errors
    assert "--resume" in errors
    assert count_states(read_study(study))["running"] == 0
    assert not (tmp_path / "runs" / "cut" / "search.lock").exists()


def test_sigterm_before_anything_began_is_an_interrupt_like_any():
    code = "import signal, time\nfrom vadtune import cli\ncli.run(lambda _: (print('up', flush=True), time.sleep(60)))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.terminate()
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, errors) == (130, "interrupted\n")


def test_names_cannot_steer_the_terminal_that_shows_the_result():
    clear = "\x1b[2J\x1b]0;owned\x07"
    document = {
        "best": {
            "trial": 1,
            "test_rmse": 0.5,
            "refitted": False,
            "params": {f"model.{clear}": clear},
            "artifact": f"{clear}/best",
        },
        "baselines": {"mean": {"failure": clear}},
        "trials": {"complete": 1},
        "scored_cells": 7,
        "seconds": 1.0,
    }
    assert sentences(document, Path(f"runs/{clear}"), "sd").replace("\n", "").isprintable()


def test_what_is_said_on_the_way_cannot_steer_the_terminal(capsys):
    say("dataset \x1b[2J\x9b31m")
    assert capsys.readouterr().err == "dataset ?[2J?31m\n"
