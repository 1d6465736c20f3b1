"""A run's samples in blocks: each in one, however many there are, and the blocks of a shard say the same of each sample."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.results.blocks import FEWEST, blocks, by_block, together_in


@pytest.mark.parametrize("n", [1, 7, 8, 15, 16, 127, 128, 200, 255, 256, 1000, 10_000, 50_000])
def test_every_row_is_in_one_block_and_blocks_are_of_like_size(n):
    found = blocks(n)
    assert np.concatenate(found).tolist() == list(range(n))
    sizes = {len(block) for block in found}
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) <= 1
    assert len(found) >= FEWEST or n < 256
    assert max(sizes) <= 2 * max(16, n**0.5)


@pytest.mark.parametrize(("n", "of"), [(80, 5), (300, 16), (1000, 3)])
def test_shards_share_out_every_row_once(n, of):
    shares = [np.concatenate(blocks(n)[i::of]) for i in range(of)]
    assert sorted(np.concatenate(shares).tolist()) == list(range(n))
    assert max(map(len, shares)) <= 2 * min(map(len, shares))


def test_rows_keep_their_order_and_their_block():
    cut = blocks(80)
    rows = np.array([79, 3, 17, 1, 78, 0])
    assert [part.tolist() for part in by_block(cut, rows)] == [[3, 1, 0], [17], [79, 78]]
    assert by_block(cut, rows[:0]) == []
    mine = cut[1::3]
    assert [part.tolist() for part in together_in(mine)] == [list(range(16)), list(range(16, 32))]
