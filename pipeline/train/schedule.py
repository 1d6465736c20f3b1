"""How eps, lambda and the learning rate move: pure functions of the step and the epoch, both counted from one."""

from __future__ import annotations

from collections.abc import Sequence


def smoothed(step: int, *, start: int, end: int, final: float, beta: float = 4.0, mid: float = 0.25) -> float:
    """eps at batch ``step``: zero up to batch ``start``, a power up to the mid point, then linear to ``final`` at ``end``.

    With ``m = start + floor(mid (end - start))``, ``t = (m - start)^(beta - 1)`` and
    ``a = final / ((end - m) beta t + (m - start) t)``: ``eps = a (step - start)^beta`` up to ``m``, then the line of the same
    slope through it (Shi et al., arXiv 2103.17268, appendix; after Gowal et al., arXiv 1810.12715). ``step`` counts the
    batch about to be taken from one, so that the last batch of the ramp is trained at ``final`` itself.
    A ramp too short to have a power part is linear. Unit: that of ``final``.
    """
    if step <= start:
        return 0.0
    if step >= end:
        return final
    middle = start + int(mid * (end - start))
    if middle == start:
        return final * (step - start) / (end - start)
    t = float(middle - start) ** (beta - 1)
    a = final / ((end - middle) * beta * t + (middle - start) * t)
    if step <= middle:
        return a * float(step - start) ** beta
    reached = a * float(middle - start) ** beta
    return reached + (final - reached) * (step - middle) / (end - middle)


def regulariser_weight(eps: float, *, final: float, weight: float) -> float:
    """``lambda = lambda_0 (1 - eps / eps_max)``: it fades as the robust loss takes over (Shi et al., section 3.3)."""
    return weight * (1 - eps / final) if final > 0 else 0.0


def learning_rate(epoch: int, *, base: float, decays: Sequence[int], factor: float) -> float:
    """The rate of an epoch: multiplied by ``factor`` once each epoch in ``decays`` is over."""
    return base * factor ** sum(epoch > d for d in decays)
