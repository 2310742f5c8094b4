"""The few pieces of HTML that a report is made of. Every text that enters is escaped here, and nowhere else."""

from __future__ import annotations

import base64
import importlib.resources
import io
from collections.abc import Collection, Sequence
from html import escape

import numpy as np


def text(value: object) -> str:
    """Any text as HTML text or as the value of an attribute."""
    return escape(str(value), quote=True)


def page(title: str, summary: str, sections: Sequence[str]) -> str:
    """A whole page, its style within it; empty sections are left out."""
    style = importlib.resources.files("leanformer.viz").joinpath("report.css").read_text(encoding="utf-8")
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title>",
            f"<style>\n{style}</style></head>",
            "<body>",
            f"<header><h1>{text(title)}</h1>\n{paragraph(summary, css='summary')}</header>",
            "<main>",
            *filter(None, sections),
            "</main>",
            "<footer>Made by leanformer.</footer>",
            "</body>",
            "</html>\n",
        ]
    )


def section(title: str, *parts: str) -> str:
    """A headed section; nothing if it has no content."""
    body = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{text(title)}</h2>\n{body}\n</section>" if body else ""


def paragraph(value: str, *, css: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(css)}>{text(value)}</p>"


def chart(png: bytes, *, alt: str) -> str:
    """A chart inside the page, on white because its letters are dark."""
    return f'<figure><div class="chart"><img src="{data_address(png)}" alt="{text(alt)}"></div></figure>'


def table(
    caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Collection[int] = (0,)
) -> str:
    """A table whose first column names the row; columns other than `texts` hold numbers."""
    head = "".join(f'<th scope="col"{_class(_column(i, texts))}>{text(name)}</th>' for i, name in enumerate(headings))
    body = "\n".join(f"<tr>{_cells(row, texts)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><caption>{text(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def pairs(caption: str, rows: Sequence[tuple[str, str]]) -> str:
    """A table of names and texts."""
    body = "\n".join(f'<tr><th scope="row">{text(name)}</th><td>{text(value)}</td></tr>' for name, value in rows)
    return f'<table class="method"><caption>{text(caption)}</caption>\n<tbody>\n{body}\n</tbody></table>'


def charts(figures: Sequence[str]) -> str:
    """Charts beside each other, or below each other where there is no room."""
    return f'<div class="charts">{"".join(figures)}</div>' if figures else ""


def sheet(figures: Sequence[str]) -> str:
    """Small pictures in rows."""
    items = "\n".join(f"<li>{figure}</li>" for figure in figures)
    return f'<ul class="sheet">\n{items}\n</ul>' if figures else ""


def picture(pixels: np.ndarray, *, alt: str, caption: str = "", css: str = "") -> str:
    """A small image with a caption, which is HTML."""
    kind = "pixels" if max(pixels.shape[:2]) < 100 else "photo"
    shown = f"<figcaption>{caption}</figcaption>" if caption else ""
    address = data_address(png_of(pixels))
    return f'<figure{_class(css)}><img class="{kind}" src="{address}" alt="{text(alt)}">{shown}</figure>'


def commands(lines: Sequence[str]) -> str:
    """Lines to type."""
    return f"<pre><code>{text(chr(10).join(lines))}</code></pre>" if lines else ""


def data_address(png: bytes) -> str:
    """The address that holds the picture itself."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def png_of(pixels: np.ndarray, largest: int = 256) -> bytes:
    """A (H, W) or (H, W, 3) image of bytes as PNG, its longer side at most `largest` pixels."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    image.thumbnail((largest, largest))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _cells(row: Sequence[str], texts: Collection[int]) -> str:
    first = f'<th scope="row">{text(row[0])}</th>'
    return first + "".join(f"<td{_class(_column(i, texts))}>{text(cell)}</td>" for i, cell in enumerate(row) if i)


def _column(index: int, texts: Collection[int]) -> str:
    return "" if index in texts else "number"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
