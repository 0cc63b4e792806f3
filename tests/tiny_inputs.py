"""Inputs that a tiny model may take, by the names and sizes in its signature and configuration."""

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from tiny_models import DEMANDS, LENGTH, VOCABULARY, WIDTH, Unit
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

PICTURES = ("pixel_values", "pixel_values_videos")
SOUNDS = ("input_values", "input_features", "audio_values", "inputs_embeds", "hidden_states")  # or states of their size


def tokens(config: PreTrainedConfig, seed: int = 0, length: int = LENGTH) -> Tensor:
    made = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, VOCABULARY - 16, (2, length), generator=made)
    end = getattr(config, "eos_token_id", None)  # some models read their answer there, or at the largest token
    ids[:, -1] = end if isinstance(end, int) and VOCABULARY - 16 <= end < VOCABULARY else VOCABULARY - 1
    return ids


def demanded(unit: Unit) -> dict[str, Any] | None:
    """Inputs written down for this model by name: a kind and a size ("ids 2 8"), a list, or a value as it is."""
    written = DEMANDS["inputs"].get(str(unit))
    return written and {name: _tensor(value) for name, value in written.items()}


def _tensor(value: Any) -> Any:
    if not isinstance(value, str):
        return torch.tensor(value) if isinstance(value, list) else value
    kind, *words = value.split()
    size = tuple(map(int, words))
    made = torch.Generator().manual_seed(0)
    match kind:
        case "ids":
            return torch.randint(5, VOCABULARY - 16, size, generator=made)
        case "float":
            return torch.randn(size, generator=made)
        case "unit":
            return torch.rand(size, generator=made)
        case "blank":
            return torch.zeros(size)
        case "ones" | "zeros":
            return getattr(torch, kind)(size, dtype=torch.long)
        case "true":
            return torch.ones(size, dtype=torch.bool)
    raise ValueError(f"inputs: expected ids, float, unit, blank, ones, zeros or true; got {value!r}")


def inputs_of(unit: Unit, model: PreTrainedModel) -> Iterator[dict[str, Any]]:
    """Inputs that a model of this signature may take, the likeliest first."""
    if given := demanded(unit):
        yield given
        return
    parameters = inspect.signature(model.forward).parameters
    config = model.config
    texts: dict[str, Any] = {}
    if "input_ids" in parameters:
        texts["input_ids"] = tokens(config)
        if "decoder_input_ids" in parameters:
            texts["decoder_input_ids"] = tokens(config, seed=1, length=LENGTH - 2)
        yield texts
    grid = next((name for name in parameters if name in ("grid_thw", "image_grid_thw", "grid_hws")), None)
    if grid is not None:
        size = _attribute(config, "spatial_patch_size", "patch_size") or 14
        width = 3 * size**2 * (_attribute(config, "temporal_patch_size") or 1)
        main = next(iter(parameters))
        for each in (width, WIDTH, 3 * size**2):
            patches = torch.randn(32, each, generator=torch.Generator().manual_seed(0))
            yield {main: patches, grid: torch.tensor([[1, 4, 4], [1, 4, 4]])}
    pictures = list(_pictures(config))
    sounds = list(_sounds(config))
    for name in (*PICTURES, *SOUNDS):
        if name in parameters:
            for value in pictures if name in PICTURES else sounds:
                yield {name: value}
                if texts:
                    yield texts | {name: value}
                if "decoder_input_ids" in parameters:
                    yield {name: value, "decoder_input_ids": tokens(config, seed=1, length=LENGTH - 2)}


def _attribute(config: PreTrainedConfig, *names: str) -> Any:
    for each in (config, *(getattr(config, part) for part in config.sub_configs)):
        for name in names:
            if getattr(each, name, None) is not None:
                return getattr(each, name)
    return None


def _pictures(config: PreTrainedConfig) -> Iterator[Tensor]:
    size = _attribute(config, "image_size", "img_size") or 32
    height, width = size if isinstance(size, list | tuple) else (size, size)
    channels = _attribute(config, "num_channels", "in_channels", "in_chans", "num_channels_in") or 3
    made = torch.Generator().manual_seed(0)
    yield torch.randn(2, channels, height, width, generator=made)
    yield torch.randn(2, channels, 64, 64, generator=made)
    frames = _attribute(config, "num_frames", "frames_per_clip") or 4
    yield torch.randn(2, frames, channels, height, width, generator=made)


def _sounds(config: PreTrainedConfig) -> Iterator[Tensor]:
    made = torch.Generator().manual_seed(0)
    bins = _attribute(config, "num_mel_bins", "feature_size", "input_dim", "feature_projection_input_dim") or 32
    positions = _attribute(config, "max_source_positions") or 16
    width = _attribute(config, "hidden_size", "d_model") or 32
    yield torch.randn(2, 4000, generator=made)
    yield torch.randn(2, bins, 2 * positions, generator=made)
    yield torch.randn(2, 32, bins, generator=made)
    yield torch.randn(2, LENGTH, width, generator=made)
    yield torch.randn(2, 1, 4000, generator=made)
