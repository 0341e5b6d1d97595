"""The sections of a run's page: figures in their order, and what they show in words."""

import math

import numpy as np
import pandas as pd

from vadtune.report import figures_history as history
from vadtune.report import figures_learning as learning
from vadtune.report import figures_verdict as verdict
from vadtune.report.blocks import Block, Chart, Grid, Section, command, nothing
from vadtune.report.figures_importance import Importances, importances
from vadtune.report.markup import Html, tag
from vadtune.report.run import Run
from vadtune.report.sections_imputation import imputation_section, latent_section
from vadtune.report.sections_params import parameters_section
from vadtune.report.sections_trials import trials_section
from vadtune.report.trials import duration, number, score, trials_frame


def run_sections(run: Run, known: Importances | None = None) -> tuple[Section, ...]:
    """All sections that this run has something for, in the order in which they are read.

    Args:
        run: As read.
        known: Importances that were computed before, to save their time; None computes them.
    """
    trials = trials_frame(run)
    made = [
        verdict_section(run, trials),
        history_section(run, trials),
        learning_section(run, trials),
        parameters_section(run, known or importances(run.trials)),
        imputation_section(run),
        latent_section(run),
        trials_section(run, trials),
    ]
    return tuple(section for section in made if section is not None)


def verdict_section(run: Run, trials: pd.DataFrame) -> Section:
    """The first screen: the number, the bars, what was searched and how to do it again."""
    found = verdict.verdict(run)
    kind = f"{'Test' if found.is_test else 'Validation'} {run.settings.dataset.measure} over hidden cells"
    said = (tag("h1", found.headline), tag("p", found.sentence, class_="said"))
    words = tag("div", tag("p", kind, class_="kicker"), tag("p", score(found.rmse), class_="big"), *said)
    frame = verdict.verdict_frame(run)
    bars = verdict_chart(frame) if len(frame) else None
    first = tag("div", words, bars.html() if bars else None, class_="verdict" if bars else "verdict alone")
    notes = [tag("p", note, class_="note") for note in run.notes]
    again = [command(run.settings.command, "Run it again")] if run.settings.command else []
    return Section("verdict", "Verdict", "", (first, *notes, facts(run, trials), *again), inner=(bars,) if bars else ())


def verdict_chart(frame: pd.DataFrame) -> Chart:
    """The bars and their table."""
    numbers = frame.drop(columns="is_winner").dropna(axis=1, how="all")
    return Chart("verdict", "", verdict.draw_verdict(frame), numbers)


def history_section(run: Run, trials: pd.DataFrame) -> Section:
    """Best so far, over trials and over seconds, and what the workers did."""
    frame = history.history_frame(trials)
    if frame.empty:
        return Section("history", "History", "How the search went", (nothing("No trial has reported yet."),))
    numbers = frame[["number", "state", "shown", "best_by_number", "end_s"]]
    params = {trial.number: trial.params for trial in run.trials}
    figure = history.draw_history(frame, params, over_time=False)
    note = _out_of_sight(frame, figure.layout.yaxis.range)
    charts = [Chart("history", "Best so far, by trial", figure, numbers, note)]
    if frame["end_s"].notna().any():
        figure = history.draw_history(frame, params, over_time=True)
        numbers = frame.sort_values("end_s")[["end_s", "number", "state", "shown", "best_by_time"]]
        charts.append(Chart("history-time", "Best so far, by time", figure, numbers, note))
    blocks: list[Block] = [Grid(tuple(charts))]
    timeline = history.timeline_frame(trials)
    if len(timeline) and trials["end_s"].notna().any():  # how long trials ran that never ended is not known
        blocks.append(_timeline(timeline))
    return Section("history", "History", "How the search went", tuple(blocks), _history_in_words(frame))


def learning_section(run: Run, trials: pd.DataFrame) -> Section:
    """Learning curves, rungs, and the spread of what was completed."""
    curves = learning.curves_frame(run.trials, trials)
    if curves.empty:
        return Section("learning", "Learning", "Learning curves", (nothing("No trial has reported yet."),))
    rungs = learning.rungs_frame(trials, run.settings.search.rungs)
    best = run.best_trial
    n_shown, n_all = curves["number"].nunique(), int(trials["last_epoch"].notna().sum())
    note = f"{n_shown} of {n_all} trials, the best among them. " if n_shown < n_all else ""
    note += "Dotted lines are where trials were stopped, with their number. Point at a curve for its parameters."
    figure = learning.draw_curves(curves, rungs, run.trials, best.number if best else None)
    blocks: list[Block] = [
        Chart("curves", "Validation error by epoch", figure, learning.curves_table(curves), note),
    ]
    below = []
    if len(rungs):
        below.append(Chart("rungs", "Stopped at each rung", learning.draw_rungs(rungs), rungs))
    spread = history.spread_frame(trials)
    if len(spread) > 2:
        below.append(Chart("spread", "How good the completed ones are", history.draw_spread(spread), spread))
    if below:
        blocks.append(Grid(tuple(below)))
    return Section("learning", "Learning", "Learning curves", tuple(blocks), _rungs_in_words(rungs))


def facts(run: Run, trials: pd.DataFrame) -> Html:
    """Data, masks, search, time, hardware and scores, in a few words each."""
    items = [_data(run), _hidden(run), _search(run), _time(run, trials), _hardware(run)]
    cells = [
        tag("div", tag("dt", name), tag("dd", value, *(tag("small", m) for m in more if m)))
        for name, value, *more in items
    ]
    return tag("dl", *cells[:3], _counts(run, trials), *cells[3:], _scores(run), class_="facts")


def _data(run: Run) -> tuple[str, ...]:
    dataset = run.settings.dataset
    size = f"{dataset.n_rows:,} rows × {dataset.n_features:,} columns"
    source = f"from {dataset.source}" if dataset.source and dataset.source != dataset.name else ""
    return ("Data", dataset.name, size, source, f"sha256 {dataset.sha256[:16]}" if dataset.sha256 else "")


def _hidden(run: Run) -> tuple[str, ...]:
    data = run.settings.data
    mechanism = data.get("mechanism")
    kind = str(mechanism.get("kind", "") if isinstance(mechanism, dict) else mechanism or "–").upper()
    rate, test_rate = data.get("missing_rate"), data.get("test_missing_rate")
    shares = f" {rate:.0%}" if isinstance(rate, int | float) else ""
    tested = f"tested at {test_rate:.0%}" if isinstance(test_rate, int | float) else ""
    rows = " / ".join(
        f"{data[name]:,}" for name in ("n_train", "n_validation", "n_test") if isinstance(data.get(name), int)
    )
    more = f"train / validation / test rows {rows}" if rows else ""
    return ("Hidden cells", kind + shares, tested, more, f"mask seed {data['seed']}" if "seed" in data else "")


def _search(run: Run) -> tuple[str, ...]:
    settings, search = run.settings, run.settings.search
    paths = {path for trial in run.trials for path in trial.distributions}
    how = " + ".join(filter(None, (search.sampler, search.scheduler)))
    epochs = f"up to {search.max_epochs} epochs" if search.max_epochs else ""
    more = f"{len(paths)} parameters{', ' + epochs if epochs else ''}"
    return ("Search", settings.model.upper(), how, more, f"seed {search.seed}" if search.seed is not None else "")


def _time(run: Run, trials: pd.DataFrame) -> tuple[str, ...]:
    ends = trials["end_s"].dropna()
    seconds = run.summary.seconds if run.summary.seconds is not None else (float(ends.max()) if len(ends) else None)
    longest = sorted(run.summary.seconds_by_phase.items(), key=lambda item: -item[1])[:3]
    phases = [(name, s) for name, s in longest if s >= 1]
    return (
        "Time",
        duration(seconds),
        ", ".join(f"{name} {duration(s)}" for name, s in phases),
        run.settings.created[:16].replace("T", " "),
    )


def _hardware(run: Run) -> tuple[str, ...]:
    hardware, search = run.settings.hardware, run.settings.search
    parts = [
        f"{number(hardware.cpus)} CPU" if hardware.cpus else "",
        f"{number(hardware.gpus)} GPU" if hardware.gpus else "",
        f"{number(hardware.memory_gb, 3)} GB" if hardware.memory_gb else "",
    ]
    share = f"{number(search.cpus_per_trial)} CPU a trial" if search.cpus_per_trial else ""
    if search.gpus_per_trial:
        share += f", {number(search.gpus_per_trial)} GPU"
    versions = run.settings.versions
    used = ", ".join(f"{name} {versions[name]}" for name in ("vadtune", "torch") if name in versions)
    return ("Hardware", ", ".join(filter(None, parts)) or "–", hardware.platform, share, used)


def _scores(run: Run) -> Html | None:
    best = run.summary.best
    if best is None:
        return None
    rows = [
        ("validation", best.validation_rmse),
        ("test, numbers (RMSE by range)", best.test_nrmse),
        ("test, categories (error rate)", best.test_error_rate),
        ("test, min–max columns", best.test_rmse_minmax),
        ("test MAE", best.test_mae),
        ("observed cells", best.observed_rmse),
        ("all cells", best.all_rmse),
    ]
    lines = [
        tag("tr", tag("td", name), tag("td", score(value), class_="n")) for name, value in rows if value is not None
    ]
    return tag(
        "div", tag("dt", "The winner’s other scores"), tag("dd", tag("table", tag("tbody", *lines)), class_="scores")
    )


def _counts(run: Run, trials: pd.DataFrame) -> Html:
    counts = trials["state"].value_counts()
    order = ("complete", "pruned", "failed", "waiting", "running")
    shown = [(state, int(counts[state])) for state in order if state in counts]
    bar = tag(
        "div", *(tag("i", class_=state, style=f"flex:{n}") for state, n in shown), class_="meter", aria_hidden="true"
    )
    words = [tag("span", tag("b", f"{n:,}"), f" {state}", class_="count") for state, n in shown]
    planned = run.settings.search.trials
    n = f"{len(trials):,}" + (f" of {planned:,}" if planned and planned > len(trials) else "")
    return tag("div", tag("dt", "Trials"), tag("dd", n, bar, tag("small", *words)))


def _timeline(timeline: pd.DataFrame) -> Chart:
    found = history.busy(timeline)
    words = f"{found.n_workers} worker{'s' if found.n_workers != 1 else ''}"
    if math.isfinite(found.share):
        words += f", busy {found.share:.0%} of {duration(found.wall_s)}. Bare ground is idle time."
    numbers = timeline[["worker", "number", "state", "start_s", "end_s"]]
    return Chart("timeline", "What the workers did", history.draw_timeline(timeline), numbers, words)


def _history_in_words(frame: pd.DataFrame) -> str:
    # In the order in which they ended: of trials side by side a later one may come to its end first.
    ended = frame.sort_values("end_s", kind="stable")
    values = ended.dropna(subset=["value"])
    if values.empty:
        return "No trial is complete yet."
    best = values.iloc[int(values["value"].argmin())]
    first = values.iloc[0]
    gain = 1 - best["value"] / first["value"] if first["value"] else 0.0
    when = f" after {duration(best['end_s'])}" if np.isfinite(best["end_s"]) else ""
    later = len(ended) - 1 - int(np.flatnonzero(ended["number"] == best["number"])[0])
    better = f"{gain:.1%} below the first completed one" if gain >= 0.0005 else "the first completed one"
    beaten = f" {later:,} later {'trial' if later == 1 else 'trials'} did not beat it." if later else ""
    return f"The best trial is number {best['number']:.0f}, found{when}: {better}.{beaten}"


def _out_of_sight(frame: pd.DataFrame, shown: tuple[float, float] | None) -> str:
    above = int((frame["shown"] > shown[1]).sum()) if shown else 0
    return f"{above:,} worse trials lie above what is shown; a double click shows them." if above else ""


def _rungs_in_words(rungs: pd.DataFrame) -> str:
    stopped = int(rungs["stopped"].sum()) if len(rungs) else 0
    if not stopped:
        return ""
    first = rungs[rungs["stopped"] > 0].iloc[0]
    return f"Early stopping ended {stopped} trials, {first['stopped']} of them at epoch {first['epoch']} already."
