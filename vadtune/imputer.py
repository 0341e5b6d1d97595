"""scikit-learn estimators: `VADImputer` and `VAEImputer` with given settings, `SearchImputer` that finds them."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from vadtune.data.tables import Table
from vadtune.errors import ArtifactError, ConfigError
from vadtune.imputer_base import Imputer, parameters_not_flags
from vadtune.settings import Nested, flatten, merge, parse, unflatten
from vadtune.training.artifact import Artifact, load_artifact
from vadtune.training.config import TrialConfig
from vadtune.training.fitting import fit_on_all, fit_watched

if TYPE_CHECKING:
    import optuna


class ModelImputer(Imputer):
    """An imputer of one model with given settings; subclasses say which."""

    BASE: ClassVar[Nested]
    PATHS: ClassVar[Mapping[str, str]]

    validation_share: float
    settings: Mapping[str, Any] | None

    @classmethod
    def from_artifact(cls, path: str | Path, device: str = "auto") -> Self:
        """A fitted imputer of an exported model, such as the folder `best` of a search; nothing is trained.

        Raises:
            ArtifactError: Not an artifact, or one of another model.
        """
        artifact = load_artifact(Path(path))
        kind = artifact.config.model.kind
        if kind != cls.BASE["model"]["kind"]:
            raise ArtifactError(f"{path}: holds a {kind}. Use {kind.upper()}Imputer.from_artifact.")
        settings = flatten(artifact.config.model_dump(mode="json"))
        params = {name: settings[at] for name, at in cls.PATHS.items() if at in settings}
        imputer = cls(**params, device=device, random_state=settings["seed"])
        usual = flatten(imputer._config().model_dump(mode="json"))
        others = {at: value for at, value in settings.items() if usual.get(at) != value}
        imputer.set_params(settings=others or None)
        names = [column.name for column in artifact.columns]
        imputer.n_features_in_ = len(names)
        if artifact.image_shape is None and names != [f"x{j}" for j in range(len(names))]:
            imputer.feature_names_in_ = np.array(names, dtype=object)
        imputer.is_empty_ = np.zeros(len(names), dtype=np.bool_)
        imputer.indicator_ = None
        imputer.artifact_ = artifact
        return imputer

    def _train(self, table: Table) -> Artifact:
        config, device, share = self._config(), self._resolve_device(), self.validation_share
        if not isinstance(share, int | float | np.number) or not 0 <= share < 1:
            raise ConfigError(f"{type(self).__name__}: validation_share is {share!r}: it should be in [0, 1).")
        return fit_watched(config, table, share, device) if share else fit_on_all(config, table, device)

    def _config(self) -> TrialConfig:
        given = {path: _plain(getattr(self, name)) for name, path in self.PATHS.items()}
        others = flatten(_mapping(self.settings, type(self).__name__))
        nested = merge(merge(self.BASE, unflatten(given)), unflatten(others)) | {"seed": self._seed()}
        config: TrialConfig = parse(TrialConfig, nested, type(self).__name__)
        return config


class VADImputer(ModelImputer):
    """Fills unknown cells by a variational auto-decoder (Zadeh et al. 2019, arXiv:1903.00840).

    Args:
        latent_dim: Latents of a row.
        posterior: `free`, `fixed` or `point`.
        log_var: Log variance of a `fixed` posterior, and where a `free` one begins.
        kl_weight: Weight of the KL term; 1 is the evidence lower bound.
        hidden_dim: Width of the decoder's hidden layers.
        n_layers: How many there are.
        activation: `silu`, `gelu`, `relu`, `tanh` or `leaky_relu`.
        layer_norm: Whether hidden layers are normalised.
        dropout: Of hidden units, while training.
        linear_path: Whether the decoder has a linear map beside its hidden layers.
        n_epochs: How often every row is visited; of more than some 2,000 rows fewer do.
        batch_size: Rows of a step.
        learning_rate: Of the decoder.
        latent_learning_rate: Of the posteriors.
        weight_decay: Of the decoder's weight matrices.
        validation_share: Share of the rows to hold back: they choose the best epoch, and how inference is done (see
            `training.adjustment`); 0 trains on all of them.
        settings: Any other setting of a trial by its dotted path, such as `{"train.schedule": "cosine"}`.
        add_indicator: Whether to append columns that say what was unknown.
        keep_empty_features: Whether columns without any observed cell stay, filled with 0.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        random_state: Of weights, order of rows and noise.
    """

    BASE: ClassVar[Nested] = {
        "model": {"kind": "vad", "latent_init": "pca", "normal_scores": True, "noise": {"kind": "per_column"}}
    }
    PATHS: ClassVar[Mapping[str, str]] = {
        "latent_dim": "model.latent_dim",
        "posterior": "model.posterior",
        "log_var": "model.log_var",
        "kl_weight": "model.kl_weight",
        "hidden_dim": "model.decoder.hidden_dim",
        "n_layers": "model.decoder.n_layers",
        "activation": "model.decoder.activation",
        "layer_norm": "model.decoder.layer_norm",
        "dropout": "model.decoder.dropout",
        "linear_path": "model.decoder.linear_path",
        "n_epochs": "train.n_epochs",
        "batch_size": "train.batch_size",
        "learning_rate": "train.learning_rate",
        "latent_learning_rate": "train.latent_learning_rate",
        "weight_decay": "train.weight_decay",
    }

    def __init__(
        self,
        *,
        latent_dim: int = 24,
        posterior: str = "free",
        log_var: float = -3.0,
        kl_weight: float = 0.6,
        hidden_dim: int = 256,
        n_layers: int = 2,
        activation: str = "silu",
        layer_norm: bool = False,
        dropout: float = 0.05,
        linear_path: bool = False,
        n_epochs: int = 300,
        batch_size: int = 128,
        learning_rate: float = 3e-3,
        latent_learning_rate: float = 0.1,
        weight_decay: float = 0.01,
        validation_share: float = 0.0,
        settings: Mapping[str, Any] | None = None,
        add_indicator: bool = False,
        keep_empty_features: bool = False,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.posterior = posterior
        self.log_var = log_var
        self.kl_weight = kl_weight
        self.hidden_dim = hidden_dim
        self.n_layers = n_layers
        self.activation = activation
        self.layer_norm = layer_norm
        self.dropout = dropout
        self.linear_path = linear_path
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.latent_learning_rate = latent_learning_rate
        self.weight_decay = weight_decay
        self.validation_share = validation_share
        self.settings = settings
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features
        self.device = device
        self.random_state = random_state


class VAEImputer(ModelImputer):
    """Fills unknown cells by a variational auto-encoder, its answer refined by gradient steps.

    Args:
        latent_dim: Latents of a row.
        kl_weight: Weight of the KL term; 1 is the evidence lower bound.
        mask_rate: Up to which share of a row's observed cells the encoder has to do without, while training.
        refinement_steps: By which the encoder's answer is made better; 0 takes it as it is.
        encoder_hidden_dim: Width of the encoder's hidden layers.
        encoder_n_layers: How many there are.
        encoder_dropout: Of its hidden units, while training.
        hidden_dim, n_layers, activation, layer_norm, dropout, linear_path: Of the decoder, as in `VADImputer`.
        n_epochs, batch_size, learning_rate, weight_decay: Of the training, as there.
        validation_share, settings, add_indicator, keep_empty_features, device, random_state: As there.
    """

    BASE: ClassVar[Nested] = {
        "model": {"kind": "vae", "normal_scores": True, "noise": {"kind": "per_column"}},
        "infer": {"learning_rate": 0.1},  # an encoder begins near the end
    }
    PATHS: ClassVar[Mapping[str, str]] = {
        "latent_dim": "model.latent_dim",
        "kl_weight": "model.kl_weight",
        "mask_rate": "model.mask_rate",
        "refinement_steps": "model.refinement_steps",
        "encoder_hidden_dim": "model.encoder.hidden_dim",
        "encoder_n_layers": "model.encoder.n_layers",
        "encoder_dropout": "model.encoder.dropout",
        "hidden_dim": "model.decoder.hidden_dim",
        "n_layers": "model.decoder.n_layers",
        "activation": "model.decoder.activation",
        "layer_norm": "model.decoder.layer_norm",
        "dropout": "model.decoder.dropout",
        "linear_path": "model.decoder.linear_path",
        "n_epochs": "train.n_epochs",
        "batch_size": "train.batch_size",
        "learning_rate": "train.learning_rate",
        "weight_decay": "train.weight_decay",
    }

    def __init__(
        self,
        *,
        latent_dim: int = 24,
        kl_weight: float = 0.3,
        mask_rate: float = 0.6,
        refinement_steps: int = 30,
        encoder_hidden_dim: int = 256,
        encoder_n_layers: int = 2,
        encoder_dropout: float = 0.1,
        hidden_dim: int = 256,
        n_layers: int = 2,
        activation: str = "silu",
        layer_norm: bool = False,
        dropout: float = 0.0,
        linear_path: bool = False,
        n_epochs: int = 300,
        batch_size: int = 64,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.01,
        validation_share: float = 0.0,
        settings: Mapping[str, Any] | None = None,
        add_indicator: bool = False,
        keep_empty_features: bool = False,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.latent_dim = latent_dim
        self.kl_weight = kl_weight
        self.mask_rate = mask_rate
        self.refinement_steps = refinement_steps
        self.encoder_hidden_dim = encoder_hidden_dim
        self.encoder_n_layers = encoder_n_layers
        self.encoder_dropout = encoder_dropout
        self.hidden_dim = hidden_dim
        self.n_layers = n_layers
        self.activation = activation
        self.layer_norm = layer_norm
        self.dropout = dropout
        self.linear_path = linear_path
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation_share = validation_share
        self.settings = settings
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features
        self.device = device
        self.random_state = random_state


class SearchImputer(Imputer):
    """Searches a model's settings as `vadtune.search` does, then trains the best ones on all rows.

    Rows are split and cells hidden as there; trials run on Ray. The run folder is the same, too: it has the study, a
    report, and in `best` this model. How to watch it meanwhile is logged at level INFO.

    Args:
        model: `vad` or `vae`.
        n_trials: After how many trials to end; None if `time_budget_s` alone is to say.
        time_budget_s: Seconds after which no trial goes on, but one that is nearly done by then, for a tenth more.
        n_jobs: How many trials run at once; None and -1: as many as there are CPUs for.
        address: Of a running Ray cluster, `auto` or `HOST:PORT`; None for this machine.
        storage: Where checkpoints go: a folder or address that every node sees; None for the run folder.
        space: What is searched: the name of a space, a TOML file, or nested values; None for the tables' own.
        settings: Values or ranges that replace those of the space, by dotted path: `{"train.n_epochs": 50}`.
        missing_rate: Share of the known cells to hide.
        mechanism: Why they are hidden: `mcar`, `mar`, `mnar`, `block` or `landmark`.
        sampler: Proposes settings: `tpe`, `gp`, `cmaes`, `qmc`, `random` or `grid`.
        scheduler: Stops trials: `asha`, `hyperband`, `median` or `none`.
        ensemble: Average at most so many trials, where that is better on the validation rows, and in small tables with
            further fits of them; 1: one model.
        runs: Folder of run folders.
        add_indicator: Whether to append columns that say what was unknown.
        keep_empty_features: Whether columns without any observed cell stay, filled with 0.
        device: `auto`, `cpu` or `cuda`.
        random_state: Of splits, masks and all else.

    Attributes:
        best_params_: What was searched, by dotted path, as in the best trial.
        best_score_: Minus the model's error over hidden validation cells: higher is better.
        run_folder_: The folder of the run.
        artifact_: The model, or ensemble, trained on all rows; its metrics are from before that.
    """

    MIN_ROWS = 3

    def __init__(
        self,
        model: str = "vad",
        *,
        n_trials: int | None = 30,
        time_budget_s: float | None = None,
        n_jobs: int | None = None,
        address: str | None = None,
        storage: str | None = None,
        space: str | Path | Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        missing_rate: float = 0.2,
        mechanism: str = "mcar",
        sampler: str = "tpe",
        scheduler: str = "asha",
        ensemble: int = 4,
        runs: str | Path = "runs",
        add_indicator: bool = False,
        keep_empty_features: bool = False,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.model = model
        self.n_trials = n_trials
        self.time_budget_s = time_budget_s
        self.n_jobs = n_jobs
        self.address = address
        self.storage = storage
        self.space = space
        self.settings = settings
        self.missing_rate = missing_rate
        self.mechanism = mechanism
        self.sampler = sampler
        self.scheduler = scheduler
        self.ensemble = ensemble
        self.runs = runs
        self.add_indicator = add_indicator
        self.keep_empty_features = keep_empty_features
        self.device = device
        self.random_state = random_state

    @property
    def study_(self) -> "optuna.Study":
        """The Optuna study of the run, read from its folder."""
        from vadtune.tuning.study import read_study

        check_is_fitted(self, "artifact_")
        return read_study(self.run_folder_ / "study.log")

    def _train(self, table: Table) -> Artifact:
        # A fitted imputer does without Ray and Optuna.
        from vadtune.report.page import write_report
        from vadtune.tuning.whole_search import SearchSettings, search_and_refit

        given = {name: getattr(self, name) for name in SearchSettings.model_fields if name != "seed"}
        plain = {name: _plain(value) for name, value in given.items()} | {"seed": self._seed()}
        _mapping(self.settings, "SearchImputer")
        with parameters_not_flags():
            settings = parse(SearchSettings, plain, "SearchImputer")
            found = search_and_refit(settings, table)
        write_report(found.folder)
        self.best_params_, self.best_score_, self.run_folder_ = found.params, -found.error, found.folder
        return found.artifact


def _mapping(settings: Any, name: str) -> Mapping[str, Any]:
    """The parameter `settings`, of which `seed` is none."""
    if not isinstance(settings, Mapping | None):
        raise ConfigError(f"{name}: settings is {settings!r}: give a dictionary, {{'train.schedule': 'cosine'}}.")
    if "seed" in (settings or {}):
        raise ConfigError(f"{name}: the seed is no setting: give random_state.")
    return settings or {}


def _plain(value: Any) -> Any:
    """A number of numpy, which a grid of parameters may hold, as one of Python."""
    return value.item() if isinstance(value, np.generic) else value
