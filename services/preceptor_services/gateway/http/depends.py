"""Dependencies of the routes, one alias for each part that `app.py` stores in `app.state`."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from preceptor_services.corrections.parts import Corrections
from preceptor_services.gateway.http.readiness import Readiness
from preceptor_services.provenance.audit import AuditLog
from preceptor_services.provenance.records import RecordKeeper
from preceptor_services.questions.parts import Questions
from preceptor_services.registry.services import Registry
from preceptor_services.registry.tokenizers import Tokenizers
from preceptor_services.registry.weight_offers import WeightOffers
from preceptor_services.registry.weights import WeightVersions

# async, like every dependency of the gateway: FastAPI runs the others in a thread of their own.


async def _questions(request: Request) -> Questions:
    return request.app.state.questions


async def _registry(request: Request) -> Registry:
    return request.app.state.registry


async def _tokenizers(request: Request) -> Tokenizers:
    return request.app.state.tokenizers


async def _weights(request: Request) -> WeightVersions:
    return request.app.state.weights


async def _weight_offers(request: Request) -> WeightOffers:
    return request.app.state.weight_offers


async def _readiness(request: Request) -> Readiness:
    return request.app.state.readiness


async def _records(request: Request) -> RecordKeeper:
    return request.app.state.records


async def _audit(request: Request) -> AuditLog:
    return request.app.state.audit


async def _corrections(request: Request) -> Corrections:
    return request.app.state.corrections


QuestionsDep = Annotated[Questions, Depends(_questions)]
RegistryDep = Annotated[Registry, Depends(_registry)]
TokenizersDep = Annotated[Tokenizers, Depends(_tokenizers)]
WeightsDep = Annotated[WeightVersions, Depends(_weights)]
WeightOffersDep = Annotated[WeightOffers, Depends(_weight_offers)]
ReadinessDep = Annotated[Readiness, Depends(_readiness)]
RecordsDep = Annotated[RecordKeeper, Depends(_records)]
AuditDep = Annotated[AuditLog, Depends(_audit)]
CorrectionsDep = Annotated[Corrections, Depends(_corrections)]
