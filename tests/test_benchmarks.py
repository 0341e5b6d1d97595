"""The benchmarks run; what they measured is stated beside them."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import paper  # noqa: E402
import soak  # noqa: E402
import speed_search  # noqa: E402


def run(script, *words):
    """What a benchmark prints."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=300).stdout


def test_the_simulated_search_ends_all_its_trials_and_measures_each_of_them():
    (row,) = json.loads(run("scale.py", "--trials", "30", "--reports", "10", "--json"))
    assert row["trials"] == 30
    assert 60 < row["reports"] < 500
    assert row["requests"] > 0
    assert min(row.values()) > 0


def test_the_speed_of_training_and_inference_is_measured_as_ratios(tmp_path):
    shown = run("speed.py", "--quick", "-o", tmp_path / "speed.json")
    results = json.loads((tmp_path / "speed.json").read_text())
    assert results.keys() == {"images", "tables", "inference", "throughput"}
    rows = [row for result in results.values() for row in result["rows"]]
    assert all(value >= 0 for row in rows for value in row["values"])
    assert all(row["what"] in shown for row in rows)


def test_rows_that_are_not_measured_again_are_kept(tmp_path):
    for name in ("tables", "throughput"):
        shown = run("speed.py", "--quick", "--only", name, "-o", tmp_path / "speed.json")
    assert json.loads((tmp_path / "speed.json").read_text()).keys() == {"tables", "throughput"}
    assert "training step" in shown
    assert "training throughput" in shown


@pytest.mark.parametrize(
    ("wall_s", "ratio", "shown"), [(20.0, math.inf, "never"), (40.0, 4.0, "4x")], ids=["ran out of trials", "was ended"]
)
def test_a_rival_without_the_level_never_has_it_unless_it_was_ended(monkeypatch, wall_s, ratio, shown):
    found = speed_search.Search(30.0, [(5.0, 0.3), (10.0, 0.1)]), speed_search.Search(wall_s, [(20.0, 0.3)])
    monkeypatch.setattr(speed_search, "ours", lambda *_: found[0])
    monkeypatch.setattr(speed_search, "theirs", lambda *_: found[1])
    row = speed_search.whole_search("optuna", speed_search.Task("wine", 0.2, 3, level=0.2), 2, range(1))
    assert row.values == [ratio]
    assert row.show(row.median) == shown
    assert row.details["theirs_s"] == [None]


@pytest.mark.cluster
def test_the_comparison_of_the_paper_compares_both_models(tmp_path):
    shown = run("paper.py", "--quick", "-o", tmp_path / "paper.json")
    results = json.loads((tmp_path / "paper.json").read_text())
    assert {error["model"] for error in results["errors"]} == {"vad", "vae"}
    assert "| data | missing | seeds | VAD | VAE |" in shown


def paper_error(model, mse, validation, tuned_at=0.5, seed=0, dataset="mnist", rate=0.9):
    case = {"dataset": dataset, "model": model, "seed": seed, "missing_rate": rate, "tuned_at": tuned_at}
    return case | {"tested_at": rate, "mse": mse, "validation": validation}


def test_of_two_settings_that_of_the_lower_validation_error_counts_on_seeds_that_both_models_have():
    errors = [paper_error("vad", 1.0, 0.3), paper_error("vad", 3.0, 0.2, tuned_at=0.9)]
    errors += [
        paper_error("vae", 4.0, 0.2),
        paper_error("vae", 2.0, 0.3, tuned_at=0.9),
        paper_error("vad", 9, 0, seed=1),
    ]
    assert paper.means(errors, "mnist", 0.9, shifted=False) == ([3.0, 4.0], 1)


def test_settings_that_two_searches_found_are_trained_once():
    tuned = {
        "mnist vad 0.5": {"config": {"a": 1}},
        "mnist vad 0.9": {"config": {"a": 1}},
        "mnist vae 0.9": {"config": {}},
    }
    results = {"tuned": tuned, "errors": [paper_error("vad", 1.0, 0.3), paper_error("vad", 2.0, 0.4, seed=1)]}
    same = paper.Case("mnist", "vad", 0, 0.9, 0.9)
    assert paper.done_already(same, results) == [paper_error("vad", 1.0, 0.3, tuned_at=0.9)]
    assert paper.done_already(paper.Case("mnist", "vae", 0, 0.9, 0.9), results) == []


@pytest.mark.parametrize(
    ("changes", "n_problems"),
    [
        ({}, 0),
        ({"kills": 5}, 1),  # two trials failed of it, each at three attempts
        ({"failures": ["ValueError: a bug"]}, 1),
        ({"trials": {"PRUNED": 58, "RUNNING": 2}, "failures": []}, 1),
        ({"n_different": 59}, 1),
        ({"checkpoints": 2, "processes_left": 1}, 2),
        ({"after": {"memory_mb": 900, "files": 10, "threads": 10, "processes": 5}}, 1),
    ],
)
def test_a_soak_has_problems_but_for_trials_whose_workers_were_killed_at_every_attempt(changes, n_problems):
    usage = {"memory_mb": 300, "files": 10, "threads": 10, "processes": 5}
    found = {
        "n_trials": 60,
        "n_different": 60,
        "kills": 7,
        "trials": {"PRUNED": 50, "COMPLETE": 8, "FAIL": 2},
        "failures": ["the worker process died, again after each retry (killed, or out of memory)"],
        "checkpoints": 1,
        "ray_folders_left": 0,
        "processes_left": 0,
        "other_files": ["ray", "study.log", "trials.csv"],
        "before": usage,
        "after": usage,
    }
    assert len(soak.problems(found | changes, 60)) == n_problems


@pytest.mark.cluster
def test_a_soak_with_workers_killed_loses_doubles_and_leaves_nothing():
    found = json.loads(run("soak.py", "--quick"))  # it fails if it finds a problem
    assert found["problems"] == []
    assert found["kills"] >= 2
    assert found["n_trials"] == found["n_different"] == 60
