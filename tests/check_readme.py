"""Reads the project's Markdown without any package: its commands and snippets, and whether every link leads somewhere.

python tests/check_readme.py --command tests    print the command below `<!-- tests -->` in README.md
python tests/check_readme.py --links            check the links of every Markdown file
"""

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parents[1]
FENCED = re.compile(
    r"(?:<!-- *(?P<marker>[\w-]+) *-->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?[^)]*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
NO_PAGES = {"venv", "build", "dist", "runs"}
HEADING = re.compile(r"^#+\s+(.*?)\s*#*$", re.MULTILINE)


class Snippet(NamedTuple):
    marker: str | None  # the HTML comment on the line before the fence
    language: str
    text: str
    line: int


def snippets(markdown: str) -> list[Snippet]:
    """Every fenced block, in order."""
    return [
        Snippet(found["marker"], found["language"], found["text"], markdown.count("\n", 0, found.start("text")))
        for found in FENCED.finditer(markdown)
    ]


def command(markdown: str, marker: str) -> str:
    """The one command in the block below `<!-- marker -->`: a single line that can be pasted."""
    marked = [snippet for snippet in snippets(markdown) if snippet.marker == marker]
    if len(marked) != 1:
        raise ValueError(f"README.md has {len(marked)} blocks marked <!-- {marker} -->; there must be one.")
    lines = marked[0].text.splitlines()
    if len(lines) != 1:
        raise ValueError(f"The block marked <!-- {marker} --> has {len(lines)} lines; it must be one command on one.")
    return lines[0]


def anchors(markdown: str) -> set[str]:
    """The fragments that a Markdown page offers: its headings as GitHub spells them, repeated ones numbered."""
    seen: dict[str, int] = {}
    found = set()
    for heading in HEADING.findall(FENCED.sub("", markdown)):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        repeat = seen[slug] = seen.get(slug, -1) + 1
        found.add(f"{slug}-{repeat}" if repeat else slug)
    return found


def broken_links(page: Path) -> Iterator[str]:
    """Links to files or headings that are not there, and web addresses that are none; the web itself is not asked."""
    markdown = page.read_text()
    for inline, reference in LINK.findall(FENCED.sub("", markdown)):
        link = inline or reference
        parts = urlsplit(link)
        if parts.scheme in ("http", "https"):
            if "." not in parts.netloc:
                yield f"{link}: not a web address"
            continue
        if parts.scheme:
            yield f"{link}: neither a web address nor a place in the project"
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.is_relative_to(ROOT) or not target.exists():
            yield f"{link}: no such file in the project"
        elif parts.fragment and parts.fragment not in anchors(target.read_text()):
            yield f"{link}: no such heading in {target.name}"


def markdown_pages() -> list[Path]:
    """Every Markdown file of the project, tools' hidden folders and environments apart."""
    pages = ((page, page.relative_to(ROOT).parts) for page in ROOT.rglob("*.md"))
    return sorted(page for page, parts in pages if not any(part.startswith(".") or part in NO_PAGES for part in parts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--command", metavar="MARKER", help="print the command of README.md with this marker")
    what.add_argument("--links", action="store_true", help="check the links of every Markdown file")
    arguments = parser.parse_args()
    if arguments.command:
        print(command((ROOT / "README.md").read_text(), arguments.command))
        return 0
    pages = markdown_pages()
    faults = [f"{page.relative_to(ROOT)}: {fault}" for page in pages for fault in broken_links(page)]
    print("\n".join([*faults, f"{len(pages)} Markdown files, {len(faults)} broken links"]))
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
