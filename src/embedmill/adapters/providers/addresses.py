"""Where calls go and what proves who calls. Owns the rules for base URLs and keys, Azure's included; a URL
is kept with the pipeline and shown, so nothing secret may stand in one."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, urlsplit, urlunsplit

import msgspec

from embedmill.errors import ConfigurationError

OPENAI_BASE_URL = "https://api.openai.com/v1"
AZURE_HOSTS = (
    ".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com",
    ".openai.azure.us", ".cognitiveservices.azure.us", ".openai.azure.cn", ".cognitiveservices.azure.cn",
)  # fmt: skip
# What only Azure has in an address: so it is known behind API Management and names of one's own too.
AZURE_VERSION = "api-version"
AZURE_PATH = "/openai/deployments/"
SECRET_QUERY_KEYS = frozenset(
    {"key", "api_key", "api-key", "apikey", "token", "access_token", "subscription-key"}
)


class Address(msgspec.Struct, frozen=True):
    """`url` takes the POST; `host` is what messages may name."""

    url: str
    host: str
    is_azure: bool


def address_for(base_url: str | None, model: str) -> Address:
    """The address of the embeddings call under a base URL.

    `/embeddings` is put behind the path, `?api-version=...` and the like stay. Without a path, `/v1` is
    meant; on Azure `/openai/v1`, or, with an api-version, the deployment named like the model. Azure is known by its
    host, by an api-version, or by the path of a deployment.
    Raises ConfigurationError for what is no http(s) address, and for a key in the URL.
    """
    base = (base_url or OPENAI_BASE_URL).strip()
    try:
        parts = urlsplit(base)
        hostname, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError("base_url is not an address") from error
    if parts.scheme not in ("http", "https") or not hostname or any(letter.isspace() for letter in base):
        raise ConfigurationError("base_url must look like https://host/v1")
    query_keys = {name.lower() for name, _ in parse_qsl(parts.query, keep_blank_values=True)}
    if parts.username is not None or parts.password is not None or query_keys & SECRET_QUERY_KEYS:
        raise ConfigurationError(
            "base_url holds a key or a password; take it out and name the environment variable with"
            " api_key_env instead"
        )
    is_azure = hostname.endswith(AZURE_HOSTS) or AZURE_VERSION in query_keys or AZURE_PATH in parts.path
    path = parts.path.rstrip("/")
    if not path:
        path = _default_path(is_azure, AZURE_VERSION in query_keys, model)
    if not path.endswith("/embeddings"):
        path += "/embeddings"
    host = hostname if port is None else f"{hostname}:{port}"
    return Address(urlunsplit((parts.scheme, parts.netloc, path, parts.query, "")), host, is_azure)


def _default_path(is_azure: bool, has_version: bool, model: str) -> str:
    if not is_azure:
        return "/v1"
    return f"/openai/deployments/{quote(model, safe='')}" if has_version else "/openai/v1"


def headers_for(address: Address, api_key: str | None) -> dict[str, str]:
    """The headers of each call. Raises ConfigurationError, without the key, for one no header can carry."""
    headers = {
        "Accept": "application/json",
        # Vectors hardly compress; unpacking them would cost more than it saves.
        "Accept-Encoding": "identity",
        "Content-Type": "application/json",
        "User-Agent": "embedmill",
    }
    key = (api_key or "").strip()
    if not key:
        return headers
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ConfigurationError(
            "the API key holds blanks, line breaks or letters that no key has; copy it anew"
        )
    if address.is_azure:
        headers["api-key"] = key
    else:
        headers["Authorization"] = f"Bearer {key}"
    return headers
