"""
The evidence as an RO-Crate (`ro-crate-metadata.json`) and in plain words (`README.md`), from the record. Pure.

    profile.py    the profiles, formats and files that a crate names
    words.py      what both say of a record, and how
    entities.py   the graph of a crate, and the forms that several kinds of entities share
    steps.py      the functions that the run called, as steps of a workflow
    graph.py      the crate: its entities, from the record and the files
    readme.py     the same for people
"""

from libsafe_nb.crate.graph import build
from libsafe_nb.crate.profile import FILE, README
from libsafe_nb.crate.readme import readme
from libsafe_nb.crate.words import WORDS

__all__ = ["FILE", "README", "WORDS", "build", "readme"]
