"""The programs that lie beside exported files, without kdsearch: images in, or what a data set's own `prepare.py` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping

_TEXT = """\
\"\"\"Classes of images, by a file that says itself how images are prepared and what its classes are called.

    python predict.py IMAGE... [--model FILE.onnx] [--top 3]

Needs numpy, onnxruntime and, for image files, pillow. An image is a picture, or a .npy array (H, W), (H, W, C) or (C, H, W) of
values as the study's data had them.
\"\"\"

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime would report to its maker

import numpy as np
import onnxruntime

BILINEAR = 2  # of pillow
READABLE = "1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"  # 8 bits a channel: deeper ones would be clipped


def picture(file, told, inside):
    \"\"\"(1, H, W, C) or (1, C, H, W), 0..255: what a file reads that prepares images itself.\"\"\"
    channels, (height, width) = told["channels"], told["size"]
    low, high = told["range"]
    if inside["input"] == "any_size" and Path(file).suffix != ".npy":
        image = upright(file, channels)
        found = np.asarray(image, np.float32).reshape(image.height, image.width, channels).transpose(2, 0, 1)
    else:
        found = (pixels(file, told) - low) / (high - low) * 255
    found = found.round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(found.transpose(1, 2, 0) if inside["layout"] == "hwc" else found)[None]


def upright(file, channels):
    \"\"\"The picture as its EXIF turns it, grey or RGB, on white where it is transparent.\"\"\"
    from PIL import Image, ImageOps

    with Image.open(file) as opened:
        if opened.mode not in READABLE:
            raise ValueError(f"pixel mode '{opened.mode}'; expected 8 bits a channel, grey, palette or colour")
        image = ImageOps.exif_transpose(opened)
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def pixels(file, told):
    \"\"\"(C, H, W) in the values that the study's data had.\"\"\"
    channels, (height, width) = told["channels"], told["size"]
    if Path(file).suffix == ".npy":
        found = np.load(file, allow_pickle=False).astype(np.float32)
        if found.ndim == 2:
            found = found[None]
        elif found.shape[0] != channels and found.shape[-1] == channels:
            found = found.transpose(2, 0, 1)
    else:
        image = upright(file, channels)
        if image.size != (width, height):  # the shorter side to the network's, then the middle, rounded as torchvision does
            if image.width * height <= image.height * width:
                size = width, max(height, int(width * image.height / image.width))
            else:
                size = max(width, int(height * image.width / image.height)), height
            image = image.resize(size, BILINEAR)
            left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
            image = image.crop((left, top, left + width, top + height))
        low, high = told["range"]
        found = np.asarray(image, np.float32).reshape(height, width, channels).transpose(2, 0, 1) / 255 * (high - low) + low
    if found.shape != (channels, height, width):
        raise ValueError(f"{found.shape}; expected {(channels, height, width)}")
    return found


def prepared(file, told):
    mean, std = (np.asarray(told[name], np.float32).reshape(-1, 1, 1) for name in ("mean", "std"))
    return ((pixels(file, told) / told["scale"] - mean) / std)[None].astype(np.float32)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition(chr(10))[0])
    parser.add_argument("images", nargs="+")
    parser.add_argument("--model", default=Path(__file__).with_name(MODEL))
    parser.add_argument("--top", type=int, default=3)
    asked = parser.parse_args()
    if not Path(asked.model).is_file():
        parser.error(f"{asked.model}: no such file")
    try:
        session = onnxruntime.InferenceSession(str(asked.model), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has kinds of its own
        parser.error(f"{asked.model}: {error}")
    about = session.get_modelmeta().custom_metadata_map
    if not {"preprocessing", "labels"} <= about.keys():
        parser.error(f"{asked.model}: does not say how images are prepared and what its classes are called")
    told, labels = json.loads(about["preprocessing"]), json.loads(about["labels"])
    inside = json.loads(about.get("inside", '{"input": "prepared", "output": "raw"}'))
    failed = False
    for file in asked.images:
        try:
            fed = prepared(file, told) if inside["input"] == "prepared" else picture(file, told, inside)
        except Exception as error:  # is not there, or is no such image: of damaged ones pillow and numpy raise anything
            print(f"{file}: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
            failed = True
            continue
        answer = session.run(None, {session.get_inputs()[0].name: fed})[0][0]
        if inside["output"] == "class":
            print(f"{file}: {labels[int(answer)]}")
            continue
        probs = answer.astype(np.float64)
        if inside["output"] == "raw":
            probs = np.exp(probs - probs.max())
            probs /= probs.sum()
        best = np.argsort(-probs, kind="stable")[: asked.top]
        print(f"{file}: " + ", ".join(f"{labels[i]} {probs[i]:.1%}" for i in best))
    sys.exit(2 if failed else 0)


if __name__ == "__main__":
    main()
"""


_PREPARED = """\
\"\"\"Answers for samples, which prepare.py beside this file makes ready.

    python predict.py SAMPLE... [--model FILE.onnx] [--top 3]

Needs numpy, onnxruntime and what prepare.py needs. A line a sample: its class, or its classes with their probabilities; the
probability of each label, or each number, by name; or else what the file answers, by the outputs' names, as JSON.
\"\"\"

import argparse
import json
import os
import runpy
import sys
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime would report to its maker

import numpy as np
import onnxruntime

HERE = Path(__file__).parent
FILES = {name: HERE / file for name, file in BESIDE.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition(chr(10))[0])
    parser.add_argument("samples", nargs="+")
    parser.add_argument("--model", default=HERE / MODEL)
    parser.add_argument("--top", type=int, default=3)
    asked = parser.parse_args()
    if not Path(asked.model).is_file():
        parser.error(f"{asked.model}: no such file")
    prepare = runpy.run_path(str(FILES["prepare.py"]))["inputs"]
    try:
        session = onnxruntime.InferenceSession(str(asked.model), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has kinds of its own
        parser.error(f"{asked.model}: {error}")
    labels = json.loads(session.get_modelmeta().custom_metadata_map.get("labels", "[]"))
    names = [each.name for each in session.get_outputs()]
    failed = False
    for sample in asked.samples:
        try:
            fed = prepare(sample, FILES)
        except ValueError as error:
            print(f"{sample}: {error}", file=sys.stderr)
            failed = True
            continue
        feeds = {each.name: fed[each.name] for each in session.get_inputs()}
        found = dict(zip(names, session.run(None, feeds)))
        if labels and list(found) == ["class"] and found["class"].shape == (1,):
            print(f"{sample}: {labels[int(found['class'][0])]}")
        elif labels and list(found) in (["logits"], ["probabilities"]) and list(found.values())[0].shape == (1, len(labels)):
            probs = list(found.values())[0][0].astype(np.float64)
            if "logits" in found:
                probs = np.exp(probs - probs.max())
                probs /= probs.sum()
            best = np.argsort(-probs, kind="stable")[: asked.top]
            print(f"{sample}: " + ", ".join(f"{labels[i]} {probs[i]:.1%}" for i in best))
        elif labels and list(found) in (["scores"], ["value"]) and list(found.values())[0].shape == (1, len(labels)):
            given = found.get("value", found.get("scores"))[0].astype(np.float64)
            if "scores" in found:  # each label by itself
                given = 1 / (1 + np.exp(-given))
            said = given.round(4).tolist() if "scores" in found else [float(f"{each:.7g}") for each in given]
            print(f"{sample}: " + json.dumps(dict(zip(labels, said))))
        else:
            print(f"{sample}: " + json.dumps({name: value[0].tolist() for name, value in found.items()}))
    sys.exit(2 if failed else 0)


if __name__ == "__main__":
    main()
"""


def prepared_text(model: str, files: Mapping[str, str]) -> str:
    """The program for files whose data set carries a `prepare.py`; `files`: its name of each -> that of the file beside."""
    return _PREPARED.replace("HERE / MODEL", f"HERE / {json.dumps(model)}").replace(
        "BESIDE.items", f"{json.dumps(dict(files))}.items"
    )


def is_predict(text: str) -> bool:
    """Whether a file is this program, whatever model it runs."""
    return text.startswith(_TEXT.partition('parser.add_argument("--model"')[0])


def predict_text(model: str) -> str:
    """The program; `model`: name of the file that it runs unless told otherwise, beside it."""
    return _TEXT.replace("with_name(MODEL)", f"with_name({json.dumps(model)})")
