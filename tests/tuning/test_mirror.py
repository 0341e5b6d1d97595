"""A run whose record is copied to a storage: a folder, and S3 that fails now and then."""

import json
import os
from pathlib import Path

import pytest

from tests.tuning import s3
from vadtune.data.storage import Storage, _connect, open_storage, orphans
from vadtune.data.stored_run import fetch, local_copy
from vadtune.errors import ArtifactError, ConfigError
from vadtune.tuning import mirror
from vadtune.tuning.lock import me
from vadtune.tuning.mirror import Mirror, bring_home, check_unused, publish

SETTINGS = {"format_version": 1, "search": {"storage": "filled in"}}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "settings.json").write_text(json.dumps(SETTINGS), encoding="utf-8")
    (folder / "study.log").write_bytes(b"one\ntwo\n")
    return folder


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "shared" / "run"))


def copied(run: Path, storage: Storage) -> Mirror:
    copy = Mirror(run, storage, lambda: None)
    copy.start()
    copy.stop()
    copy.finish()
    return copy


def test_a_record_is_copied_whole_lines_only_and_found_again(run, storage, tmp_path):
    with (run / "study.log").open("ab") as file:
        file.write(b"thr")
    assert copied(run, storage).problem is None
    assert storage.read("study.log") == b"one\ntwo\n"
    assert json.loads(storage.read("settings.json"))["search"]["storage"] is None
    assert storage.read("owner.json") is None
    fetch(storage, tmp_path / "elsewhere")
    assert (tmp_path / "elsewhere" / "study.log").read_bytes() == b"one\ntwo\n"
    settings = json.loads((tmp_path / "elsewhere" / "settings.json").read_text(encoding="utf-8"))
    assert settings["search"]["storage"] == storage.address


def test_the_record_is_copied_again_and_again_while_the_search_runs(run, storage, monkeypatch):
    monkeypatch.setattr(Mirror, "PERIOD_S", 0.05)
    rounds = []
    copy = Mirror(run, storage, lambda: rounds.append(1) or (run / "trials.csv").write_text(f"{len(rounds)}"))
    copy.start()
    while len(rounds) < 4:
        pass
    assert int(storage.read("trials.csv") or 0) >= 2
    copy.stop()
    copy.finish()
    assert int(storage.read("trials.csv") or 0) == len(rounds)


def test_the_result_is_published_without_checkpoints_and_locks(run, storage):
    for name in ("best/model.safetensors", "report.html", "ray/a/checkpoint_000000/x", "search.lock", "study.log.torn"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("x", encoding="utf-8")
    publish(run, storage)
    root = Path(storage.address)
    found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    assert found == {"best/model.safetensors", "report.html"}


def test_going_on_takes_the_copy_only_if_it_is_ahead(run, storage):
    copied(run, storage)
    (run / "study.log").write_bytes(b"one\ntwo\nthree\n")
    bring_home(run, storage)
    assert (run / "study.log").read_bytes() == b"one\ntwo\nthree\n"
    storage.write("study.log", b"one\ntwo\nthree\nfour\n")
    bring_home(run, storage)
    assert (run / "study.log").read_bytes() == b"one\ntwo\nthree\nfour\n"
    storage.write("study.log", b"one\nanother\n")
    with pytest.raises(ConfigError, match="both went on"):
        bring_home(run, storage)


def test_going_on_where_another_search_writes_is_refused_until_it_is_silent(run, storage, tmp_path, monkeypatch):
    copied(run, storage)
    storage.write("owner.json", json.dumps(me() | {"host": "elsewhere", "pid": 7}).encode())
    with pytest.raises(ConfigError, match="process 7 on elsewhere searched here"):
        bring_home(tmp_path / "new", storage)
    monkeypatch.setattr(mirror, "SILENCE_S", -1.0)
    bring_home(tmp_path / "new", storage)
    assert (tmp_path / "new" / "study.log").exists()


def test_going_on_after_a_dead_search_of_this_host_need_not_wait(run, storage, tmp_path):
    copied(run, storage)
    storage.write("owner.json", json.dumps(me() | {"started": 1.0}).encode())
    bring_home(tmp_path / "new", storage)
    assert (tmp_path / "new" / "study.log").exists()


def test_an_address_without_a_run_is_told(storage, tmp_path):
    bring_home(tmp_path / "new", storage)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ArtifactError, match="not a run"):
        fetch(storage, tmp_path / "new")


def test_a_new_run_does_not_begin_where_one_lies(run, storage):
    check_unused(storage)
    copied(run, storage)
    with pytest.raises(ConfigError, match="exists already"):
        check_unused(storage)


def test_a_folder_is_its_own_local_copy(run):
    with local_copy(str(run)) as folder:
        assert folder == run


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("moto", reason="needs moto[server]")
    folder = tmp_path_factory.mktemp("moto")
    with s3.bucket(folder) as url, s3.proxy(url) as (address, weather), pytest.MonkeyPatch.context() as patch:
        for key in [key for key in os.environ if key.startswith("AWS_")]:
            patch.delenv(key)
        for key, value in (s3.ENVIRONMENT | {"AWS_ENDPOINT_URL": address}).items():
            patch.setenv(key, value)
        _connect.cache_clear()
        yield weather
        _connect.cache_clear()


def test_on_s3_all_of_it_works_while_every_third_request_fails(server, run, tmp_path):
    storage = open_storage(f"s3://{s3.BUCKET}/some/run")
    server.error_rate = 0.33
    storage.check_writable()
    assert copied(run, storage).problem is None
    for name in ("ray/a/checkpoint_000000/x", "ray/a/checkpoint_000001/x", "ray/b/checkpoint_000000/x", "ray/old.pkl"):
        storage.write(name, b"x")
    assert orphans(storage, {"ray/a/checkpoint_000001"}) == ["ray/a/checkpoint_000000", "ray/b", "ray/old.pkl"]
    for name in ("ray/b", "ray/old.pkl", "ray/nothing"):
        storage.delete(name)
    assert orphans(storage, {"ray/a/checkpoint_000001"}) == ["ray/a/checkpoint_000000"]
    assert storage.exists("ray/a/checkpoint_000001")
    assert not storage.exists("ray/b")
    with local_copy(storage.address) as folder:
        assert folder.name == "run"
        assert (folder / "study.log").read_bytes() == b"one\ntwo\n"
    storage.write("owner.json", json.dumps(me() | {"host": "elsewhere"}).encode())
    with pytest.raises(ConfigError, match="searched here"):
        bring_home(tmp_path / "new", storage)
    assert server.seen["500"] > 5
    server.error_rate = 0.0


def test_an_s3_that_is_gone_is_told_and_the_copy_is_made_when_it_is_back(server, run):
    storage = open_storage(f"s3://{s3.BUCKET}/other/run")
    server.error_rate = 1.0
    copy = Mirror(run, storage, lambda: None)
    copy.copy()
    assert "INTERNAL_FAILURE" in str(copy.problem) or "500" in str(copy.problem)
    server.error_rate = 0.0
    copy.copy()
    assert copy.problem is None
    assert storage.read("study.log") == b"one\ntwo\n"


def test_a_bucket_that_is_not_there_is_told(server):  # noqa: ARG001
    storage = open_storage("s3://nosuch/run")
    with pytest.raises(ConfigError, match="cannot be written"):
        storage.check_writable()
    with pytest.raises((ConfigError, ArtifactError)), local_copy("s3://nosuch/run"):
        pass
