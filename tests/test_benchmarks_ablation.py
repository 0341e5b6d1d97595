"""The ablation benchmark: it runs, goes on where it was, and its arithmetic is right."""

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import ablation  # noqa: E402


def result(dataset, change, test, train, seconds=1.0):
    case = {"dataset": dataset, "mechanism": "mcar", "missing_rate": 0.2, "seed": 0}
    return case | {"change": change, "test": test, "train": train, "seconds": seconds}


def test_quick_fits_the_model_as_it_comes_and_changed_and_goes_on_where_it_was(tmp_path):
    output = tmp_path / "ablation.json"
    command = [sys.executable, str(BENCHMARKS / "ablation.py"), "--quick", "-o", str(output)]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {entry["change"]: entry for entry in json.loads(output.read_text())["results"]}
    assert set(found) == {"", "train.n_epochs=20", "model.posterior=point"}
    assert found["train.n_epochs=20"]["train"] > found[""]["train"]
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "of" not in again.stderr
    assert again.stdout == first.stdout


def test_a_change_is_the_mean_ratio_over_the_cases_in_which_it_does_something():
    results = [
        *(result(dataset, "", 1.0, 0.5) for dataset in ("wine", "diabetes", "energy")),
        result("wine", "a=1", 2.0, 0.25, seconds=4.0),
        result("diabetes", "a=1", 0.5, 0.25),
        result("energy", "a=1", 1.0, 0.5, seconds=9.0),  # has no column that it is about
    ]
    assert ablation.markdown(results).splitlines()[2:] == ["| `a=1` | 2 | +0.0% (69.3%) | -50.0% (0.0%) | 2.0 |"]


def test_a_change_of_one_case_has_no_standard_error():
    assert ablation.worth([1.1]) == "+10.0%"
