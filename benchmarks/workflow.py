"""
A job of five notebooks, two of which read a file each: ours beside ploomber and dagstermill.

    python benchmarks/workflow.py --ploomber PYTHON --dagster PYTHON [--runs 7] [--json FILE] [--page docs/performance.md]

PYTHON is the interpreter of an environment in which `ploomber`, or `dagster` and `dagstermill`, are installed.

    one.txt -> a -+
                  +-> c -> d -> e
    two.txt -> b -+

Each round makes the job anew, and runs it three times as a command, from its start to its end: for the first time, with nothing
changed, and with two.txt changed. Ours keeps evidence of each of the six runs in the container of a local platform that is up;
ploomber keeps the executed notebooks and, of each product, the source that made it; dagstermill the executed notebooks.
ploomber is told of the files (`resources_`) so that it notices their change; dagstermill has nothing to skip a step by.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import figures
import nbformat

STEPS = {
    "a": ((), "one.txt"),
    "b": ((), "two.txt"),
    "c": (("a", "b"), ""),
    "d": (("c",), ""),
    "e": (("d",), ""),
}
TURNS = {
    "for the first time": {"one.txt": "a b c", "two.txt": "d e"},
    "nothing changed": {},
    "one of two files changed": {"two.txt": "d e f g"},
}
"""With the files that are written before it."""

PARAMETERS = 'json_sample = {"function_data": {"container": {"id": "1"}}, "function_params": {}}'
STEP = """
import json
from libnova.com.Api import File
from libnova.com.Filesystem import S3
from libnova.com.Nuclio.Request import Request
request = Request(None, type("", (object,), {{"body": json.dumps(json_sample)}})())
request.job_init()
read = [S3.File.get_stream(request.Storage, each).read() for each in request.Files]
words = {words}
File.upload(request.container_id, "/out/{name}.json", json.dumps({{"words": words}}).encode(), "application/json")
request.job_end(True)
"""
WORKFLOW = """
import libsafe_nb
done = {}
for name, (above, file) in STEPS.items():
    files = [done[each] for each in above] or [f"/{file}"]
    done[name] = libsafe_nb.call(f"./{name}.ipynb", files=files, reuse="unchanged")
for each in libsafe_nb.gather(*done.values()):
    print(each.function, each.status)
"""


def write(path: Path, *sources: str) -> None:
    """A notebook whose first cell is its parameters."""
    head, *rest = sources
    cells = [nbformat.v4.new_code_cell(head, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(each) for each in rest]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), path)


def ours(folder: Path) -> None:
    for name, (above, _) in STEPS.items():
        words = "sum(json.loads(each)['words'] for each in read)" if above else "len(read[0].split())"
        write(folder / f"{name}.ipynb", PARAMETERS, STEP.format(name=name, words=words))
    write(folder / "job.ipynb", PARAMETERS, f"STEPS = {STEPS!r}", WORKFLOW)


def ploombers(folder: Path) -> None:
    tasks = []
    for name, (above, file) in STEPS.items():
        task: dict[str, Any] = {"source": f"{name}.ipynb", "name": name}
        task["product"] = {"nb": f"out/{name}.ipynb", "data": f"out/{name}.json"}
        words = "sum(json.loads(Path(upstream[each]['data']).read_text())['words'] for each in upstream)"
        if file:
            task["params"] = {"resources_": {"file": file}}
            words = "len(Path(resources_['file']).read_text().split())"
        tasks.append(task)
        write(
            folder / f"{name}.ipynb",
            f"upstream = {list(above) or None}\nproduct = None\nresources_ = None",
            f"import json\nfrom pathlib import Path\nwords = {words}",
            "Path(product['data']).write_text(json.dumps({'words': words}))",
        )
    # JSON is YAML.
    (folder / "pipeline.yaml").write_text(json.dumps({"tasks": tasks}))


DAGSTER = """
from pathlib import Path
import dagster
from dagstermill import ConfigurableLocalOutputNotebookIOManager, define_dagstermill_op

HERE = Path(__file__).parent
STEPS = {steps!r}

def op(name):
    above, _ = STEPS[name]
    return define_dagstermill_op(
        name, str(HERE / (name + ".ipynb")), ins={{each: dagster.In(int) for each in above}},
        outs={{"result": dagster.Out(int)}}, output_notebook_name=name + "_notebook",
    )

a, b, c, d, e = map(op, STEPS)
kept = ConfigurableLocalOutputNotebookIOManager(base_dir=str(HERE / "out"))

@dagster.job(resource_defs={{"output_notebook_io_manager": kept}})
def job():
    def result(found):
        return getattr(found, "result", found)
    e(result(d(result(c(result(a()), result(b()))))))
"""


def dagsters(folder: Path) -> None:
    for name, (above, file) in STEPS.items():
        words = f"len(Path({str(folder / file)!r}).read_text().split())" if file else " + ".join(above)
        write(
            folder / f"{name}.ipynb",
            "\n".join(f"{each} = 0" for each in above) or "nothing = None",
            f"import dagstermill\nfrom pathlib import Path\nwords = {words}",
            "dagstermill.yield_result(words)",
        )
    (folder / "job.py").write_text(DAGSTER.format(steps=STEPS))


def timed(command: Sequence[str], folder: Path, **environment: str) -> float:
    began = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return seconds


def peer(folder: Path, make: Callable[[Path], None], python: Path, command: Sequence[str]) -> list[float]:
    """The three runs of a peer, whose programs lie beside its interpreter."""
    folder.mkdir()
    make(folder)
    environment = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "DAGSTER_HOME": str(folder),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "PLOOMBER_STATS_ENABLED": "false",
    }
    taken = []
    for files in TURNS.values():
        for name, text in files.items():
            (folder / name).write_text(text)
        taken.append(timed([str(python.parent / command[0]), *command[1:]], folder, **environment))
    return taken


def run(folder: Path, connection: Any) -> tuple[list[float], list[dict[str, Any]]]:
    """Our three runs, in a container of their own, and what the records of their calls say."""
    folder.mkdir()
    ours(folder)
    container = str(connection.client.create_container("job")["id"])
    taken, told = [], []
    for files in TURNS.values():
        for name, text in files.items():
            connection.storage.put(container, name, text.encode())
        command = [sys.executable, "-m", "libsafe_nb", "run", "job.ipynb", "--container", container]
        taken.append(timed(command, folder))
        told.append(_calls(connection, container))
    return taken, told


def _calls(connection: Any, container: str) -> dict[str, Any]:
    """How many calls the latest run of the job made, and of how many an earlier result was taken."""
    places = sorted(
        each.path
        for each in connection.storage.list(container, "provenance/job/")
        if each.path.endswith("record.json")
    )
    record = json.loads(connection.storage.get(container, places[-1]))
    return {
        "calls": len(record["calls"]),
        "reused": sum(bool(each.get("reused")) for each in record["calls"]),
    }


def measure(ploomber: Path, dagster: Path, runs: int) -> tuple[dict[str, list[list[float]]], list[Any]]:
    from libsafe_nb import local
    from libsafe_nb.connection import connect

    taken: dict[str, list[list[float]]] = {"ours": [], "ploomber": [], "dagstermill": []}
    with tempfile.TemporaryDirectory(prefix="workflow-") as name:
        folder = Path(name)
        os.environ["LIBSAFE_NB_HOME"] = str(folder)
        with local.serve(folder / "platform") as served:
            connection = connect(settings=served.settings)
            for turn in range(runs + 1):
                found, told = run(folder / f"ours{turn}", connection)
                three = {
                    "ours": found,
                    "ploomber": peer(folder / f"p{turn}", ploombers, ploomber, ["ploomber", "build"]),
                    "dagstermill": peer(
                        folder / f"d{turn}", dagsters, dagster, ["dagster", "job", "execute", "-f", "job.py"]
                    ),
                }
                print(
                    f"round {turn}:",
                    {who: [round(each, 1) for each in one] for who, one in three.items()},
                    flush=True,
                )
                if turn:
                    for who, one in three.items():
                        taken[who].append(one)
    return taken, told


def main() -> None:
    parser = figures.options(__doc__)
    parser.add_argument(
        "--ploomber", type=_program, required=True, metavar="PYTHON", help="of ploomber's environment"
    )
    parser.add_argument(
        "--dagster", type=_program, required=True, metavar="PYTHON", help="of dagstermill's environment"
    )
    given = parser.parse_args()
    taken, told = measure(given.ploomber, given.dagster, given.runs)
    rows = []
    for number, turn in enumerate(TURNS):
        for peer_ in ("ploomber", "dagstermill"):
            pairs = [
                (mine[number], theirs[number])
                for mine, theirs in zip(taken["ours"], taken[peer_], strict=True)
            ]
            ratio = statistics.median(theirs / mine for mine, theirs in pairs)
            mine, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
            rows.append(figures.Row(f"{turn}, against {peer_}", mine, theirs, None, ratio, "peer", None))
    reused = ", ".join(f"{each['reused']} of {each['calls']}" for each in told)
    head = f"five notebooks, median of {given.runs}, s"
    text = f"{figures.table(head, rows)}\nOf our calls {reused} took an earlier result. {figures.made()}"
    figures.keep(
        "workflow", rows, text, path=given.json, page=given.page, title=head, seconds=taken, calls=told
    )


def _program(text: str) -> Path:
    path = Path(text).absolute()
    if not path.is_file():
        raise argparse.ArgumentTypeError(
            f"{text}: expected the interpreter of an environment, found no such file"
        )
    return path


if __name__ == "__main__":
    main()
