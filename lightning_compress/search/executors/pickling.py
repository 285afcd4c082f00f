"""Pickle evaluators for workers, and their errors for the search."""

from __future__ import annotations

import pickle
import traceback

import cloudpickle

from lightning_compress.core.errors import CompressError
from lightning_compress.search.executors.executor import Evaluate


def packed(evaluate: Evaluate) -> bytes:
    """Return the evaluator as bytes; cloudpickle, because classes of a script or a notebook travel too.

    Raises:
        CompressError: it cannot be pickled.
    """
    try:
        return cloudpickle.dumps(evaluate)
    except Exception as error:
        raise CompressError(
            f"executor: the evaluator cannot be sent to workers ({type(error).__name__}: {error}); make what it holds "
            f"picklable, or use compress/executor=serial"
        ) from error


def portable(error: Exception) -> Exception:
    """Return the error being handled, or one with its words if it cannot be pickled; its traceback becomes a note."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    error.add_note(f"in a worker:\n{traceback.format_exc()}")
    return error
