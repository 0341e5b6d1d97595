"""The page as a file: self-contained, hostile text as text, small, whole or not there."""

import ast
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vadtune.report
from tests.report import factory
from vadtune.errors import ArtifactError
from vadtune.report import page as pages
from vadtune.report.images import plain_figure
from vadtune.report.markup import Html, tag, text
from vadtune.report.page import charts, render, run_page, write_report
from vadtune.report.run import read_run
from vadtune.report.sections_params import _without_ranges
from vadtune.report.sections_trials import _breakable
from vadtune.report.theme import CONFIG, DARK, LIGHT, label


class Reader(HTMLParser):
    """Collects elements, scripts and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "".join(self.words)


def page_data(page: str) -> dict[str, object]:
    found = re.search(r'<script type="application/json" id="page-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data: dict[str, object] = json.loads(found[1])
    return data


def test_the_report_lands_in_the_run_folder(image_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(image_run, tmp_path / "r"))
    assert write_report(copy) == copy / "report.html"
    assert [path.name for path in copy.iterdir() if path.name.startswith(".")] == []


def test_a_report_that_cannot_be_written_leaves_nothing(image_run: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="Choose another file with -o"):
        write_report(image_run, tmp_path / "file" / "report.html")


def test_the_page_has_all_seven_sections(image_report: Path) -> None:
    found = Reader(image_report.read_text())
    ids = [attrs.get("id") for name, attrs in found.tags if name == "section"]
    assert ids == ["verdict", "history", "learning", "parameters", "imputation", "latent", "trials"]


def test_every_figure_has_its_place_and_most_a_table(image_report: Path) -> None:
    content = image_report.read_text()
    found = Reader(content)
    places = [attrs["data-figure"] for name, attrs in found.tags if "data-figure" in attrs]
    figures = page_data(content)["figures"]
    assert isinstance(figures, dict)
    assert places == list(figures)
    assert sum(name == "details" for name, _ in found.tags) >= 14
    assert content.count("plotly.js v") == 1


def test_nothing_is_loaded_from_anywhere(image_report: Path) -> None:
    found = Reader(image_report.read_text())
    for name, attrs in found.tags:
        for key in ("src", "href", "action", "data", "poster"):
            value = attrs.get(key)
            assert value is None or value.startswith("#") or value == "data:,", (name, attrs)
    policy = next(attrs["content"] for _, attrs in found.tags if attrs.get("http-equiv"))
    assert policy is not None
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy
    script_sources = re.search(r"script-src ([^;]*)", policy)
    assert script_sources is not None
    assert "unsafe" not in script_sources[1]
    data = page_data(image_report.read_text())
    assert data["config"] == CONFIG
    assert CONFIG["showSendToCloud"] is False
    assert CONFIG["plotlyServerURL"] == ""


def test_hostile_names_stand_on_the_page_as_text_only(hostile_run: Path, hostile_image_run: Path) -> None:
    for folder in (hostile_run, hostile_image_run):
        content = render(run_page(read_run(folder)))
        found = Reader(content)
        assert factory.HOSTILE in found.text
        assert [name for name, _ in found.tags if name == "img"] == []
        assert [key for _, attrs in found.tags for key in attrs if key.startswith("on")] == []
        assert sum(name == "script" for name, _ in found.tags) == 3
        assert factory.HOSTILE not in content


def test_hostile_names_are_escaped_in_figures(hostile_run: Path) -> None:
    figures = [pages.figure_data(chart.figure) for chart in charts(run_page(read_run(hostile_run))).values()]
    for figure in figures:
        figure["layout"].pop("meta", None)  # the page's script sets these names as text
    drawn = json.dumps(figures)
    assert "<img" not in drawn
    assert "&lt;img" in drawn


@given(st.text())
def test_no_text_can_write_html(words: str) -> None:
    found = Reader(f"<p>{text(words)}</p>")
    assert [name for name, _ in found.tags] == ["p"]
    attribute = Reader(tag("p", words, title=words))
    assert len(attribute.tags) == 1
    assert list(attribute.tags[0][1]) == ["title"]


@given(st.text())
def test_no_text_can_end_the_data_of_the_page(words: str) -> None:
    written = pages._json_for_html({words: words})
    assert "<" not in written
    assert json.loads(written) == {words: words}


def test_plotly_can_read_no_markup_or_template_in_a_name() -> None:
    assert label("<b>%{x}</b>&") == "&lt;b&gt;%\u200b{x}&lt;/b&gt;&amp;"


def test_html_is_not_escaped_twice() -> None:
    assert text(Html("<b>")) == "<b>"
    assert tag("p", tag("b", "a&b")) == "<p><b>a&amp;b</b></p>"


def test_a_running_search_has_a_page_that_says_what_is_missing(tmp_path: Path) -> None:
    content = Reader(render(run_page(read_run(factory.make_run(tmp_path / "r", finished=False)))))
    assert "Best validation error so far" in content.text
    assert "The winner is scored on test rows when the search is over." in content.text


@pytest.mark.parametrize("n_trials", [0, 1, 3])
def test_a_run_of_hardly_any_trials_has_a_page(tmp_path: Path, n_trials: int) -> None:
    folder = factory.make_run(tmp_path / "r", n_trials=3, finished=False)
    lines = (folder / "study.log").read_text().splitlines(keepends=True)
    (folder / "study.log").write_text("".join(lines[: 1 + n_trials]))
    content = Reader(render(run_page(read_run(folder)))).text
    assert "Too few trials have ended to tell which parameters mattered." in content


def test_a_run_that_was_interrupted_at_once_has_a_page(tmp_path: Path) -> None:
    folder = factory.make_run(tmp_path / "r", n_trials=3, finished=False)
    (folder / "study.log").unlink()
    content = Reader(render(run_page(read_run(folder)))).text
    assert "No result yet" in content
    assert "No trial has reported yet." in content


def test_pixels_without_a_known_shape_are_shown_as_columns(image_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(image_run, tmp_path / "r"))
    settings = json.loads((copy / "settings.json").read_text())
    settings["dataset"]["image_shape"] = None
    (copy / "settings.json").write_text(json.dumps(settings))
    assert "Error by column" in render(run_page(read_run(copy)))


def test_the_best_ten_come_with_a_command_each(image_report: Path) -> None:
    found = Reader(image_report.read_text())
    commands = [attrs["data-copy"] for name, attrs in found.tags if name == "button" and "data-copy" in attrs]
    trains = [line for line in commands if line and line.startswith("python -m vadtune.train digits24 --from ")]
    assert len(trains) == 10
    assert re.search(r"/digits-vad:\d+ -o digits-vad-\d+$", trains[0])


def test_commands_of_hostile_names_are_quoted_for_the_shell(hostile_run: Path) -> None:
    found = Reader(render(run_page(read_run(hostile_run))))
    line = next(
        attrs["data-copy"]
        for _, attrs in found.tags
        if (attrs.get("data-copy") or "").startswith("python -m vadtune.train")
    )
    assert line is not None
    assert f"'{factory.HOSTILE}'" in line


def test_five_thousand_trials_of_fifty_epochs_stay_small(big_report: Path) -> None:
    assert big_report.stat().st_size < 15e6


def test_both_themes_name_the_same_colours(image_report: Path) -> None:
    assert LIGHT.keys() == DARK.keys()
    used = set(re.findall(r"var\(--(\w+)\)", image_report.read_text().split('id="page-data"')[1].split("</script>")[0]))
    assert used <= LIGHT.keys()


def test_images_stand_alone_in_plain_colours(image_run: Path) -> None:
    for chart in charts(run_page(read_run(image_run))).values():
        assert "var(--" not in plain_figure(chart).to_json()


def test_the_room_imports_neither_torch_nor_ray() -> None:
    folder = Path(vadtune.report.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.split(".")[0] not in {"torch", "ray"}, path
                assert not re.match(r"vadtune\.(models|training|tuning)", name), path


def test_the_winner_stands_beside_the_ranges_it_was_searched_in_and_what_was_fixed(image_run: Path) -> None:
    run = read_run(image_run)
    page = render(run_page(run))
    words = Reader(page).text
    assert "of 8 … 128, logarithmic" in words
    assert "Fixed settings" in words
    space = {
        "model": {"kind": "vad", "latent_dim": {"low": 2, "high": 8}, "decoder": {"output": "sigmoid"}},
        "first": [{"model": {"latent_dim": 4}}],
    }
    assert _without_ranges(space) == {"model": {"kind": "vad", "decoder": {"output": "sigmoid"}}}


def test_heads_of_the_best_ten_may_be_broken_after_dots_and_on_paper_after_underscores() -> None:
    heads = [str(piece) for piece in _breakable("train.learning_rate")]
    assert heads == ["train.", "<wbr>", "learning_", '<wbr class="fine">', "rate"]
