"""The parts of the correction queue, built once per process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from preceptor_services.corrections.expert_view import ExpertViews
from preceptor_services.corrections.intake import Intake
from preceptor_services.corrections.keys import Door, PersonKeys
from preceptor_services.corrections.people import People
from preceptor_services.corrections.results import Outcome
from preceptor_services.corrections.retire import Retiring
from preceptor_services.corrections.review import Reviewing
from preceptor_services.corrections.views import Views
from preceptor_services.corrections.work import Work
from preceptor_services.kit.array_blobs import ArrayBlobs
from preceptor_services.kit.blobs import BlobStore
from preceptor_services.kit.clock import Clock
from preceptor_services.store.database import Database


@dataclass(frozen=True, kw_only=True)
class Corrections:
    """Everything that a route of the queue may need."""

    people: People
    door: Door
    work: Work
    reviewing: Reviewing
    intake: Intake
    views: Views
    outcome: Outcome
    retiring: Retiring
    expert_views: ExpertViews

    @classmethod
    def build(
        cls,
        *,
        database: Database,
        blobs: BlobStore,
        array_blobs: ArrayBlobs,
        clock: Clock,
        hash_key: str,
    ) -> Self:
        intake = Intake(database=database, clock=clock, array_blobs=array_blobs)
        keys = PersonKeys(hash_key)
        return cls(
            people=People(database=database, clock=clock, keys=keys),
            door=Door(database, keys),
            work=Work(database=database, clock=clock),
            reviewing=Reviewing(database=database, clock=clock),
            intake=intake,
            views=Views(database=database, clock=clock),
            outcome=Outcome(database=database, clock=clock, intake=intake),
            retiring=Retiring(database=database, clock=clock, array_blobs=array_blobs),
            expert_views=ExpertViews(
                database=database, clock=clock, array_blobs=array_blobs, blobs=blobs
            ),
        )
