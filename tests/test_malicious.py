"""Files of strangers that would run code if anybody unpickled them: no command does, whatever it is given."""

import io
import pickle
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
from sklearn.datasets import load_wine

from tests.small_runs import FAST, make_run
from vadtune import evaluate, export, impute, search, train
from vadtune.errors import VadtuneError
from vadtune.report import __main__ as report
from vadtune.training.checksums import write_sums

COLUMNS = load_wine(as_frame=True).data.columns


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return Path.touch, (Path(self.mark),)


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "code-was-run"


@pytest.fixture
def trap(mark):
    return pickle.dumps(Trap(mark))


def test_the_trap_springs(mark, trap):
    pickle.loads(trap)
    assert mark.exists()


def as_it_is(path, trap):
    path.write_bytes(trap)


def npy_of_objects(path, trap):
    """The header of numpy says objects, what follows is their pickle."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (1, 13)})
    path.write_bytes(header.getvalue() + trap)


def npz_of(*names):
    def write(path, trap):
        inner = path.with_suffix(".inner")
        npy_of_objects(inner, trap)
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, inner.read_bytes() if name.endswith(".npy") else trap)
        inner.unlink()

    return write


def arrow_table(trap):
    """Columns of an extension type of old Arrow, which was loaded by its pickle."""
    about = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": trap}
    fields = [pa.field(name, pa.float64(), metadata=about) for name in COLUMNS]
    return pa.table([pa.array(np.arange(9.0) + k) for k in range(len(COLUMNS))], schema=pa.schema(fields))


def hdf5_of_pytables(path, trap):
    """What pandas and PyTables keep in HDF5: objects and attributes as pickles."""
    with h5py.File(path, "w") as file:
        file.attrs["TITLE"] = np.void(trap)
        group = file.create_group("table")
        group.attrs["pandas_type"] = "frame"
        group.attrs["info"] = np.void(trap)
        values = group.create_dataset("block0_values", (1,), dtype=h5py.vlen_dtype(np.uint8))
        values[0] = np.frombuffer(trap, np.uint8)
        values.attrs["PSEUDOATOM"] = "object"
        file.create_dataset("values", (1,), dtype=h5py.vlen_dtype(np.uint8))[0] = np.frombuffer(trap, np.uint8)


def torch_archive(path, trap):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", trap)
        archive.writestr("archive/version", "3\n")


TABLES = {
    "t.pkl": as_it_is,
    "t.pickle": as_it_is,
    "t.joblib": as_it_is,
    "t.pt": torch_archive,
    "t.csv": as_it_is,
    "t.csv.gz": as_it_is,
    "t.parquet": as_it_is,
    "extension.parquet": lambda path, trap: pyarrow.parquet.write_table(arrow_table(trap), path),
    "t.feather": as_it_is,
    "extension.feather": lambda path, trap: pyarrow.feather.write_feather(arrow_table(trap), str(path)),
    "t.npy": as_it_is,
    "objects.npy": npy_of_objects,
    "t.npz": as_it_is,
    "objects.npz": npz_of("values.npy"),
    "torch.npz": torch_archive,
    "pickled.npz": npz_of("values", "data.pkl"),
    "t.h5": as_it_is,
    "pytables.h5": hdf5_of_pytables,
    "torch.h5": torch_archive,
}
# Plain numbers with a label that no reader here believes: they may be read as such.
HARMLESS = {"extension.parquet", "extension.feather"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with a report, an evaluation and an exported model."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "small")
    assert export.main([str(folder), "-o", str(folder / "best")]) == 0
    return folder


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "copy"))


def call(module, *words):
    """The exit code of a command."""
    try:
        return module.main([str(word) for word in words])
    except VadtuneError as error:
        return error.exit_code if str(error) else None


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_is_a_pickle_is_refused_by_every_command_that_reads_tables(run, tmp_path, mark, trap, name):
    table = tmp_path / name
    TABLES[name](table, trap)
    codes = [
        call(impute, run / "best", table, "-o", tmp_path / "filled.csv"),
        call(evaluate, run / "best", table),
        call(train, table, "-o", tmp_path / "model", *FAST),
        call(search, table, "--dry-run"),
        call(search, "wine", "--data-dir", tmp_path, "--space", table, "--dry-run"),
        call(train, "wine", "--config", table, "-o", tmp_path / "model"),
    ]
    assert not mark.exists()
    assert set(codes[4:]) == {2}
    assert name in HARMLESS or set(codes) == {2}


@pytest.mark.parametrize("write", [as_it_is, torch_archive], ids=["pickle", "torch"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "codec.json", "scaler.json", "metrics.json"])
def test_a_model_that_is_a_pickle_is_refused_though_its_checksums_fit(copy, tmp_path, mark, trap, name, write):
    write(copy / "best" / name, trap)
    write_sums(copy / "best")
    table = tmp_path / "t.csv"
    load_wine(as_frame=True).data.iloc[:9].to_csv(table, index=False)
    assert call(impute, copy / "best", table, "-o", tmp_path / "filled.csv") == 2
    assert call(evaluate, copy / "best", table) == 2
    assert not mark.exists()
    assert not (tmp_path / "filled.csv").exists()


def checkpoints(copy):
    return [path for path in copy.glob("ray/*") if path.is_dir()]


@pytest.mark.parametrize("name", ["settings.json", "study.log", "summary.json", "evaluation.npz", "run.safetensors"])
def test_a_run_that_is_a_pickle_is_read_by_no_command(copy, tmp_path, mark, trap, name):
    paths = [folder / name for folder in checkpoints(copy)] if name == "run.safetensors" else [copy / name]
    for path in paths:
        path.write_bytes(trap)
    codes = {
        "report": call(report, copy, "-o", tmp_path / "page.html"),
        "export": call(export, copy, "-o", tmp_path / "model"),
        "train": call(train, "--from", copy, "-o", tmp_path / "again", *FAST),
    }
    assert not mark.exists()
    refused = {
        "settings.json": {"report", "export", "train"},
        "study.log": {"export", "train"},
        "evaluation.npz": {"report"},
        "run.safetensors": {"export"},
    }
    # Lines of a study that cannot be read are left out of a report and counted there, and so is a spoilt summary.
    assert {command for command, code in codes.items() if code == 2} >= refused.get(name, set())
    assert set(codes.values()) <= {0, 2}


def test_pickles_that_ray_leaves_beside_a_checkpoint_are_not_read(copy, tmp_path, mark, trap):
    for folder in [copy, copy / "ray", *checkpoints(copy)]:
        for name in (".metadata.json", ".tune_metadata", ".metadata.pkl", "dict_checkpoint.pkl", "tuner.pkl"):
            (folder / name).write_bytes(trap)
    assert call(report, copy, "-o", tmp_path / "page.html") == 0
    assert call(export, copy, "-o", tmp_path / "model") == 0
    assert call(train, "--from", copy, "-o", tmp_path / "again", *FAST) == 0
    assert not mark.exists()
