"""`kdsearch init [FILE]`: a commented study to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdsearch.cli.options import Json


def init(
    file: Annotated[Path, typer.Argument(help="Study to write.", metavar="FILE")] = Path("study.yaml"),
    as_json: Json = False,
) -> None:
    """Write a commented study that runs as it is. Beside it goes the schema that editors check it by."""
    import json

    from kdsearch.cli.output import show
    from kdsearch.errors import StorageError, UserError
    from kdsearch.host import Host
    from kdsearch.store.files import write_bytes
    from kdsearch.study.json_schema import study_schema
    from kdsearch.study.template import study_text

    if file.suffix not in (".yaml", ".yml"):  # `run` makes a folder of the name without it
        near = str(file.with_suffix(".yaml")) if file.name else ""
        raise UserError(f"'{file}' names no study", nearest=near, expected="a name that ends in .yaml or .yml")
    schema = file.with_name(f"{file.stem}.schema.json")
    try:
        there = [each for each in (file, schema) if each.exists()]
    except OSError as error:
        raise UserError(f"no file can have this name: {error.strerror}", file=file) from None
    if there:
        raise UserError("exists already; nothing was written", file=there[0], fix="Name another file, or move it away.")
    text = json.dumps(study_schema(Host.load()), indent=1, ensure_ascii=False) + "\n"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(schema, text.encode())
        try:
            write_bytes(file, study_text(file.name, schema.name).encode())
        except BaseException:  # both or none: the same command can be given again
            schema.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(f"cannot be written: {error.strerror}", file=file) from error
    result = {"study": str(file), "schema": str(schema)}
    show(result if as_json else {"text": f"Wrote {file} and {schema}. Next: kdsearch run {file}"}, as_json)
