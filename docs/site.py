"""MkDocs hook of mkdocs.yml: publish the README and all files that pages link to.

The site has the layout of the repository, except that docs/ is its root. The README is the home
page. Links between files therefore work both in the repository and on the site.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md")
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)[^)#\s]+")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/ that belong to the site."""
    pages = [Path(file.abs_src_path) for file in files.documentation_pages()]
    pages += [ROOT / page for page in PAGES]
    seen = set(pages)
    for page in pages:  # grows by the pages that are linked
        links = _LINK.findall(page.read_text(encoding="utf-8"))
        linked = {(page.parent / link).resolve() for link in links} - seen
        seen |= linked
        pages += sorted(file for file in linked if file.suffix == ".md")
    for file in sorted(seen):
        path = file.relative_to(ROOT).as_posix()
        if file.is_file() and not path.startswith("docs/"):
            files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    here = posixpath.dirname(_path(page))

    def moved(link: re.Match) -> str:
        target = posixpath.normpath(posixpath.join(here, link[0])).removeprefix("docs/")
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")

    return _LINK.sub(moved, markdown)


def _path(page: Page) -> str:
    """Return the path of a page's file in the repository."""
    return Path(page.file.abs_src_path).relative_to(ROOT).as_posix()
