"""Where the colours of a picture are: a training target in place of the simulator's state, made from pixels alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

BITS = 5  # of each channel by which a colour is looked up
NEAR = 1e-2  # distance of colours, channels being in [0, 1], below which they are the same
LEAST_AREA = 2e-3  # of the picture, added to every cluster's: the place of a colour that disappears goes to the middle
ITERATIONS = 30  # of k-means
NUMBERS = 6  # of each cluster: area, mean column and row, variances and covariance


class ColourBlobs(nn.Module):
    """The area, place and spread of a few clusters of colours in every camera's picture.

    Robots, objects and goals mostly have colours of their own, so the clusters' moments follow them, to a fraction of a
    pixel and smoothly. Latents from which they can be read linearly hold where things are, which next-latent prediction
    alone finds late and imprecisely; a regression on labels finds it at once. Nothing but pictures enters. (Clusters by
    k-means++, Arthur & Vassilvitskii 2007; a pixel's share in each as in fuzzy c-means, Bezdek 1981, so that pixels half
    covered count half; moments of pictures, Hu 1962.)

    Args:
        cameras: key to picture shape `(H, W, 3)`.
        clusters: K of each camera.
    """

    def __init__(self, cameras: dict[str, tuple[int, int, int]], clusters: int):
        super().__init__()
        self.cameras, self.clusters = cameras, clusters
        self.register_buffer("colours", torch.zeros(len(cameras), clusters, 3))

    @property
    def size(self) -> int:
        """P, numbers of one frame."""
        return len(self.cameras) * self.clusters * NUMBERS

    def fit(self, frames: dict[str, Tensor], generator: torch.Generator) -> None:
        """Find the clusters of `frames`: each camera uint8 `[F, H, W, 3]`, on CPU."""
        colours = [cluster_colours(frames[key], self.clusters, generator) for key in self.cameras]
        self.colours.copy_(torch.stack(colours))

    def measure(self) -> BlobMeasure:
        """What measures frames by the clusters as they are now."""
        return BlobMeasure(self.cameras, self.colours.cpu().numpy())


class BlobMeasure:
    """Measures pictures by clusters of colours, with tables that are made once.

    Args:
        cameras: key to picture shape `(H, W, 3)`.
        colours: of the clusters `[cameras, K, 3]`, in [0, 1].
    """

    def __init__(self, cameras: dict[str, tuple[int, int, int]], colours: np.ndarray):
        level = np.linspace(0, 1, 1 << BITS, dtype=np.float32)
        grid = np.stack(np.meshgrid(level, level, level, indexing="ij"), -1).reshape(-1, 1, 3)
        self.tables, self.monomials = {}, {}
        for (key, (height, width, _)), clusters in zip(cameras.items(), colours, strict=True):
            share = 1 / (np.square(grid - clusters).sum(-1) + NEAR**2)
            self.tables[key] = (share / share.sum(-1, keepdims=True)).astype(np.float32)
            row, column = (((np.arange(n) + 0.5) / n * 2 - 1).astype(np.float32) for n in (height, width))
            y, x = (values.ravel() for values in np.meshgrid(row, column, indexing="ij"))
            self.monomials[key] = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y]) / len(x)

    def __call__(self, frames: dict[str, np.ndarray]) -> np.ndarray:
        """Frames, each camera uint8 `[F, H, W, 3]`, to float32 `[F, P]`: of every camera's every cluster its area as a share
        of the picture, its mean column and row in [-1, 1], and their variances and covariance."""
        parts = []
        for key, table in self.tables.items():
            red, green, blue = np.moveaxis(frames[key] >> (8 - BITS), -1, 0).astype(np.int32)
            share = table[((red << 2 * BITS) | (green << BITS) | blue).reshape(len(red), -1)]
            moments = (self.monomials[key] @ share).swapaxes(1, 2)  # [F, K, 6]
            area = moments[..., :1]
            mean, square = moments[..., 1:3] / (area + LEAST_AREA), moments[..., 3:] / (area + LEAST_AREA)
            x, y = mean[..., :1], mean[..., 1:]
            spread = square - np.concatenate([x * x, x * y, y * y], -1)
            parts.append(np.concatenate([area, mean, spread], -1).reshape(len(red), -1))
        return np.concatenate(parts, -1).astype(np.float32)


class BlobCache:
    """The blobs of episodes, each measured when its first window is drawn and then kept in memory: 600 bytes a frame and
    camera with 12 clusters, where the picture has 12 kB.

    Args:
        store: an `EpisodeStore`.
        measure: of a model.
    """

    def __init__(self, store, measure: BlobMeasure):
        self.store, self.measure = store, measure
        self._known: dict[int, np.ndarray] = {}  # by the number under which an episode was appended

    def window(self, episode: int, start: int, stop: int) -> np.ndarray:
        """Frames `start:stop` of an episode: float32 `[stop - start, 2 P]`, the blobs and their change since the frame before
        (none at an episode's first).

        Raises:
            StoreDamaged: the episode can't be read.
        """
        number = int(self.store.entries["number"][episode])
        if number not in self._known:
            rows = self.store.rows(episode)
            blobs = self.measure({key: rows[key] for key in self.measure.tables})
            self._known[number] = np.concatenate([blobs, np.diff(blobs, axis=0, prepend=blobs[:1])], -1)
        return self._known[number][start:stop]


def cluster_colours(frames: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """The colours `[K, 3]`, in [0, 1], of clusters of all that occur in `frames`, uint8 `[F, H, W, 3]`. A colour counts as
    the square root of how often it occurs: small things have clusters too."""
    levels = (frames.reshape(-1, 3) >> (8 - BITS)).long()
    code = (levels[:, 0] << 2 * BITS) | (levels[:, 1] << BITS) | levels[:, 2]
    often = torch.bincount(code, minlength=1 << 3 * BITS)
    used = often.nonzero().flatten()
    weight, mask = often[used].float().sqrt(), (1 << BITS) - 1
    colour = torch.stack([used >> 2 * BITS, (used >> BITS) & mask, used & mask], -1).float() / mask
    centres = colour[torch.multinomial(weight, 1, generator=generator)]
    for _ in range(clusters - 1):
        apart = torch.cdist(colour, centres).amin(1).square() * weight
        drawn = apart if apart.max() > 0 else weight  # fewer colours than clusters: some are there twice
        centres = torch.cat([centres, colour[torch.multinomial(drawn, 1, generator=generator)]])
    for _ in range(ITERATIONS):
        nearest = torch.cdist(colour, centres).argmin(1)
        total = torch.zeros(clusters).index_add_(0, nearest, weight)
        summed = torch.zeros(clusters, 3).index_add_(0, nearest, colour * weight[:, None])
        centres = torch.where(total[:, None] > 0, summed / total.clamp_min(1)[:, None], centres)
    return centres
