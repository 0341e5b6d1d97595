"""Models with closed forms, and rows with holes."""

import torch

from vadtune.models.config import DecoderConfig, NoiseConfig, VADConfig


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
