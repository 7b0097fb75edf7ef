"""An array as a small picture: at most 48 x 48 means of rectangles, and exact statistics."""

import math
from array import array
from base64 import b64encode
from dataclasses import dataclass
from html import escape
from typing import Any

import tensorlite as tl
from tensorlite import Tensor

from ..model import as_float32
from .display import LINE, diverging, png

MOST_CELLS = 48  # rows and columns of a picture
MOST_TILES = 16  # matrices that are drawn side by side


@dataclass(frozen=True)
class Picture:
    """A coarse view of an array. `norm`, `low` and `high` are those of the array itself, not of the means.

    The last two axes are a matrix; each cell is the mean of a block of it. Up to 16 matrices (the heads of attention)
    are tiles of one picture, `across` in a row, with an empty row or column between them. More than 16 are drawn as one
    matrix with all their rows. A vector is a matrix of one row.
    """

    shape: tuple[int, ...]
    norm: float  # Euclidean
    low: float
    high: float
    matrix: tuple[int, int]  # the rows and columns of each tile before averaging
    block: tuple[int, int]  # the rows and columns of a block; those at the lower and right edge may be smaller
    tiles: int
    across: int
    cells: list[list[float | None]]  # None: between tiles

    @property
    def caption(self) -> str:
        """What a cell stands for: "means of rectangles of 4 x 2 of 64 x 128"."""
        (rows, columns), (a, b) = self.matrix, self.block
        what = "every number of" if a == b == 1 else f"means of rectangles of {a} x {b} of"
        many = f"{self.tiles} matrices of " if self.tiles > 1 else ""
        return f"{what} {many}{rows} x {columns}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON; the cells are float32 in base64, row by row, with nan between tiles."""
        flat = array("f", [math.nan if x is None else x for row in self.cells for x in row])
        return {
            "shape": list(self.shape), "norm": self.norm, "low": self.low, "high": self.high, "caption": self.caption,
            "rows": len(self.cells), "columns": len(self.cells[0]), "cells": b64encode(flat.tobytes()).decode(),
        }  # fmt: skip

    def _repr_html_(self) -> str:
        """The cells, enlarged: blue is negative, orange positive, the strongest colour the largest mean."""
        finite = [abs(x) for row in self.cells for x in row if x is not None and x - x == 0]
        scale = max(finite, default=0.0) or 1.0
        pixels = [[LINE if x is None or x != x else diverging(x / scale) for x in row] for row in self.cells]
        width, height = len(self.cells[0]), len(self.cells)
        factor = max(2, min(14, 144 // max(width, height)))
        size = f"width:{max(10, factor * width)}px;height:{max(10, factor * height)}px"
        note = f"shape {self.shape}, {self.caption}, strongest colour ±{scale:.3g}"
        return (
            f'<img src="{png(pixels)}" alt="{escape(note)}" title="{escape(note)}" '
            f'style="{size};max-width:none;image-rendering:pixelated;border:1px solid {LINE}">'
        )


def picture(x: Tensor) -> Picture:
    """The picture of an array that has at least one element."""
    with tl.no_grad():
        x = as_float32(x)
        rows, columns = (1, 1, *x.shape)[-2:]
        tiles = x.size // (rows * columns)
        if tiles > MOST_TILES:
            tiles, rows = 1, tiles * rows
        across = math.ceil(math.sqrt(tiles))
        limit = (MOST_CELLS + 1) // across - 1 if across > 1 else MOST_CELLS  # cells of a tile in each direction
        block = -(-rows // limit), -(-columns // limit)
        means = block_means(x.reshape(tiles, rows, columns), *block).tolist()
        low, high = float(x.min()), float(x.max())
        return Picture(x.shape, norm_of(x), low, high, (rows, columns), block, tiles, across, arranged(means, across))


def norm_of(x: Tensor) -> float:
    """The Euclidean norm; scaled, so that the squares of small gradients do not become 0."""
    peak = float(x.abs().max())
    if peak == 0 or peak - peak != 0:
        return peak
    return peak * math.sqrt(float((x / peak).square().sum()))


def block_means(x: Tensor, a: int, b: int) -> Tensor:
    """x (N, R, C) -> the means of its blocks of a x b: (N, ceil(R / a), ceil(C / b))."""
    if a == b == 1:
        return x
    N, R, C = x.shape
    r, c = -(-R // a), -(-C // b)
    sums = tl.pad(x, ((0, 0), (0, r * a - R), (0, c * b - C))).reshape(N, r, a, c, b).sum(axis=(2, 4))  # (N, r, c)
    heights = tl.tensor([[float(min(a, R - i * a))] for i in range(r)], x.dtype, x.device)  # (r, 1)
    widths = tl.tensor([float(min(b, C - j * b)) for j in range(c)], x.dtype, x.device)  # (c,)
    return sums / (heights * widths)


def arranged(tiles: list[list[list[float]]], across: int) -> list[list[float | None]]:
    """Matrices as one, `across` of them in a row, with an empty row or column between them."""
    height, width = len(tiles[0]), len(tiles[0][0])
    found: list[list[float | None]] = []
    for start in range(0, len(tiles), across):
        if found:
            found.append([None] * len(found[0]))
        for i in range(height):
            row: list[float | None] = []
            for k in range(start, start + across):
                row += [None] if k > start else []
                row += tiles[k][i] if k < len(tiles) else [None] * width
            found.append(row)
    return found
