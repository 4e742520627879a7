"""Writes an ONNX graph as bytes. Owns the few protobuf messages of the ONNX format that a graph without its
weights needs; knows nothing about models. `onnx` itself stays out: 20 MB and protobuf, to write 15 KB.

Field numbers are those of onnx.proto (IR version 8)."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

FLOAT32, INT64, FLOAT16, BFLOAT16 = 1, 7, 10, 16

_IR_VERSION, _OPSET, _CONTRIB_OPSET = 8, 17, 1
_CONSTANT_TYPES = {"float32": FLOAT32, "int64": INT64}
_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_INTS = 1, 2, 7

Attribute = float | int | Sequence[int]


class GraphWriter:
    """Collects nodes and weights, then gives the model's bytes. Methods return the name of their value."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._nodes: list[bytes] = []
        self._initializers: dict[str, bytes] = {}

    def node(
        self, operator: str, inputs: Sequence[str], output: str, *, domain: str = "", **attributes: Attribute
    ) -> str:
        self._nodes.append(
            b"".join(_bytes(1, name) for name in inputs)
            + _bytes(2, output)
            + _bytes(3, output)
            + _bytes(4, operator)
            + b"".join(_bytes(5, _attribute(key, value)) for key, value in attributes.items())
            + (_bytes(7, domain) if domain else b"")
        )
        return output

    def constant(self, name: str, value: NDArray[np.float32] | NDArray[np.int64]) -> str:
        """A value that the graph carries itself."""
        self._initializers[name] = _tensor(name, value.shape, _CONSTANT_TYPES[value.dtype.name]) + _bytes(
            9, value.tobytes()
        )
        return name

    def stored(
        self, name: str, shape: Sequence[int], element_type: int, location: str, offset: int, size: int
    ) -> str:
        """A weight that lies in another file: bytes [offset, offset + size) of `location`."""
        place = {"location": location, "offset": str(offset), "length": str(size)}
        self._initializers[name] = (
            _tensor(name, shape, element_type)
            + b"".join(_bytes(13, _bytes(1, key) + _bytes(2, value)) for key, value in place.items())
            + _number(14, 1)
        )
        return name

    def model(
        self,
        inputs: Sequence[tuple[str, int, Sequence[int | str]]],
        outputs: Sequence[tuple[str, int, Sequence[int | str]]],
    ) -> bytes:
        """The whole model; a value is (name, element type, shape), a dimension a size or a name."""
        graph = (
            b"".join(_bytes(1, node) for node in self._nodes)
            + _bytes(2, self._name)
            + b"".join(_bytes(5, tensor) for tensor in self._initializers.values())
            + b"".join(_bytes(11, _value(*value)) for value in inputs)
            + b"".join(_bytes(12, _value(*value)) for value in outputs)
        )
        return (
            _number(1, _IR_VERSION)
            + _bytes(2, "embedmill")
            + _bytes(7, graph)
            + _bytes(8, _bytes(1, "") + _number(2, _OPSET))
            + _bytes(8, _bytes(1, CONTRIB) + _number(2, _CONTRIB_OPSET))
        )


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative int64 is written as its two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(raw)) + raw


def _attribute(name: str, value: Attribute) -> bytes:
    if isinstance(value, float):
        body = _varint(2 << 3 | 5) + struct.pack("<f", value)
        kind = _ATTRIBUTE_FLOAT
    elif isinstance(value, int):
        body, kind = _number(3, value), _ATTRIBUTE_INT
    else:
        body, kind = b"".join(_number(8, item) for item in value), _ATTRIBUTE_INTS
    return _bytes(1, name) + body + _number(20, kind)


def _tensor(name: str, shape: Sequence[int], element_type: int) -> bytes:
    return b"".join(_number(1, size) for size in shape) + _number(2, element_type) + _bytes(8, name)


def _value(name: str, element_type: int, shape: Sequence[int | str]) -> bytes:
    dimensions = b"".join(
        _bytes(1, _number(1, size) if isinstance(size, int) else _bytes(2, size)) for size in shape
    )
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, element_type) + _bytes(2, dimensions)))
