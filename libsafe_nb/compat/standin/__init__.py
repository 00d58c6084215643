"""
The modules behind the names of the vendor's library; `compat/layout.py` says which name leads where.

What each call's shape rests on is in its docstring: *vendor* (the vendor's documentation shows it), *seen* (public
client code shows it) or *ours* (nobody outside could check it; it is what an author would expect).
"""
