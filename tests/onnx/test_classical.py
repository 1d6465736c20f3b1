"""Files as scikit-learn exports them: several outputs, operators of ai.onnx.ml, one of them chosen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from pipeline.errors import InputRejected
from pipeline.onnx import executed
from pipeline.rules import unsupported
from tests.onnx.bare import bounded, imported, truth
from tests.onnx.files import load, node, saved, weights

ML = "ai.onnx.ml"


def exported(
    before: list[onnx.NodeProto], *, scores: str = "y", label: bool = True, imports: tuple = (("", 17), (ML, 3))
) -> onnx.ModelProto:
    """A network from ``h`` to ``y``, what comes before it, and beside it the label of the largest score."""
    nodes = [*before, node("MatMul", ["h", "w"], ["m"]), node("Add", ["m", "b"], [scores])]
    outputs = [helper.make_tensor_value_info(scores, TensorProto.FLOAT, [None, 3])]
    if label:
        nodes += [
            node("ArgMax", [scores], ["i"], axis=1, keepdims=0),
            node("ArrayFeatureExtractor", ["classes", "i"], ["l"], domain=ML),
            node("Reshape", ["l", "flat"], ["label"]),
        ]
        outputs.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, [None]))
    tensors = {"w": weights(4, 3), "b": weights(3, seed=1), "classes": np.array([[7, 8, 9]]), "flat": np.array([-1])}
    graph = helper.make_graph(
        nodes,
        "exported",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 4])],
        outputs,
        [numpy_helper.from_array(a, n) for n, a in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*i) for i in imports], ir_version=8)


SCALER = node("Scaler", ["x"], ["h"], domain=ML, offset=[0.5, -1.0, 0.0, 2.0], scale=[2.0, -0.5, 1.0, 3.0])
BEFORE = {
    "nothing": [node("Identity", ["x"], ["h"])],
    "Scaler": [SCALER],
    "Scaler by one number": [node("Scaler", ["x"], ["h"], domain=ML, offset=[0.5], scale=[-3.0])],
    "Normalizer L1": [node("Normalizer", ["x"], ["h"], domain=ML, norm="L1")],
    "Normalizer L2": [node("Normalizer", ["x"], ["h"], domain=ML, norm="L2")],
    "Normalizer MAX": [node("Normalizer", ["x"], ["h"], domain=ML, norm="MAX")],
}


@pytest.mark.parametrize("name", BEFORE)
def test_the_one_output_of_scores_is_found_and_computed(name: str, tmp_path: Path) -> None:
    proto = exported(BEFORE[name])
    x = np.abs(weights(5, 4)) + np.float32(0.5)
    imported_file = load(saved(tmp_path, proto))
    assert [p.name for p in imported_file.network.outputs] == ["y"]
    assert any("'y' was taken" in note for note in imported_file.notes)
    assert unsupported(imported_file.network) == ()
    assert np.allclose(
        imported_file.network(torch.from_numpy(x)).detach().numpy(), truth(proto, x), rtol=1e-5, atol=1e-6
    )
    bounded(exported(BEFORE[name], label=False), x, 0.02, refused="Normalizer" if "Norm" in name else "")


def with_map(**classes: list) -> onnx.ModelProto:
    """scikit-learn's default export: beside the label a map from class to number for each sample, made of the array ``y``."""
    proto = exported(BEFORE["Scaler"])
    proto.graph.node.append(node("ZipMap", ["y"], ["map"], domain=ML, **classes))
    key = TensorProto.STRING if "classlabels_strings" in classes else TensorProto.INT64
    number = helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    pairs = helper.make_sequence_type_proto(helper.make_map_type_proto(key, number))
    proto.graph.output[1].CopyFrom(helper.make_value_info("map", pairs))
    return proto


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({"classlabels_int64s": [-3, 7, 12]}, "'-3', '7', '12'"),
        ({"classlabels_strings": ["B", "a", "é"]}, r"'B', 'a', '\xe9'"),
    ],
)
def test_a_map_from_class_to_number_is_the_array_that_it_is_made_of(classes: dict, said: str, tmp_path: Path) -> None:
    proto, x = with_map(**classes), weights(5, 4)
    file = load(saved(tmp_path, proto))
    (port,) = file.network.outputs
    assert (port.name, port.shape) == ("map", (None, 3))
    assert any(f"labels 0 to 2 are classes {said}" in note for note in file.notes)
    assert any("'map' was taken" in note and "not 'label'" in note for note in file.notes)
    expected = truth(exported(BEFORE["Scaler"]), x)
    assert np.array_equal(file.session(x, outputs=["map"])[0], expected)
    assert np.array_equal(file.session.batched(x, output="map", chunk=2), expected)
    assert np.allclose(file.network(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    assert executed.unaccounted(proto, executed.optimised(file.file, provider="cpu", level="all"), ["map"]) is None


@pytest.mark.parametrize("classes", [[0, 2, 1], [0, 1, 1]])
def test_a_map_in_another_order_than_its_array_is_refused(classes: list[int], tmp_path: Path) -> None:
    """A map is read in the order of its classes: column 1 of the array would be taken for column 2."""
    with pytest.raises(InputRejected, match=r"ZipMap .*not in ascending order"):
        load(saved(tmp_path, with_map(classlabels_int64s=classes)))


@pytest.mark.parametrize("transform", ["NONE", "SOFTMAX", "LOGISTIC"])
def test_a_linear_classifier_is_its_scores(transform: str) -> None:
    proto = exported([SCALER], label=False)
    del proto.graph.node[1:]
    proto.graph.node.append(
        node(
            "LinearClassifier",
            ["h"],
            ["label", "y"],
            domain=ML,
            coefficients=weights(12, seed=3).tolist(),
            intercepts=[0.1, -0.2, 0.3],
            classlabels_ints=[0, 1, 2],
            post_transform=transform,
        )
    )
    x = weights(5, 4)
    assert np.allclose(imported(proto)(torch.from_numpy(x)).numpy(), truth(proto, x), rtol=1e-5, atol=1e-6)
    proto.graph.output.insert(0, helper.make_tensor_value_info("label", TensorProto.INT64, [None]))
    from pipeline.onnx.conversion import convert
    from pipeline.onnx.passes.normalise import normalise

    with pytest.raises(InputRejected, match=r"LinearClassifier .*labels are read"):
        convert(normalise(proto, output="label"), proto, "label")


def test_one_row_of_coefficients_for_two_classes_is_refused_by_name() -> None:
    proto = exported([SCALER], label=False)
    del proto.graph.node[1:]
    classifier = node(
        "LinearClassifier",
        ["h"],
        ["l", "y"],
        domain=ML,
        coefficients=[1.0] * 4,
        intercepts=[0.5],
        classlabels_ints=[0, 1],
    )
    proto.graph.node.append(classifier)
    proto.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    with pytest.raises(InputRejected, match=r"LinearClassifier .*one row of coefficients"):
        imported(proto)


@pytest.mark.parametrize(
    ("operator", "message"),
    [("TreeEnsembleClassifier", "Decision trees"), ("SVMClassifier", "custom operators")],
)
def test_other_operators_are_refused_by_name_where_the_output_needs_them(
    operator: str, message: str, tmp_path: Path
) -> None:
    settings = {"coefficients": [1.0], "kernel_type": "LINEAR"} if operator == "SVMClassifier" else {}
    proto = exported([node(operator, ["x"], ["l", "h"], domain=ML, **settings)], label=False)
    with pytest.raises(InputRejected, match=rf"(?s){operator} of ai.onnx.ml.*{message}"):
        load(saved(tmp_path, proto))


def test_the_other_output_is_refused_with_the_advice_that_helps(tmp_path: Path) -> None:
    path = saved(tmp_path, exported(BEFORE["Scaler"]))
    with pytest.raises(InputRejected, match=r"ArrayFeatureExtractor of ai.onnx.ml .*--output, one of 'label', 'y'"):
        load(path, output="label")
    assert load(path, output="y").parity.holds


@pytest.mark.parametrize("again", [("", 17), ("ai.onnx", 17)])
def test_the_same_opset_stated_twice_is_one(again: tuple, tmp_path: Path) -> None:
    proto = exported(BEFORE["nothing"], imports=(("", 17), again, (ML, 3)))
    try:
        onnxruntime.InferenceSession(proto.SerializeToString())
    except Exception as error:
        pytest.skip(f"this runtime does not load it: {error}")
    assert load(saved(tmp_path, proto)).parity.holds


def test_two_opsets_are_refused(tmp_path: Path) -> None:
    proto = exported(BEFORE["nothing"], imports=(("", 17), ("", 13), (ML, 3)))
    with pytest.raises(InputRejected, match=r"\[13, 17\]"):
        load(saved(tmp_path, proto))


def test_control_flow_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    proto = exported(BEFORE["nothing"])
    branch = helper.make_graph([node("Identity", ["i"], ["z"])], "branch", [], [onnx.ValueInfoProto(name="z")])
    proto.graph.node.append(node("If", ["c"], ["j"], then_branch=branch, else_branch=branch))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "c"))
    proto.graph.output[0].name = "j"
    with pytest.raises(InputRejected, match="Control flow"):
        load(saved(tmp_path, proto), output="y")
