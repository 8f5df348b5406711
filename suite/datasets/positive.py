"""Which of two classes is the disease: as the user says, else by the usual names of the healthy and the diseased."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from suite.base.errors import InputError

HEALTHY = frozenset((
    "healthy", "normal", "benign", "negative", "neg", "control", "controls", "absent", "absence", "unaffected",
    "uninfected", "survived"))
"""Words that name the healthy class: alone, with each other, or opposed to one of `DISEASED` in names that are equal
otherwise. In a longer name they say nothing: normal tension glaucoma and triple-negative cancer are diseases."""
HEALTHY_ALONE = frozenset(("0", "-1", "-", "n", "no", "none", "false", "never", "alive"))
"""Words that do so only alone."""
HEALTHY_PHRASES = frozenset(("nofinding", "nofindings", "nodisease", "diseasefree"))
"""Names of the healthy class whatever the other is, without what separates their words."""
DISEASED = frozenset((
    "y", "yes", "true", "sick", "ill", "diseased", "abnormal", "malignant", "positive", "pos", "case", "cases",
    "present", "presence", "affected", "dead", "died"))
"""Words that name the diseased class, alone or opposed to one of `HEALTHY`: of melanoma and another cancer neither is
healthy."""
NEGATIONS = ("no", "not", "without")
"""What names the healthy class before the name of the other. Not "non": non-small cell and non-Hodgkin name diseases
beside small cell and Hodgkin, and nothing tells these from non-diabetic beside diabetic."""
NO_DISEASE = frozenset(("gram", "rh", "rhesus", "triple"))
"""What may be negative or positive and is a disease, or none, both times."""


class Labels(NamedTuple):
    """Labels in which, of two classes, 1 is the disease.

    Attributes:
        y: (n,) int64.
        classes: Their names.
        how: For the data card, which class is taken for the disease and why; "" beyond two classes.
    """

    y: np.ndarray
    classes: tuple[str, ...]
    how: str


def disease_last(y: np.ndarray, classes: tuple[str, ...], positive: str | None, of: str = "") -> Labels:
    """Of two classes the disease becomes class 1: `positive`, or the one that names tell.

    Args:
        y: (n,) int64 labels.
        classes: Their names.
        positive: The class that is the disease; None leaves it to the names.
        of: Of what, for messages, as in " of 'Outcome'".

    Raises:
        InputError: `positive` is none of two classes; or it is not given, and the names of two classes do not tell.
    """
    if positive is not None and (len(classes) != 2 or positive not in classes):
        raise InputError(f"'{positive}' is not one of two classes{of} ({', '.join(classes[:8])})")
    if len(classes) != 2:
        return Labels(y, classes, "")
    how = "--positive"
    if positive is None:
        known = _recognized(*classes)
        if known is None:
            first, second = classes
            raise InputError(f"the two classes{of} are '{first}' and '{second}', and neither name says which is the "
                             f"disease; give --positive {_quoted(first)} or --positive {_quoted(second)}")
        positive, how = classes[known[0]], known[1]
    if positive == classes[0]:
        y, classes = 1 - y, classes[::-1]
    return Labels(y, classes, f"“{classes[1]}” is the disease and “{classes[0]}” is not ({how})")


def _recognized(first: str, second: str) -> tuple[int, str] | None:
    """Which of two names is the disease, 0 or 1, and how that was recognized; None where the names do not tell, or
    contradict each other."""
    healthy = [_healthy(first, second), _healthy(second, first)]
    if healthy.count(True) == 1 and True in healthy:
        k = healthy.index(True)
        return 1 - k, f"recognized by the name “{(first, second)[k]}”; --positive says otherwise"
    if healthy.count(False) == 1 and True not in healthy:
        k = healthy.index(False)
        return k, f"recognized by the name “{(first, second)[k]}”; --positive says otherwise"
    return None


def _healthy(name: str, other: str) -> bool | None:
    """Whether a name is that of a healthy class (True) or a diseased one (False); None where it does not tell."""
    plain = name.strip().casefold()
    if plain in HEALTHY_ALONE | DISEASED:
        return plain in HEALTHY_ALONE
    words, others = _words(name), _words(other)
    joined, beside = "".join(words), "".join(others)
    if joined in HEALTHY_PHRASES or (words and HEALTHY.issuperset(words)):
        return True
    # "notckd" beside "ckd", but not "norovirus" beside "influenza"
    if joined in {negation + beside for negation in NEGATIONS} | {beside + "free"}:
        return beside not in HEALTHY
    if beside in {negation + joined for negation in NEGATIONS}:
        return joined in HEALTHY
    return _opposed(words, others)


def _opposed(words: list[str], others: list[str]) -> bool | None:
    """Whether the first of two names is healthy that differ in one word, which is healthy in one and diseased in the
    other, such as "HIV negative" and "HIV positive"; None for any other names."""
    differ = [pair for pair in zip(words, others, strict=False) if pair[0] != pair[1]]
    if len(words) != len(others) or len(differ) != 1 or NO_DISEASE & {*words}:
        return None
    (mine, theirs), = differ
    if mine in HEALTHY and theirs in DISEASED:
        return True
    return False if mine in DISEASED and theirs in HEALTHY else None


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", name.strip().casefold()) if word]


def _quoted(name: str) -> str:
    """A name as a shell takes it in one piece."""
    return name if re.fullmatch(r"[\w.+-]+", name) else f'"{name}"'
