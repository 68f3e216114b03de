"""Metric `any_subset`: how often an answer is right, whichever of a sample's modalities are missing."""

from __future__ import annotations

from itertools import product

import torch

from kdsearch.errors import DataError
from kdsearch.kinds import HIDDEN, DataSource, Measurement, Metric, NoOptions, Predict, Services
from kdsearch.kit.modalities import is_present, may_lack, without


class AnySubset(Metric[NoOptions]):
    """Mean over samples of the share of right answers over all of the sample's modalities that are not empty, in [0, 1].

    Also `with_all` and `with_one`: the same with everything that a sample has, and with one modality of it alone. Samples whose
    label is hidden are left out.
    """

    unit = "share"

    def measure(self, predict: Predict, data: DataSource, split: str, services: Services) -> dict[str, float]:
        samples, rows = data.split(split), []
        names = may_lack(each.name for each in data.fields if each.use == "input")
        for start in range(0, len(samples.ids), 256):
            whole = samples.load(range(start, min(start + 256, len(samples.ids))))
            whole = whole.rows(torch.nonzero(whole["label"] != HIDDEN)[:, 0])
            if not len(whole):
                continue
            had = torch.stack([is_present(whole, name) for name in names], 1)  # (B, M)
            hits, asked = torch.zeros(3, len(whole)), torch.zeros(3, len(whole))  # any, all, one
            for kept in product((True, False), repeat=len(names)):
                keeps = torch.tensor(kept)
                counts = (had >= keeps).all(1) & keeps.any()  # samples of which this is a subset
                if not counts.any():
                    continue
                some = whole.rows(torch.nonzero(counts)[:, 0])
                for name, keep in zip(names, kept, strict=True):
                    if not keep:
                        some = without(some, name)
                right = (predict(some)["logits"].argmax(1).cpu() == some["label"]).float()
                of = torch.stack([counts, counts & (had == keeps).all(1), counts & (keeps.sum() == 1)]).float()
                asked += of
                hits[:, counts] += of[:, counts] * right
            rows.append(hits / asked)
        if not rows:
            raise DataError(f"split '{split}' has no label", expected="at least one")
        every = torch.cat(rows, 1).double()
        values = dict(zip(("any_subset", "with_all", "with_one"), every.mean(1).tolist(), strict=True))
        return Measurement({**values, "n": float(every.shape[1])}, every[0])
