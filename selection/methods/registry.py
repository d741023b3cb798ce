"""Every method by its name in a configuration. A new one is a class in a file of this folder, and a line here."""

from .first_order import BottomK, Greats, TopK
from .method import Method
from .momentum import Momentum
from .opus import Opus
from .reference import RhoLoss, Sbert
from .targetless import GradNorm, MaxLoss
from .unscored import Auto, Importance, Match, Need, Regular

METHODS: dict[str, type[Method]] = {
    "regular": Regular,
    "greats": Greats,
    "topk": TopK,
    "bottomk": BottomK,
    "opus": Opus,
    "momentum": Momentum,
    "gradnorm": GradNorm,
    "maxloss": MaxLoss,
    "rho_loss": RhoLoss,
    "sbert": Sbert,
    "importance": Importance,
    "match": Match,
    "need": Need,
    "auto": Auto,
}
