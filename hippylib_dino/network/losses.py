"""The loss of all formulations, and the metric that shows its parts as relative errors."""

from __future__ import annotations

from hippylib_dino.network.backend import keras


@keras.saving.register_keras_serializable(package="hippylib_dino")
class SquaredNorm(keras.losses.Loss):
    """‖truth - prediction‖² of each sample, mean over the batch.

    Divided by the truth's own ‖·‖² through the sample weights, it is the relative squared error
    of tomoleary/dino's losses: mean_i ‖q_i - q̂_i‖²/‖q_i‖² and mean_i ‖J_i - Ĵ_i‖²/‖J_i‖².
    """

    def call(self, y_true, y_pred):
        axes = tuple(range(1, len(y_pred.shape)))
        return keras.ops.sum(keras.ops.square(y_true - y_pred), axis=axes)


@keras.saving.register_keras_serializable(package="hippylib_dino")
class RelativeError(keras.metrics.Metric):
    """sqrt(mean_i w_i ‖truth_i - prediction_i‖²) over all samples of an epoch, w_i = 1/‖truth_i‖²."""

    def __init__(self, name="error", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        ops = keras.ops
        squares = SquaredNorm().call(y_true, y_pred)
        weight = ops.ones_like(squares) if sample_weight is None else ops.cast(sample_weight, squares.dtype)
        self.total.assign_add(ops.sum(squares * weight))
        self.count.assign_add(ops.cast(ops.shape(squares)[0], self.count.dtype))

    def result(self):
        return keras.ops.sqrt(self.total / keras.ops.maximum(self.count, 1.0))
