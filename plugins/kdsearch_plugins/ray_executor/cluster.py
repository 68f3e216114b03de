"""The way to a cluster: joins a running one, or starts one of this machine alone that listens on the loopback address."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from kdsearch.errors import PluginError, UserError, told
from kdsearch.kit.scratch import Scratch
from kdsearch_plugins.ray_executor.options import ADDRESS

PATH = "run.executor.options.address"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}  # nothing is sent to anybody
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the machine's address is the loopback one then: Ray listens there alone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # trials see the GPUs that trials of `processes` see
    "RAY_memory_monitor_refresh_ms": "0",  # who takes too much memory is said by the study's own limit
}
JOIN = {"RAY_NUM_REDIS_GET_RETRIES": "2"}  # attempts to reach the head: with Ray's own 20 one is told after 20 minutes
AUTH = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
SETS = (*AUTH, "RAY_CLIENT_MODE", "PYTHONBREAKPOINT")  # what Ray itself sets
STORE_BYTES = 80_000_000  # of Ray's object store, the least that it takes: jobs and results are small
SOCKET_CHARACTERS = 107  # of a socket's path, the operating system's limit
SOCKET = "/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
REACH_S = 10.0
LOOPBACK = ("127.0.0.1", "::1")


@dataclass
class Cluster:
    """A connection. is_local: to one of this machine alone, which `close` ends; is_ours: no program around this one made it."""

    ray: Any
    is_local: bool
    is_ours: bool
    _before: Mapping[str, str | None] = field(default_factory=dict)
    _scratch: Scratch | None = None

    @classmethod
    def open(cls, address: str | None) -> Cluster:
        """Raise UserError where there is no such cluster, or it does not let this program in."""
        if "ray" in sys.modules and sys.modules["ray"].is_initialized():
            return cls(sys.modules["ray"], is_local=False, is_ours=False)
        before = _set({**QUIET, **(JOIN if address else {**LOCAL, **_token()})})
        import ray

        scratch = None if address else _short_folder()
        try:
            if address is None:
                _start(ray, scratch)
            else:
                _join(ray, address)
        except BaseException:
            _put_back(before)
            if scratch is not None:
                scratch.close()
            raise
        return cls(ray, address is None, True, before, scratch)

    def close(self) -> None:
        if self.is_ours:
            with _own_signals():
                self.ray.shutdown()
        _put_back(self._before)
        if self._scratch is not None:
            self._scratch.close()


def _start(ray: Any, scratch: Scratch | None) -> None:
    with _own_signals():
        ray.init(
            address="local",
            num_cpus=0,  # seats need none here: the study's workers say how many run. No process is started in store
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            logging_level=logging.ERROR,
            log_to_driver=False,
            _temp_dir=None if scratch is None else str(scratch.path),
        )
    open_to = [each["NodeManagerAddress"] for each in ray.nodes() if each["NodeManagerAddress"] not in LOOPBACK]
    if open_to:
        ray.shutdown()
        raise PluginError(
            f"Ray was imported before kdsearch started it, and would listen on {open_to[0]}",
            expected="a cluster that other machines cannot reach",
            fix="Set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before `import ray`, or call ray.init yourself.",
        )


def _join(ray: Any, address: str) -> None:
    if found := ADDRESS.fullmatch(address):  # Ray itself would try for a minute and then abort the process
        try:
            socket.create_connection((found["host"].strip("[]"), int(found["port"])), REACH_S).close()
        except OSError as error:
            raise _refused(address, error.strerror or str(error)) from None
    try:
        with _own_signals():
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if "AuthenticationError" in f"{type(error).__name__}{error.__cause__}":
            raise _refused(address, "it wants a token, or another one", TOKEN) from error
        raise _refused(address, told(error)) from error


MEMBER = "`ray status` says whether one runs; `ray start --address=HOST:PORT` makes this machine part of it."
TOKEN = "Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file that has the cluster's."


def _refused(address: str, why: str, fix: str = MEMBER) -> UserError:
    return UserError(
        f"cannot join the Ray cluster '{address}': {why}",
        path=PATH,
        expected="a running cluster that this machine is part of, with the same Ray and Python",
        fix=fix,
    )


def _short_folder() -> Scratch | None:
    """A folder that goes with this process; None where its sockets' paths would be too long: then Ray takes its own place."""
    scratch = Scratch.make("ray")
    if len(os.fsencode(scratch.path)) + len(SOCKET) <= SOCKET_CHARACTERS:
        return scratch
    scratch.close()
    return None


@cache
def _new_token() -> str:
    return secrets.token_hex(32)  # once: Ray keeps the first that it reads for as long as the process lives


def _token() -> dict[str, str]:
    """A token of this process alone, where the user has set nothing: Ray would write one to the home folder, for all to read.

    A Ray that is imported already has read the mode, and sets it itself once it starts a cluster.
    """
    if any(name in os.environ for name in AUTH):
        return {}
    mode = {} if "ray" in sys.modules else {"RAY_AUTH_MODE": "token"}
    return {"RAY_AUTH_TOKEN": _new_token(), **mode}


def _set(values: Mapping[str, str]) -> dict[str, str | None]:
    """Set environment variables; returns what they were, and those that Ray sets."""
    before = {name: os.environ.get(name) for name in (*values, *SETS)}
    os.environ.update(values)
    return before


def _put_back(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _own_signals() -> Iterator[None]:
    """Ray takes SIGTERM for itself, by which a study is asked for a checkpoint: it is put back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def mark_in(folder: Path) -> Path:
    """A new empty file in a folder, for another machine to see. Raise UserError where there can be none."""
    mark = folder / f".ray-{secrets.token_hex(8)}"
    try:
        mark.touch()
    except OSError as error:
        raise UserError(f"{folder}: no file can be made there ({error.strerror})", file=folder) from None
    return mark
