"""Building blocks of networks: value, both derivative sweeps and curvature, once for Keras and for NumPy.

A block b maps x (..., n_in) to y (..., n_out).  With ∂b at x it gives

- ``linearize``: y, and what the sweeps need to know of x;
- ``push``: tangents (..., k, n_in) to (..., k, n_out), t ↦ t ∂bᵀ (forward sweep);
- ``pull``: cotangents (..., k, n_out) to (..., k, n_in), c ↦ c ∂b (reverse sweep);
- for Hessian actions t ↦ ∂bᵀ g(∂b t) + ∇²(cᵀb) t, all without the axis k: ``curve`` once for c, then for each t
  ``push_along``, which remembers tangents, and ``pull_bent``, which adds their curvature.

`ops` is `keras.ops` or `numpy_ops`, so that a trained network and its float64 evaluation cannot differ.
Weights come as a flat list, which each block takes from.

``fix`` makes of a block and some fixed first inputs (n, k) a block of the other inputs: what depends on the fixed ones
alone is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hippylib_dino.network.activations import get_activation

Weights = list[Any]


@dataclass(frozen=True)
class Weight:
    """Shape and initial values of one weight: "glorot" (uniform) or "zeros"."""

    shape: tuple[int, ...]
    initial: str


class Block:
    """Base: a block without weights."""

    def weights(self) -> list[Weight]:
        """What the block takes from the flat list, in order."""
        return []

    def linearize(self, ops, weights: Weights, x) -> tuple[Any, Any]:
        """y, and the state that the sweeps take."""
        raise NotImplementedError

    def push(self, ops, weights: Weights, state, tangents):
        """Forward sweep."""
        raise NotImplementedError

    def pull(self, ops, weights: Weights, state, cotangents):
        """Reverse sweep."""
        raise NotImplementedError

    def curve(self, ops, weights: Weights, state, cotangent):
        """Reverse sweep of c (..., n_out): c ∂b, and the curvature that `pull_bent` takes; None of an affine block."""
        return self.pull(ops, weights, state, cotangent), None

    def push_along(self, ops, weights: Weights, state, tangent):
        """Forward sweep of t (..., n_in), and what `pull_bent` has to know of it."""
        return self.push(ops, weights, state, tangent), None

    def pull_bent(self, ops, weights: Weights, state, curvature, along, cotangent):
        """Reverse sweep of a cotangent (..., n_out), and ∇²(cᵀb) t on top."""
        return self.pull(ops, weights, state, cotangent)

    def fix(self, ops, weights: Weights, first) -> tuple[Block, Weights, Any] | None:
        """The block of the other inputs, its weights, and what is left of `first` for the next block, or None.

        None alone if the block mixes its inputs in a way that this does not know.
        """
        return None


@dataclass(frozen=True)
class Dense(Block):
    """y = x K + b."""

    n_in: int
    n_out: int
    initial: str = "glorot"

    def weights(self) -> list[Weight]:
        return [Weight((self.n_in, self.n_out), self.initial), Weight((self.n_out,), "zeros")]

    def linearize(self, ops, weights: Weights, x):
        return ops.matmul(x, weights[0]) + weights[1], None

    def push(self, ops, weights: Weights, state, tangents):
        return ops.matmul(tangents, weights[0])

    def pull(self, ops, weights: Weights, state, cotangents):
        return ops.matmul(cotangents, ops.transpose(weights[0]))

    def fix(self, ops, weights: Weights, first):
        k = first.shape[-1]
        bias = ops.matmul(first, weights[0][:k]) + weights[1]  # one a sample
        return Dense(self.n_in - k, self.n_out), [weights[0][k:], bias], None


@dataclass(frozen=True)
class Scale(Block):
    """y = s x, with s fixed: a number, or one for each entry."""

    factor: float | tuple[float, ...]

    def _scaled(self, ops, x):
        return x * (self.factor if isinstance(self.factor, float) else ops.array(self.factor, dtype=x.dtype))

    def linearize(self, ops, weights: Weights, x):
        return self._scaled(ops, x), None

    def push(self, ops, weights: Weights, state, tangents):
        return self._scaled(ops, tangents)

    def pull(self, ops, weights: Weights, state, cotangents):
        return self._scaled(ops, cotangents)

    def fix(self, ops, weights: Weights, first):
        if isinstance(self.factor, float):
            return self, [], first * self.factor
        k = first.shape[-1]
        return Scale(self.factor[k:]), [], first * ops.array(self.factor[:k], dtype=first.dtype)


@dataclass(frozen=True)
class Activate(Block):
    """y = σ(x), elementwise."""

    name: str

    def linearize(self, ops, weights: Weights, x):
        value, slope = get_activation(self.name).expand(ops, x)
        return value, (x, slope)

    def push(self, ops, weights: Weights, state, tangents):
        return tangents * state[1][..., None, :]

    def pull(self, ops, weights: Weights, state, cotangents):
        return cotangents * state[1][..., None, :]

    def curve(self, ops, weights: Weights, state, cotangent):
        return cotangent * state[1], cotangent * get_activation(self.name).second(ops, state[0])

    def push_along(self, ops, weights: Weights, state, tangent):
        return tangent * state[1], tangent

    def pull_bent(self, ops, weights: Weights, state, curvature, along, cotangent):
        return cotangent * state[1] + curvature * along


@dataclass(frozen=True)
class Chain(Block):
    """Blocks one after the other."""

    blocks: tuple[Block, ...]

    def weights(self) -> list[Weight]:
        return [weight for block in self.blocks for weight in block.weights()]

    def _shares(self, weights: Weights) -> list[tuple[Block, Weights]]:
        shares, first = [], 0
        for block in self.blocks:
            n = len(block.weights())
            shares.append((block, weights[first : first + n]))
            first += n
        return shares

    def linearize(self, ops, weights: Weights, x):
        states = []
        for block, own in self._shares(weights):
            x, state = block.linearize(ops, own, x)
            states.append(state)
        return x, states

    def fix(self, ops, weights: Weights, first):
        blocks, kept = [], []
        for block, own in self._shares(weights):
            if first is not None:
                fixed = block.fix(ops, own, first)
                if fixed is None:
                    return None
                block, own, first = fixed
            blocks.append(block)
            kept += own
        return Chain(tuple(blocks)), kept, first

    def push(self, ops, weights: Weights, state, tangents):
        for (block, own), s in zip(self._shares(weights), state, strict=True):
            tangents = block.push(ops, own, s, tangents)
        return tangents

    def pull(self, ops, weights: Weights, state, cotangents):
        for (block, own), s in zip(self._shares(weights)[::-1], state[::-1], strict=True):
            cotangents = block.pull(ops, own, s, cotangents)
        return cotangents

    def curve(self, ops, weights: Weights, state, cotangent):
        curvatures = []
        for (block, own), s in zip(self._shares(weights)[::-1], state[::-1], strict=True):
            cotangent, curvature = block.curve(ops, own, s, cotangent)
            curvatures.append(curvature)
        return cotangent, curvatures[::-1]

    def push_along(self, ops, weights: Weights, state, tangent):
        remembered = []
        for (block, own), s in zip(self._shares(weights), state, strict=True):
            tangent, along = block.push_along(ops, own, s, tangent)
            remembered.append(along)
        return tangent, remembered

    def pull_bent(self, ops, weights: Weights, state, curvature, along, cotangent):
        steps = zip(self._shares(weights), state, curvature, along, strict=True)
        for (block, own), s, bent, remembered in list(steps)[::-1]:
            cotangent = block.pull_bent(ops, own, s, bent, remembered, cotangent)
        return cotangent


@dataclass(frozen=True)
class Residual(Block):
    """y = x + inner(x)."""

    inner: Chain

    def weights(self) -> list[Weight]:
        return self.inner.weights()

    def linearize(self, ops, weights: Weights, x):
        y, state = self.inner.linearize(ops, weights, x)
        return x + y, state

    def push(self, ops, weights: Weights, state, tangents):
        return tangents + self.inner.push(ops, weights, state, tangents)

    def pull(self, ops, weights: Weights, state, cotangents):
        return cotangents + self.inner.pull(ops, weights, state, cotangents)

    def curve(self, ops, weights: Weights, state, cotangent):
        pulled, curvature = self.inner.curve(ops, weights, state, cotangent)
        return cotangent + pulled, curvature

    def push_along(self, ops, weights: Weights, state, tangent):
        pushed, along = self.inner.push_along(ops, weights, state, tangent)
        return tangent + pushed, along

    def pull_bent(self, ops, weights: Weights, state, curvature, along, cotangent):
        return cotangent + self.inner.pull_bent(ops, weights, state, curvature, along, cotangent)


@dataclass(frozen=True)
class Times(Block):
    """y = a x, entry by entry, with a factor for each entry of each sample among the weights."""

    n: int

    def weights(self) -> list[Weight]:
        return [Weight((self.n,), "ones")]

    def linearize(self, ops, weights: Weights, x):
        return x * weights[0], None

    def push(self, ops, weights: Weights, state, tangents):
        return tangents * weights[0][..., None, :]

    def pull(self, ops, weights: Weights, state, cotangents):
        return cotangents * weights[0][..., None, :]

    def curve(self, ops, weights: Weights, state, cotangent):
        return cotangent * weights[0], None

    def push_along(self, ops, weights: Weights, state, tangent):
        return tangent * weights[0], None

    def pull_bent(self, ops, weights: Weights, state, curvature, along, cotangent):
        return cotangent * weights[0]


@dataclass(frozen=True)
class Product(Block):
    """y = f(a) g(b), entry by entry, for x = (a, b)."""

    n_first: int  # of a
    f: Chain
    g: Chain

    def weights(self) -> list[Weight]:
        return [*self.f.weights(), *self.g.weights()]

    def _shares(self, weights: Weights) -> tuple[Weights, Weights]:
        n = len(self.f.weights())
        return weights[:n], weights[n:]

    def linearize(self, ops, weights: Weights, x):
        first, second = self._shares(weights)
        a, state_a = self.f.linearize(ops, first, x[..., : self.n_first])
        b, state_b = self.g.linearize(ops, second, x[..., self.n_first :])
        return a * b, (a, b, state_a, state_b)

    def fix(self, ops, weights: Weights, first):
        if first.shape[-1] != self.n_first:
            return None
        of_f, of_g = self._shares(weights)
        factor, _ = self.f.linearize(ops, of_f, first)
        return Chain((self.g, Times(factor.shape[-1]))), [*of_g, factor], None

    def push(self, ops, weights: Weights, state, tangents):
        (first, second), (a, b, state_a, state_b) = self._shares(weights), state
        moved_a = self.f.push(ops, first, state_a, tangents[..., : self.n_first])
        moved_b = self.g.push(ops, second, state_b, tangents[..., self.n_first :])
        return moved_a * b[..., None, :] + moved_b * a[..., None, :]

    def pull(self, ops, weights: Weights, state, cotangents):
        (first, second), (a, b, state_a, state_b) = self._shares(weights), state
        pulled_a = self.f.pull(ops, first, state_a, cotangents * b[..., None, :])
        pulled_b = self.g.pull(ops, second, state_b, cotangents * a[..., None, :])
        return ops.concatenate([pulled_a, pulled_b], axis=-1)

    def curve(self, ops, weights: Weights, state, cotangent):
        (first, second), (a, b, state_a, state_b) = self._shares(weights), state
        pulled_a, bent_a = self.f.curve(ops, first, state_a, cotangent * b)
        pulled_b, bent_b = self.g.curve(ops, second, state_b, cotangent * a)
        return ops.concatenate([pulled_a, pulled_b], axis=-1), (bent_a, bent_b, cotangent)

    def push_along(self, ops, weights: Weights, state, tangent):
        (first, second), (a, b, state_a, state_b) = self._shares(weights), state
        moved_a, along_a = self.f.push_along(ops, first, state_a, tangent[..., : self.n_first])
        moved_b, along_b = self.g.push_along(ops, second, state_b, tangent[..., self.n_first :])
        return moved_a * b + moved_b * a, (along_a, along_b, moved_a, moved_b)

    def pull_bent(self, ops, weights: Weights, state, curvature, along, cotangent):
        (first, second), (a, b, state_a, state_b) = self._shares(weights), state
        (bent_a, bent_b, weight), (along_a, along_b, moved_a, moved_b) = curvature, along
        pulled_a = self.f.pull_bent(ops, first, state_a, bent_a, along_a, cotangent * b + weight * moved_b)
        pulled_b = self.g.pull_bent(ops, second, state_b, bent_b, along_b, cotangent * a + weight * moved_a)
        return ops.concatenate([pulled_a, pulled_b], axis=-1)


def chain(blocks: Sequence[Block]) -> Chain:
    """Blocks one after the other."""
    return Chain(tuple(blocks))
