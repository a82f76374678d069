"""What the site needs beyond mkdocs: references that are generated, links out of docs/, and pictures in its colours.

- A page with the line ``<!-- generated: configuration -->`` (or ``commands``) gets that reference in its place.
- The repository has files outside of docs/ that pages link to. In a repository browser such links work as they stand;
  in the site they lead to a page that shows the file, since there is no public address of the repository to link to.
- A notebook becomes a page of Markdown; links to it lead to that page.
- SVG pictures are put into the page itself, so that they take the colours of the theme.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

import commands
import configuration
from converted import notebook_pages, page_of
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
REFERENCES = {"configuration": configuration.page, "commands": commands.page}
AT_HOME = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}  # files of the root that are pages
README = ("README.md", "index.md")  # what stands for it in the site
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(#[^)\s]*)?(?=\))")
PICTURE = re.compile(r"^!\[[^\]]*\]\((\S+\.svg)\)$", re.MULTILINE)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".json": "json", ".sh": "bash", ".toml": "toml", ".js": "javascript"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/: those of the root, of notebooks, and of files that others link to."""
    for name, page in AT_HOME.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        for file in notebook_pages(notebook, config):
            files.append(file)
    texts = {file.src_uri: file.content_string for file in files.documentation_pages() if file.src_uri.endswith(".md")}
    for name in sorted({name for page, text in texts.items() for name in linked_outside(text, page)}):
        files.append(File.generated(config, f"source/{name}.md", content=source_page(name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """References, pictures, and links out of docs/."""
    for name, make in REFERENCES.items():
        marker = f"<!-- generated: {name} -->"
        if marker in markdown:
            markdown = markdown.replace(marker, make())
    if page.file.src_uri.startswith("source/"):
        return markdown

    def inside(match: re.Match[str]) -> str:
        name = outside(match[1], page.file.src_uri)
        if name is None:
            own = page_of(match[1]) == posixpath.basename(page.file.src_uri)  # the notebook that a page was made from
            return page_of(match[1]) + (match[2] or "") if match[1].endswith(".ipynb") and not own else match[0]
        return posixpath.relpath(in_site(name), posixpath.dirname(page.file.src_uri) or ".") + (match[2] or "")

    def drawn(match: re.Match[str]) -> str:
        text = Path(page.file.abs_src_path or "").parent.joinpath(match[1]).read_text(encoding="utf-8")
        return f'<div class="picture">{text[text.index("<svg") :].strip()}</div>'

    return LINK.sub(inside, PICTURE.sub(drawn, markdown))


def outside(link: str, page: str) -> str | None:
    """The file of the repository that a link of a page means, from the root, if it lies outside of docs/.

    Args:
        link: as written, without an anchor.
        page: the page's place in docs/.
    """
    base = "" if page in AT_HOME.values() else "docs"
    name = posixpath.normpath(posixpath.join(base, posixpath.dirname(page), link))
    if name.startswith("..") or not (ROOT / name).is_file():
        return None
    if base == "" and name.startswith("docs/"):
        return name
    return None if name.startswith("docs/") else name


def in_site(name: str) -> str:
    """Where a file of the repository is in the site."""
    if name.startswith("docs/"):
        return name.removeprefix("docs/")
    return {**AT_HOME, README[0]: README[1]}.get(name, f"source/{name}.md")


def linked_outside(text: str, page: str) -> list[str]:
    """The files outside of docs/ that a page links to and that are to be shown."""
    names = (outside(match[1], page) for match in LINK.finditer(text))
    return [name for name in names if name is not None and in_site(name).startswith("source/")]


def source_page(name: str) -> str:
    """A page that shows a file."""
    text = (ROOT / name).read_text(encoding="utf-8")
    fence = "`" * 8
    language = LANGUAGES.get(os.path.splitext(name)[1], "text")
    return f"---\ntitle: {name}\nsearch:\n  exclude: true\n---\n\n# `{name}`\n\n{fence}{language}\n{text}{fence}\n"
