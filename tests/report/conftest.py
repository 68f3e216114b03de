"""A run's JSON and evidence as a real study would leave them, from a seed."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

PROXIES = ("diswot", "nwot", "synflow")


def architecture(rng: random.Random) -> tuple[str, int, int]:
    depths = [rng.randint(1, 4) for _ in range(3)]
    widths = sorted(rng.choice((8, 12, 16, 24, 32, 48, 64)) for _ in range(3))
    params = sum(18 * d * w * w for d, w in zip(depths, widths, strict=True)) + 640
    macs = sum(18 * d * w * w * s * s for d, w, s in zip(depths, widths, (28, 14, 7), strict=True))
    name = f"cifar_resnet-d{'.'.join(map(str, depths))}-w{'.'.join(map(str, widths))}"
    return name, params, macs


def make_evidence(seed: int = 0, n: int = 400, trials: int = 16, epochs: int = 12) -> dict[str, Any]:
    rng = random.Random(seed)
    candidates = []
    for _ in range(n):
        name, params, macs = architecture(rng)
        quality = math.log(params) / 13 + rng.gauss(0, 0.05)
        candidates.append(
            {
                "key": f"{rng.getrandbits(48):012x}",
                "architecture": name,
                "params": params,
                "macs": macs,
                "scores": {proxy: quality * 10 + rng.gauss(0, 0.6) for proxy in PROXIES},
                "score": quality + rng.gauss(0, 0.03),
                "kept": False,
                "feasible": params < 120_000,
            }
        )
    for each in sorted((c for c in candidates if c["feasible"]), key=lambda c: -c["score"])[:8]:
        each["kept"] = True
    kept = [c for c in candidates if c["kept"]] or candidates[:1]
    tried = []
    for number in range(trials):
        parent = rng.choice(kept)
        state = (
            ("complete", "complete", "complete", "complete", "pruned", "failed")[rng.randrange(6)]
            if number
            else "complete"
        )
        accuracy = 0.88 + 0.05 * rng.random() + 0.01 * math.log(parent["params"] / 3e4) + 0.0005 * number
        tried.append(
            {
                "number": number,
                "architecture": parent["architecture"],
                "values": {
                    "recipe.distillers[0].weight": rng.uniform(0.2, 4),
                    "recipe.train.lr": 10 ** rng.uniform(-4, -2),
                },
                "state": state,
                "objectives": {} if state == "failed" else {"accuracy": accuracy - (0.06 if state == "pruned" else 0)},
                "feasible": number % 7 != 5,
                "params": parent["params"],
                "macs": parent["macs"],
                "bytes": parent["params"] * 4 + 2100,
                "latency_ms": parent["macs"] / 4e7,
                "error": "loss became NaN in step 40" if state == "failed" else "",
            }
        )
    curves = {}
    for name, top in (("student", 0.975), ("baseline", 0.92), ("all_labels", 0.985)):
        curves[name] = [
            {
                "epoch": at + 1,
                "loss": 2.2 * math.exp(-at / 4) + 0.12 + 0.03 * rng.random() + (0.4 if name == "student" else 0),
                "terms": {"task": 2 * math.exp(-at / 4), "kd": 1.2 * math.exp(-at / 5)} if name == "student" else {},
                "score": top - 0.5 * math.exp(-at / 2) + rng.gauss(0, 0.004),
            }
            for at in range(epochs)
        ]
    finals = []
    for trial in tried:
        if trial["state"] == "complete":
            parent = next(c for c in kept if c["architecture"] == trial["architecture"])
            accuracy = trial["objectives"]["accuracy"]
            finals.append(
                {"architecture": trial["architecture"], "scores": dict(parent["scores"]), "accuracy": accuracy}
            )
    ladder = [
        ("teacher", 0.9842, 4_210_688, 1_052_672, 61_000_000, 3.91),
        ("student", 0.9726, 345_864, 86_466, 4_900_000, None),
        ("pruned", 0.9711, 290_112, 72_528, 3_900_000, None),
        ("onnx-fp32", 0.9711, 294_118, 72_528, 3_900_000, 0.212),
        ("onnx-int8", 0.9705, 98_304, 72_528, 3_900_000, 0.131),
        ("onnx-int4", 0.9668, 61_377, 72_528, 3_900_000, 0.298),
    ]
    return {
        "candidates": candidates,
        "trials": tried,
        "objectives": {"accuracy": "max"},
        "curves": curves,
        "ladder": [
            {
                "name": name,
                "accuracy": accuracy,
                "interval": [accuracy - 0.011, accuracy + 0.008],
                "bytes": size,
                "params": params,
                "macs": macs,
                "latency_ms": latency,
            }
            for name, accuracy, size, params, macs, latency in ladder
        ],
        "finals": finals,
    }


def make_result(architecture: str = "cifar_resnet-d1.2.2-w16.24.32") -> dict[str, Any]:
    def export(
        name: str, size: int, accuracy: float, latency: float, share: dict[str, float], slower: bool
    ) -> dict[str, Any]:
        return {
            "format": name,
            "path": f"export/student.{name}.onnx",
            "bytes": size,
            "accuracy": accuracy,
            "parity_max_abs": 2.4e-6 if name == "onnx-fp32" else 0.0713,
            "top1_agreement": 1.0 if name == "onnx-fp32" else 0.9917,
            "latency_ms": {"min": latency * 0.93, "median": latency},
            "weight_share": share,
            "slower_than_fp32": slower,
        }

    return {
        "study": "digits-quickstart",
        "dir": "digits-quickstart",
        "seed": 3,
        "teacher": {"params": 1_052_672, "accuracy": 0.9842, "architecture": "cifar_resnet-d3.3.3-w64.128.128"},
        "student": {
            "architecture": architecture,
            "params": 72_528,
            "macs": 3_900_000,
            "accuracy": 0.9711,
            "recipe": {
                "task_weight": 1.0,
                "distillers": [
                    {"use": "kd", "weight": 2.31, "options": {"temperature": 4.0}},
                    {"use": "dkd", "weight": 0.4},
                ],
                "train": {"optimizer": "adamw", "lr": 0.002, "batch_size": 128},
            },
        },
        "baseline": {"accuracy": 0.9139},
        "all_labels": {"accuracy": 0.9802},
        "exports": [
            export("onnx-fp32", 294_118, 0.9711, 0.212, {"4": 0.0, "8": 0.0, "16": 0.0, "32": 1.0}, False),
            export("onnx-int8", 98_304, 0.9705, 0.131, {"4": 0.0, "8": 0.982, "16": 0.0, "32": 0.018}, False),
            export("onnx-int4", 61_377, 0.9668, 0.298, {"4": 0.911, "8": 0.071, "16": 0.0, "32": 0.018}, True),
        ],
        "recommended": {"format": "onnx-int8", "why": "It is the smallest file that is no slower than fp32."},
        "refused": [
            {"format": "onnx-int3", "reason": "accuracy fell by 0.031, more than 0.010, on the validation split"}
        ],
        "metrics": {"accuracy": 0.9711, "f1_macro": 0.9698, "nll": 0.1042},
        "report": "report/index.html",
        "seconds": {"prepare": 21.4, "search": 33.08, "refine": 48.2, "distill": 31.9, "compress": 9.13, "export": 6.2},
        "notes": ["Selection saw 36 labels; the rest of validation was scored by agreement with the teacher."],
        "data": {
            "classes": [str(digit) for digit in range(10)],
            "counts": {
                "train": {str(d): 100 + d for d in range(10)},
                "validation": {str(d): 20 for d in range(10)},
                "test": {str(d): 35 + d % 3 for d in range(10)},
            },
            "labeled": 144,
            "unlabeled": 1293,
            "source": "scikit-learn digits",
        },
        "compare": [
            {"name": "winner", "params": 72_528, "accuracy": 0.9688},
            {"name": "largest feasible", "params": 118_912, "accuracy": 0.9701},
            {"name": "random 1", "params": 31_010, "accuracy": 0.9431},
            {"name": "random 2", "params": 55_102, "accuracy": 0.9525},
        ],
        "constraints": {
            "params": 120_000,
            "macs": 3_000_000,
            "onnx_bytes": 500_000,
            "latency_ms": {"max": 1.0, "threads": 1},
        },
        "provenance": {
            "kdsearch": "0.1.0",
            "torch": "2.9.1",
            "hardware": {"cpu": "x86_64, 2 cores"},
            "teacher": "9c1f" * 16,
        },
    }


@pytest.fixture
def result() -> dict[str, Any]:
    return make_result()


@pytest.fixture
def evidence() -> dict[str, Any]:
    return make_evidence()
