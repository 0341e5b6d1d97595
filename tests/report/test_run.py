"""Reading a run folder: finished, running, spoilt or hostile."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from tests.report import factory
from vadtune.errors import ArtifactError
from vadtune.report.run import Run, read_run, study_reader


@pytest.fixture
def copy(image_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(image_run, tmp_path / image_run.name))


def test_a_finished_run_is_read_whole(image_run: Path) -> None:
    run = read_run(image_run)
    states = [trial.state for trial in run.trials]
    assert len(states) == 60
    assert states.count(TrialState.FAIL) == 1
    assert states.count(TrialState.WAITING) == 2
    assert run.settings.dataset.image_shape == (24, 24)
    assert run.best_trial is not None
    assert run.summary.best is not None
    assert run.best_trial.number == run.summary.best.trial
    assert run.evaluation.gallery is not None
    assert run.evaluation.gallery.input.shape == (3, 8, 576)
    assert run.notes == ()


def test_a_running_search_has_no_result_yet(tmp_path: Path) -> None:
    run = read_run(factory.make_run(tmp_path / "r", finished=False))
    assert run.is_running
    assert run.summary.best is None
    assert run.evaluation.gallery is None
    assert run.best_trial is not None
    assert run.best_trial.value == min(trial.value for trial in run.complete if trial.value is not None)


def test_reading_writes_nothing(copy: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in copy.rglob("*")}
    read_run(copy)
    assert before == {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in copy.rglob("*")}


def test_a_study_log_torn_in_mid_line_is_read_up_to_there(copy: Path) -> None:
    log = copy / "study.log"
    content = log.read_bytes()
    lines = content.splitlines(keepends=True)
    log.write_bytes(content[: -len(lines[-1]) // 2])
    run = read_run(copy)
    assert len(run.trials) == 59
    assert run.notes == ()


def test_a_spoilt_line_is_left_out_and_told(copy: Path) -> None:
    log = copy / "study.log"
    lines = log.read_bytes().splitlines(keepends=True)
    lines[10] = b'{"op_code": 4, "torn\n'
    log.write_bytes(b"".join(lines))
    run = read_run(copy)
    assert len(run.trials) == 59
    assert run.notes == ("1 lines of study.log could not be read and are left out.",)


def test_a_reader_asked_again_sees_what_was_added(tmp_path: Path) -> None:
    folder = factory.make_run(tmp_path / "r", n_trials=20)
    lines = (folder / "study.log").read_bytes().splitlines(keepends=True)
    log = folder / "study.log"
    log.write_bytes(b"".join(lines[:11]) + lines[11][:30])
    reader = study_reader(folder)
    assert len(reader.trials()) == 10
    log.write_bytes(b"".join(lines))
    assert len(reader.trials()) == 20
    log.write_bytes(b"".join(lines[:6]))
    assert len(reader.trials()) == 5


def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"not a run: it has no settings\.json"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 2, "versions": {}}, "reads 1. Use the vadtune that wrote it."),
        ({"format_version": 2, "versions": {"vadtune": "7.1"}}, "Use vadtune 7.1, which wrote it or a later one."),
        ({"dataset": {"name": "x", "unit": "metres"}}, "dataset.unit: Input should be 'pixel', 'sd' or 'mixed'"),
        ({"dataset": None}, "dataset: "),
    ],
)
def test_settings_that_cannot_be_read_are_told_by_file_and_key(
    copy: Path, change: dict[str, object], words: str
) -> None:
    path = copy / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError) as caught:
        read_run(copy)
    assert words in str(caught.value)
    assert "settings.json" in str(caught.value)


def test_settings_of_a_later_minor_version_may_have_more_keys(copy: Path) -> None:
    path = copy / "settings.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "green"}))
    assert read_run(copy).settings.model == "vad"


def test_a_summary_that_is_half_written_is_left_out_and_told(copy: Path) -> None:
    path = copy / "summary.json"
    path.write_text(path.read_text()[:200])
    run = read_run(copy)
    assert run.summary.best is None
    assert "summary.json is left out" in run.notes[0]


def test_a_study_that_is_no_journal_is_refused(copy: Path) -> None:
    (copy / "study.log").write_text('{"op_code": 4, "study_id": 99}\n')
    with pytest.raises(ArtifactError, match="not an Optuna journal"):
        read_run(copy)


def test_a_run_without_a_study_has_no_trials_and_says_so(copy: Path) -> None:
    (copy / "study.log").unlink()
    run = read_run(copy)
    assert run.trials == ()
    assert "no study.log" in run.notes[0]


def test_an_evaluation_is_never_unpickled(copy: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, ...]]:
            return (Path.touch, (copy / "trapped",))  # type: ignore[return-value]

    np.savez(copy / "evaluation.npz", latent_2d=np.array([Trap()], dtype=object))
    with pytest.raises(ArtifactError, match="not an npz file of plain arrays"):
        read_run(copy)
    assert not (copy / "trapped").exists()


@pytest.mark.parametrize(
    ("name", "array", "words"),
    [
        ("column_rmse", np.zeros(7), r"column_rmse has shape \(7,\)"),
        ("cell_column", np.array([0, 9999] * 1000), "cell_column names a column outside 0 … 575"),
        ("gallery_truth", np.array([["a"] * 576] * 8), "gallery_truth holds <U1, expected numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(copy: Path, name: str, array: np.ndarray, words: str) -> None:
    with np.load(copy / "evaluation.npz") as archive:
        arrays = dict(archive)
    np.savez(copy / "evaluation.npz", **(arrays | {name: array}))
    with pytest.raises(ArtifactError, match=words):
        read_run(copy)


def test_each_group_of_an_evaluation_may_be_absent(image_run: Path, table_run: Path, tmp_path: Path) -> None:
    for folder in (image_run, table_run):
        with np.load(folder / "evaluation.npz") as archive:
            arrays = dict(archive)
        for prefix in ("gallery", "cell", "column", "rate", "mechanism", "latent"):
            copy = Path(shutil.copytree(folder, tmp_path / f"{folder.name}-{prefix}"))
            np.savez(copy / "evaluation.npz", **{k: v for k, v in arrays.items() if not k.startswith(prefix)})
            assert isinstance(read_run(copy), Run)
