"""gpt.look's pictures of arrays: means of rectangles, counted by hand, and statistics of all numbers."""

import base64
import math
import re
import struct
import zlib

import numpy as np
import pytest

import tensorlite as tl
from gpt.look.array_picture import arranged, block_means, norm_of, picture


def of(array):
    return picture(tl.tensor(array))


def test_a_small_matrix_is_shown_number_by_number():
    x = np.array([[1.0, -2.0, 0.5], [0.0, 4.0, -8.0]])
    found = of(x)
    assert found.cells == x.tolist()
    assert (found.norm, found.low, found.high) == (pytest.approx(math.sqrt(85.25)), -8.0, 4.0)
    assert found.caption == "every number of 2 x 3"


@pytest.mark.parametrize("shape", [(96, 50), (49, 48), (7, 131), (200, 1), (1, 3, 500)])
def test_each_cell_is_the_mean_of_its_block(shape):
    x = np.random.default_rng(0).normal(size=shape)
    found = of(x)
    matrix, (a, b) = x.reshape(shape[-2:]), found.block
    expected = [[matrix[i : i + a, j : j + b].mean() for j in range(0, shape[-1], b)] for i in range(0, shape[-2], a)]
    np.testing.assert_allclose(found.cells, expected, rtol=1e-12)
    assert len(found.cells) <= 48 >= len(found.cells[0])
    assert len(found.cells) * a < shape[-2] + a
    assert found.caption.endswith(f" of {shape[-2]} x {shape[-1]}")
    assert found.norm == pytest.approx(np.linalg.norm(x))


def test_a_vector_is_one_row_and_a_number_one_cell():
    assert of(np.arange(5.0)).cells == [[0, 1, 2, 3, 4]]
    assert of(np.array(2.5)).cells == [[2.5]]


def test_heads_are_tiles_with_empty_lines_between_them():
    x = np.arange(3 * 2 * 2.0).reshape(1, 3, 2, 2)
    found = of(x)
    none = None
    assert found.cells == [
        [0, 1, none, 4, 5],
        [2, 3, none, 6, 7],
        [none, none, none, none, none],
        [8, 9, none, none, none],
        [10, 11, none, none, none],
    ]
    assert (found.tiles, found.caption) == (3, "every number of 3 matrices of 2 x 2")


@pytest.mark.parametrize("tiles", [2, 4, 5, 12, 16])
def test_tiles_fit_into_48_cells(tiles):
    found = of(np.ones((tiles, 64, 64)))
    assert found.tiles == tiles
    assert len(found.cells) <= 48 >= len(found.cells[0])
    assert all(cell in (None, 1.0) for row in found.cells for cell in row)


def test_more_than_16_matrices_are_the_rows_of_one():
    found = of(np.arange(17 * 2 * 3.0).reshape(17, 2, 3))
    assert (found.tiles, found.matrix) == (1, (34, 3))
    assert found.cells[3] == [9, 10, 11]


def test_the_norm_of_tiny_and_huge_numbers():
    tiny = tl.full((3, 4), 1e-30)  # its squares are 0 in float32
    assert norm_of(tiny) == pytest.approx(1e-30 * math.sqrt(12), rel=1e-5)
    assert norm_of(tl.full((4,), 1e30)) == pytest.approx(2e30, rel=1e-5)
    assert norm_of(tl.zeros(3)) == 0
    assert math.isnan(norm_of(tl.tensor([1.0, math.nan])))
    assert norm_of(tl.tensor([1.0, -math.inf])) == math.inf


def test_a_number_that_is_not_finite_spoils_its_own_block_only():
    x = np.ones((96, 96))
    x[0, 95] = np.inf
    cells = np.array(of(x).cells)
    assert cells[0, 47] == np.inf
    assert np.isfinite(np.delete(cells.ravel(), 47)).all()


def test_bfloat16_is_read_as_float32():
    pytest.importorskip("ml_dtypes")
    assert picture(tl.full((2, 2), 1.5).astype(tl.bfloat16)).cells == [[1.5, 1.5], [1.5, 1.5]]


def test_json_has_the_cells_as_float32_and_nan_between_tiles():
    as_json = of(np.arange(8.0).reshape(2, 2, 2)).to_dict()
    cells = np.frombuffer(base64.b64decode(as_json["cells"]), "<f4").reshape(as_json["rows"], as_json["columns"])
    np.testing.assert_array_equal(cells, [[0, 1, np.nan, 4, 5], [2, 3, np.nan, 6, 7]])
    assert (as_json["shape"], as_json["low"], as_json["high"]) == ([2, 2, 2], 0, 7)


def test_helpers_leave_what_needs_no_averaging():
    x = tl.ones((1, 2, 2))
    assert block_means(x, 1, 1) is x
    assert arranged([[[1.0]]], 1) == [[1.0]]


def test_the_image_has_the_colours_of_the_cells():
    found = picture(tl.tensor([[[1.0, 0.0]], [[-2.0, math.nan]]]))
    (address,) = re.findall(r'src="data:image/png;base64,([^"]*)"', found._repr_html_())
    width, height, rows = decoded(base64.b64decode(address))
    white, line = (255, 255, 255), (0xD5, 0xD9, 0xE0)
    assert (width, height) == (5, 1)
    (first, zero, gap, negative, missing) = rows[0]
    assert (zero, gap, missing) == (white, line, line)
    assert first[0] > first[2]  # orange
    assert negative[2] > 200 > negative[0]  # blue, and stronger
    assert min(negative) < min(first)


def decoded(png):
    """(width, height, rows of (red, green, blue)) of a PNG without filters."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        name, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length]) == (zlib.crc32(name + data),)
        chunks[name], at = data, at + 12 + length
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    data = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    return width, height, [list(map(tuple, row[1:].reshape(width, 3).tolist())) for row in data]
