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

from preceptor_clients.vllm_expert.broadcast_weights import Outline, joined, received
from preceptor_clients.vllm_expert.fetched_weights import drop, fetch, fetched


class PolicyWorker:
    """A worker's methods that the service calls by name."""

    _weight_group: Any = None

    def take_weights(self, folder: str) -> None:
        """Loads the weights in `folder`, and rebuilds the layers that are tied to them."""
        worker = cast("Any", self)
        worker.reload_weights(weights_path=folder)
        _rebuild_tied(worker.get_model())

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

    def join_weight_group(self, host: str, port: int, size: int) -> None:
        """Joins the group that a trainer broadcasts versions in, in the place of an earlier one."""
        self._weight_group = joined(host, port, size)

    def take_broadcast(self, outline: Outline) -> None:
        """Loads the weights while the trainer broadcasts them.

        Raises:
            RuntimeError: this worker is in no group, or the trainer is gone.
        """
        worker = cast("Any", self)
        if self._weight_group is None:
            raise RuntimeError("this worker has not joined a trainer's group")
        incoming = received(self._weight_group, outline)
        try:
            worker.reload_weights(weights_iterator=incoming)
        except BaseException:
            # Or the trainer would wait for this end: its connections go with the last reference.
            self._weight_group = None
            incoming.close()
            raise
        _rebuild_tied(worker.get_model())


def _rebuild_tied(model: Any) -> None:
    for module in _tied(model):
        method = getattr(module, "quant_method", None)
        if method is not None:
            method.process_weights_after_loading(module)


def _tied(model: Any) -> list[Any]:
    """Layers whose weight is another layer's as well."""
    owners: dict[int, list[Any]] = defaultdict(list)
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is not None:
            owners[weight.data_ptr()].append(module)
    return [module for sharing in owners.values() if len(sharing) > 1 for module in sharing]
