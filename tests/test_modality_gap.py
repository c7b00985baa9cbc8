"""The streaming modality gap against the sums over all pairs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import SHARED, needs

from czsl_sac.evaluation import ModalityGap, modality_gap_l2, relative_modality_gap


def by_all_pairs(image, text, match):
    """RMG and L2M with every distance written out."""
    image, text = (np.asarray(x, dtype=np.float64) for x in (image, text))
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))

    def distance(a, b):
        return (1 - a @ b) / 2

    def spread(x):
        n = len(x)
        distances = [distance(x[i], x[j]) for i in range(n) for j in range(n) if i != j]
        return sum(distances) / (n * (n - 1))

    matched = np.mean([distance(x, text[j]) for x, j in zip(image, match, strict=True)])
    rmg = matched / (matched + (spread(image) + spread(text)) / 2)
    return rmg, np.linalg.norm(image.mean(0) - text.mean(0))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 20), st.integers(2, 9), st.integers(2, 6), st.integers(0, 10**6), st.booleans()
)
def test_equals_the_sums_over_all_pairs(images, texts, size, seed, double):
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.float64 if double else torch.float32
    image = torch.randn(images, size, generator=generator, dtype=dtype) * 3 + 1
    text = torch.randn(texts, size, generator=generator, dtype=dtype) - 1
    match = torch.randint(texts, (images,), generator=generator)
    rmg, l2 = by_all_pairs(image, text, match)
    assert relative_modality_gap(image, text, match) == pytest.approx(rmg, abs=1e-12)
    assert modality_gap_l2(image, text) == pytest.approx(l2, abs=1e-12)


def random_case(images=50, texts=7, size=16):
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(images, size, generator=generator)
    text = torch.randn(texts, size, generator=generator)
    return image, text, torch.randint(texts, (images,), generator=generator)


def test_batches_add_up():
    image, text, match = random_case()
    gap = ModalityGap(text)
    for rows in torch.arange(50).split(13):
        gap.update(image[rows], match[rows])
    assert gap.relative() == pytest.approx(relative_modality_gap(image, text, match), abs=1e-14)
    assert gap.l2() == pytest.approx(modality_gap_l2(image, text), abs=1e-14)


def test_states_of_processes_add_up():
    image, text, match = random_case()
    states, parts = [], []
    for rows in torch.arange(50).split(20):
        part = ModalityGap(text)
        part.update(image[rows], match[rows])
        states.append(part.state())
        parts.append(part)
    whole = ModalityGap(text)
    whole.merge_state({name: sum(state[name] for state in states) for name in states[0]})
    merged = parts[0]
    for part in parts[1:]:
        merged.merge_state(part)
    assert merged.relative() == pytest.approx(whole.relative(), abs=1e-14)
    with pytest.warns(DeprecationWarning, match="ModalityGap.load_state is now reset and merge"):
        part.load_state(whole.state())
    assert part.relative() == whole.relative()
    assert whole.relative() == pytest.approx(relative_modality_gap(image, text, match), abs=1e-14)
    assert whole.l2() == pytest.approx(modality_gap_l2(image, text), abs=1e-14)


def test_scale_and_rotation_do_not_matter_but_a_shift_does():
    image, text, match = random_case()
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[0]
    rmg = relative_modality_gap(image, text, match)
    assert relative_modality_gap(5 * image, text, match) == pytest.approx(rmg)
    assert relative_modality_gap(image @ rotation, text @ rotation, match) == pytest.approx(rmg)
    assert abs(relative_modality_gap(image + 1, text, match) - rmg) > 0.05


def test_extremes():
    basis, order = torch.eye(3), torch.arange(3)
    assert relative_modality_gap(basis, basis, order) == 0
    assert modality_gap_l2(basis, basis) == 0
    # d(x, -x) = 1 and a spread of 1/2 on both sides.
    assert relative_modality_gap(basis, -basis, order) == pytest.approx(2 / 3)
    point = torch.ones(3, 3)
    assert relative_modality_gap(point, -point, order) == pytest.approx(1)
    assert modality_gap_l2(point, -point) == pytest.approx(2)


def test_repeating_texts_gives_another_number():
    image, text, match = random_case()
    repeated = relative_modality_gap(image, text[match], torch.arange(50))
    assert abs(relative_modality_gap(image, text, match) - repeated) > 0.01


@needs("clip-features")
def test_real_clip_features():
    image, text = torch.from_numpy(np.load(SHARED / "clip-features/features_clip.npy"))
    match = torch.arange(len(image))
    image64, text64 = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (image, text))
    off = ~torch.eye(len(image), dtype=torch.bool)
    spread = [((1 - (x @ x.T)[off]) / 2).mean() for x in (image64, text64)]
    matched = ((1 - (image64 * text64).sum(1)) / 2).mean()
    expected = float(matched / (matched + sum(spread) / 2))
    rmg = relative_modality_gap(image, text, match)
    assert rmg == pytest.approx(expected, abs=1e-12)
    assert modality_gap_l2(image, text) == pytest.approx(
        float((image64.mean(0) - text64.mean(0)).norm()), abs=1e-12
    )
    assert rmg == pytest.approx(0.5914597, abs=1e-6)
    assert modality_gap_l2(image, text) == pytest.approx(0.8513519, abs=1e-6)


@pytest.mark.parametrize(
    ("image", "text", "match", "error", "message"),
    [
        (
            torch.ones(2, 3),
            torch.ones(1, 3),
            [0, 0],
            ValueError,
            "text_features has 1 rows but must have two",
        ),
        (torch.ones(1, 3), torch.eye(3), [0], ValueError, "has seen 1 images but must see two"),
        (
            torch.ones(2, 4),
            torch.eye(3),
            [0, 0],
            ValueError,
            "image_features has D = 4 but must have 3",
        ),
        (
            torch.ones(2, 3),
            torch.eye(3),
            [0],
            ValueError,
            r"match has shape \[1\] but must be \[2\]",
        ),
        (torch.ones(2, 3), torch.eye(3), [0, 3], ValueError, "match holds a row outside 0 … 2 but"),
        (
            torch.ones(2, 3),
            torch.eye(3),
            [0, -1],
            ValueError,
            "match holds a row outside 0 … 2 but",
        ),
        (
            torch.ones(2, 3),
            torch.eye(3),
            [0.0, 1.0],
            TypeError,
            "match is torch.float32 but must be integers",
        ),
        (torch.zeros(2, 3), torch.eye(3), [0, 1], ValueError, "image_features row 0 is zero"),
        (torch.full((2, 3), torch.nan), torch.eye(3), [0, 1], ValueError, "not finite"),
        (torch.ones(3), torch.eye(3), [0], ValueError, r"image_features is torch.float32 of shape"),
        (
            torch.ones(2, 3),
            torch.ones(2, 3),
            [0, 1],
            ValueError,
            "one and the same point but must differ",
        ),
    ],
)
def test_errors(image, text, match, error, message):
    with pytest.raises(error, match=message):
        relative_modality_gap(image, text, torch.tensor(match))


def test_errors_of_the_l2_gap():
    with pytest.raises(ValueError, match="but both must have a row and the same D"):
        modality_gap_l2(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="but both must have a row and the same D"):
        modality_gap_l2(torch.ones(0, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"has seen 0 images but must see one: update\(\) it"):
        ModalityGap(torch.eye(2)).l2()
