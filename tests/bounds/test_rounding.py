"""What float32 does and bounds must admit: the counterexamples of reference, and executions in adversarial orders."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from pipeline.bounds.float32_sites import self_test
from pipeline.bounds.ibp import IntervalWalk
from pipeline.bounds.margins import MarginBounds
from pipeline.core.floating_point import gamma
from pipeline.core.interval import Interval
from pipeline.core.outward import Outward
from pipeline.core.rounding import EXACT
from pipeline.core.threat import LinfBall
from pipeline.errors import EnvironmentFailure, InputRejected
from pipeline.rules import rule_for
from tests import nets

REAL, FLOAT32 = Outward(deployed=False), Outward(deployed=True)


def absorbing_network(k: int = 512):
    """CE1: ``z = relu(2^24 + sum (1.8/k) x_i)``, ``y0 = z - 2^24``, ``y1 = 1``; really y0 is about 1.8, class 0."""
    d = nets.Drawing(0)
    first, last = nn.Linear(k, 1), nn.Linear(1, 2)
    network = d.finish(d(last, d(nn.ReLU(), d(first, d.input(k)))), shapes=((None, 2),))
    with torch.no_grad():
        first.weight.fill_(1.8 / k)
        first.bias.fill_(2.0**24)
        last.weight.copy_(torch.tensor([[1.0], [0.0]]))
        last.bias.copy_(torch.tensor([-(2.0**24), 1.0]))
    return network


def onnx_of_absorbing(k: int = 512) -> bytes:
    n = absorbing_network(k)
    first, last = (m for m in n.graph.modules() if isinstance(m, nn.Linear))
    weights = {
        "w0": first.weight,
        "b0": first.bias,
        "w1": last.weight,
        "b1": last.bias,
    }
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w0", "b0"], ["h"], transB=1),
            helper.make_node("Relu", ["h"], ["z"]),
            helper.make_node("Gemm", ["z", "w1", "b1"], ["y"], transB=1),
        ],
        "ce1",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [numpy_helper.from_array(w.detach().numpy(), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_ce1_a_correct_real_certificate_is_wrong_of_the_deployed_file():
    network = absorbing_network().in_float64()
    x = torch.ones(1, 512, dtype=torch.float64)
    box = LinfBall(Fraction("0.05")).box(x)
    label = torch.tensor([0])
    assert float(MarginBounds(network, EXACT).least(box, label)) > 0
    assert float(MarginBounds(network, REAL).least(box, label)) > 0
    assert float(MarginBounds(network, FLOAT32).least(box, label)) < 0
    session = onnxruntime.InferenceSession(onnx_of_absorbing(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"x": np.ones((1, 512), np.float32)})
    if logits[0].argmax() == 0:
        pytest.skip("this build of ONNX Runtime sums in an order that does not absorb the small terms")
    assert logits[0].argmax() == 1  # the deployed file errs, as float32-any-order said it may


def test_ce2_three_terms_that_cancel():
    op = nn.Linear(3, 1, bias=False).double()
    with torch.no_grad():
        op.weight.copy_(torch.tensor([[2.0**24, 1.0, -(2.0**24)]]))
    point = Interval(torch.ones(1, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64))
    naive = op.float()(torch.ones(1, 3))
    op.double()
    real = rule_for(op).interval(op, point, rounding=REAL)
    deployed = rule_for(op).interval(op, point, rounding=FLOAT32)
    assert float(real.lower) <= 1 <= float(real.upper)
    for absorbed in (0.0, 1.0, 2.0, float(naive)):
        assert float(deployed.lower) <= absorbed <= float(deployed.upper)
    assert float(real.upper - real.lower) < 1e-6


@pytest.mark.parametrize("k", [2, 16, 64, 256, 1024])
def test_ce3_a_plain_random_gemm_leaves_naive_bounds_and_not_ours(k):
    generator = torch.Generator().manual_seed(k)
    w, b = torch.randn(40, k, generator=generator), torch.randn(40, generator=generator)
    x = torch.randn(64, k, generator=generator)
    op = nn.Linear(k, 40)
    with torch.no_grad():
        op.weight.copy_(w)
        op.bias.copy_(b)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1)],
        "ce3",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", k])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 40])],
        [numpy_helper.from_array(w.numpy(), "w"), numpy_helper.from_array(b.numpy(), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    outside = 0
    for level in (
        onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
    ):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = level
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        for batch in (1, 64):
            got = np.concatenate([session.run(None, {"x": x[i : i + batch].numpy()})[0] for i in range(0, 64, batch)])
            y = torch.from_numpy(got).double()
            op.double()
            point = Interval(x.double(), torch.zeros_like(x).double())
            ours = rule_for(op).interval(op, point, rounding=FLOAT32)
            assert bool(((y >= ours.lower) & (y <= ours.upper)).all())
            exact = rule_for(op).interval(op, point, rounding=REAL)
            outside += int(((y < exact.lower) | (y > exact.upper)).sum())
    assert outside > 0, "float32 never left the real bounds: the test would not notice a missing float32 error"


def in_order(w: np.ndarray, b: np.float32, x: np.ndarray, order: np.ndarray, bias_first: bool) -> np.float32:
    """One float32 execution: running sum in the given order, the bias at either end."""
    total = b if bias_first else np.float32(0)
    for i in order:
        total = np.float32(total + np.float32(w[i] * x[i]))
    return total if bias_first else np.float32(total + b)


@pytest.mark.parametrize("scale", [1.0, 2.0**60, 2.0**-60, 2.0**-130])
def test_any_order_of_a_hard_row_stays_inside(scale):
    """Sums of same-sign terms that all round one way reach a large share of the bound; random nets never do."""
    k = 300
    generator = np.random.default_rng(0)
    rows = [
        np.full(k, 1 / 3),
        1 + generator.random(k) * 2.0**-20,
        generator.standard_normal(k) * 10.0 ** generator.integers(-6, 6, k),
        np.where(np.arange(k) % 2, 1.0, -1.0) * (1 + generator.random(k)),
    ]
    used = 0.0
    for row in rows:
        w, b = (row * scale).astype(np.float32), np.float32(0.7 * scale)
        x = (generator.random(k) + 0.5).astype(np.float32)
        op = nn.Linear(k, 1).double()
        with torch.no_grad():
            op.weight.copy_(torch.from_numpy(w)[None])
            op.bias.copy_(torch.tensor([float(b)]))
        center = torch.from_numpy(x)[None].double()
        box = rule_for(op).interval(op, Interval(center, torch.zeros_like(center)), rounding=FLOAT32)
        products = w * x
        orders = [np.arange(k), np.argsort(products), np.argsort(-np.abs(products)), np.argsort(np.abs(products))]
        orders += [generator.permutation(k) for _ in range(4)]
        for order in orders:
            for bias_first in (True, False):
                y = float(in_order(w, b, x, order, bias_first))
                assert float(box.lower) <= y <= float(box.upper)
                used = max(used, abs(y - float(box.center)) / float(box.radius))
    # Near the smallest normal number the allowance for flushing to zero dwarfs what IEEE arithmetic does.
    assert used > 0.003 or scale < 2.0**-126, f"only {used:.1e} of the bound was used: too easy a test"


def test_exact_rational_values_lie_inside_the_real_bounds():
    """6-17-5 nets in exact arithmetic: real bounds contain what float64 alone would miss."""
    missed = 0
    for seed in range(12):
        network = nets.mlp(6, 17, 5, seed=seed).in_float64()
        x = torch.rand(1, 6, generator=torch.Generator().manual_seed(seed)).double()
        point = Interval(x, torch.zeros_like(x))
        layers = [m for m in network.graph.modules() if isinstance(m, nn.Linear)]
        value = [Fraction(v) for v in x[0].tolist()]
        for i, layer in enumerate(layers):
            rows, biases = layer.weight.tolist(), layer.bias.tolist()
            value = [
                sum(Fraction(a) * v for a, v in zip(r, value, strict=True)) + Fraction(b)
                for r, b in zip(rows, biases, strict=True)
            ]
            value = [max(v, Fraction(0)) for v in value] if i == 0 else value
        sound = IntervalWalk(network, REAL).boxes([point])[-1]
        naive = IntervalWalk(network, EXACT).boxes([point])[-1]
        for j, exact in enumerate(value):
            center, radius = Fraction(float(sound.center[0, j])), Fraction(float(sound.radius[0, j]))
            assert center - radius <= exact <= center + radius
            missed += Fraction(float(naive.center[0, j])) != exact
    assert missed > 0, "float64 never rounded: the test would not notice missing outward rounding"


def test_gamma_is_an_upper_bound_and_refuses_long_sums():
    u = Fraction(1, 2**24)
    for n in (1, 2, 300, 10**5, 2**20):
        assert Fraction(gamma(n, 2.0**-24)) >= n * u / (1 - n * u)
    with pytest.raises(InputRejected, match="real"):
        gamma(2**22, 2.0**-24)


def test_the_clipped_box_contains_its_ends_and_keeps_tiny_radii():
    x = torch.tensor([[0.0, 1.0, 0.3, 0.5]], dtype=torch.float64)
    for eps in ("8/255", "0.1", "1/100000000000000000000"):
        ball = LinfBall(Fraction(eps))
        box = ball.box(x)
        for value, c, r in zip(x[0].tolist(), box.center[0].tolist(), box.radius[0].tolist(), strict=True):
            low, high = max(Fraction(value) - ball.eps, Fraction(0)), min(Fraction(value) + ball.eps, Fraction(1))
            assert Fraction(c) - Fraction(r) <= low
            assert Fraction(c) + Fraction(r) >= high
            assert Fraction(r) <= (high - low) / 2 + Fraction(1, 10**14)


def test_this_machine_passes_the_self_test():
    self_test()


def test_a_product_that_is_no_sum_in_some_order_fails_the_self_test(monkeypatch):
    """As an emulation with fewer bits would, or a convolution by transforms."""
    product, convolution = torch.Tensor.__matmul__, nn.functional.conv2d
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: product(a.float(), b.float()).double())
    with pytest.raises(EnvironmentFailure, match="matrix product"):
        self_test()
    monkeypatch.undo()
    monkeypatch.setattr(nn.functional, "conv2d", by_transforms(convolution))
    with pytest.raises(EnvironmentFailure, match="convolution"):
        self_test()


def by_transforms(convolution):
    """The convolution by FFT: small terms take on the error of the large ones beside them."""

    def apply(x, w, padding):
        size = [n + 2 for n in x.shape[2:]]
        x = nn.functional.pad(x, (padding,) * 4)
        spectrum = torch.einsum("bihw,oihw->bohw", torch.fft.fft2(x), torch.fft.fft2(w, size).conj())
        return torch.fft.ifft2(spectrum).real[..., : size[0] - 2, : size[1] - 2]

    x, w = torch.randn(1, 2, 9, 9).double(), torch.randn(3, 2, 3, 3).double()
    assert torch.allclose(apply(x, w, 1), convolution(x, w, padding=1))
    return apply


@pytest.mark.parametrize("name", ["CUBLAS_EMULATE_DOUBLE_PRECISION", "NVIDIA_TF32_OVERRIDE"])
def test_emulation_is_refused_on_a_gpu(name, monkeypatch):
    monkeypatch.setenv(name, "1")
    self_test()
    with pytest.raises(EnvironmentFailure, match=name):
        self_test("cuda")


def test_denormals_switched_off_by_a_session_in_this_process_are_noticed():
    """ONNX Runtime may change the mode of the thread that calls it: in a process of its own."""
    program = """
import numpy as np, onnxruntime as ort, torch
from onnx import TensorProto, helper
from pipeline.errors import EnvironmentFailure
from pipeline.bounds.float32_sites import self_test
ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [2]) for n in "xy"]
model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:]))
model.ir_version, model.opset_import[0].version = 8, 17
self_test()
options = ort.SessionOptions()
options.add_session_config_entry("session.set_denormal_as_zero", "1")
options.intra_op_num_threads = 1
session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
session.run(None, {"x": np.ones(2, np.float32)})
flushed = float(torch.tensor([2.0**-1060], dtype=torch.float64) * 0.5) == 0.0
try:
    self_test()
    assert not flushed
except EnvironmentFailure:
    assert flushed
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
