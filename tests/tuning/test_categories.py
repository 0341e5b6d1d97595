"""Two real tables with categories that scikit-learn ships: the search against the baselines of the same run."""

import gzip
import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import sklearn.datasets

SHIPPED = Path(sklearn.datasets.__file__).parent / "tests" / "data" / "openml"
OPPONENTS = ("mean", "knn", "iterative")  # the mode, of categories; all see one-hot columns


def read_arff(number: int) -> pd.DataFrame:
    """A table of OpenML, as scikit-learn ships it for its own tests."""
    paths = list((SHIPPED / f"id_{number}").glob("data-v1-*.arff.gz"))
    if not paths:
        pytest.skip("this scikit-learn came without its tests' tables")
    head, cells = re.split(r"@data\s*\n", gzip.decompress(paths[0].read_bytes()).decode(), flags=re.IGNORECASE)
    names = re.findall(r"^@attribute\s+'?([\w.]+)", head, re.IGNORECASE | re.MULTILINE)
    return pd.read_csv(io.StringIO(cells), names=names, na_values="?", comment="%")


def titanic() -> pd.DataFrame:
    """1,309 passengers: class, sex, age, relatives, fare, port; with holes of its own."""
    frame = read_arff(40945).drop(columns=["name", "ticket", "cabin", "boat", "body", "home.dest"])
    return frame.assign(survived=frame["survived"].astype(bool))


def chess() -> pd.DataFrame:
    """3,196 endgames, king and rook against king and pawn: 37 columns, all of them categories."""
    return read_arff(3)


@pytest.mark.cluster
@pytest.mark.parametrize("make", [titanic, chess])
def test_the_mean_error_is_below_that_of_mode_neighbours_and_regressions(zygote, make, tmp_path):
    make().to_csv(tmp_path / "table.csv", index=False)
    flags = ["--missing-rate", "0.2", "--trials", "2", "--max-epochs", "60", "--scheduler", "none", "--no-refit"]
    done = zygote.run("vadtune.search", "table.csv", *flags, "--json", cwd=tmp_path, timeout=400)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    errors = {name: document["baselines"][name]["test_error"] for name in OPPONENTS}
    best = document["best"]
    assert best["test_error"] < min(errors.values()), (best["test_error"], errors)
    parts = [best[name] for name in ("test_nrmse", "test_error_rate") if best[name] is not None]
    assert min(parts) <= best["test_error"] <= max(parts)
