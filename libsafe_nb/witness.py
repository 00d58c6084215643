"""
Who attests a link after it was put: the user's signing key and a time-stamp authority, where the settings name them.

A signature that cannot be stored is a fault of the storage, as with all other evidence. A time stamp that cannot be
got is told to the job, and holds nothing up: the authority is a stranger, and the record is whole without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from libsafe_nb import chain, evidence, record, signing, timestamping
from libsafe_nb.errors import ObjectNotFound, PreconditionFailed, TimeStampRefused

if TYPE_CHECKING:
    from libsafe_nb.secrets import Secret
    from libsafe_nb.settings import Settings
    from libsafe_nb.signing import Signer
    from libsafe_nb.storage import Storage
    from libsafe_nb.timestamping import Authority


@dataclass(frozen=True)
class Witness:
    """Either may be missing; `NOBODY` attests nothing."""

    signer: Signer | None = None
    authority: Authority | None = None

    def secrets(self) -> dict[str, Secret]:
        """What must not be stored: the private key, as it stands in its file."""
        from libsafe_nb.secrets import Secret

        return {"sign_key": Secret("sign_key", self.signer.text)} if self.signer else {}

    def sign(
        self, storage: Storage, container: str, link: chain.Link, *, prefix: str, files: Mapping[str, bytes]
    ) -> str | None:
        """
        Put the link's envelope beside it, once; a sentence where one of somebody else stands there.

        Raises
        ------
        StorageError
            The storage did not take it.
        """
        if self.signer is None:
            return None
        body = {
            "record": f"{prefix}/record.json",
            "record_sha256": record.digest(files["record.json"]),
            "sums_sha256": record.digest(files[evidence.SUMS]),
        }
        subjects = signing.subjects(chain.path(link.seq), link.sha256, body)
        place = chain.envelope(link.seq)
        try:
            evidence.put_once(storage, container, place, signing.envelope(self.signer, subjects))
        except PreconditionFailed:
            # Of a runner with another key, which died after it; or of somebody who should not write here.
            return f"{place}: expected our signature of the link, found another, which was left"
        return None

    def stamp(self, storage: Storage, container: str, link: chain.Link) -> str | None:
        """
        Put a time stamp beside the link unless there is one; a sentence where there is none afterwards.

        Raises
        ------
        StorageError
            The storage did not give the link, or did not take the stamp.
        """
        if self.authority is None:
            return None
        place = chain.stamp(link.seq)
        data = storage.get(container, chain.path(link.seq))
        if record.digest(data) != link.sha256:
            return (
                f"{chain.path(link.seq)}: expected the link that was put, sha256 {link.sha256}, found another"
            )
        if _is_stamped(storage, container, place, data):
            return None
        try:
            answer = self.authority.stamp(data)
        except TimeStampRefused as exc:
            return f"link {link.seq} has no time stamp, and is complete without it: {exc}"
        try:
            evidence.put_once(storage, container, place, answer)
        except PreconditionFailed:
            if not _is_stamped(storage, container, place, data):
                return f"{place}: expected a time stamp of the link, found something else, which was left"
        return None


NOBODY = Witness()


def load(settings: Settings) -> Witness:
    """
    Those that the settings name.

    Raises
    ------
    SettingsError
        The extra `sign` is missing, the key's file is not one, or the authority's address is none.
    """
    return Witness(
        signing.signer(settings.sign_key) if settings.sign_key else None,
        timestamping.authority(settings.tsa_url) if settings.tsa_url else None,
    )


def _is_stamped(storage: Storage, container: str, place: str, data: bytes) -> bool:
    try:
        with storage.open(container, place) as file:
            found = timestamping.decoded(file.read(timestamping.MAX_ANSWER))
    except ObjectNotFound:
        return False
    return found is not None and found.status == 0 and timestamping.imprint_problem(found, data) is None
