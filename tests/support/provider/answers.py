"""The body of an answer. Owns the JSON text of embeddings, right or spoilt on purpose; it is joined from
ready pieces, because the stand-in shares its machine with what is being measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.support.provider.vectors import (
    base64_floats,
    base64_of,
    digest_of,
    json_floats,
    json_of,
    vector_of,
)

SPOILT_VECTORS = frozenset({"nan", "inf", "zero", "wrong_dims", "mixed_dims"})


def embeddings_body(
    digests: list[bytes],
    *,
    dimensions: int,
    salt: str,
    model: str,
    tokens: int,
    as_base64: bool,
    fault: str | None,
    omit_index_zero: bool,
) -> bytes:
    served = list(digests)
    if fault == "short":
        served.pop()
    elif fault == "extra":
        served.append(digest_of("one too many"))
    if fault in SPOILT_VECTORS:
        encoded = [_encoded(vector, as_base64) for vector in _spoilt(served, dimensions, salt, fault)]
    elif as_base64:
        encoded = [b'"%b"' % base64_of(digest, dimensions, salt) for digest in served]
    else:
        encoded = [b"[%b]" % json_of(digest, dimensions, salt) for digest in served]
    items = [
        b'{"object":"embedding",%b"embedding":%b}' % (index, vector)
        for index, vector in zip(_indexes(len(served), fault, omit_index_zero), encoded, strict=True)
    ]
    if fault == "reordered":
        items.reverse()
    usage = (
        b'"a lot"' if fault == "bad_usage" else b'{"prompt_tokens":%d,"total_tokens":%d}' % (tokens, tokens)
    )
    name = model.encode().replace(b"\\", b"\\\\").replace(b'"', b'\\"')
    return b'{"object":"list","data":[%b],"model":"%b","usage":%b}' % (b",".join(items), name, usage)


def _indexes(count: int, fault: str | None, omit_index_zero: bool) -> list[bytes]:
    indexes = [b'"index":%d,' % number for number in range(count)]
    if omit_index_zero and count:
        indexes[0] = b""
    if fault == "no_index":
        return [b""] * count
    if fault == "missing_index" and count:
        indexes[-1] = b""
    elif fault == "wrong_index" and count:
        indexes[-1] = b'"index":%d,' % count
    elif fault == "duplicate_index" and count:
        indexes[-1] = b'"index":0,'
    return indexes


def _spoilt(digests: list[bytes], dimensions: int, salt: str, fault: str | None) -> list[NDArray[np.float32]]:
    vectors = [vector_of(digest, dimensions, salt).copy() for digest in digests]
    if not vectors:
        return vectors
    if fault == "nan":
        vectors[-1][dimensions // 2] = np.nan
    elif fault == "inf":
        vectors[-1][dimensions // 2] = np.inf
    elif fault == "zero":
        vectors[-1][:] = 0.0
    elif fault == "mixed_dims":
        vectors[-1] = vectors[-1][:-1]
    else:
        vectors = [vector[:-1] for vector in vectors]
    return vectors


def _encoded(vector: NDArray[np.float32], as_base64: bool) -> bytes:
    if as_base64:
        return b'"%b"' % base64_floats(vector)
    # Python's json module, behind many servers, prints NaN and Infinity just so.
    return b"[%b]" % json_floats(vector).replace(b"nan", b"NaN").replace(b"inf", b"Infinity")
