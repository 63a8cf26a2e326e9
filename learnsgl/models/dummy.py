"""Random weights, for measuring how fast a model of some shape runs without its checkpoint: `--dummy-weights`.

`loading.py` calls `fill_with_dummy_weights` in the place of `load_weights`. Speed doesn't depend on what the weights
are, as long as activations stay finite and no shortcut for zeros is taken.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

SPREAD = 0.1
"""Standard deviation of biases around 0, and of the weights of norms around 1."""


def fill_with_dummy_weights(places: Mapping[str, torch.Tensor], *, seed: int) -> None:
    """Fill every tensor with normal random numbers, where it lies.

    A matrix gets the standard deviation 1 / sqrt(in_features), so that what comes out of it is about as large as what
    went in: activations neither overflow in float16 nor fade. Logits differ enough that tokens have favourites.

    Args:
        places: tensors by their names in a checkpoint, as `CausalLM.checkpoint_tensors` gives them; each at least
            one-dimensional and all on one device.
        seed: the same seed, shapes, dtype and kind of device give the same weights.
    """
    generators: dict[torch.device, torch.Generator] = {}
    for name, place in places.items():
        if place.device not in generators:
            generators[place.device] = torch.Generator(place.device).manual_seed(seed)
        generator = generators[place.device]
        if place.dim() > 1:
            place.normal_(0.0, place.shape[-1] ** -0.5, generator=generator)
        else:
            place.normal_(1.0 if name.endswith("norm.weight") else 0.0, SPREAD, generator=generator)
