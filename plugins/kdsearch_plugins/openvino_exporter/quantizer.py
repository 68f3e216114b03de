"""Post-training quantisation of OpenVINO IR to 8 bits by NNCF, with the study's calibration samples."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from pydantic import Field as Option

from kdsearch.errors import RefusedError
from kdsearch.kinds import Compressor, Options, Plan, Subject
from kdsearch_plugins.openvino_exporter.runtime import openvino, read_ir, save_ir, signal_stack

if find_spec("nncf") is None:  # said where a study is read, by the host, with what to install
    raise ImportError("No module named 'nncf'", name="nncf")


class NncfOptions(Options):
    samples: int = Option(256, ge=1, description="training samples that ranges of activations are taken from")
    calibration: Literal["minmax", "mean_minmax", "quantile"] = Option(
        "minmax",
        description="ranges of activations: of all samples; the mean of each sample's own, NNCF's default, which cuts off more; or "
        "their mean without the outermost 0.01 %",
    )
    preset: Literal["performance", "mixed"] = Option(
        "performance", description="activations: symmetric, or mixed = asymmetric where they are not around 0"
    )
    model_type: Literal["auto", "plain", "transformer"] = Option(
        "auto", description="transformer = what surrounds attention stays in fp32; auto = where a softmax is multiplied"
    )
    bias_correction: Literal["fast", "full"] = Option(
        "fast", description="of what rounding adds to layers' means; full = layer by layer, which takes longer"
    )


class NncfInt8(Compressor[NncfOptions]):
    """Weights and activations in 8 bits, a scale an output channel, as OpenVINO's FakeQuantize, which its CPU runs as integers."""

    side = "file"
    rewrites = ".xml"
    calibrates = True
    elsewhere = 0.05

    def plan(self, subject: Subject) -> Plan:
        asked = self.options
        said = f"8 bits by NNCF, {asked.preset}, ranges by {asked.calibration} of {asked.samples} training samples"
        return Plan(self.options.model_dump(mode="json"), log=(said,))

    def rewrite(self, file: Path, plan: Plan, feeds: Iterable[Mapping[str, Any]]) -> None:
        """Raise RefusedError where there are no samples, or NNCF cannot quantise the network."""
        openvino()  # before NNCF: without telemetry
        import nncf

        edits, model = plan.edits, read_ir(file)
        samples = list(_single(feeds, int(edits["samples"])))
        if not samples:
            raise RefusedError("nncf_int8 takes ranges from samples, and there are none", expected="calibration data")
        is_transformer = edits["model_type"] == "transformer" or (edits["model_type"] == "auto" and _attends(model))

        def watched(numbered: tuple[int, Mapping[str, Any]]) -> Mapping[str, Any]:
            self.progress(0.5 * numbered[0] / len(samples), f"nncf_int8: sample {numbered[0] + 1} of {len(samples)}")
            return numbered[1]

        from nncf.quantization.range_estimator import RangeEstimatorParametersSet as Ranges

        ranges = {
            "minmax": Ranges.MINMAX,
            "mean_minmax": Ranges.MEAN_MINMAX,
            "quantile": Ranges.MEAN_QUANTILE,
        }[edits["calibration"]]
        with _quiet(nncf), signal_stack():
            try:
                quantised = nncf.quantize(
                    model,
                    nncf.Dataset(list(enumerate(samples)), watched),
                    preset=nncf.QuantizationPreset(edits["preset"]),
                    subset_size=len(samples),
                    model_type=nncf.ModelType.TRANSFORMER if is_transformer else None,
                    fast_bias_correction=edits["bias_correction"] == "fast",
                    advanced_parameters=nncf.AdvancedQuantizationParameters(activations_range_estimator_params=ranges),
                )
            except (nncf.ValidationError, nncf.InternalError, nncf.UnsupportedModelError, RuntimeError) as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()]
                raise RefusedError(
                    f"NNCF cannot quantise the network: {(lines or [type(error).__name__])[-1][:200]}"
                ) from error
        counts = Counter(each.get_type_name() for each in quantised.get_ops())
        self.note(f"{counts['FakeQuantize']} places rounded{', as a transformer' if is_transformer else ''}")
        save_ir(quantised, file)


def _single(feeds: Iterable[Mapping[str, Any]], most: int) -> Iterator[dict[str, Any]]:
    """One sample after another: NNCF takes statistics of activations per call."""
    taken = 0
    for batch in feeds:
        for at in range(len(next(iter(batch.values())))):
            if taken == most:
                return
            taken += 1
            yield {name: each[at : at + 1] for name, each in batch.items()}


def _attends(model: Any) -> bool:
    """Whether a softmax goes into a matrix product."""
    kinds = {each.get_type_name() for each in model.get_ops()}
    if "ScaledDotProductAttention" in kinds:
        return True
    return any(
        target.get_node().get_type_name() == "MatMul"
        for each in model.get_ops()
        if each.get_type_name() == "Softmax"
        for target in each.output(0).get_target_inputs()
    )


@contextmanager
def _quiet(nncf: Any) -> Iterator[None]:
    """Its bars and its advice are none of the user's business: the host shows how far the work is."""
    logger = logging.getLogger("nncf")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.filterwarnings("ignore", module=r"nncf\..*")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
