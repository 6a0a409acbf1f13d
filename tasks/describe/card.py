"""The card of a collection: Markdown with a Hugging Face front matter."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import jinja2
import yaml

from tasks.describe.front_matter import front_matter
from tasks.describe.notes import Notes
from tasks.describe.profile import Profile

LABEL_CHART = "labels.svg"
MAP = "map.png"
_N_LABELS = 20
_N_LICENCES = 20
_N_NOT_ON_MAP = 250

# A low line inside a word and a lone & mean nothing in Markdown, and read better as they are.
_SPECIAL = re.compile(r"([\\`*\[\]<>|~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;))")
# What would start a heading, a code block, a rule or another front matter in the middle of somebody's text.
_BLOCK = re.compile(r"^([ \t]*)(#|`{3}|~{3}|[-=*_ \t]*$|---)", re.MULTILINE)


def dataset_card(
    name: str,
    profile: Profile,
    notes: Notes,
    *,
    images: str,
    not_on_map: Sequence[str] = (),
    figures: Collection[str] = (LABEL_CHART, MAP),
) -> str:
    """The card as Markdown text.

    Parameters
    ----------
    name
        The collection's name.
    images
        Version (fingerprint) of the images table that the profile was made from.
    not_on_map
        Labels that the map cannot show.
    figures
        Which of the figures lie beside the card.

    Returns
    -------
    str
        Text from the tables is escaped. Text from the notes may be Markdown, but can start no section of the card.
    """
    environment = jinja2.Environment(  # noqa: S701  (Markdown: the filters escape)  # nosec B701
        loader=jinja2.PackageLoader("tasks.describe"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(plain=plain, prose=prose, points=_points, number=_number, share=_share)
    text = environment.get_template("card.md").render(
        front_matter=yaml.safe_dump(
            front_matter(name, profile, notes), sort_keys=False, allow_unicode=True, width=10**6
        ),
        name=name,
        profile=profile,
        notes=notes,
        images=images,
        label_chart=LABEL_CHART if LABEL_CHART in figures else None,
        map=MAP if MAP in figures else None,
        top_labels=list(profile.labels.items())[:_N_LABELS],
        top_licences=list(profile.licences.items())[:_N_LICENCES],
        not_on_map=not_on_map[:_N_NOT_ON_MAP],
        n_not_on_map=len(not_on_map),
        label=[
            ("Intended use", notes.intended_use),
            ("Out-of-scope use", notes.out_of_scope_use),
            ("How it was collected", notes.collection_method),
            ("How it was labelled", notes.labelling),
            ("What was changed", notes.processing),
            ("Known issues", notes.known_issues),
            ("Sensitive content", notes.sensitive_content),
            ("Bias", notes.bias_notes),
            ("Ethical review", notes.ethical_review),
            ("Maintenance", notes.maintenance),
        ],
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def card_text(card: str) -> str:
    """The card without front matter and figures, for a place that holds neither."""
    _, _, text = card.removeprefix("---\n").partition("\n---\n")
    return "\n".join(line for line in text.splitlines() if not line.startswith("!["))


def plain(text: object) -> str:
    r"""Text as one line of Markdown that means nothing but itself, in a table too.

    >>> print(plain("a|b\n<c>"))
    a\|b \<c\>
    """
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
    return _SPECIAL.sub(r"\\\1", line)


def prose(text: str) -> str:
    """Somebody's Markdown, with paragraphs, lists, emphasis and links, but without headings, code blocks and HTML."""
    lines = "\n".join(text.strip().splitlines()).replace("<", "\\<")
    return _BLOCK.sub(lambda match: match[0] if not match[0].strip() else f"{match[1]}\\{match[2]}", lines)


def _points(texts: Sequence[str]) -> str:
    """Nothing, a paragraph, or a list."""
    stated = [prose(text) for text in texts if text.strip()]
    if not stated:
        return "Not stated."
    if len(stated) == 1:
        return stated[0]
    return "\n".join("- " + text.replace("\n", "\n  ") for text in stated)


def _number(value: float) -> str:
    """Whole numbers with separators, small others with three digits after the point, large ones with one."""
    digits = 3 if abs(value) < 100 else 1
    return f"{value:,.0f}" if value == round(value) else f"{value:,.{digits}f}"


def _share(n: int, total: int) -> str:
    return f"{100 * n / total:.1f} %" if total else "–"
