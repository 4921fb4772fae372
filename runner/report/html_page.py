"""What the HTML reports share: one page, no script, nothing that is loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; }
th, td { border: 1px solid #bbb; padding: .3rem .6rem; text-align: left; }
th { background: #eee; } pre { background: #f4f4f4; padding: .8rem; overflow-x: auto; }
img, svg { max-width: 100%; height: auto; border: 1px solid #ccc; }
.equal { color: #0a5c0a; } .different { color: #a00000; }
"""


def page(title: str, parts: Sequence[str], style: str = "") -> str:
    """The whole page; `parts` are HTML, `title` is text."""
    return "\n".join(
        [
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
            '</title><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{STYLE}{style}</style></head><body><main>",
            *parts,
            "</main></body></html>\n",
        ]
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    return table_of_html(head, [[escape(cell) for cell in row] for row in rows])


def table_of_html(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells are HTML already; `head` is text."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>\n{body}</tbody></table>"
