"""A custom model that breaks its engine on demand, and where a worker finds its class."""

from __future__ import annotations

import ctypes
import json
import time
from pathlib import Path

import torch
from torch import nn

ALLOCATE, SEGFAULT, HANG = 10.0, 20.0, 30.0
"""What the first number of a row orders; anything smaller is answered."""
ENTRY_POINT = "trouble"
_SIGNATURE = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": [-1, 1]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": [-1, 1]}],
    "model": {"class": ENTRY_POINT},
}


class Trouble(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Doubles a number, or allocates without end, or segfaults, or hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = float(x.max())
        if order == ALLOCATE:
            hoard = []
            while True:
                hoard.append(torch.ones(8 * 2**20))
        if order == SEGFAULT:
            ctypes.string_at(0)
        while order == HANG:
            time.sleep(0.1)
        return x * self.factor


def write_trouble_model(folder: Path) -> Path:
    """The folder to push: weights and a signature that names the class."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    (folder / "signature.json").write_text(json.dumps(_SIGNATURE))
    save_file(Trouble().state_dict(), folder / "model.safetensors")
    return folder


def install_trouble(site: Path) -> str:
    """What pip leaves of a package with the class; the PYTHONPATH that finds it."""
    info = site / "trouble-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: trouble\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[neuron.pytorch_models]\n{ENTRY_POINT} = trouble_model:Trouble\n"
    )
    return f"{site}:{Path(__file__).parent}"
