"""Write a safetensors file tensor by tensor, so that a large model never has to be in memory whole.

`convert.py` and `tiny.py` write weights with it. The format: the header's length as 8 bytes little-endian, a JSON
header with the dtype, shape and byte range of each tensor, then the data.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
FLOAT32_BYTES = 4


def write_safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, Float32Array]]
) -> None:
    """Write float32 tensors.

    Args:
        path: the new file.
        shapes: name and shape of every tensor, in the order in which `tensors` gives them.
        tensors: name and values of each.

    Raises:
        ValueError: a tensor isn't the one that `shapes` announces, or some are missing.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * FLOAT32_BYTES
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the data starts at a multiple of 8
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        expected = iter(shapes.items())
        for name, values in tensors:
            if (name, values.shape) != (announced := next(expected, None)):
                raise ValueError(f"got tensor {name} of shape {values.shape} where {announced} was announced")
            np.ascontiguousarray(values, dtype="<f4").tofile(file)
        if (left := next(expected, None)) is not None:
            raise ValueError(f"tensor {left} was announced and not given")
