"""Notebooks as pages: text, code and outputs as Markdown, so that they look, and are searched, like every other page.

nbconvert rather than mkdocs-jupyter, whose pages bring the styles of Jupyter (0.6 MB each), a script that can fetch
another from elsewhere, and links that are not followed from Markdown to HTML.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter


def notebook_pages(file: File, config: MkDocsConfig) -> Iterator[File]:
    """The page of a notebook, and the pictures that its cells have drawn.

    Args:
        file: the notebook, whose outputs are those that it was saved with.
        config: of the site.
    """
    path = PurePosixPath(file.src_uri)
    names = {"unique_key": path.stem, "output_files_dir": f"{path.stem}_files"}
    text, resources = MarkdownExporter().from_filename(str(file.abs_src_path), resources=names)
    note = f"\n\nThis page is a notebook: [{path.name}]({path.name}).\n\n"
    heading, _, rest = text.partition("\n")
    yield File.generated(config, page_of(file.src_uri), content=heading + note + rest)
    for name, content in resources.get("outputs", {}).items():
        yield File.generated(config, str(path.parent / name), content=content)


def page_of(notebook: str) -> str:
    """Where the page of a notebook is."""
    return str(PurePosixPath(notebook).with_suffix(".md"))
