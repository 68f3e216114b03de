"""The actor that opens a seat. Ray sends it by value, so that a machine that lacks kdsearch can say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def actor_class() -> type[Any]:
    """A class that refers to nothing outside itself."""

    class Actor:
        def open(self, paths: Sequence[str], environment: Mapping[str, str], grace_s: float) -> dict[str, Any]:
            """The machine's facts, or a `problem`. `paths`: where the driver's modules lie, used as far as they are here."""
            import os
            import socket
            import sys

            import ray

            here = [path for path in paths if os.path.exists(path)]
            sys.path[:] = [*here, *(path for path in sys.path if path not in here)]
            os.environ.update(environment)
            try:
                from kdsearch_plugins.ray_executor.seat import Seat
            except ImportError as error:
                return {"host": socket.gethostname(), "problem": f"{type(error).__name__}: {error}"}
            self.seat = Seat(grace_s)
            return {**self.seat.facts(), "node": ray.get_runtime_context().get_node_id()}

        def run(self, ticket: int, job: Mapping[str, Any], mark: str) -> dict[str, Any]:
            return self.seat.run(ticket, job, mark)

        def stop(self, ticket: int) -> None:
            self.seat.stop(ticket)

        def end(self) -> None:
            self.seat.end()

    return Actor
