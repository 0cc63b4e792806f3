"""The pages of a report, in their order; one a file."""

from collections.abc import Mapping

from attn_lab.report.fragment import Page
from attn_lab.report.pages import (
    accuracy,
    energy,
    figures,
    findings,
    inside,
    kinds,
    memory,
    models,
    overview,
    provenance,
    roofline,
    scaling,
    support,
)

PAGES: Mapping[str, Page] = {
    "overview": overview,
    "findings": findings,
    "figures": figures,
    "models": models,
    "support": support,
    "memory": memory,
    "kinds": kinds,
    "inside": inside,
    "accuracy": accuracy,
    "roofline": roofline,
    "scaling": scaling,
    "energy": energy,
    "provenance": provenance,
}
