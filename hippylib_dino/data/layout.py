"""Names of what is in a dataset's directory, and the numbers that a status can be."""

FORMAT = "hippylib_dino dataset"
FORMAT_VERSION = 2
PENDING, DONE, FAILED = 0, 1, 2
LATENT_ARRAYS = ("x", "y", "reduced_jacobian")  # there as soon as there are bases
SAMPLE_ARRAYS = (
    *LATENT_ARRAYS,
    "observable",
    "observable_energy",
    "observable_residual",
    "jacobian_energy",
    "control",
    "control_jacobian_energy",
)
FULL_ARRAYS = ("m", "jacobian")
BASIS_ARRAYS = ("decoder", "encoder", "shift", "eigenvalues")
SCRATCH = "basis_samples"  # what the first pass keeps until there are bases and all samples are projected on them
WORK = ("seconds", "newton_iterations")  # the first columns of "work"; behind them digests, the last one its own
ROWS = ("rows", "rows_energy", "control_rows")  # of a basis sample of a whole state, written after the others
