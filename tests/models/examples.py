"""Models with closed forms, and rows with holes."""

import torch
from torch.testing import assert_close

from vadtune.models.config import DecoderConfig, NoiseConfig, VADConfig
from vadtune.models.objective import Batch, Posterior


def holes(x, missing_rate=0.4, seed=0):
    """A copy of `x` with cells set to NaN."""
    hidden = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < missing_rate
    return torch.where(hidden, torch.nan, x)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear_vad(weight, bias, noise_std, kl_weight=1.0, posterior="free"):
    """x = W z + b with known noise: probabilistic PCA. `weight` is `(D, L)`."""
    n_features, latent_dim = weight.shape
    config = VADConfig(
        latent_dim=latent_dim,
        posterior=posterior,
        kl_weight=kl_weight,
        decoder=DecoderConfig(n_layers=0),
        noise=NoiseConfig(kind="fixed", log_var=2 * float(torch.tensor(noise_std).log())),
    )
    model = config.build(n_features)
    with torch.no_grad():
        model.decoder.network[-1].weight.copy_(weight)
        model.decoder.network[-1].bias.copy_(bias)
    return model.eval()


def exact_posterior(weight, bias, noise_std, x, kl_weight=1.0):
    """Posterior mean `(N, L)` and precision `(N, L, L)` of probabilistic PCA given the observed cells, in float64.

    Source: Tipping and Bishop (1999), Probabilistic principal component analysis, with the rows of W that are seen.
    """
    weight, bias, x = weight.double(), bias.double(), x.double()
    observed = ~x.isnan()
    residual = torch.where(observed, x - bias, 0.0)
    gram = torch.einsum("nd,dl,dk->nlk", observed.double(), weight, weight) / noise_std**2
    precision = gram + kl_weight * torch.eye(weight.shape[1])
    mean = torch.linalg.solve(precision, residual @ weight / noise_std**2)
    return mean, precision


def check_gradients(model, batch):
    """What `Model.losses` says, with weights that learn, is what autograd finds; in float64."""
    n, latent_dim = len(batch), 3
    model.double()
    scored = None if batch.scored is None else Batch(batch.scored.x.double(), batch.scored.observed.double())
    batch = Batch(batch.x.double(), batch.observed.double(), scored)
    leaves = [normal(n, latent_dim, seed=seed).double().requires_grad_() for seed in (0, 1)]
    noise, posterior = normal(n, latent_dim, seed=2).double(), Posterior(*leaves)
    z = leaves[0] + torch.exp(0.5 * leaves[1]) * noise
    expected = model.likelihood.loss(model.decoder(z), batch) + model.kl_weight * posterior.kl()
    weights = [weight for weight in model.parameters() if weight.requires_grad and weight.numel()]
    by_autograd = torch.autograd.grad(expected.mean(), [*leaves, *weights])
    with torch.no_grad():
        losses, gradients = model.losses(batch, posterior, noise, 1 / n, learns=True)
    assert_close(losses, expected.detach())
    assert_close([*gradients, *(weight.grad for weight in weights)], list(by_autograd))
