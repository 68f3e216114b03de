"""optuna-dashboard on a study's own trials, on this machine alone."""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from kdsearch.errors import ArtifactError, UserError
from kdsearch.search.storage import as_ours, file_of, place_of, to_read
from kdsearch.store.files import read_json
from kdsearch.store.folder import ORIGIN, STUDY, Origin, events_of
from kdsearch.store.inputs import lies, regular
from kdsearch.study.load import parse
from kdsearch.verbs.finished import opened

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOST = "127.0.0.1"
PORT = 8080
NO_TRIALS = "has no trials yet"


def dashboard(*, dir: Path, port: int = PORT, open: bool = False, told: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        port: of the loopback address; 0 = a free one.
        open: show the page in the browser.
        told: called with a line that has the address, once it can be asked.

    Raises:
        UserError: a folder that is none of a study or has no trials, a port in use, no optuna-dashboard.
    """
    app, page = app_of(dir)
    with _serving(app, port) as server:
        address = f"http://{HOST}:{server.server_port}{page}"
        told(f"{address} shows the trials of {dir}; Ctrl-C ends it")
        if open:
            import webbrowser

            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        with _until_signal(server):
            server.serve_forever()


def app_of(folder: Path) -> tuple[WSGIApplication, str]:
    """The application, and the path of the page of the study's last trials. Raises as `dashboard` does."""
    try:
        from optuna_dashboard import wsgi
    except ImportError as error:
        fix = 'Run: pip install "kdsearch[dashboard]"'
        raise UserError(f"{error.name or 'optuna-dashboard'} is not installed", fix=fix) from error
    from kdsearch.search.watched import Watched

    place = _place(opened(folder))
    keys = [each["key"] for each in events_of(folder) if each["event"] == "trials"]
    if (file := file_of(place)) is not None and not file.exists():
        if isinstance(place, Path):
            raise ArtifactError(NO_TRIALS, file=folder, fix=_WAIT)
        raise ArtifactError("no such database", file=file, expected="that of `run.storage`", fix=_WAIT)
    with as_ours(place):
        shown = Watched(to_read(place))
        ids = {each.study_name: each._study_id for each in shown.get_all_studies()}
    mine = [id for name, id in ids.items() for key in keys[-1:] if name == key or name.endswith(f" {key}")]
    if not ids or (keys and not mine):
        raise ArtifactError(NO_TRIALS, file=folder, fix=_WAIT)
    return guarded(wsgi(shown)), f"/dashboard/studies/{mine[0]}" if mine else "/dashboard"


_WAIT = (
    "A study's trials begin with its stage `refine`; `kdsearch status` says how far it is. "
    "Of a session with `run.storage`: optuna-dashboard URL."
)


def _place(folder: Path) -> Path | str:
    """Where the folder's study keeps its trials."""
    base = folder
    if lies(folder / ORIGIN):
        origin: Origin = read_json(folder / ORIGIN, Origin)
        base = folder / origin["base"]
    return place_of(_storage_of(folder), base, folder)


def _storage_of(folder: Path) -> str | None:
    """`run.storage` of the folder's study."""
    file = folder / STUDY
    if not lies(file):
        return None
    run = parse(regular(file, "a study", error=ArtifactError).read_bytes(), file).raw.get("run")
    found = run.get("storage") if isinstance(run, dict) else None
    return found if isinstance(found, str) else None


def guarded(app: WSGIApplication) -> WSGIApplication:
    """The application for this machine's browser alone, and for reading alone.

    Other names of this address are refused, since a page from elsewhere could have its own name point here.
    """

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        host = re.sub(r":\d+$", "", environ.get("HTTP_HOST", ""))
        if host not in (HOST, "localhost"):
            return _refused(start, "403 Forbidden", f"'{host}' is no name of this machine")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _refused(start, "405 Method Not Allowed", "the trials belong to the study: nothing is changed here")
        return app(environ, start)

    return answer


def _refused(start: StartResponse, status: str, reason: str) -> list[bytes]:
    import json

    start(status, [("Content-Type", "application/json"), ("Allow", "GET, HEAD")])
    return [json.dumps({"reason": reason}).encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without the look-up of a name for the address that `http.server` makes."""
        from socketserver import TCPServer

        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is nobody's error."""


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass

    def address_string(self) -> str:
        return HOST


@contextmanager
def _serving(app: WSGIApplication, port: int) -> Iterator[_Server]:
    try:
        server = _Server((HOST, port), _Quiet)
    except OSError as error:
        problem = f"port {port} of {HOST}: {os.strerror(error.errno or 0).lower()}"
        fix = "Choose another with --port; 0 takes a free one."
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise UserError(problem, expected="a free port", fix=fix) from error
    try:
        server.set_app(app)
        yield server
    finally:
        server.server_close()


@contextmanager
def _until_signal(server: _Server) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the serving, and nothing else."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        threading.Thread(target=server.shutdown, daemon=True).start()  # it waits for the loop that this interrupts

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            with suppress(ValueError):
                signal.signal(number, handler)
