"""
Where the values of an author's own secret parameters come from: the environment, a private file, or the keyring.

A parameter is secret where its annotation says `Secret`. Its value is taken from the first of these that there is, by the
parameter's own name; `{"$secret": NAME}` in a payload, as records hold it, names that parameter and no other:

    LIBSAFE_SECRET_{NAME}        an environment variable; like every LIBSAFE_* it does not reach the kernel
    LIBSAFE_SECRET_{NAME}_FILE   the path of a file that only its owner can read; a last line end is not part of it
    keyring                      service `libsafe-nb`, user name NAME, where the package `keyring` is installed

Never from the command line, which other users of a machine can read (`/proc/PID/cmdline`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from libsafe_nb.errors import ParameterError, SettingsError
from libsafe_nb.secrets import Secret

SERVICE = "libsafe-nb"
OURS = frozenset({"SERVE_KEY", "KEY_USER", "KEY_ROOT", "S3_ACCESS_KEY", "S3_SECRET_KEY", "SIGN_KEY"})
"""Keys of the program itself, in the letters of a variable, which no parameter is given."""


def of_parameter(name: str) -> Secret:
    """
    The value of a function's secret parameter.

    Raises
    ------
    ParameterError, SettingsError
        As `secret`, or the name is that of one of our own keys.
    """
    if name.upper().removesuffix("_FILE") in OURS:
        raise ParameterError(
            f"{name}: is the name of a key of libsafe-nb, which no function is given; call the parameter otherwise",
            name=name,
        )
    return secret(name)


def secret(name: str, environ: Mapping[str, str] = os.environ) -> Secret:
    """
    The value of the secret `name`.

    Raises
    ------
    ParameterError
        It has none.
    SettingsError
        Its file cannot be read, or others can read it; or the value is too weak to be kept out of the record.
    """
    variable = f"LIBSAFE_SECRET_{name.upper()}"
    value = (
        environ.get(variable)
        or _from_file(f"{variable}_FILE", environ.get(f"{variable}_FILE"))
        or _from_keyring(name)
    )
    if not value:
        raise ParameterError(
            f"{name}: is a secret and has no value; set {variable}, or {variable}_FILE to a private file that holds it, "
            f"or store it with: keyring set {SERVICE} {name}",
            name=name,
        )
    return Secret(name, value)


def _from_file(variable: str, path: str | None) -> str | None:
    if not path:
        return None
    file = Path(path)
    try:
        if file.stat().st_mode & 0o077:
            raise SettingsError(f"{variable}: {path} can be read by others; run: chmod 600 {path}")
        return file.read_text().removesuffix("\n").removesuffix("\r")
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{variable}: {path} cannot be read as text ({exc})") from exc


def _from_keyring(name: str) -> str | None:
    # Imported here: it is optional, and looks for its back ends when it is imported.
    try:
        import keyring
        import keyring.errors
    except ImportError:
        return None
    try:
        return keyring.get_password(SERVICE, name)
    except keyring.errors.KeyringError:
        return None
