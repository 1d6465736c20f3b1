"""The operators that torch.nn lacks, as modules: values are positional, static parameters belong to the module.

Together with ``torch.nn`` they are the whole vocabulary of a ``Network``. A module's ``forward`` says what it computes on
tensors; what it means for boxes and linear forms is in ``rules/``. Constants that are tensors are passed as values.
"""

# ruff: noqa: F403 (an operator is named where it is written, and nowhere else)
from pipeline.core.ops.affine_bn import *
from pipeline.core.ops.arithmetic import *
from pipeline.core.ops.functions import *
from pipeline.core.ops.reduce import *
from pipeline.core.ops.shape import *
from pipeline.core.ops.spatial import *
