"""Loads new weights completely, inside vLLM's worker processes.

vLLM mixes this class into its workers (`worker_extension_cls`). Its own `reload_weights` skips
layers that share their weights with another layer, such as the head of a model with tied
embeddings. The CPU build keeps a packed copy of the head (0.32) and would continue to use the old
head with the new embeddings. The log-probs would be wrong and look right; `expert check --known
--weights` detects it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast

from preceptor_clients.vllm_expert.fetched_weights import drop, fetch, fetched


class PolicyWorker:
    """A worker's methods that the service calls by name."""

    def take_weights(self, folder: str) -> None:
        """Loads the weights in `folder`, and rebuilds the layers that are tied to them."""
        worker = cast("Any", self)
        worker.reload_weights(weights_path=folder)
        for module in _tied(worker.get_model()):
            method = getattr(module, "quant_method", None)
            if method is not None:
                method.process_weights_after_loading(module)

    def fetch_weights(self, url: str, name: str) -> None:
        """Fetches a version's file, once for all workers of this machine; loads nothing."""
        if cast("Any", self).local_rank == 0:
            fetch(url, name)

    def take_fetched(self, name: str) -> None:
        """Loads what was fetched, once all machines have it."""
        self.take_weights(str(fetched(name)))

    def drop_fetched(self, name: str) -> None:
        """Removes the file, once all workers have loaded it."""
        drop(name)


def _tied(model: Any) -> list[Any]:
    """Layers whose weight is another layer's as well."""
    owners: dict[int, list[Any]] = defaultdict(list)
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is not None:
            owners[weight.data_ptr()].append(module)
    return [module for sharing in owners.values() if len(sharing) > 1 for module in sharing]
