"""Every setting of a training run in one frozen object, with the help of its flag. Imports no tensors."""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

GROUPS = ("Settings of the recipe", "Advanced settings of the recipe")


def _setting(group: str, help: str, metavar: str | None = None, **field: Any) -> Any:
    """A field and its flag: the one of GROUPS under which the help shows it, the text there, and the name of the value."""
    return Field(description=help, json_schema_extra={"group": group, "metavar": metavar}, **field)


everyday, advanced = (partial(_setting, group) for group in GROUPS)


class Recipe(BaseModel):
    """The settings of one run. Epochs count from one; lengths are in epochs. Descriptions are the help of ``retrain``.

    From the first step with eps above zero on the loss is ``kappa CE(z) + (1 - kappa) L`` with the logits ``z`` of the samples
    and the robust loss ``L`` that ``loss`` names (see ``losses``); ``kappa``, and the ``beta`` of CROWN-IBP, move with eps,
    linearly, from their start at zero to their end at the full eps. Shi et al. (arXiv 2103.17268) is the loss ``ibp`` and no
    more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    epochs: int = everyday("The ramp of eps and the decays keep their share of the run.", "N", ge=1)
    batch_size: int = everyday("Samples of one step.", "N", ge=1)
    learning_rate: float = everyday("Before the first decay.", "LR", gt=0)
    decay_epochs: tuple[int, ...] = advanced(
        "An epoch after which the learning rate decays; repeatable.", "EPOCH", default=()
    )
    decay_factor: float = advanced("By which a decay multiplies the learning rate.", "FACTOR", default=0.2, gt=0, le=1)
    weight_decay: float = advanced("Of the optimiser.", "W", default=0.0, ge=0)
    clip_norm: float = advanced("Longer gradients are scaled to this norm.", "NORM", default=10.0, gt=0)
    optimiser: Literal["adam", "adamw"] = advanced(
        "AdamW decays weights apart from the gradient (arXiv 1711.05101).", default="adam"
    )
    l1: float = advanced("Weight of the sum of absolute weights.", "W", default=0.0, ge=0)
    ema: float = advanced(
        "Deliver a running mean of the weights, such as 0.999, from the full eps on.", "DECAY", default=0.0, ge=0, lt=1
    )
    micro_batch: int | None = everyday(
        "Samples whose bounds fit at once; the gradient stays the batch's.", "N", default=None, ge=1
    )

    loss: str = everyday("The robust loss: ibp, crown-ibp, mtl-ibp, distil or pgd.", "NAME", default="ibp")
    natural_start: float = advanced("Of the natural loss where eps leaves zero.", "SHARE", default=0.0, ge=0, le=1)
    natural_end: float = advanced("Of the natural loss at the full eps.", "SHARE", default=0.0, ge=0, le=1)
    alpha: float = everyday(
        "Of the bounds in mtl-ibp and distil; the rest is an attack's.", "SHARE", default=0.5, ge=0, le=1
    )
    teacher: str = everyday(
        "Whom distil learns from: the network as given, or another ONNX file's.", "given|FILE", default="none"
    )
    adversary_steps: int = advanced("Steps of the attack that is trained on.", "N", default=1, ge=1)
    adversary_step: float = advanced(
        "Of each, in half widths of the box, to which points are clipped: 10 goes to a corner.",
        "LENGTH",
        default=10.0,
        gt=0,
    )
    crown_start: float = advanced("Of CROWN-IBP in its loss where eps leaves zero.", "SHARE", default=0.0, ge=0, le=1)
    crown_end: float = advanced("Of CROWN-IBP in its loss at the full eps.", "SHARE", default=0.0, ge=0, le=1)

    warmup_start: int = advanced("The epoch in which eps leaves zero.", "EPOCH", ge=1)
    warmup_length: int = everyday("Epochs in which eps grows to its full value.", "EPOCHS", ge=0)
    beta: float = advanced("The power by which eps grows at first.", "POWER", default=4.0, ge=1)
    mid: float = advanced(
        "Of the ramp, in which eps grows by that power; then in a line.", "SHARE", default=0.25, ge=0, lt=1
    )

    ibp_init: bool = advanced(
        "Idea 1: an initialisation under which bounds do not explode, weights of variance 2 pi / n^2.", default=True
    )
    full_bn: bool = advanced("Idea 2: BatchNorm after every hidden layer.", default=True)
    tightness: bool = advanced("Idea 3, first regulariser: bounds that do not widen from input to layer.", default=True)
    balance: bool = advanced("Idea 3, second regulariser: active and inactive neurons of like weight.", default=True)
    reg_weight: float = advanced("Weight of the regularisers at the start of the ramp.", "LAMBDA", default=0.5, ge=0)
    tau: float = advanced("Ratios above it cost no regulariser anything.", "RATIO", default=0.5, gt=0)
    eps_floor: float = advanced(
        "Of the boxes that regularisers read while eps is smaller; a fraction of the pixel range.",
        "EPS",
        default=1e-6,
        gt=0,
    )

    init: Literal["reinit", "keep"] = everyday("Draw weights anew, or start from the given.", default="reinit")
    keep_sparsity: bool = everyday("Weights that are exactly zero stay so.", default=False)
    bn: Literal["fold", "keep"] = everyday("Fold inserted BatchNorms, or keep them as nodes.", default="fold")
    population_bn: bool = advanced(
        "Take BatchNorm statistics anew, over all training data, when training ends.", default=False
    )

    crop: int = everyday("Random shifts in training.", "PIXELS", default=0, ge=0)
    flip: bool = everyday("Random horizontal flips in training.", default=False)
    held_out: float = everyday("Of the training data, to show progress on.", "SHARE", default=0.1, ge=0, lt=1)
    select: Literal["final", "held-out"] = everyday(
        "Deliver the last weights, or those that certify most of the held-out part once eps is whole.", default="final"
    )
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _numbers(cls, values: Any) -> Any:
        """Refuse text for a number: pydantic would accept other digits than 0 to 9, and underscores."""
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
        """Whether torch.compile can trace the loss as one graph: it has neither micro-batches nor a linear walk."""
        return self.micro_batch is None and self.crown_start == self.crown_end == 0

    @property
    def warmup_end(self) -> int:
        """The last epoch of the ramp: from the next one on eps has its full value and the regularisers are off."""
        return self.warmup_start + self.warmup_length - 1
