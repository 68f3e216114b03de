"""From a study file or Python call to a checked Study: settings placed, schema, rules, capabilities."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kdsearch.errors import KdsearchError, StudyError, without_password
from kdsearch.store.inputs import is_text
from kdsearch.study.check import check
from kdsearch.study.complaints import as_study_error
from kdsearch.study.load import Source, check_raw, name_of, parse, place, read
from kdsearch.study.names import check_code
from kdsearch.study.rules import check_rules
from kdsearch.study.schema import Config
from kdsearch.study.study import Override, Study, located

if TYPE_CHECKING:
    from kdsearch.host import Host


def load_study(
    path: Path | str,
    host: Host | None = None,
    allow_code: Iterable[str] = (),
    sets: Iterable[str] = (),
    seed: int | None = None,
    base: Path | None = None,
    pick: str | None = None,
) -> Study:
    """Read and check a study file.

    Args:
        host: what is installed; None = the schema alone is checked, no capability.
        allow_code: strings that may run as code.
        sets: `key.path=value` each, as if written in the file.
        seed: instead of the file's.
        base: what the study's relative paths start from; None = the file's folder.
        pick: instead of the file's `distill.pick`.

    Raises:
        StudyError, PluginError, UnsafeCodeError: naming file, line and key path.
    """
    source = replace(read(Path(path)), base=base)
    return make_study(source, host, allow_code, sets, seed, pick=pick)


def make_study(
    source: Source,
    host: Host | None = None,
    allow_code: Iterable[str] = (),
    sets: Iterable[str] = (),
    seed: int | None = None,
    live: Mapping[str, Any] | None = None,
    pick: str | None = None,
) -> Study:
    """`load_study` of a source that was read already."""
    overrides = [Override(each, f"--set {without_password(each)}") for each in sets]
    overrides += [Override(f"distill.pick={json.dumps(pick)}", f"--pick {pick}")] if pick is not None else []
    overrides += [Override(f"seed={seed}", f"--seed {seed}")] if seed is not None else []
    raw = source.raw
    for each in overrides:
        raw = _placed(raw, *_setting(each.setting), each)
    study = _study(replace(source, raw=raw), tuple(allow_code), live or {}, tuple(overrides))
    if host is not None:
        check(study, study.host(host))
    return study


def _study(
    source: Source, allow_code: tuple[str, ...], live: Mapping[str, Any], overrides: tuple[Override, ...]
) -> Study:
    try:
        check_raw(source.raw)
    except StudyError as error:
        raise located(error, source, overrides) from None
    try:
        config = Config.model_validate_json(json.dumps(source.raw))
    except ValidationError as error:
        raise located(as_study_error(error, Config, source.raw), source, overrides) from None
    if source.file is not None and "name" not in config.model_fields_set:
        config = config.model_copy(update={"name": name_of(source.file.name)})
    study = Study(config, source, allow_code, live, overrides)
    check_rules(study)
    check_code(study)
    return study


def _setting(text: str) -> tuple[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        raise StudyError(f"got '{text}'", file="--set", expected="key.path=value")
    if not is_text(text):
        raise StudyError(f"{text!r} is no UTF-8", file="--set", expected="key.path=value in UTF-8")
    try:
        return path.strip(), parse(f"value: {value}".encode()).raw["value"]
    except KdsearchError as error:
        raise StudyError(
            f"'{value}' is no value: {error.problem}", file=f"--set {text}", expected=error.expected
        ) from None


def _placed(raw: Mapping[str, Any], path: str, value: Any, override: Override) -> dict[str, Any]:
    try:
        return place(raw, path, value)
    except KdsearchError as error:
        raise error.at(file=override.typed) from None
