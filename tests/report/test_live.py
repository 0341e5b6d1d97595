"""The live server, asked as a browser asks, and as a stranger would."""

import http.client
import json
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from optuna.trial import FrozenTrial

from tests.report import factory
from vadtune.errors import ArtifactError, ConfigError
from vadtune.report import live
from vadtune.report.figures_importance import Importances, importances
from vadtune.report.live import LiveReport, make_server

Get = Callable[..., http.client.HTTPResponse]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A search that has written half of its study so far; the rest is in `rest.log`."""
    folder = factory.make_run(tmp_path / "search", n_trials=40, finished=False)
    lines = (folder / "study.log").read_bytes().splitlines(keepends=True)
    (tmp_path / "rest.log").write_bytes(b"".join(lines[21:]))
    (folder / "study.log").write_bytes(b"".join(lines[:21]))
    return folder


@pytest.fixture
def get(folder: Path) -> Iterator[Get]:
    """Ask a server of the search, on any free port."""
    server = make_server(LiveReport([folder], rest=0), port=0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    host, port = server.server_address[:2]

    def ask(path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(str(host), port, timeout=20)
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        answer.body = answer.read()  # type: ignore[attr-defined]
        connection.close()
        return answer

    yield ask
    server.shutdown()
    server.server_close()
    thread.join()


def add_the_rest(folder: Path) -> None:
    with (folder / "study.log").open("ab") as file:
        file.write((folder.parent / "rest.log").read_bytes())


def test_the_page_is_served_with_a_strict_policy(get: Get) -> None:
    answer = get("/")
    assert answer.status == 200
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy.split("script-src")[1].split(";")[0]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert b'"live":true' in answer.body  # type: ignore[attr-defined]


def test_it_answers_on_this_machine_only(folder: Path) -> None:
    server = make_server(LiveReport([folder]), port=0)
    assert server.server_address[0] == "127.0.0.1"
    server.server_close()


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", ""])
def test_a_page_of_another_site_is_turned_away(get: Get, host: str) -> None:
    assert get("/state", Host=host).status == 403


@pytest.mark.parametrize("path", ["/../settings.json", "/settings.json", "/report.html"])
def test_no_file_is_served(get: Get, path: str) -> None:
    assert get(path).status == 404


def test_nothing_but_get_is_understood(get: Get) -> None:
    assert get("/", "POST").status == 501


def test_the_state_is_sent_once_and_again_when_the_study_grew(get: Get, folder: Path) -> None:
    first = get("/state")
    tag = first.headers["ETag"]
    assert first.status == 200
    assert get("/state", **{"If-None-Match": tag}).status == 304
    add_the_rest(folder)
    second = get("/state", **{"If-None-Match": tag})
    assert second.status == 200
    before, after = (json.loads(answer.body) for answer in (first, second))  # type: ignore[attr-defined]
    assert len(before["trials"]["rows"]) == 20
    assert len(after["trials"]["rows"]) == 40
    assert after["running"]


def test_a_result_that_appears_is_shown(get: Get, folder: Path, image_run: Path) -> None:
    get("/state")
    add_the_rest(folder)
    for name in ("summary.json", "evaluation.npz"):
        shutil.copy(image_run / name, folder / name)
    state = json.loads(get("/state").body)  # type: ignore[attr-defined]
    assert "less error than the best baseline" in state["main"]
    assert "gallery-0" in state["figures"]
    assert not state["running"]


def test_a_file_that_cannot_be_read_now_keeps_the_last_page_and_says_so(get: Get, folder: Path) -> None:
    before = json.loads(get("/state").body)  # type: ignore[attr-defined]
    settings = (folder / "settings.json").read_text()
    (folder / "settings.json").write_text(settings[:100])
    during = json.loads(get("/state").body)  # type: ignore[attr-defined]
    assert "not JSON" in during["problem"]
    assert during["main"] == before["main"]
    (folder / "settings.json").write_text(settings)
    assert json.loads(get("/state").body)["problem"] == ""  # type: ignore[attr-defined]


def test_the_page_is_not_made_again_while_nothing_changed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = LiveReport([folder], rest=0)
    page, _ = report.page()
    monkeypatch.setattr(live, "read_run", None)
    assert report.page()[0] is page


def test_it_rests_after_making_a_page(folder: Path) -> None:
    report = LiveReport([folder], rest=1000)
    page, _ = report.page()
    add_the_rest(folder)
    assert report.page()[0] is page


def test_importances_are_computed_again_only_when_a_tenth_more_ended(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []

    def counting(trials: Sequence[FrozenTrial]) -> Importances | None:
        counted.append(len(trials))
        return importances(trials)

    monkeypatch.setattr(live, "importances", counting)
    report = LiveReport([folder], rest=0)
    with (folder / "study.log").open("ab") as file:
        file.write((folder.parent / "rest.log").read_bytes().splitlines(keepends=True)[0])
    report.page()
    assert counted == [20]
    log = folder / "study.log"
    log.write_bytes(
        log.read_bytes() + b"".join((folder.parent / "rest.log").read_bytes().splitlines(keepends=True)[1:])
    )
    report.page()
    assert counted == [20, 40]


def test_several_searches_can_be_watched_at_once(folder: Path, image_run: Path) -> None:
    page, _ = LiveReport([folder, image_run]).page()
    assert page.title == "search · digits-vad – vadtune"


def test_what_is_not_a_run_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a run"):
        LiveReport([tmp_path])


def test_a_port_that_is_taken_is_told(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"--port {port}: .*Choose another one"):
            make_server(LiveReport([folder]), port)


def test_a_port_that_cannot_be_is_told(folder: Path) -> None:
    with pytest.raises(ConfigError, match="--port 99999: "):
        make_server(LiveReport([folder]), 99999)
