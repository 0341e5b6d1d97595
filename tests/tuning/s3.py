"""A bucket on moto's server, and a proxy before it that answers slowly or not at all when told to."""

import http.client
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BUCKET = "lake"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def bucket(folder: Path) -> Iterator[str]:
    """The URL of an S3 server with an empty bucket; it keeps all in memory."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-p", str(port)]
    with (folder / "moto.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | ENVIRONMENT)
        try:
            wait_for(url, server)
            request = urllib.request.Request(f"{url}/{BUCKET}", method="PUT", headers={"Host": "s3.amazonaws.com"})
            urllib.request.urlopen(request, timeout=10).close()
            yield url
        finally:
            server.kill()
            server.wait()


def wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    """Until moto's server answers."""
    for _ in range(300):
        assert server.poll() is None, "moto's server ended"
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
        else:
            return
    raise AssertionError("moto's server does not answer")


class Weather:
    """What the proxy does to requests.

    Attributes:
        error_rate: Share of the requests that get a 500.
        stall_rate: Share of the requests that are answered only after `STALL_S`.
        seen: How many requests of each kind came, and how many of them got a 500 or stalled.
    """

    STALL_S = 2.0

    def __init__(self) -> None:
        self.error_rate, self.stall_rate = 0.0, 0.0
        self.seen: Counter[str] = Counter()
        self.random = random.Random(0)


@contextmanager
def proxy(upstream: str) -> Iterator[tuple[str, Weather]]:
    """A server before another, and its weather."""
    weather = Weather()
    handler = type("Handler", (_Handler,), {"upstream": upstream.removeprefix("http://"), "weather": weather})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", weather
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    upstream: str
    weather: Weather
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self._body()
        weather = self.weather
        weather.seen[self.command] += 1
        if weather.random.random() < weather.stall_rate:
            weather.seen["stalled"] += 1
            time.sleep(weather.STALL_S)
        if weather.random.random() < weather.error_rate:
            weather.seen["500"] += 1
            self._answer(
                500, {}, b"<Error><Code>InternalError</Code><Message>We encountered an error</Message></Error>"
            )
            return
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            dropped = ("transfer-encoding", "expect", "content-length")
            headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
            connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
            response = connection.getresponse()
            self._answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        length = headers.get("Content-Length", "0") if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing."""
