"""
The notebooks that papermill and scrapbook ship, under papermill's own engine and under ours.

Same verdict, same outputs, same counts and same states, save where papermill's record is false; those are listed, with
the reason. `-m slow`: 28 notebooks twice.
"""

import json
from pathlib import Path

import nbformat
import papermill
import pytest
from engine_runs import nothing_left

scrapbook = pytest.importorskip("scrapbook", reason="scrapbook 0.5.0 needs six")

ROOTS = [Path(module.__file__).parent / "tests" / "notebooks" for module in (papermill, scrapbook)]
NOTEBOOKS = sorted(path for root in ROOTS for path in root.rglob("*.ipynb"))

DIFFERENT_STATES = {  # by wheel and name: both have a result_no_exec
    "papermill-sysexit": "sys.exit(0) is no failure: papermill itself ends with 0",
    "papermill-sysexit0": "sys.exit(0) is no failure: papermill itself ends with 0",
    "papermill-systemexit": "SystemExit is no failure: papermill itself ends with 0",
    "papermill-notimplemented_translator": "there is no such kernel: nothing ran, papermill says completed",
    "scrapbook-result_no_exec": "there is no such kernel: nothing ran, papermill says completed",
}

DIFFERENT_ERRORS = {
    "ValueError": "NotebookError",  # the notebook names no kernel
    "NoSuchKernel": "NotebookError",
}


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch):
    with nothing_left(monkeypatch):
        yield


def name(path):
    return f"{path.parents[2].name}-{path.stem}"


def test_what_is_listed_is_there():
    assert set(DIFFERENT_STATES) <= set(map(name, NOTEBOOKS))


def told(engine, source, target):
    """Verdict, outputs, counts and papermill's states of one notebook under one engine."""
    verdict = "completed"
    try:
        papermill.execute_notebook(str(source), str(target), engine_name=engine, progress_bar=False)
    except Exception as exc:
        verdict = type(exc).__name__
    if not target.exists():
        return verdict, None, None, None
    cells = nbformat.read(target, as_version=4).cells
    return (
        verdict,
        [joined(cell.get("outputs", [])) for cell in cells],
        [cell.get("execution_count") for cell in cells],
        [cell.metadata.get("papermill", {}).get("status") for cell in cells],
    )


def joined(outputs):
    """Outputs with neighbouring pieces of one stream as one: how they are cut is chance in plain papermill."""
    kept = []
    for each in json.loads(json.dumps(outputs)):
        last = kept[-1] if kept else {}
        if each["output_type"] == "stream" == last.get("output_type") and each["name"] == last["name"]:
            last["text"] += each["text"]
        else:
            kept.append(each)
    return kept


@pytest.mark.slow
@pytest.mark.timeout(400)  # one of papermill's notebooks sleeps for a minute
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("source", NOTEBOOKS, ids=name)
def test_same_as_papermills_own_engine(source, tmp_path):
    verdict, outputs, counts, states = told(None, source, tmp_path / "plain.ipynb")
    our_verdict, our_outputs, our_counts, our_states = told("libsafe", source, tmp_path / "ours.ipynb")

    assert our_verdict == DIFFERENT_ERRORS.get(verdict, verdict)
    assert our_outputs == outputs
    assert our_counts == counts
    # Both ways: what is listed and not so (any more) is no difference.
    assert (our_states != states) == (name(source) in DIFFERENT_STATES)
