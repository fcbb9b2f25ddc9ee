#!/usr/bin/env bash
# Sets up all that `make test` and `make demo` need; safe to run again.
#   1. FEniCS, h5py and MPI from the distribution (apt), if they are missing
#   2. a virtual environment that sees them, with this package and its tools
#   3. checks, and hIPPYlib's C++ parts, compiled once
# What only a test asks for, `ip` of iproute2, is tried and may be missing: the test of two hosts is then skipped.
# Variables: VENV (.venv), EXTRAS (cpu,dev), SYSTEM_PYTHON (/usr/bin/python3).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${VENV:-.venv}
EXTRAS=${EXTRAS:-cpu,dev}
SYSTEM_PYTHON=${SYSTEM_PYTHON:-/usr/bin/python3}
PACKAGES=(g++ libopenblas0-serial openmpi-bin python3-dev python3-dolfin python3-h5py python3-h5py-mpi python3-venv)

export PYTHONNOUSERSITE=1  # packages in the home directory would shadow the distribution's

say() { printf '== %s\n' "$*"; }

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

system_ready() {
    command -v g++ >/dev/null && command -v mpirun >/dev/null &&
        "$SYSTEM_PYTHON" - >/dev/null 2>&1 <<'EOF'
import ensurepip, venv, h5py, mpi4py, dolfin
import os, sysconfig
os.stat(os.path.join(sysconfig.get_path("include"), "Python.h"))
EOF
}

install_system_packages() {
    if ! command -v apt-get >/dev/null; then
        fail "FEniCS (dolfin), h5py, mpi4py, venv, Python.h, g++ or mpirun is missing for $SYSTEM_PYTHON," \
            "and there is no apt-get to install it. Either install FEniCS 2019 with your system's packages, or" \
            "use an environment that has it (conda, Docker): pip install -e '.[cpu,dev]' there, then" \
            "make test PYTHON=python"
    fi
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            fail "system packages are missing and there is no sudo. As root: apt-get install ${PACKAGES[*]}"
        as_root=(sudo)
    fi
    say "installing ${PACKAGES[*]}"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}" >/dev/null ||
        fail "apt-get could not install ${PACKAGES[*]}"
    system_ready || fail "the packages are installed, but $SYSTEM_PYTHON -c 'import dolfin, h5py' fails"
}

# `ip`, with which a test makes two hosts of one machine; nobody is asked for a password for it
install_iproute2() {
    PATH=$PATH:/usr/sbin:/sbin command -v ip >/dev/null && return
    local as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    if command -v apt-get >/dev/null && {
        "${as_root[@]}" apt-get update -qq
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends iproute2
    } >/dev/null 2>&1; then
        say "installed iproute2"
    else
        say "no ip (iproute2): the test of two hosts will be skipped"
    fi
}

check_python_version() {
    "$SYSTEM_PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' ||
        fail "$("$SYSTEM_PYTHON" --version): expected 3.11 or 3.12, which NumPy 1 and Zarr 3 both run on" \
            "(Debian 12, Ubuntu 24.04). On other systems use conda or Docker and make test PYTHON=python"
}

make_venv() {
    "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && return
    say "virtual environment $VENV"
    "$SYSTEM_PYTHON" -m venv --system-site-packages "$VENV"
}

# Wheels of h5py bring an HDF5 of their own, and whichever of the two is imported after the other breaks.
drop_h5py_wheel() {
    if "$python" - <<'EOF'
import importlib.util, sys
sys.exit(not importlib.util.find_spec("h5py").origin.startswith(sys.prefix))
EOF
    then
        say "h5py: the distribution's in place of the wheel"
        "$python" -m pip uninstall -y -q h5py
    fi
}

check_imports() {
    local order output
    for order in 'dolfin, keras, h5py' 'h5py, keras, dolfin'; do
        output=$("$python" -c "import $order; h5py.File('x', 'w', driver='core', backing_store=False)['x'] = 1.0" 2>&1) ||
            fail "$output" "import $order fails in $VENV. Remove $VENV and run again"
    done
}

check_mpi() {
    local mpirun
    mpirun=$(command -v mpirun.openmpi || command -v mpirun)
    "$mpirun" -n 2 "$python" -c 'from mpi4py import MPI; assert MPI.COMM_WORLD.size == 2' ||
        fail "$mpirun does not belong to the MPI of mpi4py: two ranks do not see each other"
}

main() {
    system_ready || install_system_packages
    install_iproute2
    check_python_version
    make_venv
    python=$VENV/bin/python
    # FEniCS keeps what it compiles in the active environment
    VIRTUAL_ENV=$("$python" -c 'import sys; print(sys.prefix)')
    export VIRTUAL_ENV TF_CPP_MIN_LOG_LEVEL=3
    export OMPI_MCA_rmaps_base_oversubscribe=1 PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
    if [ "$(id -u)" -eq 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi

    say "hippylib_dino[$EXTRAS] and what it depends on"
    "$python" -m pip install -q --progress-bar off -e ".[$EXTRAS]"
    drop_h5py_wheel
    say "checks"
    check_imports
    check_mpi
    say "hIPPYlib's C++ parts (about a minute the first time)"
    "$python" -c 'import hippylib'
    say "ready: source $VENV/bin/activate"
}

main "$@"
