"""Cross-entropy with the resize fused in, for CPUs and for GPUs. Imports logits and below."""

from .cross_entropy import (
    check_class_weights,
    loss_and_terms,
    loss_divisor,
    resize_cross_entropy,
    segmentation_loss,
)

__all__ = [
    "check_class_weights",
    "loss_and_terms",
    "loss_divisor",
    "resize_cross_entropy",
    "segmentation_loss",
]
