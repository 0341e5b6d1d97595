"""The page: sections of text and figures as one HTML file that asks nothing of any network."""

import base64
import hashlib
import json
import math
import numbers
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import plotly.io as pio
from plotly.offline import get_plotlyjs

from vadtune.errors import ArtifactError
from vadtune.report import sections
from vadtune.report.blocks import Chart, Section
from vadtune.report.figures_comparison import run_names
from vadtune.report.figures_importance import Importances
from vadtune.report.markup import Html, tag
from vadtune.report.run import Run, read_run
from vadtune.report.sections_comparison import comparison_sections
from vadtune.report.sections_trials import all_frame
from vadtune.report.theme import CONFIG, THEMES, css_variables
from vadtune.report.trials import trials_frame


@dataclass(frozen=True, eq=False)
class Page:
    """A report before it is HTML: `crumb` stands beside the name of the program, `trials` is the table of all."""

    title: str
    crumb: str
    sections: tuple[Section, ...]
    trials: dict[str, Any] | None = None
    is_running: bool = False


def write_report(run_dir: Path, output: Path | None = None) -> Path:
    """Write the report of a run as one self-contained HTML file, atomically.

    Args:
        run_dir: A run folder, finished or not.
        output: The file to write; None is `report.html` in the run folder.

    Returns:
        The path of the file.

    Raises:
        ArtifactError: The folder is not a run, was made by a newer version, or the file cannot be written.
    """
    return write_page(run_page(read_run(run_dir)), output or run_dir / "report.html")


def run_page(run: Run, known: Importances | None = None) -> Page:
    """All sections of one run; `known` saves computing the importances again."""
    table = all_frame(run, trials_frame(run))
    values = [[_plain(value) for value in row] for row in table.itertuples(index=False)]
    made = sections.run_sections(run, known)
    return Page(
        f"{run.name} – vadtune",
        run.name,
        made,
        {"columns": [str(name) for name in table], "rows": values, "reports": _reports(run)},
        run.is_running,
    )


def _reports(run: Run) -> dict[str, list[list[object]]]:
    """Number of a trial -> its epochs and the RMSE at each."""
    histories = {str(trial.number): sorted(trial.intermediate_values.items()) for trial in run.trials}
    return {
        n: [[_plain(e) for e, _ in pairs], [_plain(v) for _, v in pairs]] for n, pairs in histories.items() if pairs
    }


def comparison_page(runs: Sequence[Run]) -> Page:
    """Several runs side by side."""
    names = " · ".join(run_names(runs))
    return Page(f"{names} – vadtune", names, comparison_sections(runs), is_running=any(run.is_running for run in runs))


def page_state(page: Page) -> dict[str, Any]:
    """What changes in a live page: its sections and contents as HTML, its figures and its trials."""
    parts = body_parts(page, live=True)
    texts = {"title": page.title, "nav": parts[1], "main": parts[2], "running": page.is_running}
    return texts | {"figures": _figures(page), "trials": page.trials}


def write_page(page: Page, output: Path) -> Path:
    """Write a page to a temporary file beside `output` and rename it."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{output.name}.", dir=output.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(render(page))
            Path(name).chmod(0o644)
            Path(name).replace(output)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(f"{output}: {error.strerror}. Choose another file with -o.") from None
    return output


def render(page: Page, *, live: bool = False) -> str:
    """The page as HTML; `live` lets it ask its own server for news, and nobody else."""
    policy = tag("meta", http_equiv="Content-Security-Policy", content=content_policy(live=live))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        None if live else policy,
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("link", rel="icon", href="data:,"),
        tag("title", page.title),
        tag("style", Html(_style())),
    )
    scripts = (
        tag("script", Html(_plotly_js())),
        tag("script", _json_for_html(_page_data(page, live=live)), type="application/json", id="page-data"),
        tag("script", Html(_script())),
    )
    body = tag("body", tag("div", *body_parts(page, live=live), class_="layout"), *scripts)
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def body_parts(page: Page, *, live: bool) -> list[Html]:
    """Masthead, table of contents, sections and footer."""
    status = tag("span", "live", class_="status still", id="status", role="status") if live else None
    toggle = tag("button", "Light / dark", id="theme", type="button")
    masthead = tag(
        "header",
        tag("span", "vadtune", class_="brand"),
        tag("span", page.crumb, class_="crumb"),
        status,
        toggle,
        class_="masthead",
    )
    links = [tag("li", tag("a", section.short, href=f"#{section.id}")) for section in page.sections]
    contents = tag("nav", tag("ol", *links), class_="toc", aria_label="Sections")
    main = tag("main", *(section.html() for section in page.sections))
    footer = tag("footer", "One file, made by vadtune; it holds all of its data and loads nothing.")
    noscript = tag("noscript", tag("p", "The charts need JavaScript; the tables beside them do not.", class_="note"))
    return [masthead, contents, Html(main.replace("<main>", f"<main>{noscript}", 1)), footer]


def figure_data(figure: go.Figure) -> dict[str, Any]:
    """A figure as plain JSON values, arrays as base64."""
    values: dict[str, Any] = json.loads(pio.to_json(figure, validate=False, engine="json"))
    return {"data": values["data"], "layout": values["layout"]}


def charts(page: Page) -> dict[str, Chart]:
    """All charts of a page by id, in their order."""
    return {chart.id: chart for section in page.sections for chart in section.charts()}


def content_policy(*, live: bool) -> str:
    """A Content-Security-Policy that names the two scripts by hash and lets nothing be fetched from anywhere."""
    hashes = " ".join(_hash(script) for script in (_plotly_js(), _script()))
    connect = "'self'" if live else "'none'"
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        f"connect-src {connect}; base-uri 'none'; form-action 'none'"
    )


def _figures(page: Page) -> dict[str, Any]:
    return {name: figure_data(chart.figure) for name, chart in charts(page).items()}


def _page_data(page: Page, *, live: bool) -> dict[str, Any]:
    return {"figures": _figures(page), "themes": THEMES, "config": CONFIG, "live": live, "trials": page.trials}


def _json_for_html(values: object) -> Html:
    """JSON in which nothing can end the script element or begin a comment in it."""
    plain = json.dumps(values, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return Html(plain)


def _plain(value: object) -> object:
    """A cell of the table of trials as JSON: numbers of six digits, None for what is unknown."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(f"{float(value):.6g}") if math.isfinite(float(value)) else None
    return str(value)


def _style() -> str:
    light, dark = css_variables("light"), css_variables("dark")
    return (
        f":root{{{light}color-scheme:light}}:root[data-theme=dark]{{{dark}color-scheme:dark}}"
        f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}color-scheme:dark}}}}"
        f"@media print{{:root,:root[data-theme=dark]{{{light}color-scheme:light}}}}"
        f".printing:root{{{light}}}" + _asset("page.css")
    )


@cache
def _plotly_js() -> str:
    script: str = get_plotlyjs()
    return script.replace("</script", "<\\/script")


def _script() -> str:
    return _asset("parallel.js") + _asset("page.js")


@cache
def _asset(name: str) -> str:
    return (resources.files("vadtune.report") / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
