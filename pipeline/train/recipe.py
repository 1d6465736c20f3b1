"""Every setting of a training run in one frozen object."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Field(default=0.0, ge=0, le=1)


class Recipe(BaseModel):
    """The settings of one run. Epochs count from one; lengths are in epochs.

    ``warmup_start`` is the epoch in which eps leaves zero and ``warmup_length`` the epochs it takes to the full eps;
    ``decay_epochs`` are the epochs after which the learning rate is multiplied by ``decay_factor``. From the first step with
    eps above zero on the loss is ``kappa CE(z) + (1 - kappa) L`` with the logits ``z`` of the samples and the robust loss ``L``
    that ``loss`` names (see ``losses``); ``kappa``, and the ``beta`` of CROWN-IBP, move with eps, linearly, from their start at
    zero to their end at the full eps. Shi et al. (arXiv 2103.17268) is the loss ``ibp`` and no more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    decay_epochs: tuple[int, ...] = ()
    decay_factor: float = Field(default=0.2, gt=0, le=1)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float = Field(default=10.0, gt=0)
    optimiser: Literal["adam", "adamw"] = "adam"
    """AdamW decays weights apart from the gradient (Loshchilov, Hutter, arXiv 1711.05101)."""
    l1: float = Field(default=0.0, ge=0)
    """Weight of the sum of the absolute weights of all layers."""
    ema: float = Field(default=0.0, ge=0, lt=1)
    """How much of the running mean of weights each step keeps, from the full eps on; the mean is what is delivered."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Samples whose bounds are computed at once, their gradients accumulated; statistics are those of the whole batch."""

    loss: str = "ibp"
    """The robust loss, by its name in ``losses``; what follows is read by those that name it among their settings."""
    natural_start: float = Share
    natural_end: float = Share
    alpha: float = Field(default=0.5, ge=0, le=1)
    """The share of the bounds in the robust loss (De Palma et al., arXiv 2305.13991); what is left is the attack's."""
    adversary_steps: int = Field(default=1, ge=1)
    adversary_step: float = Field(default=10.0, gt=0)
    """The length of a step in half widths of the box, to which the attacked point is clipped: 10 goes to a corner."""
    crown_start: float = Share
    crown_end: float = Share

    warmup_start: int = Field(ge=1)
    warmup_length: int = Field(ge=0)
    beta: float = Field(default=4.0, ge=1)
    mid: float = Field(default=0.25, ge=0, lt=1)

    ibp_init: bool = True
    """Idea 1: weights of variance 2 pi / n^2, under which bounds neither explode nor vanish."""
    full_bn: bool = True
    """Idea 2: BatchNorm after every hidden layer."""
    tightness: bool = True
    """Idea 3, first term: bounds that do not widen from input to layer."""
    balance: bool = True
    """Idea 3, second term: ReLU layers with active and inactive neurons of like weight."""
    reg_weight: float = Field(default=0.5, ge=0)
    tau: float = Field(default=0.5, gt=0)
    eps_floor: float = Field(default=1e-6, gt=0)
    """The radius of the boxes that the regulariser reads while eps is below it, as a fraction of the pixel range."""

    init: Literal["reinit", "keep"] = "reinit"
    keep_sparsity: bool = False
    """Whether weights that are exactly zero in the given model stay so."""
    bn: Literal["fold", "keep"] = "fold"
    population_bn: bool = False
    """Whether BatchNorm statistics are taken anew from one pass over the training data when training ends."""

    crop: int = Field(default=0, ge=0)
    flip: bool = False
    held_out: float = Field(default=0.1, ge=0, lt=1)
    """The fraction of the training data that is not trained on: progress is shown on it."""
    select: Literal["final", "held-out"] = "final"
    """Which weights are delivered: the last, or those of the best held-out certified accuracy once eps is whole."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, values: Any) -> Any:
        """Text is no number here: pydantic would read other digits than 0 to 9, and underscores."""
        for name, value in values.items() if isinstance(values, dict) else ():
            kind = cls.model_fields[name].annotation if name in cls.model_fields else None
            if kind in (int, float, int | None) and isinstance(value, str | bool):
                raise ValueError(f"{name} is a number, not {value!r:.40}")
            if isinstance(value, int) and abs(value) >= 1 << 53:
                raise ValueError(f"{name} is less than 2^53, which a report can state exactly; received {value!r:.40}")
        return values

    @property
    def regularised(self) -> bool:
        """Whether any term of idea 3 is on."""
        return self.reg_weight > 0 and (self.tightness or self.balance)

    @property
    def one_graph(self) -> bool:
        """Whether torch.compile takes the loss whole: neither parts of a batch nor a linear walk."""
        return self.micro_batch is None and self.crown_start == self.crown_end == 0

    @property
    def warmup_end(self) -> int:
        """The last epoch of the ramp: from the next one on eps is whole and the regulariser is gone."""
        return self.warmup_start + self.warmup_length - 1
