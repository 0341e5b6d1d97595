"""History, timeline, learning curves and rungs, by their numbers."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.report import factory
from vadtune.report import figures_history as history
from vadtune.report import figures_learning as learning
from vadtune.report import figures_verdict as figures
from vadtune.report import sections
from vadtune.report.run import Run, read_run
from vadtune.report.trials import duration, number, sample_trials, score, trials_frame, word


@pytest.fixture
def run(image_run: Path) -> Run:
    return read_run(image_run)


def table(**columns: Sequence[object]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    plain = {
        "number": list(range(n)),
        "state": ["complete"] * n,
        "value": [math.nan] * n,
        "last_value": [math.nan] * n,
        "last_epoch": [math.nan] * n,
        "start_s": [0.0] * n,
        "end_s": [math.nan] * n,
        "worker": [""] * n,
        "stopped_by": [""] * n,
    }
    return pd.DataFrame(plain | columns)


def test_trials_are_listed_with_seconds_since_the_first_one(run: Run) -> None:
    frame = trials_frame(run)
    assert frame["number"].tolist() == list(range(60))
    assert frame["start_s"].min() == 0
    assert frame.loc[frame["state"] != "complete", "value"].isna().all()
    assert frame.loc[frame["state"] == "waiting", "start_s"].isna().all()


def test_a_run_without_trials_has_an_empty_table(run: Run) -> None:
    assert trials_frame(Run(run.path, run.settings)).empty


def test_the_best_so_far_falls_by_number_and_by_time() -> None:
    frame = history.history_frame(table(value=[0.5, 0.3, 0.4, 0.2], end_s=[30.0, 10.0, 20.0, 40.0]))
    assert frame["best_by_number"].tolist() == [0.5, 0.3, 0.3, 0.2]
    assert frame["best_by_time"].tolist() == [0.3, 0.3, 0.3, 0.2]


def test_pruned_trials_show_their_last_report_and_never_become_the_best() -> None:
    states: list[object] = ["complete", "pruned"]
    frame = history.history_frame(table(state=states, value=[0.5, math.nan], last_value=[0.5, 0.1], end_s=[1.0, 2.0]))
    assert frame["shown"].tolist() == [0.5, 0.1]
    assert frame["best_by_number"].tolist() == [0.5, 0.5]


def test_idle_time_of_workers_is_what_no_trial_covers() -> None:
    workers: list[object] = ["a", "a", "b"]
    frame = table(worker=workers, start_s=[0.0, 6.0, 0.0], end_s=[4.0, 10.0, 10.0])
    found = history.busy(history.timeline_frame(frame))
    assert found.n_workers == 2
    assert found.wall_s == 10
    assert found.share == pytest.approx((4 + 4 + 10) / 20)


def test_trials_of_unknown_workers_lie_in_lanes_that_do_not_overlap() -> None:
    frame = history.timeline_frame(table(start_s=[0.0, 1.0, 5.0, 6.0], end_s=[5.0, 6.0, 8.0, 9.0]))
    assert frame.sort_values("start_s")["row"].tolist() == [0, 1, 0, 1]


def test_trials_of_unknown_workers_lie_beside_those_of_known_ones() -> None:
    workers: list[object] = ["", "a", "a", ""]
    frame = history.timeline_frame(table(worker=workers, start_s=[0.0, 1.0, 5.0, 2.0], end_s=[5.0, 5.0, 8.0, 3.0]))
    assert frame["worker"].tolist() == ["lane 1", "a", "lane 2", "a"]


def test_spans_too_near_to_be_seen_apart_become_one() -> None:
    states: list[object] = ["pruned", "pruned", "complete", "complete"]
    frame = table(worker=["a"] * 4, state=states, start_s=[0.0, 10.01, 50.0, 80.0], end_s=[10.0, 20.0, 60.0, 100.0])
    found = history.merged(history.timeline_frame(frame))
    assert found["n"].tolist() == [2, 1, 1]
    assert found["end_s"].tolist() == [20.0, 60.0, 100.0]


def test_a_running_trial_lasts_until_the_last_known_moment() -> None:
    frame = history.timeline_frame(table(start_s=[0.0, 2.0], end_s=[9.0, math.nan], worker=["a", "b"]))
    assert frame["end_s"].tolist() == [9.0, 9.0]


def test_the_spread_of_scores_is_their_empirical_distribution() -> None:
    frame = history.spread_frame(table(value=[0.4, math.nan, 0.2, 0.3]))
    assert frame["value"].tolist() == [0.2, 0.3, 0.4]
    assert frame["share"].tolist() == pytest.approx([1 / 3, 2 / 3, 1])


def test_rungs_count_who_reached_and_who_was_stopped() -> None:
    stopped: list[object] = ["rung 3", "rung 3", "rung 9", "", ""]
    frame = table(stopped_by=stopped, last_epoch=[3.0, 3.0, 9.0, 27.0, 2.0])
    rungs = learning.rungs_frame(frame, (3, 9, 27))
    assert rungs["epoch"].tolist() == [3, 9, 27]
    assert rungs["reached"].tolist() == [4, 2, 1]
    assert rungs["stopped"].tolist() == [2, 1, 0]
    assert rungs["went_on"].tolist() == [2, 1, 1]


def test_an_epoch_that_only_a_trial_names_is_counted_too() -> None:
    frame = table(stopped_by=["rung 5", "far behind at epoch 7"], last_epoch=[5.0, 7.0])
    assert learning.rungs_frame(frame, (3,)).to_numpy().tolist() == [[3, 2, 0, 2], [5, 2, 1, 1], [7, 1, 1, 0]]


def test_rungs_of_a_whole_run_add_up(run: Run) -> None:
    frame = trials_frame(run)
    rungs = learning.rungs_frame(frame, run.settings.search.rungs)
    assert rungs["stopped"].sum() == (frame["state"] == "pruned").sum()


def test_a_sample_of_trials_keeps_the_best_and_some_losers() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(3000)
    values[rng.random(3000) < 0.6] = math.nan
    states = ["pruned" if math.isnan(v) else "complete" for v in values]
    frame = table(value=values.tolist(), state=states)
    kept = sample_trials(frame, 100, n_best=25)
    assert len(kept) == 100
    assert set(frame.nsmallest(25, "value")["number"]) <= set(kept["number"])
    assert (kept["state"] == "pruned").sum() >= 30


def test_sampled_curves_keep_the_best_trials(run: Run) -> None:
    frame = trials_frame(run)
    curves = learning.curves_frame(run.trials, frame, n_most=20)
    assert curves["number"].nunique() == 20
    assert set(frame.nsmallest(10, "value")["number"]) <= set(curves["number"])
    best = run.best_trial
    assert best is not None
    assert curves[curves["number"] == best.number]["rmse"].tolist() == list(best.intermediate_values.values())


def test_the_best_curve_is_drawn_last_and_pruned_ones_are_dimmed(run: Run) -> None:
    frame = trials_frame(run)
    curves = learning.curves_frame(run.trials, frame)
    rungs = learning.rungs_frame(frame, run.settings.search.rungs)
    best = run.best_trial
    assert best is not None
    drawn = learning.draw_curves(curves, rungs, run.trials, best.number)
    assert drawn.data[-1].name == "best"
    assert drawn.data[-1].line.width == 3
    assert {trace.opacity for trace in drawn.data if trace.name == "pruned"} == {0.6}
    assert "train.lr = " in drawn.data[-1].text


def test_the_verdict_names_the_gain_over_the_best_baseline(run: Run) -> None:
    found = figures.verdict(run)
    assert run.summary.best is not None
    assert run.summary.best.test_rmse is not None
    gain = 1 - run.summary.best.test_rmse / 0.1351
    assert found.rmse == run.summary.best.test_rmse
    assert found.headline == f"{gain:.1%} less error than the best baseline, Iterative PCA (0.1351)"


def test_the_verdict_says_when_a_baseline_is_better(tmp_path: Path) -> None:
    found = figures.verdict(read_run(factory.make_run(tmp_path / "r", n_trials=20, shift=0.05)))
    assert "more error than the best baseline" in found.headline
    assert "Keep that baseline" in found.sentence


def test_bars_are_sorted_and_a_baseline_that_failed_says_why(run: Run) -> None:
    frame = figures.verdict_frame(run)
    assert frame["name"].tolist()[1:] == ["Iterative PCA", "k nearest neighbours", "Column mean", "IterativeImputer"]
    assert frame["is_winner"].tolist() == [True, False, False, False, False]
    assert frame["failure"].tolist()[-1] == "did not finish in 30 s"
    assert "did not finish in 30 s" in figures.draw_verdict(frame).data[0].text


def test_before_the_test_the_verdict_is_the_best_validation_score(tmp_path: Path) -> None:
    run = read_run(factory.make_run(tmp_path / "r", finished=False))
    found = figures.verdict(run)
    assert not found.is_test
    assert run.best_trial is not None
    assert found.rmse == run.best_trial.value
    assert "still runs" in found.sentence


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1234567, "0.1235"), (12345.678, "12,346"), (1e-7, "1.00e-7"), (0.0, "0"), (math.nan, "–"), (0.003, "0.003")],
)
def test_numbers_are_written_to_be_read(value: float, text: str) -> None:
    assert number(value) == text


def test_seconds_scores_and_params_are_written_to_be_read() -> None:
    assert [duration(s) for s in (8.31, 171.4, 11040.0, None)] == ["8.3 s", "2 min 51 s", "3 h 4 min", "–"]
    assert score(0.12) == "0.1200"
    assert [word(v) for v in (True, 3, 0.00123456, "free", None)] == ["true", "3", "0.001235", "free", "–"]


def test_the_history_is_told_in_words_that_fit_a_first_trial_that_stays_the_best() -> None:
    first = history.history_frame(table(value=[0.3, 0.4], end_s=[10.0, 20.0]))
    assert sections._history_in_words(first) == (
        "The best trial is number 0, found after 10.0 s: the first completed one. 1 later trial did not beat it."
    )
    later = history.history_frame(table(value=[0.4, 0.3], end_s=[10.0, 20.0]))
    assert sections._history_in_words(later) == (
        "The best trial is number 1, found after 20.0 s: 25.0% below the first completed one."
    )
    slower = history.history_frame(table(value=[0.3, 0.4], end_s=[20.0, 10.0]))
    assert sections._history_in_words(slower) == (
        "The best trial is number 0, found after 20.0 s: 25.0% below the first completed one."
    )


def test_pointing_at_a_trial_of_the_history_shows_its_params(run: Run) -> None:
    frame = history.history_frame(trials_frame(run))
    params = {trial.number: trial.params for trial in run.trials}
    points = [trace for trace in history.draw_history(frame, params, over_time=False).data if trace.hovertext]
    texts = {text.split(" ")[1]: text for trace in points for text in trace.hovertext}
    best = run.best_trial
    assert best is not None
    latent_dim = best.params["model.latent_dim"]
    assert f"<br>model.latent_dim = {latent_dim}" in texts[str(best.number)]
