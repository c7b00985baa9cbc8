"""A run's model card: what it is, what it reaches under which protocol, and how to load it."""

import json

from tabulate import tabulate

from czsl_sac._version import __version__
from czsl_sac.clip.sources.tiny import BUILT_IN
from czsl_sac.evaluation import CZSLResult
from czsl_sac.training.record import RunRecord
from czsl_sac.training.run_folder import RunFolder


def model_card(folder: RunFolder, *, repo: str | None = None) -> str:
    """Return the card of a run in Markdown, with the header that the Hugging Face Hub reads.

    Args:
        folder: of the run.
        repo: `USER/NAME` on the hub, for the lines that load it; None names the folder.

    Raises:
        FileNotFoundError: the folder holds no run, or no epoch has ended.
        ValueError: a file of the run is damaged.
    """
    record = folder.read_record()
    tag = folder.weights("best").tag
    result = folder.load_test(tag, record.config.optim.eval_batch_size)
    options, data = record.config.method, record.config.data
    name = repo or folder.path.resolve().name
    source = f"hf:{repo}" if repo else folder.path.name
    seen = sum(record.space.seen_mask.tolist())
    parts = [
        _header(record, result),
        f"# {name}",
        f"{options.label} on {data.dataset}, trained by czsl-sac {__version__}: it "
        "names what an image shows as an attribute and an object, also in compositions that had no "
        "training image.",
        "## Figures",
        _figures(record, result),
        "## Data",
        f"{data.dataset}: {len(record.space.attributes)} attributes, {len(record.space.objects)} "
        f"objects, {len(record.space)} compositions, {seen} of them seen in training. The best "
        "epoch was chosen by AUC on the validation split.",
        "## Backbone",
        _backbone(record),
        "## Use",
        f'```python\nimport czsl_sac\n\nrun = czsl_sac.load_run("{source}")\n'
        'print(run.predict("photo.jpg", top=3))\n```',
    ]
    if options.citation:
        parts += ["## Citation", options.citation]
    return "\n\n".join(parts) + "\n"


def _header(record: RunRecord, result: CZSLResult | None) -> str:
    """YAML that the hub reads; JSON's strings are YAML's."""
    lines = [
        "---",
        "library_name: czsl-sac",
        f"license: {_licence(record.backbone)[0]}",
        "pipeline_tag: zero-shot-image-classification",
        "tags:",
        *(f"- {tag}" for tag in ("compositional-zero-shot-learning", "clip", "czsl-sac")),
    ]
    if result is not None:
        label = json.dumps(record.config.method.label, ensure_ascii=False)
        dataset = json.dumps(record.config.data.dataset, ensure_ascii=False)
        lines += [
            *("model-index:", f"- name: {label}", "  results:", "  - task:"),
            *("      type: zero-shot-image-classification", "    dataset:"),
            *(f"      name: {dataset}", f"      type: {dataset}", "    metrics:"),
        ]
        for metric in ("seen", "unseen", "hm", "auc"):
            value = f"{100 * getattr(result, metric):.2f}"
            what = f"{metric}, {result.protocol} protocol, {result.world} world, %"
            lines += [f"    - type: {metric}", f"      value: {value}", f"      name: {what}"]
    return "\n".join([*lines, "---"])


def _figures(record: RunRecord, result: CZSLResult | None) -> str:
    if result is None:
        return "Not measured: the run has no result on the test split."
    rows = [["this run", *_percent(result)]]
    chance = result.chance()
    if chance is not None:
        rows.append(["chance", *_percent(chance)])
    table = tabulate(rows, ["", "S", "U", "HM", "AUC"], tablefmt="github", disable_numparse=True)
    told = (
        f"Test split, {result.world} world, {result.protocol} protocol, in %; {result.seen_samples}"
        f" images of seen and {result.unseen_samples} of unseen compositions.\n\n{table}"
    )
    if record.config.method.is_transductive:
        told += (
            "\n\nThe result is transductive: the method learned from the test images as they came. "
            "A prediction of single images, and an exported file, do not learn from them."
        )
    return told


def _percent(figures: object) -> list[str]:
    return [f"{100 * getattr(figures, name):.2f}" for name in ("seen", "unseen", "hm", "auc")]


def _backbone(record: RunRecord) -> str:
    told = _licence(record.backbone)[1]
    return f"`{record.backbone}`, weights of checksum {record.checksum[:12]}. {told}"


def _licence(backbone: str) -> tuple[str, str]:
    """Licence as the hub names it, and a sentence about it."""
    if backbone in BUILT_IN:
        return "mit", "It comes with czsl-sac under the MIT licence."
    if backbone.startswith("ViT"):
        return "mit", (
            "OpenAI published its code and weights under the MIT licence; its model card asks to "
            "test a model in its own setting before it is deployed."
        )
    return "other", "Its licence is that of its weights: see where they come from."
