"""Superpixels: a picture cut into patches of one colour, about equally large.

Shapes: ``B`` batch, ``C`` channels, ``H W`` picture size, ``S`` superpixels.

R. Achanta et al., *SLIC Superpixels Compared to State-of-the-art Superpixel Methods*, TPAMI 2012,
https://doi.org/10.1109/TPAMI.2012.120
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_STEPS = 10  # of k-means; the paper's number too
_COMPACTNESS = 0.15  # how much place weighs against colour, in units of the picture's range


def superpixels(images: Tensor, segments: int) -> Tensor:
    """Each picture cut into about ``segments`` connected patches: ``(B, H, W)`` int64 from 0 on.

    SLIC: k-means in place and colour that starts from a grid, where a pixel may only join one of
    the nine centres around its cell of the grid. Pieces cut off from their patch then go to a
    patch beside them. Colours are the picture's own channels (no Lab), brought to [0, 1] picture
    by picture. Deterministic; a plain picture gives the grid.

    Args:
        images: ``(B, C, H, W)``, any range.
        segments: wished number; the grid has about as many cells, as square as may be.

    Raises:
        ValueError: no segment asked for, or pictures of another shape.
    """
    if images.dim() != 4 or segments < 1:
        raise ValueError(f"{segments} superpixels of pictures {tuple(images.shape)}")
    patches = [_slic(image, segments) for image in images.detach().cpu().float()]
    return torch.stack(patches).to(images.device)


def _slic(image: Tensor, segments: int) -> Tensor:
    height, width = image.shape[-2:]
    rows = min(height, max(1, round((segments * height / width) ** 0.5)))
    columns = min(width, max(1, round(segments / rows)))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    row, column = y * rows // height, x * columns // width
    spread = image.max() - image.min()
    colours = (image - image.min()) / spread if spread > 0 else torch.zeros_like(image)
    # in units of a cell's side, so that place weighs the same whatever the picture's size
    scale = _COMPACTNESS / (height * width / (rows * columns)) ** 0.5
    points = torch.cat([colours, (torch.stack([y, x]) + 0.5) * scale])
    points = points.flatten(1).T  # (H·W, C + 2)

    # the nine centres around each pixel's cell; at the edge some of them stand there twice
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
    connected = _connected(labels.reshape(height, width))
    return connected.unique(return_inverse=True)[1]


def _connected(labels: Tensor) -> Tensor:
    """``(H, W)``: of each label its largest piece is kept; what is cut off joins a neighbour."""
    pieces = _pieces(labels)
    sizes = torch.bincount(pieces.flatten(), minlength=labels.numel())
    largest: dict[int, int] = {}
    for piece in pieces.unique().tolist():
        label = int(labels.flatten()[piece])
        if label not in largest or sizes[piece] > sizes[largest[label]]:
            largest[label] = piece
    keep = torch.isin(pieces, torch.tensor(list(largest.values())))
    labels = torch.where(keep, labels, -1)
    while (missing := labels < 0).any():
        labels = torch.where(missing, _around(labels, -1).amax(0), labels)
    return labels


def _pieces(labels: Tensor) -> Tensor:
    """``(H, W)``: the first pixel's number of each pixel's connected piece of one label."""
    pieces = torch.arange(labels.numel()).reshape(labels.shape)
    joined = _around(labels, -1) == labels
    far = labels.numel()
    while True:
        least = torch.where(joined, _around(pieces, far), far).amin(0).minimum(pieces)
        # a piece's number is a pixel of it, whose own number may be lower still
        least = least.flatten()[least]
        if torch.equal(least, pieces):
            return pieces
        pieces = least


def _around(values: Tensor, edge: int) -> Tensor:
    """``(4, H, W)``: each pixel's neighbours above, below, left and right."""
    wide = F.pad(values, (1, 1, 1, 1), value=edge)
    return torch.stack([wide[:-2, 1:-1], wide[2:, 1:-1], wide[1:-1, :-2], wide[1:-1, 2:]])
