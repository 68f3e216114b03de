"""Writes with exported networks, a token after another: the program that lies beside them. It needs numpy and onnxruntime.

python NAME-generate.py MODEL.onnx "The value of"                 continues a text (task causal_lm)
python NAME-generate.py ENCODER.onnx DECODER.onnx "a text"        writes the target of a text (task seq2seq)
"""

import argparse
import json
import os
import runpy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # onnxruntime would report to its maker

import numpy as np

HERE = Path(__file__)
Next = Callable[[Sequence[int]], "np.ndarray[Any, Any]"]  # ids so far -> (V,) logits of what follows


def written(follows: Next, begun: Sequence[int], boundary: int, most: int, temperature: float, seed: int) -> list[int]:
    """At most `most` ids after those `begun`, up to the boundary; the likeliest each time, or drawn where `temperature` > 0."""
    rng, ids = np.random.default_rng(seed), list(begun)
    while len(ids) < len(begun) + most:
        logits = follows(ids).astype(np.float64)
        logits[:boundary] = -np.inf  # padding and unknown tokens are nothing to write
        if temperature > 0:
            logits = logits / temperature + rng.gumbel(size=len(logits))
        if int(logits.argmax()) == boundary:
            break
        ids.append(int(logits.argmax()))
    return ids[len(begun) :]


def beside(name: str) -> Path:
    """The file of this name, which has the study's name before it where this one has it."""
    return HERE.with_name(HERE.name.replace("generate.py", name))


def fed(session: Any, given: dict[str, Any]) -> Any:
    """The first output, for the inputs that the file reads."""
    return session.run(None, {each.name: given[each.name] for each in session.get_inputs()})[0]


def row(ids: Sequence[int]) -> "np.ndarray[Any, np.dtype[np.int64]]":
    return np.asarray([list(ids)], np.int64)


def main() -> None:
    import onnxruntime

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="one file that continues texts, or an encoder and a decoder")
    parser.add_argument("text")
    parser.add_argument("--most", type=int, default=100, help="tokens that are written")
    parser.add_argument(
        "--temperature", type=float, default=0.0, help="0 = the likeliest token each time; else they are drawn"
    )
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    tools = runpy.run_path(str(beside("prepare.py")))
    about = json.loads(beside("tokenizer.json").read_text(encoding="utf-8"))
    numbers, boundary = tools["numbered"](about), tools["SEPARATOR"]
    pieces = [""] * (boundary + 1) + list(about["vocabulary"])
    ids = [numbers.get(piece, tools["UNKNOWN"]) for piece in tools["pieces"](asked.text, about)]
    files = []
    for file in asked.models:
        try:
            files.append(onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]))
        except Exception as error:  # onnxruntime has kinds of its own
            parser.error(f"{file}: {error}")
    remembers = [file.get_outputs()[0].name == "memory" for file in files]
    if remembers not in ([False], [True, False]):
        parser.error(f"{' '.join(asked.models)}: expected one file that continues texts, or an encoder and its decoder")
    if len(files) == 1:
        begun = [boundary, *ids]

        def follows(so_far: Sequence[int]) -> Any:
            read = row(so_far[-about["max_length"] :])
            return fed(files[0], {"tokens": read, "mask": np.ones_like(read)})[0, -1]

    else:
        begun, read = [boundary], row(ids or [tools["UNKNOWN"]])  # as training has a text without a token
        given = {"tokens": read, "mask": np.ones_like(read)}
        given["memory"] = fed(files[0], given)

        def follows(so_far: Sequence[int]) -> Any:
            prefix = row(so_far)
            return fed(files[1], {**given, "prefix": prefix, "prefix_mask": np.ones_like(prefix)})[0, -1]

    most = asked.most if len(files) == 1 else min(asked.most, about["max_length"])
    between = " " if about["level"] == "word" else ""
    answer = between.join(pieces[i] for i in written(follows, begun, boundary, most, asked.temperature, asked.seed))
    print(asked.text + between + answer if len(files) == 1 else answer)


if __name__ == "__main__":
    main()
