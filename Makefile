# `make help` lists the targets.  The first `make test` or `make demo` sets everything up; to use an
# environment that has it all already (conda, Docker), name its Python: make test PYTHON=python
VENV    ?= .venv
NP      ?= 2
# of TensorFlow in the demo; BLAS keeps one, its matrices are small
THREADS ?= 2
# tests run in so many processes
WORKERS ?= 2
OUTPUT  := demo-output

ifeq ($(origin PYTHON),command line)
  READY :=
  MPIRUN ?= mpirun
else
  PYTHON := $(VENV)/bin/python
  READY := $(VENV)/.ready
  # of several MPIs, the one that the distribution's dolfin is built with
  MPIRUN ?= $(shell command -v mpirun.openmpi || echo mpirun)
  # FEniCS keeps what it compiles in the virtual environment named here
  export VIRTUAL_ENV := $(abspath $(VENV))
  # packages in the home directory would shadow the distribution's
  export PYTHONNOUSERSITE := 1
endif

ifeq ($(shell id -u),0)
  export OMPI_ALLOW_RUN_AS_ROOT := 1
  export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM := 1
endif
# more ranks than cores, in Open MPI 4 and 5
export OMPI_MCA_rmaps_base_oversubscribe := 1
export PRTE_MCA_rmaps_default_mapping_policy := :oversubscribe
export TF_CPP_MIN_LOG_LEVEL := 3
export MPLBACKEND := Agg

# threads of BLAS and TensorFlow in one process: ranks that each take all cores slow each other down
threads = OMP_NUM_THREADS=$(1) OPENBLAS_NUM_THREADS=$(1) MKL_NUM_THREADS=$(1) \
  TF_NUM_INTRAOP_THREADS=$(1) TF_NUM_INTEROP_THREADS=1

.PHONY: help setup test demo lint clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## FEniCS, a virtual environment in .venv, this package in it

$(VENV)/.ready: setup.py scripts/setup.sh
	VENV="$(VENV)" bash scripts/setup.sh
	@touch $@

test: $(READY)  ## all tests on WORKERS processes; PYTEST_ARGS="-k basis" for some
	$(call threads,1) $(PYTHON) -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

demo: $(READY)  ## generate on NP ranks, train, infer: figures in demo-output
	$(call threads,1) $(MPIRUN) -n $(NP) $(PYTHON) -m applications.confusion.run --output $(OUTPUT) --generate-only
	$(call threads,1) TF_NUM_INTRAOP_THREADS=$(THREADS) $(PYTHON) -m applications.confusion.run --output $(OUTPUT)

lint: $(READY)  ## ruff and mypy
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy hippylib_dino

clean:  ## remove build products, tool caches and demo-output, keep .venv
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache demo-output
	find applications benchmarks hippylib_dino tests -name __pycache__ -type d -prune -exec rm -rf {} +
