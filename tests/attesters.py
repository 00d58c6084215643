"""
Real signing keys and a real time-stamp authority, both made by the `openssl` program, which shares nothing with us.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

CONFIG = """
[req]
distinguished_name = dn
prompt = no
[dn]
CN = unused
[authority]
basicConstraints = critical,CA:TRUE
[stamps]
basicConstraints = CA:FALSE
extendedKeyUsage = critical,timeStamping
[tsa]
serial = {folder}/serial
signer_cert = {folder}/tsa.pem
signer_key = {folder}/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_alg = sha256
"""
NEW = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl program is not here")


def openssl(*arguments: object, stdin: bytes | None = None, check: bool = True) -> bytes:
    done = subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True)
    assert not check or done.returncode == 0, done.stderr.decode()
    return done.stdout


def key_pair(folder: Path, name: str) -> Path:
    """`NAME.pem`, private, beside `NAME.pub.pem`; as the docs tell to make them."""
    folder.mkdir(parents=True, exist_ok=True)
    private = folder / f"{name}.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    private.chmod(0o600)
    openssl("pkey", "-in", private, "-pubout", "-out", public(private))
    return private


def public(private: Path) -> Path:
    return private.with_suffix(".pub.pem")


class Authority:
    """An authority with a certificate of its own making; `root` is what others trust."""

    def __init__(self, folder: Path, *, days: int = 30) -> None:
        folder.mkdir(parents=True)
        self.folder, self.root = folder, folder / "root.pem"
        self._config = folder / "openssl.cnf"
        self._config.write_text(CONFIG.format(folder=folder))
        (folder / "serial").write_text("01\n")
        self._lock = threading.Lock()
        use = ("-config", self._config)
        openssl("req", "-x509", *NEW, "-keyout", folder / "root.key", "-out", self.root, "-subj", f"/CN={folder.name}", *use, "-extensions", "authority", "-days", 3650)  # fmt: skip
        openssl("req", *NEW, "-keyout", folder / "tsa.key", "-out", folder / "tsa.csr", "-subj", "/CN=stamps", *use)  # fmt: skip
        openssl("x509", "-req", "-in", folder / "tsa.csr", "-CA", self.root, "-CAkey", folder / "root.key", "-CAcreateserial", "-out", folder / "tsa.pem", "-extfile", self._config, "-extensions", "stamps", "-days", days)  # fmt: skip

    def reply(self, query: bytes) -> bytes:
        with self._lock:
            (self.folder / "query.tsq").write_bytes(query)
            return openssl("ts", "-reply", "-queryfile", self.folder / "query.tsq", "-config", self._config, "-section", "tsa")  # fmt: skip

    def stamp(self, data: bytes) -> bytes:
        return self.reply(openssl("ts", "-query", "-data", "/dev/stdin", "-sha256", "-cert", stdin=data))


@dataclass
class Served:
    """An authority behind HTTP. `answer` makes the status and body of a query, `drip` the seconds between bytes."""

    authority: Authority
    url: str = ""
    queries: list[bytes] = field(default_factory=list)
    answer: Callable[[bytes], tuple[int, bytes]] | None = None
    drip: float = 0

    def made(self, query: bytes) -> tuple[int, bytes]:
        self.queries.append(query)
        return self.answer(query) if self.answer else (200, self.authority.reply(query))


@contextlib.contextmanager
def serve(authority: Authority) -> Iterator[Served]:
    served = Served(authority)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/timestamp-query"
            status, body = served.made(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Type", "application/timestamp-reply")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with contextlib.suppress(OSError):
                for start in range(0, len(body), 1 if served.drip else 65536):
                    self.wfile.write(body[start : start + (1 if served.drip else 65536)])
                    time.sleep(served.drip)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}/tsr"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
