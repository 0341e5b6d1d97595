"""Importance, parallel coordinates, slices, contours and edges, by their numbers."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from tests.report import factory
from vadtune.report import figures_importance as importance
from vadtune.report import figures_params as figures
from vadtune.report.scales import ABSENT, scales
from vadtune.report.theme import BEST
from vadtune.report.trials import value_at

SPACE: dict[str, BaseDistribution] = {
    "strong": FloatDistribution(0, 1),
    "weak": FloatDistribution(1e-4, 1, log=True),
    "none": CategoricalDistribution(("a", "b")),
    "fixed": IntDistribution(3, 3),
}


def study(n: int = 120, seed: int = 0) -> list[FrozenTrial]:
    """The error is 1 + 3 strong² + 0.3 times the place of weak; all but the best third are pruned at epoch 3."""
    rng = np.random.default_rng(seed)
    trials = []
    for number in range(n):
        params: dict[str, Any] = {
            "strong": rng.random(),
            "weak": 10 ** (-4 * rng.random()),
            "none": "ab"[number % 2],
            "fixed": 3,
        }
        floor = 1 + 3 * params["strong"] ** 2 + 0.3 * (1 + math.log10(params["weak"]) / 4)
        done = floor < 1.5
        reports = {epoch: floor + 1 / epoch for epoch in range(1, 10 if done else 4)}
        state = TrialState.COMPLETE if done else TrialState.PRUNED
        trial = create_trial(
            state=state, value=floor if done else None, params=params, distributions=SPACE, intermediate_values=reports
        )
        trial.number = number
        trials.append(trial)
    return trials


def trial(number: int, params: dict[str, Any], value: float, space: dict[str, BaseDistribution] = SPACE) -> FrozenTrial:
    distributions = {path: space[path] for path in params}
    made = create_trial(params=params, distributions=distributions, value=value, intermediate_values={1: value})
    made.number = number
    return made


def test_importances_rank_params_as_they_act() -> None:
    found = importance.importances(study())
    assert found is not None
    assert found.frame["param"].tolist()[0] == "strong"
    first, second = found.frame.set_index("param").loc[["strong", "weak"], "fanova_all"]
    assert first > 4 * second
    assert "fixed" not in found.frame["param"].tolist()


def test_importances_say_which_trials_they_used() -> None:
    trials = study()
    found = importance.importances(trials)
    assert found is not None
    assert found.everyone == importance.Basis(epoch=3, n_trials=120)
    assert found.best is not None
    assert found.best.epoch == 9
    assert found.best.n_trials == 30


def test_importances_sum_to_one_and_repeat() -> None:
    one, two = importance.importances(study()), importance.importances(study())
    assert one is not None
    assert two is not None
    assert one.frame.equals(two.frame)
    assert one.frame[["ped_all", "fanova_all", "ped_best", "fanova_best"]].sum().to_numpy() == pytest.approx(1)


def test_the_rank_correlation_tells_the_direction() -> None:
    found = importance.importances(study())
    assert found is not None
    correlation = found.frame.set_index("param")["rank_correlation"]
    assert correlation["strong"] > 0.9
    assert math.isnan(correlation["none"])


def test_too_few_trials_have_no_importances() -> None:
    assert importance.importances(study(9)) is None
    assert importance.importances([]) is None


def test_thousands_of_trials_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "N_FANOVA", 40)
    monkeypatch.setattr(importance, "N_PED_ANOVA", 60)
    found = importance.importances(study(400))
    assert found is not None
    assert found.frame["param"].tolist()[0] == "strong"


def test_trials_are_ranked_complete_ones_first_then_by_how_far_they_got() -> None:
    complete = trial(0, {"strong": 0.1}, 0.9)
    early = create_trial(state=TrialState.PRUNED, params={}, distributions={}, intermediate_values={3: 0.1})
    late = create_trial(state=TrialState.PRUNED, params={"strong": 0.5}, distributions={"strong": SPACE["strong"]})
    late.intermediate_values = {3: 0.8, 9: 0.7}
    early.params, early.distributions = {"strong": 0.4}, {"strong": SPACE["strong"]}
    assert importance.ranked([early, late, complete]) == [complete, late, early]


def test_a_scale_places_values_in_the_way_they_were_sampled() -> None:
    found = scales(study(12))
    assert sorted(found) == ["none", "strong", "weak"]
    assert found["weak"].position(1e-2) == pytest.approx(0.5)
    assert found["weak"].value(0.5) == pytest.approx(1e-2)
    assert found["none"].position("b") == 1
    assert math.isnan(found["none"].position("c"))
    assert found["weak"].ticks()[1] == ["0.0001", "0.001", "0.01", "0.1", "1"]


def test_true_and_one_are_different_choices() -> None:
    space: dict[str, BaseDistribution] = {"x": CategoricalDistribution((1, True, "1"))}
    scale = scales([trial(0, {"x": 1}, 0.5, space), trial(1, {"x": True}, 0.4, space)])["x"]
    assert [scale.position(choice) for choice in (1, True, "1")] == [0, 0.5, 1]


def test_parallel_coordinates_keep_the_best_and_count_all() -> None:
    trials = factory.make_trials(np.random.default_rng(0), 300)
    data = figures.parallel(trials, list(scales(trials).values()), n_most=80, n_best=20)
    assert len(data.frame) == 80
    best = [t.number for t in importance.ranked(trials)[:20]]
    assert data.frame["number"].tolist()[-20:] == best[::-1]
    assert data.n_all == len(importance.ranked(trials))


def test_a_conditional_param_that_a_trial_has_not_lies_below_its_axis() -> None:
    trials = factory.make_trials(np.random.default_rng(0), 40)
    data = figures.parallel(trials, [scales(trials)["model.log_var"]])
    has = {t.number for t in trials if "model.log_var" in t.params}
    below = data.frame["model.log_var"] == ABSENT
    assert set(data.frame.loc[~below, "number"]) <= has
    assert below.any()


def test_each_line_of_parallel_coordinates_crosses_each_axis_once() -> None:
    trials = factory.make_trials(np.random.default_rng(0), 40)
    data = figures.parallel(trials, list(scales(trials).values()))
    figure = figures.draw_parallel(data)
    n = figure.layout.meta["n_axes"]
    assert n == 2 + len(data.scales)
    lines = [len(trace.y) / (n + 1) for trace in figure.data[1:]]
    assert sum(lines[:-1]) == len(data.frame)
    assert lines[-1] == 1
    assert figure.data[-1].line.color == BEST


def test_a_slice_has_final_scores_of_complete_trials_and_last_reports_of_pruned_ones() -> None:
    trials = study()
    frame = figures.slice_frame(trials, scales(trials)["strong"])
    best = frame.iloc[-1]
    assert best["rmse"] == min(t.value for t in trials if t.value is not None)
    pruned = frame[frame["state"] == "pruned"].iloc[0]
    assert pruned["rmse"] == trials[int(pruned["number"])].intermediate_values[3]


def test_a_contour_is_lowest_where_the_error_is() -> None:
    trials = study(200)
    known = scales(trials)
    found = figures.surface(trials, known["strong"], known["weak"])
    assert found is not None
    assert found.epoch == 3
    row, column = np.unravel_index(np.nanargmin(found.rmse), found.rmse.shape)
    assert column < figures.GRID * 0.2
    assert row < figures.GRID * 0.4
    assert np.nanmin(found.rmse) >= min(value_at(t, 3) for t in trials)


def test_ground_that_was_not_tried_stays_bare() -> None:
    trials = [t for t in study(200) if t.params["strong"] < 0.5]
    known = scales(trials)
    found = figures.surface(trials, known["strong"], known["weak"])
    assert found is not None
    assert np.isnan(found.rmse[:, -3:]).all()


def test_a_winner_at_the_edge_of_its_range_is_told_with_a_wider_one() -> None:
    space: dict[str, BaseDistribution] = {
        "train.lr": FloatDistribution(1e-4, 1e-2, log=True),
        "model.latent_dim": IntDistribution(4, 64),
        "middle": FloatDistribution(0, 1),
    }
    best = trial(0, {"train.lr": 0.0099, "model.latent_dim": 4, "middle": 0.5}, 0.1, space)
    rest = [trial(i, {"train.lr": 0.009, "model.latent_dim": 40, "middle": 0.5}, 0.2, space) for i in range(1, 5)]
    known = scales([best, *rest])
    edges = figures.edges_frame(best, [best, *rest], known)
    assert dict(zip(edges["param"], edges["edge"], strict=True)) == {
        "train.lr": "upper",
        "model.latent_dim": "lower",
        "middle": "",
    }
    hints = {hint.words.split(" ")[0]: hint for hint in figures.edge_hints(edges, known)}
    assert "5 of the best 5 trials" in hints["train.lr"].words
    assert hints["train.lr"].setting == "--set 'train.lr={low = 0.0001, high = 0.046, log = true}'"
    assert hints["model.latent_dim"].setting == "--set 'model.latent_dim={low = 1, high = 64}'"


def test_a_range_of_few_whole_numbers_is_widened_by_one_at_least() -> None:
    space: dict[str, BaseDistribution] = {"n_layers": IntDistribution(2, 3)}
    trials = [trial(0, {"n_layers": 3}, 0.1, space), trial(1, {"n_layers": 2}, 0.2, space)]
    known = scales(trials)
    hints = figures.edge_hints(figures.edges_frame(trials[0], trials, known), known)
    assert [hint.setting for hint in hints] == ["--set 'n_layers={low = 2, high = 4}'"]


@pytest.mark.parametrize(("low", "high", "value"), [(0.0, 0.5, 0.0), (0.2, 1.0, 1.0)])
def test_an_end_that_is_natural_is_not_to_be_moved(low: float, high: float, value: float) -> None:
    space: dict[str, BaseDistribution] = {"dropout": FloatDistribution(low, high)}
    trials = [trial(0, {"dropout": value}, 0.1, space), trial(1, {"dropout": 0.3}, 0.2, space)]
    known = scales(trials)
    assert figures.edge_hints(figures.edges_frame(trials[0], trials, known), known) == []


def test_scores_that_differ_late_have_ticks_that_differ() -> None:
    near = pd.DataFrame({"final_rmse": [0.18870, 0.18872, math.nan]})
    texts = figures._score_axis(near).ticks[1]
    assert len(set(texts)) == len(texts) == 6
    assert texts[-1] == "pruned"
    assert figures._score_axis(pd.DataFrame({"final_rmse": [0.5, 0.5]})).ticks[1] == ["0.5000"]
    assert figures._score_axis(pd.DataFrame({"final_rmse": [0.4, 0.6]})).ticks[1][0] == "0.4000"
