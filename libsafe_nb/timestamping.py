"""
The time stamp of a link: an authority's signed word that its digest was known at a time (RFC 3161).

    provenance/chain/00000012.tsr      the authority's whole answer (TimeStampResp, DER), as `openssl ts` reads it

What is stamped is the sha256 of the link's bytes. The certificates are asked for within the answer, so that it can be
checked when the authority is long gone. An answer is kept only if it is one to our question.

Needs the extra `sign`; it is imported only where something is stamped or checked.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from libsafe_nb import signing
from libsafe_nb.errors import SettingsError, TimeStampRefused, UsageError
from libsafe_nb.patience import Patience

if TYPE_CHECKING:
    from cryptography.x509 import Certificate
    from rfc3161_client import TimeStampResponse

QUERY, REPLY = "application/timestamp-query", "application/timestamp-reply"
"""Content types of RFC 3161 3.4, the protocol over HTTP."""

BUDGET = 10.0
"""Seconds for a time stamp with all tries: a run that ends does not wait longer for it."""

LONGEST = 4.0
"""Seconds for one try: one that hangs leaves time for another."""

MAX_ANSWER = 64 * 1024
"""Bytes of an answer: one with three certificates has about 6,000."""

SHA256 = "2.16.840.1.101.3.4.2.1"


class _AgainError(Exception):
    """A try failed in a way that may pass."""


@dataclass(frozen=True)
class Authority:
    """Where time stamps are asked for; made by `authority`. `name` is the address without a password in it."""

    url: str = field(repr=False)
    name: str

    def stamp(self, data: bytes, *, budget: float = BUDGET) -> bytes:
        """
        A time stamp of the sha256 of `data`, within `budget` seconds whatever the authority does.

        Raises
        ------
        TimeStampRefused
            There is no answer, or it is not one to our question.
        """
        patience = Patience(budget)
        while True:
            patience.tries += 1
            try:
                return self._once(data, min(LONGEST, patience.left))
            except _AgainError as exc:
                pause = patience.pause()
                if pause is None:
                    self._refuse(f"no answer in {patience.spent()}; the last: {exc}", exc)
                time.sleep(pause)

    def _once(self, data: bytes, seconds: float) -> bytes:
        from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

        # With a nonce and the wish for certificates, which are the builder's defaults.
        request = TimestampRequestBuilder(data=data, hash_algorithm=HashAlgorithm.SHA256).build()
        answer = self._within(request.as_bytes(), max(seconds, 0.05))
        found = decoded(answer)
        if found is None:
            self._refuse(f"expected a time stamp (RFC 3161, DER), found {len(answer)} bytes that are none")
        if found.status != 0:
            why = "; ".join(found.status_string) or "it says no more"
            self._refuse(f"expected status 0 (granted), found {found.status}: {why[:200]}")
        wrong = imprint_problem(found, data)
        if wrong:
            self._refuse(wrong)
        if found.tst_info.nonce != request.nonce:
            self._refuse("the answer has another nonce than the question, so it is one to another question")
        if not found.signed_data.certificates:
            self._refuse("the answer holds no certificate, so nobody could check it in later years")
        return answer

    def _within(self, request: bytes, seconds: float) -> bytes:
        """The answer's body. In a thread, since neither names nor headers that drip in have a time limit of their own."""
        found: list[bytes | Exception] = []

        def ask() -> None:
            try:
                found.append(self._ask(request, seconds))
            except Exception as exc:
                found.append(exc)

        thread = threading.Thread(target=ask, name="time-stamp", daemon=True)
        thread.start()
        thread.join(seconds)
        if not found:
            raise _AgainError(f"it took longer than {seconds:.1f} s")
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    def _ask(self, request: bytes, seconds: float) -> bytes:
        import requests

        try:
            response = requests.post(
                self.url,
                data=request,
                headers={"Content-Type": QUERY, "Accept": REPLY},
                timeout=seconds,
                allow_redirects=False,
                stream=True,
            )
            with response:
                if response.status_code in (408, 429) or response.status_code >= 500:
                    raise _AgainError(f"HTTP {response.status_code}")
                if response.status_code != 200:
                    self._refuse(f"expected HTTP 200, found {response.status_code}")
                deadline, parts = time.monotonic() + seconds, bytearray()
                while part := response.raw.read1(16 * 1024, decode_content=True):
                    parts += part
                    if len(parts) > MAX_ANSWER:
                        self._refuse(f"expected at most {MAX_ANSWER} bytes, found more")
                    if time.monotonic() > deadline:
                        raise _AgainError("the answer was not complete when the time was up")
                return bytes(parts)
        except (requests.RequestException, OSError) as exc:
            # Without its text, which may quote an address with a password in it.
            raise _AgainError(type(exc).__name__) from None

    def _refuse(self, what: str, cause: Exception | None = None) -> NoReturn:
        raise TimeStampRefused(f"{self.name}: {what}") from cause


def authority(url: str) -> Authority:
    """
    Raises
    ------
    SettingsError
        The extra is missing, or it is no http:// or https:// address.
    """
    signing.check_installed("LIBSAFE_TSA_URL")
    try:
        found = urlsplit(url)
        port = f":{found.port}" if found.port else ""
        name = f"{found.scheme}://{found.hostname}{port}{found.path}"
        right = found.scheme in ("http", "https") and bool(found.hostname)
    except ValueError:
        right = False
    if not right:
        # Not quoted: it may hold a password.
        raise SettingsError("LIBSAFE_TSA_URL: expected an http:// or https:// address, found something else")
    return Authority(url, name)


def roots(path: str | Path) -> list[Certificate]:
    """
    The certificates of authorities that are trusted, from a file of PEM.

    Raises
    ------
    UsageError
        The extra is missing, or the file holds none.
    """
    signing.check_installed(f"the certificate {path}")
    from cryptography.x509 import load_pem_x509_certificates

    try:
        return load_pem_x509_certificates(Path(path).read_bytes())
    except OSError as exc:
        raise UsageError(f"{path}: expected certificates (PEM), found {exc.strerror or exc}") from exc
    except ValueError:
        raise UsageError(f"{path}: expected certificates (PEM), found none") from None


def decoded(answer: bytes) -> TimeStampResponse | None:
    """The time stamp in an authority's answer; None for anything else."""
    from rfc3161_client import decode_timestamp_response

    try:
        found = decode_timestamp_response(answer)
        if found.status == 0:
            # Read here, so that a token with something else in its place is told as none.
            assert found.tst_info.gen_time
            assert found.signed_data
    except Exception:
        return None
    return found


def time_of(found: TimeStampResponse) -> str:
    """`2026-11-25T13:50:07+00:00`, the authority's time, in seconds."""
    moment: datetime = found.tst_info.gen_time
    return moment.astimezone(UTC).isoformat(timespec="seconds")


def imprint_problem(found: TimeStampResponse, data: bytes) -> str | None:
    """Why it is not the time stamp of `data`."""
    imprint = found.tst_info.message_imprint
    if imprint.hash_algorithm.dotted_string != SHA256:
        return f"expected a time stamp of a sha256, found one of {imprint.hash_algorithm.dotted_string}"
    expected = hashlib.sha256(data).digest()
    if bytes(imprint.message) != expected:
        return f"expected a time stamp of {expected.hex()}, found one of {bytes(imprint.message).hex()}"
    return None


def signature_problem(found: TimeStampResponse, data: bytes, roots: Sequence[Certificate]) -> str | None:
    """
    Why the authority's signature does not hold; None where it does, and its certificate leads to one of `roots`.

    Certificates must have been valid at the time that the stamp tells (RFC 3161 2.3, 4), not today. Whether one was
    revoked is not asked.
    """
    from rfc3161_client import VerifierBuilder

    try:
        builder: Any = VerifierBuilder(roots=list(roots))
        builder.build().verify(found, hashlib.sha256(data).digest())
    except Exception as exc:
        # `VerificationError`, or a ValueError of something that is none of its kind.
        return f"the authority's signature does not hold ({str(exc).splitlines()[0][:200]})"
    return None
