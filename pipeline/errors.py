"""What can go wrong, each with the exit code that a delivery pipeline acts on.

A message states the rule that was broken, what was received, and what to do next.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SENTENCE = re.compile(r"(?<=[.?!])\s+(?=[A-Z`])")


class Parts(NamedTuple):
    """A message in its parts, for who reads it by machine; what it lacks is None."""

    rule: str
    received: str | None
    advice: str | None


def parts_of(message: str) -> Parts:
    """The parts of a message: the rule up to a semicolon, what was received up to the end of the sentence, then what to do."""
    sentence, *rest = SENTENCE.split(message, maxsplit=1)
    rule, _, received = sentence.partition("; ")
    return Parts(rule, received or None, rest[0] if rest else None)


class PipelineError(Exception):
    """The base of every error that is meant to be read by a user; by itself, a fault of ours."""

    exit_code = 70


class GateFailed(PipelineError):
    """The work was done and the answer is no: a gate failed or a property is violated."""

    exit_code = 1


class UsageError(PipelineError):
    """The command contradicts itself or leaves out something that nothing else says."""

    exit_code = 2


class InputRejected(PipelineError):
    """A model or data file is malformed, unsafe, unsupported, or not the function that was imported."""

    exit_code = 3


class NoClassifier(InputRejected):
    """A model that is sound, and does not give each sample one number a class."""


class Incomplete(PipelineError):
    """Nothing was checked, or the budget ran out before the question was decided."""

    exit_code = 4


class Contradiction(PipelineError):
    """Two facts that cannot both hold: certified and attacked, delivered file and network, report and digest."""

    exit_code = 5


class Diverged(PipelineError):
    """Training produced a loss that is not finite."""

    exit_code = 6


class EnvironmentFailure(PipelineError):
    """The machine did not give what the work needs: disk, memory, a device, a package."""

    exit_code = 74


class Preempted(PipelineError):
    """The run was asked to stop, and left a checkpoint from which the same command goes on."""

    exit_code = 75


REFUSALS = (
    *("can't allocate memory", "not enough memory", "could not create a primitive"),
    *("Failed to allocate memory", "std::bad_alloc", "Cannot allocate memory"),
    *("failed to map segment", "cannot map zero-fill pages", "can't start new thread", "Failed to serialize proto"),
)
"""What PyTorch, oneDNN, ONNX Runtime, the loader and protobuf say where there is no memory, in errors without a type for it."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is the machine's or a device's refusal of memory."""
    named = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    return named or any(words in str(error) for words in REFUSALS)
