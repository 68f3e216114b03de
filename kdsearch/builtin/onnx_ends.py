"""Pixels in, probabilities, a class or boxes out: what stands in an ONNX file before and after its network.

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

from kdsearch.builtin import onnx_boxes
from kdsearch.builtin.onnx_boxes import Suppression
from kdsearch.builtin.onnx_nodes import Added, free_prefix
from kdsearch.errors import StudyError
from kdsearch.kinds import Ends, Field, Graph, named
from kdsearch.kit.onnx import edited, raise_opset

Input = Literal["prepared", "pixels", "any_size"]
Layout = Literal["hwc", "chw"]
Output = Literal["raw", "probabilities", "class", "boxes"]
PATH = "export.exporter.options"
EVEN = 40.0  # logits of a class that is chosen, the others 0: as sure as float32 can say


@dataclass(frozen=True)
class Asked:
    """What the exporter's options ask for."""

    input: Input
    layout: Layout
    output: Output
    suppression: Suppression

    @property
    def is_plain(self) -> bool:
        return self.input == "prepared" and self.output == "raw"

    @property
    def opset(self) -> int:
        """The first one that has what is written: of any size a Shape of some axes."""
        least = onnx_boxes.OPSET if self.output == "boxes" else 1
        return 15 if self.input == "any_size" else least

    @property
    def about(self) -> dict[str, Any]:
        """For who feeds and reads the file."""
        found: dict[str, Any] = {"input": self.input}
        if self.input != "prepared":
            found["layout"] = self.layout
        return {**found, "output": self.output, **(self.suppression.about if self.output == "boxes" else {})}


def ends_of(asked: Asked, graph: Graph, told: Mapping[str, Any]) -> Ends | None:
    """Raise StudyError where the graph does not read one image that the data know how to prepare, or answers no classes."""
    if asked.is_plain:
        return None
    if asked.output == "boxes" and asked.input == "any_size":
        raise StudyError(
            "boxes would be of the middle that is cut out, not of the image",
            path=f"{PATH}.input",
            expected="prepared or pixels",
        )
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

    return Ends(whole, raw, None if asked.output == "boxes" else own, asked.about)


def _affine(asked: Asked, graph: Graph, told: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """(C,) factor and shift by which a value of 0..255 becomes what the network reads."""
    if asked.input == "prepared":
        return torch.ones(1), torch.zeros(1)
    image = graph.inputs[0]
    is_image = len(graph.inputs) == 1 and image.kind == "image" and len(image.shape) == 3
    if not is_image or None in image.shape:
        kinds = ", ".join(f"{each.name} ({each.kind})" for each in graph.inputs)
        raise StudyError(f"the network reads {kinds}", path=f"{PATH}.input", expected="one image of a fixed size")
    if image.dtype != "float32" or told.get("channels", image.shape[0]) != image.shape[0]:
        raise StudyError(
            f"the network reads {image.name} ({image.dtype} {'x'.join(map(str, image.shape))})",
            path=f"{PATH}.input",
            expected="float32 CxHxW",
        )
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
    if asked.output == "boxes":
        return onnx_boxes.answer(graph, asked.suppression)
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
        if self.asked.output == "boxes":
            return (onnx_boxes.detections(answers, self.graph, self.asked.suppression),)
        if self.asked.output == "probabilities":
            return (answers[0].softmax(self.axis),)
        return (answers[0].argmax(self.axis),) if self.asked.output == "class" else answers


def fitted(x: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, H, W) with the shorter side made that of `size` (h, w), bilinear and antialiased, and the middle cut out.

    Sides are cut to whole pixels and the middle is rounded to even as torchvision does, which prepares the training's images.
    """
    (h, w), (rows, columns) = size, x.shape[-2:]
    if (rows, columns) == (h, w):
        return x
    whole = [max(h, w * rows // columns), max(w, h * columns // rows)]
    x = F.interpolate(x, whole, mode="bilinear", antialias=True, align_corners=False)
    top, left = round((whole[0] - h) / 2), round((whole[1] - w) / 2)
    return x[..., top : top + h, left : left + w]


def attach(model: Any, asked: Asked, ends: Ends) -> None:
    """Write the ends into the model of the network alone, in place. Raise RefusedError where its operator set cannot be raised."""
    from onnx import numpy_helper

    whole = ends.graph.module
    assert isinstance(whole, _Whole)
    raise_opset(model, asked.opset)
    graph, added = whole.graph, Added(free_prefix(model.graph))
    was_in, now_out, last = graph.inputs[0].name, ends.graph.outputs[0].name, graph.names_out
    renamed = {was_in: added.name("prepared")} if asked.input != "prepared" else {}
    renamed |= {now_out: added.name("network")} if asked.output != "raw" else {}  # whatever of the network is called so
    _rename(model, renamed)
    body = model.graph
    if asked.input != "prepared":
        _before(added, was_in, renamed[was_in], asked, graph.inputs[0].sizes, whole)
        _declare(body.input, [_typed(ends.graph.inputs[0], was_in)])
    before = len(added.nodes)
    copies = [type(node).FromString(node.SerializeToString()) for node in body.node]
    if asked.output != "raw":
        _after(added, [renamed.get(name, name) for name in last], now_out, asked, graph)
        _declare(body.output, [_typed(ends.graph.outputs[0], now_out)])
    del body.node[:]
    body.node.extend([*added.nodes[:before], *copies, *added.nodes[before:]])
    body.initializer.extend(numpy_helper.from_array(value, name) for name, value in added.constants.items())


def _rename(model: Any, new: Mapping[str, str]) -> None:
    """Values that there are of these names, wherever they are read."""
    import onnx_ir as ir

    with edited(model) as made:
        values = ir.convenience.create_value_mapping(made.graph)
        for name in new.keys() & values.keys():
            values[name].name = new[name]


def _declare(kept: Any, values: list[Any]) -> None:
    del kept[:]
    kept.extend(values)


def _typed(field: Field, name: str) -> Any:
    from onnx import helper

    element = helper.np_dtype_to_tensor_dtype(np.dtype(field.dtype))
    sides = [f"{field.name}_{at}" if size is None else size for at, size in enumerate(field.shape, 1)]
    return helper.make_tensor_value_info(name, element, ["batch", *sides])


def _before(added: Added, name: str, inside: str, asked: Asked, sizes: Sequence[int], whole: nn.Module) -> None:
    """From pixels to what the network reads."""
    from onnx import TensorProto

    x = added.node("Cast", [name], to=TensorProto.FLOAT)
    if asked.layout == "hwc":
        x = added.node("Transpose", [x], perm=[0, 3, 1, 2])
    if asked.input == "any_size":
        x = _fit(x, sizes[1:], added)
    factor, shift = (added.number(getattr(whole, key).numpy()) for key in ("factor", "shift"))
    added.node("Add", [added.node("Mul", [x, factor]), shift], inside)


def _after(added: Added, answers: Sequence[str], out: str, asked: Asked, graph: Graph) -> None:
    """From what the network answers to what is asked for."""
    if asked.output == "boxes":
        onnx_boxes.write(added, answers, out, graph, asked.suppression)
    elif asked.output == "probabilities":
        added.node("Softmax", answers, out, axis=graph.outputs[0].class_axis)
    else:
        added.node("ArgMax", answers, out, axis=graph.outputs[0].class_axis, keepdims=0)


def _fit(x: str, size: Sequence[int], added: Added) -> str:
    """As `fitted`, by a product with a matrix of weights for each axis, whose rows are the middle of the resized side.

    onnxruntime's Resize with antialias is up to 12 levels of 255 off (50 to 32 pixels, 1.2x).
    """
    from onnx import TensorProto

    node, number = added.node, added.number
    whole = node("Shape", [x], start=2, end=4)  # (2,) H, W
    other = node("Gather", [whole, number([1, 0], np.int64)])
    longer = node("Div", [node("Mul", [whole, number(size[::-1], np.int64)]), other])  # of integers: cut
    new = node("Cast", [node("Max", [longer, number(size, np.int64)])], to=TensorProto.FLOAT)
    sides, target = node("Cast", [whole], to=TensorProto.FLOAT), number(size)
    offset = node("Round", [node("Mul", [node("Sub", [new, target]), number(0.5)])])  # to even
    step = node("Div", [sides, new])  # pixels that one of the result stands for
    wide = node("Max", [step, number(1.0)])
    matrices = []
    for at, side in enumerate(size):
        own_offset, own_step, own_wide, own_side = (
            node("Gather", [value, number(at, np.int64)], axis=0) for value in (offset, step, wide, sides)
        )
        place = node("Add", [number(np.arange(side)[:, None] + 0.5), own_offset])
        centre = node("Mul", [place, own_step])  # (side, 1)
        pixels = node("Range", [number(0.5), own_side, number(1.0)])  # 0.5 .. H - 0.5
        far = node("Abs", [node("Sub", [pixels, centre])])
        weight = node("Relu", [node("Sub", [number(1.0), node("Div", [far, own_wide])])])  # (side, H), a tent
        matrices.append(node("Div", [weight, node("ReduceSum", [weight, number([1], np.int64)], keepdims=1)]))
    rows = node("MatMul", [matrices[0], x])
    return node("MatMul", [rows, node("Transpose", [matrices[1]], perm=[1, 0])])
