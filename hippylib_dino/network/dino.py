"""The trained DINO: network, bases, provenance; evaluation; one file on disk.

Needs neither dolfin nor Keras: the network is evaluated in NumPy.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hippylib_dino.control import ControlDistribution, control_from_config
from hippylib_dino.data.dataset import Dataset, Samples
from hippylib_dino.errors import InputError, ModelFileError
from hippylib_dino.files import array_of, replacing
from hippylib_dino.fingerprints import check_fingerprint
from hippylib_dino.network.architecture import Architecture, TrainableArchitecture, architecture_from_config
from hippylib_dino.network.latent_map import LatentMap
from hippylib_dino.network.metrics import root_mean, sample_errors
from hippylib_dino.network.reference import Reference
from hippylib_dino.network.sizes import floored
from hippylib_dino.noise import WHOLE_STATE
from hippylib_dino.reduction.basis import Basis

FORMAT = "hippylib_dino model"
FORMAT_VERSION = 1
CHUNK = 64  # samples that are evaluated at once
_BASIS_ARRAYS = ("decoder", "encoder", "shift", "eigenvalues")
_BASIS_ATTRIBUTES = ("kind", "inner_product", "total_energy", "parameter_block")


@dataclass
class DINO:
    """Derivative-informed neural operator F̂(m) = q̄ + Φ f(x), x = (RΨ)ᵀ(m - m̄), with Ĵ = Φ ∂f (RΨ)ᵀ.

    Made by `hd.train` or `DINO.load`.

    Attributes
    ----------
    architecture : Architecture
    weights : list of arrays
        As Keras orders them.
    input_basis, output_basis : Basis
    fingerprint : dict
        Of the problem; checked by `hd.SurrogateModel`.
    training : dict
        How it was trained, with the ``history`` by epoch.

    Examples
    --------
    ::

        dino = hd.train(dataset, "h1", n_train=1024)
        print(dino.evaluate(dataset)["jacobian"])
        dino.save("confusion.dino")
    """

    architecture: Architecture
    weights: list[np.ndarray]
    input_basis: Basis
    output_basis: Basis
    fingerprint: dict
    training: dict = field(default_factory=dict)

    def __post_init__(self):
        ranks = (self.architecture.input_rank, self.architecture.output_rank)
        if ranks != (self.input_basis.rank, self.output_basis.rank):
            raise InputError(
                f"architecture: expected ranks {(self.input_basis.rank, self.output_basis.rank)} as the bases have, "
                f"got {ranks}."
            )
        shapes = [np.shape(w) for w in self.weights]
        if shapes != self.architecture.weight_shapes():
            raise InputError(f"weights: expected shapes {self.architecture.weight_shapes()}, got {shapes}.")

    @cached_property
    def latent_map(self) -> LatentMap:
        """f, from latent parameters (rM,) to latent observables (rQ,), in float64."""
        return self.architecture.latent_map(self.weights)

    @property
    def whole_state(self) -> bool:
        """Whether the observable is the whole state."""
        return WHOLE_STATE in self.fingerprint

    @property
    def control(self) -> ControlDistribution | None:
        """Distribution of the controls that it was trained on; None without a control."""
        stored = self.fingerprint.get("control")
        return None if stored is None else control_from_config(stored)

    def latent(self, m: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Latent input (..., rM + rZ) of parameters m (..., dM) and controls z (..., dZ), which broadcast.

        Raises
        ------
        InputError
            If the DINO has no control, or the dimensions are others.
        """
        parameter, control = self.input_basis.parameter_part(), self.input_basis.control_part()
        for name, array, dim in (("m", m, parameter.dim), ("z", z, control.dim)):
            if np.shape(array)[-1:] != (dim,):
                raise InputError(f"{name}: expected shape (..., {dim}), got {np.shape(array)}.")
        parts = parameter.encode(np.asarray(m)), control.encode(np.asarray(z))
        shape = np.broadcast_shapes(*(part.shape[:-1] for part in parts))
        return np.concatenate([np.broadcast_to(part, (*shape, part.shape[-1])) for part in parts], axis=-1)

    def observable(self, m: np.ndarray) -> np.ndarray:
        """F̂(m): full parameters (..., dM) in canonical dof order to observables (..., dQ).

        With a control, of pairs (m, z) as one array (..., dM + dZ).
        """
        return self.output_basis.decode(self.latent_map.value(self.input_basis.encode(m)))

    def keras_model(self):
        """The functional Keras model with the trained weights; outputs ``observable``, ``jacobian``.

        Raises
        ------
        InputError
            If the map is none that Keras trains.
        """
        if not isinstance(self.architecture, TrainableArchitecture):
            raise InputError(f"architecture: {type(self.architecture).__name__} has no Keras model.")
        model = self.architecture.keras_model()
        model.set_weights(self.weights)
        return model

    def evaluate(self, dataset: Dataset, part: str = "test") -> dict[str, float]:
        """Relative errors on held-out samples: sqrt(mean) of what `sample_errors` gives.

        ``observable`` is relative to the spread of the training samples about their mean, and does not depend on where
        zero is.  Beside it and ``jacobian`` stands what trivial models score: ``observable_constant`` of the mean
        observable, ``observable_affine`` and ``jacobian_affine`` of the map with the mean Jacobian, and so on.
        ``jacobian`` is the error of the full Jacobian as an operator on the prior, which does not depend on the
        mesh.  What the Jacobian of a network on full parameters has outside the input basis counts in it, estimated
        with the parameters of the same samples as prior draws, which the dataset has to hold (``store_parameters``).
        A dataset with full Jacobians (``store_full=True``) adds ``jacobian_dof_frobenius``, the Frobenius norm
        of coefficient matrices, which weighs rough modes that the prior damps.

        Parameters
        ----------
        dataset : Dataset
            Of the same problem, with the same bases.
        part : str
            "test" (default), "validation" or "train".

        Raises
        ------
        InputError
            If the dataset has other bases, or no such samples.
        """
        return {name: root_mean(squares) for name, squares in self.sample_errors(dataset, part).items()}

    def sample_errors(self, dataset: Dataset, part: str = "test") -> dict[str, np.ndarray]:
        """Relative squared errors of each held-out sample, (n,), by metric.

        See `hippylib_dino.network.metrics.sample_errors`; arguments and errors are those of `evaluate`.
        """
        samples = dataset.split(part)
        if len(samples) == 0:
            raise InputError(f"part: the dataset has no {part} samples; generate with n_{part} of at least 1.")
        check_bases(self, dataset)
        reference = Reference.of(dataset, samples)
        errors = self._errors(dataset, samples, reference.spread)
        for model, trivial in reference.errors(samples).items():
            errors.update({f"{name}_{model}": squares for name, squares in trivial.items()})
        return errors

    def _errors(self, dataset: Dataset, samples: Samples, spread: float) -> dict[str, np.ndarray]:
        if self.input_basis.kind == "learned":
            return self._errors_outside(dataset, samples, spread)
        values, jacobians = self.predict(samples.x)
        errors = sample_errors(samples, values, jacobians, self.input_basis, spread=spread)
        if dataset.plan.store_full:
            errors["jacobian_dof_frobenius"] = self._dof_frobenius(dataset, samples.index, jacobians)
        return errors

    def _errors_outside(self, dataset: Dataset, samples: Samples, spread: float) -> dict[str, np.ndarray]:
        """Errors of a network whose encoder is not the dataset's, and sees more of the parameter than its basis."""
        basis, encoder = dataset.input_basis, self.input_basis.encoder
        m = dataset.full("m", samples.index)
        values, latent = self.predict(self.input_basis.encode(m))
        outside = (m - basis.decode(samples.x)) @ encoder
        covariance = outside.T @ outside / len(outside)
        spurious = np.einsum("nqw,nqw->n", latent @ covariance, latent)
        jacobians = latent @ (encoder.T @ basis.decoder)
        errors = sample_errors(samples, values, jacobians, basis, spread=spread, spurious=spurious)
        if dataset.plan.store_full:
            errors["jacobian_dof_frobenius"] = self._dof_frobenius(dataset, samples.index, latent)
        return errors

    def predict(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Latent observables (n, rQ) and reduced Jacobians (n, rQ, rM) at latent parameters (n, rM)."""
        parts = [self.latent_map.value_and_jacobian(part) for part in np.array_split(x, -(-len(x) // CHUNK))]
        values, jacobians = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return values, jacobians

    def predict_samples(self, dataset: Dataset, samples: Samples) -> tuple[np.ndarray, np.ndarray]:
        """Latent observables (n, rQ) and reduced Jacobians (n, rQ, rM) of samples, in the bases of `dataset`."""
        if self.input_basis.kind != "learned":
            return self.predict(samples.x)
        values, latent = self.predict(self.input_basis.encode(dataset.full("m", samples.index)))
        return values, latent @ (self.input_basis.encoder.T @ dataset.input_basis.decoder)

    def _dof_frobenius(self, dataset: Dataset, index: np.ndarray, jacobians: np.ndarray) -> np.ndarray:
        """‖Ĵ - J‖²_F/‖J‖²_F of coefficient matrices, sample by sample, since full Jacobians are large."""
        wrong, size = np.empty(len(index)), np.empty(len(index))
        for k, (i, latent) in enumerate(zip(index, jacobians, strict=True)):
            J = dataset.full("jacobian", np.array([i]))[0]
            predicted = self.output_basis.decoder @ latent @ self.input_basis.encoder.T
            wrong[k], size[k] = ((predicted - J) ** 2).sum(), (J**2).sum()
        return wrong / floored(size)

    # ---- one file ------------------------------------------------------------------------

    def save(self, path: str | Path, overwrite: bool = False, *, extra: Mapping[str, np.ndarray] | None = None) -> None:
        """Write everything into one file: a ZIP of a JSON manifest and .npy arrays with checksums, no pickle.

        Parameters
        ----------
        path : str or Path
        overwrite : bool
        extra : mapping of arrays, optional
            Arrays to keep along, by names such as "inference/noise_covariance"; see `read_arrays`.

        Raises
        ------
        InputError
            If the file exists and `overwrite` is False.
        """
        path = Path(path)
        if path.exists() and not overwrite:
            raise InputError(f"path: {str(path)!r} exists; pass overwrite=True to replace it, or choose another name.")
        manifest = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "architecture": self.architecture.get_config(),
            "n_weights": len(self.weights),
            "bases": {
                name: {key: getattr(basis, key) for key in _BASIS_ATTRIBUTES} for name, basis in self._bases().items()
            },
            "fingerprint": self.fingerprint,
            "training": self.training,
        }
        with replacing(path) as partial, zipfile.ZipFile(partial, "x") as archive:
            archive.writestr("manifest.json", json.dumps(manifest))
            for name, array in {**self._arrays(), **(extra or {})}.items():
                buffer = io.BytesIO()
                np.save(buffer, array, allow_pickle=False)
                archive.writestr(f"{name}.npy", buffer.getvalue())

    def _bases(self) -> dict[str, Basis]:
        return {"input_basis": self.input_basis, "output_basis": self.output_basis}

    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {f"weights/{i}": w for i, w in enumerate(self.weights)}
        for name, basis in self._bases().items():
            arrays.update({f"{name}/{key}": getattr(basis, key) for key in _BASIS_ARRAYS})
        return arrays

    @classmethod
    def load(cls, path: str | Path) -> DINO:
        """Read a file that `save` wrote.

        Raises
        ------
        ModelFileError
            If it is missing, truncated, altered, of a newer format, or no DINO at all.
        """
        path = Path(path)
        if not path.is_file():
            raise ModelFileError(f"path: there is no file {str(path)!r}.")
        try:
            with zipfile.ZipFile(path) as archive:
                _check_sizes(archive, path)
                manifest = json.loads(archive.read("manifest.json"))
                _check_format(manifest, path)
                read = lambda name: _finite(name, array_of(archive.read(f"{name}.npy")))  # noqa: E731
                weights = [read(f"weights/{i}") for i in range(manifest["n_weights"])]
                bases = {}
                for name in ("input_basis", "output_basis"):
                    arrays: dict[str, Any] = {key: read(f"{name}/{key}") for key in _BASIS_ARRAYS}
                    bases[name] = Basis(**arrays, **_basis_attributes(manifest["bases"][name]))
            architecture = architecture_from_config(manifest["architecture"])
            return cls(
                architecture, weights, **bases, fingerprint=manifest["fingerprint"], training=manifest["training"]
            )
        except ModelFileError:
            raise
        # what zipfile, json, NumPy and the constructors raise for damaged bytes
        except Exception as error:
            raise ModelFileError(
                f"path: {str(path)!r} is truncated, altered or no DINO file ({error}). "
                "Restore it, or train and save again."
            ) from error

    def __repr__(self) -> str:
        how = self.training
        return (
            f"DINO({self.input_basis.dim} -> {self.architecture.input_rank} -> {type(self.architecture).__name__} -> "
            f"{self.architecture.output_rank} -> {self.output_basis.dim}, {how.get('formulation')}, "
            f"n_train={how.get('n_train')})"
        )


def read_arrays(path: str | Path, prefix: str) -> dict[str, np.ndarray]:
    """Arrays whose names begin with `prefix`, without it, of a file that `DINO.load` can read.

    Raises
    ------
    ModelFileError
        If one of them is no array of finite floats.
    """
    with zipfile.ZipFile(path) as archive:
        _check_sizes(archive, Path(path))
        names = [n for n in archive.namelist() if n.startswith(prefix)]
        try:
            return {
                n.removeprefix(prefix).removesuffix(".npy"): _finite(n, array_of(archive.read(n)).astype(float))
                for n in names
            }
        except (ValueError, zipfile.BadZipFile) as error:
            raise ModelFileError(
                f"path: {str(path)!r} is truncated or altered ({', '.join(names)}: {error}). Restore it, or save again."
            ) from error


def _check_sizes(archive: zipfile.ZipFile, path: Path) -> None:
    """Raise `ModelFileError` for members that would unpack to more than the file holds: `save` packs nothing."""
    members = archive.infolist()
    packed = [m.filename for m in members if m.compress_type != zipfile.ZIP_STORED or m.file_size != m.compress_size]
    if packed or sum(m.file_size for m in members) > path.stat().st_size:
        raise ModelFileError(
            f"path: {str(path)!r} is truncated, altered or no DINO file (its members {packed[:3]} are compressed, "
            "which save never does). Restore it, or train and save again."
        )


def _finite(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f" or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected finite floats")
    return array


def check_bases(dino: DINO, dataset: Dataset) -> None:
    """Raise `InputError` unless the DINO's problem and latent coordinates are the dataset's.

    Bases of priors and of identities are the same for every PDE, hence the fingerprints too, in what both tell.  A
    learned input basis belongs to no dataset, but to full parameters of its dimension.
    """
    if dino.input_basis.dim != dataset.input_basis.dim:
        raise InputError(
            f"dataset: has {dataset.input_basis.dim} parameters, the DINO was trained on {dino.input_basis.dim}. Take "
            "the dataset that it was trained on."
        )
    told = {
        part: {name: field for name, field in fields.items() if name in dino.fingerprint[part]}
        for part, fields in dataset.fingerprint.items()
        if part in dino.fingerprint
    }
    check_fingerprint(dino.fingerprint, told, "dino: it")
    for name in ("output_basis",) if dino.input_basis.kind == "learned" else ("input_basis", "output_basis"):
        own, other = getattr(dino, name).decoder, getattr(dataset, name).decoder
        if own.shape != other.shape or not np.allclose(own, other, rtol=0, atol=1e-8 * np.abs(other).max()):
            raise InputError(
                f"dataset: its {name.replace('_', ' ')} is not the one that this DINO was trained in; latent samples "
                "differ. Take the dataset that it was trained on, truncated to its ranks."
            )


def _basis_attributes(stored: dict) -> dict:
    """Of a basis in a manifest, of which older files say less."""
    block = stored.get("parameter_block")
    return {
        "kind": stored["kind"],
        "inner_product": stored["inner_product"],
        "total_energy": stored.get("total_energy"),
        "parameter_block": None if block is None else tuple(block),
    }


def _check_format(manifest: dict, path: Path) -> None:
    if manifest.get("format") != FORMAT:
        raise ModelFileError(f"path: {str(path)!r} is a ZIP file, but not a {FORMAT}.")
    if manifest["format_version"] > FORMAT_VERSION:
        raise ModelFileError(
            f"path: {str(path)!r} has format version {manifest['format_version']}, this package reads up to "
            f"{FORMAT_VERSION}; upgrade hippylib_dino."
        )
