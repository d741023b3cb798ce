"""Methods that compare candidates by what was found out of every sample before the run."""

from torch import Tensor

from .method import CHOOSING, Measured, Method


class RhoLoss(Method):
    """The k whose loss is most above that of a reference model: what is not learnt yet and can be.

    After Mindermann et al., "Prioritized Training on Points that are Learnable, Worth Learning, and Not Yet Learnt",
    ICML 2022, equation 3. The reference is a run on target text. A forward pass over the candidates, then an ordinary
    step on the picks. Losses are of whole samples, as the reference's are.
    """

    passes, knows, reads = "forward", "loss", CHOOSING | {"reference.file"}
    ranks_by = "the loss before the step less that of the reference model"

    def score(self, losses_N: Tensor, measured: Measured) -> Tensor:
        return losses_N - measured.known_N


class Sbert(Method):
    """The k of N whose sentence embeddings are most like those of the target samples: a static filter.

    The likeness is the mean cosine over the target samples, by all-MiniLM-L6-v2 (Reimers & Gurevych, "Sentence-BERT",
    EMNLP 2019). The model being trained sees nothing but the picks.
    """

    passes, knows, reads = "none", "likeness", CHOOSING | {"reference.file"}
    ranks_by = "the mean cosine of its sentence embedding with those of the target samples"
