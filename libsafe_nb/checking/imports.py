"""Imports against what the function says it needs: `metadata.libsafe.requirements`, a list of PEP 508 texts."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator, Mapping

from libsafe_nb import description
from libsafe_nb.checking.cells import Program
from libsafe_nb.checking.examined import Examined, Found

PROVIDED = frozenset(("libnova", "libsafe_nb", "scrapbook", "IPython", "ipykernel"))
"""There in every kernel that runs a function: `libnova` and `libsafe_nb`, and what authors use of what that needs."""

# For a package that is not installed where `check` runs; of one that is, its own metadata tells.
_DISTRIBUTIONS: Mapping[str, str] = {
    "Bio": "biopython",
    "Crypto": "pycryptodome",
    "OpenSSL": "pyopenssl",
    "PIL": "pillow",
    "attr": "attrs",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dateutil": "python-dateutil",
    "docx": "python-docx",
    "dotenv": "python-dotenv",
    "exif": "exif",
    "fitz": "pymupdf",
    "git": "gitpython",
    "jwt": "pyjwt",
    "magic": "python-magic",
    "markdown_it": "markdown-it-py",
    "fido": "opf-fido",
    "pkg_resources": "setuptools",
    "pptx": "python-pptx",
    "psycopg2": "psycopg2-binary",
    "serial": "pyserial",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def undeclared(examined: Examined) -> Iterator[Found]:
    libsafe = examined.metadata.get("libsafe")
    declared = description.required(libsafe if isinstance(libsafe, Mapping) else {})
    told: set[str] = set()
    for line, module in _imports(examined.program):
        top = module.partition(".")[0]
        if top in told or top in sys.stdlib_module_names or top in PROVIDED:
            continue
        if not declared.isdisjoint(_by_name(module)) or not declared.isdisjoint(_installed().get(top, ())):
            continue
        told.add(top)
        number, at = examined.program.place(line)
        names = sorted(_installed().get(top, ())) or [_DISTRIBUTIONS.get(top, top)]
        said = f", as '{names[0]}'" if len(names) == 1 and names[0] != top else ""
        yield (
            number,
            at,
            f"{top} is imported and not declared: name its distribution in metadata.libsafe.requirements{said}",
        )


def _by_name(module: str) -> set[str]:
    """Names that its distribution would have: `google.cloud.storage` may be of `google-cloud-storage`."""
    parts = module.split(".")
    names = {description.canonical("-".join(parts[:count])) for count in range(1, len(parts) + 1)}
    known = _DISTRIBUTIONS.get(parts[0])
    # opencv-python-headless and psycopg2 import as the others of their family do.
    family = {
        "cv2": {"opencv-python-headless", "opencv-contrib-python"},
        "psycopg2": {"psycopg2"},
        "magic": {"python-magic-bin"},
    }
    return names | ({known} if known else set()) | family.get(parts[0], set())


@functools.cache
def _installed() -> Mapping[str, frozenset[str]]:
    """Distributions by the module that they bring, in this environment."""
    # Reads the files' list of every installed package: only where the names do not tell.
    from importlib.metadata import packages_distributions

    return {
        module: frozenset(map(description.canonical, names))
        for module, names in packages_distributions().items()
    }


def _imports(program: Program) -> Iterator[tuple[int, str]]:
    for node in program.nodes:
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        elif (
            isinstance(node, ast.Call)
            and (ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__"))
            and node.args
            and isinstance(node.args[0], ast.Constant)
            and isinstance(node.args[0].value, str)
        ):
            found = [node.args[0].value]
        else:
            continue
        if not _may_be_missing(program, node):
            yield from ((getattr(node, "lineno", 1), name) for name in found if not name.startswith("."))


def _may_be_missing(program: Program, node: ast.AST) -> bool:
    """Whether the function does without: the import is tried only, or is for a type checker."""
    if program.is_tried(node, ("ImportError", "ModuleNotFoundError", "Exception", "BaseException")):
        return True
    return any(
        isinstance(above, ast.If) and "TYPE_CHECKING" in ast.unparse(above.test)
        for above in program.above(node)
    )
