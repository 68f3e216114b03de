"""What does a training-free score cost over one plain forward pass? JSON: the ratio of each proxy, a seed a row, mean and spread.

The pass: the same networks, built the same way, channels-last, in `inference_mode`, batch 32, one thread. The network is built in
both, as a search builds each candidate once. Scores and passes take turns, network by network, so that a busy machine slows both;
CPU time, so that waiting counts nothing. Absolute rates stand beside the ratios.

    python benchmarks/scores.py [--space nb201] [--proxies diswot,auto,synflow] [--networks 24] [--seeds 3]
    python benchmarks/scores.py --all --proxies diswot     all of a finite space, isomorphic ones once (nb201: half an hour)
    python benchmarks/scores.py --memory 10000     resident memory over so many scores
    python benchmarks/scores.py --workers 2 --networks 600     wall time of one process over that of so many, their start included
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

from kdsearch.host import Host
from kdsearch.search.probe import channels_last
from kdsearch.store.hashing import stream
from kdsearch.verbs.scorers import Setting, open_scorer, open_space, scoring, terms_of


def networks(space: str, n: int, seed: int) -> list[Any]:
    found = open_space(space, Host.load(), ())
    rng = stream(seed, "benchmark")
    return [found.canonical(found.sample(rng)) for _ in range(n)]


def bare_pass(scorer: Any, spec: Any, inputs: list[torch.Tensor]) -> None:
    """Build and run once."""
    module = scorer.space.build(spec, scorer.io).module.to(memory_format=torch.channels_last).train()
    with torch.inference_mode():
        module(*inputs)


def seconds(call: Callable[..., Any], *arguments: Any) -> float:
    began = time.process_time()
    call(*arguments)
    return time.process_time() - began


def ratios(space: str, proxies: list[str], n: int, seed: int) -> dict[str, dict[str, float]]:
    specs = networks(space, n, seed)
    found = {}
    for name in proxies:
        scorer = open_scorer(Setting(space, terms_of([name]), seed=seed))
        batch = channels_last(scorer.task.dummy(scorer.io, 32, stream(seed, "batch")))
        inputs = [batch[each.name] for each in scorer.io.inputs]
        scorer.score(specs[0])
        bare_pass(scorer, specs[0], inputs)
        spent = {"score": 0.0, "bare": 0.0}
        for spec in specs:
            spent["bare"] += seconds(bare_pass, scorer, spec, inputs)
            spent["score"] += seconds(scorer.score, spec)
        found[name] = {
            "ratio": spent["score"] / spent["bare"],
            "archs_per_second": n / spent["score"],
            "bare_per_second": n / spent["bare"],
        }
    return found


def everything(space: str, proxy: str, seed: int) -> dict[str, float]:
    """All architectures of a finite space: finding the different ones and scoring them, over one pass of each of these."""
    scorer = open_scorer(Setting(space, terms_of([proxy]), seed=seed))
    batch = channels_last(scorer.task.dummy(scorer.io, 32, stream(seed, "batch")))
    inputs = [batch[each.name] for each in scorer.io.inputs]
    began = time.process_time()
    every = list(scorer.space.every())
    classes = {scorer.space.key(spec): scorer.space.canonical(spec) for spec in every}
    spent = {"finding_s": time.process_time() - began, "scores_s": 0.0, "bare_s": 0.0}
    scorer.score(every[0])
    bare_pass(scorer, scorer.space.canonical(every[0]), inputs)
    for spec in classes.values():
        spent["bare_s"] += seconds(bare_pass, scorer, spec, inputs)
        spent["scores_s"] += seconds(scorer.score, spec)
    ratio = (spent["finding_s"] + spent["scores_s"]) / spent["bare_s"]
    return {"architectures": len(every), "classes": len(classes), **spent, "ratio": ratio}


def memory(space: str, proxies: list[str], n: int) -> list[dict[str, float]]:
    """Resident megabytes after each tenth of n scores."""
    scorer = open_scorer(Setting(space, terms_of(proxies)))
    rng = stream(0, "memory")
    rows = []
    for i in range(1, n + 1):
        scorer.score(scorer.space.sample(rng))
        if i % max(n // 10, 1) == 0:
            rows.append({"scores": i, "resident_mb": psutil.Process().memory_info().rss / 1e6})
    return rows


def speedup(space: str, proxies: list[str], n: int, workers: int, seed: int) -> dict[str, float]:
    """Wall time of scoring n networks here and in so many processes."""
    specs = networks(space, n, seed)
    setting = Setting(space, terms_of(proxies), seed=seed)
    scorer = open_scorer(setting)
    scorer.score(specs[0])
    spent = {}
    for count in (1, workers):
        began = time.perf_counter()
        with scoring(setting, scorer, count) as score:
            scored = sum(len(chunk) for chunk in score(specs))
        spent[count] = time.perf_counter() - began
        assert scored == n
    return {"one_s": spent[1], "several_s": spent[workers], "speedup": spent[1] / spent[workers]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="nb201")
    parser.add_argument("--proxies", default="diswot,diswot_mr,relation,auto,synflow,nwot,params")
    parser.add_argument("--networks", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--memory", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    proxies = given.proxies.split(",")
    if given.all:
        rows = {name: everything(given.space, name, 0) for name in proxies}
        print(json.dumps({"space": given.space, "rows": rows}, indent=1))
        return
    if given.memory:
        print(
            json.dumps(
                {"space": given.space, "proxies": proxies, "rows": memory(given.space, proxies, given.memory)}, indent=1
            )
        )
        return
    if given.workers:
        rows = [speedup(given.space, proxies, given.networks, given.workers, seed) for seed in range(given.seeds)]
        spread = [row["speedup"] for row in rows]
        summary = {"speedup": statistics.fmean(spread), "speedup_std": statistics.pstdev(spread)}
        asked = {"space": given.space, "proxies": proxies, "networks": given.networks, "workers": given.workers}
        print(json.dumps({**asked, "rows": rows, "summary": summary}, indent=1))
        return
    rows = [ratios(given.space, proxies, given.networks, seed) for seed in range(given.seeds)]
    summary = {
        name: {
            "ratio": statistics.fmean(row[name]["ratio"] for row in rows),
            "ratio_std": statistics.pstdev([row[name]["ratio"] for row in rows]),
            "archs_per_second": statistics.fmean(row[name]["archs_per_second"] for row in rows),
            "bare_per_second": statistics.fmean(row[name]["bare_per_second"] for row in rows),
        }
        for name in proxies
    }
    print(json.dumps({"space": given.space, "networks": given.networks, "seeds": rows, "summary": summary}, indent=1))


if __name__ == "__main__":
    main()
