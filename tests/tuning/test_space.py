import tomllib
from pathlib import Path

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from vadtune.data.codec import Codec, Coding
from vadtune.data.splits import Rows
from vadtune.errors import ConfigError
from vadtune.settings import Settings, flatten, parse_assignments
from vadtune.training.config import TrialConfig
from vadtune.tuning.space import Space, find_space, for_table, known_spaces, load_space, make_space


class Model(Settings):
    kind: str = "vad"
    latent_dim: int = Field(16, ge=1, le=512)
    posterior: str = "free"
    log_var: float = Field(-6.0, ge=-20.0, le=4.0)
    activation: str = "silu"


class Train(Settings):
    learning_rate: float = Field(3e-3, gt=0.0)
    batch_size: int = Field(256, ge=1)


class Config(Settings):
    model: Model = Model()
    train: Train = Train()
    seed: int = 0

    @model_validator(mode="after")
    def _together(self) -> "Config":
        if self.model.latent_dim > self.train.batch_size:
            raise ValueError("more latents than rows")
        return self


SPACE = """
[model]
kind = "vad"
latent_dim = { low = 8, high = 64, log = true }
log_var = { low = -9.0, high = -3.0, when = { "model.posterior" = "fixed" } }
posterior = { choices = ["free", "fixed"] }

[train]
learning_rate = { low = 1e-3, high = 1e-2, log = true }
batch_size = { low = 128, high = 512, step = 128 }

[[first]]
model.latent_dim = 32
model.posterior = "fixed"
model.log_var = -6
train.learning_rate = 3e-3
"""


def space_of(text: str, overrides: list[str] | None = None) -> Space:
    return make_space(tomllib.loads(text), Config, "vad.toml", parse_assignments(overrides or []))


def mistakes_of(text: str, overrides: list[str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        space_of(text, overrides)
    return str(caught.value)


def ask(space: Space, seed: int = 0, n: int = 30) -> list[dict[str, object]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [space.suggest(study.ask()) for _ in range(n)]


@given(st.integers(0, 1000))
def test_every_draw_is_a_config(seed):
    space = space_of(SPACE)
    for params in ask(space, seed, n=5):
        config = Config.model_validate(space.config(params))
        assert config.model.kind == "vad"
        assert 8 <= config.model.latent_dim <= 64
        assert config.train.batch_size % 128 == 0


def test_a_conditional_param_is_there_only_if_its_condition_holds():
    for params in ask(space_of(SPACE)):
        assert ("model.log_var" in params) == (params["model.posterior"] == "fixed")


def test_fixed_values_are_in_the_config_and_not_in_the_study():
    space = space_of(SPACE)
    params = ask(space, n=1)[0]
    assert "model.kind" not in params
    assert flatten(space.config(params))["model.kind"] == "vad"


def test_whole_ends_give_whole_numbers_and_others_floats():
    params = ask(space_of(SPACE), n=1)[0]
    assert isinstance(params["model.latent_dim"], int)
    assert isinstance(params["train.learning_rate"], float)


def test_first_points_are_kept_in_the_types_that_are_drawn():
    first = space_of(SPACE).first[0]
    assert first["model.log_var"] == -6.0
    assert isinstance(first["model.log_var"], float)


def test_a_space_survives_being_written_down():
    space = space_of(SPACE)
    again = Space.from_dict(space.to_dict())
    assert again == space
    assert again.difference(space) == []


def test_a_difference_names_the_path_and_both_values():
    other = space_of(SPACE, ["model.latent_dim=8", "model.activation=tanh"])
    assert space_of(SPACE).difference(other) == [
        "model.activation: not there became tanh",
        "model.latent_dim: {'low': 8, 'high': 64, 'log': True} became 8",
    ]


def test_set_replaces_a_range_by_a_value_and_a_value_by_a_range():
    space = space_of(SPACE, ["model.latent_dim=8", 'model.kind={choices=["vad", "vae"]}'])
    assert all("model.latent_dim" not in params for params in ask(space))
    assert {params["model.kind"] for params in ask(space)} == {"vad", "vae"}
    assert "model.latent_dim" not in space.first[0]


def test_set_replaces_a_whole_range_not_its_parts():
    space = space_of(SPACE, ["model.latent_dim={low=1, high=2}"])
    assert space.leaves["model.latent_dim"].plain() == {"low": 1, "high": 2}
    assert "model.latent_dim" not in space.first[0]


def test_a_value_that_closes_a_condition_drops_what_hangs_on_it():
    space = space_of(SPACE, ["model.posterior=free"])
    assert all("model.log_var" not in params for params in ask(space))
    assert "model.log_var" not in space.first[0]


@pytest.mark.parametrize(("n_rows", "batch_size"), [(10, 400), (1000, 400), (8000, 100), (27_000, 44), (10**9, 8)])
def test_a_value_with_rows_is_less_for_a_larger_table(n_rows, batch_size):
    space = space_of("[train]\nbatch_size = { value = 400, rows = 1000 }")
    assert space.fixed("train.batch_size", None) == 400
    assert Space.from_dict(space.to_dict()).at(n_rows).to_dict() == {"train": {"batch_size": batch_size}}


def test_set_replaces_a_value_with_rows_by_one_for_all_tables():
    space = space_of("[train]\nbatch_size = { value = 400, rows = 1000 }", ["train.batch_size=300"])
    assert space.at(10**6).fixed("train.batch_size", None) == 300


@pytest.mark.parametrize("value", ["1e-3", "0", "-3", "true"])
def test_rows_go_with_counts_only(value):
    text = f"[train]\nbatch_size = {{ value = {value}, rows = 1000 }}"
    assert "vad.toml: train.batch_size: rows is for whole numbers above 0" in mistakes_of(text)


@pytest.mark.parametrize("setting", ["levels", "normal_scores"])
def test_how_numbers_are_seen_is_searched_only_where_a_column_offers_it(setting):
    codings = {"levels": Coding("number", (0.0, 1.0)), "normal_scores": Coding("number", scores=((0.0, -1), (9.0, 1)))}
    space = make_space({"model": {"kind": "vad", setting: {"choices": [True, False]}}}, TrialConfig, "test")
    for name, coding in (*codings.items(), ("nothing", None)):
        found = for_table(space, Rows(np.zeros((3, 1), np.float32), coding and Codec((coding,))))
        assert len(found.leaves[f"model.{setting}"].points()) == (2 if name == setting else 1)


def test_a_space_of_images_is_for_images():
    space, rows = load_space(find_space("vad_images"), TrialConfig), np.zeros((3, 6), np.float32)
    assert for_table(space, Rows(rows, Codec.of_images(2, 3))).first
    with pytest.raises(ConfigError, match=r"6 columns are not the pixels of an image"):
        for_table(space, Rows(rows))


def test_first_points_that_differ_in_nothing_a_table_has_come_once():
    space = load_space(find_space("vad_tables"), TrialConfig)
    assert len(space.first) == 6
    assert len(for_table(space, Rows(np.zeros((3, 1), np.float32))).first) == 4


def test_a_grid_lists_every_point_once():
    space = space_of(
        """
        model.latent_dim = { low = 8, high = 24, step = 8 }
        model.posterior = { choices = ["free", "fixed"] }
        model.log_var = { choices = [-6.0, -3.0], when = { model.posterior = "fixed" } }
        """
    )
    points = space.grid()
    assert len(points) == 3 * (1 + 2)
    assert len({tuple(sorted(point.items())) for point in points}) == len(points)
    assert all(Config.model_validate(space.config(point)) for point in points)


def test_a_grid_without_steps_names_the_leaf():
    with pytest.raises(ConfigError, match=r"model\.latent_dim.*train\.learning_rate.* has neither"):
        space_of(SPACE).grid()


MISTAKES = {
    "upside-down": ("model.latent_dim = {low = 9, high = 3}", ["vad.toml: model.latent_dim", "low = 9 is above high"]),
    "log from 0": ("train.learning_rate = {low = 0.0, high = 1.0, log = true}", ["train.learning_rate", "above 0"]),
    "log and step": ("model.latent_dim = {low = 1, high = 9, log = true, step = 2}", ["exclude each other"]),
    "a step that does not fit": ("model.latent_dim = {low = 1, high = 8, step = 2}", ["number of steps of 2"]),
    "no choices": ("model.posterior = {choices = []}", ["model.posterior", "empty"]),
    "lists as choices": ("model.posterior = {choices = [[1, 2]]}", ["is a list", "numbers, words or true and false"]),
    "the same choice twice": ("model.posterior = {choices = ['a', 'a']}", ["twice"]),
    "an unknown setting": ("model.latent_dims = 3", ["model.latent_dims", "Did you mean model.latent_dim?"]),
    "an unknown key of a range": ("model.latent_dim = {low = 1, hgih = 3}", ["model.latent_dim", "high is missing"]),
    "an unknown table": ("modle.latent_dim = 3", ["modle", "Did you mean model?"]),
    "an end outside the limits": ("model.latent_dim = {low = 0, high = 8}", ["model.latent_dim is 0", "greater than"]),
    "a choice outside the limits": ("model.latent_dim = {choices = [8, 1000]}", ["model.latent_dim is 1000"]),
    "a fixed value outside the limits": ("train.learning_rate = -1.0", ["train.learning_rate is -1.0"]),
    "a condition on nothing": (
        "model.log_var = {low = -3.0, high = 0.0, when = {'model.posterier' = 'fixed'}}\nmodel.posterior = 'free'",
        ["when names model.posterier", "Did you mean model.posterior?"],
    ),
    "a condition that never holds": (
        "model.log_var = {low = -3.0, high = 0.0, when = {'model.posterior' = 'fixd'}}\n"
        "model.posterior = {choices = ['free', 'fixed']}",
        ["model.posterior is never 'fixd'"],
    ),
    "a condition on a value with rows": (
        "train.n_epochs = {value = 300, rows = 2000}\n"
        "train.learning_rate = {low = 1e-3, high = 1e-2, when = {'train.n_epochs' = 300}}",
        ["train.learning_rate: when names train.n_epochs", "differs from table to table"],
    ),
    "conditions that wait for each other": (
        "model.log_var = {choices = [1.0], when = {'model.posterior' = 'a'}}\n"
        "model.posterior = {choices = ['a'], when = {'model.log_var' = 1.0}}",
        ["model.log_var and model.posterior wait for each other"],
    ),
    "a condition that is no table": ("model.log_var = {choices = [1.0], when = 'fixed'}", ["write it as when ="]),
    "a seed": ("seed = 3", ["give --seed"]),
    "a first point outside": (
        "model.latent_dim = {low = 1, high = 3}\n[[first]]\nmodel.latent_dim = 4",
        ["first point 1: model.latent_dim is 4", "outside"],
    ),
    "a first point elsewhere": (
        "model.latent_dim = {low = 1, high = 3}\n[[first]]\nmodel.latent = 4",
        ["first point 1: model.latent is not in the space", "Did you mean model.latent_dim?"],
    ),
    "first as a table": ("model.latent_dim = 3\n[first]\nmodel.latent_dim = 4", ["[[first]]"]),
    "values that do not go together": ("model.latent_dim = 100\ntrain.batch_size = 50", ["more latents than rows"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_by_its_path(name):
    text, words = MISTAKES[name]
    message = mistakes_of(text)
    for word in words:
        assert word in message


def test_all_mistakes_are_told_at_once():
    message = mistakes_of("model.latent_dim = {low = 9, high = 3}\nmodel.posterior = {choices = []}")
    assert "latent_dim" in message
    assert "posterior" in message


def test_a_mistake_in_a_flag_is_told_as_one_of_the_flag():
    assert mistakes_of(SPACE, ["model.latent_dim=1000"]).startswith("--set: model.latent_dim is 1000")
    assert "--set: model.latent_dim" in mistakes_of(SPACE, ["model.latent_dim={low=3, high=1}"])


def test_a_kind_that_is_left_out_is_told_with_those_there_are():
    with pytest.raises(ConfigError, match=r"^vad\.toml: model\.kind is missing\. Known are: vad, vae\.$"):
        make_space({"model": {"latent_dim": 3}}, TrialConfig, "vad.toml")


def test_a_file_with_a_mistake_is_named(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("model.latent_dim = {low = 9, high = 3}", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.toml: model\.latent_dim"):
        load_space(path, Config)


def test_an_unknown_space_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="no such space"):
        find_space("vda")
    assert find_space("some/where.toml") == Path("some/where.toml")


@pytest.mark.parametrize("name", known_spaces())
def test_every_space_that_comes_with_vadtune_can_be_searched(name):
    path = known_spaces()[name]
    space = load_space(path, TrialConfig)
    for params in ask(space, n=10):
        TrialConfig.model_validate(space.config(params))
    assert path.read_text(encoding="utf-8").startswith("# python -m vadtune.search ")


def test_params_of_a_first_point_are_known_though_it_leaves_some_open():
    space = Space({}, ({"model.x": 1.0}, {}))
    assert space.holds_first({"model.x": 1.0, "model.kind": "quiet"})
    assert not space.holds_first({"model.x": 1.5, "model.kind": "quiet"})


def test_points_to_start_at_come_first_with_what_the_space_can_draw_of_them():
    space = make_space(
        {"model": {"kind": "vad", "latent_dim": {"low": 2, "high": 8}}, "first": [{"model": {"latent_dim": 4}}]},
        TrialConfig,
        "test",
    )
    points = [
        {"model.kind": "vad", "model.latent_dim": 6, "train.batch_size": 64},
        {"model.latent_dim": 9},
        {"model.latent_dim": 6},
        {"model.latent_dim": 4},
    ]
    assert space.starting_at(points).first == ({"model.latent_dim": 6}, {"model.latent_dim": 4})
    assert space.starting_at([]) == space
