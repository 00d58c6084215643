"""
What `libsafe-nb verify` says of altered evidence; writes the table of docs/verification.md.

    python benchmarks/tampering.py [--to docs/verification.md]

The alterations are in `tests/tampering.py`, and asserted by `tests/test_verify.py`. Takes about a minute.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from libsafe_nb import local, verify
from libsafe_nb.connection import connect

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import tampering  # noqa: E402 - from the tests

BEGIN, END = "<!-- alterations -->", "<!-- /alterations -->"


def rows(original: tampering.Copy, folder: Path) -> list[str]:
    told = ["| alteration | exit code | told by |", "|---|---|---|"]
    head = original.head()
    report = verify(original.root, head=head)
    told.append(f"| none | {report.exit_code} | {report.counts['ok']} checks ok |")
    witnesses = tampering.Witnesses.make(folder / "witnesses")
    copy = tampering.Copy(shutil.copytree(original.root, folder / "attested"), witnesses)
    copy.attest()
    report = verify(copy.root, head=head, **witnesses.trusted())
    told.append(f"| none, signed and stamped | {report.exit_code} | {report.counts['ok']} checks ok |")
    for each in tampering.ALTERATIONS:
        copy = tampering.Copy(shutil.copytree(original.root, folder / "altered"), witnesses)
        report = each.report(copy, head)
        found = {check.name: check.result for check in report.checks if check.result != "not-checked"}
        names = sorted(found, key=lambda name: (name != each.told_by, name))
        told.append(
            f"| {each.name} | {report.exit_code} | {', '.join(f'`{name}` {found[name]}' for name in names)} |"
        )
        shutil.rmtree(copy.root)
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "verification.md")
    to = parser.parse_args().to
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["LIBSAFE_NB_HOME"] = str(folder / "home")
        with local.serve(folder / "platform") as served:
            connection = connect(settings=served.settings)
            original = tampering.make(connection, folder / "runs")
            connection.close()
        table = "\n".join(rows(original, folder))
    page = to.read_text()
    before, after = page.partition(BEGIN)[0], page.partition(END)[2]
    to.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}")


if __name__ == "__main__":
    main()
