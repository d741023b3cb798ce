"""Every prefilter by name: what ranks candidates by their text, before the model runs."""

from .importance import ImportanceWeights
from .predictor import Predictor

PREFILTERS = {"predictor": Predictor, "importance": ImportanceWeights}
