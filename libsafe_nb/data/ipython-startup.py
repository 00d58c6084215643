# In every IPython of this environment: `%libsafe`, and `import libnova` where the vendor's own library is not installed.
from libsafe_nb import interactive as _interactive

_interactive.load(get_ipython())  # type: ignore[name-defined] # noqa: F821 - IPython puts it there
del _interactive
