"""
What the documentation site has beside its pages: the schema of `record.json`, which lies in the package, and the tutorial,
which is a notebook.
"""

from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

SCHEMA = "libsafe_nb/data/record.schema.json"
TUTORIAL = "tutorial.ipynb"


def on_files(files: Files, config: Any) -> Files:
    root = Path(config.config_file_path).parent.parent
    files.append(File.generated(config, Path(SCHEMA).name, abs_src_path=str(root / SCHEMA)))
    notebook = files.get_file_from_path(TUTORIAL)
    assert notebook is not None
    files.remove(notebook)
    for name, content in pages(root / "docs" / TUTORIAL).items():
        files.append(File.generated(config, name, content=content))
    return files


def pages(notebook: Path) -> dict[str, str | bytes]:
    """A notebook as a page, with the pictures that it shows."""
    from nbconvert import MarkdownExporter

    text, resources = MarkdownExporter().from_filename(str(notebook))
    page = PurePosixPath(notebook.name).with_suffix(".md")
    # Its cells are commands; that Jupyter wants a magic before them is of no interest to a reader.
    return {str(page): text.replace("```python\n%%bash\n", "```bash\n"), **(resources.get("outputs") or {})}


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(f"](../{SCHEMA})", f"]({Path(SCHEMA).name})").replace(
        f"]({TUTORIAL})", "](tutorial.md)"
    )
