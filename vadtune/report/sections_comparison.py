"""The page of several runs: the same questions, asked of all of them at once."""

from collections.abc import Sequence

import pandas as pd

from vadtune.report import figures_comparison as figures
from vadtune.report.blocks import Block, Chart, Grid, Section, command, nothing
from vadtune.report.markup import Html, cell, tag
from vadtune.report.run import Run
from vadtune.report.trials import duration, records, score, word

N_SURE = 0.05


def comparison_sections(runs: Sequence[Run]) -> tuple[Section, ...]:
    """Verdict, histories, paired test, conditions and best params of several runs."""
    made = [
        _verdict(runs),
        _history(runs),
        _test(runs),
        _conditions(runs),
        _params(runs),
        _commands(runs),
    ]
    return tuple(section for section in made if section is not None)


def _verdict(runs: Sequence[Run]) -> Section:
    frame = figures.runs_frame(runs)
    groups = figures.groups_frame(frame)
    notes = [tag("p", text, class_="note") for text in figures.differences(runs)]
    if groups.empty:
        words = tag("div", tag("p", f"{len(runs)} runs", class_="kicker"), tag("h1", "No run has a test score yet"))
        return Section("verdict", "Verdict", "", (words, *notes, _runs_table(frame, _measure(runs))))
    best = groups.iloc[0]
    baselines = figures.baselines_frame(runs)
    numbers = frame.drop(columns="order").dropna(axis=1, how="all")
    bars = Chart("verdict", "", figures.draw_groups(groups, baselines), numbers)
    words = tag(
        "div",
        tag("p", f"Best test {_measure(runs)} of {len(runs)} runs", class_="kicker"),
        tag("p", score(float(best["mean"])), class_="big"),
        tag("h1", _headline(groups)),
        tag("p", _repeats(groups), class_="said"),
    )
    first = tag("div", words, bars.html(), class_="verdict")
    return Section("verdict", "Verdict", "", (first, *notes, _runs_table(frame, _measure(runs))), inner=(bars,))


def _measure(runs: Sequence[Run]) -> str:
    """What their scores are called."""
    found = {run.settings.dataset.measure for run in runs}
    return found.pop() if len(found) == 1 else "error"


def _headline(groups: pd.DataFrame) -> str:
    best = groups.iloc[0]
    if len(groups) == 1:
        return f"{best['group']}: {best['n']} runs that differ only in their seeds"
    second = groups.iloc[1]
    gain = 1 - float(best["mean"]) / float(second["mean"])
    return f"{best['group']}: {gain:.1%} less error than {second['group']} ({score(float(second['mean']))})"


def _repeats(groups: pd.DataFrame) -> str:
    repeated = groups[groups["n"] > 1]
    if repeated.empty:
        return "Each bar is one run. Runs that differ only in their seeds would be drawn as one bar with its spread."
    return "Runs that differ only in their seeds are one bar, the whisker one standard deviation."


def _runs_table(frame: pd.DataFrame, measure: str) -> Html:
    heads = ["run", "model", "seed", f"test {measure}", f"validation {measure}", "trials", "complete", "time"]
    rows = []
    for row in records(frame):
        seed = word(None if row.seed != row.seed else row.seed)
        values = [
            (row.run, None),
            (row.model, None),
            (seed, row.seed),
            (score(row.test_rmse), row.test_rmse),
            (score(row.validation_rmse), row.validation_rmse),
            (row.trials, row.trials),
            (row.complete, row.complete),
            (duration(row.seconds), row.seconds),
        ]
        cells = [tag("td", shown, data_v=v, class_=None if i < 2 else "n") for i, (shown, v) in enumerate(values)]
        rows.append(tag("tr", *cells))
    buttons = [
        tag("th", tag("button", h, type="button"), scope="col", class_=None if i < 2 else "n")
        for i, h in enumerate(heads)
    ]
    body = tag("table", tag("thead", tag("tr", *buttons)), tag("tbody", *rows), class_="sortable", id="runs")
    return tag("div", body, class_="scroll tall runs", tabindex="0")


def _history(runs: Sequence[Run]) -> Section:
    frame = figures.histories_frame(runs)
    title = "How the searches went"
    if frame.empty:
        return Section("history", "History", title, (nothing("No trial has reported yet."),))
    numbers = frame.drop(columns="order")
    charts = [Chart("histories", "Best so far, by trial", figures.draw_histories(frame, over_time=False), numbers)]
    if frame["end_s"].notna().any():
        charts.append(
            Chart("histories-time", "Best so far, by time", figures.draw_histories(frame, over_time=True), numbers)
        )
    blocks: list[Block] = [Grid(tuple(charts))]
    curves = figures.best_curves_frame(runs)
    if len(curves):
        figure = figures.draw_lines(curves, "epoch", "rmse", "epoch", f"validation {_measure(runs)}")
        blocks.append(Chart("best-curves", "Learning curves of the best trials", figure, curves.drop(columns="order")))
    return Section("history", "History", title, tuple(blocks))


def _test(runs: Sequence[Run]) -> Section:
    found, apart = figures.paired_tests(runs)
    lines = [tag("p", _paired_in_words(pair)) for pair in found]
    if apart:
        names = ", ".join(apart)
        lines.append(tag("p", f"No cells in common with the best run, so not tested: {names}.", class_="none"))
    if not lines:
        lines.append(nothing("A paired test needs two runs with test scores."))
    caution = "Cells of one row depend on one another, so small p-values are somewhat too small." if found else ""
    return Section("test", "Paired test", "Is the difference real?", tuple(lines), caution)


def _paired_in_words(pair: figures.Paired) -> str:
    p_value = "p < 0.0001" if pair.p_value < 1e-4 else f"p = {pair.p_value:.4f}"
    said = "is nearer to the truth than" if pair.p_value < N_SURE and pair.wins > 0.5 else "cannot be told from"
    test = "Wilcoxon’s signed-rank test, Holm-corrected"
    share = f"nearer in {pair.wins:.1%} of the same {pair.n:,} {pair.unit}"
    return f"{pair.best} {said} {pair.other}: {share}, {p_value} ({test})."


def _conditions(runs: Sequence[Run]) -> Section | None:
    frame = figures.rates_frame(runs)
    if frame.empty:
        return None
    figure = figures.draw_lines(frame, "missing_rate", "test_rmse", "missing rate", f"test {_measure(runs)}")
    chart = Chart("rates", "Over the missing rate", figure, frame.drop(columns="order"))
    return Section("imputation", "Imputation", "Other conditions", (chart,))


def _params(runs: Sequence[Run]) -> Section:
    frame = figures.params_frame(runs)
    if frame.empty:
        return Section("parameters", "Parameters", "Best parameters", (nothing("No trial is complete yet."),))
    head = tag("tr", *(tag("th", name, scope="col") for name in frame))
    rows = [
        tag("tr", *(tag("td", cell(v) if i == 0 else word(v)) for i, v in enumerate(row))) for row in frame.to_numpy()
    ]
    body = tag("table", tag("thead", head), tag("tbody", *rows))
    return Section(
        "parameters", "Parameters", "Best parameters", (tag("div", body, class_="scroll tall", tabindex="0"),)
    )


def _commands(runs: Sequence[Run]) -> Section | None:
    named = zip(figures.run_names(runs), runs, strict=True)
    lines = [command(run.settings.command, name) for name, run in named if run.settings.command]
    return Section("commands", "Commands", "Run them again", tuple(lines)) if lines else None
