"""Reports as HTML pages of one look, which need no network."""

from __future__ import annotations

from pathlib import Path

from hasten.core.errors import UserError

STYLE = Path(__file__).with_name("page.css")
NEEDS = 'the report needs: pip install "hasten[tune]"'


def plotly_source() -> str:
    """The source of plotly.js, which a page carries with it.

    Raises:
        UserError: plotly is missing.
    """
    try:
        import plotly.offline
    except ImportError as error:
        raise UserError(NEEDS) from error
    return plotly.offline.get_plotlyjs()


def rendered(template: Path, **values: object) -> str:
    """``template`` with its ``values`` and the common style; text in them is escaped.

    Raises:
        UserError: Jinja2 is missing.
    """
    try:
        import jinja2
    except ImportError as error:
        raise UserError(NEEDS) from error
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    style = STYLE.read_text(encoding="utf-8")
    text = template.read_text(encoding="utf-8")
    return environment.from_string(text).render(style=style, **values)
