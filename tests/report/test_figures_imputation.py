"""Gallery, columns, cells, rates, mechanisms and latent space, by their numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vadtune.report import figures_gallery as gallery
from vadtune.report import figures_imputation as figures
from vadtune.report import figures_latent as latent
from vadtune.report.evaluation import Cells, ColumnErrors, Evaluation, Gallery, Latent, Mechanisms, RateCurve
from vadtune.report.run import ColumnInfo, Run, read_run


def test_a_montage_shows_what_the_model_saw_and_how_far_off_it_was() -> None:
    truth = np.array([[0.0, 0.5, 1.0, 0.2], [1.0, 1.0, 0.0, 0.0]])
    seen = truth.copy()[None]
    seen[0, 0, 1] = seen[0, 1, 2] = np.nan
    mean = np.full((1, 2, 4), 0.3)
    found = gallery.montages(Gallery(np.array([0.25]), truth, seen, mean, np.full((1, 2, 4), 0.1)), (2, 2))[0]
    assert found.observed.shape == (2, 2 + 1 + 2)
    assert found.imputed[0].tolist()[:2] == [0.0, 0.3]
    assert found.truth[0].tolist()[:2] == [0.0, 0.5]
    assert found.rmse == pytest.approx(np.sqrt((0.2**2 + 0.3**2) / 2))
    assert found.hidden_rate == 0.25
    assert np.isfinite(found.std).sum() == 2


def test_the_gallery_of_a_run_has_a_figure_for_each_rate(image_run: Path) -> None:
    run = read_run(image_run)
    assert run.evaluation.gallery is not None
    made = gallery.montages(run.evaluation.gallery, (24, 24))
    assert [montage.rate for montage in made] == [0.3, 0.5, 0.8]
    rmse = [montage.rmse for montage in made]
    assert rmse == sorted(rmse)
    assert len(gallery.draw_gallery(made[0]).data) == 5


def test_columns_are_sorted_by_their_error_in_their_own_spread(table_run: Path) -> None:
    frame = figures.columns_frame(read_run(table_run))
    assert frame["relative"].is_monotonic_decreasing
    area = frame[frame["column"] == "mean area"].iloc[0]
    assert area["relative"] == pytest.approx(area["rmse"] / area["spread"])
    assert area["rmse"] > 10 * frame["rmse"].median()


def test_categories_are_scored_by_how_often_they_are_right(table_run: Path) -> None:
    run = read_run(table_run)
    settings = run.settings.model_copy(
        update={
            "dataset": run.settings.dataset.model_copy(
                update={"columns": (ColumnInfo(name="colour", kind="categorical"), ColumnInfo(name="size"))}
            )
        }
    )
    observed = np.array([[0.0, 1.0], [0.0, 2.0], [1.0, 3.0], [2.0, np.nan]])
    found = Evaluation(columns=ColumnErrors(np.array([0.25, 4.0]), np.array([0.25, 4.0])), observed=observed)
    frame = figures.columns_frame(Run(run.path, settings, evaluation=found)).set_index("column")
    assert frame.loc["colour", "exact"] == 0.75
    assert frame.loc["colour", "spread"] == 0.5
    assert frame["exact"].isna().to_dict() == {"size": True, "colour": False}


def test_a_constant_column_has_no_relative_error(table_run: Path) -> None:
    run = read_run(table_run)
    observed = np.ones((20, 30))
    found = replace(run.evaluation, observed=observed)
    assert figures.columns_frame(replace(run, evaluation=found))["relative"].isna().all()


def test_example_columns_run_from_the_easiest_to_the_hardest(table_run: Path) -> None:
    run = read_run(table_run)
    frame = figures.columns_frame(run)
    assert run.evaluation.cells is not None
    chosen = figures.example_columns(frame, run.evaluation.cells)
    relative = frame.set_index("number").loc[chosen, "relative"]
    assert len(chosen) == 6
    assert relative.is_monotonic_increasing
    assert relative.iloc[-1] == frame["relative"].max()


def test_cells_of_a_column_are_its_own() -> None:
    cells = Cells(np.array([0, 1, 0]), np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.5, 3.5]))
    assert figures.cells_frame(cells, 0).to_numpy().tolist() == [[1.0, 1.5], [3.0, 3.5]]
    assert len(figures.cells_frame(cells)) == 3


def test_distributions_share_their_bins_and_sum_to_one() -> None:
    rng = np.random.default_rng(0)
    observed = np.append(rng.normal(0, 1, 500), np.nan)
    frame = figures.distribution_frame(observed, rng.normal(0, 0.5, 100))
    assert frame[["observed", "imputed"]].sum().to_numpy() == pytest.approx([1, 1])
    assert len(frame) == 20
    assert len(figures.distribution_frame(observed, np.ones(3))) == 6


def test_the_gain_over_the_column_mean_is_told_for_each_rate() -> None:
    curve = RateCurve(np.array([0.9, 0.1]), np.array([0.2, 0.1]), np.array([0.25, 0.2]))
    frame = figures.rates_frame(curve)
    assert frame["missing_rate"].tolist() == [0.1, 0.9]
    assert frame["gain"].tolist() == pytest.approx([0.5, 0.2])


def test_mechanisms_are_sorted_and_the_searched_one_is_in_colour() -> None:
    frame = figures.mechanisms_frame(Mechanisms(("mnar", "mcar"), np.array([0.3, 0.2])))
    assert frame["mechanism"].tolist() == ["mcar", "mnar"]
    assert figures.draw_mechanisms(frame, "mnar").data[0].marker.color == ("var(--dim)", "var(--c2)")


def test_the_latent_view_is_thinned_evenly() -> None:
    n = 5000
    label = np.arange(n) % 3
    found = Latent(np.stack([label, 0.0 * label], axis=1), label, np.linspace(0, 1, n))
    frame = latent.latent_frame(found, n_most=100)
    assert len(frame) == 100
    assert frame["error"].iloc[[0, -1]].tolist() == [0, 1]
    drawn = latent.draw_labels(frame)
    assert len(drawn.data) == 3
    assert [note.text for note in drawn.layout.annotations] == ["<b>0</b>", "<b>1</b>", "<b>2</b>"]


def test_rows_without_labels_or_errors_are_drawn_all_the_same() -> None:
    frame = latent.latent_frame(Latent(np.ones((4, 2)), None, None))
    assert frame["label"].tolist() == [-1] * 4
    assert len(latent.draw_labels(frame).data) == 1
    assert len(latent.draw_errors(frame).data[0].x) == 0


def test_labels_that_would_lie_on_one_another_are_left_to_the_legend() -> None:
    frame = pd.DataFrame({"x": [0.0, 0.01, 5.0], "y": [0.0, 0.0, 0.0], "label": [0, 1, 2], "error": [0.1, 0.1, 0.1]})
    figure = latent.draw_labels(frame)
    assert [note.text for note in figure.layout.annotations] == ["<b>0</b>", "<b>2</b>"]
    assert [trace.name for trace in figure.data] == ["0", "1", "2"]
    assert figure.layout.showlegend
