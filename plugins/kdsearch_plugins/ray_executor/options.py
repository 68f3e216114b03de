"""What a study may say of a Ray cluster. Nothing here needs Ray."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from kdsearch.kinds import Options

ADDRESS = re.compile(r"(?P<host>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.%]+\]):(?P<port>[0-9]{1,5})")


class RayOptions(Options):
    address: str | None = Field(
        None,
        description="`HOST:PORT` of a running cluster's head, which this machine is part of; `auto` = the one that RAY_ADDRESS "
        "names, else this machine's; none = a cluster of this machine alone, started for the run",
    )
    grace_s: float = Field(5.0, ge=0, description="seconds between asking a job to stop and killing it")
    retries: int = Field(3, ge=0, le=100, description="how often a job is run again whose machine was lost")
    start_s: float = Field(600.0, gt=0, description="seconds within which the cluster has to have a place for a trial")
    gpus: float = Field(0.0, ge=0, description="GPUs that each trial reserves of a cluster; 0.5 = two trials share one")

    @field_validator("address")
    @classmethod
    def _names_a_cluster(cls, address: str | None) -> str | None:
        if address in (None, "auto"):
            return address
        found = ADDRESS.fullmatch(address or "")
        if found is None or not 1 <= int(found["port"]) <= 65535:
            raise ValueError("'auto' or HOST:PORT of the cluster's head; left out, a cluster is started here")
        return address

    @field_validator("gpus")
    @classmethod
    def _whole_above_one(cls, gpus: float) -> float:
        if gpus > 1 and not gpus.is_integer():
            raise ValueError("at most 1, or a whole number: Ray shares one GPU, not several")
        return gpus
