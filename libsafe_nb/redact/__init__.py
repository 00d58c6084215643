"""
What keeps the secrets of a run out of everything that is stored.

    reading    how a text may be read: escapes undone, what lies between characters left out
    forms      the encodings of one secret that are looked for
    derived    tokens made from a secret: signatures, presigned URLs, login headers
    matching   SecretSet: all of these at once, fast
    live       LiveFilter: the outputs of a run, as they arrive
"""
