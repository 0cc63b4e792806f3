"""The pages of a report, in their order; one a file."""

from collections.abc import Mapping

from attn_lab.report.pages import (
    accuracy,
    energy,
    figures,
    findings,
    memory,
    models,
    overview,
    profiling,
    provenance,
    roofline,
    scaling,
    support,
    time_variants,
)
from attn_lab.report.render.blocks import Page

PAGES: Mapping[str, Page] = {
    "overview": overview,
    "findings": findings,
    "figures": figures,
    "models": models,
    "support": support,
    "memory": memory,
    "time_variants": time_variants,
    "inside": profiling,
    "accuracy": accuracy,
    "roofline": roofline,
    "scaling": scaling,
    "energy": energy,
    "provenance": provenance,
}
