"""A product of two thin matrices, as near as can be at a smaller rank.

With QR of both factors the singular values of their product are those of a square of the rank at
hand; the product itself, as large as a weight of the checkpoint, is never made. What the largest
singular values keep is the nearest of that rank (Eckart and Young, 1936).
"""

import torch
from torch import Tensor


def at_rank(b: Tensor, a: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """Give the factors of the nearest product of a rank.

    Args:
        b: Left factor, [out, R].
        a: Right factor, [R, in]; finite like b.
        rank: Wanted rank r; one that is larger than that of the product is filled up with zeros.

    Returns:
        b [out, r] and a [r, in] in float32, column i of b as long as row i of a, longest first; and
        the share of the product's energy (squared Frobenius norm) that they keep, 1 for a product
        of zeros.
    """
    left, upper = torch.linalg.qr(b.double())  # [out, p], [p, R]
    right, lower = torch.linalg.qr(a.double().T)  # [in, q], [q, R]
    u, s, vt = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    energy = s.square()
    whole = float(energy.sum())
    kept = float(energy[:rank].sum()) / whole if whole else 1.0
    root = s[:rank].sqrt()
    thin_b, thin_a = left @ u[:, :rank] * root, (root[:, None] * vt[:rank]) @ right.T
    missing = rank - len(root)
    if missing > 0:
        thin_b = torch.nn.functional.pad(thin_b, (0, missing))
        thin_a = torch.nn.functional.pad(thin_a, (0, 0, 0, missing))
    return thin_b.float().contiguous(), thin_a.float().contiguous(), kept
