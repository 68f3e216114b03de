"""`kdsearch schema`: the study's JSON Schema, with the options of what is installed."""

from __future__ import annotations

from kdsearch.cli.options import Json


def schema(as_json: Json = False) -> None:
    """Print the JSON Schema of study files. It includes the options of installed plugins."""
    from kdsearch.cli.output import print_json
    from kdsearch.host import Host
    from kdsearch.study.json_schema import study_schema

    print_json(study_schema(Host.load()), indent=None if as_json else 2)
