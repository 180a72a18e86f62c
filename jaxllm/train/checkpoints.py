"""Saving and restoring a run with Orbax: atomic, asynchronous, latest and best."""

import copy
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxllm.errors import UserError
from jaxllm.files import storage_error, unread

_NONFINITE = "nonfinite_steps"  # in the JSON object on disk, next to the caller's entries


class Restored(NamedTuple):
    """The contents of a checkpoint.

    Attributes:
        tree: with the shardings of the tree it was restored like.
        sidecar: the JSON object saved with it (resolved config, metadata).
    """

    tree: Any
    sidecar: dict[str, Any]


class Checkpointer:
    """The checkpoints of one run, a folder with one sub-folder a step; each holds any tree of arrays and a JSON object.

    A checkpoint appears under its step's name only when it is complete, and the one before it is removed
    only after that: a run killed at any moment, or a full disk, leaves the previous one whole. Use as a
    context manager, or call `close`.

    Args:
        directory: directory of the checkpoints, made if it does not exist; unfinished saves in it are removed.
        best_metric: name in the metrics given to `save`; the best checkpoint by it stays, and the latest. Of equal
            ones the earlier is the best.
        best_mode: whether the best value is the smallest or the largest.
    """

    def __init__(
        self, directory: str | Path, best_metric: str | None = None, best_mode: Literal["min", "max"] = "min"
    ):
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

        self._ocp = ocp
        self._best_metric, self._best_mode = best_metric, best_mode
        self.directory = Path(directory).absolute()

        def value(metrics: Mapping[str, float]) -> float:
            return metrics["best"]

        best = BestN(
            get_metric_fn=value, reverse=best_mode == "min", n=1, keep_checkpoints_without_metrics=False
        )
        try:
            self._manager = ocp.CheckpointManager(
                self.directory,
                # best_fn makes Orbax store the metric, so that a resumed run still knows the best;
                # on its own it would drop the latest, hence the policy.
                options=ocp.CheckpointManagerOptions(
                    best_fn=None if best_metric is None else value,
                    best_mode=best_mode,
                    preservation_policy=AnyPreservationPolicy(
                        [LatestN(1)] if best_metric is None else [LatestN(1), best]
                    ),
                    cleanup_tmp_directories=True,
                ),
                item_handlers={
                    "state": ocp.StandardCheckpointHandler(),
                    "sidecar": ocp.JsonCheckpointHandler(),
                },
            )
        except OSError as error:
            raise storage_error(error, self.directory) or UserError(
                f"cannot write checkpoints here: {error.strerror}", self.directory
            ) from error

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint, None when there is none; waits for a running save."""
        self.wait()  # Orbax lists a step from the moment its save begins
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step of the best checkpoint by `best_metric`, None when none has a finite value of it."""
        self.wait()
        return None if self._best_metric is None else self._manager.best_step()

    def save(
        self,
        step: int,
        tree: Any,
        sidecar: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        nonfinite: int = 0,
    ) -> bool:
        """Starts saving a tree under a step's number; waits for the save before it, not for this one.

        The tree's arrays may be donated, and the sidecar changed, as soon as this returns.

        Args:
            step: number of steps made.
            tree: tree of arrays: a `TrainState`, several of them, rollouts, ...
            sidecar: a JSON object.
            metrics: metrics of this step, from which `best_metric` is taken if it is present and finite.
            nonfinite: steps in a row, up to this one, without a finite loss and gradient.

        Returns:
            False when this step is already saved.

        Raises:
            StorageError: the disk is full (also when the save before it failed).
        """
        if step in self._manager.all_steps():
            return False
        best = (metrics or {}).get(self._best_metric or "", math.nan)
        args = self._ocp.args
        try:
            self._manager.wait_until_finished()
            if not self._improves(best):  # of equal ones Orbax would retain the later
                best = math.nan
            # Written in the background, while the next steps may change the caller's object.
            json_item = args.JsonSave(copy.deepcopy(dict(sidecar or {})) | {_NONFINITE: nonfinite})
            return self._manager.save(
                step,
                args=args.Composite(state=args.StandardSave(tree), sidecar=json_item),
                metrics={"best": float(best)} if math.isfinite(best) else None,
                force=True,
            )
        except Exception as error:
            raise storage_error(error, self.directory) or error from error

    def _improves(self, value: float) -> bool:
        """Returns whether a value is better than that of the best checkpoint; False for NaN."""
        step = self.best_step()
        known = None if step is None else self._manager.metrics(step)
        if known is None:
            return math.isfinite(value)
        return value < known["best"] if self._best_mode == "min" else value > known["best"]

    def nonfinite(self, step: int) -> int:
        """Returns the count saved with a step; 0 without such a checkpoint, or in one of an earlier version."""
        if step not in self._manager.all_steps():
            return 0
        args = self._ocp.args
        sidecar = self._manager.restore(step, args=args.Composite(sidecar=args.JsonRestore()))["sidecar"]
        return int(sidecar.get(_NONFINITE, 0))

    def wait(self) -> None:
        """Waits until the last save is complete on disk.

        Raises:
            StorageError: the disk is full.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise storage_error(error, self.directory) or error from error

    def restore(self, like: Any, step: int | None = None) -> Restored:
        """Reads a checkpoint, bit for bit, onto the devices of `like`.

        Args:
            like: a tree with the structure, shapes, dtypes and shardings to restore into, of arrays or of
                `jax.ShapeDtypeStruct`; its values are not read.
            step: number of the checkpoint, None for the latest.

        Raises:
            UserError: there is no such checkpoint, it is damaged, or it belongs to another model or config.
        """
        if step is None:
            step = self.latest_step()
        self.wait()
        steps = sorted(self._manager.all_steps())
        if step is None or step not in steps:
            raise UserError(
                "no checkpoint" + ("" if step is None else f" of step {step}"),
                self.directory,
                f"choose one of {steps}" if steps else "start a new run, or give another folder",
            )
        folder = self.directory / str(step)
        older = max((other for other in steps if other < step), default=None)
        target = jax.tree.map(_abstract, like)
        try:
            saved = self._manager.item_metadata(step)["state"]
        except Exception as error:
            raise _damaged(folder, unread(error, folder), older) from error
        if saved is None:
            raise _damaged(folder, "its list of arrays is missing", older)
        _check_fit(_described(saved.tree), _described(target), folder)
        args = self._ocp.args
        try:
            restored = self._manager.restore(
                step, args=args.Composite(state=args.StandardRestore(target), sidecar=args.JsonRestore())
            )
        except Exception as error:
            raise _damaged(folder, unread(error, folder), older) from error
        sidecar = {name: value for name, value in restored["sidecar"].items() if name != _NONFINITE}
        return Restored(restored["state"], sidecar)

    def close(self) -> None:
        """Waits for the last save and releases the threads.

        Raises:
            StorageError: the disk is full.
        """
        try:
            self.wait()
        finally:
            self._manager.close()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(x, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)


def _described(tree: Any) -> dict[str, str]:
    """Maps the path of every array to its dtype and shape; a PRNG key counts as the integers it is stored as."""

    def describe(x: Any) -> str:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.eval_shape(jax.random.key_data, x)
        return f"{jnp.dtype(x.dtype).name}{list(x.shape)}"

    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): describe(x) for path, x in leaves}


def _check_fit(saved: Mapping[str, str], wanted: Mapping[str, str], folder: Path) -> None:
    # Orbax would cast a dtype silently, and report a wrong shape only in a long traceback.
    for path in sorted(saved.keys() | wanted.keys()):
        if saved.get(path) != wanted.get(path):
            raise UserError(
                f"the checkpoint does not fit this run: {path} is {saved.get(path, 'absent')} in the checkpoint"
                f" and {wanted.get(path, 'absent')} in this run",
                folder,
                "resume with the model, adapter and optimizer settings the checkpoint was made with",
            )


def _damaged(folder: Path, reason: str, older: int | None) -> UserError:
    return UserError(
        f"the checkpoint is damaged: {reason}",
        folder,
        f"remove this folder to {'start again' if older is None else f'resume from step {older}'}",
    )
