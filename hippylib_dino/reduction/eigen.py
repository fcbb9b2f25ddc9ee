"""Randomized generalized eigenpairs, blocked, without a large dense matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.linalg as sla

from hippylib_dino.errors import RankError

Block = np.ndarray
Operator = Callable[[Block], Block]

NEGLIGIBLE = 1e-13  # relative to the first eigenvalue: below it a vector is rounding, not information
ROUNDING = 1e-24  # of squares: a spread about the mean below it, relative to the mean, is rounding
SIZES = (1e-100, 1e100)  # of squares in noise standard deviations, whose products are finite
EQUAL = 1e-6  # relative: of eigenvalues that differ by less, rounding turns the vectors by 1e-10 or more


def check_size(size: float, *, name: str, what: str, beside: float = 0.0) -> None:
    """Raise `RankError` where there is nothing to make a basis of: zero, or a number whose products are not finite.

    Parameters
    ----------
    size : float
        Magnitude of what the basis is made of, in noise standard deviations, squared.
    name, what : str
        Of the argument whose rank it is, and of what may be zero.
    beside : float
        Square of what it was subtracted from, next to which rounding is no information.
    """
    if size <= ROUNDING * beside:
        raise RankError(
            f"{name}: expected {what} that are not all zero, got zeros: there are no directions. Check that the "
            "parameter stands in the form, and that not all sensors lie where a Dirichlet condition fixes the state."
        )
    if not SIZES[0] < size < SIZES[1]:
        raise RankError(
            f"{name}: expected {what} whose squares in noise standard deviations are within {SIZES[0]:.0e} .. "
            f"{SIZES[1]:.0e}, got {size:.1e}. Check the noise variance of the misfit, and its units."
        )


def orthonormalize(Y: Block, R: Operator, reduce: Callable = lambda a: a) -> tuple[Block, Block]:
    """An R-orthonormal basis Q of the span of Y's columns, in no particular order; return (Q, R Q).

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
    start : (n_owned, k)
        Random directions, some more than are wanted.
    reduce : sum of a small matrix over the ranks that share the rows
    power_iterations : int
        Each one squares the decay that the randomized range finder sees.

    Returns
    -------
    λ (k,) Ritz values, descending; V (n_owned, k) with VᵀRV = I; R V (n_owned, k)
    """
    Y = start
    for _ in range(1 + power_iterations):
        Y = R_inverse(H(Y))
        Y, RY = orthonormalize(Y, R, reduce)
    T = reduce(Y.T @ H(Y))
    values, vectors = np.linalg.eigh(0.5 * (T + T.T))
    order = np.argsort(values)[::-1]
    vectors = vectors[:, order]
    return np.maximum(values[order], 0.0), Y @ vectors, RY @ vectors


def settle(values: np.ndarray, decoder: Block, encoder: Block, rank: int) -> tuple[Block, Block]:
    """The first eigenvectors, with their signs fixed, and the rotation of those that share an eigenvalue.

    An eigenproblem leaves these open, and rounding decides: the same problem on another partition of the mesh
    would get other latent coordinates.  Here the first row of the decoder that is about as large as the largest
    one becomes positive; in a shared eigenspace it becomes (+, 0, 0, ...), the next one (*, +, 0, ...).
    "About", because symmetric domains have modes whose largest entries come in pairs of opposite sign.

    Parameters
    ----------
    values : (n,), n ≥ k
        Eigenvalues, descending.
    decoder, encoder : (dim, k), k ≥ rank
        All rows, in an order that does not depend on the partition; more columns than `rank`, so that an
        eigenspace which `rank` cuts is whole here.
    rank : int

    Returns
    -------
    decoder, encoder : (dim, rank), new arrays
    """
    decoder, encoder = decoder.copy(), encoder.copy()
    k = decoder.shape[1]
    ends = 1 + np.flatnonzero(values[: k - 1] - values[1:k] > EQUAL * values[: k - 1])
    for eigenspace in np.split(np.arange(k), ends):
        if eigenspace[0] >= rank:
            break
        for start in range(len(eigenspace)):
            columns = eigenspace[start:]
            sizes = np.linalg.norm(decoder[:, columns], axis=1)
            row = decoder[np.argmax(sizes > 0.9 * sizes.max()), columns]
            turn = np.linalg.qr(np.column_stack([row, np.eye(len(row))]))[0]  # its first column along the row
            turn[:, 0] *= np.sign(turn[:, 0] @ row)
            decoder[:, columns], encoder[:, columns] = decoder[:, columns] @ turn, encoder[:, columns] @ turn
    return decoder[:, :rank].copy(), encoder[:, :rank].copy()
