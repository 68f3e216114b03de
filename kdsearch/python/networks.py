"""A network by name: of timm or torchvision, of the user's own code, of a torch.export file, or an ONNX file."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdsearch.deploy.cost import count
from kdsearch.deploy.files import external_files, open_session, read_onnx, subgraphs, weights_in
from kdsearch.errors import ArtifactError, DataError, PluginError, StudyError, UserError, nearest, told
from kdsearch.kinds import IO, Field, Model
from kdsearch.kinds.data import OPEN_SIZE
from kdsearch.kinds.forward import probed
from kdsearch.kit.onnx import open_model, save_onnx
from kdsearch.ops.seeding import seed_generators
from kdsearch.ops.undisturbed import undisturbed
from kdsearch.python.given import PLAIN, Given, given_by
from kdsearch.store import weights
from kdsearch.store.files import copy_file
from kdsearch.store.inputs import lies
from kdsearch.store.program import read_program
from kdsearch.study.code import load_code

FORMS = "timm:NAME, torchvision:NAME, package.module:callable, file.py:callable, FILE.pt2 or FILE.onnx"
ELEMENTS = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(uint8)": "uint8", "tensor(int8)": "int8",
}  # fmt: skip

SIZE_SAID = "none: the file or the data say it"
OWN_KINDS = ("logits", "scores", "value")  # which tasks call their output by


class OnnxNetwork(nn.Module):
    """An ONNX file that answers as a module: what a rewritten file is compared with. It is neither trained nor cut.

    rows: so many samples at a time are said to be taken; None = any number. The module takes any number all the same, where the
    network does (`check_rows`).
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file
        model = read_onnx(file, beside=True)
        self.session = open_session(file, 1, model)
        self.rows = _rows(self.session)
        if self.rows is not None:
            _open_rows(model)
            self.session = open_model(model)

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxNetwork:
        return OnnxNetwork(self.file)

    def model(self) -> Any:
        """The `onnx.ModelProto`, for any number of samples."""
        model = read_onnx(self.file, beside=True)
        if self.rows is not None:
            _open_rows(model)
        return model

    def write(self, file: Path) -> None:
        """The whole of it, in one file."""
        if self.rows is None and not external_files(self.file):
            copy_file(self.file, file)
        else:
            save_onnx(self.model(), file)

    def check_rows(self, samples: Sequence[Tensor]) -> None:
        """Raise ArtifactError unless two samples are answered together as each alone. samples: (2, ...) a tensor an input."""
        problem = f"takes {self.rows} at a time, and its network no other number of samples"
        fixed = ArtifactError(
            problem,
            file=self.file,
            expected="a first axis of open size",
            fix="Export the network again with a dynamic batch axis.",
        )
        alone = [[each[i : i + 1] for each in samples] for i in range(2)]
        try:
            whole, *ones = (self(*given) for given in (samples, *alone))
        except ArtifactError as error:
            raise fixed from error
        for together, *parts in zip(whole, *ones, strict=True):
            apart = torch.cat(parts)
            if together.shape != apart.shape or not torch.allclose(together, apart, 1e-3, 1e-3, equal_nan=True):
                raise fixed

    @property
    def given(self) -> Given:
        return given_by(self.session.get_modelmeta().custom_metadata_map)

    @property
    def io(self) -> IO:
        """As the file says it. Raise ArtifactError for a file that takes one number of samples in, and answers another."""
        inputs, outputs = (
            tuple(self._field(each, side) for each in nodes)
            for side, nodes in (("input", self.session.get_inputs()), ("output", self.session.get_outputs()))
        )
        if len(outputs) == 1 and outputs[0].kind == "vector" and len(outputs[0].shape) == 1:
            outputs = (replace(outputs[0], kind=self._vector_of(outputs[0]), use="target"),)
        if self.given.reads_pixels and len(inputs) == 1:
            inputs = (
                replace(inputs[0], kind="pixels", open_size=max(self.given.preprocessing.get("size", (OPEN_SIZE,)))),
            )
        return IO(inputs, outputs)

    def _vector_of(self, output: Field) -> str:
        """The kind of a file's only output, one axis of numbers: what a study's file calls it, or else logits where they can be."""
        if self.given.is_exported and self.given.inside.get("output", PLAIN["output"]) == PLAIN["output"]:
            return output.name if output.name in OWN_KINDS else output.kind
        return "logits" if is_choice(output) else output.kind

    def _field(self, node: Any, side: str) -> Field:
        dtype = ELEMENTS.get(node.type)
        if dtype is None:
            raise ArtifactError(
                f"{side} '{node.name}' is of {node.type}", file=self.file, expected="a tensor of numbers"
            )
        if not node.shape or isinstance(node.shape[0], int):
            raise ArtifactError(
                f"{side} '{node.name}' is {node.shape}: the number of samples is fixed",
                file=self.file,
                expected="a first axis of open size",
                fix="Export the network again with a dynamic batch axis.",
            )
        shape = tuple(size if isinstance(size, int) else None for size in node.shape[1:])
        is_image, is_class = side == "input" and len(shape) == 3, side == "output" and "int" in dtype
        kind = "image" if is_image else "class" if is_class else kind_of(shape)
        return Field(node.name, kind, shape, dtype, n_values=256 if dtype == "uint8" else None)  # pixels, most likely

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Raise ArtifactError where onnxruntime does not run the file on these."""
        names = [each.name for each in self.session.get_inputs()]
        feeds = {name: each.detach().cpu().contiguous().numpy() for name, each in zip(names, inputs, strict=True)}
        try:
            found = self.session.run(None, feeds)
        except Exception as error:  # onnxruntime's exceptions share no narrower base
            asked = ", ".join(f"{name} {value.dtype} {_sizes(value.shape)}" for name, value in feeds.items())
            raise ArtifactError(f"fails at {asked}: {str(error).splitlines()[0][:200]}", file=self.file) from error
        return tuple(torch.from_numpy(each) for each in found)


def counted(model: Model, io: IO) -> dict[str, int | None]:
    """params, and macs of one sample; these are not known of an ONNX file. Raise ArtifactError for a file that does not run."""
    if isinstance(model.module, OnnxNetwork):
        model.module(*(io.input(name).blank() for name in model.inputs))
        return {"params": weights_in(model.module.model()), "macs": None}
    cost = count(model, io)
    return {"params": cost.params, "macs": cost.macs}


def is_choice(output: Field) -> bool:
    """Whether an output of one axis may be logits: floats, and more than one, which alone would always be the largest."""
    return output.torch_dtype.is_floating_point and output.shape != (1,)


def _rows(session: Any) -> int | None:
    """How many samples at a time a file says that it takes, where all its inputs and outputs say the same."""
    firsts = {each.shape[0] if each.shape else None for each in (*session.get_inputs(), *session.get_outputs())}
    (rows,) = firsts if len(firsts) == 1 else (None,)
    return rows if isinstance(rows, int) else None


def _open_rows(model: Any) -> None:
    """Leave open how many samples inputs and outputs hold, and forget what that said of the values between."""
    stored = {each.name for each in model.graph.initializer}  # older files list them among the inputs
    for each in (*model.graph.input, *model.graph.output):
        sizes = each.type.tensor_type.shape.dim  # none of an output whose shape onnxruntime has inferred
        if sizes and each.name not in stored:
            sizes[0].dim_param = "batch"
    for graph in subgraphs(model.graph):
        del graph.value_info[:]


def _sizes(shape: Sequence[int | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "one number"


def as_data(io: IO, data: IO, file: Path) -> IO:
    """What a file reads and answers, in the kinds of the data's fields. Raise DataError where the data have not such numbers."""
    if len(io.inputs) != len(data.inputs) or len(io.outputs) != len(data.outputs):
        raise DataError(
            f"the file has {len(io.inputs)} inputs and {len(io.outputs)} outputs",
            file=file,
            expected=f"{len(data.inputs)} and {len(data.outputs)}, as the data",
        )
    pairs = zip((*io.inputs, *io.outputs), (*data.inputs, *data.outputs), strict=True)
    for own, given in pairs:
        sizes = len(own.shape) == len(given.shape) and zip(own.shape, given.shape, strict=True)
        if own.dtype != given.dtype or not sizes or any(a != b for a, b in sizes if None not in (a, b)):
            raise DataError(
                f"'{own.name}' is {own.dtype} {_sizes(own.shape)} for each sample",
                file=file,
                expected=f"{given.dtype} {_sizes(given.shape)}, as the data's '{given.name}'",
            )
    return IO(
        tuple(replace(a, kind=b.kind) for a, b in zip(io.inputs, data.inputs, strict=True)),
        tuple(replace(a, kind=b.kind, classes_at=b.classes_at) for a, b in zip(io.outputs, data.outputs, strict=True)),
    )


def sized(io: IO, shape: Sequence[int]) -> IO:
    """With this size where a file leaves sizes open. Raise StudyError where it leaves none, or they are not one number."""
    image = io.inputs[0]
    if len(io.inputs) > 1 or None not in image.shape:
        raise StudyError("nothing here heeds it", path="--input-shape", expected=SIZE_SAID)
    fits = len(shape) == len(image.shape) and all(own in (None, n) for own, n in zip(image.shape, shape, strict=True))
    sizes = {n for own, n in zip(image.shape, shape, strict=False) if own is None}
    if not fits or len(sizes) > 1:
        own = ",".join("N" if each is None else str(each) for each in image.shape)
        raise StudyError(
            f"got {','.join(map(str, shape))}",
            path="--input-shape",
            expected=f"{own} as the file reads, one number for N",
        )
    return IO((replace(image, open_size=sizes.pop()),), io.outputs)


def kind_of(shape: Sequence[int | None]) -> str:
    """What numbers of this shape most likely are; no gate depends on it."""
    return {1: "vector", 2: "sequence", 3: "map"}.get(len(shape), "vector")


def network(
    text: str,
    allow_code: Sequence[str] = (),
    weights_file: Path | None = None,
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
) -> nn.Module:
    """The network that `text` names, in eval mode; without weights of its own it is freshly initialised by the seed.

    Args:
        sizes: `num_classes` and `in_chans` of timm's networks, of torchvision's the former, where the text does not say it.

    Raises:
        StudyError: no such network, or it is none. UnsafeCodeError: code that the command line does not allow.
        ArtifactError: weights that do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        seed_generators(seed)
        made = _made(text, allow_code, sizes or {})
    if weights_file is not None:
        if isinstance(made, OnnxNetwork):
            raise StudyError("an ONNX file has its weights", path="--weights", expected="none")
        weights.load_into(made, weights.read(weights_file), weights_file)
    return made.eval()


def is_untrained(text: str, weights_file: Path | None) -> bool:
    """Whether `text` names a network of timm or torchvision without weights of anybody's."""
    library, _, rest = text.partition(":")
    keys = {key: value for key, _, value in (each.partition("=") for each in rest.split(",")[1:])}
    trained = keys.get("pretrained") == "true" or {"weights", "checkpoint_path"} & set(keys)
    return library in ("timm", "torchvision") and weights_file is None and not trained


def _made(text: str, allow_code: Sequence[str], sizes: Mapping[str, int]) -> nn.Module:
    head, _, rest = text.partition(":")
    if text.lower().endswith(".onnx"):
        if not lies(Path(text), error=ArtifactError):
            raise ArtifactError("there is no such file", file=text, expected="an ONNX file")
        return OnnxNetwork(Path(text))
    if head in ("timm", "torchvision") and rest:
        name, *pairs = rest.split(",")
        known = sizes if head == "timm" else {key: size for key, size in sizes.items() if key == "num_classes"}
        given = {**known, **dict(_pair(each) for each in pairs)}
        return _timm(name, given) if head == "timm" else _torchvision(name, given)
    if text.lower().endswith(".pt2"):
        return read_program(load_code(text, allow_code, Path(), "MODEL"))
    if ":" not in text:
        raise StudyError(f"got '{text}'", path="MODEL", expected=FORMS)
    found = load_code(text, allow_code, Path(), "MODEL")
    try:
        made = found if isinstance(found, nn.Module) else found()
    except Exception as error:
        raise StudyError(f"'{text}' raised {told(error)}", path="MODEL") from error
    if not isinstance(made, nn.Module):
        raise StudyError(f"'{text}' gives {type(made).__name__}", path="MODEL", expected="a torch.nn.Module")
    return made


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise StudyError(f"got '{text}'", path="MODEL", expected="key=value after the network's name")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _timm(name: str, given: Mapping[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise PluginError("timm is not installed", fix="Run: pip install 'kdsearch[timm]'") from error
    if not timm.is_model(name):
        raise StudyError(f"timm has no '{name}'", path="MODEL", nearest=nearest(name, timm.list_models()))
    return _built(lambda: timm.create_model(name, **{"pretrained": False, **given}), f"timm:{name}")


def _torchvision(name: str, given: Mapping[str, Any]) -> nn.Module:
    try:
        from torchvision import models
    except ImportError as error:
        raise PluginError("torchvision is not installed", fix="Run: pip install torchvision") from error
    if name not in models.list_models():
        raise StudyError(f"torchvision has no '{name}'", path="MODEL", nearest=nearest(name, models.list_models()))
    given = {"weights": None, **given}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        given = {"weights_backbone": None, **given}  # or a download begins
    if name.startswith(("googlenet", "inception")):
        given = {"aux_logits": False, "init_weights": False, **given}  # the helper heads are for training alone
    return _built(lambda: models.get_model(name, **given), f"torchvision:{name}")


def _built(make: Any, what: str) -> nn.Module:
    try:
        made: nn.Module = make()
    except UserError:
        raise
    except Exception as error:
        raise StudyError(f"{what} cannot be built: {told(error)}", path="MODEL") from error
    return made


def input_shape_of(net: nn.Module, text: str) -> tuple[int, ...] | None:
    """What a network of timm or torchvision reads by default; None where nobody knows."""
    given = getattr(net, "pretrained_cfg", None) or getattr(net, "default_cfg", None) or {}
    if given.get("input_size"):
        return tuple(given["input_size"])
    return (3, 224, 224) if text.startswith("torchvision:") else None


def io_without_data(net: nn.Module, shape: Sequence[int]) -> IO:
    """What a network of one float input answers. Raise StudyError where it does not run, or answers no tensors."""
    kind = "image" if len(shape) == 3 else kind_of(shape)
    read = Field("image" if len(shape) == 3 else "input", kind, tuple(shape))
    try:
        with undisturbed(net, train=False):
            out = probed((read,), 2, lambda given: net(*given))
    except Exception as error:
        raise StudyError(
            f"the network cannot read {'x'.join(map(str, shape))}: {told(error)}", path="--input-shape"
        ) from error
    named = dict(out) if isinstance(out, Mapping) else dict(enumerate(out if isinstance(out, list | tuple) else [out]))
    single = len(named) == 1
    outputs = []
    for key, value in named.items():
        if not isinstance(value, Tensor) or value.shape[:1] != (2,):
            raise StudyError(f"the network answers {type(value).__name__}", path="MODEL", expected="tensors (B, ...)")
        name, shape_out = key if isinstance(key, str) else f"output_{key}", tuple(value.shape[1:])
        dtype = str(value.dtype).removeprefix("torch.")
        found = Field(name, kind_of(shape_out), shape_out, dtype, use="target")
        if single and value.ndim == 2 and is_choice(found):
            found = replace(found, name="logits", kind="logits")
        outputs.append(found)
    return IO((read,), tuple(outputs))
