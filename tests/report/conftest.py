"""Run folders that many tests read and none writes to, and a browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.report import factory
from vadtune.report.page import write_report

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the shared runs are."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="session")
def image_run(runs: Path) -> Path:
    """A finished search on images."""
    return factory.make_run(runs / "digits-vad")


@pytest.fixture(scope="session")
def other_image_run(runs: Path) -> Path:
    """A worse one on the same hidden cells."""
    return factory.make_run(runs / "digits-vae", model="vae", shift=0.02, seed=2)


@pytest.fixture(scope="session")
def table_run(runs: Path) -> Path:
    """A finished search on a table."""
    return factory.make_run(runs / "cancer-vad", images=False)


@pytest.fixture(scope="session")
def hostile_run(runs: Path) -> Path:
    """A finished search on a table whose names are scripts."""
    return factory.make_run(runs / "hostile", images=False, hostile=True)


@pytest.fixture(scope="session")
def hostile_image_run(runs: Path) -> Path:
    """The same with images."""
    return factory.make_run(runs / "hostile-images", hostile=True)


@pytest.fixture(scope="session")
def image_report(image_run: Path, runs: Path) -> Path:
    """The page of the image run."""
    return write_report(image_run, runs / "image.html")


@pytest.fixture(scope="session")
def big_report(runs: Path) -> Path:
    """The page of 5,000 trials of up to 50 epochs."""
    return write_report(factory.make_run(runs / "big", n_trials=5000, max_epochs=50), runs / "big.html")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, from the system and not from playwright."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield started
        started.close()
