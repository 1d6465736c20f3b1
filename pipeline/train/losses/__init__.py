"""The robust losses, which are minimised once eps has left zero: one class for each loss, one file for each class.

Every file here is imported: to add a loss, add a file. ``LOSSES`` holds them by name.
"""

import importlib
import pkgutil

from pipeline.train.losses.loss import LOSSES as LOSSES
from pipeline.train.losses.loss import Loss as Loss
from pipeline.train.losses.loss import LossInput as LossInput
from pipeline.train.losses.loss import loss as loss

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
