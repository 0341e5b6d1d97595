"""Datasets that are made, not measured."""

import numpy as np
from pydantic import Field

from vadtune.data.tables import Column, FloatArray, Table
from vadtune.settings import Settings


class Synthetic(Settings):
    """A mixture of Gaussians in few dimensions, seen through a random non-linear decoder."""

    n_rows: int = Field(2000, ge=1)
    n_features: int = Field(16, ge=1)
    n_clusters: int = Field(2, ge=1)
    latent_dim: int = Field(4, ge=1)
    seed: int = Field(0, ge=0)

    def build(self, name: str) -> Table:
        """The table: see `synthetic`."""
        table = synthetic(self.n_rows, self.n_features, self.n_clusters, self.latent_dim, self.seed)
        return Table(name, table.source, table.values, table.columns, labels=table.labels)


class Landmarks(Settings):
    """Deformable 3-D shapes seen by random cameras: two columns for each landmark."""

    n_rows: int = Field(2000, ge=1)
    n_landmarks: int = Field(84, ge=1)
    n_modes: int = Field(6, ge=0)
    seed: int = Field(0, ge=0)

    def build(self, name: str) -> Table:
        """The table: see `landmarks`."""
        table = landmarks(self.n_rows, self.n_landmarks, self.n_modes, self.seed)
        return Table(name, table.source, table.values, table.columns)


GENERATORS: dict[str, type[Synthetic] | type[Landmarks]] = {"synthetic": Synthetic, "landmarks": Landmarks}


def synthetic(
    n_rows: int = 2000, n_features: int = 16, n_clusters: int = 2, latent_dim: int = 4, seed: int = 0
) -> Table:
    """A mixture of `n_clusters` Gaussians in `latent_dim` dimensions through a random two-layer tanh decoder.

    Labels are the clusters. Cells have a standard deviation of about 1, of which 0.01 is noise.

    Source: the synthetic data of Zadeh et al. (2019), arXiv:1903.00840, section 4.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_clusters, size=n_rows)
    means = 2 * rng.standard_normal((n_clusters, latent_dim))
    spreads = rng.standard_normal((n_clusters, latent_dim, latent_dim)) / np.sqrt(latent_dim)
    z = means[labels] + np.einsum("nij,nj->ni", spreads[labels], rng.standard_normal((n_rows, latent_dim)))
    hidden = np.tanh(z @ rng.standard_normal((latent_dim, 32)) / np.sqrt(latent_dim) + 0.5 * rng.standard_normal(32))
    x = np.tanh(hidden @ rng.standard_normal((32, 32)) / 4) @ rng.standard_normal((32, n_features)) / 4
    values = x + 0.01 * rng.standard_normal(x.shape)
    source = f"mixture of {n_clusters} Gaussians through a random decoder, seed {seed}"
    columns = tuple(Column(f"x{j}", "numeric", "float64") for j in range(n_features))
    return Table("synthetic", source, values, columns, labels=labels)


def landmarks(n_rows: int = 2000, n_landmarks: int = 84, n_modes: int = 6, seed: int = 0) -> Table:
    """Points of a 3-D shape that deforms in `n_modes` ways, each row seen by its own perspective camera.

    Columns are `x0, y0, x1, y1, …`; a shape fills about [-0.5, 0.5]. Cameras turn by up to 60 degrees to the side,
    30 up and down and 30 in the plane, at 3 to 5 radii of the shape. Nothing is missing and there is no noise.

    Source: the landmark experiment of Zadeh et al. (2019), arXiv:1903.00840, after faces of the Menpo challenge.
    """
    rng = np.random.default_rng(seed)
    mean = rng.standard_normal((n_landmarks, 3))
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    # Each way to deform moves all points, less in each further one.
    modes = rng.standard_normal((n_modes, n_landmarks, 3)) * 0.2 / np.sqrt(1 + np.arange(n_modes))[:, None, None]
    shapes = mean + np.einsum("nk,kpd->npd", rng.standard_normal((n_rows, n_modes)), modes)
    angles = rng.uniform(-1, 1, (n_rows, 3)) * np.radians([60, 30, 30])
    seen = np.einsum("npd,nde->npe", shapes, _rotations(angles))
    distance = rng.uniform(3, 5, (n_rows, 1))
    # A deformed point may come near the camera: never nearer than one radius.
    depth = np.maximum(seen[..., 2] + distance, 1.0)
    values = (1.5 * seen[..., :2] / depth[..., None]).reshape(n_rows, 2 * n_landmarks)
    source = f"{n_landmarks} points of 3-D shapes with {n_modes} deformations under random cameras, seed {seed}"
    return Table("landmarks", source, values, landmark_columns(n_landmarks))


def landmark_columns(n_landmarks: int) -> tuple[Column, ...]:
    """`x0, y0, x1, y1, …`: by these names a table is known to hold landmarks."""
    return tuple(Column(f"{axis}{k}", "numeric", "float64") for k in range(n_landmarks) for axis in "xy")


def _rotations(angles: FloatArray) -> FloatArray:
    """`(N, 3)` angles about the vertical, horizontal and viewing axis to `(N, 3, 3)` rotation matrices."""
    cos, sin, zero, one = np.cos(angles).T, np.sin(angles).T, np.zeros(len(angles)), np.ones(len(angles))
    yaw = np.array([[cos[0], zero, sin[0]], [zero, one, zero], [-sin[0], zero, cos[0]]])
    pitch = np.array([[one, zero, zero], [zero, cos[1], -sin[1]], [zero, sin[1], cos[1]]])
    roll = np.array([[cos[2], -sin[2], zero], [sin[2], cos[2], zero], [zero, zero, one]])
    turned: FloatArray = np.einsum("ijn,jkn,kln->nil", yaw, pitch, roll)
    return turned
