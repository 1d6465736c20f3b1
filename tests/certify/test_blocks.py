"""What becomes of a sample depends on its own block alone: any share of a run's blocks gives it the same bits."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from pipeline.certify import Strategy, certify
from pipeline.core.threat import BALLS
from pipeline.results.blocks import blocks, together_in
from pipeline.results.samples import COLUMNS
from tests.climbing import deployed, images_of, labels_of, lively

NETWORK, N = lively(), 80
IMAGES = images_of(NETWORK, N)
LABELS = labels_of(NETWORK, IMAGES)


def certified(rows, cut, norm, how):
    balls = [BALLS[norm](Fraction(eps)) for eps in ("1/60", "1/20")]
    *_, found = certify(
        NETWORK,
        deployed(NETWORK),
        IMAGES[rows],
        LABELS[rows],
        balls,
        how,
        indices=rows,
        blocks=cut,
        layer_images=IMAGES,
    )
    return found


@pytest.mark.parametrize(
    ("norm", "how"),
    [
        ("linf", Strategy(method="auto")),
        ("linf", Strategy(method="complete", domains=8)),
        ("l2", Strategy(method="crown-ibp", largest_eps=True)),
    ],
    ids=["auto", "complete", "largest-eps"],
)
def test_shares_of_a_run_say_of_each_sample_what_the_run_says_to_the_bit(norm, how):
    whole = certified(np.arange(N), None, norm, how)
    cut = blocks(N)
    assert len(cut) == 5
    examined: list[dict[str, int]] = []
    for share in (cut[0::2], cut[1::2]):
        rows = np.concatenate(share)
        part = certified(rows, together_in(share), norm, how)
        for name in set(COLUMNS) - {"eps"}:
            of_whole, of_part = getattr(whole.samples, name), getattr(part.samples, name)
            assert (of_whole is None) == (of_part is None)
            if of_part is not None:
                assert np.take(of_whole, rows, axis=-1).tobytes() == of_part.tobytes(), name
        broken, mine = whole.samples.counterexamples, part.samples.counterexamples
        assert broken.image[np.isin(broken.index, rows)].tobytes() == mine.image.tobytes()
        assert [level.layers for level in part.details] == [level.layers for level in whole.details]
        examined.append(dict(part.details[-1].rungs))
    names = set().union(*examined)
    assert {name: sum(one.get(name, 0) for one in examined) for name in names} == dict(whole.details[-1].rungs)
