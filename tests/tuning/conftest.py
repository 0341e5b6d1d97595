"""One Ray for all tests that need it, and small searches over fake runs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.tuning import fake_runs
from tests.tuning.fake_runs import MAX_EPOCHS, SCHEDULER, FakeConfig, FakeRuns
from vadtune.data.storage import open_storage
from vadtune.settings import Nested
from vadtune.tuning.cluster import Cluster
from vadtune.tuning.runner import Outcome, Plan, run_search
from vadtune.tuning.runs import RunFactory
from vadtune.tuning.samplers import TPE
from vadtune.tuning.space import Space, make_space

LINE: Nested = {"model": {"x": {"low": -3.0, "high": 3.0}, "depth": {"low": 1, "high": 8}}}

Search = Callable[..., Outcome]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    import ray

    # Workers get the class itself: they need not find the tests.
    ray.cloudpickle.register_pickle_by_value(fake_runs)
    with Cluster(n_cpus=2) as cluster:
        yield cluster


@pytest.fixture
def line() -> Space:
    """A space of one number that matters and one that does not."""
    return make_space(LINE, FakeConfig, "line.toml")


@pytest.fixture
def plan(tmp_path: Path, line: Space) -> Plan:
    """A search of six short trials."""
    return Plan(
        folder=tmp_path,
        storage=open_storage(str(tmp_path)),
        space=line,
        sampler=TPE(),
        scheduler=SCHEDULER,
        max_epochs=MAX_EPOCHS,
        n_trials=6,
    )


@pytest.fixture
def search(cluster: Cluster) -> Search:
    """Run a search on the shared cluster, of fake runs if nothing else is said."""

    def run(plan: Plan, runs: RunFactory | None = None, progress: Any = None, data: Any = None) -> Outcome:
        return run_search(plan, data or {"rows": np.arange(5)}, runs or FakeRuns(), progress, cluster)

    return run
