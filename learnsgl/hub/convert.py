"""Turn a GGUF file into a model folder in Hugging Face's layout, with float32 weights.

Called by `builtin.py` for the model inside the wheel, and by `resolve.py` for a `.gguf` file that someone gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from learnsgl.hub.byte_level import write_json
from learnsgl.hub.gguf import GgufFile
from learnsgl.hub.gguf_tokenizer import write_tokenizer
from learnsgl.hub.safetensors_file import FLOAT32_BYTES, Float32Array, write_safetensors
from learnsgl.hub.store import need_space


def convert_gguf(path: Path, folder: Path, *, progress: bool) -> None:
    """Write the files of the model in `path` into `folder`.

    Args:
        path: the GGUF file.
        folder: an empty folder.
        progress: show a bar on stderr.

    Raises:
        UnsupportedModelError: the file holds something that can't be served.
        FolderError: the disk hasn't room for the weights.
    """
    gguf = GgufFile(path)
    write_tokenizer(gguf, folder)
    write_json(folder / "config.json", gguf.config)
    generation = {key: gguf.config[key] for key in gguf.config if key.endswith("_token_id")}
    write_json(folder / "generation_config.json", generation)
    shapes = gguf.shapes()
    num_bytes = FLOAT32_BYTES * sum(math.prod(shape) for shape in shapes.values())
    need_space(folder, num_bytes)

    def shown() -> Iterator[tuple[str, Float32Array]]:
        bar = tqdm(desc="dequantising", total=num_bytes, unit="B", unit_scale=True, disable=not progress)
        with bar:
            for name, values in gguf.tensors():
                yield name, values
                bar.update(values.nbytes)

    write_safetensors(folder / "model.safetensors", shapes, shown())
