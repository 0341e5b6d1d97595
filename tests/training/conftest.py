import pytest
import torch


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Small matrices are slower on many threads."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)
