from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from llm_attr.viz.colour import LIGHT
from llm_attr.viz.text.figures.card import plot_card
from llm_attr.viz.text.view import AttributionView


def test_the_card_says_what_carried_the_answer(view: AttributionView, tmp_path: Path) -> None:
    figure = plot_card(view)
    texts = "\n".join(text.get_text() for text in figure.texts)
    assert "Which sentence carried the answer?" in texts
    assert "Carried by unit 4" in texts.replace("\n", " ")
    assert [text.get_text() for text in figure.texts if text.get_text() in {"+9.35", "−1.06", "+0.73"}] == [
        "+9.35", "−1.06", "+0.73",
    ]  # fmt: skip
    assert "smollm2-135m · feature ablation · llm_attr" in texts
    figure.savefig(tmp_path / "card.png", dpi="figure")
    picture = Image.open(tmp_path / "card.png").convert("RGB")
    assert picture.size == (1200, 630)
    strong = tuple(int(LIGHT.positive[place : place + 2], 16) for place in (1, 3, 5))
    assert (np.asarray(picture) == strong).all(-1).sum() > 4000  # the stripe and the bar of the strongest unit


@pytest.mark.filterwarnings("ignore:no installed font")
def test_long_hostile_and_missing_texts_stay_on_the_card(
    view: AttributionView, hostile: AttributionView, many: AttributionView, empty: AttributionView, tmp_path: Path
) -> None:
    for each in (replace(view, title="“" + "word " * 200 + "”"), hostile, many, empty):
        figure = plot_card(each)
        figure.savefig(tmp_path / "card.png", dpi="figure")
        width, height = figure.bbox.width, figure.bbox.height
        for text in figure.texts:
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= width + 1
            assert 0 <= box.y0 <= box.y1 <= height
