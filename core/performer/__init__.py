"""Performers: building, fitting, saving and reading them."""

from paraphrase.core.performer.fit import fit, load_crops
from paraphrase.core.performer.obtain import obtain_performer
from paraphrase.core.performer.performer import Performer, PerformerFeatures, build_performer
from paraphrase.core.performer.receptive_field import ReceptiveField
from paraphrase.core.performer.weights import load_performer, performer_fingerprint, save_performer

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
