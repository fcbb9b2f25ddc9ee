"""The loss of all formulations, and the metric that shows its parts as relative errors."""

from __future__ import annotations

from hippylib_dino.network.backend import keras


@keras.saving.register_keras_serializable(package="hippylib_dino")
class SquaredNorm(keras.losses.Loss):
    """‖truth - prediction‖² of each sample, mean over the batch.

    The sample weights make it relative; see `hippylib_dino.network.formulations`.

    Parameters
    ----------
    by_column : bool
        Whether the sample weights are (n, l), one for each column of a Jacobian, in place of (n,).
    """

    def __init__(self, by_column: bool = False, **kwargs):
        super().__init__(**kwargs)
        self.by_column = by_column

    def call(self, y_true, y_pred):
        squares = _squares(y_true, y_pred, self.by_column)
        # Keras takes the mean over the columns too
        return squares * y_pred.shape[-1] if self.by_column else squares

    def get_config(self):
        return {**super().get_config(), "by_column": self.by_column}


def _squares(y_true, y_pred, by_column: bool):
    axes = tuple(range(1, len(y_pred.shape) - by_column))
    return keras.ops.sum(keras.ops.square(y_true - y_pred), axis=axes)


@keras.saving.register_keras_serializable(package="hippylib_dino")
class RelativeError(keras.metrics.Metric):
    """sqrt(mean_i w_i ‖truth_i - prediction_i‖²) over all samples of an epoch, w_i the weights of the loss.

    Parameters
    ----------
    by_column : bool
        See `SquaredNorm`.
    """

    def __init__(self, name="error", by_column: bool = False, **kwargs):
        super().__init__(name=name, **kwargs)
        self.by_column = by_column
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        ops = keras.ops
        squares = _squares(y_true, y_pred, self.by_column)
        weight = ops.ones_like(squares) if sample_weight is None else ops.cast(sample_weight, squares.dtype)
        self.total.assign_add(ops.sum(squares * weight))
        self.count.assign_add(ops.cast(ops.shape(squares)[0], self.count.dtype))

    def get_config(self):
        return {**super().get_config(), "by_column": self.by_column}

    def result(self):
        return keras.ops.sqrt(self.total / keras.ops.maximum(self.count, 1.0))
