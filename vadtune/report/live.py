"""The report while a search runs: served on 127.0.0.1 alone, renewed from the study, drawn again without flicker."""

import hashlib
import json
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from vadtune.errors import ConfigError, VadtuneError
from vadtune.report.figures_importance import Importances, importances
from vadtune.report.page import Page, comparison_page, content_policy, page_state, render, run_page
from vadtune.report.run import Run, read_run, study_reader
from vadtune.report.study import StudyReader

HOST = "127.0.0.1"
PORT = 8237
FILES = ("settings.json", "study.log", "summary.json", "evaluation.npz")
# A page takes about a second to make: at most a sixth of one core is taken from the search.
REST = 5.0
GROWTH = 1.1


class LiveReport:
    """The page of one or several runs as of now; it reads only what was added, and only when something was."""

    def __init__(self, run_dirs: Sequence[Path], *, rest: float = REST) -> None:
        self._run_dirs = [run_dir.resolve() for run_dir in run_dirs]
        self._readers: dict[Path, StudyReader] = {}
        self._rest = rest
        self._lock = threading.Lock()
        self._seen: object = None
        self._next = 0.0
        self._known: tuple[int, Importances | None] = (0, None)
        self._problem = ""
        self._page = self._make()

    def page(self) -> tuple[Page, str]:
        """The newest page, and what keeps it from being newer, if something does."""
        with self._lock:
            if time.monotonic() >= self._next and self._fingerprint() != self._seen:
                try:
                    self._page, self._problem = self._make(), ""
                except VadtuneError as error:  # a file in the middle of being replaced: the next look may do better
                    self._problem = str(error)
            return self._page, self._problem

    def _make(self) -> Page:
        began = time.monotonic()
        seen = self._fingerprint()
        runs = [read_run(run_dir, self._reader(run_dir)) for run_dir in self._run_dirs]
        page = comparison_page(runs) if len(runs) > 1 else run_page(runs[0], self._importances(runs[0]))
        self._seen = seen
        self._next = time.monotonic() + self._rest * (time.monotonic() - began)
        return page

    def _reader(self, run_dir: Path) -> StudyReader | None:
        if run_dir not in self._readers and (run_dir / "study.log").is_file():
            self._readers[run_dir] = study_reader(run_dir)
        return self._readers.get(run_dir)

    def _importances(self, run: Run) -> Importances | None:
        """Computed again only when a tenth more trials have ended."""
        n_ended = sum(trial.state.is_finished() for trial in run.trials)
        before, found = self._known
        if found is None or n_ended >= GROWTH * before or n_ended < before:
            self._known = (n_ended, importances(run.trials))
        return self._known[1]

    def _fingerprint(self) -> object:
        return [_stamp(run_dir / name) for run_dir in self._run_dirs for name in FILES]


def make_server(report: LiveReport, port: int | None = None) -> ThreadingHTTPServer:
    """A server of the report on 127.0.0.1; None takes PORT, or any free port when that is taken.

    Raises:
        ConfigError: The port is taken.
    """
    handler = type("Handler", (_Handler,), {"report": report})
    for number in (PORT, 0) if port is None else (port,):
        try:
            return ThreadingHTTPServer((HOST, number), handler)
        except (OSError, OverflowError) as error:
            problem = getattr(error, "strerror", None) or str(error)
    raise ConfigError(f"--port {port}: {problem}. Choose another one.")


class _Handler(BaseHTTPRequestHandler):
    """Answers `/` with the page and `/state` with what changes in it; nothing else, and to this machine only."""

    report: LiveReport
    server_version = "vadtune"
    sys_version = ""
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:
        """The page, or its state unless the browser has it already."""
        if not self._is_for_this_server():
            # A page of another site whose name was pointed at 127.0.0.1 (DNS rebinding) says its own name here.
            self._answer(HTTPStatus.FORBIDDEN, b"This server answers to 127.0.0.1 and localhost only.\n", "text/plain")
        elif self.path == "/":
            page, _ = self.report.page()
            self._answer(HTTPStatus.OK, render(page, live=True).encode(), "text/html; charset=utf-8")
        elif self.path == "/state":
            self._answer_state()
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"Not here. The report is at /.\n", "text/plain")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Requests are not worth a line on the terminal."""

    def _answer_state(self) -> None:
        page, problem = self.report.page()
        body = json.dumps(page_state(page) | {"problem": problem}, separators=(",", ":")).encode()
        tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
        if self.headers.get("If-None-Match") == tag:
            self._answer(HTTPStatus.NOT_MODIFIED, b"", "application/json", tag)
        else:
            self._answer(HTTPStatus.OK, body, "application/json", tag)

    def _answer(self, status: HTTPStatus, body: bytes, kind: str, tag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", content_policy(live=True) + "; frame-ancestors 'none'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(body)

    def _is_for_this_server(self) -> bool:
        port = self.connection.getsockname()[1]
        return self.headers.get("Host") in {f"{name}:{port}" for name in (HOST, "localhost")}


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
