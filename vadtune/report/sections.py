"""The sections of a run's page: figures in their order, and what they show in words."""

import numpy as np
import pandas as pd

from vadtune.report import figures_gallery as gallery
from vadtune.report import figures_history as history
from vadtune.report import figures_learning as learning
from vadtune.report import figures_verdict as verdict
from vadtune.report.blocks import Chart, Pair, Section
from vadtune.report.markup import Html, tag
from vadtune.report.run import Run
from vadtune.report.trials import duration, score, trials_frame, word


def run_sections(run: Run) -> tuple[Section, ...]:
    """All sections that this run has something for, in the order in which they are read."""
    trials = trials_frame(run)
    made = [
        verdict_section(run, trials),
        history_section(trials),
        learning_section(run, trials),
        parameters_section(run),
        imputation_section(run),
    ]
    return tuple(section for section in made if section is not None)


def verdict_section(run: Run, trials: pd.DataFrame) -> Section:
    """The first screen: the number, the bars, what was searched and how to do it again."""
    found = verdict.verdict(run)
    kind = "Test RMSE on hidden cells" if found.is_test else "Validation RMSE on hidden cells"
    words = tag(
        "div",
        tag("p", kind, class_="kicker"),
        tag("p", score(found.rmse), class_="big"),
        tag("h1", found.headline),
        tag("p", found.sentence, class_="said"),
    )
    frame = verdict.verdict_frame(run)
    bars = None
    if len(frame):
        bars = Chart("verdict", "", verdict.draw_verdict(frame), frame.drop(columns="is_winner"))
    first = tag("div", words, bars.html() if bars else None, class_="verdict")
    notes = [tag("p", note, class_="note") for note in run.notes]
    blocks = (first, *notes, facts(run, trials), command(run.settings.command, "Do it again"))
    return Section("verdict", "Verdict", "", blocks, figures=(bars,) if bars else ())


def history_section(trials: pd.DataFrame) -> Section:
    """Best so far, over trials and over seconds."""
    frame = history.history_frame(trials)
    if frame.empty:
        return Section("history", "History", "History", (nothing("No trial has reported yet."),))
    numbers = frame[["number", "state", "shown", "best_by_number", "end_s"]]
    charts = [Chart("history", "Best so far, by trial", history.draw_history(frame, over_time=False), numbers)]
    if frame["end_s"].notna().any():
        numbers = frame.sort_values("end_s")[["end_s", "number", "state", "shown", "best_by_time"]]
        charts.append(
            Chart("history-time", "Best so far, by time", history.draw_history(frame, over_time=True), numbers)
        )
    return Section("history", "History", "How the search went", (Pair(tuple(charts)),))


def learning_section(run: Run, trials: pd.DataFrame) -> Section:
    """Learning curves and rungs."""
    curves = learning.curves_frame(run.trials, trials)
    if curves.empty:
        return Section("learning", "Learning", "Learning curves", (nothing("No trial has reported yet."),))
    rungs = learning.rungs_frame(trials, run.settings.search.rungs)
    best = run.best_trial
    figure = learning.draw_curves(curves, rungs, run.trials, best.number if best else None)
    chart = Chart("curves", "Validation RMSE by epoch", figure, learning.curves_table(curves))
    return Section("learning", "Learning", "Learning curves", (chart,))


def parameters_section(run: Run) -> Section:
    """The winner's params."""
    best = run.best_trial
    if best is None:
        return Section("parameters", "Parameters", "Parameters", (nothing("No trial is complete yet."),))
    items = [tag("div", tag("dt", path), tag("dd", word(value))) for path, value in best.params.items()]
    return Section("parameters", "Parameters", "What mattered", (tag("dl", *items, class_="params"),))


def imputation_section(run: Run) -> Section | None:
    """The gallery."""
    shape = run.settings.dataset.image_shape
    found = run.evaluation.gallery
    if found is None or shape is None:
        return None
    charts = [
        Chart(f"gallery-{i}", f"{montage.rate:.0%} of the pixels hidden", gallery.draw_gallery(montage), None, "")
        for i, montage in enumerate(gallery.montages(found, shape))
    ]
    return Section("imputation", "Imputation", "What it fills in", tuple(charts))


def facts(run: Run, trials: pd.DataFrame) -> Html:
    """Data, masks, search, time and hardware, in a few words each."""
    settings, data, search = run.settings, run.settings.data, run.settings.search
    dataset = settings.dataset
    rows = " / ".join(str(data[name]) for name in ("n_train", "n_validation", "n_test") if name in data)
    mechanism = data.get("mechanism")
    kind = mechanism.get("kind", "") if isinstance(mechanism, dict) else str(mechanism or "")
    rate = data.get("missing_rate")
    items = [
        (
            "Data",
            dataset.name,
            f"{dataset.n_rows:,} rows × {dataset.n_features:,} columns · sha256 {dataset.sha256[:12]}",
        ),
        (
            "Hidden cells",
            f"{kind.upper()} {rate:.0%}" if isinstance(rate, float) else kind.upper(),
            f"train / validation / test rows {rows}",
        ),
        (
            "Search",
            f"{settings.model} · {search.sampler} + {search.scheduler}",
            f"up to {search.max_epochs} epochs · seed {search.seed}",
        ),
        ("Time", duration(run.summary.seconds or float(np.nanmax(trials["end_s"].to_numpy(), initial=0.0))), ""),
    ]
    cells = [
        tag("div", tag("dt", name), tag("dd", value, tag("small", more) if more else None))
        for name, value, more in items
    ]
    return tag("dl", *cells, _counts(trials), class_="facts")


def command(line: str, title: str) -> Html | None:
    """A command to copy."""
    if not line:
        return None
    button = tag("button", "Copy", type="button", data_copy=line)
    return tag(
        "div", tag("p", title, class_="kicker"), tag("div", tag("code", line), button, class_="command"), class_="again"
    )


def nothing(why: str) -> Html:
    """One line in the place of what there is no data for."""
    return tag("p", why, class_="none")


def _counts(trials: pd.DataFrame) -> Html:
    counts = trials["state"].value_counts()
    shown = [
        (state, int(counts[state]))
        for state in ("complete", "pruned", "failed", "waiting", "running")
        if state in counts
    ]
    bar = tag(
        "div", *(tag("i", class_=state, style=f"flex:{n}") for state, n in shown), class_="meter", aria_hidden="true"
    )
    words = " · ".join(f"{n} {state}" for state, n in shown)
    return tag("div", tag("dt", "Trials"), tag("dd", str(len(trials)), bar, tag("small", words)))
