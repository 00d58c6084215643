"""What the documentation site has beside its pages: the schema of `record.json`, which lies in the package."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

SCHEMA = "libsafe_nb/data/record.schema.json"


def on_files(files: Files, config: Any) -> Files:
    root = Path(config.config_file_path).parent.parent
    files.append(File.generated(config, Path(SCHEMA).name, abs_src_path=str(root / SCHEMA)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(f"](../{SCHEMA})", f"]({Path(SCHEMA).name})")
