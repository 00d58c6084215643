"""
The rules of `check`, by what they look at.

    examined.py     a notebook that is looked at, and what a rule yields
    cells.py        its cells as Python, with IPython's own syntax made Python and every line where it was
    keys.py         keys pasted into it
    parameters.py   its parameters cell: there, one, the payload in it, defaults
    reading.py      whether parameters are read, before they are lost, and declared
    params.py       where code reads the payload's `function_params`
    order.py        the order of cells: counts, and names used before they are defined
    job.py          `job_init` and `job_end` on every path
    paths.py        the ways that code can take
    conditions.py   what such a way has found true
    imports.py      imports against `metadata.libsafe.requirements`
    installs.py     packages that a cell installs
    places.py       absolute paths
    silence.py      `# noqa`
"""
