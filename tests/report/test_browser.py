"""The page in headless Chromium: it draws, asks for nothing, sorts, brushes, and shows hostile names as text."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.report import factory
from vadtune.report.live import LiveReport, make_server
from vadtune.report.page import comparison_page, write_page, write_report
from vadtune.report.run import read_run

pytestmark = pytest.mark.browser

DESKTOP: dict[str, Any] = {"viewport": {"width": 1360, "height": 900}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 800}, "is_mobile": True, "has_touch": True}


@dataclass
class Tab:
    """A page and all that it complained about or asked for."""

    page: Any
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def hear(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.problems.append(message.text)

    def refuse(self, dialog: Any) -> None:
        self.problems.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def drawn(self) -> "Tab":
        self.page.wait_for_selector("html[data-drawn=all]", timeout=60_000)
        return self


def until(page: Any, expression: str, seconds: float = 40) -> None:
    """Wait for it to be true; playwright's own wait compiles text in the page, which the page's policy refuses."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"not true after {seconds} s: {expression}"
        page.wait_for_timeout(50)


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Tab]]:
    """Open an address as a given device; scripts of the page itself are all that may run."""
    contexts = []

    def go(address: str | Path, **options: Any) -> Tab:
        context = browser.new_context(**(DESKTOP | options))
        contexts.append(context)
        page = context.new_page()
        tab = Tab(page)
        page.on("console", tab.hear)
        page.on("pageerror", lambda error: tab.problems.append(str(error)))
        page.on("dialog", tab.refuse)
        page.on("request", lambda request: tab.requests.append(request.url))
        page.goto(address.as_uri() if isinstance(address, Path) else address)
        return tab

    yield go
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_page_draws_everything_and_asks_for_nothing(
    visit: Callable[..., Tab], image_report: Path, device: dict[str, Any], scheme: str
) -> None:
    tab = visit(image_report, color_scheme=scheme, **device).drawn()
    plots = tab.page.locator(".plot[data-figure]")
    assert tab.page.locator(".plot .main-svg").count() >= plots.count()
    assert tab.problems == []
    assert tab.requests == [image_report.as_uri()]
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    ground = tab.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(251, 250, 247)", "dark": "rgb(20, 23, 26)"}[scheme]
    assert "var(--" not in tab.page.evaluate("document.querySelector('#plot-curves').innerHTML")


def test_a_table_and_a_comparison_draw_too(
    visit: Callable[..., Tab], table_run: Path, image_run: Path, other_image_run: Path, runs: Path
) -> None:
    table = write_report(table_run, runs / "table.html")
    compared = write_page(comparison_page([read_run(image_run), read_run(other_image_run)]), runs / "compare.html")
    for path in (table, compared):
        tab = visit(path).drawn()
        assert tab.problems == []
        assert tab.requests == [path.as_uri()]


def test_hostile_names_are_text(
    visit: Callable[..., Tab], hostile_run: Path, hostile_image_run: Path, runs: Path
) -> None:
    for folder in (hostile_run, hostile_image_run):
        tab = visit(write_report(folder, runs / f"{folder.name}.html")).drawn()
        tab.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        tab.page.wait_for_selector("#all-trials tbody tr")
        assert tab.problems == []
        assert tab.page.locator("img").count() == 0
        assert factory.HOSTILE in tab.page.inner_text("#all-trials thead")
        assert factory.HOSTILE in tab.page.inner_text(".facts")
        assert "</script><img" in tab.page.text_content("#plot-parallel")


def test_the_best_ten_sort_by_any_column(visit: Callable[..., Tab], image_report: Path) -> None:
    page = visit(image_report).page
    column = "[...document.querySelectorAll('#best-trials tbody tr')].map(row => +row.cells[1].textContent)"
    scores = page.evaluate(column)
    assert scores == sorted(scores)
    button = page.locator("#best-trials th button").nth(1)
    button.click()
    assert page.evaluate(column) == sorted(scores)
    button.click()
    assert page.evaluate(column) == sorted(scores, reverse=True)
    assert page.locator("#best-trials th").nth(1).get_attribute("aria-sort") == "descending"
    page.locator("#best-trials th button", has_text="model.log_var").click()
    last = page.evaluate("document.querySelector('#best-trials tbody').lastElementChild.textContent")
    assert "–" in last


def test_all_trials_can_be_filtered_and_sorted(visit: Callable[..., Tab], image_report: Path) -> None:
    page = visit(image_report).page
    page.locator("#all > summary").click()
    assert page.inner_text("#trial-count") == "60 of 60 trials"
    page.fill("#trial-filter", "state=failed")
    assert page.inner_text("#trial-count") == "1 of 60 trials"
    assert "imputation_rmse is nan" in page.inner_text("#all-trials tbody")
    page.fill("#trial-filter", "17")
    assert page.locator("#all-trials tbody tr td").first.inner_text() == "17"
    page.fill("#trial-filter", "")
    page.locator("#all-trials th button", has_text="value").first.click()
    values = page.evaluate("[...document.querySelectorAll('#all-trials tbody tr')].map(r => r.cells[2].textContent)")
    known = [float(v) for v in values if v != "–"]
    assert known == sorted(known)
    assert values[-1] == "–"


def test_a_trial_of_the_table_opens_to_what_it_reported(
    visit: Callable[..., Tab], image_run: Path, image_report: Path
) -> None:
    tab = visit(image_report)
    tab.page.locator("#all > summary").click()
    tab.page.fill("#trial-filter", "17")
    tab.page.locator("#all-trials button.more").click()
    reports = read_run(image_run).trials[17].intermediate_values
    said = tab.page.inner_text("#all-trials td.reports")
    assert said.count(": ") == len(reports)
    assert f"{min(reports)}: {reports[min(reports)]:.4g}" in said
    tab.page.keyboard.press("Enter")
    assert tab.page.locator("#all-trials td.reports").count() == 0
    assert tab.problems == []


def test_parallel_coordinates_brush_and_let_go(visit: Callable[..., Tab], image_report: Path) -> None:
    tab = visit(image_report).drawn()
    page = tab.page
    page.locator("#plot-parallel").scroll_into_view_if_needed()
    strip = page.locator("#plot-parallel .brush").first
    box = strip.bounding_box()
    middle = box["x"] + box["width"] / 2
    page.mouse.move(middle, box["y"] + box["height"] * 0.4)
    page.mouse.down()
    page.mouse.move(middle, box["y"] + box["height"] * 0.95, steps=6)
    page.mouse.up()
    status = page.locator("#plot-parallel + .brushed, .scroll-x .brushed").first
    kept, of, total = status.inner_text().split(" ")[:3]
    assert of == "of"
    assert 0 < int(kept) < int(total)
    gone = page.evaluate("document.getElementById('plot-parallel').data[0].y.filter(v => v === null).length")
    assert gone == int(total) - int(kept)
    page.mouse.click(middle, box["y"] + box["height"] * 0.5)
    assert status.inner_text() == ""
    strip.focus()
    page.keyboard.press("ArrowUp")
    assert "trials kept" in status.inner_text()
    page.keyboard.press("Escape")
    assert status.inner_text() == ""
    assert tab.problems == []


def test_brushes_and_zoom_outlive_a_change_of_theme(visit: Callable[..., Tab], image_report: Path) -> None:
    page = visit(image_report, color_scheme="light").drawn().page
    page.locator("#plot-parallel .brush").first.focus()
    page.keyboard.press("ArrowUp")
    page.evaluate("Plotly.relayout('plot-curves', {'xaxis.range': [2, 8]})")
    line = "document.getElementById('plot-curves').data.at(-1).line.color"
    assert page.evaluate(line) == "#d55e00"
    page.click("#theme")
    until(page, f"{line} === '#f58a4b'")
    assert page.evaluate("document.getElementById('plot-curves').layout.xaxis.range") == [2, 8]
    assert "trials kept" in page.inner_text(".brushed")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_a_command_is_copied(visit: Callable[..., Tab], image_report: Path) -> None:
    page = visit(image_report, permissions=["clipboard-read", "clipboard-write"]).page
    page.locator("#best-trials button[data-copy]").first.click()
    until(page, "navigator.clipboard.readText().then(t => t.startsWith('python -m vadtune.train digits24 --from '))")


def test_five_thousand_trials_are_drawn(visit: Callable[..., Tab], big_report: Path) -> None:
    tab = visit(big_report)
    tab.page.wait_for_selector("#plot-verdict .main-svg")
    assert tab.drawn().problems == []


def test_the_page_prints_in_light_colours_within_its_paper(visit: Callable[..., Tab], image_report: Path) -> None:
    page = visit(image_report, color_scheme="dark").drawn().page
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.getElementById('plot-curves').data.at(-1).line.color") == "#d55e00"
    widths = page.evaluate(
        "[...document.querySelectorAll('.plot .main-svg')].map(e => e.getBoundingClientRect().width)"
    )
    assert max(widths) <= 860
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.getElementById('plot-curves').data.at(-1).line.color") == "#f58a4b"
    assert len(page.pdf()) > 50_000


def test_a_live_page_renews_itself_without_losing_what_the_reader_did(
    visit: Callable[..., Tab], tmp_path: Path
) -> None:
    folder = factory.make_run(tmp_path / "search", n_trials=40, finished=False)
    log = folder / "study.log"
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(lines[:25]))
    server = make_server(LiveReport([folder], rest=0), port=0)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        tab = visit(f"http://127.0.0.1:{server.server_address[1]}/")
        page = tab.drawn().page
        until(page, "Number(document.documentElement.dataset.updates) >= 1")
        page.evaluate("document.getElementById('table-curves').open = true")
        page.evaluate("document.getElementById('plot-history').marked = 'same element'")
        page.locator("#plot-parallel .brush").first.focus()
        page.keyboard.press("ArrowUp")
        points = "document.getElementById('plot-history').calcdata.flat().length"
        before = page.evaluate(points)
        with log.open("ab") as file:
            file.write(b"".join(lines[25:]))
        until(page, "Number(document.documentElement.dataset.updates) >= 2")
        assert "40" in page.inner_text(".facts")
        assert page.evaluate("document.getElementById('plot-history').marked") == "same element"
        assert page.evaluate("document.getElementById('table-curves').open")
        assert "trials kept" in page.inner_text(".brushed")
        page.locator("#plot-history").scroll_into_view_if_needed()
        until(page, f"{points} > {before}")
        assert tab.problems == []
        assert {url.split("/")[2] for url in tab.requests} == {f"127.0.0.1:{server.server_address[1]}"}
    finally:
        server.shutdown()
        server.server_close()


def test_images_are_written_when_kaleido_is_there(browser: Any, image_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed")
    from vadtune.report.images import write_images
    from vadtune.report.page import Page, run_page

    whole = run_page(read_run(image_run))
    files = write_images(Page(whole.title, whole.crumb, whole.sections[:1]), tmp_path / "images")
    assert sorted(path.name for path in files) == ["verdict.png", "verdict.svg"]
    assert files[0].read_bytes().startswith(b"\x89PNG")
    assert "Iterative PCA" in files[1].read_text()
    assert browser is not None
