"""Cut images into superpixels: patches of similar colour and about equal size.

Shapes: ``B`` batch, ``C`` channels, ``H W`` height and width.

R. Achanta et al., *SLIC Superpixels Compared to State-of-the-art Superpixel Methods*, TPAMI 2012,
https://doi.org/10.1109/TPAMI.2012.120
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_STEPS = 10  # iterations of k-means, as in the paper
_COMPACTNESS = 0.15  # weight of position against colour, in units of the image's range


def superpixels(images: Tensor, segments: int) -> Tensor:
    """Cut each image into about ``segments`` connected superpixels.

    The method is SLIC: k-means on position and colour that starts from a grid. A pixel may only
    join one of the nine centres around its grid cell. Pieces that are separated from the rest of
    their superpixel then join a neighbouring one. Colours are the image's own channels (not Lab),
    scaled to [0, 1] for each image. The result is deterministic; an image of one colour gives the
    grid.

    Args:
        images: ``(B, C, H, W)``, any range.
        segments: requested number of superpixels. The grid has about as many cells, as square as
            possible.

    Returns:
        ``(B, H, W)`` int64, the index of each pixel's superpixel, from 0.

    Raises:
        ValueError: if ``segments`` is less than 1, or the images have another shape.
    """
    if images.dim() != 4 or segments < 1:
        raise ValueError(
            f"expected images (B, C, H, W) and at least 1 segment, got {tuple(images.shape)} and "
            f"{segments}"
        )
    labels = [_slic(image, segments) for image in images.detach().cpu().float()]
    return torch.stack(labels).to(images.device)


def _slic(image: Tensor, segments: int) -> Tensor:
    """Return ``(H, W)``, the index of each pixel's superpixel, for an image ``(C, H, W)``."""
    height, width = image.shape[-2:]
    rows = min(height, max(1, round((segments * height / width) ** 0.5)))
    columns = min(width, max(1, round(segments / rows)))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    row, column = y * rows // height, x * columns // width
    spread = image.max() - image.min()
    colours = (image - image.min()) / spread if spread > 0 else torch.zeros_like(image)
    # in units of a cell's side, so that the weight of positions does not depend on the image size
    scale = _COMPACTNESS / (height * width / (rows * columns)) ** 0.5
    points = torch.cat([colours, (torch.stack([y, x]) + 0.5) * scale])
    points = points.flatten(1).T  # (H·W, C + 2)

    # the nine centres around each pixel's cell; at the edge of the image some are repeated
    near = torch.stack(
        [
            (row + i).clamp(0, rows - 1) * columns + (column + j).clamp(0, columns - 1)
            for i in (0, -1, 1)
            for j in (0, -1, 1)
        ],
        -1,
    ).reshape(-1, 9)
    labels, total = near[:, 0], rows * columns
    for _ in range(_STEPS):
        sums = points.new_zeros(total, points.shape[1]).index_add_(0, labels, points)
        members = torch.bincount(labels, minlength=total)[:, None]
        centres = torch.where(members > 0, sums / members.clamp_min(1), float("inf"))
        distances = (points[:, None] - centres[near]).square().sum(-1)
        labels = near.gather(1, distances.argmin(1, keepdim=True))[:, 0]
    return _connect(labels.reshape(height, width)).unique(return_inverse=True)[1]


def _connect(labels: Tensor) -> Tensor:
    """Keep the largest piece of each label ``(H, W)``, and join the others to a neighbour."""
    pieces = _find_pieces(labels)
    sizes = torch.bincount(pieces.flatten(), minlength=labels.numel())
    largest: dict[int, int] = {}
    for piece in pieces.unique().tolist():
        label = int(labels.flatten()[piece])
        if label not in largest or sizes[piece] > sizes[largest[label]]:
            largest[label] = piece
    keep = torch.isin(pieces, torch.tensor(list(largest.values())))
    labels = torch.where(keep, labels, -1)
    while (is_missing := labels < 0).any():
        labels = torch.where(is_missing, _get_neighbours(labels, -1).amax(0), labels)
    return labels


def _find_pieces(labels: Tensor) -> Tensor:
    """Return ``(H, W)``, the index of the first pixel of each pixel's connected piece."""
    pieces = torch.arange(labels.numel()).reshape(labels.shape)
    is_connected = _get_neighbours(labels, -1) == labels
    far = labels.numel()
    while True:
        least = torch.where(is_connected, _get_neighbours(pieces, far), far).amin(0)
        least = least.minimum(pieces)
        # each value is the index of a pixel in the piece, whose own value may be lower still
        least = least.flatten()[least]
        if torch.equal(least, pieces):
            return pieces
        pieces = least


def _get_neighbours(values: Tensor, edge: int) -> Tensor:
    """Return ``(4, H, W)``, each pixel's neighbours above, below, left and right.

    Args:
        values: ``(H, W)``.
        edge: value of neighbours outside the image.
    """
    padded = F.pad(values, (1, 1, 1, 1), value=edge)
    return torch.stack([padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])
