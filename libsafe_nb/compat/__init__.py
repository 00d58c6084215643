"""
`from libnova import …` where the vendor's library is not installed.

`install()` offers a stand-in for the vendor's `libnova`, in both of its module layouts, to whatever nothing else
provides; the vendor's own library always wins. `which()` tells who did.
"""

from libsafe_nb.compat.finder import install, uninstall, which

__all__ = ["install", "uninstall", "which"]
