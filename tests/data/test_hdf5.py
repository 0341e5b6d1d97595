"""HDF5 from strangers: what leads out of the file or out of memory is refused before it is read."""

import h5py
import numpy as np
import pytest

from vadtune.data import hdf5
from vadtune.data.tables import read_table
from vadtune.errors import DataError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "t.h5"


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.bin"
    np.arange(12.0).tofile(path)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["values"] = np.eye(3)
    return path


def write_external(file, secret):
    file.create_dataset("values", (3, 4), "f8", external=[(str(secret), 0, 96)])


def write_virtual(file, secret):
    layout = h5py.VirtualLayout((3, 3), "f8")
    layout[:] = h5py.VirtualSource(str(secret.with_name("other.h5")), "values", shape=(3, 3))
    file.create_virtual_dataset("values", layout)


def write_external_link(file, secret):
    file["values"] = h5py.ExternalLink(str(secret.with_name("other.h5")), "values")


def write_soft_link(file, secret):
    del secret
    file["hidden/values"] = np.eye(3)
    file["values"] = h5py.SoftLink("/hidden/values")


def write_dangling_link(file, secret):
    del secret
    file["values"] = h5py.SoftLink("/nowhere")


def write_huge(file, secret):
    del secret
    file.create_dataset("values", (10**7, 10**6), "f8", chunks=(1000, 1000))


def write_group(file, secret):
    del secret
    file.create_group("values")


def write_compound(file, secret):
    del secret
    file["values"] = np.zeros((2, 2), dtype=[("a", "f8")])


def write_references(file, secret):
    del secret
    file.create_dataset("values", (2, 2), dtype=h5py.ref_dtype)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_external, "values keeps its values in other files"),
        (write_virtual, "values keeps its values in other files"),
        (write_external_link, "values is a link"),
        (write_soft_link, "values is a link"),
        (write_dangling_link, "values is a link"),
        (write_huge, "declares 80,000.0 GB of data"),
        (write_group, "found nothing"),
        (write_compound, "expected numbers"),
        (write_references, "expected numbers"),
    ],
)
def test_a_hostile_dataset_is_refused(path, secret, write, words):
    with h5py.File(path, "w") as file:
        write(file, secret)
    with pytest.raises(DataError) as error:
        read_table(path)
    assert words in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_hostile_dataset_beside_a_good_one_does_no_harm(path, secret):
    with h5py.File(path, "w") as file:
        file["values"] = np.eye(2)
        file["labels"] = np.arange(2)
        file["other"] = h5py.ExternalLink(str(secret), "x")
    assert np.array_equal(read_table(path).values, np.eye(2))


def test_one_hostile_part_of_a_reference_layout_is_refused(path, secret):
    with h5py.File(path, "w") as file:
        file["train_data"] = np.eye(3)
        file["test_data"] = h5py.ExternalLink(str(secret.with_name("other.h5")), "values")
    with pytest.raises(DataError, match="test_data is a link"):
        read_table(path)


def test_a_heap_in_which_hdf5_would_search_for_ever_is_given_up(path, monkeypatch):
    with h5py.File(path, "w") as file:
        file["values"] = np.eye(2)
        file.create_dataset("columns", data=np.array(["a", "b"], dtype=object), dtype=h5py.string_dtype())
    content = path.read_bytes()
    heap = content.index(b"GCOL")
    # The first object of the heap says that it is 0 bytes long and free: HDF5 goes to the next one, which it is.
    path.write_bytes(content[: heap + 16] + bytes(16) + content[heap + 32 :])
    monkeypatch.setattr(hdf5, "_TEXT_LIMIT_S", 3.0)
    with pytest.raises(DataError, match="columns cannot be read"):
        read_table(path)
