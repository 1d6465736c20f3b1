"""What each operator means for boxes and linear forms: one file for each family of operators, all imported here."""

from __future__ import annotations

import importlib
import pkgutil

from pipeline.rules.affine_rule import Affine as Affine
from pipeline.rules.affine_rule import Rearrange as Rearrange
from pipeline.rules.rule import Example as Example
from pipeline.rules.rule import Monotone as Monotone
from pipeline.rules.rule import Rule as Rule
from pipeline.rules.rule import rule as rule
from pipeline.rules.rule import rule_for as rule_for
from pipeline.rules.rule import rules as rules

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

from pipeline.rules.support import UnsupportedNode as UnsupportedNode  # noqa: E402 (it reads the rules found above)
from pipeline.rules.support import require as require  # noqa: E402
from pipeline.rules.support import unsupported as unsupported  # noqa: E402
