"""
The signature of a link: a DSSE envelope over an in-toto statement, signed with an Ed25519 key of the user's own.

    provenance/chain/00000012.dsse.json
    {"payloadType": "application/vnd.in-toto+json",
     "payload": base64 of {"_type": "https://in-toto.io/Statement/v1",
                           "predicateType": "urn:libsafe-nb:link:1",
                           "subject": [{"name": "provenance/chain/00000012.json", "digest": {"sha256": "…"}},
                                       {"name": "provenance/…/record.json", …}, {"name": "provenance/…/SHA256SUMS", …}]},
     "signatures": [{"keyid": "…", "sig": base64 of 64 bytes}]}

DSSE v1 (github.com/secure-systems-lab/dsse), in-toto Statement v1 (github.com/in-toto/attestation), Ed25519 (RFC 8032).
What is signed is DSSE's "PAE" of type and payload. Ed25519 is deterministic: to sign again gives the same bytes.

Needs the extra `sign`; it is imported only where something is signed or checked.
"""

from __future__ import annotations

import base64
import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from libsafe_nb import record
from libsafe_nb.errors import SettingsError, UsageError

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner, SSlibKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "urn:libsafe-nb:link:1"
"""What the statement says of its subjects: these are a link, its record and the record's sums. There is no more to say."""

REMEDY = "pip install 'libsafe-nb[sign]'"
MAX_PEM = 64 * 1024
"""Bytes of a file of keys or certificates; what is longer is something else."""

_NEEDED = ("securesystemslib", "cryptography", "rfc3161_client")


@dataclass(frozen=True)
class Signer:
    """A private key in memory; made by `signer`."""

    key: CryptoSigner = field(repr=False)
    text: str = field(repr=False)
    """The one line of its PEM that holds the key, for the search in what is about to be stored."""


@dataclass(frozen=True)
class PublicKey:
    """A key that signatures are checked with; made by `public_key`."""

    key: SSlibKey

    @property
    def id(self) -> str:
        return str(self.key.keyid)


def check_installed(what: str) -> None:
    """
    Raises
    ------
    SettingsError
        `what` was asked for, and the extra is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise SettingsError(f"{what} needs the extra `sign`, which is not installed; run: {REMEDY}")


def signer(path: Path) -> Signer:
    """
    The private key in a file: PKCS#8 PEM of an Ed25519 key, not encrypted, readable by its owner only.

    Raises
    ------
    SettingsError
        The extra is missing, or the file is not that.
    """
    check_installed("LIBSAFE_SIGN_KEY")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    def wrong(found: str) -> SettingsError:
        expected = "expected an Ed25519 private key (PKCS#8 PEM, not encrypted)"
        return SettingsError(f"LIBSAFE_SIGN_KEY: {path}: {expected}, found {found}")

    try:
        # As ssh does: a key that others may read is none.
        if path.is_file() and path.stat().st_mode & 0o077:
            raise SettingsError(f"LIBSAFE_SIGN_KEY: {path} can be read by others; run: chmod 600 {path}")
        data = _pem(path)
    except OSError as exc:
        raise wrong(f"{exc.strerror or exc}") from exc
    try:
        key = load_pem_private_key(data, None)
    except TypeError:
        raise wrong("an encrypted one") from None
    except Exception:
        # Nothing of the key is in the error: what cryptography says of it may be.
        raise wrong("a public key" if b"PUBLIC KEY" in data else "no private key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise wrong(f"another kind of key ({type(key).__name__.strip('_')})")
    found = CryptoSigner(key, _public(key.public_key()))
    text = "".join(found.private_bytes.decode().splitlines()[1:-1])
    return Signer(found, text)


def public_key(path: str | Path) -> PublicKey:
    """
    The public key in a file: PEM of an Ed25519 key, as `openssl pkey -pubout` writes it.

    Raises
    ------
    UsageError
        The extra is missing, or the file is not that.
    """
    check_installed(f"the key {path}")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    expected = f"{path}: expected an Ed25519 public key (PEM)"
    try:
        data = _pem(Path(path))
        key = load_pem_public_key(data)
    except OSError as exc:
        raise UsageError(f"{expected}, found {exc.strerror or exc}") from exc
    except Exception:
        raise UsageError(
            f"{expected}, found {'a private key' if b'PRIVATE KEY' in data else 'none'}"
        ) from None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(f"{expected}, found another kind of key ({type(key).__name__.strip('_')})")
    return PublicKey(_public(key))


def subjects(link: str, sha256: str, body: Mapping[str, Any]) -> dict[str, str]:
    """
    What is signed of a link, sha256 by path in the container: the link, its record, the record's sums.

    Parameters
    ----------
    body
        Of the link: `record`, `record_sha256` and `sums_sha256` are taken.
    """
    place = str(body["record"])
    sums = f"{place.rpartition('/')[0]}/SHA256SUMS"
    return {link: sha256, place: str(body["record_sha256"]), sums: str(body["sums_sha256"])}


def envelope(signer: Signer, subjects: Mapping[str, str]) -> bytes:
    """The signed envelope over a statement of `subjects`, canonical JSON; the same bytes whenever it is made."""
    from securesystemslib.dsse import Envelope

    statement = {
        "_type": STATEMENT,
        "predicateType": PREDICATE,
        "subject": [{"name": name, "digest": {"sha256": sha256}} for name, sha256 in subjects.items()],
    }
    made = Envelope(record.canonical(statement), PAYLOAD_TYPE, {})
    made.sign(signer.key)
    return record.canonical(made.to_dict())


def subject_problem(data: bytes, subjects: Mapping[str, str]) -> str | None:
    """Why an envelope is none over a statement of exactly these subjects; None where it is. Its signature is not asked."""
    try:
        body = json.loads(data)
        if body["payloadType"] != PAYLOAD_TYPE or not body["signatures"]:
            return "is no signed envelope of an in-toto statement"
        statement = json.loads(base64.b64decode(body["payload"], validate=True))
        kinds = (statement["_type"], statement["predicateType"])
        if kinds != (STATEMENT, PREDICATE):
            return f"expected a statement {PREDICATE}, found {kinds[1]} of {kinds[0]}"
        found = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return "is no DSSE envelope of an in-toto statement"
    for name, sha256 in subjects.items():
        if found.get(name) != sha256:
            return f"{name}: expected sha256 {sha256}, signed is {found.get(name, 'nothing')}"
    more = sorted(map(str, found.keys() - subjects.keys()))
    return f"signs {more[0]} as well" if more else None


def signed_by(data: bytes, keys: Iterable[PublicKey]) -> PublicKey | None:
    """
    The key that signed an envelope, of these; None where it was none of them.

    The envelope's own word on the key (`keyid`) is not signed and is no more than a hint (DSSE v1), so each key is tried.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import UnverifiedSignatureError

    try:
        found = Envelope.from_dict(json.loads(data))
        message = found.pae()
        signatures = list(found.signatures.values())
    except Exception:
        # Whoever may write to the container may have put anything there.
        return None
    for key in keys:
        for signature in signatures:
            signature.keyid = key.id
            try:
                key.key.verify_signature(signature, message)
            except UnverifiedSignatureError:
                continue
            return key
    return None


def _public(key: Any) -> SSlibKey:
    """With the sha256 of the key's DER as its id: `openssl pkey -pubin -in KEY -outform DER | sha256sum` tells it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from securesystemslib.signer import SSlibKey

    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SSlibKey.from_crypto(key, keyid=record.digest(der))


def _pem(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_PEM)
