"""
What a person at a notebook has: `%libsafe` (`magics.py`), and a payload without keys in sight (`payload.py`).

The extension is loaded in every kernel of a run as well, so that a notebook is the same in both worlds; it imports
next to nothing before it is used.
"""

from __future__ import annotations

from typing import Any

from libsafe_nb import compat

MAGIC = "libsafe"


def load(shell: Any) -> None:
    """Offer `import libnova` and `%libsafe` in an IPython shell; doing so again changes nothing."""
    from libsafe_nb.interactive.magics import completions, magic

    compat.install()
    if MAGIC not in shell.magics_manager.magics["line"]:
        shell.register_magic_function(magic, "line", MAGIC)
        shell.set_hook("complete_command", completions, str_key=f"%{MAGIC}")


def unload(shell: Any) -> None:
    """Take both back; `libnova` is forgotten where it was the stand-in."""
    from libsafe_nb.interactive.magics import completions

    shell.magics_manager.magics["line"].pop(MAGIC, None)
    for hooks in shell.strdispatchers.get("complete_command", {}).strs.values():
        hooks.chain[:] = [each for each in hooks.chain if each[1] is not completions]
    compat.uninstall()
