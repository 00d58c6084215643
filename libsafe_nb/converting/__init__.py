"""
A plain handler as a parameterized notebook, and a notebook as a handler: `libsafe-nb convert`. Pure: text in, text out.

    tonotebook.py   a handler as a notebook
    tohandler.py    a notebook as a handler
    cells.py        what a notebook's cells hold, and which of it a handler cannot
    written.py      the text of a handler around the cells
    names.py        which names code binds and looks up
    moving.py       code moved as it was written

A conversion does the same as what it was made of, or is refused with the cell or line named. Code stays as its author wrote
it, comments included: it is moved by lines and then compared, as a syntax tree, with what it was.
"""

from libsafe_nb.converting.tohandler import to_handler
from libsafe_nb.converting.tonotebook import to_notebook

__all__ = ["to_handler", "to_notebook"]
