"""Scores from the Jacobian of the summed outputs by the inputs, one row a sample; as coded by their authors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdsearch.kinds import HIDDEN, Batch, Model, NoOptions, Probe, Proxy
from kdsearch.ops.undisturbed import undisturbed
from kdsearch_plugins.zero_cost.loss import finite, labelled
from kdsearch_plugins.zero_cost.tokens import continuous, in_units, looked_up

K = 1e-5
MANY_CLASSES = 100  # beyond, epe_nas compares classes with one another


def input_jacobian(student: Model, probe: Probe) -> Tensor:
    """(B, D), float64: d(sum of outputs)/d(inputs), all inputs side by side, by standard deviations of those that have units;
    token ids count by their embeddings.

    D is 0 where no input is continuous. One forward pass in train mode and the backward pass to the inputs.
    """

    def make() -> Tensor:
        leaves: dict[str, Tensor] = {}
        for name in continuous(student, probe, probe.batch):
            leaves[name] = probe.batch[name].detach().clone().requires_grad_()

        def vectors(out: Tensor) -> Tensor:
            leaf = out.detach().requires_grad_()
            leaves[f"embedding {len(leaves)}"] = leaf
            return leaf.clone()

        batch = probe.batch.having(**leaves)
        with undisturbed(student.module), torch.enable_grad(), looked_up(student, batch, vectors):
            out = probe.task.call(student, batch)
            total = torch.stack([value.sum() for value in out.values() if value.is_floating_point()]).sum()
            known = list(leaves.values())
            rows = torch.autograd.grad(total, known, allow_unused=True) if known and total.requires_grad else ()
        by_name = zip(leaves, rows, strict=False)
        flat = [in_units(probe, name, row.double()).flatten(1) for name, row in by_name if row is not None]
        return torch.cat(flat, 1) if flat else torch.zeros(len(batch), 0, dtype=torch.float64)

    return probe.shared(student, "zero_cost.jacobian", make)


def correlations(rows: Tensor) -> Tensor | None:
    """Pearson correlation of the rows: (B, D) -> (B, B); None where a row is constant or not finite: it has none."""
    centred = rows - rows.mean(1, keepdim=True)
    largest = centred.abs().amax(1, keepdim=True) if rows.shape[1] else torch.zeros(len(rows), 1)
    if not bool(((largest > 0) & torch.isfinite(largest)).all()):
        return None
    unit = torch.nn.functional.normalize(centred / largest, dim=1)
    return unit @ unit.mT


class JacobCov(Proxy[NoOptions]):
    """-sum ln(v + k) + 1/(v + k), v the eigenvalues of the correlation of J's rows, k = 1e-5.

    Source: Mellor et al., first version (2020, arXiv 2006.04647v1). -inf: a sample that moves nothing.
    """

    def score(self, student: Model, probe: Probe) -> float:
        corr = correlations(input_jacobian(student, probe))
        if corr is None:
            return -math.inf
        v = torch.linalg.eigvalsh(corr).clamp(min=0) + K  # rounding may make them negative
        return finite(-float((v.log() + 1 / v).sum()))


class EpeNas(Proxy[NoOptions]):
    """How alike J's rows are within each class (Lopes et al., EPE-NAS, ICANN 2021, arXiv 2102.08099), one label a sample.

    s_c = sum ln(|corr| + k) over the class's pairs. Up to 100 classes: sum |s_c|. Beyond: s_c by the number of its samples,
    the mean over classes of sum_j |s_c - s_j|; a class with one sample then counts nothing, and below 1e-5.
    """

    needs_classes = True

    def score(self, student: Model, probe: Probe) -> float:
        rows, batch = input_jacobian(student, probe), labelled(probe)
        labels, is_many = batch["label"].cpu(), class_count(student, probe, batch) > MANY_CLASSES
        sums = []
        for label in torch.unique(labels[labels != HIDDEN]):
            of_class = correlations(rows[labels == label])
            if of_class is None:
                return -math.inf
            if is_many and len(of_class) < 2:
                continue
            logs = float((of_class.abs() + K).log().sum())
            sums.append(logs / len(of_class) if is_many else logs)
        if not sums:
            return -math.inf
        s = torch.tensor(sums, dtype=torch.float64)
        return finite(float((s[:, None] - s).abs().sum() / len(s) if is_many else s.abs().sum()))


def class_count(student: Model, probe: Probe, batch: Batch) -> int:
    """K of the task's first output, or where it does not say one more than the largest label."""
    sizes = [each.shape[0] for each in probe.io.outputs if each.name == student.outputs[0] and each.shape]
    return sizes[0] if sizes and sizes[0] is not None else int(batch["label"].max()) + 1
