"""Fine-tuning in one call, by the application."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tera_jax.application import application


def finetune(
    model: str | os.PathLike[str],
    records: Any,
    method: str = "tera",
    *,
    workdir: str | os.PathLike[str] | None = None,
    validation: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Any] = (),
    live: bool | None = None,
    **settings: Any,
) -> Any:
    """Train an adapter on records, as ``python -m train.main`` does.

    Args:
        model: the base: an HF directory, a GGUF file, or a name on the hub.
        records: a file of records, as ``config.data.path`` takes it; or the records: a list of
            dictionaries, or a ``datasets.Dataset``.
        method: a row of :data:`tera_jax.methods.TABLE`.
        workdir: where the run is kept. The same call goes on with an interrupted run. A temporary
            directory, whose name is printed, when None.
        validation: a file of held-out records; None holds out a tenth of the records, but no more
            than 120.
        callbacks: objects with some of the functions ``on_start``, ``on_step``, ``on_eval``,
            ``on_save`` and ``on_end``, or dictionaries of such functions. Each gets an event with
            ``step``, ``loss`` and so on, and one that returns ``True`` ends the training; see
            :mod:`train.training.callbacks`.
        live: draw the curve of the losses while the run goes on; in a notebook when None.
        **settings: fields of the configuration by their name, such as ``learning_rate=1e-2``,
            ``steps=100`` or ``rank=8``; or a section's fields, such as ``loop={"seed": 1}``, where
            two sections have a field of that name. ``python -m train.main --config=...
            --print-config`` lists them.

    Returns:
        :class:`train.finetuned.Finetuned`: ``d``, ``history``, ``generate(prompts)``, ``chat()``,
        ``evaluate(file)``, ``save(path)``, ``merge()`` and ``plot()``.

    Raises:
        FileNotFoundError: for a model or records that are not there.
        FileExistsError: when ``workdir`` holds something else, or a run of other settings.
        ValueError: for records, settings or a model that do not fit, before the base is loaded
            where that is possible.
        KeyboardInterrupt: on Ctrl-C, after a checkpoint was written.

    Example:
        ``tuned = tera_jax.finetune("path/to/model", "records.jsonl", steps=100)``
    """
    if isinstance(records, Mapping):
        raise ValueError("the records are one dictionary; give a list of them, or a file")
    return application("finetune").finetune(
        model,
        records,
        method,
        workdir=workdir,
        validation=validation,
        callbacks=callbacks,
        live=live,
        **settings,
    )
