"""A module as the linear, non-negative network that synaptic flow is defined on, without changing it.

Functions are replaced while they run, so that modules (nn.GELU) and functions (F.gelu, x.relu_()) count alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from kdsearch.ops.relation import scale_of
from kdsearch.ops.weights import substituted, weight_matrices

CONVOLUTIONS = {f"conv{transposed}{n}d" for transposed in ("", "_transpose") for n in (1, 2, 3)}
PRODUCTS = {"linear", *CONVOLUTIONS}
NORMS = {"batch_norm", "instance_norm", "layer_norm", "group_norm", "rms_norm", "local_response_norm"}
RECTIFIERS = {
    "relu",
    "relu6",
    "hardtanh",
    "hardswish",
    "gelu",
    "silu",
    "elu",
    "selu",
    "celu",
    "mish",
    "leaky_relu",
    "rrelu",
}
RECTIFIERS |= {"prelu", "softplus", "threshold", "tanh", "softsign"}  # the last two would stop all flow at their limit
GATES = {"sigmoid", "hardsigmoid"}  # 1 for large inputs
IDENTITIES = NORMS | {name + mark for name in RECTIFIERS for mark in ("", "_")}
OPEN = {name + mark for name in GATES for mark in ("", "_")}


class LinearFlow(TorchFunctionMode):
    """Norms and rectifiers are the identity, gates are open, attention spreads evenly. Embeddings are multiplied by `faint`.

    `products` are the y = W x of weights that require a gradient. As y is linear in W, sum w dR/dw is sum y dR/dy, which takes
    no gradient by W. Such weights are constants there; what else they do is theirs to be asked.
    """

    def __init__(self, faint: float = 1.0) -> None:
        super().__init__()
        self.faint = faint
        self.products: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, given = getattr(func, "__name__", ""), dict(kwargs or {})
        if name in IDENTITIES and args:
            return args[0] if name.endswith("_") or given.get("inplace") else args[0].clone()
        if name in OPEN and args:
            return torch.ones_like(args[0])
        if name in PRODUCTS and len(args) > 1:
            return self.product(func, *args, **given)
        if name == "softmax":
            dim = given.get("dim", args[1] if len(args) > 1 else -1)
            return torch.full_like(args[0], 1 / args[0].shape[dim])
        if name == "scaled_dot_product_attention":
            return evenly(*args[:3]) if len(args) > 2 else evenly(given["query"], given["key"], given["value"])
        if name == "multi_head_attention_forward":
            return self.attended(*args, **given)
        if name in ("embedding", "embedding_bag"):
            out = func(*args, **given)
            return (
                tuple(each * self.faint if i == 0 else each for i, each in enumerate(out))
                if isinstance(out, tuple)
                else (out * self.faint)
            )
        return func(*args, **given)

    def product(self, func: Any, x: Tensor, weight: Tensor, *rest: Any, **given: Any) -> Tensor:
        if not weight.requires_grad:
            out: Tensor = func(x, weight, *rest, **given)
            return out
        y = (
            in_groups(func, x, weight, *rest, **given)
            if is_grouped(func, x, weight)
            else func(x, weight.detach(), *rest, **given)
        )
        self.products.append(y if y.requires_grad else y.requires_grad_())
        return y.clone()  # what follows may work in place

    def attended(self, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **given: Any) -> tuple[Tensor, None]:
        """nn.MultiheadAttention's function for such attention: (L, B, E), (S, B, E), (S, B, V) -> (L, B, E)."""
        w_in, w_out = rest[2], rest[8]
        is_apart = given.get("use_separate_proj_weight", False)
        w_v = given["v_proj_weight"] if is_apart else w_in[2 * (len(w_in) // 3) :]
        spread = self.product(F.linear, value, w_v).mean(0, keepdim=True)
        return self.product(F.linear, spread.expand(query.shape[0], *spread.shape[1:]), w_out), None


def is_grouped(func: Any, x: Tensor, weight: Tensor) -> bool:
    """Whether it is a convolution in groups: the channels that a weight reads are fewer than there are."""
    return func.__name__ in ("conv1d", "conv2d", "conv3d") and x.shape[-weight.dim() + 1] != weight.shape[1]


def in_groups(func: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **given: Any) -> Tensor:
    """A convolution in groups in float32, as in float64 a CPU does one group after another: no value of either sign cancels.

    What comes in is divided by its largest value and what goes out multiplied by it, forwards and backwards, so that nothing
    overflows. Biases are 0 and left out.
    """
    out: Tensor = _Scaled.apply(x, weight.detach(), lambda x, w: func(x, w, None, *rest, **given))  # type: ignore[no-untyped-call]
    return out


class _Scaled(torch.autograd.Function):
    """y = largest * f(x / largest, w) in float32 inside; f is linear in x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, f: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        largest = scale_of(x)
        with torch.enable_grad():
            ctx.x = (x.detach() / largest).float().requires_grad_()
            ctx.y = f(ctx.x, weight.float())
        y: Tensor = ctx.y.detach().to(x.dtype) * largest
        return y

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        largest = scale_of(slopes[0])
        (slope,) = torch.autograd.grad(ctx.y, ctx.x, (slopes[0] / largest).float())
        return slope.to(slopes[0].dtype) * largest, None, None


def evenly(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention that is the same for all keys: (..., L, E), (..., S, E), (..., S, V) -> (..., L, V)."""
    if value.dim() > 2 and value.shape[-3] != query.shape[-3]:
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)  # heads that share their keys
    return value.mean(-2, keepdim=True).expand(*query.shape[:-1], value.shape[-1])


@contextmanager
def linear_flow(module: nn.Module, faint: float = 1.0) -> Iterator[tuple[LinearFlow, list[Tensor]]]:
    """Within, the module computes in float64 with |w|, its biases 0. Yields (flow, the weight matrices |w|, as leaves)."""
    counted = weight_matrices(module)
    tensors: dict[str, Tensor] = {}
    for path, weight in module.named_parameters():
        if "bias" in path.rpartition(".")[2]:
            tensors[path] = torch.zeros_like(weight, dtype=torch.float64)
        else:
            tensors[path] = weight.detach().double().abs().requires_grad_(path in counted)
    with torch.enable_grad(), substituted(module, tensors), LinearFlow(faint) as mode:
        yield mode, [tensors[path] for path in counted]
