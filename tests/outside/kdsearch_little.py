"""From outside: exporters that write ONNX node by node from torch.fx's graph, and no ONNX at all; a pruner and a sparsifier."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field as Option
from torch import Tensor, fx, nn
from torch.nn import functional as F

from kdsearch.errors import UserError
from kdsearch.hooks import Register, hookimpl
from kdsearch.kinds import (
    Batch,
    Call,
    Compressor,
    Exporter,
    Graph,
    Model,
    NoOptions,
    Options,
    Plan,
    Subject,
    searched,
)
from kdsearch.kit.costs import count_module
from kdsearch.kit.onnx import anonymous, open_session, read_onnx, save_onnx
from kdsearch.kit.weights import read, read_metadata

Node = tuple[str, dict[str, Any], tuple[str, ...]]  # operator, attributes, names of the weights that it reads


def _conv(part: nn.Conv2d) -> Node:
    pads = [size for _ in range(2) for size in part.padding]
    given = {"strides": list(part.stride), "pads": pads, "dilations": list(part.dilation), "group": part.groups}
    return "Conv", given, ("weight", "bias")


LAYERS: Mapping[type[nn.Module], Callable[[Any], Node | None]] = {
    nn.Conv2d: _conv,
    nn.Linear: lambda part: ("Gemm", {"transB": 1}, ("weight", "bias")),
    nn.BatchNorm1d: lambda part: _norm(part),
    nn.BatchNorm2d: lambda part: _norm(part),
    nn.ReLU: lambda part: ("Relu", {}, ()),
    nn.Flatten: lambda part: ("Flatten", {"axis": 1}, ()),
    nn.AdaptiveAvgPool2d: lambda part: ("GlobalAveragePool", {}, ()) if part.output_size in (1, (1, 1)) else None,
    nn.Identity: lambda part: ("Identity", {}, ()),
    nn.Dropout: lambda part: ("Identity", {}, ()),
}
FUNCTIONS: Mapping[Any, str] = {
    operator.add: "Add",
    torch.add: "Add",
    torch.relu: "Relu",
    F.relu: "Relu",
    "flatten": "Flatten",
}


def _norm(part: nn.modules.batchnorm._BatchNorm) -> Node:
    return "BatchNormalization", {"epsilon": part.eps}, ("weight", "bias", "running_mean", "running_var")


class _Fixed(nn.Module):
    """The network with so many inputs, whatever its signature: fx traces no `*args`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


class _One(_Fixed):
    def forward(self, a: Tensor) -> Any:
        return self.net(a)


class _Two(_Fixed):
    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.net(a, b)


class FxOnnx(Exporter[NoOptions]):
    """Networks of convolutions, linear layers, batch norms, ReLU and additions; what else there is, is refused by name."""

    def write(self, graph: Graph, example: Batch, file: Path) -> None:
        """Raise UserError for an operation that it does not know."""
        from onnx import TensorProto, helper

        if len(graph.inputs) > 2:
            raise UserError(f"exporter 'fx': {len(graph.inputs)} inputs", expected="one or two")
        root = (_One if len(graph.inputs) == 1 else _Two)(graph.module)
        traced = fx.Tracer().trace(root)
        nodes: list[Any] = []
        weights: list[Any] = []
        names = iter([each.name for each in graph.inputs])
        value: dict[fx.Node, str] = {}
        for node in traced.nodes:
            if node.op == "placeholder":
                value[node] = next(names)
            elif node.op == "output":
                made, wanted = node.args[0], [each.name for each in graph.outputs]
                each = (
                    [made[name] for name in wanted] if isinstance(made, dict) else [made] if len(wanted) == 1 else made
                )
                nodes += [
                    helper.make_node("Identity", [value[at]], [name]) for name, at in zip(wanted, each, strict=True)
                ]
            else:
                value[node] = f"v_{node.name}"
                nodes.append(_node(root, node, value, weights))
        model = helper.make_model(
            helper.make_graph(
                nodes,
                "model",
                [helper.make_tensor_value_info(f.name, TensorProto.FLOAT, ["batch", *f.shape]) for f in graph.inputs],
                [helper.make_tensor_value_info(f.name, TensorProto.FLOAT, ["batch", *f.shape]) for f in graph.outputs],
                weights,
            ),
            opset_imports=[helper.make_opsetid("", 21)],
            ir_version=10,
        )
        anonymous(model)
        save_onnx(model, file)

    def label(self, file: Path, about: Mapping[str, str]) -> None:
        model = read_onnx(file)
        del model.metadata_props[:]
        for name in sorted(about):
            model.metadata_props.add(key=name, value=about[name])
        save_onnx(model, file)

    def load(self, file: Path, threads: int = 1) -> Call:
        session = open_session(file, threads)
        inputs, outputs = ([each.name for each in side()] for side in (session.get_inputs, session.get_outputs))

        def call(*given: Tensor) -> Mapping[str, Tensor]:
            feeds = {name: each.detach().cpu().numpy() for name, each in zip(inputs, given, strict=True)}
            return {name: torch.from_numpy(each) for name, each in zip(outputs, session.run(None, feeds), strict=True)}

        return call


class Chain(Exporter[NoOptions]):
    """Linear layers, batch norms and ReLU one after another, in one safetensors file that NumPy runs."""

    suffix = ".safetensors"

    def write(self, graph: Graph, example: Batch, file: Path) -> None:
        """Raise UserError for what is no such chain."""
        from safetensors.torch import save

        steps: list[str] = []
        tensors: dict[str, Tensor] = {}
        root = _One(graph.module)
        for node in fx.Tracer().trace(root).nodes:
            part = root.get_submodule(str(node.target)) if node.op == "call_module" else node.target
            if isinstance(part, nn.Linear):
                steps.append("linear")
                bias = part.bias if part.bias is not None else torch.zeros(part.out_features)
                tensors |= {f"{len(steps)}.a": part.weight.T, f"{len(steps)}.b": bias}
            elif isinstance(part, nn.BatchNorm1d):
                steps.append("scale")
                assert part.running_mean is not None
                assert part.running_var is not None
                a = part.weight * (part.running_var + part.eps).rsqrt()
                tensors |= {f"{len(steps)}.a": a, f"{len(steps)}.b": part.bias - part.running_mean * a}
            elif isinstance(part, nn.ReLU):
                steps.append("relu")
            elif node.op not in ("placeholder", "output") and not (
                part == "flatten" or isinstance(part, nn.Flatten | nn.Identity | nn.Dropout)
            ):
                raise UserError(f"exporter 'chain' does not know {type(part).__name__}", expected="a chain of layers")
        held = {name: each.detach().float().contiguous().clone() for name, each in tensors.items()}
        file.write_bytes(save(held, {"steps": " ".join(steps), "output": graph.outputs[0].name}))

    def load(self, file: Path, threads: int = 1) -> Call:
        tensors, about = read(file), read_metadata(file)

        def call(*given: Tensor) -> Mapping[str, Tensor]:
            x = given[0].detach().cpu().flatten(1).numpy()
            for at, step in enumerate(about["steps"].split(), 1):
                a, b = (tensors[f"{at}.{part}"].numpy() if step != "relu" else None for part in "ab")
                x = x.clip(0) if step == "relu" else x @ a + b if step == "linear" else x * a + b
            return {about["output"]: torch.from_numpy(x)}

        return call

    def usage(self, file: str) -> Sequence[str]:
        return ("from safetensors.numpy import load_file", f"tensors = load_file({file!r})")


def _node(root: nn.Module, node: fx.Node, value: Mapping[fx.Node, str], weights: list[Any]) -> Any:
    """The ONNX node; the weights that it reads are added."""
    from onnx import helper, numpy_helper

    reads = [value[each] for each in node.args if isinstance(each, fx.Node)]
    made: Node | None
    if node.op == "call_module":
        part = root.get_submodule(str(node.target))
        made = LAYERS[type(part)](part) if type(part) in LAYERS else None
        what = type(part).__name__
    else:
        what = FUNCTIONS.get(node.target, "")
        made = (what, {"axis": 1} if what == "Flatten" else {}, ()) if what else None
    if made is None:
        raise UserError(
            f"exporter 'fx' does not know {what or node.target}", expected=", ".join(c.__name__ for c in LAYERS)
        )
    operation, attributes, held = made
    for name in held:
        tensor = getattr(part, name)
        if tensor is not None:
            full = f"{node.target}.{name}"
            weights.append(numpy_helper.from_array(tensor.detach().cpu().contiguous().numpy(), full))
            reads.append(full)
    return helper.make_node(operation, reads, [value[node]], node.name, **attributes)


class LowRankOptions(Options):
    share: Annotated[float, searched(low=0.1, high=0.9)] = Option(
        0.5, gt=0, lt=1, description="of a matrix's rank that may stay"
    )


class LowRank(Compressor[LowRankOptions]):
    """Each linear layer whose best approximation of the wanted rank is smaller becomes two, by its singular values."""

    side: ClassVar[Any] = "model"

    def plan(self, subject: Subject) -> Plan:
        """Raise UserError where no layer gets smaller."""
        ranks = {}
        for path, part in subject.model.module.named_modules():
            if isinstance(part, nn.Linear):
                n, d = part.weight.shape
                rank = math.ceil(self.options.share * min(n, d))
                if rank * (n + d) < n * d:
                    ranks[path] = rank
        if not ranks:
            raise UserError(f"no linear layer is smaller at {self.options.share:g} of its rank", path="compress.prune")
        inputs = [list(subject.io.input(name).sizes) for name in subject.model.inputs]
        return Plan(
            {"ranks": ranks, "inputs": inputs}, log=tuple(f"{path}: rank {rank}" for path, rank in ranks.items())
        )

    def apply(self, model: Model, plan: Plan) -> Model:
        made = model.copy()
        for path, rank in plan.edits["ranks"].items():
            made.module.set_submodule(path, _thin(made.module.get_submodule(path), rank))  # type: ignore[arg-type]
        cost = count_module(made.module, [torch.zeros(1, *sizes) for sizes in _sizes(plan)])
        return replace(made, cost_of=lambda: cost)


def _sizes(plan: Plan) -> Sequence[Sequence[int]]:
    found: Sequence[Sequence[int]] = plan.edits["inputs"]
    return found


@torch.no_grad()
def _thin(layer: nn.Linear, rank: int) -> nn.Sequential:
    u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)  # (N, R), (R,), (R, D)
    first = nn.utils.skip_init(nn.Linear, layer.in_features, rank, bias=False)  # nothing is drawn
    second = nn.utils.skip_init(nn.Linear, rank, layer.out_features)
    first.weight.copy_(v[:rank])
    second.weight.copy_(u[:, :rank] * s[:rank])
    nn.init.zeros_(second.bias) if layer.bias is None else second.bias.copy_(layer.bias)
    return nn.Sequential(first, second)


class BarredOptions(Options):
    bar: float = Option(0.5, gt=0, description="in standard deviations of a layer's weights")


class Barred(Compressor[BarredOptions]):
    """Weights below the bar are zero, from half of the recovery on; the bar is that of the plan."""

    side: ClassVar[Any] = "weights"

    def plan(self, subject: Subject) -> Plan:
        layers = {path: part for path, part in subject.model.module.named_modules() if isinstance(part, nn.Linear)}
        bars = {path: self.options.bar * float(part.weight.detach().std()) for path, part in layers.items()}
        return Plan({"bars": bars}, log=tuple(f"{path}: zero below {bar:.3g}" for path, bar in bars.items()))

    @torch.no_grad()
    def enforce(self, model: Model, plan: Plan, progress: float) -> None:
        for path, bar in plan.edits["bars"].items() if progress >= 0.5 else ():
            weight: Tensor = model.module.get_submodule(path).weight  # type: ignore[assignment]
            weight.masked_fill_(weight.abs() < bar, 0)


@hookimpl
def kdsearch_register(register: Register) -> None:
    register.exporter("fx", f"{__name__}:FxOnnx")
    register.exporter("chain", f"{__name__}:Chain")
    register.pruner("low_rank", f"{__name__}:LowRank")
    register.sparsifier("barred", f"{__name__}:Barred")
