import pytest
import torch

from tests.training.artifacts import example
from vadtune.training.artifact import save_artifact


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Small matrices are slower on many threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def folder(tmp_path):
    artifact = example(image_shape=(2, 2), dataset={"name": "t"}, metrics={"test_rmse": 0.1})
    return save_artifact(artifact, tmp_path / "best")
