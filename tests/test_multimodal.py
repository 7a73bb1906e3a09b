"""Pictures and texts: reading, drawing, heads over modes, and maps between encoders."""

import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from ecomkd import checkpoints, multimodal
from ecomkd.config import Profile
from ecomkd.multimodal import align, drawn, modes, pictures
from ecomkd.runtime import ModelError


def file_of(image: Image.Image, kind: str = "PNG") -> bytes:
    held = io.BytesIO()
    image.save(held, kind)
    return held.getvalue()


# Pictures -----------------------------------------------------------------------------------------


def test_a_square_keeps_the_whole_picture_on_white():
    wide = Image.new("RGB", (40, 10), "black")
    pixels = pictures.square(wide, size=40)
    assert pixels.shape == (40, 40, 3) and pixels.dtype == np.uint8
    assert (pixels[:10] == 255).all() and (pixels[-10:] == 255).all()
    assert (pixels[18:22] == 0).all()


def test_what_is_transparent_becomes_white():
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert pictures.opened(file_of(clear)).getpixel((3, 3)) == (255, 255, 255)


def test_colours_are_shares_that_no_place_changes():
    picture = Image.new("RGB", (32, 32), "white")
    picture.paste("blue", (0, 0, 16, 32))
    counted = pictures.colours([picture, picture.rotate(180)])
    assert counted.shape == (2, 24)
    assert np.array_equal(*counted)
    assert counted[0, :12].sum() == pytest.approx(0.5)  # white has no saturation
    assert counted[0, 12:18].sum() == pytest.approx(1) == counted[0, 18:].sum()


def test_bytes_of_a_file_and_an_open_picture_give_the_same():
    picture = drawn.draw(drawn.products(1))[0]
    assert np.array_equal(pictures.colours([picture]), pictures.colours([file_of(picture)]))


def test_a_thin_strip_is_not_padded_to_gigabytes(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 4_000)
    strip = Image.new("RGB", (1_000, 2), "red")
    found = pictures.square(strip, size=10)
    assert found.shape == (10, 10, 3)
    assert tuple(found[0, 0]) == (255, 255, 255) and found[4:6, 5, 1].min() < 255
    assert strip.size == (1_000, 2)


def damaged() -> bytes:
    """A PNG of which the second part of the pixels has a name that no part has."""
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (256, 256, 3), dtype=np.uint8))
    before, first, rest = file_of(noise).partition(b"IDAT")
    assert rest.count(b"IDAT")
    return before + first + rest.replace(b"IDAT", b"\0\1\2\3", 1)


def test_a_photograph_stands_upright():
    """As on a page: how the camera was held is noted beside the pixels."""
    picture, target = Image.new("RGB", (80, 40), "red"), io.BytesIO()
    noted = Image.Exif()
    noted[274] = 6
    picture.save(target, "JPEG", exif=noted)
    assert pictures.opened(target.getvalue()).size == (40, 80)


def test_a_grey_of_two_bytes_keeps_its_steps():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(8, axis=0)
    found = np.asarray(pictures.opened(file_of(Image.fromarray(ramp))))
    assert np.array_equal(found[..., 0], ramp >> 8)


@pytest.mark.parametrize(
    "held", [b"", b"no picture", file_of(Image.new("RGB", (64, 64)))[:60], damaged()]
)
def test_what_is_no_picture_is_named_by_its_place(held):
    whole = file_of(Image.new("RGB", (8, 8)))
    with pytest.raises(ValueError, match=r"^picture 1: no picture that can be read .* again\.$"):
        pictures.colours([whole, held])


def test_a_huge_picture_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(pictures, "MOST_PIXELS", 99)
    with pytest.raises(ValueError, match=r"picture 0: 10 × 10 pixels, at most 99 are read"):
        pictures.colours([file_of(Image.new("RGB", (10, 10)))])


@pytest.mark.parametrize("call", [pictures.colours, pictures.vectors])
def test_no_picture_is_an_error(call):
    with pytest.raises(ValueError, match="no picture"):
        call([])


class Channels(torch.nn.Module):
    """Stands in for the network: its map is the picture."""

    def __init__(self):
        super().__init__()
        self.own = torch.nn.Parameter(torch.zeros(1))

    def forward_features(self, pixels):
        return pixels


def test_vectors_are_means_over_places_and_batches_change_nothing():
    shown = [Image.new("RGB", (5, 5), colour) for colour in ("red", "white", "black")]
    found = pictures.vectors(shown, Channels(), size=8)
    assert found == pytest.approx(np.array([[1, -1, -1], [1, 1, 1], [-1, -1, -1]]), abs=1e-6)
    assert np.array_equal(found, pictures.vectors(shown, Channels(), size=8, batch_size=2))


def test_the_encoder_sees_what_is_in_a_photograph():
    """The weights fit: photographs of one class lie closer than those of others."""
    try:
        model = pictures.encoder()
    except ModelError as missing:
        pytest.skip(str(missing))
    assert not model.training
    assert sum(one.numel() for one in model.parameters()) == 4_652_008
    frame, _ = pictures.recorded("grocery_classes")
    chosen = list(frame["thumbnail"][:12])
    vectors = pictures.vectors(chosen, model, size=96)
    assert vectors.shape == (12, pictures.WIDTH)
    turned = [Image.open(io.BytesIO(one)).rotate(5, fillcolor="white") for one in chosen]
    close = align.unit(vectors) @ align.unit(pictures.vectors(turned, model, size=96)).T
    assert (close.argmax(axis=1) == np.arange(12)).mean() > 0.9


def test_weights_of_another_hash_are_refused(monkeypatch):
    checkpoints.picture_weights()  # installed and whole
    monkeypatch.setattr(checkpoints, "_EFFICIENTNET_SHA", "0" * 64)
    with pytest.raises(ModelError, match=r"efficientnet.*damaged"):
        pictures.encoder()


def test_recorded_pictures_say_where_they_are_from():
    frame, held = pictures.recorded("grocery")
    assert len(frame) == len(held["network"]) == len(held["colours"]) == 5_421
    assert "MIT" in frame.attrs["about"]
    assert held["colours"][:, 12:18].sum(axis=1) == pytest.approx(np.ones(5_421), abs=0.03)
    shown = frame["thumbnail"].dropna()
    assert max(Image.open(io.BytesIO(one)).width for one in shown[:20]) <= 48
    with pytest.raises(ValueError, match="clothing, grocery, grocery_classes"):
        pictures.recorded("shoes")


# The drawn shop -----------------------------------------------------------------------------------


def test_titles_say_what_they_are_said_to_say():
    shop = drawn.products(400)
    for one in shop.itertuples():
        assert (one.colour in one.title.split()) == one.colour_said
        assert (one.pattern in one.title.split()) == one.pattern_said
        assert one.title.split()[0] == one.series and one.title.split()[-1] == one.kind


def test_most_of_a_series_has_one_colour():
    shop = drawn.products(4_000)
    top = shop.groupby("series")["colour"].agg(lambda own: own.value_counts(normalize=True).max())
    assert len(top) == drawn.SERIES
    assert 0.75 < top.mean() < 0.9  # 0.8, and a sixth of the rest


def test_drawn_products_are_the_same_for_the_same_seed_alone():
    one, same, other = drawn.products(30), drawn.products(30), drawn.products(30, seed=1)
    assert one.equals(same) and not one.equals(other)
    assert [a.tobytes() for a in drawn.draw(one)] == [a.tobytes() for a in drawn.draw(same)]
    with pytest.raises(ValueError, match="0 products"):
        drawn.products(0)


def test_a_drawing_has_its_colour():
    shop = drawn.products(200).assign(pattern="plain")
    counted = pictures.colours(drawn.draw(shop))
    hue = {
        name: counted[shop["colour"] == name, :12].mean(axis=0).argmax() for name in drawn.COLOURS
    }
    assert hue["red"] in (0, 11) and hue["green"] in (3, 4, 5) and hue["blue"] in (6, 7)


def test_vectors_of_drawings_are_kept(tmp_path, monkeypatch):
    calls = []

    def vectors(shown, size):
        calls.append(len(shown))
        return np.ones((len(shown), 4), np.float32)

    monkeypatch.setattr(pictures, "vectors", vectors)
    shop, profile = drawn.products(3), Profile.named("smoke", artifacts=tmp_path)
    first, again = drawn.seen(shop, profile), drawn.seen(shop, profile)
    assert calls == [3]
    assert all(np.array_equal(first[mode], again[mode]) for mode in ("network", "colours"))


# Heads over modes ---------------------------------------------------------------------------------

WIDTHS = {"text": 3, "picture": 5}


def model_of(gated: bool) -> modes.Fusion:
    torch.manual_seed(0)
    return modes.Fusion(WIDTHS, classes=4, gated=gated).eval()


def random_seen(count: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {mode: torch.randn(count, width, generator=generator) for mode, width in WIDTHS.items()}


def test_early_fusion_is_one_matrix_over_vectors_side_by_side():
    model, seen = model_of(gated=False), random_seen()
    wide = torch.cat([model.into[mode].weight for mode in WIDTHS], dim=1)
    bias = sum(model.into[mode].bias for mode in WIDTHS)
    hidden = torch.cat(list(seen.values()), dim=1) @ wide.T + bias
    assert torch.allclose(model(seen), model.out(hidden), atol=1e-6)


@pytest.mark.parametrize("gated", [False, True])
def test_a_missing_mode_says_nothing(gated):
    model, seen = model_of(gated), random_seen()
    there = torch.tensor([[True, False]] * 6)
    other = seen | {"picture": 100 * seen["picture"]}
    assert torch.equal(model(seen, there), model(other, there))
    assert not torch.allclose(model(seen), model(other))
    assert torch.isfinite(model(seen, torch.zeros(6, 2, dtype=torch.bool))).all()
    unknown = seen | {"picture": torch.full_like(seen["picture"], torch.nan)}
    assert torch.equal(model(seen, there), model(unknown, there))


def test_an_ungated_head_without_a_mode_is_not_the_head_of_a_zero_vector():
    """The missing term takes its bias along."""
    model, seen = model_of(gated=False), random_seen()
    there = torch.tensor([[True, False]] * 6)
    hidden = model.into["text"](seen["text"])
    assert torch.allclose(model(seen, there), model.out(hidden))


def problem(count: int = 300):
    """Products whose class the picture tells, and the text for a half of them."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(4, (count,), generator=generator)
    picture = torch.nn.functional.one_hot(labels, 5).float()
    text = torch.nn.functional.one_hot(labels % 3, 3).float()
    noise = 0.1 * torch.randn(count, 5, generator=generator)
    return {"text": text, "picture": picture + noise}, labels


def test_fit_learns_from_a_teacher_what_no_label_tells():
    seen, labels = problem()
    few = torch.full_like(labels, modes.UNLABELLED)
    told = 10 * torch.nn.functional.one_hot(labels, 4).float()
    model = model_of(gated=False)
    assert modes.fit(model, seen, few, (seen, labels), teacher=told, steps=60, rate=1e-2) > 0.95
    assert not model.training


def test_fit_is_the_same_for_a_seed_and_keeps_the_best_state():
    seen, labels = problem()
    found = []
    for _ in range(2):
        model = model_of(gated=True)
        best = modes.fit(model, seen, labels, (seen, labels), missing=0.5, steps=40, rate=1e-2)
        guess = modes.logits_of(model, seen).argmax(dim=1)
        assert float((guess == labels).float().mean()) == pytest.approx(best)
        found.append(modes.logits_of(model, seen))
    assert torch.equal(*found)


def test_fit_leaves_products_without_a_label_out():
    seen, labels = problem()
    few = labels.clone()
    few[100:] = modes.UNLABELLED
    part = {mode: one[:100] for mode, one in seen.items()}
    one, other = model_of(gated=False), model_of(gated=False)
    modes.fit(one, seen, few, (seen, labels), steps=10)
    modes.fit(other, part, labels[:100], (seen, labels), steps=10)
    assert torch.equal(modes.logits_of(one, seen), modes.logits_of(other, seen))


def test_fit_asks_for_something_to_learn():
    seen, labels = problem(10)
    with pytest.raises(ValueError, match="neither a label nor a teacher"):
        modes.fit(model_of(False), seen, torch.full_like(labels, modes.UNLABELLED), (seen, labels))


def test_late_fusion_is_a_product_of_probabilities():
    a, b = torch.randn(5, 3), torch.randn(5, 3)
    joined = modes.late([a, b], [2.0, 1.0]).softmax(dim=1)
    product = a.softmax(1) ** 2 * b.softmax(1)
    assert torch.allclose(joined, product / product.sum(1, keepdim=True), atol=1e-6)
    with pytest.raises(ValueError, match="2 classifiers, but 1 weights"):
        modes.late([a, b], [1.0])


def test_standard_units_are_those_of_the_first_array():
    train, other = np.array([[0.0, 5.0], [2.0, 5.0]]), np.array([[3.0, 9.0]])
    first, second = modes.standard(train, other)
    assert torch.equal(first, torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    assert torch.equal(second, torch.tensor([[2.0, 0.0]]))  # what never varies says nothing


# Maps between encoders ----------------------------------------------------------------------------


def pairs(count: int, noise: float = 0.1):
    """Texts and pictures that are two views of the same hidden numbers."""
    generator = np.random.default_rng(3)
    mixing = generator.normal(size=(8, 12)), generator.normal(size=(8, 20))
    hidden = generator.normal(size=(count, 8))
    return [
        hidden @ mixed + noise * generator.normal(size=(count, mixed.shape[1])) for mixed in mixing
    ]


@pytest.mark.parametrize(
    "learn", [lambda t, p: align.ridge(t, p, 0.1), lambda t, p: align.contrastive(t, p, steps=150)]
)
def test_maps_find_pictures_that_they_have_not_seen(learn):
    texts, shown = pairs(400)
    score = learn(texts[:300], shown[:300])(texts[300:], shown[300:])
    found = align.recall(score, [np.array([row]) for row in range(100)], k=5)
    assert found.mean() > 0.8  # by chance 0.05


def test_ridge_is_the_same_by_either_matrix():
    texts, shown = pairs(12)  # as many pairs as numbers: the larger matrix is taken
    doubled = np.vstack([texts, texts]), np.vstack([shown, shown])
    one = align.ridge(texts[:11], shown[:11], 0.5)(texts, shown)
    t, p = (align.unit(v[:11]) for v in (texts, shown))
    t_mean, p_mean = t.mean(axis=0), p.mean(axis=0)
    gram = (t - t_mean).T @ (t - t_mean) + 0.5 * np.eye(12)
    weights = np.linalg.solve(gram, (t - t_mean).T @ (p - p_mean))
    by_hand = (
        align.unit((align.unit(texts) - t_mean) @ weights)
        @ align.unit(align.unit(shown) - p_mean).T
    )
    assert one == pytest.approx(by_hand)
    # Each pair twice is each pair once with half the penalty.
    assert align.ridge(*doubled, 1.0)(texts, shown) == pytest.approx(
        align.ridge(texts, shown, 0.5)(texts, shown)
    )


def test_contrastive_is_the_same_for_a_seed():
    texts, shown = pairs(40)
    one, same, other = (
        align.contrastive(texts, shown, steps=3, seed=seed)(texts, shown) for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same) and not np.array_equal(one, other)


def test_recall_counts_queries_that_find_one_of_theirs():
    scores = np.array([[3.0, 2, 1], [3, 2, 1], [1, 1, 1]])
    relevant = [np.array([1]), np.array([2]), np.array([0, 2])]
    assert align.recall(scores, relevant, k=2).tolist() == [True, False, True]
    with pytest.raises(ValueError, match="nothing to find"):
        align.recall(scores, [np.array([], int)] * 3)


@pytest.mark.parametrize("learn", [align.ridge, align.contrastive])
def test_maps_ask_for_pairs(learn):
    with pytest.raises(ValueError, match="3 texts and 2 pictures"):
        learn(np.ones((3, 4)), np.ones((2, 5)))


def test_a_row_of_zeros_has_no_direction():
    assert multimodal.unit(np.zeros((1, 3))).tolist() == [[0, 0, 0]]


def part_of(name: bytes, held: bytes) -> bytes:
    return len(held).to_bytes(4, "big") + name + held + zlib.crc32(name + held).to_bytes(4, "big")


def behind_the_header(picture: bytes, part: bytes) -> bytes:
    return picture[:33] + part + picture[33:]  # 8 bytes that mark a PNG, and 25 of its header


def test_a_grey_of_two_bytes_with_a_clear_colour_keeps_its_steps():
    ramp = np.linspace(0, 65535, 64).astype(np.uint16)[None].repeat(8, axis=0)
    clear = part_of(b"tRNS", b"\0\0")
    found = np.asarray(pictures.opened(behind_the_header(file_of(Image.fromarray(ramp)), clear)))
    assert np.array_equal(found[:, 1:, 0], (ramp >> 8)[:, 1:]) and (found[:, 0] == 255).all()


def test_a_picture_above_pillows_own_limit_is_to_be_made_smaller():
    small = file_of(Image.new("RGB", (8, 8)))
    sides = (20_000).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    huge = small[:8] + part_of(b"IHDR", sides + small[24:29]) + small[33:]
    with pytest.raises(ValueError, match=r"^picture 0: too many pixels, .*: make it smaller\.$"):
        pictures.colours([huge])


def test_what_pillow_tells_in_its_own_words_is_named_by_its_place():
    text = part_of(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 5_000_000))
    with pytest.raises(ValueError, match=r"^picture 0: no picture that can be read"):
        pictures.colours([behind_the_header(file_of(Image.new("RGB", (8, 8))), text)])
