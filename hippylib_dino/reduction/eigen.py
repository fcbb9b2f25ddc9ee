"""Randomized generalized eigenpairs, blocked, without a large dense matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg as sla

Block = np.ndarray
Operator = Callable[[Block], Block]


def orthonormalize(Y: Block, R: Operator, reduce: Callable = lambda a: a) -> tuple[Block, Block]:
    """R-orthonormalise the columns of Y; return (Q, R Q).

    Cholesky QR, repeated because one pass loses half the digits, after scaling the columns.

    Parameters
    ----------
    Y : (n_owned, k)
    R : operator, symmetric positive definite
    reduce : sum of a small matrix over the ranks that share the rows
    """
    for _ in range(3):
        RY = R(Y)
        gram = reduce(Y.T @ RY)
        scale = 1.0 / np.sqrt(np.diag(gram))
        gram = gram * scale * scale[:, None]
        values, vectors = np.linalg.eigh(0.5 * (gram + gram.T))
        # symmetric inverse root with the spectrum held away from zero: nearly dependent columns
        # are turned into independent ones over the repetitions instead of breaking a Cholesky factor
        values = np.maximum(values, values[-1] * 1e-13)
        Y = (Y * scale) @ (vectors / np.sqrt(values))
    RY = R(Y)
    gram = reduce(Y.T @ RY)
    factor = np.linalg.cholesky(0.5 * (gram + gram.T))
    Y = sla.solve_triangular(factor, Y.T, lower=True).T
    return Y, sla.solve_triangular(factor, RY.T, lower=True).T


def generalized_eigenpairs(
    H: Operator,
    R: Operator,
    R_inverse: Operator,
    start: Block,
    *,
    rank: int,
    reduce: Callable = lambda a: a,
    power_iterations: int = 1,
) -> tuple[np.ndarray, Block, Block]:
    """Leading eigenpairs of H v = λ R v by the randomized double pass.

    Saibaba, Lee, Kitanidis, "Randomized algorithms for generalized Hermitian eigenvalue problems",
    Numer. Linear Algebra Appl. 23 (2016), algorithm 2; here with power iterations and blocks.

    Parameters
    ----------
    H, R, R_inverse : operators on blocks (n_owned, k)
        H symmetric positive semidefinite from primal to dual, R the inner product.
    start : (n_owned, rank + oversampling)
        Random directions.
    rank : int
        Pairs to return.
    reduce : sum of a small matrix over the ranks that share the rows
    power_iterations : int
        Each one squares the decay that the randomized range finder sees.

    Returns
    -------
    λ (k,) all Ritz values, descending; V (n_owned, rank) with VᵀRV = I; R V (n_owned, rank)
    """
    Y = start
    for _ in range(1 + power_iterations):
        Y = R_inverse(H(Y))
        Y, RY = orthonormalize(Y, R, reduce)
    T = reduce(Y.T @ H(Y))
    values, vectors = np.linalg.eigh(0.5 * (T + T.T))
    order = np.argsort(values)[::-1]
    vectors = vectors[:, order[:rank]]
    return np.maximum(values[order], 0.0), Y @ vectors, RY @ vectors
