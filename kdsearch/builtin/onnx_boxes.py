"""Boxes out: what a detector answers for all its places, without those that are of one object (non-maximum suppression).

Each class by itself: the best score stays, and whatever overlaps it by more than `iou` goes; then the next. As in torchvision's
`nms` and ONNX's NonMaxSuppression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kdsearch.builtin.onnx_nodes import Added
from kdsearch.errors import StudyError
from kdsearch.kinds import Field, Graph

Corners = Literal["corners", "centre"]
Scores = Literal["given", "sigmoid", "softmax"]
PATH = "export.exporter.options.output"
EXPECTED = "boxes (N, 4) and the scores of each one's classes (N, C)"
NONE = (0.0, 0.0, 0.0, 0.0, 0.0, -1.0)  # a row that is no detection
OPSET = 13


@dataclass(frozen=True)
class Suppression:
    """What is asked for.

    Args:
        boxes: how the network says them: corners = x1, y1, x2, y2; centre = its x and y, width, height.
        scores: what becomes of them first. least: what does not score above is none, >= 0. iou: above it two are one.
        most: detections a sample.
    """

    boxes: Corners
    scores: Scores
    iou: float
    least: float
    most: int


def outputs_of(graph: Graph) -> tuple[int, int]:
    """Which outputs are boxes (N, 4) and scores (N, C): in this order where both have four columns, or nobody knows how many.

    Raise StudyError for others.
    """
    shapes = [each.shape for each in graph.outputs]
    if len(shapes) == 2 and all(len(each) == 2 for each in shapes) and _may_equal(shapes[0][0], shapes[1][0]):
        columns = [each[1] for each in shapes]
        if 4 in columns:
            return (0, 1) if columns[0] == 4 else (1, 0)
        if None in columns:
            return (0, 1) if columns[0] is None else (1, 0)
    found = ", ".join(f"{each.name} ({', '.join(str(size or '?') for size in each.shape)})" for each in graph.outputs)
    raise StudyError(f"the network answers {found}", path=PATH, expected=EXPECTED)


def _may_equal(a: int | None, b: int | None) -> bool:
    return None in (a, b) or a == b


def answer(graph: Graph, asked: Suppression) -> Field:
    _, to = outputs_of(graph)
    classes = graph.outputs[to].shape[1]
    places = next((each.shape[0] for each in graph.outputs if each.shape[0] is not None), None)
    rows = None if None in (places, classes) else min(asked.most, (places or 0) * (classes or 0))
    return Field("detections", "detections", (rows, 6), open_size=asked.most)


def detections(boxes: Tensor, scores: Tensor, asked: Suppression) -> Tensor:
    """(B, K, 6) of boxes (B, N, 4) and scores (B, N, C). Raise StudyError where they are of other sizes."""
    from torchvision.ops import nms

    if boxes.shape[2] != 4 or boxes.shape[1] != scores.shape[1]:
        sizes = " and ".join(f"({each.shape[1]}, {each.shape[2]})" for each in (boxes, scores))
        raise StudyError(
            f"the network answers {sizes}", path=PATH, expected=f"{EXPECTED}, in this order where a file does not say"
        )
    if asked.scores == "sigmoid":
        scores = scores.sigmoid()
    elif asked.scores == "softmax":
        scores = scores.softmax(-1)
    if asked.boxes == "centre":
        middle, half = boxes[..., :2], boxes[..., 2:] * 0.5
        boxes = torch.cat([middle - half, middle + half], -1)
    upright = torch.cat(
        [torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])], -1
    )
    kept = torch.zeros_like(scores.mT)  # (B, C, N)
    for sample, classes in enumerate(scores.mT):
        for index, score in enumerate(classes):
            (above,) = (score > asked.least).nonzero(as_tuple=True)
            stays = above[nms(upright[sample, above], score[above], asked.iou)]
            kept[sample, index, stays] = score[stays]
    places = boxes.shape[1]
    best, at = kept.flatten(1).sort(stable=True, dim=1, descending=True)
    best, at = best[:, : asked.most], at[:, : asked.most]
    where = boxes.gather(1, (at % places).unsqueeze(2).expand(-1, -1, 4))
    found = torch.cat([where, best.unsqueeze(2), (at // places).unsqueeze(2).to(boxes.dtype)], 2)
    return torch.where(best.unsqueeze(2) > 0, found, found.new_tensor(NONE))


def write(added: Added, boxes: str, scores: str, out: str, asked: Suppression) -> None:
    """The same with ONNX's operators, from the values of these names to that of `out`."""
    from onnx import TensorProto

    node, number = added.node, added.number

    def whole(*values: int) -> str:
        return number(values, np.int64)

    if asked.scores != "given":
        scores = node("Sigmoid", [scores]) if asked.scores == "sigmoid" else node("Softmax", [scores], axis=-1)
    if asked.boxes == "centre":
        middle, size = (node("Slice", [boxes, whole(low), whole(high), whole(2)]) for low, high in ((0, 2), (2, 4)))
        half = node("Mul", [size, number(0.5)])
        boxes = node("Concat", [node("Sub", [middle, half]), node("Add", [middle, half])], axis=2)
    by_class = node("Transpose", [scores], perm=[0, 2, 1])  # (B, C, N)
    limits = [whole(asked.most), number([asked.iou]), number([asked.least])]
    chosen = node("NonMaxSuppression", [boxes, by_class, *limits])  # (M, 3) of sample, class and place
    kept = node("ConstantOfShape", [node("Shape", [by_class])])  # zeros
    kept = node("ScatterND", [kept, chosen, node("GatherND", [by_class, chosen])])
    flat = node("Reshape", [kept, whole(0, -1)])
    rows = node("Min", [node("Gather", [node("Shape", [flat]), whole(1)]), whole(asked.most)])
    best, at = added.pair("TopK", [flat, rows])  # (B, K), equal ones by their place
    best, at = (node("Unsqueeze", [each, whole(2)]) for each in (best, at))
    places = node("Gather", [node("Shape", [boxes]), whole(1)])
    where = node("GatherND", [boxes, node("Mod", [at, places])], batch_dims=1)
    index = node("Cast", [node("Div", [at, places])], to=TensorProto.FLOAT)
    found = node("Concat", [where, best, index], axis=2)
    node("Where", [node("Greater", [best, number(0.0)]), found, number(NONE)], out)
