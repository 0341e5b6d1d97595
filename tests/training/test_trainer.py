"""Training: any sizes, the same numbers again, the right learning rates, and an end when it diverges."""

import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from tests.models.examples import exact_posterior, holes, normal
from tests.training.examples import THOROUGH, change, low_rank, rmse, small
from vadtune.data.splits import Rows
from vadtune.errors import Diverged
from vadtune.models.config import DecoderConfig, VADConfig
from vadtune.models.objective import Batch
from vadtune.training.config import TrainConfig, TrialConfig
from vadtune.training.inference import infer
from vadtune.training.schedules import one_cycle
from vadtune.training.trainer import Trainer

CPU = torch.device("cpu")
KINDS = ["vad", "vae"]
DROPOUT = {"hidden_dim": 16, "n_layers": 1, "dropout": 0.3}


def trainer_of(config, x):
    return Trainer(config, Rows(x.numpy()), CPU)


def losses(config, x, n_epochs=3):
    trainer = trainer_of(config, x)
    return [trainer.fit_epoch() for _ in range(n_epochs)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n_features", [1, 4])
def test_any_number_of_rows_trains_with_any_batch_size(kind, n_features):
    for n_rows, batch_size in itertools.product((1, 3, 7), (1, 3, 100)):
        config = change(small(kind), "train", batch_size=batch_size)
        assert all(math.isfinite(loss) for loss in losses(config, holes(normal(n_rows, n_features)), 2))


@pytest.mark.parametrize("n_rows", [1, 31, 32, 33, 70])
def test_an_epoch_visits_every_row_once(n_rows):
    trainer = trainer_of(small(), normal(n_rows, 4))
    for epoch in (1, 2, 3):
        trainer.fit_epoch()
        assert trainer.posteriors.n_updates.tolist() == [epoch] * n_rows
        assert trainer.epoch == epoch


@pytest.mark.parametrize("kind", KINDS)
def test_how_many_rows_are_gathered_at_once_changes_nothing(kind, monkeypatch):
    config = change(small(kind), "train", batch_size=8)
    together, apart = (trainer_of(config, holes(normal(70, 4))) for _ in range(2))
    for _ in range(3):
        together.fit_epoch()
    monkeypatch.setattr("vadtune.training.trainer.GATHERED_ROWS", 20)
    apart.fit_epoch()
    monkeypatch.setattr("vadtune.training.trainer.GATHERED_CELLS", 2)
    for _ in range(2):
        apart.fit_epoch()
    for name, tensor in together.model.state_dict().items():
        assert apart.model.state_dict()[name].equal(tensor)
    for name, tensor in together.posteriors.state_dict().items():
        assert apart.posteriors.state_dict()[name].equal(tensor)


@pytest.mark.parametrize("kind", KINDS)
def test_products_of_rounded_numbers_train_as_well(kind):
    config = small(kind, decoder={"hidden_dim": 256, "n_layers": 2})
    x = holes(normal(256, 64))
    exact = losses(config, x, 10)
    rounded = losses(change(config, "train", matmul_precision="medium"), x, 10)  # the same where no unit does it
    assert exact[-1] < 0.9 * exact[0]
    assert rounded == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("posterior", ["point", "fixed", "free"])
@pytest.mark.parametrize("latent_init", ["zeros", "normal", "pca"])
def test_rows_and_columns_that_are_entirely_unknown_do_no_harm(kind, posterior, latent_init):
    x = holes(normal(20, 5))
    x[3], x[:, 2] = torch.nan, torch.nan
    settings = {"posterior": posterior, "latent_init": latent_init} if kind == "vad" else {}
    config = small(kind, noise={"kind": "per_column"}, **settings)
    trainer = trainer_of(config, x)
    assert all(math.isfinite(trainer.fit_epoch()) for _ in range(3))
    assert all(parameter.isfinite().all() for parameter in trainer.model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_without_holes_and_one_without_values_train(kind):
    assert all(math.isfinite(loss) for loss in losses(small(kind), normal(20, 5)))
    assert all(math.isfinite(loss) for loss in losses(small(kind), torch.full((20, 5), torch.nan)))


def test_a_constant_column_does_not_blow_up_the_loss():
    x = normal(50, 4)
    x[:, 0] = 0.7
    config = change(small(noise={"kind": "per_column"}), "train", learning_rate=0.05, n_epochs=60)
    assert all(math.isfinite(loss) for loss in losses(config, x, 60))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_equal_seeds_give_equal_numbers_whatever_the_global_seed(kind, dropout):
    config = small(kind, decoder=DROPOUT | {"dropout": dropout})
    x, runs = holes(normal(70, 5)), []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        runs.append(losses(config, x))
    assert runs[0] == runs[1]
    assert losses(config.model_copy(update={"seed": 1}), x) != runs[0]


@pytest.mark.parametrize("kind", KINDS)
def test_training_leaves_the_global_generator_as_it_was(kind):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    losses(small(kind, decoder=DROPOUT), normal(20, 5))
    assert torch.random.get_rng_state().equal(before)


def test_dropout_differs_from_epoch_to_epoch():
    config = change(small(decoder=DROPOUT), "train", learning_rate=1e-12, latent_learning_rate=1e-12)
    assert len(set(losses(config, normal(20, 5)))) == 3


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_absurd_learning_rate_diverges_with_a_reason(kind, optimizer):
    config = change(small(kind), "train", optimizer=optimizer, learning_rate=1e30, schedule="constant")
    with pytest.raises(Diverged, match=r"training loss is (nan|inf) after epoch \d"):
        losses(config, normal(70, 5), 5)


def test_a_hidden_value_that_leaks_into_a_batch_ends_the_first_epoch():
    x = holes(normal(20, 5))
    trainer = trainer_of(small(), x)
    trainer.batch = Batch(x, trainer.batch.observed)
    with pytest.raises(Diverged, match="nan after epoch 1"):
        trainer.fit_epoch()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_the_schedule_is_a_factor_on_the_learning_rate_of_every_batch(optimizer):
    config = change(small(), "train", batch_size=10, n_epochs=4, optimizer=optimizer, learning_rate=1e-3)
    trainer = trainer_of(config, normal(25, 5))
    rates, step = [], trainer.optimizer.step
    trainer.optimizer.step = lambda rate: (rates.append(rate), step(rate))
    for _ in range(4):
        trainer.fit_epoch()
    assert rates == pytest.approx([1e-3 * one_cycle(batch / 12) for batch in range(12)])


@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
def test_latents_follow_the_same_schedule(schedule):
    config = change(small(), "train", schedule=schedule, latent_learning_rate=0.1, n_epochs=10)
    trainer = trainer_of(config, normal(20, 5))
    before = trainer.posteriors.table[:, 0].clone()
    trainer.fit_epoch()
    # The first step of Adam is as long as the learning rate.
    step = (trainer.posteriors.table[:, 0] - before).abs()
    assert_close(step.max().item(), 0.1 * (one_cycle(0.0) if schedule == "one_cycle" else 1.0), rtol=1e-3, atol=0)


def test_plateau_watches_the_loss_of_the_epochs():
    config = change(small(), "train", schedule="plateau", learning_rate=1e-12, latent_learning_rate=1e-12)
    config = config.model_copy(update={"model": config.model.model_copy(update={"posterior": "point"})})
    trainer = trainer_of(config, normal(20, 5))
    for _ in range(40):
        trainer.fit_epoch()
    assert trainer.plateau.factor < 1.0


def test_training_begins_at_the_column_means():
    x = holes(normal(400, 5) + torch.arange(5.0))
    trainer = trainer_of(small(decoder={"n_layers": 0}), x)
    assert_close(trainer.model.decoder(torch.zeros(1, 3))[0], x.nanmean(0))


def test_a_linear_decoder_reaches_the_noise_floor():
    train, test = low_rank(500), low_rank(150, seed=50)
    config = TrialConfig(
        model=VADConfig(latent_dim=3, decoder=DecoderConfig(n_layers=0)),
        train=TrainConfig(n_epochs=200, batch_size=64, learning_rate=0.02),
    )
    trainer = trainer_of(config, train.x)
    for _ in range(200):
        trainer.fit_epoch()
    found = rmse(trainer.model.decoder(infer(trainer.model, Batch.of(test.x), THOROUGH).mean).detach(), test.truth)
    z, _ = exact_posterior(test.weight, test.bias, test.noise_std, test.x)
    best = rmse(z.float() @ test.weight.T + test.bias, test.truth)  # by whoever knows the model that made the rows
    assert found < 1.05 * best
    assert_close(trainer.model.noise.log_var().exp().sqrt().item(), train.noise_std, rtol=0.15, atol=0)
