"""Where trials run."""

import threading

import pytest
import torch

from vadtune.errors import ConfigError
from vadtune.training.device import fitting_threads, multiplying, resolve_device, side_by_side

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")


@without_gpu
@pytest.mark.parametrize(
    ("device", "gpus_per_trial", "expected"),
    [
        ("auto", None, ("cpu", 0.0)),
        ("cpu", None, ("cpu", 0.0)),
        ("cpu", 0.0, ("cpu", 0.0)),
        ("auto", 0.5, ("cuda", 0.5)),  # of another node
        ("cuda", 0.25, ("cuda", 0.25)),
    ],
)
def test_a_device_and_its_share_follow_from_the_flags(device, gpus_per_trial, expected):
    assert resolve_device(device, gpus_per_trial) == expected


@without_gpu
@pytest.mark.parametrize(
    ("device", "gpus_per_trial"),
    [("gpu", None), ("cuda:x", None), ("cuda:", None), ("cuda", None), ("cpu", 1.0), ("auto", -1.0), ("", None)],
)
def test_a_device_that_is_not_there_is_refused(device, gpus_per_trial):
    with pytest.raises(ConfigError, match=r"--device|--gpus-per-trial"):
        resolve_device(device, gpus_per_trial)


@pytest.mark.parametrize(("n_rows", "n_threads"), [(1, 1), (900, 1), (1_000, 2), (1_000_000, 4)])
def test_small_work_wakes_no_second_thread(monkeypatch, n_rows, n_threads):
    used = [4]
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1])
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    with pytest.raises(KeyError), fitting_threads(n_rows * 10_000):
        raise KeyError
    assert used == [4, n_threads, 4]


def test_jobs_side_by_side_share_the_threads_of_torch_and_give_them_back():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        together = threading.Barrier(2, timeout=30)

        def n_threads(number):
            together.wait()  # or the jobs do not run at once
            return number, torch.get_num_threads()

        with side_by_side(2) as jobs:
            assert list(jobs.map(n_threads, range(4))) == [(number, 2) for number in range(4)]
        assert torch.get_num_threads() == 4
        with pytest.raises(KeyError), side_by_side(9) as jobs:
            list(jobs.map({}.__getitem__, range(9)))
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_products_are_rounded_while_anyone_wants_it_and_no_longer():
    before = torch.get_float32_matmul_precision()
    found = []
    with pytest.raises(KeyError), multiplying("medium"), multiplying("medium"):
        raise KeyError(found.append(torch.get_float32_matmul_precision()))
    first, second = multiplying("medium"), multiplying("medium")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)  # as threads do: not in the order in which they came
    found.append(torch.get_float32_matmul_precision())
    second.__exit__(None, None, None)
    assert found == ["medium", "medium"]
    with multiplying("highest"):
        assert torch.get_float32_matmul_precision() == before
    assert torch.get_float32_matmul_precision() == before
