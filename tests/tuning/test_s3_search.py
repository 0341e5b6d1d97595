"""A whole search whose storage is S3: its driver is killed, it goes on in another folder, and others export it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState
from pyarrow import fs

from tests.patience import PATIENCE_S
from tests.tuning import s3
from vadtune.training.artifact import load_artifact
from vadtune.tuning.study import count_states, read_study

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).parents[2]
SEARCH = ["wine", "--missing-rate", "0.2", "--max-epochs", "45", "--set", "model.decoder.hidden_dim=16"]
SEARCH += ["--storage", f"s3://{s3.BUCKET}/vadtune/", "--name", "night", "--trials", "9", "--json"]
SEARCH += ["--ensemble", "1"]  # one checkpoint stays, and best/ is what an export gives
FOLDER = f"{s3.BUCKET}/vadtune/night"
RUN = f"s3://{FOLDER}"
# The command, but for copies that are made every second.
OFTEN = "from vadtune.tuning.mirror import Mirror; Mirror.PERIOD_S = 1.0; from vadtune import cli, search; "


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """The environment variables that lead to the bucket, and the weather on the way."""
    pytest.importorskip("moto", reason="needs moto[server]")
    with s3.bucket(tmp_path_factory.mktemp("moto")) as url, s3.proxy(url) as (address, weather):
        yield s3.ENVIRONMENT | {"AWS_ENDPOINT_URL": address}, weather, Bucket(url)


class Bucket:
    """What lies in it."""

    def __init__(self, url: str) -> None:
        self.files = fs.S3FileSystem(access_key="testing", secret_key="testing", endpoint_override=url)

    def n_ended(self, copy: Path) -> int:
        """How many trials the study in the bucket knows to have ended; `copy` is where to write it to read it."""
        try:
            with self.files.open_input_file(f"{FOLDER}/study.log") as file:
                copy.write_bytes(file.read())
        except FileNotFoundError:
            return 0
        states = count_states(read_study(copy))
        return states["complete"] + states["pruned"]

    def names(self) -> set[str]:
        found = self.files.get_file_info(fs.FileSelector(FOLDER, recursive=True))
        return {info.path.removeprefix(f"{FOLDER}/") for info in found if info.is_file}


def test_a_killed_search_goes_on_elsewhere_in_bad_weather_and_is_exported_from_the_bucket(zygote, cloud, tmp_path):
    environment, weather, bucket = cloud
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for folder in (first, second, third):
        folder.mkdir()

    def run(folder: Path, module: str, *arguments: str) -> str:
        done = zygote.run(module, *arguments, cwd=folder, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    command = [sys.executable, "-c", f"{OFTEN}cli.run(search.main)", *SEARCH]
    with (tmp_path / "stderr").open("w") as log:
        variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        driver = subprocess.Popen(command, cwd=first, env=variables, stdout=log, stderr=log)
        try:
            end = time.monotonic() + PATIENCE_S
            while bucket.n_ended(tmp_path / "copy.log") < 3:
                assert driver.poll() is None, (tmp_path / "stderr").read_text()
                assert time.monotonic() < end
                time.sleep(0.2)
        finally:
            driver.kill()
            driver.wait()
    here = {trial.number: trial for trial in read_study(first / "runs/night/study.log").trials}

    weather.error_rate, weather.stall_rate = 0.05, 0.05
    document = json.loads(run(second, "vadtune.search", *SEARCH, "--resume"))
    weather.error_rate, weather.stall_rate = 0.0, 0.0
    assert weather.seen["500"] > 0
    assert weather.seen["stalled"] > 0
    trials = read_study(second / "runs/night/study.log").trials
    assert len(trials) == 9
    assert not [trial.user_attrs.get("failure") for trial in trials if trial.state == TrialState.FAIL]
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    kept = [t for t in trials if t.number in here and t.datetime_complete == here[t.number].datetime_complete]
    assert len([trial for trial in kept if trial.state.is_finished()]) >= 3
    assert len({tuple(trial.params.items()) for trial in trials}) == 9

    exported = json.loads(run(third, "vadtune.export", RUN, "-o", "best", "--json"))
    assert exported["exported"][0]["trial"] == document["best"]["trial"]
    assert exported["exported"][0]["test_rmse"] == pytest.approx(document["best"]["test_rmse"], rel=1e-6)
    load_artifact(third / "best")
    run(third, "vadtune.report", RUN)
    assert "</html>" in (third / "night.html").read_text(encoding="utf-8")

    names = bucket.names()
    assert len({name.rpartition("/")[0] for name in names if "/checkpoint_" in name}) == 1
    assert not [name for name in names if name.endswith((".pkl", "owner.json")) or "experiment_state" in name]
    assert {"report.html", "summary.json", "trials.csv", "best/model.safetensors"} <= names
