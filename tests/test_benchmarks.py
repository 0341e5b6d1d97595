"""Every benchmark runs, on little data: its figures are for the whole ones."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def run(script, *words):
    command = [sys.executable, str(BENCHMARKS / script), "--quick", *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def test_the_speed_of_training_and_inference_is_measured_as_ratios(tmp_path):
    shown = run("speed.py", "-o", tmp_path / "speed.json")
    results = json.loads((tmp_path / "speed.json").read_text())
    assert results.keys() == {"images", "tables", "inference", "throughput"}
    assert all(value >= 0 for result in results.values() for row in result["rows"] for value in row["values"])
    assert all(row["what"] in shown for result in results.values() for row in result["rows"])


def test_rows_that_are_not_measured_again_are_kept(tmp_path):
    for name in ("tables", "throughput"):
        shown = run("speed.py", "--only", name, "-o", tmp_path / "speed.json")
    assert json.loads((tmp_path / "speed.json").read_text()).keys() == {"tables", "throughput"}
    assert "training step" in shown
    assert "training throughput" in shown


@pytest.mark.cluster
def test_the_comparison_of_the_paper_compares_both_models(tmp_path):
    shown = run("paper.py", "-o", tmp_path / "paper.json")
    results = json.loads((tmp_path / "paper.json").read_text())
    assert {error["model"] for error in results["errors"]} == {"vad", "vae"}
    assert "| data | missing | VAD | VAE |" in shown
