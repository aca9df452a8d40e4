"""Losses of classifiers: soft targets, and what a teacher says."""

from typing import Literal

from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F


@LOSS_REGISTRY.register()
class DistillationLoss(nn.Module):
    """Cross entropy with the labels, and beside it with a teacher: ``(1 - alpha) * CE(head, target) + alpha * term(dist_head, teacher)``.

    The ``hard`` term is the cross entropy with the class that the teacher finds likeliest; the ``soft`` term is
    ``tau^2 / (b * classes) * sum KL(softmax(teacher / tau) || softmax(dist_head / tau))``.

    Args:
        kind: ``hard`` (published), ``soft``, or ``none``: the cross entropy alone, with weight 1.
        alpha: weight of the teacher's term, in [0, 1].
        tau: temperature of the soft term.

    Raises:
        ValueError: for an unknown kind, or numbers out of range.

    Source: GroupMamba (arXiv 2407.13772), section 3.4; DeiT (Touvron et al., arXiv 2012.12877), section 3. In the paper alpha weighs the
    labels; in its code, and here, the teacher (published value 0.5).
    """

    def __init__(self, kind: Literal["hard", "soft", "none"] = "hard", alpha: float = 0.5, tau: float = 1.0) -> None:
        super().__init__()
        if kind not in ("hard", "soft", "none"):
            raise ValueError(f"kind: {kind!r} is not known; choose one of hard, soft, none")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha = {alpha}: must be from 0 to 1")
        if not tau > 0:
            raise ValueError(f"tau = {tau}: must be positive")
        self.kind, self.alpha, self.tau = kind, alpha, tau

    @property
    def needs_teacher(self) -> bool:
        """Whether there is a term for what a teacher says."""
        return self.kind != "none"

    def forward(self, head: Tensor, dist_head: Tensor, target: Tensor, teacher: Tensor | None = None) -> Tensor:
        """The loss, a mean over the batch.

        Args:
            head: logits for the labels, (b, classes).
            dist_head: logits for the teacher, (b, classes); `head` itself for a network with one head.
            target: probabilities of the classes, (b, classes), or their numbers, (b).
            teacher: the teacher's logits for the same pictures, (b, classes); not needed with ``none``.

        Raises:
            ValueError: if there is a teacher's term and no teacher.
        """
        labelled = F.cross_entropy(head, target)
        if not self.needs_teacher:
            return labelled
        if teacher is None:
            raise ValueError(f"a {self.kind} distillation loss needs a teacher's logits; kind: none does without")
        if self.kind == "hard":
            taught = F.cross_entropy(dist_head, teacher.argmax(1))
        else:
            log_student, log_teacher = (F.log_softmax(logits / self.tau, dim=1) for logits in (dist_head, teacher))
            taught = F.kl_div(log_student, log_teacher, reduction="sum", log_target=True) * self.tau**2 / dist_head.numel()
        return (1 - self.alpha) * labelled + self.alpha * taught
