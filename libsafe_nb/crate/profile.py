"""What a crate names that is the same in all of them: profiles, formats, and the files of the evidence."""

from __future__ import annotations

FILE = "ro-crate-metadata.json"
README = "README.md"
NOTEBOOK = "executed.ipynb"
MESSAGES = "messages.jsonl"

CRATE = "https://w3id.org/ro/crate/1.1"
CONTEXT = [f"{CRATE}/context", "https://w3id.org/ro/terms/workflow-run/context"]
PROCESS = {"https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate"}
WORKFLOW = {
    **PROCESS,
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
PROVENANCE = {**WORKFLOW, "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate"}
BIOSCHEMAS_WORKFLOW = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
BIOSCHEMAS_PARAMETER = "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE"

FORMATS = {
    "application/json": ("https://www.nationalarchives.gov.uk/PRONOM/fmt/817", "JSON"),
    "application/xml": ("https://www.nationalarchives.gov.uk/PRONOM/fmt/101", "XML 1.0"),
    "text/html": ("https://www.nationalarchives.gov.uk/PRONOM/fmt/471", "HTML 5"),
    "text/markdown": ("https://www.nationalarchives.gov.uk/PRONOM/fmt/1149", "Markdown"),
    "application/x-ipynb+json": (
        "https://nbformat.readthedocs.io/en/latest/format_description.html",
        "Jupyter notebook",
    ),
    "application/x-ndjson": ("https://jsonlines.org/", "JSON lines"),
}
"""Media type to the format's page in PRONOM; to that of its specification where PRONOM has no entry."""

PARTS = {
    NOTEBOOK: (
        "application/x-ipynb+json",
        "The notebook as it was executed: its code, its parameters and what each cell showed.",
    ),
    "record.json": (
        "application/json",
        "The record of the run. All other descriptions here are made from it.",
    ),
    "environment.json": ("application/json", "Python and the packages that the notebook ran with."),
    MESSAGES: ("application/x-ndjson", "What the function said to the platform's job, a line each."),
    "premis.xml": ("application/xml", "The run as PREMIS 3.0 events, agents and objects."),
    "report.html": ("text/html", "The run for people, to be opened in a browser."),
    README: ("text/markdown", "What this folder is, in plain words."),
}
"""The files of the evidence: media type, and what each is."""

STATUS = {True: "http://schema.org/CompletedActionStatus", False: "http://schema.org/FailedActionStatus"}
"""As plain text: roc-validator takes no reference here (process-run-crate-0.5, check 8.7)."""
