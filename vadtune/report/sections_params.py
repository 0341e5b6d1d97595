"""The section on params: what the best are, which mattered, how they act, and which range is too narrow."""

import pandas as pd

from vadtune.report import figures_importance as importance
from vadtune.report import figures_params as figures
from vadtune.report.blocks import Block, Chart, Grid, Section, nothing
from vadtune.report.figures_importance import Basis, Importances
from vadtune.report.markup import Html, table, tag
from vadtune.report.run import Run
from vadtune.report.scales import Scale, scales
from vadtune.report.trials import word
from vadtune.settings import flatten

N_AXES = 9
N_SLICES = 6
N_CONTOURS = 3
TITLE = "What mattered"
# What a range or a set of choices in a search space has, and a section of it has not.
RANGE = frozenset({"low", "high", "choices", "when"})


def parameters_section(run: Run, found: Importances | None) -> Section:
    """Best params and hints first, then importance, parallel coordinates, slices and contours."""
    best = run.best_trial
    known = scales(run.trials)
    blocks: list[Block] = []
    if best is not None:
        blocks.append(_best_params(best.params, known))
        fixed = _fixed(run)
        blocks += [fixed] if fixed is not None else []
        hints = figures.edge_hints(figures.edges_frame(best, run.trials, known), known)
        blocks += [tag("p", hint.words, " ", tag("code", hint.setting), class_="note") for hint in hints]
    if found is None:
        blocks.append(nothing("Too few trials have ended to tell which parameters mattered."))
    else:
        blocks.append(_importance(found))
    order = _order(known, found)
    if order and importance.ranked(run.trials):
        blocks.append(_parallel(run, order))
        blocks.append(_slices(run, order[:N_SLICES]))
        blocks += _contours(run, order)
    return Section("parameters", "Parameters", TITLE, tuple(blocks), _in_words(found))


def _best_params(params: dict[str, object], known: dict[str, Scale]) -> Html:
    """The winner's params, each with the range in which it was searched."""
    items = []
    for path, value in sorted(params.items()):
        searched = tag("small", f"of {known[path].range_in_words()}") if path in known else None
        items.append(tag("div", tag("dt", path), tag("dd", word(value), searched)))
    return tag("dl", *items, class_="params")


def _fixed(run: Run) -> Html | None:
    """What the search space held fixed, behind a fold."""
    varied = {path for trial in run.trials for path in trial.distributions}
    settings = flatten(_without_ranges(run.settings.space))
    rows = [(path, word(value)) for path, value in settings.items() if path not in varied]
    if not rows:
        return None
    return tag("details", tag("summary", "Fixed settings"), table(pd.DataFrame(rows, columns=["setting", "value"])))


def _without_ranges(space: dict[str, object]) -> dict[str, object]:
    """The sections of a space, without what is searched and without the points that are tried first."""
    kept: dict[str, object] = {}
    for key, value in space.items():
        if isinstance(value, dict) and not RANGE & value.keys():
            kept[key] = _without_ranges(value)
        elif not isinstance(value, dict | list):
            kept[key] = value
    return kept


def _importance(found: Importances) -> Grid:
    charts = [
        Chart(
            "importance-all",
            "Among all trials",
            importance.draw_importances(found.frame, best=False),
            note=_basis(found.everyone, "all that reported"),
        )
    ]
    if found.best is not None:
        figure = importance.draw_importances(found.frame, best=True)
        charts.append(Chart("importance-best", "Among the best quarter", figure, note=_basis(found.best, "the best")))
    note = "Share of the differences in error that a parameter accounts for, by two methods."
    return Grid(tuple(charts), len(charts), "Importance", note, found.frame)


def _basis(basis: Basis, which: str) -> str:
    return f"{basis.n_trials:,} trials, {which}, compared by their error at epoch {basis.epoch}."


def _parallel(run: Run, order: list[Scale]) -> Chart:
    data = figures.parallel(run.trials, order[:N_AXES])
    shown = len(data.frame)
    which = f"{shown:,} of {data.n_all:,} trials, the best among them. " if shown < data.n_all else ""
    how = "Drag along an axis to keep the lines that cross there; click it to let go."
    note = f"{which}The orange line is the best trial, strong lines are good ones. {how}"
    numbers = data.frame.iloc[::-1].drop(columns="rank")
    named = numbers.rename(columns={scale.path: f"{scale.path} (position)" for scale in data.scales})
    return Chart("parallel", "Parallel coordinates", figures.draw_parallel(data), named, note, wide=True)


def _slices(run: Run, order: list[Scale]) -> Grid:
    rmse_range = figures.focus(run.trials)
    frames = {scale.path: figures.slice_frame(run.trials, scale) for scale in order}
    charts = [
        Chart(f"slice-{i}", scale.path, figures.draw_slice(frames[scale.path], scale, rmse_range))
        for i, scale in enumerate(order)
    ]
    note = "Validation error over each parameter; the ring is the best trial, faint points were stopped early."
    numbers = pd.concat([frame.assign(param=path) for path, frame in frames.items()], ignore_index=True)
    best_first = numbers.sort_values("rmse")[["param", "value", "rmse", "state", "number"]]
    return Grid(tuple(charts), 3, "One at a time", note, best_first)


def _contours(run: Run, order: list[Scale]) -> list[Grid]:
    numeric = [scale for scale in order if not scale.choices][:N_CONTOURS]
    pairs = [(a, b) for i, a in enumerate(numeric) for b in numeric[i + 1 :]]
    surfaces = [figures.surface(run.trials, a, b) for a, b in pairs]
    charts = [
        Chart(f"contour-{i}", f"{s.second.path} over {s.first.path}", figures.draw_surface(s))
        for i, s in enumerate(surfaces)
        if s is not None
    ]
    if not charts:
        return []
    epochs = sorted({s.epoch for s in surfaces if s is not None})
    at = " and ".join(str(epoch) for epoch in epochs)
    note = f"Error at epoch {at}, smoothed over the trials. Strong colours are low errors, bare ground was not tried."
    frames = [s.trials.assign(across=s.first.path, up=s.second.path) for s in surfaces if s is not None]
    numbers = pd.concat(frames, ignore_index=True).sort_values("rmse")
    return [Grid(tuple(charts), 3, "Two at a time", note, numbers)]


def _order(known: dict[str, Scale], found: Importances | None) -> list[Scale]:
    """Most important first; those without an importance in the order of their names."""
    first = [str(path) for path in found.frame["param"]] if found is not None else []
    return [known[path] for path in dict.fromkeys([*first, *sorted(known)]) if path in known]


def _in_words(found: Importances | None) -> str:
    if found is None or found.frame.empty:
        return ""
    names = [str(path) for path in found.frame["param"].head(2)]
    second = f", then {names[1]}" if len(names) > 1 else ""
    among = f"over {found.everyone.n_trials:,} trials, pruned ones among them"
    return f"{names[0]} matters most{second}, by the mean of both methods {among}."
