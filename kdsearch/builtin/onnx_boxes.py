"""Boxes out: what a detector answers for all its places, without those that are of one object (non-maximum suppression).

Each class by itself: the best score stays, and whatever overlaps it by more than `iou` goes; then the next. As in torchvision's
`nms` and ONNX's NonMaxSuppression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from kdsearch.builtin.onnx_nodes import Added
from kdsearch.errors import StudyError
from kdsearch.kinds import Field, Graph

Corners = Literal["corners", "centre"]
Scores = Literal["given", "sigmoid", "softmax"]
Places = Literal["auto", "first", "last"]
OPTIONS = "export.exporter.options"
PATH = f"{OPTIONS}.output"
EXPECTED = "boxes (N, 4) and the scores of each one's classes (N, C), or both as one, (N, 4 + C)"
NONE = (0.0, 0.0, 0.0, 0.0, 0.0, -1.0)  # a row that is no detection
OPSET = 13
LAST = 2**31 - 1  # beyond any column


@dataclass(frozen=True)
class Suppression:
    """What is asked for.

    Args:
        boxes: how the network says them: corners = x1, y1, x2, y2; centre = its x and y, width, height.
        scores: what becomes of them first. least: what does not score above is none, >= 0. iou: above it two are one.
        most: detections a sample. places: of boxes and scores in one output, the axis that counts places; auto = the longer one.
        objectness: whether its fifth column is a score of there being anything, by which those of the classes are multiplied.
    """

    boxes: Corners
    scores: Scores
    iou: float
    least: float
    most: int
    places: Places = "auto"
    objectness: bool = False

    @property
    def about(self) -> dict[str, Any]:
        """For who reads the file: how the network said them in one output only where that was asked."""
        unsaid = {"places": "auto", "objectness": False}
        return {name: value for name, value in vars(self).items() if (name, value) not in unsaid.items()}


@dataclass(frozen=True)
class Found:
    """Where a network's boxes and scores are.

    Args:
        boxes, scores: which of its outputs; the same one where they are its columns. is_turned: these are its rows.
        places, classes: how many; None = open.
    """

    boxes: int
    scores: int
    places: int | None
    classes: int | None
    is_turned: bool = False

    @property
    def is_one(self) -> bool:
        return self.boxes == self.scores


def outputs_of(graph: Graph, asked: Suppression) -> Found:
    """Two outputs of four columns each, or of open ones, are boxes and scores in this order. Raise StudyError for others."""
    shapes = [each.shape for each in graph.outputs]
    if len(shapes) == 1 and len(shapes[0]) == 2:
        return _in_one(graph, asked)
    if len(shapes) == 2 and all(len(each) == 2 for each in shapes) and _may_equal(shapes[0][0], shapes[1][0]):
        for name, default in (("places", "auto"), ("objectness", False)):
            if getattr(asked, name) != default:
                raise StudyError(
                    "boxes and scores are outputs of their own", path=f"{OPTIONS}.{name}", expected=str(default).lower()
                )
        columns = [each[1] for each in shapes]
        places = shapes[0][0] if shapes[0][0] is not None else shapes[1][0]
        if 4 in columns or None in columns:
            first = columns[0] == 4 or (4 not in columns and columns[0] is None)
            return Found(0, 1, places, columns[1]) if first else Found(1, 0, places, columns[0])
    raise _none(graph)


def _in_one(graph: Graph, asked: Suppression) -> Found:
    """(N, 4 + C), or (4 + C, N)."""
    first, last = graph.outputs[0].shape
    if asked.places != "auto":
        is_turned = asked.places == "last"
    elif first == last:
        raise StudyError(
            f"{_said(graph)}: which axis counts places is not evident",
            path=f"{OPTIONS}.places",
            expected="first or last",
        )
    else:
        is_turned = first is not None and (last is None or last > first)
    places, columns = (last, first) if is_turned else (first, last)
    least = 6 if asked.objectness else 5
    if columns is not None and columns < least:
        raise _none(graph)
    return Found(0, 0, places, None if columns is None else columns - least + 1, is_turned)


def _none(graph: Graph) -> StudyError:
    return StudyError(f"the network answers {_said(graph)}", path=PATH, expected=EXPECTED)


def _said(graph: Graph) -> str:
    return ", ".join(f"{each.name} ({', '.join(str(size or '?') for size in each.shape)})" for each in graph.outputs)


def _may_equal(a: int | None, b: int | None) -> bool:
    return None in (a, b) or a == b


def answer(graph: Graph, asked: Suppression) -> Field:
    found = outputs_of(graph, asked)
    for each in (graph.outputs[found.boxes], graph.outputs[found.scores]):
        if each.dtype != "float32":
            raise StudyError(f"{each.name} is {each.dtype}", path=PATH, expected="float32")
    rows = None
    if found.places is not None and found.classes is not None:
        rows = min(asked.most, found.places * found.classes)
    return Field("detections", "detections", (rows, 6), open_size=asked.most)


def detections(answers: Sequence[Tensor], graph: Graph, asked: Suppression) -> Tensor:
    """(B, K, 6) of what the network answers. Raise StudyError where boxes and scores are of other sizes."""
    from torchvision.ops import nms

    told = outputs_of(graph, asked)
    boxes, scores = answers[told.boxes], answers[told.scores]
    anything = None
    if told.is_one:
        whole = boxes.mT if told.is_turned else boxes
        boxes, scores = whole[..., :4], whole[..., 4:]
        if asked.objectness:
            anything, scores = scores[..., :1], scores[..., 1:]
    if boxes.shape[2] != 4 or boxes.shape[1] != scores.shape[1]:
        sizes = " and ".join(f"({each.shape[1]}, {each.shape[2]})" for each in (boxes, scores))
        raise StudyError(
            f"the network answers {sizes}", path=PATH, expected=f"{EXPECTED}, in this order where a file does not say"
        )
    if asked.scores == "sigmoid":
        scores = scores.sigmoid()
        anything = None if anything is None else anything.sigmoid()
    elif asked.scores == "softmax":
        scores = scores.softmax(-1)
    if anything is not None:
        scores = scores * anything
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


def write(added: Added, answers: Sequence[str], out: str, graph: Graph, asked: Suppression) -> None:
    """The same with ONNX's operators, from the values of these names to that of `out`."""
    from onnx import TensorProto

    node, number = added.node, added.number

    def whole(*values: int) -> str:
        return number(values, np.int64)

    def columns(of: str, low: int, high: int) -> str:
        return node("Slice", [of, whole(low), whole(high), whole(2)])

    told = outputs_of(graph, asked)
    boxes, scores = answers[told.boxes], answers[told.scores]
    anything = ""
    if told.is_one:
        joined = node("Transpose", [boxes], perm=[0, 2, 1]) if told.is_turned else boxes
        boxes, scores = columns(joined, 0, 4), columns(joined, 5 if asked.objectness else 4, LAST)
        anything = columns(joined, 4, 5) if asked.objectness else ""
    if asked.scores == "sigmoid":
        scores, anything = node("Sigmoid", [scores]), node("Sigmoid", [anything]) if anything else ""
    elif asked.scores == "softmax":
        scores = node("Softmax", [scores], axis=-1)
    if anything:
        scores = node("Mul", [scores, anything])
    if asked.boxes == "centre":
        middle, size = columns(boxes, 0, 2), columns(boxes, 2, 4)
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
