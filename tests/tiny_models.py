"""A shop of a few words, and small encoders of three classes that fit it, for the tests."""

from pathlib import Path

import torch
from datasets import ClassLabel, Dataset, DatasetDict
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    MPNetConfig,
    MPNetTokenizer,
    RobertaConfig,
    RobertaTokenizer,
)

from ecomkd.config import Profile
from ecomkd.data.schema import LABELS, TEXT

_TEXT = "red blue green large small shoe mug lamp desk mat strap tea pot wool steel kids"
WORDS = _TEXT.split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "."]
CLASSES = ClassLabel(names=list(LABELS))


def tokenizer() -> BertTokenizerFast:
    vocabulary = {word: index for index, word in enumerate([*SPECIAL, *WORDS])}
    return BertTokenizerFast(vocab=vocabulary)


def bert(layers: int = 2, hidden: int = 32, dropout: float = 0.1, classes: int = 4, seed: int = 0):
    """A random `BertForSequenceClassification` over the words of this shop."""
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        max_position_embeddings=40,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=classes,
        initializer_range=0.2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertForSequenceClassification(config)


def mpnet_tokenizer() -> MPNetTokenizer:
    """The same words as MPNet cuts them: other ids, and no token types."""
    special = ["<s>", "<pad>", "</s>", "[UNK]", "<mask>", "."]
    return MPNetTokenizer(vocab={word: index for index, word in enumerate([*special, *WORDS])})


def roberta_tokenizer() -> RobertaTokenizer:
    """The same words as RoBERTa cuts them, each built up from its letters."""
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789.", "Ġ"]
    merges = {("Ġ" + word[:end], word[end]): None for word in WORDS for end in range(len(word))}
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *letters, *map("".join, merges)]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return RobertaTokenizer(vocab=vocabulary, merges=list(merges), add_prefix_space=True)


TOKENIZERS = {"bert": tokenizer, "mpnet": mpnet_tokenizer, "roberta": roberta_tokenizer}
_CONFIGS = {"bert": BertConfig, "mpnet": MPNetConfig, "roberta": RobertaConfig}


def encoder(kind: str, layers: int = 3, hidden: int = 32, classes: int = 4, seed: int = 0):
    """A random classifier of the class `bert`, `mpnet` or `roberta` over the words of this shop."""
    tokens = TOKENIZERS[kind]()
    config = _CONFIGS[kind](
        vocab_size=len(tokens),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden,
        # RoBERTa spells words that it does not know, and counts positions from behind the padding.
        max_position_embeddings=200,
        num_labels=classes,
        initializer_range=0.2,
        pad_token_id=tokens.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForSequenceClassification.from_config(config)


def save(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    TOKENIZERS[model.config.model_type]().save_pretrained(folder)
    return folder


def pairs(count: int, seed: int = 0, labelled: bool = True, prefix: str = "q") -> Dataset:
    """`count` pairs as `load` gives them: ids, texts of random words, labels or −1."""
    draw = torch.Generator().manual_seed(seed)

    def words(low: int, high: int) -> str:
        length = int(torch.randint(low, high, (), generator=draw))
        chosen = torch.randint(len(WORDS), (length,), generator=draw)
        return " ".join(WORDS[index] for index in chosen)

    rows = {
        "query_id": [f"{prefix}{index // 4}" for index in range(count)],
        "product_id": [f"p{index}" for index in range(count)],
        "query": [f"{prefix}{index // 4} " + words(1, 4) for index in range(count)],
        **{name: [""] * count for name in TEXT},
        "product_title": [words(2, 10) for _ in range(count)],
        "label": torch.randint(4, (count,), generator=draw).tolist() if labelled else [-1] * count,
    }
    return Dataset.from_dict(rows).cast_column("label", CLASSES)


def shop(train: int = 24, unlabelled: int = 16) -> DatasetDict:
    return DatasetDict(
        train=pairs(train, seed=1),
        validation=pairs(12, seed=2, prefix="v"),
        test=pairs(12, seed=3, prefix="t"),
        unlabelled=pairs(unlabelled, seed=4, labelled=False, prefix="u"),
    )


def profile(folder: Path, **changes) -> Profile:
    """Profile `smoke` on the CPU in float32, with artefacts under `folder`."""
    settings = {
        "device": "cpu",
        "precision": "fp32",
        "batch_size": 8,
        "seed": 900,
        "frozen_layers": 1,
        "warm_up_pairs": 0,
    }
    return Profile.named("smoke", artifacts=folder, **{**settings, **changes})


def distilling(place: Path) -> Profile:
    """A profile with a teacher of two random layers, the lower one frozen, students of one, and the
    smallest shop."""
    start = save(bert(), place / "pretrained")
    return Profile.named(
        "smoke", teacher=str(start), student_layers=(0,), unlabelled_pairs=16, device="cpu",
        precision="fp32", frozen_layers=1, artifacts=place / "artifacts", queries=24,
    )  # fmt: skip


def warming_up(place: Path) -> Profile:
    """A profile with a teacher of two random layers, which has a warm-up, and the smallest shop."""
    start = save(bert(), place / "pretrained")
    return Profile.named(
        "smoke", teacher=str(start), warm_up_pairs=16, device="cpu", precision="fp32",
        frozen_layers=1, artifacts=place / "artifacts", queries=24,
    )  # fmt: skip
