"""OpenVINO without its telemetry; its files read and written whole."""

from __future__ import annotations

import ctypes
import hashlib
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdsearch.errors import ArtifactError
from kdsearch.kit.files import write_bytes

if find_spec("openvino") is None:  # said where a study is read, by the host, with what to install
    raise ImportError("No module named 'openvino'", name="openvino")

WEIGHTS = ".bin"  # beside the .xml
OURS = "kdsearch"  # where in a file's rt_info it tells of itself
DIGEST = "weights_sha256"
# Where a CPU computes in bfloat16 OpenVINO would do so, three digits off: a file that was compared in fp32 runs in fp32.
FP32 = {"INFERENCE_PRECISION_HINT": "f32"}
NO_TELEMETRY = (
    "openvino_telemetry"  # OpenVINO and NNCF do without this module, and report to nobody, where it is not there
)


def openvino() -> Any:
    """The module `openvino`, which reports nothing from here on, whoever imported it before."""
    if NO_TELEMETRY not in sys.modules:
        sys.modules[NO_TELEMETRY] = None  # type: ignore[assignment]  # Python's own sign for: is not to be imported
    import openvino as ov

    if sys.modules[NO_TELEMETRY] is not None:  # somebody imported it first: nobody has consented from here on
        from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult, OptInChecker

        OptInChecker.check = lambda *_, **__: ConsentCheckResult.DECLINED
        sys.modules[NO_TELEMETRY].Telemetry().consent = False
    return ov


def read_ir(file: Path) -> Any:
    """The `openvino.Model` in an .xml and its .bin, which may be written anew while it is used.

    Raises:
        ArtifactError: one of both is missing, is no OpenVINO IR or cut off, or the weights are not those that it was written with.
    """
    ov = openvino()
    try:
        graph, weights = file.read_bytes(), file.with_suffix(WEIGHTS).read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"cannot be read ({error.strerror})", file=error.filename or file, expected="an .xml file and its .bin"
        ) from error
    if not graph.lstrip().startswith(b"<?xml"):
        raise _corrupt(file, "is no OpenVINO IR")
    try:
        model = ov.Core().read_model(graph, weights)
    except RuntimeError as error:
        raise _corrupt(file, f"is refused by OpenVINO: {_last_line(error)}") from error
    digest = _told(model).get(DIGEST)
    if digest != hashlib.sha256(weights).hexdigest():
        raise _corrupt(file.with_suffix(WEIGHTS), f"does not hold the weights that {file.name} was written with")
    return model


def save_ir(model: Any, file: Path, about: Mapping[str, str] | None = None) -> None:
    """Write the .xml and its .bin, equal bytes for an equal model.

    Args:
        about: what the file tells of itself, in place of what it told; None = as before.

    Raises:
        StorageError: the disk is full.
    """
    ov = openvino()
    told = _told(model) if about is None else dict(about)
    told.pop(DIGEST, None)
    _renamed(model)
    with tempfile.TemporaryDirectory(prefix="kdsearch-ir-") as folder:
        place = Path(folder) / "model.xml"
        for _ in range(2):  # the weights' digest is in the graph's file, so they are written first
            model.set_rt_info({}, OURS)
            for name, text in sorted(told.items()):
                model.set_rt_info(text, [OURS, name])
            ov.serialize(model, place, place.with_suffix(WEIGHTS))
            weights = place.with_suffix(WEIGHTS).read_bytes()
            told[DIGEST] = hashlib.sha256(weights).hexdigest()
        write_bytes(file.with_suffix(WEIGHTS), weights)
        write_bytes(file, place.read_bytes())


def labels_of(model: Any) -> dict[str, str]:
    """What `save_ir` was told."""
    return {name: text for name, text in _told(model).items() if name != DIGEST}


def compiled(model: Any, threads: int) -> Any:
    """On the CPU, in fp32 where it is not quantised, with so many threads, one call after another."""
    ov = openvino()
    # pinned threads would all wait for one another's processor on a machine with other work
    settings = {**FP32, "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
    with signal_stack():
        return ov.Core().compile_model(model, "CPU", settings)


class _Stack(ctypes.Structure):
    """`stack_t` as Linux has it."""

    _fields_ = (("ss_sp", ctypes.c_void_p), ("ss_flags", ctypes.c_int), ("ss_size", ctypes.c_size_t))


@contextmanager
def signal_stack() -> Iterator[None]:
    """This thread's stack for signals is again what it was.

    Each `Core` that compiles sets one of its own, and puts back the one before when it goes. Where they go in another order
    than they came, that one's memory is gone already, and the next Ctrl-C is a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    sigaltstack, before = ctypes.CDLL(None).sigaltstack, _Stack()
    sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        sigaltstack(ctypes.byref(before), None)


def _told(model: Any) -> dict[str, str]:
    if not model.has_rt_info(OURS):
        return {}
    return {name: str(value) for name, value in model.get_rt_info(OURS).value.items()}


def _renamed(model: Any) -> None:
    """Nodes are numbered as they follow one another: OpenVINO numbers them by all that a process has made before."""
    model.set_friendly_name("model")
    kept = {*model.get_parameters(), *model.get_results()}
    for at, node in enumerate(model.get_ordered_ops()):
        facts = node.get_rt_info()
        for name in [
            each for each in facts if each.startswith("fused_names")
        ]:  # what was folded into it, by such names
            del facts[name]
        if node not in kept:
            node.set_friendly_name(f"{node.get_type_name()}_{at}")


def _last_line(error: RuntimeError) -> str:
    """OpenVINO's messages are a stack of places in its own code, and then the reason."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no reason given"


def _corrupt(file: Path, problem: str) -> ArtifactError:
    fix = "Where kdsearch wrote it: delete it, and `run` or `export` writes it again."
    return ArtifactError(problem, file=file, expected="a whole .xml file and its .bin", fix=fix)
