"""The encoder: what it reads, and what it must not."""

import torch
from torch.testing import assert_close

from tests.models.examples import holes, normal
from vadtune.data.splits import Rows
from vadtune.models.config import VAEConfig
from vadtune.models.dropout import drop_cells, dropping_by
from vadtune.models.objective import Batch
from vadtune.models.vae import MAX_LOG_VAR, encode


def test_the_encoder_reads_the_zero_filled_row_and_its_observed_mask():
    model = VAEConfig(latent_dim=3).build(4)
    x = holes(normal(6, 4))
    posterior = model.start(Batch.of(x))
    outputs = model.encoder(torch.cat([x.nan_to_num(0.0), (~x.isnan()).float()], 1))
    assert_close(posterior.mean, outputs[:, :3])
    assert_close(posterior.log_var, outputs[:, 3:])


def test_an_observed_zero_is_not_a_hole():
    model = VAEConfig(latent_dim=3).build(2)
    zero, hole = (model.start(Batch.of(torch.tensor([[1.0, cell]]))).mean for cell in (0.0, torch.nan))
    assert not zero.equal(hole)


def test_variances_of_wild_inputs_stay_finite():
    posterior = encode(VAEConfig(latent_dim=3).build(4).encoder, Batch.of(1e9 * normal(6, 4)))
    assert posterior.log_var.abs().max() <= MAX_LOG_VAR
    assert posterior.kl().isfinite().all()


def test_training_posteriors_are_the_encoder_s_and_hold_no_weights_of_their_own():
    model, x = VAEConfig(latent_dim=3).build(4), normal(6, 4)
    batch = Batch.of(x)
    posteriors = model.training_posteriors(batch)
    model.begin(posteriors, Rows(x.numpy()), batch, torch.Generator())
    assert not list(posteriors.parameters())
    assert not posteriors.state_dict()
    index = torch.tensor([4, 2, 1])
    rows = batch.rows(index).rows(slice(1, 3))
    assert_close(posteriors.visit(index).of(slice(1, 3), rows).mean, model.start(batch).mean[[2, 1]])


def test_the_encoder_learns_by_the_gradient_of_the_loss():
    model, batch = VAEConfig(latent_dim=3).build(4), Batch.of(holes(normal(6, 4)))
    noise = normal(6, 3)
    start = model.start(batch)
    z = start.mean + torch.exp(0.5 * start.log_var) * noise
    loss = (model.likelihood.loss(model.decoder(z), batch) + start.kl()).mean()
    expected = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        visit = model.training_posteriors(batch).visit(torch.arange(6))
        posterior = visit.of(slice(6), batch)
        _, gradients = model.losses(batch, posterior, noise, 1 / 6, learns=True)
        visit.update(gradients, 0.1)
    assert_close([p.grad for p in model.parameters()], list(expected), rtol=1e-4, atol=1e-6)


def test_what_is_masked_in_training_is_kept_from_the_encoder_and_inference_sees_all():
    model, batch = VAEConfig(latent_dim=3, mask_rate=0.9).build(4), Batch.of(holes(normal(200, 4)))
    visit = model.training_posteriors(batch).visit(torch.arange(200))
    with dropping_by(torch.Generator().manual_seed(0)):
        posterior = visit.of(slice(200), batch)
    with dropping_by(torch.Generator().manual_seed(0)):
        kept = drop_cells(batch.observed, 0.9)
    assert 0.4 < float(kept.sum() / batch.observed.sum()) < 0.7
    assert_close(posterior.mean, encode(model.encoder, Batch(batch.x * kept, kept)).mean)
    assert_close(model.start(batch).mean, encode(model.encoder, batch).mean)
