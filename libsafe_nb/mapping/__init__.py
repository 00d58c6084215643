"""
One function over many files: `libsafe-nb map`.

    units       batches and pieces: their names, and how one that did not complete is taken apart
    layout      what a map keeps in its container: the plan, written first
    ledger      claims and results, by conditional writes
    choosing    which files, in batches
    working     a worker's side: one unit
    warm        what workers need, imported in the process that they are forked from
    counts      what has become of the files, also before this process
    report      the table of failures, and the end of the parent job
    course      the coordinator: what is not done is submitted, taken apart and submitted again

All that matters is in the container. Whoever dies, coordinator or worker, leaves there what the next one needs; an executor
is told names only, and may forget everything.
"""
