"""Published prices of models, from the offline tables of genai-prices. A price that is not known is None, never
0; what the operator says when making a pipeline wins."""

from __future__ import annotations

from decimal import Decimal
from urllib.parse import urlsplit

from embedmill.ports import ProviderSpec

_MILLION = 1_000_000
# Who is asked, by the host of the base URL: a model served by somebody else has another price.
_SELLERS = {
    "api.openai.com": "openai",
    "api.voyageai.com": "voyageai",
    "api.mistral.ai": "mistral",
    "generativelanguage.googleapis.com": "google",
}


def published_price(spec: ProviderSpec) -> Decimal | None:
    """US dollars for a million input tokens; 0 for the local model, None where it is not known."""
    if spec.provider == "local":
        return Decimal(0)
    host = urlsplit(spec.base_url).hostname if spec.base_url else "api.openai.com"
    seller = _SELLERS.get(host or "")
    if seller is None:
        return None
    from genai_prices import Usage, calc_price  # noqa: PLC0415 - pydantic behind it takes a while to import

    try:
        found = calc_price(Usage(input_tokens=_MILLION), model_ref=spec.model, provider_id=seller)
    except LookupError:
        return None
    return Decimal(found.total_price)
