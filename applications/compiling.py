"""How applications and benchmarks have their forms compiled."""

import dolfin as dl

FLAGS = "-O3 -march=native"  # tests put FEniCS's own here, and share what they compile


def compile_for_this_processor() -> None:
    """Forms that are compiled from now on use all that the processor has; FEniCS reports errors alone."""
    dl.set_log_level(dl.LogLevel.ERROR)
    dl.parameters["form_compiler"]["cpp_optimize_flags"] = FLAGS
