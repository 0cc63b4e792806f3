"""The texts of a report in each language, from `NAME.LANGUAGE.yaml` beside this file."""

from collections.abc import Mapping
from functools import cache
from importlib import resources

import yaml

from attn_lab.core.errors import BadRequest

LANGUAGES = ("en", "zh-Hant")


@cache
def catalogue(name: str, language: str) -> Mapping[str, str]:
    """Key to words; a translation lacks no key of the English one.  Raises BadRequest for a language we do not tell."""
    if language not in LANGUAGES:
        raise BadRequest(f"report.language: expected {' or '.join(LANGUAGES)}; got {language!r}")
    text = (resources.files("attn_lab.report.locales") / f"{name}.{language}.yaml").read_text(encoding="utf-8")
    words: Mapping[str, str] = yaml.safe_load(text)
    return words
