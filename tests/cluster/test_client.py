"""A search by Ray Client, on the head of a real cluster that asks for a token; interrupted, killed, come back to."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT

import pandas as pd
import pytest

from tests.patience import PATIENCE_S
from tests.small_runs import assert_filled
from tests.zygote import ROOT
from vadtune.data.datasets import load
from vadtune.data.tables import write_table
from vadtune.errors import ConfigError, DataError
from vadtune.search_client import sent, watch
from vadtune.search_flags import parser
from vadtune.tuning.client import unpack
from vadtune.tuning.study import count_states, read_study

TOKEN, OTHER = "a" * 64, "b" * 64
SMALL = ["--max-epochs", "9", "--missing-rate", "0.2", "--scheduler", "none", "--set", "model.decoder.hidden_dim=16"]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@dataclass
class Head:
    """A cluster of one node, and the home of whoever started it."""

    address: str
    home: Path

    def study(self, name: str) -> Path:
        return self.home / "runs" / name / "study.log"


@pytest.fixture(scope="module")
def head(tmp_path_factory) -> Iterator[Head]:
    pytest.importorskip("grpc", reason="needs ray[client]")
    pytest.importorskip("ray.scripts.scripts", reason="needs ray[default]")
    home, port = tmp_path_factory.mktemp("home"), free_port()
    environment = os.environ | {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    folder = tempfile.mkdtemp(prefix="vt-", dir="/tmp")
    flags = f"--head --block --port=0 --num-cpus=2 --include-dashboard=false --temp-dir={folder} --min-worker-port=0"
    flags += f" --max-worker-port=0 --node-ip-address=127.0.0.1 --ray-client-server-port={port}"
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", *flags.split()]
    with (home / "log").open("w") as log:
        head = subprocess.Popen(ray, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        end = time.monotonic() + PATIENCE_S
        while "--block" not in (home / "log").read_text():
            assert head.poll() is None, (home / "log").read_text()
            assert time.monotonic() < end, (home / "log").read_text()
            time.sleep(0.1)
        yield Head(f"ray://127.0.0.1:{port}", home)
    finally:
        head.terminate()
        head.wait(PATIENCE_S)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> Path:
    """A folder with a table."""
    folder = tmp_path_factory.mktemp("user")
    write_table(load("wine"), folder / "my table.csv")
    return folder


class Watcher:
    """The command on the user's machine; no fork of the zygote, for Ray reads once whether there are tokens."""

    def __init__(self, head: Head, user: Path, name: str, *words: object) -> None:
        arguments = ["my table.csv", "--address", head.address, "--name", name, *SMALL, *map(str, words)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
        self.errors = user / "stderr"
        with (user / "stdout").open("wb") as output, self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "vadtune.search", *arguments],
                cwd=user,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
            )

    def said(self) -> str:
        return self.errors.read_text(encoding="utf-8")

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def wait_for_trials(self, study: Path, n_trials: int) -> None:
        end = time.monotonic() + PATIENCE_S
        while n_complete(study) < n_trials:
            assert self.process.poll() is None, self.said()
            assert time.monotonic() < end, self.said()
            time.sleep(0.1)


@pytest.fixture
def begin(head, user) -> Iterator[Callable[..., Watcher]]:
    """Starts a search and watches it; none outlives the test."""
    begun: list[Watcher] = []

    def start(*arguments: object) -> Watcher:
        begun.append(Watcher(head, user, *arguments))
        return begun[-1]

    yield start
    for watcher in begun:
        watcher.process.kill()
        watcher.process.wait()


def n_complete(study: Path) -> int:
    return count_states(read_study(study))["complete"] if study.exists() else 0


@pytest.mark.cluster
def test_a_search_is_interrupted_then_killed_here_and_goes_on_there_to_its_end(head, user, begin):
    study, here = head.study("tonight"), user / "runs/tonight"
    first = begin("tonight", "--trials", 500)
    first.wait_for_trials(study, 2)
    first.process.send_signal(SIGINT)
    assert first.wait() == 130, first.said()
    assert f"python -m vadtune.search 'my table.csv' --address {head.address}" in first.said()
    assert first.said().rstrip().endswith("--resume")
    assert (here / "study.log").read_bytes() == study.read_bytes()
    assert not (here / "ray").exists()

    n_before = n_complete(study)
    words = ["--resume", "--trials", n_before + 16, "--json"]
    second = begin("tonight", *words)
    second.wait_for_trials(study, n_before + 2)
    second.process.kill()
    second.wait()
    begun = study.with_name("settings.json").read_bytes()  # which every start writes anew
    third = begin("tonight", *words)
    assert third.wait() == 0, third.said()
    assert study.with_name("settings.json").read_bytes() == begun

    document = json.loads((user / "stdout").read_text(encoding="utf-8"))
    assert document["trials"]["complete"] == n_before + 16
    assert (document["run"], document["best"]["artifact"]) == (str(here), str(here / "best"))
    assert json.loads((here / "summary.json").read_text(encoding="utf-8")) == document
    settings = json.loads((here / "settings.json").read_text(encoding="utf-8"))
    assert settings["data"]["dataset"] == "my table.csv"
    assert head.address in settings["command"]
    assert {"report.html", "trials.csv", "study.log", "evaluation.npz"} <= {path.name for path in here.iterdir()}
    impute = [sys.executable, "-m", "vadtune.impute", str(here / "best"), "my table.csv", "-o", "filled.csv"]
    subprocess.run(impute, cwd=user, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=PATIENCE_S)
    assert_filled(pd.read_csv(user / "filled.csv"), pd.read_csv(user / "my table.csv"))


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"RAY_AUTH_MODE": ""}, "the token is missing or wrong: the cluster asks for another one"),
        ({"RAY_AUTH_TOKEN": OTHER}, "the token is missing or wrong: the cluster asks for another one"),
        ({"RAY_AUTH_TOKEN": ""}, "the token is missing or wrong: RAY_AUTH_MODE is token, and there is none here"),
        ({"PORT": "nobody's"}, "no Ray Client server answers there (UNAVAILABLE). Start the head by `ray start"),
    ],
    ids=["nothing", "wrong-token", "no-token", "wrong-port"],
)
def test_whoever_is_not_let_in_is_told_in_a_line(head, user, variables, words):
    address = f"ray://127.0.0.1:{free_port()}" if variables.pop("PORT", None) else head.address
    environment = {"HOME": str(user), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "vadtune.search", "wine", "--address", address],
        cwd=user,
        env=os.environ | environment | variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: --address {address}: {words}")


def sent_of(*arguments: str):
    return sent(parser().parse_args(arguments), list(arguments))


def test_files_that_flags_name_are_sent_by_names_that_are_safe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("vad/my.csv", "vad/my.csv.toml", "-odd\n$.toml"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text("a,b\n")
    words, files = sent_of("--model", "vad", "--name", "vad/my.csv", "vad/my.csv", "--space", "./-odd\n$.toml")
    assert words[:5] == ["--model", "vad", "--name", "vad/my.csv", "vad/my.csv"]
    assert {name: str(path) for name, path in files.items()} == {
        "vad/my.csv": "vad/my.csv",
        "vad/my.csv.toml": "vad/my.csv.toml",
        "space/odd__.toml": "-odd\n$.toml",
    }
    assert words[-2:] == ["--space", "space/odd__.toml"]
    for given in (str(tmp_path / "vad/my.csv"), "../" + tmp_path.name + "/vad/my.csv"):
        words, files = sent_of("--name", given, "--", given)
        assert words == ["--name", given, "my.csv"]
        assert set(files) == {"my.csv", "my.csv.toml"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--storage", "s3://key:secret@bucket/runs"], "the address holds credentials"),
        (["--storage-url", "postgresql://host/studies"], "start the search on a machine of the cluster"),
    ],
    ids=["credentials", "database"],
)
def test_what_must_not_travel_is_refused_before_anybody_is_asked(flags, words):
    arguments = ["wine", "--address", "ray://nowhere.invalid:1", *flags]
    with pytest.raises(ConfigError, match=words):
        watch(parser().parse_args(arguments), arguments, "command")


def test_a_name_is_no_file_and_a_file_that_is_not_here_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sent_of("wine", "--trials", "3") == (["wine", "--trials", "3"], {})
    assert sent_of("/mnt/there.csv") == (["/mnt/there.csv"], {})  # the cluster may see it
    with pytest.raises(DataError, match=r"my\.csv: no such file"):
        sent_of("my.csv")


def test_a_table_too_large_to_send_is_told(tmp_path):
    with (tmp_path / "my.csv").open("wb") as file:
        file.truncate(3 * 10**9)
    with pytest.raises(ConfigError, match=r"3\.0 GB are too much to send"):
        sent_of(str(tmp_path / "my.csv"))


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


@pytest.mark.parametrize(
    "wrong",
    [
        member("best/../../escaped"),
        member("best", tarfile.SYMTYPE, "/etc"),
        member("report.html", tarfile.LNKTYPE, "../study.log"),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=["outside", "link", "hard-link", "pipe"],
)
def test_an_archive_that_is_no_run_folder_is_refused(tmp_path, wrong):
    with tarfile.open(tmp_path / "run.tar", "w") as archive:
        archive.addfile(member("settings.json"), io.BytesIO())
        archive.addfile(wrong, io.BytesIO())
    with pytest.raises(ConfigError, match="run folder of the cluster is not unpacked"):
        unpack(tmp_path / "run.tar", tmp_path / "run")
    assert not (tmp_path / "escaped").exists()
