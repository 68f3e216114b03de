"""Pixels in, probabilities or a class out: what stands in an ONNX file before and after its network.

What is said here in torch is written into the file with operators of its own, so that comparing both is a test of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdsearch.errors import StudyError
from kdsearch.kinds import Ends, Field, Graph, named

Input = Literal["prepared", "pixels", "any_size"]
Layout = Literal["hwc", "chw"]
Output = Literal["raw", "probabilities", "class"]
PATH = "export.exporter.options"
EVEN = 40.0  # logits of a class that is chosen, the others 0: as sure as float32 can say


@dataclass(frozen=True)
class Asked:
    """What the exporter's options ask for."""

    input: Input
    layout: Layout
    output: Output

    @property
    def is_plain(self) -> bool:
        return self.input == "prepared" and self.output == "raw"


def ends_of(asked: Asked, graph: Graph, told: Mapping[str, Any]) -> Ends | None:
    """Raise StudyError where the graph does not read one image that the data know how to prepare, or answers no classes."""
    if asked.is_plain:
        return None
    affine = _affine(asked, graph, told)
    inputs, outputs = graph.inputs, graph.outputs
    if asked.input != "prepared":
        inputs = (_pixels(asked, graph.inputs[0]),)
    if asked.output != "raw":
        outputs = (_answer(asked, graph),)
    whole = Graph(_Whole(graph, asked, affine), inputs, outputs)

    def raw(*prepared: Tensor) -> tuple[Tensor, ...]:
        if asked.input == "prepared":
            return prepared
        (x,) = prepared
        factor, shift = (each.view(-1, 1, 1) for each in affine)
        pixels = ((x.detach().cpu() - shift) / factor).round().clamp(0, 255).to(torch.uint8)
        return (pixels.movedim(1, -1).contiguous() if asked.layout == "hwc" else pixels,)

    def own(answers: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        if asked.output == "raw":
            return answers
        (logits,) = graph.outputs
        found = answers[outputs[0].name]
        if asked.output == "probabilities":
            return {logits.name: found.clamp_min(torch.finfo(found.dtype).tiny).log()}
        classes = logits.sizes[logits.class_axis - 1]
        return {logits.name: EVEN * F.one_hot(found, classes).movedim(-1, logits.class_axis).float()}

    about = {name: value for name, value in vars(asked).items() if name != "layout" or asked.input != "prepared"}
    return Ends(whole, raw, own, about)


def _affine(asked: Asked, graph: Graph, told: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """(C,) factor and shift by which a value of 0..255 becomes what the network reads."""
    if asked.input == "prepared":
        return torch.ones(1), torch.zeros(1)
    is_image = len(graph.inputs) == 1 and graph.inputs[0].kind == "image" and len(graph.inputs[0].shape) == 3
    if not is_image or None in graph.inputs[0].shape:
        kinds = ", ".join(f"{each.name} ({each.kind})" for each in graph.inputs)
        raise StudyError(f"the network reads {kinds}", path=f"{PATH}.input", expected="one image of a fixed size")
    if not told.get("mean") or not told.get("std"):
        raise StudyError(
            "nobody knows how images become what the network reads",
            path=f"{PATH}.input",
            expected="data whose preprocessing has mean and std",
        )
    (low, high), scale = told["range"], float(told["scale"])
    mean, std = (torch.tensor(told[name], dtype=torch.float64) for name in ("mean", "std"))
    return ((high - low) / 255 / scale / std).float(), ((low / scale - mean) / std).float()


def _pixels(asked: Asked, image: Field) -> Field:
    c, *size = image.sizes
    sides = (None, None) if asked.input == "any_size" else tuple(size)
    shape = (*sides, c) if asked.layout == "hwc" else (c, *sides)
    return Field(image.name, "pixels", shape, "uint8", n_values=256, open_size=max(size))


def _answer(asked: Asked, graph: Graph) -> Field:
    if len(graph.outputs) != 1 or graph.outputs[0].kind != "logits":
        kinds = ", ".join(f"{each.name} ({each.kind})" for each in graph.outputs)
        raise StudyError(f"the network answers {kinds}", path=f"{PATH}.output", expected="logits alone")
    logits = graph.outputs[0]
    if asked.output == "probabilities":
        return replace(logits, name="probabilities")
    at = logits.class_axis - 1
    return Field("class", "class", logits.shape[:at] + logits.shape[at + 1 :], "int64", mask=logits.mask)


class _Whole(nn.Module):
    """Pixels -> what the network reads -> its answers -> what is asked for."""

    def __init__(self, graph: Graph, asked: Asked, affine: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        self.module, self.asked, self.graph = graph.module, asked, replace(graph, module=nn.Identity())
        self.names = [each.name for each in graph.outputs]
        self.size = graph.inputs[0].sizes[1:]
        self.axis = graph.outputs[0].class_axis if graph.outputs[0].kind == "logits" else 0
        self.register_buffer("factor", affine[0].view(-1, 1, 1))
        self.register_buffer("shift", affine[1].view(-1, 1, 1))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self.asked.input != "prepared":
            x = inputs[0].to(self.factor.dtype)  # type: ignore[arg-type]
            x = x.movedim(-1, 1) if self.asked.layout == "hwc" else x
            x = fitted(x, self.size) if self.asked.input == "any_size" else x
            inputs = (x * self.factor + self.shift,)  # type: ignore[operator]
        answers = tuple(named(self.module(*inputs), self.names).values())
        if self.asked.output == "probabilities":
            return (answers[0].softmax(self.axis),)
        return (answers[0].argmax(self.axis),) if self.asked.output == "class" else answers


def fitted(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, H, W) with the shorter side made that of `size` (h, w), bilinear and antialiased, and the middle cut out."""
    (h, w), (rows, columns) = size, x.shape[-2:]
    by = max(np.float32(h) / np.float32(rows), np.float32(w) / np.float32(columns))
    whole = [max(side, int(np.rint(np.float32(n) * by))) for side, n in ((h, rows), (w, columns))]
    if (rows, columns) == (h, w):
        return x
    x = F.interpolate(x, whole, mode="bilinear", antialias=True, align_corners=False)
    top, left = (whole[0] - h) // 2, (whole[1] - w) // 2
    return x[..., top : top + h, left : left + w]


def attach(model: Any, asked: Asked, ends: Ends) -> None:
    """Write the ends into the model of the network alone, in place."""
    from onnx import helper, numpy_helper

    whole = ends.graph.module
    assert isinstance(whole, _Whole)
    graph = whole.graph
    body, nodes, constants = model.graph, list[Any](), dict[str, Any]()
    if asked.input != "prepared":
        name, inside = graph.inputs[0].name, f"{graph.inputs[0].name}.prepared"
        for node in body.node:
            node.input[:] = [inside if each == name else each for each in node.input]
        nodes = _before(name, inside, asked, graph.inputs[0].sizes, whole, constants)
        _declare(body.input, [_typed(ends.graph.inputs[0], name)])
    copies = [type(node).FromString(node.SerializeToString()) for node in body.node]
    if asked.output != "raw":
        (logits,) = graph.outputs
        name, last = ends.graph.outputs[0].name, graph.names_out[0]
        if asked.output == "probabilities":
            copies.append(helper.make_node("Softmax", [last], [name], "answer.Softmax", axis=logits.class_axis))
        else:
            copies.append(
                helper.make_node("ArgMax", [last], [name], "answer.ArgMax", axis=logits.class_axis, keepdims=0)
            )
        _declare(body.output, [_typed(ends.graph.outputs[0], name)])
    del body.node[:]
    body.node.extend([*nodes, *copies])
    body.initializer.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items())


def _declare(kept: Any, values: list[Any]) -> None:
    del kept[:]
    kept.extend(values)


def _typed(field: Field, name: str) -> Any:
    from onnx import helper

    element = helper.np_dtype_to_tensor_dtype(np.dtype(field.dtype))
    sides = [f"{field.name}_{at}" if size is None else size for at, size in enumerate(field.shape, 1)]
    return helper.make_tensor_value_info(name, element, ["batch", *sides])


def _before(
    name: str, inside: str, asked: Asked, sizes: Sequence[int], whole: Any, constants: dict[str, Any]
) -> list[Any]:
    """Nodes from pixels to what the network reads."""
    from onnx import TensorProto, helper

    nodes = list[Any]()

    def add(kind: str, inputs: Sequence[str], out: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, list(inputs), [out], f"pixels.{len(nodes)}.{kind}", **attributes))
        return out

    def number(value: Any, dtype: Any = np.float32) -> str:
        key = f"pixels.constant.{len(constants)}"
        constants[key] = np.asarray(value, dtype)
        return key

    x = add("Cast", [name], "pixels.float", to=TensorProto.FLOAT)
    if asked.layout == "hwc":
        x = add("Transpose", [x], "pixels.chw", perm=[0, 3, 1, 2])
    if asked.input == "any_size":
        x = _fit(x, sizes[1:], add, number)
    factor, shift = (getattr(whole, key).numpy() for key in ("factor", "shift"))
    x = add("Mul", [x, number(factor)], "pixels.scaled")
    add("Add", [x, number(shift)], inside)
    return nodes


def _fit(x: str, size: Sequence[int], add: Any, number: Any) -> str:
    """As `fitted`, by a product with a matrix of weights for each axis, whose rows are the middle of the resized side.

    onnxruntime's Resize with antialias is up to 12 levels of 255 off (50 to 32 pixels, 1.2x).
    """
    from onnx import TensorProto

    shape = add("Shape", [x], "fit.shape", start=2, end=4)
    sides = add("Cast", [shape], "fit.sides", to=TensorProto.FLOAT)  # (2,) H, W
    target = number(size)
    by = add("ReduceMax", [add("Div", [target, sides], "fit.ratios")], "fit.by", keepdims=1)
    rounded = add("Round", [add("Mul", [sides, by], "fit.scaled")], "fit.rounded")
    new = add("Max", [rounded, target], "fit.new")
    room = add("Sub", [new, target], "fit.room")
    offset = add("Floor", [add("Mul", [room, number(0.5)], "fit.half")], "fit.offset")
    step = add("Div", [sides, new], "fit.step")  # pixels that one of the result stands for
    wide = add("Max", [step, number(1.0)], "fit.wide")
    matrices = []
    for at, side in enumerate(size):
        own = {}
        for key, value in (("offset", offset), ("step", step), ("wide", wide), ("side", sides)):
            own[key] = add("Gather", [value, number(at, np.int64)], f"fit.{at}.{key}", axis=0)
        place = add("Add", [number(np.arange(side)[:, None] + 0.5), own["offset"]], f"fit.{at}.place")
        centre = add("Mul", [place, own["step"]], f"fit.{at}.centre")  # (side, 1)
        pixels = add("Range", [number(0.5), own["side"], number(1.0)], f"fit.{at}.pixels")  # 0.5 .. H - 0.5
        far = add("Abs", [add("Sub", [pixels, centre], f"fit.{at}.gap")], f"fit.{at}.far")
        weight = add("Sub", [number(1.0), add("Div", [far, own["wide"]], f"fit.{at}.share")], f"fit.{at}.tent")
        weight = add("Relu", [weight], f"fit.{at}.weight")  # (side, H)
        total = add("ReduceSum", [weight, number([1], np.int64)], f"fit.{at}.total", keepdims=1)
        matrices.append(add("Div", [weight, total], f"fit.{at}.matrix"))
    rows = add("MatMul", [matrices[0], x], "fit.rows")
    across = add("Transpose", [matrices[1]], "fit.across", perm=[1, 0])
    return str(add("MatMul", [rows, across], "fit.columns"))
