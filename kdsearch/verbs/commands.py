"""What the verbs of the command line call: plain arguments in, a JSON-able answer out."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdsearch.host import Host
from kdsearch.store.files import storing, write_bytes
from kdsearch.study.study import Study
from kdsearch.verbs.finished import evidence_of_last, opened, result_of
from kdsearch.verbs.summary import summary_of as summary_of

if TYPE_CHECKING:
    from kdsearch.verbs.bench_onnx import bench_onnx as bench_onnx
    from kdsearch.verbs.bench_table import bench_table as bench_table
    from kdsearch.verbs.dashboard import dashboard as dashboard
    from kdsearch.verbs.export import export as export
    from kdsearch.verbs.quickstart import quickstart as quickstart
    from kdsearch.verbs.run import run as run
    from kdsearch.verbs.verify import verify as verify
    from kdsearch.verbs.worker import worker as worker


def __getattr__(name: str) -> Any:
    """The verbs that train or read networks, imported when called: torch takes seconds, and `status` reads JSON."""
    if name in ("bench_onnx", "bench_table", "dashboard", "export", "quickstart", "run", "verify", "worker"):
        return getattr(import_module(f"kdsearch.verbs.{name}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def status(*, dir: Path) -> dict[str, Any]:
    """What a folder holds: stages done, trials, who holds it."""
    from kdsearch.verbs.status import status_of

    return status_of(opened(dir))


def follow(*, dir: Path) -> Iterator[dict[str, Any]]:
    """What `status` gives, now and whenever it has changed, until nobody runs the study any more."""
    from kdsearch.verbs.status import followed

    return followed(opened(dir))


def clean(*, dir: Path, dry_run: bool = False) -> dict[str, Any]:
    """Remove what the folder's last run does not use."""
    from kdsearch.verbs.clean import clean_of

    return clean_of(opened(dir), dry_run)


def report(*, dir: Path, allow_code: tuple[str, ...] = ()) -> dict[str, Any]:
    """Write the page anew from the last run's result and evidence; the data are opened where a plugin's section shows samples."""
    from kdsearch.report.page import render
    from kdsearch.verbs.finished import samples_of_last

    result, evidence = result_of(dir), evidence_of_last(dir)
    host, page = Host.load(), dir / "report" / "index.html"
    samples = partial(samples_of_last, dir, host, allow_code)
    sections = [(each.title, each.html) for each in host.report_sections(result, samples)]
    notes = list(dict.fromkeys([*result["notes"], *host.told()]))
    shown = {**result, "notes": notes, "dir": dir.resolve().name}
    with storing(page):
        page.parent.mkdir(exist_ok=True)
    write_bytes(page, render(shown, evidence, sections).encode())
    return {"report": str(page), "notes": host.told(), "text": "\n".join([str(page), *host.told()])}


def plan(*, study: Study, host: Host) -> dict[str, Any]:
    """What a study would do: candidates, trainings, and time and disk from a short measurement on this machine."""
    from kdsearch.verbs.plan import plan_of

    return plan_of(study, host)


def score(
    *,
    space: str | None = None,
    study: Path | None = None,
    proxies: tuple[str, ...],
    archs: Path | None = None,
    sample: int | None = None,
    teacher: str | None = None,
    data: str | None = None,
    seed: int | None = None,
    init_seeds: int | None = None,
    workers: int = 1,
    allow_code: tuple[str, ...] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Training-free scores of architectures: those of a file (one a line), or a random sample of the space.

    study: a study file in place of space, teacher, data and init_seeds: as it would score its student.
    `init_seeds`: initialisations that a score is the mean of; `spread` in a row is their standard deviation.
    """
    from kdsearch.verbs.score import scores_of
    from kdsearch.verbs.scorers import setting_of, terms_of

    setting = setting_of(space, study, terms_of(proxies), teacher, data, seed, init_seeds, allow_code)
    return scores_of(setting, proxies, archs, sample, workers, progress)


def bench_proxies(
    *,
    space: str | None = None,
    study: Path | None = None,
    table: Path,
    column: str,
    proxies: tuple[str, ...] = (),
    sample: int | None = None,
    seed: int | None = None,
    init_seeds: int | None = None,
    data: str | None = None,
    teacher: str | None = None,
    workers: int = 1,
    allow_code: tuple[str, ...] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """How well training-free scores rank the architectures of a table; no proxies: `auto`, its terms and the baselines.

    study: see `score`; where its objective is minimised, less is better in the column.
    """
    from kdsearch.verbs import bench
    from kdsearch.verbs.scorers import setting_of

    setting = setting_of(space, study, (), teacher, data, seed, init_seeds, allow_code)
    return bench.bench_proxies(setting, proxies, table, column, sample, workers, progress)


def bench_search(
    *,
    space: str | None = None,
    study: Path | None = None,
    table: Path,
    column: str,
    budgets: tuple[int, ...] = (10, 25, 50, 100),
    repeats: int = 20,
    strategies: tuple[str, ...] = (),
    candidates: int | None = None,
    max_params: float = 1.0,
    seed: int | None = None,
    data: str | None = None,
    teacher: str | None = None,
    workers: int = 1,
    allow_code: tuple[str, ...] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """The best accuracy after so many looked-up trainings, by strategy. study: see `bench_proxies`."""
    from kdsearch.verbs import bench_search
    from kdsearch.verbs.scorers import setting_of

    setting = setting_of(space, study, (), teacher, data, seed, None, allow_code)
    return bench_search.bench_search(
        setting, table, column, budgets, repeats, strategies, candidates, max_params, workers, progress
    )
