"""Connected regions of masks."""

from __future__ import annotations

import numpy as np


def connected(masks: np.ndarray) -> np.ndarray:
    """The region that each pixel of ``masks`` (n, h, w), Booleans, belongs to, by its sides: the
    largest number of a pixel in it, from 1; 0 outside."""
    _, height, width = masks.shape
    labels = np.arange(1, height * width + 1, dtype=np.int32).reshape(height, width) * masks
    while True:
        before = labels.copy()
        for here, there in ((np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :, 1:], np.s_[:, :, :-1])):
            np.maximum(labels[here], labels[there], out=labels[here], where=masks[here])
            np.maximum(labels[there], labels[here], out=labels[there], where=masks[there])
        if np.array_equal(labels, before):
            return labels
