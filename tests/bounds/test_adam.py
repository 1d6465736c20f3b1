"""Steps of Adam for slopes, held against torch's, which takes seconds to load."""

from __future__ import annotations

import pytest
import torch

from pipeline.bounds.adam import Adam


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_its_steps_are_those_of_torch_bit_by_bit(dtype):
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn(n, 3, generator=generator, dtype=dtype) for n in (4, 2)]
    theirs = [x.clone().requires_grad_() for x in ours]
    rates = [0.1, 0.5]
    reference = torch.optim.Adam([{"params": [x], "lr": r} for x, r in zip(theirs, rates, strict=True)], foreach=False)
    schedule = torch.optim.lr_scheduler.ExponentialLR(reference, 0.95)
    adam = Adam(ours, rates, 0.95)
    for _ in range(12):
        gradients = [torch.randn(x.shape, generator=generator, dtype=dtype) for x in ours]
        for x, gradient in zip(theirs, gradients, strict=True):
            x.grad = gradient
        reference.step()
        schedule.step()
        adam.step(gradients)
        assert all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))


def test_a_tensor_without_a_gradient_stays():
    still, moved = torch.ones(2), torch.ones(2)
    Adam([still, moved], [0.1, 0.1], 1.0).step([None, torch.ones(2)])
    assert still.tolist() == [1, 1]
    assert moved.tolist() != [1, 1]
