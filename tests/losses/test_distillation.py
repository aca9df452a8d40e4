"""The distilled loss against golden values, and its laws."""

import pytest
import torch
from torch.nn import functional as F

from eqmambair.losses.distillation import DistillationLoss
from tests.golden import GoldenCase


def test_golden_values(shared_dir):
    golden = GoldenCase(shared_dir / "golden" / "groupmamba" / "distill_loss.safetensors")
    head, dist_head, target, teacher = (
        golden.tensors[f"input/{name}"] for name in ("head_logits", "dist_logits", "soft_targets", "teacher_logits")
    )
    expected = golden.part("output")
    assert len(expected) == 5
    for name, value in expected.items():
        kind, alpha, tau = name.split("_")
        loss = DistillationLoss(kind, alpha=float(alpha[1:]), tau=float(tau[1:]))
        torch.testing.assert_close(loss(head, dist_head, target, teacher), value[0])


def logits(*names: str) -> list[torch.Tensor]:
    return [torch.randn(5, 7) for _ in names]


def test_alpha_zero_is_the_plain_loss():
    head, dist_head, teacher = logits("head", "dist_head", "teacher")
    labels = torch.arange(5)
    for kind in ("hard", "soft", "none"):
        torch.testing.assert_close(DistillationLoss(kind, alpha=0)(head, dist_head, labels, teacher), F.cross_entropy(head, labels))


def test_half_alpha_treats_labels_and_teacher_alike():
    head, dist_head, teacher = logits("head", "dist_head", "teacher")
    labels = torch.arange(5)
    loss = DistillationLoss("hard", alpha=0.5)
    exchanged = loss(dist_head, head, teacher.argmax(1), F.one_hot(labels, 7).float())
    torch.testing.assert_close(loss(head, dist_head, labels, teacher), exchanged)


def test_labels_and_their_probabilities_are_the_same_target():
    head, dist_head, teacher = logits("head", "dist_head", "teacher")
    labels = torch.arange(5)
    loss = DistillationLoss()
    torch.testing.assert_close(loss(head, dist_head, labels, teacher), loss(head, dist_head, F.one_hot(labels, 7).float(), teacher))


def test_a_teacher_is_needed_unless_there_is_no_term_for_it():
    head, dist_head = logits("head", "dist_head")
    with pytest.raises(ValueError, match="needs a teacher"):
        DistillationLoss()(head, dist_head, torch.arange(5))
    DistillationLoss("none")(head, dist_head, torch.arange(5))


@pytest.mark.parametrize(("argument", "value"), [("kind", "harder"), ("alpha", 1.5), ("tau", 0.0)])
def test_wrong_arguments_are_named(argument, value):
    with pytest.raises(ValueError, match=argument):
        DistillationLoss(**{argument: value})
