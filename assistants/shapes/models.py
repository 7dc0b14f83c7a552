"""The requests and answers of the HTTP server as pydantic models, from which OpenAPI and the JSON Schema are written."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from assistants.shapes.own import VERSION

#: Most readings that a request may ask for; each costs a wider search.
MAX_N_BEST = 10


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Options(_Request):
    n_best: int = Field(1, ge=1, le=MAX_N_BEST, strict=True, description="Readings for each utterance, best first.")
    bundle: str | None = Field(None, description="Name of the bundle; the first one served if left out.")
    details: bool = Field(False, strict=True, description="Scores, slots' probabilities, traces and drawings as well.")


class ParseRequest(_Options):
    """One utterance."""

    text: str = Field(description="The utterance.", examples=["wake me at 6"])


class BatchRequest(_Options):
    """Several utterances."""

    texts: list[str] = Field(description="The utterances.", examples=[["wake me at 6", "is it raining"]])


class RasaRequest(BaseModel):
    """Rasa's request; what Rasa has besides is ignored."""

    text: str = Field(description="The utterance.", examples=["wake me at 6"])
    message_id: str | None = None


class Reading(BaseModel):
    """One reading of an utterance."""

    frame: dict[str, Any] | None = Field(
        description="The tree: {intent, children}, {slot, children}, and at the leaves {start, end, text}, in characters."
    )
    text: str | None = Field(description="The same as a bracketed string.")
    probability: float | None = Field(
        ge=0,
        le=1,
        description="Calibrated probability that the frame is right; null from a bundle that is not calibrated.",
    )
    score: float | None = Field(None, description="With details: comparable within one utterance and bundle only.")
    slots: list[float] | None = Field(None, description="With details: probability of each slot, in order of brackets.")
    trace: dict[str, Any] | None = Field(
        None, description="With details: what the parser looked at, for people to read."
    )
    drawing: str | None = Field(None, description="With details: the tree as an SVG.")


class ParseAnswer(BaseModel):
    """The readings of one utterance."""

    text: str = Field(description="The utterance.")
    hypotheses: list[Reading] = Field(min_length=1, description="Readings, best first.")
    abstained: bool = Field(description="Whether the best reading is too improbable to be acted on.")


class BatchAnswer(BaseModel):
    """Answers in the order of the utterances."""

    results: list[ParseAnswer]


class RasaIntent(BaseModel):
    """An intent and how sure the parser is of it."""

    name: str | None = Field(description="null: the utterance is refused.")
    confidence: float = Field(ge=0, le=1)


class RasaEntity(BaseModel):
    """A slot as Rasa's entity."""

    entity: str
    start: int
    end: int
    value: str
    confidence_entity: float | None = None
    role: str | None = Field(None, description="The slot around the nested intent that this entity belongs to.")
    group: str | None = Field(None, description="The nested intent; its entities share it.")
    extractor: Literal["framefill"] = "framefill"


class RasaAnswer(BaseModel):
    """What Rasa NLU answers."""

    text: str
    intent: RasaIntent
    entities: list[RasaEntity]
    intent_ranking: list[RasaIntent]


class Fault(BaseModel):
    """What is wrong, where, and what to do; ``docs/errors.md`` lists the codes."""

    code: str
    what: str
    where: str
    remedy: str


class ErrorAnswer(BaseModel):
    """The answer to a request that is refused."""

    error: Fault


class BundleInfo(BaseModel):
    """A bundle that is served."""

    name: str
    parser: str
    precision: str
    calibrated: bool
    threshold: float | None = Field(description="Least probability of a reading that is acted on.")
    exact_match: float | None = Field(description="Percent, as the manifest says.")


class BundleList(BaseModel):
    """All bundles, the default first."""

    bundles: list[BundleInfo]


class Status(BaseModel):
    """The state of the server."""

    status: str


def schema() -> dict[str, Any]:
    """The JSON Schema of answers and requests of :data:`assistants.shapes.own.VERSION`."""
    models = (ParseRequest, ParseAnswer, BatchRequest, BatchAnswer, RasaAnswer, ErrorAnswer)
    _, definitions = models_json_schema([(model, "validation") for model in models], title="framefill")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:framefill:answer:v{VERSION}",
        "description": f"Requests and answers of the HTTP server, version {VERSION}.",
        "$ref": "#/$defs/ParseAnswer",
        **definitions,
    }
