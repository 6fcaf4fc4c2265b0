"""Performers: building, fitting, saving and reading them."""

from core.performer.fit import fit, load_crops, obtain_performer
from core.performer.performer import Performer, PerformerFeatures, build_performer
from core.performer.receptive_field import ReceptiveField
from core.performer.weights import load_performer, performer_fingerprint, save_performer

__all__ = [
    "Performer",
    "PerformerFeatures",
    "ReceptiveField",
    "build_performer",
    "fit",
    "load_crops",
    "load_performer",
    "obtain_performer",
    "performer_fingerprint",
    "save_performer",
]
