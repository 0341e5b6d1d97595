"""A trial: gone on with to the digit, scored at its best epoch, warm between reports and cold at the end."""

import numpy as np
import pytest
import torch

from tests.training.examples import THOROUGH, change, holdout, low_rank, rmse, small
from vadtune.data.codec import Codec
from vadtune.data.normal import MultivariateNormal
from vadtune.data.splits import Holdout, Rows
from vadtune.errors import DataError, Diverged
from vadtune.models.objective import Batch
from vadtune.training.inference import infer
from vadtune.training.run import TrialRun, load_best_model, load_expected

TRAIN, VALIDATION = low_rank(100), low_rank(40, seed=50)
DROPOUT = {"hidden_dim": 16, "n_layers": 1, "dropout": 0.3}
TRIALS = {
    "vad free adam": small(),
    "vad point plateau sgd": change(small(posterior="point"), "train", schedule="plateau", optimizer="sgd"),
    "vad fixed dropout": small(posterior="fixed", decoder=DROPOUT),
    "vad pca": small(latent_init="pca", inference_start="pca"),
    "vad linear": small(inference_start="linear"),
    "vad noise per column": change(small(noise={"kind": "per_column"}), "train", schedule="cosine", weight_decay=0.1),
    "vae dropout": small("vae", encoder=DROPOUT, decoder=DROPOUT),
    "vae refined": small("vae", refinement_steps=4),
}


def start(config):
    return TrialRun(config, Rows(TRAIN.x.numpy()), holdout(VALIDATION))


def weights(run):
    return {name: tensor.clone() for name, tensor in run.trainer.model.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(tensor.equal(other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("config", TRIALS.values(), ids=TRIALS)
def test_a_saved_trial_goes_on_to_the_digit(config, tmp_path):
    whole = start(config)
    expected = [whole.advance(epoch) for epoch in (1, 3, 4, 6)]
    first = start(config)
    scores = [first.advance(epoch) for epoch in (1, 3)]
    first.save(tmp_path)
    torch.manual_seed(12345)  # whatever another trial of the process has done
    rest = TrialRun.load(tmp_path, Rows(TRAIN.x.numpy()), holdout(VALIDATION))
    assert rest.epoch == 3
    scores += [rest.advance(epoch) for epoch in (4, 6)]
    assert scores == expected
    assert equal(weights(rest), weights(whole))
    assert (rest.best_epoch, rest.best_rmse) == (whole.best_epoch, whole.best_rmse)
    assert rest.finish() == whole.finish()
    assert vars(rest.trainer.plateau) == vars(whole.trainer.plateau)


def test_a_trial_that_goes_on_does_not_look_for_its_first_latents_again(tmp_path, monkeypatch):
    config = TRIALS["vad pca"]
    run = start(config)
    run.advance(1)
    run.save(tmp_path)
    calls, complete = [], MultivariateNormal.complete
    monkeypatch.setattr(MultivariateNormal, "complete", lambda *args: calls.append(1) or complete(*args))
    TrialRun.load(tmp_path, Rows(TRAIN.x.numpy()), holdout(VALIDATION)).advance(2)
    assert not calls
    # One that begins completes its rows once, for its latents and for those of unseen rows.
    start(config)
    assert len(calls) == 1


def test_a_trial_can_be_saved_before_its_first_epoch(tmp_path):
    start(small()).save(tmp_path)
    assert TrialRun.load(tmp_path, Rows(TRAIN.x.numpy()), holdout(VALIDATION)).advance(2) == start(small()).advance(2)


def test_seconds_add_up_over_a_restart(tmp_path):
    run = start(small())
    run.advance(2)
    run.save(tmp_path)
    again = TrialRun.load(tmp_path, Rows(TRAIN.x.numpy()), holdout(VALIDATION))
    assert (again.train_s, again.infer_s) == (run.train_s, run.infer_s)
    again.advance(3)
    assert again.train_s > run.train_s > 0
    assert again.infer_s > run.infer_s > 0


@pytest.mark.parametrize("kind", ["vad", "vae"])
def test_the_score_is_that_of_the_best_epoch_and_not_of_the_last(kind):
    # So high a rate that the score goes up and down.
    config = change(small(kind), "train", learning_rate=0.3, schedule="constant", batch_size=8)
    run = start(config)
    scores, states = {}, {}
    for epoch in range(1, 9):
        scores[epoch] = run.advance(epoch)
        states[epoch] = weights(run)
    best = min(scores, key=scores.get)
    assert best != 8, "the example should not end at its best"
    assert (run.best_epoch, run.best_rmse) == (best, scores[best])
    assert equal(dict(run.best_model().state_dict()), states[best])
    model = run.best_model()
    mean = infer(model, Batch.of(VALIDATION.x), config.infer).mean
    assert run.finish() == pytest.approx(rmse(model.decoder(mean).detach(), VALIDATION.truth), rel=1e-6)
    assert equal(weights(run), states[8]), "to score the best epoch is not to go back to it"


def test_what_a_scored_trial_expects_of_the_validation_rows_is_saved_with_it(tmp_path):
    run = start(small())
    run.advance(3)
    run.save(tmp_path)
    assert load_expected(tmp_path) is None
    score = run.finish()
    run.save(tmp_path)
    mean = infer(run.best_model(), Batch.of(VALIDATION.x), run.config.infer).mean
    expected = load_expected(tmp_path)
    np.testing.assert_allclose(expected, run.best_model().estimate(mean).detach(), rtol=1e-5)
    assert score == pytest.approx(rmse(torch.from_numpy(expected), VALIDATION.truth), rel=1e-6)
    again = TrialRun.load(tmp_path, Rows(TRAIN.x.numpy()), holdout(VALIDATION))
    assert again.expected.equal(run.expected)


def test_the_best_model_of_a_saved_trial_can_be_read_alone(tmp_path):
    run = start(small())
    run.advance(3)
    run.save(tmp_path)
    config, model = load_best_model(tmp_path, Codec.of_numbers(12))
    assert config == run.config
    assert equal(dict(model.state_dict()), dict(run.best_model().state_dict()))
    assert not model.training


@pytest.mark.parametrize("kind", ["vad", "vae"])
def test_warm_scores_are_close_to_cold_ones(kind):
    config = change(small(kind), "train", n_epochs=20, learning_rate=0.01)
    run = start(config)
    for epoch in range(1, 21):
        warm = run.advance(epoch)
        if epoch >= 10:
            mean = infer(run.trainer.model, Batch.of(VALIDATION.x), THOROUGH).mean if kind == "vad" else None
            if mean is not None:
                assert warm == pytest.approx(rmse(run.trainer.model.decoder(mean).detach(), VALIDATION.truth), rel=0.03)
    assert run.finish() == pytest.approx(run.best_rmse, rel=0.03)


def test_a_report_does_not_change_the_training():
    often, once = start(small()), start(small())
    for epoch in range(1, 6):
        often.advance(epoch)
    once.advance(5)
    assert equal(weights(often), weights(once))


def test_to_advance_to_an_epoch_that_is_done_trains_no_more():
    run = start(small())
    run.advance(3)
    before = weights(run)
    run.advance(3)
    assert run.epoch == 3
    assert equal(weights(run), before)


def test_hidden_truth_changes_the_score_alone():
    truth = VALIDATION.truth + 100.0
    one, other = (
        start(small()),
        TrialRun(small(), Rows(TRAIN.x.numpy()), Holdout(Rows(VALIDATION.x.numpy()), truth.numpy())),
    )
    assert one.advance(2) < 5 < other.advance(2)
    assert equal(weights(one), weights(other))
    assert one.warm.mean.equal(other.warm.mean)


def test_a_score_that_is_not_finite_is_a_divergence():
    run = start(small())
    run.advance(1)
    with torch.no_grad():
        run.trainer.model.decoder.network[-1].bias.fill_(torch.nan)
    with pytest.raises(Diverged, match="imputation_rmse is nan after epoch 1"):
        run.advance(1)
    with pytest.raises(Diverged):
        run.advance(2)


def test_validation_without_a_hidden_cell_is_refused():
    nothing = Holdout(Rows(VALIDATION.x.numpy()), np.full((40, 12), np.nan, np.float32))
    with pytest.raises(DataError, match="no hidden cell"):
        TrialRun(small(), Rows(TRAIN.x.numpy()), nothing).advance(1)


def test_tables_may_be_read_only_as_those_of_the_object_store():
    array = TRAIN.x.numpy().copy()
    array.flags.writeable = False
    assert TrialRun(small(), Rows(array), holdout(VALIDATION)).advance(1) == start(small()).advance(1)
