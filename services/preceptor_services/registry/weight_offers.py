"""Hands a checkpoint's weights to the experts when it is registered, so that its average is stored.

Any other version is fetched on demand: an expert that lacks it says so. A run goes on from a
checkpoint, and versions before it are removed; so an averaging expert must have stored its average
by then. An expert that does not take the offer is no error: the trainer sees that the average is
missing, and keeps the older versions.
"""

from __future__ import annotations

import asyncio
import logging

from preceptor_clients.contract.errors import PreceptorError
from preceptor_clients.contract.schemas import WeightsOffer
from preceptor_services.registry.services import Registry, ServiceEntry
from preceptor_services.registry.weights import WeightVersions

_log = logging.getLogger("preceptor.gateway")


class WeightOffers:
    """Offers versions to every expert that answers with versioned weights."""

    def __init__(self, registry: Registry, weights: WeightVersions) -> None:
        self._registry = registry
        self._weights = weights

    async def offer(self, version: str) -> None:
        """Offers a version and its ancestors, and waits for the experts."""
        entries = self._registry.with_weights()
        if entries:
            offer = WeightsOffer(manifests=await self._weights.ancestry(version))
            await asyncio.gather(*(self._offer(entry, offer) for entry in entries))

    async def _offer(self, entry: ServiceEntry, offer: WeightsOffer) -> None:
        try:
            async with self._registry.connected(entry) as client:
                await client.offer_weights(offer)
        except (PreceptorError, OSError, ValueError) as error:
            version = offer.manifests[-1].version
            _log.warning("%s did not take the offer of %s: %s", entry.name, version, error)
