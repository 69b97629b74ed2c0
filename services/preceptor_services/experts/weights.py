"""Offered versions of a policy's weights as tensors."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from preceptor_clients.contract.errors import ServiceFailed
from preceptor_clients.contract.schemas import WeightManifest
from preceptor_clients.sdk.offered_weights import OfferedWeights


class WeightCatalogue(OfferedWeights):
    """The versions offered so far, each with its parent."""

    def load(self, manifest: WeightManifest) -> dict[str, Tensor]:
        """The weights of a version as float32 tensors.

        Raises:
            WeightsNotHere: The bytes are gone.
            ServiceFailed: They are not the ones that were offered, or no weights.
        """
        try:
            tensors = load(self.content(manifest))
        except SafetensorError as error:
            raise ServiceFailed(f"{manifest.version}: {error}", field="weights") from error
        return {name: tensor.to(torch.float32) for name, tensor in tensors.items()}
