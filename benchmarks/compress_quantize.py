"""The quantisation half of `compress.py`: kdsearch's `int8` and `int4` by default beside onnxruntime's own, as its pages use them.

All get the same fp32 file of the same trained network and the same training samples: onnxruntime's static quantisation (QDQ,
all defaults, after its pre-processing; and a scale a channel), its dynamic one, and the 4 bits of its MatMulNBits quantizer (by
rounding, and HQQ). The distilled network is the same architecture from another seed, trained on labels and the first one's answers;
`drop` is in points of accuracy against the fp32 file of the same weights. Networks that take any size are also timed at `--large`
pixels. Olive's passes (`pip install olive-ai requests`) with all their defaults: static and dynamic 8 bits, 4 bits by rounding and
by HQQ. It reports to its maker by default, which is turned off.
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_nets import Images, trained
from subjects import Subject, file_accuracy, latencies
from torch.nn import functional as F

from kdsearch.deploy.audit import weight_share
from kdsearch.host import Host
from kdsearch.kinds import Compressor
from kdsearch.study.schema import Use
from kdsearch.training.materials import make

Feeds = Sequence[dict[str, np.ndarray[Any, Any]]]
Quantize = Callable[[Path, Path, Feeds], None]  # fp32 file, file to write, calibration samples
FEW = 32  # samples that ranges at the large size are taken from: only its latency is told


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--calibration", type=int, default=256, help="training samples that quantizers see")
    parser.add_argument("--distilled", default="", help="networks that are also distilled; default: all")
    parser.add_argument("--large", type=int, default=224, help="pixels of a side; 0 = not timed")


def rows(subject: Subject, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """Of the network trained on labels, the distilled one, and the first one at the large size."""
    arms = {**ours(), "ort static": static(), "ort static, per channel": static(per_channel=True), "ort dynamic": dynamic,
            "ort MatMulNBits": four_bits(hqq=False), "ort MatMulNBits, HQQ": four_bits(hqq=True),
            "Olive static": olive("OnnxStaticQuantization"), "Olive dynamic": olive("OnnxDynamicQuantization"),
            "Olive RTN": olive("OnnxBlockWiseRtnQuantization"), "Olive HQQ": olive("OnnxHqqQuantization")}  # fmt: skip
    found = of_network(subject, "", arms, asked.calibration)
    if subject.name in (asked.distilled or subject.name).split(","):
        kept = subject.folder.parents[1] / "nets"
        net = trained(subject.name, subject.data, subject.seed + 1000, kept, asked.epochs, subject.net)
        found += of_network(replace(subject, net=net), "distilled: ", ours(), asked.calibration)
    return found + at_large(subject, asked.large, arms)


def at_large(subject: Subject, size: int, arms: dict[str, Quantize]) -> list[dict[str, Any]]:
    """Latencies at that size, of networks that take any."""
    if not size or fixed_size(subject, size):
        return []
    few = {name: arm for name, arm in arms.items() if "int8" in name or "static" in name}
    return of_network(at_size(subject, size), f"{size} pixels: ", few, FEW, judged=False)


def of_network(
    subject: Subject,
    prefix: str,
    arms: dict[str, Quantize],
    samples: int,
    judged: bool = True,
) -> list[dict[str, Any]]:
    """A row for the fp32 file and for each arm; latencies of all of them in turns."""
    stem = "".join(each if each.isalnum() else "-" for each in prefix)
    fp32, data = subject.fp32(subject.net, f"{stem}fp32"), subject.data
    pixels = data.splits["train"][0]
    index = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(subject.seed))[:samples]
    feeds = [{"image": each.numpy()} for each in pixels[index].split(32)]
    whole = file_accuracy(fp32, data) if judged else None
    found: list[dict[str, Any]] = [{"arm": f"{prefix}fp32", "accuracy": whole, "file": str(fp32), "failure": None}]
    for name, quantize in arms.items():
        file = subject.folder / f"{stem}{''.join(each if each.isalnum() else '-' for each in name)}.onnx"
        row: dict[str, Any] = {"arm": prefix + name, "failure": None}
        began = time.process_time()
        try:
            quantize(fp32, file, feeds)
            row |= {"seconds": time.process_time() - began, "file": str(file)}
            share = weight_share(file, fp32)
            row |= {"share_4": share["4"], "share_8": share["8"]}
            if whole is not None:
                row["accuracy"] = file_accuracy(file, data)
                row["drop"] = 100 * (whole - row["accuracy"])
        except Exception as error:  # whatever a tool raises is what this benchmark tells
            row = {"arm": prefix + name, "failure": f"{type(error).__name__}: {str(error)[:200]}"}
        found.append(row)
    latencies(found)
    for row in found:
        if "latency_ms" in row:
            row["ratio"] = row["latency_ms"] / found[0]["latency_ms"]
    return found


def ours() -> dict[str, Quantize]:
    def by(use: str) -> Quantize:
        def quantize(fp32: Path, file: Path, feeds: Feeds) -> None:
            made: Compressor[Any] = make(Host.load(), "quantizer", Use(use=use, options={}), "quantize")
            shutil.copyfile(fp32, file)
            made.rewrite(file, made.plan(None), feeds)  # type: ignore[arg-type]  # their plans are their options

        return quantize

    return {"kdsearch int8": by("int8"), "kdsearch int4": by("int4")}


def static(**options: Any) -> Quantize:
    def quantize(fp32: Path, file: Path, feeds: Feeds) -> None:
        from onnxruntime.quantization import CalibrationDataReader, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.left: Iterator[dict[str, Any]] = iter(feeds)

            def get_next(self) -> dict[str, Any] | None:
                return next(self.left, None)

        ready = file.with_suffix(".ready.onnx")
        quant_pre_process(str(fp32), str(ready))
        quantize_static(str(ready), str(file), Reader(), **options)

    return quantize


def dynamic(fp32: Path, file: Path, feeds: Feeds) -> None:
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    ready = file.with_suffix(".ready.onnx")
    quant_pre_process(str(fp32), str(ready))
    quantize_dynamic(str(ready), str(file))


def four_bits(hqq: bool) -> Quantize:
    def quantize(fp32: Path, file: Path, feeds: Feeds) -> None:
        import onnx
        from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig, MatMulNBitsQuantizer

        config = HQQWeightOnlyQuantConfig(block_size=32) if hqq else None
        made = MatMulNBitsQuantizer(onnx.load(fp32), block_size=32, is_symmetric=True, algo_config=config)
        made.process()
        made.model.save_model_to_file(str(file))

    return quantize


def olive(name: str) -> Quantize:
    """By the pass of this name, which calibrates, where it does, with the same samples."""

    def quantize(fp32: Path, file: Path, feeds: Feeds) -> None:
        os.environ.setdefault("OLIVE_DISABLE_TELEMETRY", "1")
        from olive.data.registry import Registry
        from olive.model import ONNXModelHandler
        from olive.package_config import OlivePackageConfig
        from olive.passes.olive_pass import create_pass_from_dict

        class Samples(torch.utils.data.Dataset[tuple[dict[str, np.ndarray[Any, Any]], int]]):
            def __len__(self) -> int:
                return sum(len(feed["image"]) for feed in feeds)

            def __getitem__(self, i: int) -> tuple[dict[str, np.ndarray[Any, Any]], int]:
                return {"image": feeds[i // len(feeds[0]["image"])]["image"][i % len(feeds[0]["image"])]}, 0

        Registry.register_dataset("kdsearch_samples")(lambda **_: Samples())
        options: dict[str, Any] = {}
        if name == "OnnxStaticQuantization":
            options["data_config"] = {"name": "samples", "load_dataset_config": {"type": "kdsearch_samples"}}
        kind = OlivePackageConfig.load_default_config().import_pass_module(name)
        made = create_pass_from_dict(kind, options, disable_search=True)
        made.run(ONNXModelHandler(str(fp32)), str(file))

    return quantize


def fixed_size(subject: Subject, size: int) -> bool:
    """Whether the network reads its own size alone."""
    try:
        with torch.no_grad():
            subject.net(torch.zeros(1, subject.data.channels, size, size))
    except (RuntimeError, AssertionError, ValueError):
        return True
    return False


def at_size(subject: Subject, size: int) -> Subject:
    """With training samples resized."""
    pixels, labels = subject.data.splits["train"]
    few = F.interpolate(pixels[:FEW], (size, size), mode="bilinear", antialias=True)
    return replace(subject, data=Images(subject.data.name, {"train": (few, labels[:FEW])}, subject.data.classes))
