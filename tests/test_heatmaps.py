"""Where a prediction comes from: what is drawn is what the method compared and attended to."""

import io
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from PIL import Image
from plain_parts import SPACES, random_backbone
from tiny_runs import options_of, tiny_run, write_scenes

from czsl_sac import patch_max, pictures
from czsl_sac.cli import main
from czsl_sac.clip import apply_adaptformer
from czsl_sac.methods.base import CZSLMethod
from czsl_sac.methods.predictor import Predictor
from czsl_sac.predict.heatmaps import draw_looks, panels_of
from czsl_sac.predict.looks import Looks, class_attention, look_at
from czsl_sac.predict.run_predictor import RunPredictor
from czsl_sac.run import load_run
from czsl_sac.training.build import build_method
from czsl_sac.training.config import TrainConfig

METHODS = {
    "zero-shot": {},
    "coop": {},
    "csp": {},
    "sac": {"bank": "off", "num_blocks": 1, "num_heads": 2},
    "troika": {"traction_layers": 1},
    "plain troika": {"text_side": "plain", "disentangle": "none"},
    "txt2img": {"fusion": "txt2img"},
    "img2txt": {"fusion": "img2txt"},
}


def make(name: str, alignment: str, **options: object) -> CZSLMethod:
    method = {"txt2img": "dfsp", "img2txt": "dfsp", "plain troika": "troika"}.get(name, name)
    chosen = options_of(method, alignment=alignment, **{**METHODS[name], **options})
    backbone = random_backbone().float()
    if method == "troika":
        apply_adaptformer(backbone.visual, bottleneck=3)
    return build_method(TrainConfig(method=chosen), backbone, SPACES["usual"]).eval()


def test_the_winning_patch_is_the_argmax_of_patch_max(tmp_path: Path) -> None:
    predictor = RunPredictor(load_run(tiny_run(), bank="train"))
    (batch,) = predictor.batches(write_scenes(tmp_path, 6))
    columns = batch.probabilities.argmax(1)
    looks = look_at(predictor.method, predictor.predictor, batch.images, columns)
    tokens = F.normalize(predictor.method.backbone.encode_image(batch.images), dim=-1)
    text = predictor.predictor.text.composition[columns]
    values, winners = patch_max(tokens, text[:, None])
    assert looks.winner is not None
    assert looks.similarity is not None
    assert torch.equal(looks.winner, winners[:, 0])
    torch.testing.assert_close(looks.similarity.amax(1), values[:, 0])
    for row, winner in enumerate(winners[:, 0].tolist()):
        panel = next(panels_of(looks, row))
        best = int(looks.similarity[row, 1:].argmax())
        assert panel.won == (winner > 0)
        assert panel.patch == (winner - 1 if winner else best)


def test_attention_is_the_condensers(tmp_path: Path) -> None:
    predictor = RunPredictor(load_run(tiny_run(), bank="train"))
    (batch,) = predictor.batches(write_scenes(tmp_path, 3))
    columns = batch.probabilities.argmax(1)
    looks = look_at(predictor.method, predictor.predictor, batch.images, columns)
    with torch.no_grad():
        tokens = predictor.method.backbone.encode_image(batch.images)
        _, attention = predictor.method.condenser(tokens, return_attention=True)
    torch.testing.assert_close(looks.condenser, attention)
    titles = [panel.title.split("\n")[0] for panel in panels_of(looks, 0)]
    assert titles[1:] == ["condenser's attention", "class token's attention"]
    share = 100 * float(attention[0, 1:].sum())
    assert f"{share:.0f} % on patches" in list(panels_of(looks, 0))[1].title


def test_class_attention_is_that_of_the_last_layer_written_out() -> None:
    visual = random_backbone().visual  # two layers, two heads, float64
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    inputs = []
    block = visual.transformer.resblocks[-1]
    block.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    weights = class_attention(visual, images)
    x = block.ln_1(inputs[0])
    q, k, _ = (x @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).chunk(3, dim=-1)
    heads = [
        (q[:, :1, part] @ k[..., part].mT / 4**0.5).softmax(-1)[:, 0]
        for part in (slice(0, 4), slice(4, 8))
    ]
    torch.testing.assert_close(weights, torch.stack(heads).mean(0))
    assert not block.attn._forward_pre_hooks


@pytest.mark.parametrize(
    ("options", "titles"),
    [
        ({"alignment": "cls"}, ["class token's attention"]),
        (
            {"alignment": "patch_max", "reduction": "mean"},
            ["similarity to the text", "class token's attention"],
        ),
        (
            {"alignment": "patch_max", "token_choice": "patches"},
            ["sparse alignment", "class token's attention"],
        ),
    ],
)
def test_what_a_method_has_is_drawn(options: dict[str, str], titles: list[str]) -> None:
    method = make("csp", **options)
    predictor = method.predictor(method.space)
    looks = look_at(method, predictor, torch.randn(2, 3, 8, 8), torch.tensor([0, 1]))
    panels = list(panels_of(looks, 0))
    assert [panel.title.split("\n")[0] for panel in panels] == titles
    assert panels[0].won == ("token_choice" in options)


def drawn(looks: Looks, title: str = "title") -> Figure:
    return draw_looks(torch.rand(32, 32, 3), looks, 0, title)


def maps_in(figure: Figure) -> list[AxesImage]:
    """The maps over the images; each axis begins with the image itself."""
    return [image for axis in figure.axes for image in axis.images[1:]]


def bars_of(figure: Figure) -> list[Axes]:
    return [axis for axis in figure.axes if axis.get_xlabel()]


def texts_in(figure: Figure) -> list[str]:
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_the_colour_bar_says_what_a_colour_means() -> None:
    similarity = torch.linspace(-0.2, 0.3, 17)[None].flip(1)  # the class token is the nearest
    attention = torch.full((1, 17), 0.05)
    attention[0, 3] = 0.2
    figure = drawn(Looks(similarity, torch.tensor([0]), attention, torch.full((1, 17), 1 / 17)))
    similarities, *attentions = maps_in(figure)
    bars = bars_of(figure)
    assert [bar.get_xlabel() for bar in bars] == [
        "cosine similarity to the text (▼ class token)",
        "share of the attention, %",
    ]
    # The class token's similarity is on the scale, though no patch has it.
    assert similarities.get_clim() == pytest.approx((-0.2, 0.3))
    assert similarities.get_array().max() == pytest.approx(similarity[0, 1].item())
    assert bars[0].lines[-1].get_xdata() == pytest.approx([0.3])
    # Both kinds of attention share a scale, in percent of the image's attention.
    assert [shown.get_clim() for shown in attentions] == [pytest.approx((0, 20))] * 2
    assert attentions[0].get_array().max() == pytest.approx(20)
    assert attentions[1].get_array().max() == pytest.approx(100 / 17)
    assert [bar.get_xlim() for bar in bars] == [pytest.approx((-0.2, 0.3)), pytest.approx((0, 20))]
    assert texts_in(figure) == ["class token won"]


def test_no_attention_on_patches_draws_nothing() -> None:
    nearly = torch.full((1, 17), 0.004 / 16)
    nearly[0, 0] = 0.996
    figure = drawn(Looks(None, None, nearly, torch.full((1, 17), 1 / 17)))
    assert len(maps_in(figure)) == 1  # the class token's
    assert texts_in(figure) == ["all on the class token"]
    panel = next(panels_of(Looks(None, None, nearly, nearly), 0))
    assert (panel.title, panel.weights) == ("condenser's attention\n0 % on patches", None)
    assert not maps_in(drawn(Looks(None, None, nearly, nearly)))


def test_little_attention_is_not_stretched_to_a_spot() -> None:
    little = torch.full((1, 17), 0.001)
    little[0, 0], little[0, 5] = 0.98, 0.004
    (shown, _) = maps_in(drawn(Looks(None, None, little, little)))
    low, high = shown.get_clim()
    assert low == 0
    assert high == pytest.approx(100 / 16)  # as spread evenly over the patches
    assert shown.cmap(0.0)[3] == 0  # nothing leaves the image as it is


def test_a_composition_may_be_called_anything() -> None:
    looks = Looks(None, None, None, torch.full((1, 17), 1 / 17))
    figure = drawn(looks, "$\\frac{$ new\nline: 3.0 %")
    figure.savefig(io.BytesIO(), format="png")
    assert figure.get_suptitle() == "$\\frac{$ new\\nline: 3.0 %"


def test_a_method_that_says_nothing_of_its_tokens_is_drawn_without_them() -> None:
    method = make("csp", "patch_max")

    class Silent(Predictor):
        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            return torch.zeros(len(images), len(self.space))

    predictor, columns = Silent(method.space), torch.tensor([0, 1])
    with pytest.warns(UserWarning, match="Silent does not say what it compares"):
        looks = look_at(method, predictor, torch.randn(2, 3, 8, 8), columns)
    titles = [panel.title.split("\n")[0] for panel in panels_of(looks, 0)]
    assert titles == ["class token's attention"]


def test_long_and_odd_names_of_images_name_a_picture(tmp_path: Path) -> None:
    (image,) = write_scenes(tmp_path, 1)
    odd = [
        image.with_name("ü" * 120 + ".png"),
        image.with_name("ü" * 119 + "a.png"),
        image.with_name(os.fsdecode(b"\xff\n.png")),
    ]
    for path in odd:
        shutil.copy(image, path)
    predictor = RunPredictor(load_run(tiny_run()), heatmaps=tmp_path / "maps")
    assert len(list(predictor.predict(odd))) == 3
    assert len(list((tmp_path / "maps").iterdir())) == 3


def test_the_outlined_patch_stands_where_it_is_in_the_image() -> None:
    similarity = torch.zeros(1, 17)
    similarity[0, 1 + 6] = 0.5  # second row, third column of 4 x 4
    looks = Looks(similarity, similarity.argmax(1), None, torch.full((1, 17), 1 / 17))
    figure = draw_looks(torch.rand(32, 32, 3), looks, 0, "title")
    boxes = [patch for patch in figure.axes[1].patches if isinstance(patch, Rectangle)]
    assert {(box.get_x() + 0.5, box.get_y() + 0.5) for box in boxes} == {(16, 8)}
    assert {(box.get_width(), box.get_height()) for box in boxes} == {(8, 8)}


def test_pictures_are_written_beside_nothing_of_the_users(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first, second = write_scenes(tmp_path / "a", 1) + write_scenes(tmp_path / "b", 1)
    before = first.read_bytes()
    arguments = ["predict", str(tiny_run()), str(first), str(second)]
    assert main([*arguments, "--heatmaps", str(first.parent), "--heatmaps-for", "red car"]) == 0
    assert f"heat maps in {first.parent}" in capsys.readouterr().err
    assert first.read_bytes() == before
    names = sorted(path.name for path in first.parent.iterdir())
    assert names == sorted([first.name, f"{first.stem}_heatmap.png", f"{first.stem}_heatmap_2.png"])
    with Image.open(first.parent / names[-1]) as picture:
        assert picture.width > 3 * picture.height / 2


def test_without_matplotlib_the_remedy_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (image,) = write_scenes(tmp_path, 1)
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    folder = tmp_path / "maps"
    assert main(["predict", str(tiny_run()), str(image), "--heatmaps", str(folder)]) == 2
    said = capsys.readouterr().err
    assert 'drawn with matplotlib, which is not installed: pip install "czsl-sac[viz]"' in said
    assert not folder.exists()
