"""The page: what stands on it, and what happens when something is dropped, moved or clicked."""

import base64
from collections.abc import Mapping
from functools import cache
from math import floor, isfinite, log10
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from czsl_sac.demo.explorer import Answer, Explorer
from czsl_sac.words import counted, visible

if TYPE_CHECKING:
    from gradio import Blocks

SIDE = 12
"""Attributes and objects that the table shows at most."""

_CLICKED = """
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-column]");
  if (button) trigger("click", { column: Number(button.dataset.column) });
});
"""
_KINDS = {
    "all": "of the data set",
    "seen": "seen in training",
    "open": "open world: every attribute with every object",
}


def build_page(
    explorer: Explorer,
    *,
    title: str,
    about: str,
    bias: float = 0.0,
    bias_from: str = "0 adds none.",
) -> "Blocks":
    """Return the page, not yet served.

    Raises:
        ImportError: gradio is not installed.
    """
    import gradio as gr

    told = explorer.has_unseen
    # The method is asked one thing at a time; files come as they are, not as gradio decodes them.
    asked: dict[str, Any] = {
        "concurrency_limit": 1,
        "concurrency_id": "method",
        "preprocess": False,
        "show_progress": "minimal",
    }

    def predict(file: Mapping[str, Any] | None, candidates: str, bias: float) -> list[Any]:
        if not file:
            return [None, "", "", "", "", gr.skip()]
        try:
            answer = explorer.ask(_uploaded(file), candidates)
        except ValueError as error:
            return [None, _fill("problem", problem=str(error)), "", "", "", gr.skip()]
        reach = _reach(answer, bias)
        slider = gr.Slider(minimum=-reach, maximum=reach, step=reach / 1000)
        named = answer.decide(bias).named
        return [answer, *show(answer, bias), *explained(answer, named), slider]

    def show(answer: Answer | None, bias: float) -> list[str]:
        if answer is None:
            return [gr.skip(), gr.skip()]
        context: dict[str, Any] = {
            "answer": answer,
            "space": answer.space,
            "decision": answer.decide(bias),
            "bias": bias,
            "told": told,
        }
        return [
            _fill("answer", **context),
            _fill("table", table=answer.table(SIDE, SIDE), **context),
        ]

    def explained(answer: Answer, column: int) -> list[str]:
        picture = base64.b64encode(explorer.heatmap(answer, column)).decode()
        shown = _fill("map", space=answer.space, column=column, picture=picture)
        return [shown, " ".join(answer.space.pairs[column])]

    def explain(answer: Answer | None, composition: str) -> list[Any]:
        if answer is None:
            return [_fill("problem", problem="Drop an image first."), gr.skip()]
        try:
            return explained(answer, explorer.column(answer, composition))
        except ValueError as error:
            return [_fill("problem", problem=str(error)), gr.skip()]

    def clicked(answer: Answer | None, event: gr.EventData) -> list[Any]:
        if answer is None:
            return [gr.skip(), gr.skip()]
        return explained(answer, int(event._data["column"]))

    plain: dict[str, Any] = {"apply_default_css": False}
    with gr.Blocks(title=visible(title), analytics_enabled=False, fill_width=True) as page:
        answered = gr.State(None)
        gr.HTML(_fill("head", title=visible(title), about=visible(about)), **plain)
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                image = gr.Image(
                    label="Image",
                    type="filepath",
                    sources=["upload", "clipboard"],
                    buttons=[],
                    height=280,
                    elem_id="image",
                )
                candidates = gr.Radio(
                    [(_described(n, len(s)), n) for n, s in explorer.choices.items()],
                    value=explorer.start,
                    label="Candidates",
                    visible=len(explorer.choices) > 1,
                )
                reach = _nice(max(1.0, abs(bias)))
                moved = gr.Slider(
                    *(-reach, reach, bias),
                    step=reach / 1000,
                    label="Bias for unseen compositions",
                    info=f"Added to their scores before one is named. {bias_from}",
                    visible=told,
                    elem_id="bias",
                )
            with gr.Column(scale=3, min_width=300):
                answer_shown = gr.HTML(js_on_load=_CLICKED, elem_id="answer", **plain)
        composition = gr.Textbox(
            label="Where it looked for", placeholder="attribute object, then Enter", elem_id="asked"
        )
        map_shown = gr.HTML(elem_id="map", **plain)
        table_shown = gr.HTML(js_on_load=_CLICKED, elem_id="table", **plain)

        shown = [answer_shown, table_shown]
        looked = [map_shown, composition]
        gr.on(
            [image.change, candidates.input],
            predict,
            [image, candidates, moved],
            [answered, *shown, *looked, moved],
            api_name="predict",
            **asked,
        )
        moved.change(
            show, [answered, moved], shown, api_name="decide", trigger_mode="always_last", **asked
        )
        composition.submit(explain, [answered, composition], looked, api_name="explain", **asked)
        for place in shown:
            place.click(clicked, answered, looked, api_visibility="private", **asked)
    return page


def _uploaded(file: Mapping[str, Any]) -> Path:
    """The file that was dropped; gradio has checked that it lies where uploads lie."""
    if not file.get("path"):
        raise ValueError("image has no file but must be an uploaded one: drop a file.")
    return Path(file["path"])


def _described(name: str, number: int) -> str:
    """What a choice of candidates is called."""
    return f"{_KINDS.get(name, visible(Path(name).name))} ({number:,})"


def _reach(answer: Answer, bias: float) -> float:
    """How far the slider goes: beyond it no bias changes what this image is called."""
    turns_at = answer.decide(bias).turns_at
    return _nice(max(abs(turns_at) if isfinite(turns_at) else 0.0, abs(bias), 1.0))


def _nice(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, … that is at least a value."""
    unit = 10.0 ** floor(log10(value))
    return next(unit * step for step in (1, 2, 5, 10) if unit * step >= value)


def _fill(name: str, **context: Any) -> str:
    """A template of this room, filled in, with every name escaped."""
    return _templates().get_template(f"{name}.html").render(**context)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("czsl_sac.demo"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    environment.filters.update(visible=visible, counted=counted)
    return environment
