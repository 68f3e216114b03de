"""The study that `kdsearch init` writes: every section that people change, with what it means."""

from __future__ import annotations

from kdsearch.study.load import name_of

_TEXT = """\
# yaml-language-server: $schema=./SCHEMA
# A kdsearch study. Check it: kdsearch validate FILE    Run it: kdsearch run FILE    (killed, the same command goes on)
#
# Every capability is `use: NAME` with its own `options:`; `kdsearch plugins` lists the names, `kdsearch plugins show NAME`
# the options. In `recipe` and `student` a value may be fixed, `search` (the range that the option declares), or a range of
# your own: {low: 0.1, high: 10, log: true} or {choices: [1, 2, 4]}.
format: 1
name: NAME
seed: 0

data:
  use: digits              # 1,797 handwritten digits that come with scikit-learn; `kdsearch data` lists others
  options: {resize: 16}
  labeled: 0.1             # you have labels for a tenth of the images only; the teacher speaks for the others

teacher:
  use: trained             # trained by this study; or your own: timm, safetensors, onnx, a Python path
  options:
    space: cifar_resnet
    spec: {depths: [1, 1, 1], widths: [16, 32, 64]}
    epochs: 15
    batch_size: 64
    lr: 0.005

student:
  space: cifar_resnet      # what `spec` leaves out is searched over the ranges that the space declares
  spec: {depths: {choices: [1, 2, 3]}, widths: {choices: [4, 8, 12, 16, 24, 32]}}

recipe:                    # fixed, so that a few trials compare architectures; what says `search` here needs more trials
  distillers:
    - use: kd
      weight: 4.0          # in units of the task's loss at the start of training; or `search`
      options: {temperature: 4.0}
    # - {use: fitnet, optional: true, weight: search}    # optional: the search may drop it
  train: {optimizer: adamw, lr: 0.005, batch_size: 64}

objectives: {accuracy: max}                # on the validation split; the test split is read after the last choice only
constraints:
  params: 20000
  macs: 1000000            # multiply-accumulates for one image

search:                                    # without training
  proxy: auto                              # or names, combined by rank: [diswot, nwot]
  candidates: 100
refine: {trials: 4, epochs: 3}             # short trainings: architectures, and recipes where they are searched
distill: {winners: 1, epochs: 12, controls: [baseline, all_labels]}
compress:
  prune: null                              # or {use: channels, options: {macs: 0.8}, recover_epochs: 6}
  quantize:
    - use: int8
    - use: int4
export:
  formats: [onnx-fp32, onnx-int8, onnx-int4]
  max_drop: {onnx-int8: 0.02, onnx-int4: 0.03}          # a file that loses more quality than this is not written,
  min_agreement: {onnx-int8: 0.95, onnx-int4: 0.9}      # nor one that gives fewer answers as torch does
run: {workers: 1, threads_per_trial: 1, device: auto}
"""


def study_text(file: str, schema: str) -> str:
    """The study's text. `file`: its name, whose stem names the study; what a study's name cannot hold becomes '-'."""
    text = _TEXT.replace("SCHEMA", schema, 1).replace("name: NAME", f"name: {name_of(file)}", 1)
    return text.replace("validate FILE", f"validate {file}").replace("run FILE", f"run {file}")
