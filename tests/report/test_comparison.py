"""Several runs on one page: groups, spread, paired test."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.report import factory
from vadtune.report import figures_comparison as figures
from vadtune.report.evaluation import Evaluation
from vadtune.report.page import comparison_page, render
from vadtune.report.run import Run, read_run


@pytest.fixture
def pair(image_run: Path, other_image_run: Path) -> list[Run]:
    return [read_run(image_run), read_run(other_image_run)]


def test_runs_are_sorted_by_test_rmse(pair: list[Run]) -> None:
    frame = figures.runs_frame(pair[::-1])
    assert frame["run"].tolist() == ["digits-vad", "digits-vae"]
    assert frame["test_rmse"].is_monotonic_increasing
    assert frame["order"].tolist() == [1, 0]


def test_runs_that_differ_only_in_their_seeds_are_one_bar_with_a_spread(tmp_path: Path) -> None:
    seeds = [read_run(factory.make_run(tmp_path / f"seed{seed}", n_trials=20, seed=seed)) for seed in (1, 2, 3)]
    other = read_run(factory.make_run(tmp_path / "vae", n_trials=20, model="vae"))
    frame = figures.runs_frame([*seeds, other])
    groups = figures.groups_frame(frame).set_index("group")
    scores = frame[frame["group"] == "seed1"]["test_rmse"]
    assert groups.loc["seed1", "n"] == 3
    assert groups.loc["seed1", "mean"] == pytest.approx(scores.mean())
    assert groups.loc["seed1", "spread"] == pytest.approx(np.std(scores, ddof=1))
    assert groups["spread"].isna().sum() == 1


def test_runs_of_one_name_are_told_apart(pair: list[Run]) -> None:
    assert figures.run_names([pair[0], pair[0], pair[1]]) == ["digits-vad (1)", "digits-vad (2)", "digits-vae"]


def test_baselines_are_shown_when_all_runs_agree(pair: list[Run]) -> None:
    assert figures.baselines_frame(pair)["name"].tolist() == ["Iterative PCA", "k nearest neighbours", "Column mean"]
    other = pair[1].summary.model_copy(update={"baselines": {}})
    assert len(figures.baselines_frame([pair[0], replace(pair[1], summary=other)])) == 3


def test_scores_of_tables_with_codes_are_not_called_rmse(tmp_path: Path) -> None:
    folders = [factory.make_table_run(tmp_path / name, n_trials=20, seed=seed) for seed, name in enumerate(("a", "b"))]
    for folder in folders:
        settings = json.loads((folder / "settings.json").read_text())
        settings["dataset"]["unit"] = "mixed"
        (folder / "settings.json").write_text(json.dumps(settings))
    runs = [read_run(folder) for folder in folders]
    page = render(comparison_page(runs))
    assert "Best test mean error of 2 runs" in page
    assert "validation mean error" in page
    assert "test RMSE" not in page
    assert "validation RMSE" not in page


def test_a_real_difference_on_the_same_cells_is_found(pair: list[Run]) -> None:
    found, apart = figures.paired_tests(pair)
    assert apart == []
    assert (found[0].best, found[0].other, found[0].unit, found[0].n) == ("digits-vad", "digits-vae", "cells", 2000)
    assert found[0].p_value < 1e-3
    assert found[0].wins > 0.5


def test_a_run_is_not_told_from_itself(pair: list[Run]) -> None:
    found, _ = figures.paired_tests([pair[0], pair[0]])
    assert found[0].p_value == 1
    assert found[0].wins == 0.5


def test_p_values_are_corrected_for_the_number_of_comparisons(pair: list[Run]) -> None:
    alone, _ = figures.paired_tests(pair)
    several, _ = figures.paired_tests([*pair, pair[1]])
    assert [f.p_value for f in several] == [min(1, 2 * alone[0].p_value)] * 2


def test_without_shared_cells_columns_are_paired(pair: list[Run]) -> None:
    bare = [replace(run, evaluation=Evaluation(columns=run.evaluation.columns)) for run in pair]
    found, _ = figures.paired_tests(bare)
    assert (found[0].unit, found[0].n) == ("columns", 576)


def test_runs_on_other_data_are_not_tested_and_the_page_says_so(pair: list[Run], table_run: Path) -> None:
    mixed = [pair[0], read_run(table_run)]
    found, apart = figures.paired_tests(mixed)
    assert found == []
    assert apart == ["cancer-vad"]
    assert "The runs are on different data: their scores cannot be compared." in figures.differences(mixed)
    assert "their scores cannot be compared" in render(comparison_page(mixed))


def test_another_mask_seed_is_told(image_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(image_run, tmp_path / "copy"))
    settings = json.loads((copy / "settings.json").read_text())
    settings["data"]["seed"] = 5
    (copy / "settings.json").write_text(json.dumps(settings))
    said = figures.differences([read_run(image_run), read_run(copy)])
    assert said == ["The runs have different mask seeds: their scores are over different cells."]


def test_runs_that_have_no_result_yet_can_be_compared(tmp_path: Path) -> None:
    runs = [read_run(factory.make_run(tmp_path / name, n_trials=12, finished=False)) for name in "ab"]
    assert "No run has a test score yet" in render(comparison_page(runs))


def test_best_params_stand_side_by_side(pair: list[Run]) -> None:
    frame = figures.params_frame(pair).set_index("param")
    assert pair[0].best_trial is not None
    assert frame.loc["train.lr", "digits-vad"] == pair[0].best_trial.params["train.lr"]
