"""The last section: the best ten with the command that trains each again, and all trials to look through."""

import re
import shlex

import pandas as pd

from vadtune.report.blocks import Block, Section, nothing
from vadtune.report.markup import Html, tag
from vadtune.report.run import Run
from vadtune.report.trials import number, params_frame, score, word

N_BEST = 10


def best_frame(run: Run, trials: pd.DataFrame, n_best: int = N_BEST) -> pd.DataFrame:
    """The best COMPLETE trials, best first: `number`, `value`, `best_epoch`, `epochs`, `train_s` and their params."""
    best = trials.dropna(subset=["value"]).nsmallest(n_best, "value")
    by_number = {trial.number: trial for trial in run.trials}
    params = params_frame([by_number[number] for number in best["number"]])
    kept = best[["number", "value", "best_epoch", "last_epoch", "train_s"]].rename(columns={"last_epoch": "epochs"})
    return pd.concat([kept.reset_index(drop=True), params.reset_index(drop=True)], axis=1)


def all_frame(run: Run, trials: pd.DataFrame) -> pd.DataFrame:
    """Every trial: its state, scores, times, place and params, in the order of their numbers."""
    frame = trials.assign(seconds=trials["end_s"] - trials["start_s"]).rename(columns={"last_epoch": "epochs"})
    columns = ["number", "state", "value", "last_value", "epochs", "best_epoch", "seconds", "start_s", "worker"]
    said = [name for name in ("stopped_by", "failure") if (frame[name] != "").any()]
    ordered = sorted(run.trials, key=lambda trial: trial.number)
    params = params_frame(ordered).reset_index(drop=True)
    return pd.concat([frame[[*columns, *said]].reset_index(drop=True), params], axis=1)


def train_command(run: Run, number: int) -> str:
    """The command that trains a trial's configuration again, to be run where `runs/` is."""
    dataset = str(run.settings.data.get("dataset") or run.settings.dataset.name)
    source = f"{run.path.parent.name}/{run.name}:{number}"
    parts = ["python", "-m", "vadtune.train", dataset, "--from", source, "-o", f"{run.name}-{number}"]
    return shlex.join(parts)


def trials_section(run: Run, trials: pd.DataFrame) -> Section:
    """The best ten, why trials failed, and all of them behind a fold."""
    blocks: list[Block] = []
    best = best_frame(run, trials)
    blocks.append(_best_table(run, best) if len(best) else nothing("No trial is complete yet."))
    failures = trials.loc[trials["failure"] != "", "failure"].value_counts()
    if len(failures):
        reasons = [tag("li", f"{reason}{f' ({n} times)' if n > 1 else ''}") for reason, n in failures.head(5).items()]
        blocks.append(tag("div", tag("h3", f"{failures.sum()} failed"), tag("ul", *reasons), class_="failures"))
    if len(trials):
        blocks.append(_all_trials(len(trials)))
    return Section("trials", "Trials", "The best ten", tuple(blocks))


def _best_table(run: Run, frame: pd.DataFrame) -> Html:
    names = {
        "number": "trial",
        "value": run.settings.dataset.measure,
        "best_epoch": "best epoch",
        "train_s": "training, s",
    }
    columns = [str(column) for column in frame]
    numeric = {c: pd.to_numeric(frame[c], errors="coerce").notna().sum() == frame[c].notna().sum() for c in columns}
    heads = [
        tag("th", tag("button", *_breakable(names.get(c, c)), type="button"), scope="col", class_=_side(numeric[c]))
        for c in columns
    ]
    rows = []
    for i, values in enumerate(frame.itertuples(index=False)):
        cells = [_cell(name, value, numeric=numeric[name]) for name, value in zip(columns, values, strict=True)]
        line = train_command(run, int(frame["number"].iloc[i]))
        button = tag("button", "Copy command", type="button", data_copy=line, title=line)
        rows.append(tag("tr", *cells[:2], tag("td", button), *cells[2:], class_="winner" if i == 0 else None))
    head = tag("thead", tag("tr", *heads[:2], tag("th", "train it again", scope="col"), *heads[2:]))
    body = tag("table", head, tag("tbody", *rows), class_="sortable", id="best-trials")
    return tag("div", body, class_="scroll tall", tabindex="0")


def _side(numeric: bool) -> str | None:  # noqa: FBT001
    return "n" if numeric else None


def _breakable(path: str) -> list[Html | str]:
    """A dotted path that may be broken after a dot, and on paper after an underscore, too."""
    pieces: list[Html | str] = []
    for part in re.split(r"(?<=[._])", path):
        pieces += [part, tag("wbr", class_="fine" if part.endswith("_") else None)]
    return pieces[:-1]


def _cell(name: str, value: object, *, numeric: bool) -> Html:
    known = value is not None and value == value
    shown = word(value) if known else "–"
    if known and isinstance(value, float) and name in {"value", "train_s"}:
        shown = score(value) if name == "value" else number(value, 3)
    sort_by = value if numeric and known else None
    return tag("td", shown, class_=_side(numeric), data_v=sort_by)


def _all_trials(n_trials: int) -> Html:
    """Filled in by the page's script from the page's data: thousands of rows would be slow as HTML."""
    search = tag(
        "input", type="search", id="trial-filter", placeholder="Filter: pruned, 17, lr…", aria_label="Filter trials"
    )
    tools = tag("div", search, tag("span", class_="count", id="trial-count", role="status"), class_="tools")
    body = tag("table", class_="sortable", id="all-trials")
    more = tag("button", "Show more", type="button", id="trial-more")
    fold = (
        tag("summary", f"All {n_trials:,} trials"),
        tools,
        tag("div", body, class_="scroll tall", tabindex="0"),
        more,
    )
    return tag("details", *fold, id="all")
