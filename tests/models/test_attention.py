"""Channel and window attention of the paper: the written formulas, place by place."""

from __future__ import annotations

import pytest
import torch

from ma_agiqa.models.paper.swin import drop_path, relative_position_index, shift_mask, window_order
from ma_agiqa.models.paper.visual import ChannelAttention, transpose_and_reshape


def test_transpose_and_reshape_is_not_a_transpose_back() -> None:
    x = torch.arange(6.0).view(1, 2, 3)  # rows 0 1 2 / 3 4 5
    assert transpose_and_reshape(x).tolist() == [[[0.0, 3.0, 1.0], [4.0, 2.0, 5.0]]]


def test_channel_attention_is_the_written_formula() -> None:
    torch.manual_seed(0)
    block = ChannelAttention(positions=9, dropout=0.1).double().eval()
    x = torch.randn(2, 5, 9, dtype=torch.float64)
    weights = (block.query(x) @ block.key(x).transpose(1, 2) / 3).softmax(-1)
    expected = x + (weights @ block.value(x)).transpose(1, 2).reshape(2, 5, 9)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("grid", "window", "shift"), [(8, 4, 2), (12, 4, 2), (6, 3, 1), (8, 4, 0)])
def test_window_order_is_roll_then_partition(grid: int, window: int, shift: int) -> None:
    positions = torch.arange(grid * grid).view(grid, grid)
    rolled = positions.roll((-shift, -shift), (0, 1))
    windows = [
        rolled[r : r + window, c : c + window].flatten()
        for r in range(0, grid, window)
        for c in range(0, grid, window)
    ]
    assert torch.equal(window_order(grid, window, shift), torch.cat(windows))


@pytest.mark.parametrize(("grid", "window", "shift"), [(8, 4, 2), (12, 4, 2), (6, 3, 1)])
def test_mask_separates_what_only_the_roll_brought_together(
    grid: int, window: int, shift: int
) -> None:
    order = window_order(grid, window, shift).view(-1, window * window)
    row, column = order // grid, order % grid
    apart = ((row[:, :, None] - row[:, None, :]).abs() >= window) | (
        (column[:, :, None] - column[:, None, :]).abs() >= window
    )
    assert torch.equal(shift_mask(grid, window, shift), apart * -100.0)


def test_bias_index_numbers_relative_places() -> None:
    index = relative_position_index(3)
    pairs: dict[tuple[int, int], set[int]] = {}
    for a in range(9):
        for b in range(9):
            pairs.setdefault((a // 3 - b // 3, a % 3 - b % 3), set()).add(index[a, b].item())
    assert all(len(numbers) == 1 for numbers in pairs.values())
    assert pairs[-2, -2] == {0}
    assert pairs[2, 2] == {24}
    assert len({min(numbers) for numbers in pairs.values()}) == 25


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    x = torch.ones(4000, 2, 3)
    dropped = drop_path(x, 0.25, training=True)
    per_image = dropped.flatten(1)
    assert (per_image == per_image[:, :1]).all()
    assert sorted(set(per_image[:, 0].tolist())) == pytest.approx([0.0, 1 / 0.75])
    # standard error of the mean of 4000 draws is 0.009
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.04)
    assert drop_path(x, 0.25, training=False) is x
