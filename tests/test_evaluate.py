"""`python -m vadtune.evaluate`: which cells are hidden, which rows are scored, what is written."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.small_runs import modules_after, train_small, wine
from vadtune.data.datasets import load
from vadtune.data.masks import Block, Mar, Mcar
from vadtune.data.problem import load_problem
from vadtune.data.splits import DataConfig
from vadtune.data.tables import write_table
from vadtune.errors import ArtifactError, ConfigError, DataError
from vadtune.evaluate import main
from vadtune.settings import parse
from vadtune.training.artifact import load_artifact
from vadtune.training.rates import choose_rows, over_rates

MODES = st.sampled_from(["fixed", "random"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train_small(wine(), tmp_path_factory.mktemp("models") / "wine")


@pytest.fixture(scope="module")
def artifact(folder):
    return load_artifact(folder)


def evaluate(capsys, *arguments):
    assert main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_score_of_the_training_is_found_again(folder, artifact, capsys):
    result = evaluate(capsys, folder, "--missing-rates", "0.1,0.2")
    assert result["rows"] == "test"
    assert result["n_scored_rows"] == len(wine().splits.indices[2])
    at_training_rate = result["rates"][1]
    for name in ("rmse", "rmse_minmax", "mae", "observed_rmse", "all_rmse"):
        assert at_training_rate[name] == pytest.approx(artifact.metrics[f"test_{name}"], rel=1e-4)
    assert at_training_rate["mse"] == pytest.approx(at_training_rate["rmse"] ** 2)


def test_one_pass_over_many_rates_is_as_good_as_one_rate_at_a_time(artifact):
    rows = choose_rows(artifact, load("wine"))
    together = list(over_rates(artifact, rows, (0.1, 0.5, 0.9), "random"))
    for result in together:
        (alone,) = over_rates(artifact, rows, (result.missing_rate,), "random")
        np.testing.assert_allclose(alone.x_hat, result.x_hat, atol=1e-3)
        np.testing.assert_array_equal(alone.holdout.truth, result.holdout.truth)


@settings(max_examples=20, deadline=None)
@given(
    low=st.floats(0.05, 0.9),
    high=st.floats(0.05, 0.9),
    seed=st.integers(0, 99),
    mode=st.sampled_from(["fixed", "random"]),
)
def test_a_lower_rate_hides_some_of_the_cells_of_a_higher_one(artifact, low, high, seed, mode):
    low, high = sorted((low, high))
    rows = choose_rows(artifact, load("wine"), Mcar(), seed)
    fewer, more = (~np.isnan(rows.holdout(rate, mode).truth) for rate in (low, high))
    assert not (fewer & ~more).any()


@pytest.mark.parametrize("mechanism", [Mcar(), Block()])
def test_a_fixed_mask_hides_the_same_columns_of_every_row(artifact, mechanism):
    hidden = ~np.isnan(choose_rows(artifact, load("wine"), mechanism).holdout(0.5, "fixed").truth)
    assert (hidden == hidden[0]).all()
    assert 0 < hidden[0].sum() < len(hidden[0])


def test_a_mask_is_drawn_row_by_row_otherwise(artifact):
    hidden = ~np.isnan(choose_rows(artifact, load("wine")).holdout(0.5, "random").truth)
    assert not (hidden == hidden[0]).all()


def test_of_few_columns_the_usual_rates_end_where_the_mechanism_does(artifact):
    rates = (0.5, 0.9, 0.95)
    assert choose_rows(artifact, load("wine"), Mcar(), 0).reachable(rates, "random") == rates
    rows = choose_rows(artifact, load("wine"), Mar(), 0)  # one of thirteen columns stays
    assert rows.reachable(rates, "random") == rates[:2]
    assert rows.reachable(rates, "fixed") == rates  # none can be met: the first one tells why


def test_rate_zero_scores_observed_cells_only(folder, capsys):
    (result,) = evaluate(capsys, folder, "--missing-rates", "0")["rates"]
    assert (result["n_hidden"], result["rmse"], result["mse"]) == (0, None, None)
    assert result["observed_rmse"] == result["all_rmse"] > 0


def test_another_table_is_scored_on_all_its_rows(folder, tmp_path, capsys):
    write_table(load("wine").take(np.arange(40)), tmp_path / "other.csv")
    result = evaluate(capsys, folder, tmp_path / "other.csv", "--missing-rates", "0.3")
    assert (result["rows"], result["n_scored_rows"]) == ("all", 40)


def test_columns_that_were_left_out_in_training_need_not_be_there(tmp_path, capsys):
    rng = np.random.default_rng(0)
    size = rng.integers(0, 3, 90)
    frame = pd.DataFrame({"who": [f"c{k}" for k in range(90)], "size": np.array(["S", "M", "L"])[size]})
    frame = frame.assign(price=size + rng.normal(0, 0.1, 90), remark=frame["who"] + "?", zip=np.where(size > 1, 7, -1))
    frame.to_csv(tmp_path / "own.csv", index=False)
    columns = {"id": ["who"], "ignore": ["remark"], "missing": [-1]}
    config = parse(DataConfig, {"dataset": str(tmp_path / "own.csv"), "missing_rate": 0.2, "columns": columns}, "test")
    folder = train_small(load_problem(config, tmp_path), tmp_path / "model")
    other = frame.iloc[:50][["zip", "price", "size"]].assign(text=[f"new {k}" for k in range(50)])
    other.to_csv(tmp_path / "other.csv", index=False)
    other.to_parquet(tmp_path / "other.parquet")
    scores = {}
    for name in ("other.csv", "other.parquet", "own.csv"):
        result = evaluate(capsys, folder, tmp_path / name, "--missing-rates", "0.3")
        scores[name] = (result["rows"], result["rates"][0]["error"])
    assert scores["other.csv"] == scores["other.parquet"]
    assert scores["other.csv"][0] == "all"
    assert scores["own.csv"][0] == "test"
    other.drop(columns="size").to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(DataError, match="1 of the model's 3 columns are not in the table: 'size'"):
        main([str(folder), str(tmp_path / "less.csv")])


def test_the_own_table_under_its_name_is_still_scored_on_test_rows_only(folder, capsys):
    assert evaluate(capsys, folder, "wine", "--missing-rates", "0.3")["rows"] == "test"


def test_hidden_cells_do_not_reach_the_model(artifact):
    rows = choose_rows(artifact, load("wine"))
    (result,) = over_rates(artifact, rows, (0.5,), "random")
    assert np.isnan(result.holdout.rows.x[~np.isnan(result.holdout.truth)]).all()


def test_reference_output_has_the_papers_names_and_shapes(folder, tmp_path, capsys):
    out = tmp_path / "out"
    result = evaluate(capsys, folder, "--missing-rates", "0.1,0.5", "--mask", "fixed", "--reference-output", out)
    table = load("wine")
    shape = (result["n_scored_rows"], table.n_features)
    with h5py.File(out / "missing_pred_fixed.h5") as file:
        assert set(file) == {"0.1", "0.5"}
        assert file["0.5/pred"].shape == file["0.5/input"].shape == shape
        seen = file["0.5/input"][:]
    known = table.values[wine().splits.indices[2]]
    np.testing.assert_allclose(seen[~np.isnan(seen)], known[~np.isnan(seen)], rtol=1e-5)
    with h5py.File(out / "pred.h5") as file:
        assert file["y_pred"].shape == shape
    with h5py.File(out / "final_latents.h5") as file:
        assert file["latents"].shape == (shape[0], 4)
    assert json.loads((out / "results.json").read_text())["rates"] == result["rates"]


def test_the_table_on_stdout_has_a_line_for_each_rate(folder, capsys):
    assert main([str(folder), "--missing-rates", "0,0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "hidden RMSE" in lines[2]
    assert [line.split()[0] for line in lines[3:]] == ["0", "0.5"]


def test_mistakes_are_told(folder, artifact, tmp_path):
    with pytest.raises(ArtifactError, match="not an exported model"):
        main([str(tmp_path)])
    with pytest.raises(DataError, match="13 of the model's 13 columns are not in the table"):
        main([str(folder), "diabetes"])
    with pytest.raises(ConfigError, match=r"--mask fixed.*mar cannot"):
        choose_rows(artifact, load("wine"), Mar()).holdout(0.5, "fixed")
    with pytest.raises(SystemExit):
        main([str(folder), "--missing-rates", "0.5,1"])


def test_a_table_that_has_changed_since_is_not_taken_for_the_models_own(folder, monkeypatch):
    changed = load("wine").take(np.arange(100))
    monkeypatch.setattr("vadtune.data.datasets.load", lambda *_, **__: changed)
    with pytest.raises(ArtifactError, match="not the table it was trained on any more"):
        main([str(folder)])


def test_neither_ray_nor_optuna_is_imported(folder):
    code = f"from vadtune.evaluate import main\nmain([{str(folder)!r}, '--missing-rates', '0.5'])"
    assert modules_after(code) & {"ray", "optuna"} == set()


def test_help_imports_nothing_heavy():
    assert modules_after("from vadtune.evaluate import parser; parser().format_help()") == set()
