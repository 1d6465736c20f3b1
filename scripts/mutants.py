"""Seeded faults, each of which some test must kill: ``python scripts/mutants.py [--only TEXT]`` (`make mutants`).

Each fault is put into a copy of the project, never into the tree itself, and the tests named for it are run there. A fault
that survives is a hole in the tests. The tests must pass on the copy as it is, else nothing is killed by them. Exit 1 if a
fault survives, 2 if its text is not found exactly once.
"""

# ruff: noqa: E501 (a fault is one or two lines, however long what it changes)
from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before ONNX Runtime is loaded
# Imported once, and shared with every run of the tests: they take longer than most tests do.
for package in ("hypothesis", "onnx2torch", "onnxruntime", "scipy.stats"):
    importlib.import_module(package)
torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parent.parent
SECONDS = 600
COPIED = ("pipeline", "tests", "models", "scripts", "pyproject.toml", "README.md")

LAWS, CURVES, SEVERAL = "tests/rules/test_laws.py", "tests/rules/test_curves.py", "tests/rules/test_multi_input.py"
VERSION_TWO = "tests/vnnlib/test_parser2.py"
FEATURES = "tests/certify/test_feature_box.py"
SOUND, HIDDEN = "tests/bounds/test_soundness.py", "tests/bounds/test_hidden.py"
ROUNDING, RATIONAL = "tests/bounds/test_rounding.py", "tests/bounds/test_rational.py"
ORDERS, PARTS = "tests/bounds/test_any_order.py", "tests/bounds/test_mutations.py"
TABLE, LADDER, LARGEST = (
    "tests/certify/test_verdict_table.py",
    "tests/certify/test_ladder.py",
    "tests/certify/test_largest.py",
)
WORK, BALLS = "tests/certify/test_scheduler.py", "tests/certify/test_balls.py"
GATES, SCHEDULE = "tests/gates/test_gates.py", "tests/train/test_schedule.py"
OBJECTIVE, CLOSED = "tests/train/test_objective.py", "tests/train/test_closed_forms.py"
DRAW, FULL_BN, STORE = "tests/train/test_initialise.py", "tests/train/test_full_bn.py", "tests/train/test_checkpoint.py"
FOLDER = "tests/cli/test_run_folder.py"
MIXED = "tests/train/test_losses.py"
LOSSES = "tests/train/test_losses.py"
LOOP, WRITTEN, IMPORT = "tests/train/test_loop.py", "tests/onnx/test_write_back.py", "tests/onnx/test_importer.py"

BINARY, CHANCE = "tests/certify/test_binary.py", "tests/results/test_chance.py"
RAN, RANGE = "tests/onnx/test_executed.py", "tests/bounds/test_range.py"
MEASURED, PROGRAMS = "tests/onnx/test_kernels.py", "tests/onnx/test_programs.py"
SPLITS, COMPLETE = "tests/bounds/test_splits.py", "tests/certify/test_complete.py"
CLIPPING = "tests/certify/test_clipping.py"
PARTIAL = "tests/bounds/test_partial_sums.py"
CHECKED, REPLAYED = "tests/checker/test_bounds.py", "tests/cli/test_check_proof.py"
ASKED = "tests/bounds/test_specification.py"
TRAPS = "tests/onnx/test_adversarial_files.py"
AROUND = "tests/cli/test_adversarial_runs.py"
PLACES = "tests/onnx/test_nd_indices.py"
TOGETHER = "tests/cli/test_several_inputs.py"
MERGE, CLASSICAL = "tests/cli/test_merge.py", "tests/onnx/test_classical.py"

Fault = tuple[str, str, str, str]
"""A file below pipeline/, the exact text there, what it becomes, and the arguments of pytest that must fail."""

# fmt: off
RULES: list[Fault] = [
    ("rules/affine.py", "F.linear(x.radius, absolute(op.weight))",
     "F.linear(x.radius, op.weight)", f"{LAWS} -k Linear"),
    ("rules/affine.py", "x.radius, absolute(op.weight), None)",
     "x.radius, op.weight, None)", f"{LAWS} -k Conv2d"),
    ("rules/affine.py", "starts = [o * s - p for",
     "starts = [o * s for", f"{SOUND} -k every_method"),
    ("rules/batchnorm.py", "_channels(scale.abs(), x.radius) * x.radius",
     "_channels(scale, x.radius) * x.radius", f"{LAWS} -k BatchNorm"),
    ("rules/batchnorm.py", "(0 if bn.bias is None else bn.bias) - scale * mean",
     "(0 if bn.bias is None else bn.bias) + scale * mean", f"{FULL_BN} {OBJECTIVE}"),
    ("rules/relu.py", "half = F.relu((x.center + x.radius) / 2)",
     "half = F.relu((x.center - x.radius) / 2)", f"{LAWS} -k ReLU"),
    ("rules/relu.py", "torch.where(lower >= 0, 1.0, torch.where(upper <= 0, 0.0, torch.nan))",
     "torch.where(lower >= 0, 0.0, torch.where(upper <= 0, 1.0, torch.nan))", f"{LAWS} -k ReLU"),
    ("rules/relu.py", "torch.where(upper <= 0, 0.0, torch.nan)",
     "torch.where(upper <= 0, 0.0, 0.0)", "tests/rules/test_relu.py"),
    ("rules/relu.py", "offset = torch.where(open_, offset, 0)",
     "offset = torch.where(open_, 0.5 * offset, 0)", f"{LAWS} -k ReLU"),
    ("rules/relu.py", "Line(torch.where(open_, alpha[0], fixed))",
     "Line(alpha[0])", "tests/rules/test_relu.py"),
    ("rules/arithmetic.py", "else radii[0] + radii[1]",
     "else radii[0] - radii[1]", f"{LAWS} -k Add"),
    ("rules/arithmetic.py", "-1.0 if isinstance(op, ops.Sub) else 1.0",
     "1.0", f"{SOUND} -k difference"),
    ("rules/arithmetic.py", "(coeff, -coeff if isinstance(op, ops.Sub) else coeff)",
     "(coeff, coeff)", f"{LAWS} -k Sub"),
    ("rules/shape.py", "key=lambda axis: op.perm[axis] % len(op.perm)",
     "key=lambda axis: axis", f"{LAWS} -k Transpose"),
    ("rules/pooling.py", "copied / (x.center.numel() // math.prod(kept)) if isinstance(op, ops.ReduceMean) else copied",
     "copied", f"{LAWS} -k ReduceMean"),
    ("rules/batchnorm.py", "return (coeff * _channels(_running(op)[0], coeff[0]),)",
     "return (coeff,)", f"{LAWS} -k BatchNorm"),
    ("rules/multi_input.py", "if coeff.dim() != len(shape) + 1 or coeff.shape[1] != shape[0]:",
     "if coeff.dim() != len(shape) + 1:", "tests/rules/test_multi_input.py"),
    ("rules/arithmetic.py", "return terms if carried == 0 else carried + SLACK + terms",
     "return terms", ORDERS),
    ("rules/batchnorm.py", "return carried + SLACK + 1",
     "return 1", f"{ROUNDING} {ORDERS} tests/bounds/test_fusion.py"),
    ("rules/batchnorm.py", "mean if op.bias is None else mean + op.bias.abs()",
     "mean if op.bias is None else (mean - op.bias).abs()", f"{ROUNDING} {ORDERS} tests/bounds/test_fusion.py"),
    ("rules/affine_rule.py", "torch.zeros_like(x) for x in xs))\n\n    def carries",
     "x for x in xs))\n\n    def carries", f"{LAWS} -k Concat"),
    ("rules/affine_rule.py", "max(terms, self.fan_out(op, *xs))",
     "terms", PARTS),
    ("rules/affine_rule.py", "return terms + 1 + SLACK",
     "return terms // 2", PARTS),
    ("rules/maxima.py", "decided = l >= v",
     "decided = u >= v", f"{LAWS} -k Max"),
    ("rules/maxima.py", "torch.maximum(v - s * l, u - s * u)",
     "v - s * u", f"{LAWS} -k Max"),
    ("rules/bilinear.py", "torch.maximum(across + both, along - both)",
     "torch.maximum(across - both, along - both)", f"{LAWS} {SEVERAL} -k Product"),
    ("rules/piecewise_linear.py", "turns=(-1.5,)",
     "turns=()", f"{LAWS} {CURVES} -k Hardswish"),
    ("rules/piecewise_linear.py", "turns=() if rising else (0.0,)",
     "turns=()", f"{LAWS} -k LeakyReLU"),
    ("rules/activations.py", "-0.7517915246935645",
     "-0.85", f"{LAWS} {CURVES} -k GELU"),
    ("rules/elementwise.py", "inside = lower.isfinite() & upper.isfinite()",
     "inside = lower == lower", f"{SOUND} -k overflow"),
    ("rules/elementwise.py", "inside = inside & (lower > 0)\n",
     "inside = inside & (upper > 0)\n", CURVES),
    ("rules/softmax.py", "return s, torch.maximum(low - s * least, high - s * most)",
     "return s, low - s * most", f"tests/rules/test_softmax.py {LAWS} -k oftmax"),
    ("rules/normalisation.py", "radius = x.radius * (1 - 2 / n) + x.radius.mean(-1, keepdim=True)",
     "radius = x.radius * (1 - 1 / n)", f"{LAWS} tests/rules/test_normalisation.py -k Norm"),
    ("rules/pooling.py", "return terms + 2\n\n    def examples(self) -> Iterator[Example]:\n        yield Example(nn.AvgPool2d",
     "return 1\n\n    def examples(self) -> Iterator[Example]:\n        yield Example(nn.AvgPool2d", ORDERS),
]

ACCOUNT: list[Fault] = [
    ("core/floating_point.py", "return n * unit / (1 - n * unit) * (1 + 8 * U64)",
     "return n * unit / 2", f"{PARTS} {ROUNDING}"),
    ("core/partial_sums.py", "self.reach * self.most", "self.reach * (self.most / 2)", PARTIAL),
    ("core/partial_sums.py", "both * (1 + 8 * gamma(terms + 4, U64)) + image", "image", PARTIAL),
    ("core/partial_sums.py", "both = spread + offset", "both = spread", PARTIAL),
    ("core/partial_sums.py", "(magnitude != 0)", "(magnitude > 1)", PARTIAL),
    ("rules/affine.py", "count.repeat_interleave(op.out_channels // op.groups, 1)", "count.repeat(1, op.out_channels // op.groups, 1, 1)", PARTIAL),
    ("core/outward.py", "own + sums.lost(magnitude, deployed_terms)", "own", PARTIAL),
    ("core/outward.py", "spread = radius(*widened) + g * size_of(offset)",
     "spread = radius(*widened)", PARTS),
    ("core/outward.py", "(x.radius + g * x.magnitude)",
     "(x.radius + g * x.radius)", PARTS),
    ("core/outward.py", "flushed = flushed * (1 + 1 / self.folded_scale)",
     "flushed = flushed * 1", PARTS),
    ("core/outward.py", "return torch.where(magnitude < limit, spread, torch.inf)",
     "return spread", f"{PARTS} {SOUND}"),
    ("core/outward.py", "self._minus(total, dot(coeff.abs(), slack),",
     "self._minus(total, dot(coeff, slack),", f"{PARTS} {ORDERS} {HIDDEN}"),
    ("core/outward.py", "slack = dot(both.coeff.abs(), both.over(box).magnitude) * (2 * U64)",
     "slack = dot(both.coeff.abs(), both.over(box).magnitude) * 0", RATIONAL),
    ("core/outward.py", "reach = dot(form.coeff.abs(), box.radius + TINY32) if self.deployed else dot(form.coeff.abs(), box.radius)",
     "reach = dot(form.coeff, box.radius)", SOUND),
    ("core/outward.py", "return value - amount - size * (8 * U64) - TINY64",
     "return value - amount", f"{RATIONAL} {ROUNDING}"),
    ("core/outward.py", "self._minus(least, radius * norm, form",
     "self._minus(least, 0.5 * radius * norm, form", f"{SOUND} {BALLS}"),
    ("core/outward.py", "slack = size * gamma(n + 4, U64)",
     "slack = size * 0", PARTS),
    ("core/outward.py", "torch.maximum(upper - center, center - lower) + error, 3))",
     "upper - center, 3))", f"{CURVES} {LAWS} {PARTS}"),
    ("core/interval.py", "return torch.nextafter(self.center - self.radius, torch.full_like(self.center, -torch.inf))",
     "return self.center - self.radius", PARTS),
    ("bounds/float32_sites.py", "if roundings > SLACK - 2:",
     "if roundings > 100 * SLACK:", PARTS),
    ("bounds/float32_sites.py", "float(self.weight.abs().max()) * float(high.max()) > FLOAT32_MAX",
     "False", PARTS),
    ("bounds/float32_sites.py", "before.scaled(scale, _roundings(step.op), step.name)",
     "before.scaled(scale, 0, step.name)", f"tests/bounds/test_fusion.py {PARTS}"),
    ("bounds/margins.py", "return softmax_gap(self.top.softmax, classes)", "return 0.0", SOUND),
    ("rules/relax.py", "torch.where(sign > 0, right, torch.where(sign < 0, left, line.slope))",
     "torch.where(sign > 0, left, torch.where(sign < 0, right, line.slope))", SPLITS),
    ("rules/relax.py", "torch.where(sign == 0, line.offset, 0.0)", "torch.where(sign < 0, line.offset, 0.0)", SPLITS),
    ("bounds/splits.py", "torch.nan_to_num(beta, 0.0, 0.0, 0.0).clamp_min(0)", "torch.nan_to_num(beta, 0.0, 0.0, 0.0)", SPLITS),
    ("bounds/splits.py", "-torch.nan_to_num(beta, 0.0", "torch.nan_to_num(beta, 0.0", SPLITS),
    ("bounds/branching.py", "neuron[divided], sign) for sign in (1.0, -1.0)]", "neuron[divided], sign) for sign in (1.0, 1.0)]", SPLITS),
    ("certify/refuter.py", "and not over.several", "", CLIPPING),
    ("certify/clipping.py", "np.where(asked, np.maximum(high,", "np.where(asked, np.minimum(high,", CLIPPING),
    ("certify/clipping.py", "reach = -least[..., None] / np.abs(coeff)", "reach = -least[..., None] / np.abs(coeff) * 0.9", CLIPPING),
    ("certify/clipping.py", "(conjunction == a)[..., None], is_open[:, a, None]", "(conjunction >= 0)[..., None], is_open[:, a, None]", CLIPPING),
    ("certify/clipping.py", "np.where(coeff < 0, np.nextafter(upper - reach", "np.where(coeff > 0, np.nextafter(upper - reach", CLIPPING),
    ("certify/complete.py", "closed = torch.isfinite(proof) & (proof > self.needed)", "closed = found.lower > -0.01", COMPLETE),
    ("certify/complete.py", "Domains.joined([rest, self._left_open(", "Domains.joined([rest[:0], self._left_open(", COMPLETE),
    ("certify/complete.py", "if len(self._left_open(solved(self.split, taken[~divided]))):", "if False:", COMPLETE),
    ("certify/complete.py", '"charge" if self.hopeless else "proved"', '"proved"', COMPLETE),
    ("certify/complete.py", "self._divided(found.of.unique(), self.domains)",
     "self._divided(found.of.unique()[1:], self.domains)", COMPLETE),
    ("bounds/intermediate.py", "zip((1.0, -1.0), alpha.chunk(2)", "zip((1.0, 1.0), alpha.chunk(2)", SPLITS),
    ("bounds/intermediate.py", "at[some], low, -high)", "at[some], low, -high - 0.1)", SPLITS),
    ("certify/complete.py", 'return self._undecided("memory", open_)',
     'return Decision("proved", self.done, self.deepest, 1.0)', f"{COMPLETE} -k memory"),
    ("certify/complete.py", 'return self._undecided("time", self.open_)',
     'return Decision("proved", self.done, self.deepest, 1.0)', f"{COMPLETE} -k clock"),
    ("audit/audit.py", "if one.index not in unknown_here", "if False", "tests/cli/test_verify.py -k forged"),
    ("certify/subdomain.py", "below[at] = above[at] = middle", "below[at], above[at] = middle, middle + width[at] / 8", "tests/certify/test_property.py -k cut"),
    ("certify/property.py", "if decision.end != \"proved\":\n                pending.append", "if decision.end != \"proved\" and len(pending) % 2:\n                pending.append",
     "tests/certify/test_property.py -k halved"),
    ("certify/rungs.py", "if wave == 0 else some[:0]", "if False else some[:0]", "tests/certify/test_rungs.py"),
    ("bounds/condensed.py", "- beta[:, at] * sign[:, at]", "+ beta[:, at] * sign[:, at]", SPLITS),
    ("onnx/batch/rules.py", "if batch.axis in set(axes):", "if False:", "tests/onnx/test_batch_axis.py"),
    ("onnx/batch/rules.py", "if trace.batch_axis(value) is None and here >= 0 and trace.sample_shape(value)[here] != 1:",
     "if False:", "tests/onnx/test_batch_axis.py"),
    ("onnx/batch/trace.py", "if not symbolic.uniform:", "if False:", "tests/onnx/test_batch_axis.py"),
    ("onnx/batch/symbolic_rules.py", "if not decided.all():", "if False:", "tests/onnx/test_batch_axis.py"),
    ("certify/refuter.py", "rows.strict.cpu().numpy() & ~proved", "~proved", "tests/certify/test_ties.py"),
    ("core/network.py", "axis > 0 and all(n == 1 for i, n in enumerate(shape) if i not in (0, axis))",
     "True", "tests/certify/test_heads.py"),
    ("bounds/tighten.py", "end = bound.T if side is lower else -bound.T",
     "end = bound.T", SOUND),
    ("bounds/tighten.py", "crossed = torch.where(lower <= upper, 0.0, torch.nan)",
     "crossed = torch.zeros_like(lower)", f"{SOUND} -k cross"),
    ("bounds/alpha.py", "slopes.data.clamp_(0, 1)",
     "slopes.data.clamp_(-2, 3)", f"{SOUND} -k every_method"),
    ("bounds/alpha.py", "return torch.fmax(least, bounds.lower(forms, alpha=best))",
     "return torch.fmax(least, highest)", f"{ORDERS} {HIDDEN} -k alpha"),
    ("bounds/walk.py", "if index not in pending else merge(index, pending[index], part)",
     "if index not in pending else part", SOUND),
    ("core/threat.py", "torch.where(moves, box.radius + slack, box.radius)", "box.radius", f"{RATIONAL} {ROUNDING} {BALLS} {FEATURES}"),
    ("core/feature_box.py", "float(self.eps) * self.features.radius, self.features.low",
     "float(self.eps) * self.features.radius.clip(max=0.25), self.features.low", FEATURES),
    ("certify/space.py", "return cls(*_ends(x, ball), radius.to(x).expand_as(x))",
     "return cls(x - radius.max().to(x), x + radius.max().to(x), radius.to(x).expand_as(x))", FEATURES),
    ("core/threat.py", "torch.minimum(eps, x - low), torch.minimum(eps, high - x)",
     "torch.minimum(eps, x - low), torch.minimum(eps, high - x) / 2", f"{ROUNDING} {RATIONAL} {BALLS} {SOUND}"),
    ("bounds/rows.py", "start + shape.numel(), torch.zeros_like(const)", "start + shape.numel(), const", ASKED),
    ("bounds/specification.py", '(rows, "amax")', '(rows, "amin")', ASKED),
    ("certify/subdomain.py", " or [ALWAYS]", "", ASKED),
    ("bounds/specification.py", "others = rows + (rows >= labels)",
     "others = rows + (rows > labels)", SOUND),
]

VERDICTS: list[Fault] = [
    ("core/binary.py", "scale = 4 * self.value * (1 - self.value)", "scale = 1.0", f"{BINARY} -k near_its_threshold"),
    ("core/binary.py", 'z = put("binary_softmax", nn.Softmax(-1), z)', "pass", f"{BINARY} -k near_its_threshold"),
    ("core/binary.py", "ops.Pad((1, 0), value=at)", "ops.Pad((0, 1), value=at)", f"{BINARY} -k certified_box"),
    ("results/chance.py", "betainc(k, n - k + 1, float(rate)) > ALPHA", "Fraction(k, n) <= rate", CHANCE),
    ("gates/improvement.py", "return new > old if", "return new >= old if", "tests/render/test_worse.py"),
    ("gates/improvement.py", "rate.k + side.undecided)", "rate.k)", "tests/render/test_worse.py"),
    ("certify/verdict_table.py", "return (margins > 0) & (self.arithmetic",
     "return (margins >= 0) & (self.arithmetic", TABLE),
    ("certify/verdict_table.py", "return self.proved & self.alive & (self.attack_done",
     "return self.proved & (self.attack_done", TABLE),
    ("certify/verdict_table.py", "& (self.attack_done | (not self.attack))",
     "", TABLE),
    ("certify/verdict_table.py", "self.margins[here], np.where(np.isfinite(margins), margins, np.nan)",
     "self.margins[here], margins", TABLE),
    ("certify/verdict_table.py", "here = np.s_[: level + 1, rows]\n        before, finite",
     "here = np.s_[level:, rows]\n        before, finite", TABLE),
    ("certify/verdict_table.py", "here = np.s_[level:, broken]", "here = np.s_[level, broken]", TABLE),
    ("certify/verdict_table.py", "broken = self.proved & self.correct & ~self.alive",
     "broken = self.proved & self.correct & False", TABLE),
    ("certify/verdict_table.py", "wrong = self.proved & ~self.correct & (self",
     "wrong = self.proved & False & (self", TABLE),
    ("certify/verdict_table.py", "(verdict == Verdict.UNKNOWN) & self.skipped if incomplete",
     "(verdict == Verdict.UNKNOWN) & False if incomplete", TABLE),
    ("certify/ladder.py", "np.where(finite, logits.argmax(1), -1)",
     "logits.argmax(1)", f"{LADDER} tests/certify/test_rungs.py"),
    ("certify/rungs.py", "for pick, arrays in zip(cuts, results, strict=True):\n            if arrays is None:\n                table.skipped[level, pick] = True\n                continue\n            alive",
     "for pick, arrays in zip(cuts[::-1], results, strict=True):\n            if arrays is None:\n                table.skipped[level, pick] = True\n                continue\n            alive", f"{LADDER} tests/certify/test_rungs.py {WORK}"),
    ("certify/prover.py", "torch.from_numpy(self.images[rows]), torch.from_numpy(self.labels[rows])",
     "torch.from_numpy(self.images[np.sort(rows)]), torch.from_numpy(self.labels[np.sort(rows)])", f"{LADDER} tests/certify/test_rungs.py {WORK}"),
    ("methods.py", "sorted(METHODS.values(), key=lambda one: one.cost)",
     "sorted(METHODS.values(), key=lambda one: 0)", "tests/test_methods.py"),
    ("results/columns.py", "codes[code] = code_of[name]", "codes[code] = code", "tests/test_methods.py"),
    ("certify/largest.py", "proved = np.isfinite(margins) & (margins > 0)",
     "proved = np.isfinite(margins) & (margins > -1)", LARGEST),
    ("system/seal.py", "if not hmac.compare_digest(", "if False and not hmac.compare_digest(", f"{WORK} {STORE}"),
    ("system/seal.py", "self.run.encode(), path.name.encode()", 'self.run.encode(), b""', f"{WORK} {STORE}"),
    ("system/seal.py", "(FORMAT, self.run.encode(), path", "(FORMAT, path", WORK),
    ("system/run_folder.py", 'return "this command" if owner == run.encode()', 'return "this command" if owner', f"{FOLDER} -k another_command"),
    ("commands/retraining.py", "    if not force:\n        run.require_own()", "    if False:\n        run.require_own()",
     f"{FOLDER} -k training"),
    ("system/user_key.py", "if status.st_mode & 0o077:", "if status.st_mode & 0o007:", "tests/test_user_key.py"),
    ("commands/verification.py", "secrets.randbits(63) if seed is None else seed", "seed or 0",
     "tests/cli/test_verify.py -k foresee"),
    ("numbers.py", "[-+]?[0-9]{1,18}", "[-+]?\\d{1,18}", "tests/test_numbers.py"),
    ("certify/journal.py", 'arrays is not None and np.array_equal(arrays["rows"], rows)',
     "arrays is not None", WORK),
    ("certify/attack.py", "fooled = label != own[row]",
     "fooled = label == label", f"{LADDER} -k another_label"),
    ("certify/subdomain.py", "np.array([below64(-bound) for",
     "np.array([float(-bound) for", "tests/certify/test_property.py -k rounded"),
    ("vnnlib/terms.py", "(lower if coefficient > 0 else upper)[index]", "(upper if coefficient > 0 else lower)[index]", VERSION_TWO),
    ("vnnlib/parser2.py", "i * prod(of.shape[axis + 1 :])", "i * prod(of.shape[:axis])", VERSION_TWO),
    ("vnnlib/numbers.py", "return near if Fraction(near) <= value else math.nextafter(near, -math.inf)",
     "return near", "tests/vnnlib"),
    ("onnx/parity.py", "return self.difference is None",
     "return True", IMPORT),
]

REPORTS: list[Fault] = [
    ("commands/shards.py", "if one.shard.number == two.shard.number:", "if False:", f"{MERGE} -k one_run"),
    ("commands/shards.py", "if other := _other_run(first, part):", "if False:", f"{MERGE} -k another_run"),
    ("commands/shards.py", '        "the digest of settings, program and device": part.shard.run_sha256,\n', "", f"{MERGE} -k another_run"),
    ("commands/shards.py", "if number not in there]", "if False]", f"{MERGE} -k one_run"),
    ("commands/shards.py", "if findings.faults or report", "if report", f"{MERGE} -k digest"),
    ("commands/conclusion.py", 'if fields.get("shard") is not None:', "if False:", f"{MERGE} -k bit"),
    ("results/blocks.py", "where = np.searchsorted([block[0] for block in blocks], rows, side=\"right\")", "where = 0 * rows",
     f"{MERGE} tests/results/test_blocks.py"),
    ("audit/audit.py", "if of_run != expected:", "if False:", f"{AROUND} -k alone"),
    ("audit/audit.py", "if result.threat.range != result.preprocessing.range:", "if False:", f"{AROUND} -k little"),
    ("audit/audit.py", "if result.method.statement != statement:", "if False:", f"{AROUND} -k statement"),
    ("commands/reopen.py", "if not np.array_equal(samples.index, selected(result)):", "if False:", f"{AROUND} -k drawn"),
    ("settings/sources.py", 'if name == TOML and "download" in values:', "if False:", f"{AROUND} -k training"),
    ("settings/sources.py", "if not path.is_file():", "if False:", f"{AROUND} -k dead"),
    ("system/atomic.py", "(path.exists() and not path.is_file())", "False", f"{AROUND} -k fixed"),
    ("onnx/external.py", "if len(entries) != len(tensor.external_data):", "if False:", f"{AROUND} -k twice"),
    ("certify/prover.py", "with suppress(OutOfTime):\n            bytes_per_image", "if True:\n            bytes_per_image",
     f"{AROUND} -k looked"),
    ("gates/gate.py", "else Fraction(k, n) >= gate.threshold",
     "else Fraction(k, n) > gate.threshold", GATES),
    ("gates/gate.py", "best = k + undecided if",
     "best = k if", GATES),
    ("gates/gate.py", "worst = k - undecided if",
     "worst = k if", GATES),
    ("gates/gate.py", '"incomplete" if None in states else "pass"',
     '"pass"', GATES),
    ("gates/gate.py", "passed=True if reaches(worst) else",
     "passed=True if reaches(best) else", GATES),
    ("gates/regression.py", "Fraction(lost - gained, n) > gate.threshold",
     "Fraction(lost - gained, n) >= gate.threshold", f"{GATES} -k drop"),
    ("gates/exact.py", "    return p_value <= level",
     "    return p_value < level", f"{GATES} -k drop"),
    ("gates/exact.py", "return _upper_tail(k, n, threshold) <= TAIL",
     "return _upper_tail(k, n, threshold) <= 2 * TAIL", GATES),
]

TRAINING: list[Fault] = [
    ("train/schedule.py", "return a * float(step - start) ** beta",
     "return a * float(step - start) ** (beta - 1)", SCHEDULE),
    ("train/schedule.py", "middle = start + int(mid * (end - start))",
     "middle = end - int(mid * (end - start))", SCHEDULE),
    ("train/schedule.py", "return weight * (1 - eps / final)",
     "return weight * (eps / final)", SCHEDULE),
    ("train/schedule.py", "epoch > d for d",
     "epoch >= d for d", SCHEDULE),
    ("train/regularise.py", "F.relu(tau - radii[0] / radii[1:].clamp(min=TINY)) / tau",
     "F.relu(tau - radii[1:] / radii[0].clamp(min=TINY)) / tau", f"{OBJECTIVE} {CLOSED}"),
    ("train/regularise.py", "_ratio(on[:, 1], -off[:, 1])",
     "_ratio(on[:, 1], off[:, 1])", f"{OBJECTIVE} {CLOSED}"),
    ("train/regularise.py", "return torch.minimum(q, 1 / q.clamp(min=TINY)), positive",
     "return q, positive", f"{OBJECTIVE} {CLOSED}"),
    ("train/regularise.py", ".add_(of_center)",
     "", f"{OBJECTIVE} {CLOSED}"),
    ("train/losses/crown_ibp.py", "return (1 - beta) * margins + beta *",
     "return beta * margins + (1 - beta) *", LOSSES),
    ("train/losses/mtl_ibp.py", "self.recipe.alpha * bounded + (1 - self.recipe.alpha) * attacked",
     "(1 - self.recipe.alpha) * bounded + self.recipe.alpha * attacked", LOSSES),
    ("train/initialise.py", "deviation = math.sqrt(2 * math.pi) / n",
     "deviation = math.sqrt(2 * math.pi / n)", DRAW),
    ("train/initialise.py", "deviation /= 2 if follows_sum(plan, step) else 1",
     "deviation /= 1", DRAW),
    ("train/full_bn.py", "bn.weight.fill_((1 + bn.eps) ** 0.5)",
     "bn.weight.fill_(1.5)", FULL_BN),
    ("core/ops/affine_bn.py", "shift = scale * (bias - bn.running_mean.double())",
     "shift = scale * (bias + bn.running_mean.double())", FULL_BN),
    ("train/checkpoint.py", 'torch.set_rng_state(state["rng"])',
     "pass", f"{STORE} {LOOP}"),
    ("train/checkpoint.py", 'optimiser.load_state_dict(state["optimiser"])',
     "pass", f"{STORE} {LOOP}"),
    ("train/checkpoint.py", "    if differ:\n",
     "    if False:\n", f"{STORE} {LOOP}"),
    ("onnx/passes/batch_layout.py", "batch_group = (*folded_axes[: bool(position)], BATCH, *folded_axes[bool(position) :])",
     "batch_group = (BATCH, *folded_axes)", "tests/onnx/test_batch_first.py"),
    ("onnx/passes/batch_layout.py", "tuple(a - sum(g < a for g in dropped_axes) for a in group)",
     "tuple(a for a in group)", "tests/onnx/test_batch_first.py"),
    ("onnx/passes/einsum.py", "[order.index(i) for i in out]",
     "[out.index(i) for i in order]", "tests/onnx/test_einsum.py"),
    ("train/objective.py", "(exponent - LARGEST_LOSS).clamp(min=0)",
     "(exponent - LARGEST_LOSS).clamp(max=0)", f"{LOOP} -k beyond or deep"),
    ("train/step.py", "torch.minimum(self.recipe.clip_norm / (norm + 1e-6 / scale), scale)",
     "(self.recipe.clip_norm / (norm + 1e-6 / scale)).clamp(max=1)", f"{LOOP} -k divided"),
    ("onnx/write_back.py", "array = array.transpose(setting)",
     "array = array.reshape(array.transpose(setting).shape)", WRITTEN),
    ("onnx/write_back.py", "array = array * array.dtype.type(setting)",
     "array = array / array.dtype.type(setting)", WRITTEN),
    ("onnx/commit.py", '    if not measured_parity.holds:\n        raise Contradiction(\n            f"A written',
     '    if False:\n        raise Contradiction(\n            f"A written', WRITTEN),
    ("onnx/write_back.py", "if not np.array_equal(new_arrays[weight.initializer], array):",
     "if False:", WRITTEN),
    ("onnx/write_back.py", "        if reason is not None:\n",
     "        if False:\n", WRITTEN),
    ("onnx/commit.py", "for part in reversed(file.paths):",
     "for part in file.paths:", f"{WRITTEN} -k together"),
    ("train/adversary.py", "slope(point).sign()",
     "-slope(point).sign()", MIXED),
    ("gates/demands.py", 'decisive.add("eps")',
     "pass", "tests/cli/test_certify.py -k rests"),
]
# A fault for each kind of false certificate that was once found.
PROMISE: list[Fault] = [
    ("onnx/batch/rules.py", "return not_along(batch, range(axis, len(shape)) if trace.opset < 13 else [axis])",
     "return batch", "tests/onnx/test_batch_axis.py"),
    ("certify/prover.py", "if len(rows) > size:",
     "if False:", "tests/certify/test_batch_check.py -k bounded_one_sample"),
    ("core/network.py", " and _all_classes(last.op, last.shape)",
     "", "tests/certify/test_heads.py"),
    ("system/seal.py", 'if not hmac.compare_digest(code, in_file):',
     "if False:", "tests/certify/test_scheduler.py tests/train/test_checkpoint.py"),
    ("commands/verification.py", "secrets.randbits(63) if seed is None else seed",
     "0 if seed is None else seed", "tests/cli/test_verify.py -k foresee"),
    ("onnx/difference.py", "        low, high = value.lower, value.upper\n",
     "        low, high = value.lower - 1e-4 * measured.abs().max(), value.upper + 1e-4 * measured.abs().max()\n",
     "tests/onnx/test_node_by_node.py -k loud"),
    ("bounds/footprint.py", "        self.live += size\n",
     "", "tests/certify/test_budgets.py -k counted"),
    ("bounds/footprint.py", "return fit // GROUP * GROUP if fit >= GROUP else fit",
     "return 1 << 20", "tests/certify/test_budgets.py -k process"),
    ("bounds/ibp.py", "        self.check()\n",
     "", "tests/certify/test_budgets.py -k clock"),
]

EXECUTED: list[Fault] = [
    ("onnx/executed/pools.py", "min(ends) >= 0", "ends[0] >= 0", f"{TRAPS} -k crossed"),
    ("onnx/executed/pools.py", 'op.attributes.get("value", 0.0) < 0', "False", f"{TRAPS} -k old"),
    ("onnx/lowering/pointwise.py", "if np.isnan(end) or end == (np.inf, -np.inf)[i]:", "if False:", f"{TRAPS} -k infinity"),
    ("onnx/probe.py", 'kind = "data" if not data_sized.isdisjoint(inputs) else kind', "pass", f"{TRAPS} -k entries"),
    ("onnx/passes/fold.py", 'if sizes in draft.constants or kinds.get(sizes) == "shape":', "if sizes:", f"{TRAPS} -k Resize"),
    ("rules/bilinear.py", "self.squares and xs[0] is xs[1]", "xs[0] is xs[1]", f"{TRAPS} -k itself"),
    ("rules/arithmetic.py", "return op.operands if isinstance(op, ops.Add) else 2", "return 2", f"{TRAPS} -k every_order"),
    ("rules/support.py", "if not plan.steps:", "if False:", f"{TRAPS} -k layer"),
    ("rules/rule.py", "if center.shape[:1] != (", "if False and center.shape[:1] != (", f"{TRAPS} -k axis"),
    ("onnx/subnormal.py", "if op.type not in MOVES and", "if False and", f"{TRAPS} -k constant"),
    ("bounds/margins.py", "return 2 * TINY32", "return 0.0", f"{TRAPS} -k logit"),
    ("onnx/batch/symbolic_rules.py", """    x.require_exact()
    y.require_exact()
""", "", f"{TRAPS} -k negative"),
    ("onnx/batch/symbolic.py", """            result.require_exact()
""", """            pass
""", f"{TRAPS} -k rounding"),
    ("onnx/executed/pools.py", "if not nonnegative(matching.file, pad.inputs[0]):",
     "if False:", f"{RAN} -k another_function"),
    ("onnx/executed/matching.py", "return pair.executed == pair.file and pair.view.plain",
     "return True", f"{RAN} -k left_out"),
    ("onnx/executed/folding.py", "error * np.abs(size) + TINY",
     "1e-2 * np.abs(size) + TINY", f"{RAN} -k changed"),
    ("rules/bilinear.py", "size * scale < FLOAT32_MAX / 2",
     "size < FLOAT32_MAX / 2", f"{RAN} -k moved_through"),
    ("onnx/executed/arrangements.py", 'if pair.view.perm[op.attributes["axis"] % rank] != file_op.attributes["axis"] % rank:',
     "if rank == 0:", f"{RAN} -k another_axis"),
    ("onnx/executed/activations.py", "return file_op.inputs[0] if _close(op_settings, file_settings) else None",
     "return file_op.inputs[0]", f"{RAN} -k changed"),
    ("core/outward.py", "return flushed * (1 + self.moved[1])",
     "return flushed", RANGE),
    ("rules/batchnorm.py", "TINY32 * (1 + torch.rsqrt(spread.abs()))",
     "torch.zeros_like(spread)", f"{RANGE} -k may_be_zero"),
    ("rules/arithmetic.py", "torch.where(divisor.abs() < TINY32, torch.inf, 0.0)",
     "torch.where(divisor.abs() < 0, torch.inf, 0.0)", RANGE),
]

KERNELS: list[Fault] = [
    ("onnx/kernel_table.py", 'replace(self, libm="") == replace(other, libm="") and self.libm in ("", other.libm)',
     "self.onnxruntime == other.onnxruntime", f"{MEASURED} -k another_build"),
    ("onnx/kernel_table.py", "if table.build != build or unfit:",
     "if unfit:", f"{MEASURED} -k another_build"),
    ("onnx/kernel_table.py", "if (what := contradiction(name, table.operators[name])) is None:",
     "if name in table.operators:", f"{MEASURED} -k promises_too_much"),
    ("onnx/kernel_table.py", "content = seal.read(path)",
     "content = path.read_bytes().split(b'\\nhmac')[0]", f"{MEASURED} -k another_wrote"),
    ("onnx/kernel_sweep.py", "absolute=absolute.error,",
     "absolute=absolute.error / 2,", f"{MEASURED} -k worse_kernel"),
    ("onnx/kernel_sweep.py", "same = _digest(outputs) == stated.spots",
     "same = bool(stated.spots)", f"{MEASURED} -k bit_by_bit"),
    ("onnx/kernel_sweep.py", "if new.any() and not strange and not kernel.rows:",
     "if False:", f"{MEASURED} -k short_tensors_of_another"),
    ("commands/guarantee.py", "    kernel_table.spot_check(table, operators)\n",
     "", "tests/cli/test_doctor.py -k never_rests"),
    ("commands/guarantee.py", 'if there.model_copy(update={"errors": here.errors}) == here:',
     "if False:", "tests/cli/test_doctor.py -k are_a_contradiction"),
    ("core/outward.py", "error = (value.abs() * relative + absolute) * (1 + 8 * U64)",
     "error = (value.abs() * relative + absolute) * 0.5", f"{PARTS} -k may_exceed_one"),
    ("rules/programs.py", "error = size * (f * (1 + eta) - 1)",
     "error = size * (f - 1)", f"{PROGRAMS} -k exponential_reaches"),
    ("rules/programs.py", "lost, summed = absolute + 2.0**-120, gamma(n + _STEPS, U32)",
     "lost, summed = absolute + 2.0**-120, 4 * U32", f"{PROGRAMS} -k bad_order"),
    ("rules/programs.py", "off = gamma(2 * n + _STEPS, U32) * (square + mean * mean)",
     "off = 4 * U32 * spread", f"{PROGRAMS} -k variance_that_cancels"),
]

# fmt: on

WALK = "tests/onnx/test_schema_walk.py"
IMPORTS: list[Fault] = [
    (
        "onnx/passes/nd_indices.py",
        "np.where(indices < 0, indices + sizes, indices)",
        "np.where(indices < 0, -indices - 1, indices)",
        f"{PLACES} -k in_any_batch",
    ),
    ("onnx/passes/nd_indices.py", "if len(np.unique(at)) < at.size:", "if False:", f"{PLACES} -k refused"),
    (
        "onnx/passes/nd_indices.py",
        "places[at.reshape(-1)] = size +",
        "places[at.reshape(-1)] =",
        f"{PLACES} -k in_any_batch",
    ),
    (
        "core/joined.py",
        "ops.Slice([start], [self.size], [1], [1])",
        "ops.Slice([start - 1], [self.size - 1], [1], [1])",
        f"{TOGETHER} -k stay_with",
    ),
    (
        "core/fixed_integers.py",
        "EXACT if any(a.is_floating_point() for a in args) else WHOLE",
        "nn.Module",
        f"{TOGETHER} -k exact_place",
    ),
    (
        "rules/whole_numbers.py",
        "torch.where(alone, 0.0, torch.inf)",
        "torch.where(alone, 0.0, 0.0)",
        "tests/rules/test_whole_numbers.py",
    ),
    (
        "onnx/chosen_output.py",
        "len(given) == 1 and all(a < b for a, b in pairwise(given[0]))",
        "len(given) == 1",
        f"{CLASSICAL} -k order",
    ),
    (
        "onnx/runtime.py",
        "[sample[label] for label in sorted(sample)]",
        "[sample[label] for label in sorted(sample, key=str)]",
        f"{CLASSICAL} -k map",
    ),
    (
        "onnx/operators.py",
        "if name not in entry.reads and name not in entry.inert and not _equal(value, default_value):",
        "if False:",
        f"{WALK} -k is_named",
    ),
    (
        "onnx/operators.py",
        "if value and entry.inputs is not None and position >= entry.inputs:",
        "if False:",
        f"{WALK} -k is_named",
    ),
    (
        "onnx/operators.py",
        "if value in read and entry.outputs is not None and position >= entry.outputs:",
        "if False:",
        f"{WALK} -k is_named",
    ),
    (
        "onnx/operators.py",
        "for name in sorted(entry.reads - node.attributes.read)",
        "for name in sorted(entry.reads - entry.reads)",
        f"{WALK} -k no_lowering_reads",
    ),
    (
        "onnx/lowering/lower.py",
        "if value and i not in item.read_inputs]",
        "if value and i < 0]",
        f"{WALK} -k no_lowering_reads",
    ),
    (
        "onnx/ir.py",
        "return Attributes({**self, **changes}, self.read)",
        "return Attributes({**self, **changes})",
        f"{WALK} -k copies_a_node",
    ),
    (
        "onnx/passes/opset_forms.py",
        'node.attributes.pop("axis", 1)',
        'node.attributes.pop("axis", -1)',
        f"{WALK} -k drawn_at_random",
    ),
    (
        "onnx/lowering/reductions.py",
        "sorted({a % rank for a in axes}) if axes",
        "sorted({a % rank or 1 for a in axes}) if axes",
        f"{WALK} -k drawn_at_random",
    ),
    (
        "onnx/lowering/pools.py",
        "(a.count - 1) * a.stride + a.extent - a.size - a.begin",
        "a.end",
        f"{WALK} -k windows",
    ),
]

CHECKER: list[Fault] = [
    (
        "checker/bounds.py",
        "U32 * (1 + gamma(terms + more)) * UP * (alive * reach + more * sizes) + flushed",
        "0 * sizes",
        CHECKED,
    ),
    ("checker/bounds.py", "len(sizes) + 64) * U64 * sizes + UNDERFLOW", "len(sizes) + 64) * 0 * sizes", CHECKED),
    ("checker/bounds.py", "+ np.abs(a) @ error\n", "\n", CHECKED),
    ("checker/bounds.py", "-assumed[at][2] * assumed[at][1]", "assumed[at][2] * assumed[at][1]", CHECKED),
    ("checker/bounds.py", "np.where(open_, highest * (1 + 2.0**-50), 0)", "np.where(open_, 0.9 * highest, 0)", CHECKED),
    ("checker/bounds.py", "offset = np.where(sign == 0, offset, 0)", "offset = 0 * offset", CHECKED),
    ("checker/maps.py", "self.product(x, np.abs(self.weight))", "self.product(x, self.weight)", CHECKED),
    (
        "checker/graph.py",
        "factor = max(abs(f) for f in (1.0, alpha, 1 / alpha, beta, 1 / beta))",
        "factor = 1.0",
        "tests/checker/test_bounds.py -k flush",
    ),
    (
        "onnx/executed/activations.py",
        "_same(matching, gate.inputs[0], x)",
        "True",
        "tests/onnx/test_executed_transformers.py -k another_operand",
    ),
    (
        "onnx/executed/activations.py",
        "_is(matching, one, 1.0)",
        "True",
        "tests/onnx/test_executed_transformers.py -k another_operand",
    ),
    (
        "onnx/executed/normalisation.py",
        "or not _same_epsilon(op, norm)",
        "",
        "tests/onnx/test_executed_transformers.py -k epsilon",
    ),
    (
        "onnx/executed/transposes.py",
        "tuple(first[axis] for axis in perm)",
        "tuple(perm[axis] for axis in first)",
        f"{RAN} -k follow_one_another",
    ),
    (
        "onnx/executed/transposes.py",
        "whole.transpose(np.argsort(perm))",
        "whole.transpose(perm)",
        "tests/onnx/test_executed.py -k transposes_move",
    ),
    (
        "onnx/executed/products.py",
        "if any(turned) and any((matching.file.rank(v) or 0) < 2 for v in (a, b)):",
        "if False:",
        "tests/onnx/test_executed.py -k refused_by_name",
    ),
    (
        "onnx/parity.py",
        "if difference is None and far:",
        "if False:",
        "tests/onnx/test_add_batch.py -k optimisation_changes",
    ),
    (
        "onnx/executed/parts.py",
        "keeps_axis = pair.view.plain and indices",
        "keeps_axis = indices",
        "tests/onnx/test_executed_transformers.py -k left_out",
    ),
    (
        "onnx/executed/normalisation.py",
        "if not _of_one_shape(matching.file, addends[:2]):",
        "if False:",
        "tests/onnx/test_executed_transformers.py -k broadcasts",
    ),
    (
        "onnx/executed/parts.py",
        "_same_axis(perm[axis % rank], bounds[0], rank)",
        "True",
        "tests/onnx/test_executed_transformers.py",
    ),
    (
        "commands/guarantee.py",
        "charged[of] = (max(charged[of][0], errors[name][0]), max(charged[of][1], errors[name][1]))",
        "pass",
        "tests/onnx/test_executed.py -k charged_by",
    ),
    (
        "onnx/kernel_runs.py",
        "reference(wide).numpy() + parts * error /",
        "reference(wide).numpy() + error /",
        "tests/onnx/test_kernels.py -k seen_by",
    ),
    ("onnx/passes/normalise.py", "test.inputs[0] == other", "True", "tests/onnx/test_nan_guard.py"),
    ("onnx/passes/add_batch.py", "if lift.computed(node.inputs[1]):", "if False:", "tests/onnx/test_add_batch.py"),
    (
        "onnx/passes/add_batch.py",
        "shape, name = (1,) * (1 + rank - self.rank(value)) + self.draft.shapes[value]",
        "shape, name = (1,) + self.draft.shapes[value] + (1,) * (rank - self.rank(value))",
        "tests/onnx/test_add_batch.py",
    ),
    (
        "onnx/passes/add_batch.py",
        "if vector and (lift.computed(b) or lift.rank(b) > 2):",
        "if False:",
        "tests/onnx/test_add_batch.py -k counted_among",
    ),
    (
        "onnx/passes/add_batch.py",
        "and not (listed is not None and listed.size):",
        "and False:",
        "tests/onnx/test_add_batch.py -k counted_among",
    ),
    ("checker/bounds.py", "UP * (alive * reach +", "UP * (alive / 2 * reach +", f"{CHECKED} -k hardly"),
    (
        "checker/bounds.py",
        "reach = (map_.size(p + n)[0] + step.size + np.abs(apart)) / 2",
        "reach = np.abs(apart)",
        f"{CHECKED} -k hardly",
    ),
    (
        "checker/bounds.py",
        "(map_.size(p + n)[0] + step.size + np.abs(apart))",
        "(map_.size(p + n)[0] + np.abs(apart))",
        f"{CHECKED} -k hardly",
    ),
    ("checker/bounds.py", "map_.count(x.size[None] > DEAD)", "map_.count(x.size[None] > 2)", f"{CHECKED} -k hardly"),
    ("checker/graph.py", "bias - s * mean", "bias + s * mean", CHECKED),
    ("checker/proof.py", ".all() or volume != 1:", ".all():", f"{REPLAYED} -k sibling"),
    ("checker/proof.py", "if not (apart + apart.T + np.eye(len(signs)) > 0).all() or", "if", f"{REPLAYED} -k leaf"),
    (
        "checker/proof.py",
        "((values >= 0) & (values <= high)).all()",
        "(values <= high).all()",
        f"{REPLAYED} -k negative",
    ),
    ("checker/proof.py", 'hexdigest() != entry["sha256"]:', 'hexdigest() == "":', f"{REPLAYED} -k swapped"),
    ("checker/proof.py", 'claims["model_sha256"] != graph.sha256', "False", f"{REPLAYED} -k weight"),
    ("commands/check_proof.py", "samples.eps[levels[-1]]", "samples.eps[levels[0]]", f"{REPLAYED} -k smaller"),
    ("cli/check_proof.py", "if unproved and not partial:", "if False:", f"{REPLAYED} -k without_a_proof"),
]

FAULTS = [*RULES, *ACCOUNT, *VERDICTS, *REPORTS, *TRAINING, *PROMISE, *IMPORTS, *EXECUTED, *KERNELS, *CHECKER]


def passes(copy: Path, tests: str) -> bool | None:
    """Whether pytest passes there; None where it ran too long. Raises SystemExit where it could not run."""
    child = multiprocessing.get_context("fork").Process(target=_pytest, args=(copy, tests))
    child.start()
    child.join(SECONDS)
    if child.is_alive():
        child.kill()
        return None
    # 2: a module that no longer imports is as dead as a failing test; a negative code is a crash.
    if child.exitcode not in (0, 1, 2) and (child.exitcode or 0) >= 0:
        raise SystemExit(f"pytest could not run {tests}: exit {child.exitcode}")
    return child.exitcode == 0


def _pytest(copy: Path, tests: str) -> None:
    """Run pytest in a child that shares what was imported so far: nothing of the project itself."""
    assert not any(name.split(".")[0] in ("pipeline", "tests") for name in sys.modules)
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        code = pytest.main(
            ["-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "-m", "not slow", *_arguments(tests)]
        )
    os._exit(int(code))


def _arguments(tests: str) -> list[str]:
    paths, _, chosen = tests.partition(" -k ")
    return [*paths.split(), *(["-k", chosen] if chosen else [])]


def mutated(copy: Path, fault: Fault) -> str:
    """What stands in the file of a fault, with the fault; SystemExit (2) where its text is not there exactly once."""
    name, old, new, _ = fault
    text = (copy / "pipeline" / name).read_text("utf-8")
    if text.count(old) != 1:
        print(f"{name}: {old!r} stands there {text.count(old)} times", file=sys.stderr)
        raise SystemExit(2)
    return text.replace(old, new)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="faults whose file or text contains this")
    parser.add_argument("--skip", type=int, default=0, help="leave the first so many out")
    parser.add_argument("--quick", action="store_true", help="do not run the tests on the copy as it is first")
    parser.add_argument("--list", action="store_true", help="check that every text is there, and run nothing")
    asked = parser.parse_args()
    chosen = [f for f in FAULTS if asked.only in f[0] or asked.only in f[1]][asked.skip :]
    survivors, killed, healthy = [], 0, {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, copy / name, ignore=ignore) if source.is_dir() else shutil.copy(source, copy / name)
        texts = [mutated(copy, fault) for fault in chosen]
        if asked.list:
            print(f"{len(texts)} faults")
            return 0
        for fault, text in zip(chosen, texts, strict=True):
            name, old, new, tests = fault
            started, path = time.monotonic(), copy / "pipeline" / name
            if tests not in healthy:
                healthy[tests] = asked.quick or passes(copy, tests)
            if not healthy[tests]:
                raise SystemExit(f"these tests must pass before they can kill anything: {tests}")
            honest = path.read_text("utf-8")
            path.write_text(text, "utf-8")
            alive = passes(copy, tests)
            path.write_text(honest, "utf-8")
            killed += not alive
            said = "SURVIVED" if alive else "killed" if alive is False else "killed (hangs)"
            print(
                f"{said} in {time.monotonic() - started:.0f} s  {name}: {old.strip()[:70]!r} -> {new.strip()[:70]!r}",
                flush=True,
            )
            if alive:
                survivors.append(fault)
    print(f"{killed} of {len(chosen)} seeded faults killed")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
