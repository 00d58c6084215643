# Makes `import libnova` work in every IPython of this environment that does not have the vendor's own library.
from libsafe_nb import compat as _compat

_compat.install()
del _compat
